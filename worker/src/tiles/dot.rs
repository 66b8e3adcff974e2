//! AVX-512's dot products of pairs of bf16 (`vdpbf16ps`): for processors that have no tiles, AMD's from Zen 4 on among them.

use super::{Part, Target};

/// Proof that this processor has the instruction, and that it computes what the emulation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dot(());

#[cfg(not(target_arch = "x86_64"))]
impl Dot {
    pub fn get() -> Option<Self> {
        None
    }

    /// # Safety
    /// None is needed: nobody has one of these here.
    pub unsafe fn block(self, hi: &Part<'_>, lo: Option<&Part<'_>>, steps: usize, target: &mut Target<'_>) {
        super::emulated::block(hi, lo, steps, target);
    }
}

#[cfg(target_arch = "x86_64")]
mod native {
    use super::super::{BLOCK, DEPTH, STRIP, TILE, Unit, is_right, terms};
    use super::{Dot, Part, Target};
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    use std::sync::OnceLock;

    /// Rows whose sums are in registers at a time: with two strips they take 16 of 32, enough to hide the instruction's
    /// latency.
    const ROWS: usize = 8;

    impl Dot {
        /// The instruction, if the processor, the operating system and a trial agree. Asked once per process.
        pub fn get() -> Option<Self> {
            static DOT: OnceLock<Option<Dot>> = OnceLock::new();
            *DOT.get_or_init(|| {
                if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("avx512bf16") {
                    return None;
                }
                let right = is_right(Unit::Dot(Self(())));
                if !right {
                    tracing::warn!(
                        "AVX-512's products of bf16 are not what they should be on this machine, and are not used"
                    );
                }
                right.then_some(Self(()))
            })
        }

        /// The product of `hi`, or of `hi + lo` less the smallest term.
        ///
        /// # Safety
        /// Operands and target must be as long as [`super::super::Session::block`] checks.
        pub unsafe fn block(self, hi: &Part<'_>, lo: Option<&Part<'_>>, steps: usize, target: &mut Target<'_>) {
            for first in (0..BLOCK).step_by(ROWS) {
                // SAFETY: `self` proves that the processor has the instructions; that both factors have `steps` tiles for
                // either half, and the target 32 rows of 32 numbers, is the caller's promise.
                unsafe { rows(first, hi, lo, steps, target) }
            }
        }
    }

    /// Rows `first..first + ROWS` of a block.
    ///
    /// # Safety
    /// The processor must have AVX-512 with bf16; operands and target must be as long as `Session::block` checks.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn rows(first: usize, hi: &Part<'_>, lo: Option<&Part<'_>>, steps: usize, target: &mut Target<'_>) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if target.add {
            for (row, sums) in sums.iter_mut().enumerate() {
                let from = &target.data[(first + row) * target.stride..][..BLOCK];
                for (sum, from) in sums.iter_mut().zip(from.chunks_exact(STRIP)) {
                    // SAFETY: a strip has 16 numbers.
                    *sum = unsafe { _mm512_loadu_ps(from.as_ptr()) };
                }
            }
        }
        for term in terms(hi, lo) {
            let a = term.a[first / STRIP][first % STRIP * DEPTH..].as_ptr();
            let strips = term.b.map(|strip| strip.as_ptr());
            for step in 0..steps {
                for pair in 0..DEPTH / 2 {
                    // SAFETY: a tile has DEPTH / 2 rows of 16 pairs.
                    let b = strips
                        .map(|strip| unsafe { _mm512_loadu_si512(strip.add(step * TILE + pair * 2 * STRIP).cast()) });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: a tile has 16 rows of DEPTH numbers, of which `first % 16 + row` is one; two numbers are
                        // read as one.
                        let x = unsafe { a.add(step * TILE + row * DEPTH + 2 * pair).cast::<i32>().read_unaligned() };
                        let x = pairs(_mm512_set1_epi32(x));
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum = _mm512_dpbf16_ps(*sum, x, pairs(b));
                        }
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let to = &mut target.data[(first + row) * target.stride..][..BLOCK];
            for (sum, to) in sums.iter().zip(to.chunks_exact_mut(STRIP)) {
                // SAFETY: a strip has 16 numbers.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), *sum) }
            }
        }
    }

    fn pairs(bits: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits, and every pattern of bits is valid in either.
        unsafe { std::mem::transmute(bits) }
    }
}
