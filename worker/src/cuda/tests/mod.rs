//! The kernels' own text, run on the processor and compared with definitions in f64.

mod cross_entropy;
mod host;
mod rows;
mod softmax;

use super::source::source;
use half::{bf16, f16};
use host::Format;

#[test]
fn the_program_holds_every_kernel_and_needs_no_file() {
    let text = source();
    assert!(!text.contains("#include"));
    for name in [
        "rotate_",
        "rms_norm_",
        "silu_mul_",
        "add_",
        "append_",
        "cross_entropy_add_",
        "softmax_block_",
        "softmax_finish_",
    ] {
        assert!(text.contains(&format!("__global__ void {name}##NAME")), "{name}");
    }
}

/// `count` numbers between -1 and 1 without a pattern that a wrong stride would keep.
fn noise<T: Format>(count: usize, seed: usize) -> Vec<T> {
    let mut state = seed as u64 * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_f64((state >> 40) as f64 / f64::from(1 << 23) - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

/// Asserts that the numbers are those wanted, to the format's rounding and single precision before it.
fn assert_close<T: Format>(got: &[T], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got.to_f64() - want).abs();
        assert!(error <= (0.5 * T::EPSILON + 3e-6) * want.abs() + 2e-6, "{what}, {i}: {} for {want}", got.to_f64());
    }
}

/// Runs a check in every format.
macro_rules! every_format {
    ($check:ident $(, $argument:expr)*) => {
        $check::<f32>($($argument),*);
        $check::<bf16>($($argument),*);
        $check::<f16>($($argument),*);
    };
}
use every_format;

#[test]
fn formats_are_rounded_to_the_nearest() {
    if !host::is_here() {
        return;
    }
    fn check<T: Format>() {
        let edges = [0.0, -0.0, 1.0, 65504.0, 65520.0, 1e-7, 6e-8, 3e38, f32::MAX, f32::INFINITY, f32::NEG_INFINITY];
        // Ties of either format, to even from both sides.
        let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0];
        let x: Vec<f32> = edges.into_iter().chain(ties).chain(noise::<f32>(100, 3)).collect();
        // One key with the whole weight: the result is the sum, rounded.
        let arguments = [
            host::buffer(&x),
            host::buffer(&[1.0_f32]),
            host::buffer(&vec![T::from_f64(0.0); x.len()]),
            host::integer(1),
            host::integer(1),
            host::integer(x.len()),
        ];
        let out = host::launch(&format!("softmax_finish_{}", T::NAME), 1, 32, &arguments);
        for (got, x) in host::numbers::<T>(&out[2]).iter().zip(&x) {
            assert_eq!(got.bytes(), T::from_f64(f64::from(*x)).bytes(), "{} of {x}", T::NAME);
        }
        let nan = [host::buffer(&[f32::NAN]), host::buffer(&[1.0_f32]), host::buffer(&[T::from_f64(0.0)])];
        let sizes = [host::integer(1), host::integer(1), host::integer(1)];
        let arguments: Vec<_> = nan.into_iter().chain(sizes).collect();
        let out = host::launch(&format!("softmax_finish_{}", T::NAME), 1, 32, &arguments);
        assert!(host::numbers::<T>(&out[2])[0].to_f64().is_nan());
    }
    every_format!(check);
}
