//! Vector instructions: which of them a kernel runs on, and the exponential.
//!
//! Kernels are written once over [`pulp::Simd`] and compiled for AVX-512, AVX2 with FMA, NEON and plain scalar code;
//! the variant is picked at run time. Each is tested against a scalar reference on the machines that have it.

pub use pulp::Arch;
use pulp::Simd;
use std::sync::OnceLock;

/// The widest instructions of this machine.
pub fn best() -> Arch {
    static BEST: OnceLock<Arch> = OnceLock::new();
    *BEST.get_or_init(Arch::new)
}

/// Name of an instruction set, for logs and reports.
pub fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::Scalar => "scalar",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "avx2",
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "avx512",
        #[allow(unreachable_patterns)]
        _ => "native",
    }
}

/// Every instruction set that this machine can run, for tests.
pub fn available() -> Vec<Arch> {
    let mut all = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    if name(best()) != "scalar" && !all.iter().any(|&arch| name(arch) == name(best())) {
        all.push(best());
    }
    all
}

/// Coefficients of Cephes' exp2f for a fraction within 0.5 of zero, the highest power first.
pub(crate) const EXP2: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_7e-1, 6.931_472e-1, 1.0];

/// `2^x` for `x <= 127`, to about 2e-7 relative; exactly 0 below -125 (and so for minus infinity), NaN for NaN.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (whole, scale) = split(simd, x);
    let fraction = simd.sub_f32s(x, whole);
    let mut p = simd.splat_f32s(EXP2[0]);
    for c in &EXP2[1..] {
        p = simd.mul_add_e_f32s(p, fraction, simd.splat_f32s(*c));
    }
    let tiny = simd.less_than_f32s(x, simd.splat_f32s(-125.0));
    simd.select_f32s(tiny, simd.splat_f32s(0.0), simd.mul_f32s(p, scale))
}

/// `e^x` for `x <= 88`, to about 2e-7 relative; exactly 0 below -86.6, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Cephes' expf: ln 2 in two parts keeps the remainder exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const P: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let turns = simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E));
    let (whole, scale) = split(simd, turns);
    let rest = simd.mul_add_e_f32s(whole, simd.splat_f32s(-LN2[0]), x);
    let rest = simd.mul_add_e_f32s(whole, simd.splat_f32s(-LN2[1]), rest);
    let mut p = simd.splat_f32s(P[0]);
    for c in &P[1..] {
        p = simd.mul_add_e_f32s(p, rest, simd.splat_f32s(*c));
    }
    let one = simd.splat_f32s(1.0);
    p = simd.mul_add_e_f32s(simd.mul_f32s(p, rest), rest, simd.add_f32s(rest, one));
    let tiny = simd.less_than_f32s(turns, simd.splat_f32s(-125.0));
    simd.select_f32s(tiny, simd.splat_f32s(0.0), simd.mul_f32s(p, scale))
}

/// `x` rounded to a whole number, and two to that power.
#[inline(always)]
fn split<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = simd.add_f32s(x, simd.splat_f32s(MAGIC));
    let whole = simd.sub_f32s(shifted, simd.splat_f32s(MAGIC));
    let biased = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let bits = simd.wrapping_dyn_shl_u32s(biased, simd.splat_u32s(23));
    (whole, simd.transmute_f32s_u32s(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Apply<'a>(&'a [f32], bool, &'a mut [f32]);

    impl pulp::WithSimd for Apply<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for (x, y) in self.0.iter().zip(self.2) {
                let v = simd.splat_f32s(*x);
                let v = if self.1 { exp2(simd, v) } else { exp(simd, v) };
                *y = simd.reduce_max_f32s(v);
            }
        }
    }

    #[test]
    fn exponentials_are_accurate_on_every_instruction_set() {
        let xs: Vec<f32> = (0..200_001).map(|i| -120.0 + i as f32 * 0.001).collect();
        for arch in available() {
            for base2 in [true, false] {
                let mut ys = vec![0.0; xs.len()];
                arch.dispatch(Apply(&xs, base2, &mut ys));
                for (&x, &y) in xs.iter().zip(&ys) {
                    let want = if base2 { f64::from(x).exp2() } else { f64::from(x).exp() };
                    if want < 1e-37 {
                        assert!(f64::from(y) <= 1e-37, "{} exp({x}) = {y}", name(arch));
                    } else {
                        let error = (f64::from(y) / want - 1.0).abs();
                        assert!(error < 4e-7, "{} exp({x}) = {y}, off by {error}", name(arch));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for arch in available() {
            for base2 in [true, false] {
                let mut ys = [1.0; 4];
                let odd = f32::from_bits(0x7fc1_2345);
                arch.dispatch(Apply(&[f32::NEG_INFINITY, -1e30, f32::NAN, odd], base2, &mut ys));
                assert_eq!(ys[..2], [0.0, 0.0]);
                let nan = |y: f32| y.is_nan() || y == f32::NEG_INFINITY;
                assert!(nan(ys[2]) && nan(ys[3]), "{} {ys:?}", name(arch));
            }
        }
    }
}
