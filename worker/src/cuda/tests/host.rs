//! Kernels on the processor, by way of `kernels/host.cpp`.

use half::{bf16, f16};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A number format of the kernels.
pub trait Format: Copy {
    /// What the kernels' names end in.
    const NAME: &str;
    /// Distance of 1 to the next number.
    const EPSILON: f64;
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! number_format {
    ($t:ty, $name:literal, $epsilon:expr, $from:expr) => {
        impl Format for $t {
            const NAME: &str = $name;
            const EPSILON: f64 = $epsilon;
            fn from_f64(x: f64) -> Self {
                $from(x)
            }
            fn to_f64(self) -> f64 {
                self.into()
            }
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn from_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    };
}
number_format!(f32, "f32", 1.0 / 8_388_608.0, |x| x as f32);
number_format!(bf16, "bf16", 1.0 / 128.0, bf16::from_f64);
number_format!(f16, "f16", 1.0 / 1024.0, f16::from_f64);

/// An argument of a launch.
pub enum Argument {
    Integer(i64),
    Real(f64),
    Null,
    Buffer(Vec<u8>),
}

pub fn buffer<T: Format>(data: &[T]) -> Argument {
    Argument::Buffer(data.iter().flat_map(|x| x.bytes()).collect())
}

pub fn bytes_of<const N: usize, T>(data: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Argument {
    Argument::Buffer(data.iter().flat_map(bytes).collect())
}

pub fn integer(x: usize) -> Argument {
    Argument::Integer(x as i64)
}

pub fn numbers<T: Format>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(T::from_bytes).collect()
}

/// The buffers after a launch of `name` with so many blocks and threads, in the order of the arguments.
pub fn launch(name: &str, blocks: usize, threads: usize, arguments: &[Argument]) -> Vec<Vec<u8>> {
    let host = program().expect("asked before");
    let mut request = format!("{name} {blocks} {threads} {}\n", arguments.len()).into_bytes();
    let mut sizes = Vec::new();
    for argument in arguments {
        match argument {
            Argument::Integer(x) => request.extend([b"i".as_slice(), &x.to_le_bytes()].concat()),
            Argument::Real(x) => request.extend([b"f".as_slice(), &x.to_le_bytes()].concat()),
            Argument::Null => request.push(b'n'),
            Argument::Buffer(bytes) => {
                sizes.push(bytes.len());
                request.extend([b"b".as_slice(), &(bytes.len() as u64).to_le_bytes(), bytes].concat());
            }
        }
    }
    let mut command = Command::new(host);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&request).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let mut rest = output.stdout.as_slice();
    let mut next = |size| {
        let (buffer, after) = rest.split_at(size);
        rest = after;
        buffer.to_vec()
    };
    sizes.into_iter().map(&mut next).collect()
}

/// Whether there is a C++ compiler; says on standard error what is skipped where there is none.
pub fn is_here() -> bool {
    let here = program().is_some();
    if !here {
        eprintln!(
            "skipped: the kernels' arithmetic is tested with a C++ compiler (g++, or what CXX names), and none is here"
        );
    }
    here
}

/// The program that runs kernels, compiled once per process.
fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
        Command::new(&compiler).arg("--version").output().ok().filter(|output| output.status.success())?;
        let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/kernels");
        // Kept: it is run until the process ends.
        let program = tempfile::tempdir().unwrap().keep().join("kernels");
        let mut command = Command::new(compiler);
        command.args(["-std=c++17", "-O1", "-ffp-contract=off", "-o"]).arg(&program).arg(format!("{kernels}/host.cpp"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(program)
    };
    PROGRAM.get_or_init(build).as_ref()
}
