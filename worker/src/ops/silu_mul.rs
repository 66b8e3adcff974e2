//! The gate of the feed-forward block: `silu(gate) * up`, with `silu(x) = x / (1 + e^-x)`.

pub(crate) mod backward;

use super::view::{rows, rows_mut};
use super::{Kernels, rows_per_task};
use crate::simd::{self, exp};
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// From rows of `gate | up`, `(rows, 2 * width)`, to `(rows, width)`.
///
/// On the CPU the gate is overwritten and the result a view of it.
pub(crate) fn silu_mul(kernels: Kernels, gate_up: Tensor) -> Result<Tensor> {
    let width = gate_up.dim(1)? / 2;
    let gate = gate_up.narrow(1, 0, width)?;
    match kernels {
        Kernels::Cpu => {
            gate_up.inplace_op1(&SiluMul)?;
            Ok(gate)
        }
        #[cfg(feature = "cuda")]
        Kernels::Cuda => crate::cuda::rows::silu_mul(&gate_up),
        Kernels::Tensor => gate.contiguous()?.silu()? * gate_up.narrow(1, width, width)?.contiguous()?,
    }
}

/// The same for f32 on the CPU, written to `out`; gate and up stay as they are.
pub(crate) fn silu_mul_to(gate_up: &Tensor, out: &Tensor) -> Result<()> {
    out.inplace_op2(gate_up, &SiluMulTo)
}

struct SiluMul;

impl InplaceOp1 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let rows = rows_mut(storage, layout)?;
        if rows.width % 2 != 0 {
            bail!("gate and up have {} columns together, which is odd", rows.width);
        }
        let (arch, width, stride) = (simd::best(), rows.width, rows.stride);
        rows.data.par_chunks_mut(stride * rows_per_task(width)).for_each(|task| {
            for row in task.chunks_mut(stride) {
                let (gate, up) = row[..width].split_at_mut(width / 2);
                arch.dispatch(Gate(gate, up));
            }
        });
        Ok(())
    }
}

struct SiluMulTo;

impl InplaceOp2 for SiluMulTo {
    fn name(&self) -> &'static str {
        "silu-mul-to"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, layout: &Layout, gate_up: &CpuStorage, from: &Layout) -> Result<()> {
        let (out, gate_up) = (rows_mut(out, layout)?, rows(gate_up, from)?);
        let (width, to, from) = (out.width, out.stride, gate_up.stride);
        if gate_up.width != 2 * width || gate_up.count != out.count {
            bail!("gate and up have {} columns together, the result {width}", gate_up.width);
        }
        let (arch, task) = (simd::best(), rows_per_task(2 * width));
        let tasks = out.data.par_chunks_mut(to * task).zip(gate_up.data.par_chunks(from * task));
        tasks.for_each(|(out, gate_up)| {
            for (out, row) in out.chunks_mut(to).zip(gate_up.chunks(from)) {
                let (gate, up) = row[..2 * width].split_at(width);
                out[..width].copy_from_slice(gate);
                arch.dispatch(Gate(&mut out[..width], up));
            }
        });
        Ok(())
    }
}

/// Overwrites the first slice with `silu(first) * second`.
pub(super) struct Gate<'a>(pub &'a mut [f32], pub &'a [f32]);

impl WithSimd for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (gates, gate_rest) = S::as_mut_simd_f32s(self.0);
        let (ups, up_rest) = S::as_simd_f32s(self.1);
        for (gate, up) in gates.iter_mut().zip(ups) {
            *gate = gated(simd, *gate, *up);
        }
        let rest = gated(simd, simd.partial_load_f32s(gate_rest), simd.partial_load_f32s(up_rest));
        simd.partial_store_f32s(gate_rest, rest);
    }
}

#[inline(always)]
fn gated<S: Simd>(simd: S, gate: S::f32s, up: S::f32s) -> S::f32s {
    // exp must not overflow; beyond -87 the result is 0 to single precision anyway.
    let negated = simd.sub_f32s(simd.splat_f32s(0.0), gate);
    let limit = simd.splat_f32s(87.0);
    let over = simd.greater_than_f32s(negated, limit);
    let e = exp(simd, simd.select_f32s(over, limit, negated));
    let sigmoid = simd.div_f32s(gate, simd.add_f32s(simd.splat_f32s(1.0), e));
    simd.mul_f32s(sigmoid, up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    fn check(gate: &[f32], up: &[f32]) {
        for arch in simd::available() {
            let mut out = gate.to_vec();
            arch.dispatch(Gate(&mut out, up));
            for ((out, gate), up) in out.iter().zip(gate).zip(up) {
                let (gate, up) = (f64::from(*gate), f64::from(*up));
                let want = gate / (1.0 + (-gate).exp()) * up;
                assert!((f64::from(*out) - want).abs() <= 1e-6 * want.abs() + 1e-30, "{gate}: {out} for {want}");
            }
        }
    }

    #[test]
    fn gates_like_the_definition_on_every_instruction_set() {
        let gate: Vec<f32> = (0..1003).map(|i| (i as f32 - 500.0) * 0.25).collect();
        let up: Vec<f32> = (0..1003).map(|i| 1.0 + (i % 13) as f32).collect();
        check(&gate, &up);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_of_any_width_are_gated(rows in proptest::collection::vec((-80f32..80.0, -9f32..9.0), 1..300)) {
            let (gate, up): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            check(&gate, &up);
        }
    }

    #[test]
    fn both_implementations_agree_and_nan_stays() {
        let data: Vec<f32> = (0..6 * 40).map(|i| (i as f32 - 120.0) * 0.1).collect();
        let x = Tensor::from_vec(data, (6, 40), &Device::Cpu).unwrap();
        let candle = silu_mul(Kernels::Tensor, x.clone()).unwrap().to_vec2::<f32>().unwrap();
        let apart = Tensor::full(f32::NAN, (6, 20), &Device::Cpu).unwrap();
        silu_mul_to(&x, &apart).unwrap();
        let cpu = silu_mul(Kernels::Cpu, x.clone()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(apart.to_vec2::<f32>().unwrap(), cpu);
        assert!(silu_mul_to(&x, &x).is_err() && silu_mul_to(&x, &apart.narrow(0, 0, 5).unwrap()).is_err());
        for (a, b) in cpu.iter().flatten().zip(candle.iter().flatten()) {
            assert!((a - b).abs() < 1e-5);
        }
        let mut nan = [f32::NAN, 1.0];
        simd::best().dispatch(Gate(&mut nan, &[1.0, f32::NAN]));
        assert!(nan.iter().all(|x| x.is_nan()));
    }
}
