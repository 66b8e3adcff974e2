//! Intel's AMX: eight tile registers of 16 rows of 64 bytes, and products of bf16 tiles with sums in f32.
//!
//! The compiler has no stable intrinsics for it, but its assembler knows the instructions. A process asks Linux for the
//! registers once; a thread configures them before each use.

use super::{Session, Target, Term};

/// Proof that this process may use AMX, and that it computes what the emulation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amx(());

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Amx {
    pub fn get() -> Option<Self> {
        None
    }

    pub fn begin(self) {}

    pub fn end(self) {}

    pub fn block(self, _session: &Session, terms: &[Term<'_>], steps: usize, target: &mut Target<'_>) {
        super::emulated::block(terms, steps, target);
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native {
    use super::super::{MAX_TERMS, Unit, is_right};
    use super::{Amx, Session, Target, Term};
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    /// What LDTILECFG reads: palette 1, and every tile of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static CONFIGURATION: Configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// A [`Term`] as the assembly reads it.
    #[repr(C)]
    struct Pointers {
        a: *const u16,
        b: [*const u16; 2],
        stride: usize,
    }

    impl Amx {
        /// AMX, if the processor, the operating system and a trial agree. Asked once per process.
        pub fn get() -> Option<Self> {
            static AMX: OnceLock<Option<Amx>> = OnceLock::new();
            *AMX.get_or_init(|| {
                if !processor_has_it() || !system_allows_it() {
                    return None;
                }
                let amx = Self(());
                let right = is_right(Unit::Amx(amx));
                if !right {
                    tracing::warn!("AMX does not compute what it should on this machine, and is not used");
                }
                right.then_some(amx)
            })
        }

        /// Configures the tile registers of this thread.
        pub fn begin(self) {
            // SAFETY: `self` proves that the instruction exists and is allowed, and the configuration has the 64 bytes
            // that it reads.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIGURATION, options(nostack, readonly)) }
        }

        /// Gives them back, so that the system need not keep them for this thread.
        pub fn end(self) {
            // SAFETY: `self` proves that the instruction exists and is allowed; nothing is kept in tiles between blocks.
            unsafe { asm!("tilerelease", options(nostack, nomem)) }
        }

        /// See [`Session::block`], which has checked the lengths; that there is a session proves that the registers are
        /// configured.
        pub fn block(self, _session: &Session, terms: &[Term<'_>], steps: usize, target: &mut Target<'_>) {
            let pointers = |term: &Term<'_>| Pointers {
                a: term.a.as_ptr().cast(),
                b: term.b.map(|strip| strip.as_ptr().cast()),
                stride: 2 * term.stride,
            };
            let mut all: [Pointers; MAX_TERMS] =
                std::array::from_fn(|_| Pointers { a: std::ptr::null(), b: [std::ptr::null(); 2], stride: 0 });
            assert!((1..=MAX_TERMS).contains(&terms.len()) && steps > 0, "terms of a block");
            all.iter_mut().zip(terms).for_each(|(to, term)| *to = pointers(term));
            // SAFETY: reads, for each of the terms, 32 rows of `steps * 64` bytes of A and twice `steps` KiB of B, and
            // writes 32 rows of 128 bytes of C, or adds to them: `Session::block` has checked that the slices hold as much. The tile
            // registers are configured for whole tiles (`Unit::session`), and everything the code overwrites is declared.
            unsafe {
                asm!(
                    // The lower 16 rows of C.
                    "mov {lower}, {out}",
                    "shl {lower}, 4",
                    "add {lower}, {c}",
                    "test {step}, {step}",
                    "jnz 4f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "jmp 2f",
                    "4:",
                    "tileloadd tmm0, [{c} + {out}*1]",
                    "tileloadd tmm1, [{c} + {out}*1 + 64]",
                    "tileloadd tmm2, [{lower} + {out}*1]",
                    "tileloadd tmm3, [{lower} + {out}*1 + 64]",
                    "2:",
                    "mov {upper}, [{terms}]",
                    "mov {left}, [{terms} + 8]",
                    "mov {right}, [{terms} + 16]",
                    "mov {stride}, [{terms} + 24]",
                    // The lower 16 rows of A.
                    "mov {lower}, {stride}",
                    "shl {lower}, 4",
                    "add {lower}, {upper}",
                    "mov {step}, {steps}",
                    "3:",
                    "tileloadd tmm4, [{upper} + {stride}*1]",
                    "tileloadd tmm6, [{left} + {row}*1]",
                    "tileloadd tmm7, [{right} + {row}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{lower} + {stride}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "add {left}, 1024",
                    "add {right}, 1024",
                    "dec {step}",
                    "jnz 3b",
                    "add {terms}, 32",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{c} + {out}*1], tmm0",
                    "tilestored [{c} + {out}*1 + 64], tmm1",
                    "mov {lower}, {out}",
                    "shl {lower}, 4",
                    "add {c}, {lower}",
                    "tilestored [{c} + {out}*1], tmm2",
                    "tilestored [{c} + {out}*1 + 64], tmm3",
                    terms = inout(reg) all.as_ptr() => _,
                    count = inout(reg) terms.len() => _,
                    steps = in(reg) steps,
                    c = inout(reg) target.data.as_mut_ptr() => _,
                    out = in(reg) 4 * target.stride,
                    row = in(reg) 64usize,
                    upper = out(reg) _,
                    lower = out(reg) _,
                    left = out(reg) _,
                    right = out(reg) _,
                    stride = out(reg) _,
                    step = inout(reg) usize::from(target.add) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    fn processor_has_it() -> bool {
        // Leaf 1, ECX 27: the system has switched XGETBV on. Leaf 7, EDX 22 and 24: products in bf16, tiles.
        let features = __cpuid(1);
        if __cpuid(0).eax < 7 || features.ecx >> 27 & 1 == 0 {
            return false;
        }
        let extended = __cpuid_count(7, 0).edx;
        let wanted = 1 << 22 | 1 << 24;
        // SAFETY: bit 27 above says that the instruction exists.
        let saved = unsafe { xcr0() };
        // Bits 17 and 18: the system saves the configuration and the tiles of a thread.
        extended & wanted == wanted && saved >> 17 & 3 == 3
    }

    /// # Safety
    /// The processor must have XGETBV, switched on.
    #[target_feature(enable = "xsave")]
    unsafe fn xcr0() -> u64 {
        // SAFETY: the caller's promise.
        unsafe { _xgetbv(0) }
    }

    /// Linux hands out the tile registers, 8 KiB for each thread to save, only to processes that ask.
    fn system_allows_it() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: takes two numbers, and changes nothing but the permission.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
}
