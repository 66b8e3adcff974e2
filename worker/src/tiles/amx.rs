//! Intel's AMX: eight tile registers of 16 rows of 64 bytes, and products of bf16 tiles with sums in f32.
//!
//! The compiler has no stable intrinsics for it, but its assembler knows the instructions. A process asks Linux for the
//! registers once; a thread configures them before each use.

use super::{Part, Target};

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

    /// # Safety
    /// None is needed: nobody has one of these here.
    pub unsafe fn block(self, hi: &Part<'_>, lo: Option<&Part<'_>>, steps: usize, target: &mut Target<'_>) {
        super::emulated::block(hi, lo, steps, target);
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native {
    use super::super::{Unit, is_right};
    use super::{Amx, Part, Target};
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

    /// A [`Part`] as the assembly reads it.
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Pointers {
        a: [*const u16; 2],
        b: [*const u16; 2],
    }

    impl Pointers {
        #[inline(always)]
        fn of(part: &Part<'_>) -> Self {
            let [upper, lower] = part.a;
            let [left, right] = part.b;
            Self { a: [upper.as_ptr().cast(), lower.as_ptr().cast()], b: [left.as_ptr().cast(), right.as_ptr().cast()] }
        }
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

        /// The product of `hi`, or of `hi + lo` less the smallest term.
        ///
        /// # Safety
        /// The registers of this thread must be configured ([`Self::begin`]), `steps` not 0, and operands and target as
        /// long as [`super::super::Session::block`] checks.
        #[inline(always)]
        pub unsafe fn block(self, hi: &Part<'_>, lo: Option<&Part<'_>>, steps: usize, target: &mut Target<'_>) {
            let parts = [Pointers::of(hi), Pointers::of(lo.unwrap_or(hi))];
            // Offsets: 0 of the part for `hi`, 32 for `lo`; in it 0 and 8 for the upper and the lower rows of A, 16 and 24
            // for the strips of B. tmm0 to tmm3 are C, tmm4 and tmm5 A, tmm6 and tmm7 B.
            //
            // SAFETY: reads, for each of the parts, `steps` KiB from each of its four pointers, and writes 32 rows of 128
            // bytes of C, or adds to them: the caller's promise is that the slices hold as much and that the tile registers are
            // configured, for whole tiles. Everything the code overwrites is declared.
            unsafe {
                asm!(
                    // The lower 16 rows of C.
                    "mov {lower}, {out}",
                    "shl {lower}, 4",
                    "add {lower}, {c}",
                    "test {at}, {at}",
                    "jnz 2f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "jmp 3f",
                    "2:",
                    "tileloadd tmm0, [{c} + {out}*1]",
                    "tileloadd tmm1, [{c} + {out}*1 + 64]",
                    "tileloadd tmm2, [{lower} + {out}*1]",
                    "tileloadd tmm3, [{lower} + {out}*1 + 64]",
                    "xor {at:e}, {at:e}",
                    "3:",
                    "mov {tile}, [{parts} + 16]",
                    "add {tile}, {at}",
                    "tileloadd tmm6, [{tile} + {row}*1]",
                    "mov {tile}, [{parts} + 24]",
                    "add {tile}, {at}",
                    "tileloadd tmm7, [{tile} + {row}*1]",
                    "test {two}, {two}",
                    "jz 4f",
                    // lo hi; both B stay for hi hi.
                    "mov {tile}, [{parts} + 32]",
                    "add {tile}, {at}",
                    "tileloadd tmm4, [{tile} + {row}*1]",
                    "mov {tile}, [{parts} + 40]",
                    "add {tile}, {at}",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{tile} + {row}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "4:",
                    // hi hi
                    "mov {tile}, [{parts}]",
                    "add {tile}, {at}",
                    "tileloadd tmm4, [{tile} + {row}*1]",
                    "mov {tile}, [{parts} + 8]",
                    "add {tile}, {at}",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{tile} + {row}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "test {two}, {two}",
                    "jz 5f",
                    // hi lo; both A are there.
                    "mov {tile}, [{parts} + 48]",
                    "add {tile}, {at}",
                    "tileloadd tmm6, [{tile} + {row}*1]",
                    "mov {tile}, [{parts} + 56]",
                    "add {tile}, {at}",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{tile} + {row}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "5:",
                    "add {at}, 1024",
                    "cmp {at}, {end}",
                    "jne 3b",
                    "tilestored [{c} + {out}*1], tmm0",
                    "tilestored [{c} + {out}*1 + 64], tmm1",
                    "tilestored [{lower} + {out}*1], tmm2",
                    "tilestored [{lower} + {out}*1 + 64], tmm3",
                    parts = in(reg) parts.as_ptr(),
                    two = in(reg) usize::from(lo.is_some()),
                    end = in(reg) 1024 * steps,
                    c = in(reg) target.data.as_mut_ptr(),
                    out = in(reg) 4 * target.stride,
                    row = in(reg) 64usize,
                    // Whether C is read first; then bytes into the tiles.
                    at = inout(reg) usize::from(target.add) => _,
                    lower = out(reg) _,
                    tile = out(reg) _,
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
