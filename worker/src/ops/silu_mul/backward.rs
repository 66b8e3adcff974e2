//! The gradient of the gate of the feed-forward block.
//!
//! With `s = 1 / (1 + e^-gate)` and `y = gate s up`:
//!
//! ```text
//! d gate = dy up s (1 + gate (1 - s))
//! d up   = dy gate s
//! ```

use super::super::rows_per_task;
use super::super::view::{rows, rows_mut};
use crate::simd::{self, exp};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Replaces rows of `gate | up`, `(rows, 2 * width)`, by their gradients, given that of the result, `(rows, width)`.
///
/// Both are views of f32 on the CPU.
pub(crate) fn silu_mul_backward(gate_up: &Tensor, grad: &Tensor) -> Result<()> {
    gate_up.inplace_op2(grad, &SiluMulBackward)
}

struct SiluMulBackward;

impl InplaceOp2 for SiluMulBackward {
    fn name(&self) -> &'static str {
        "silu-mul-backward"
    }

    fn cpu_fwd(
        &self,
        gate_up: &mut CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let (gate_up, grad) = (rows_mut(gate_up, layout)?, rows(grad, grad_layout)?);
        let (width, to, from) = (grad.width, gate_up.stride, grad.stride);
        if gate_up.width != 2 * width || gate_up.count != grad.count {
            bail!("gate and up have {} columns together, the gradient {width}", gate_up.width);
        }
        let (arch, task) = (simd::best(), rows_per_task(2 * width));
        let tasks = gate_up.data.par_chunks_mut(to * task).zip(grad.data.par_chunks(from * task));
        tasks.for_each(|(gate_up, grad)| {
            for (row, grad) in gate_up.chunks_mut(to).zip(grad.chunks(from)) {
                let (gate, up) = row[..2 * width].split_at_mut(width);
                arch.dispatch(Backward { gate, up, grad: &grad[..width] });
            }
        });
        Ok(())
    }
}

/// Overwrites gate and up by their gradients.
struct Backward<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
    grad: &'a [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (gates, gate_rest) = S::as_mut_simd_f32s(self.gate);
        let (ups, up_rest) = S::as_mut_simd_f32s(self.up);
        let (grads, grad_rest) = S::as_simd_f32s(self.grad);
        for ((gate, up), grad) in gates.iter_mut().zip(ups).zip(grads) {
            (*gate, *up) = gradients(simd, *gate, *up, *grad);
        }
        let (gate, up) = (simd.partial_load_f32s(gate_rest), simd.partial_load_f32s(up_rest));
        let (gate, up) = gradients(simd, gate, up, simd.partial_load_f32s(grad_rest));
        simd.partial_store_f32s(gate_rest, gate);
        simd.partial_store_f32s(up_rest, up);
    }
}

#[inline(always)]
fn gradients<S: Simd>(simd: S, gate: S::f32s, up: S::f32s, grad: S::f32s) -> (S::f32s, S::f32s) {
    let one = simd.splat_f32s(1.0);
    // exp must not overflow; beyond -87 everything is 0 to single precision anyway.
    let negated = simd.sub_f32s(simd.splat_f32s(0.0), gate);
    let limit = simd.splat_f32s(87.0);
    let e = exp(simd, simd.select_f32s(simd.greater_than_f32s(negated, limit), limit, negated));
    let sigmoid = simd.div_f32s(one, simd.add_f32s(one, e));
    let silu = simd.mul_f32s(gate, sigmoid);
    // s (1 + gate (1 - s)) = s + silu (1 - s)
    let slope = simd.mul_add_e_f32s(silu, simd.sub_f32s(one, sigmoid), sigmoid);
    (simd.mul_f32s(simd.mul_f32s(grad, up), slope), simd.mul_f32s(grad, silu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_the_definition_on_every_instruction_set() {
        let gate: Vec<f32> = (0..1003).map(|i| (i as f32 - 500.0) * 0.25).collect();
        let up: Vec<f32> = (0..1003).map(|i| 1.0 + (i % 13) as f32).collect();
        let grad: Vec<f32> = (0..1003).map(|i| (i % 7) as f32 - 3.0).collect();
        for arch in simd::available() {
            let (mut d_gate, mut d_up) = (gate.clone(), up.clone());
            arch.dispatch(Backward { gate: &mut d_gate, up: &mut d_up, grad: &grad });
            for i in 0..gate.len() {
                let [x, up, dy] = [gate[i], up[i], grad[i]].map(f64::from);
                let s = 1.0 / (1.0 + (-x).exp());
                for (got, want) in [(d_gate[i], dy * up * s * (1.0 + x * (1.0 - s))), (d_up[i], dy * x * s)] {
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 2e-6 * want.abs() + 1e-6, "{} at {x}: {got} for {want}", simd::name(arch));
                }
            }
        }
    }

    #[test]
    fn nan_stays() {
        for broken in 0..3 {
            let mut numbers = [[1.0f32], [2.0], [3.0]];
            numbers[broken][0] = f32::NAN;
            let [mut gate, mut up, grad] = numbers;
            simd::best().dispatch(Backward { gate: &mut gate, up: &mut up, grad: &grad });
            assert!(gate[0].is_nan());
        }
    }
}
