//! The CPU's kernels: which of them this machine runs, and each by itself, for measuring.

use crate::attention::{AttentionShape, cpu};
use crate::device::Dtype;
use crate::ops::Kernels;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::linear::Linear;
use crate::ops::rms_norm::rms_norm;
use crate::ops::rotate::rotate;
use crate::ops::silu_mul::silu_mul;
use crate::simd;
use crate::tiles::Unit;
use candle_core::{DType, Device, Result, Tensor};
use cpu::tiled::TiledKeyValues;

/// What evaluates a model in this number format, in a few words: `cuda`, `avx2`, `avx512 and amx (bf16)`.
pub fn describe(on_cpu: bool, dtype: Dtype) -> String {
    if on_cpu { with_unit(simd::name(simd::best()), native_tiles(dtype)) } else { "cuda".to_owned() }
}

/// The matrix unit of this machine and the parts of numbers for it, where the format is one that it computes with.
pub(crate) fn native_tiles(dtype: Dtype) -> Option<(Unit, usize)> {
    // Asked in this order: a unit is tried out before it is there.
    let parts = dtype.parts()?;
    Some((Unit::native(parts)?, parts))
}

/// The name of kernels together with that of a matrix unit.
pub(crate) fn with_unit(kernels: &str, tiles: Option<(Unit, usize)>) -> String {
    match tiles {
        Some((unit, 1)) => format!("{kernels} and {} (bf16)", unit.name()),
        Some((unit, _)) => format!("{kernels} and {} (bf16x3)", unit.name()),
        None => kernels.to_owned(),
    }
}

/// Sizes of a small model: 512 hidden, 8 heads of 64 with 4 key heads, 1,408 in the feed-forward block.
const HIDDEN: usize = 512;
const HEAD_DIM: usize = 64;
const SHAPE: AttentionShape = AttentionShape { heads: 8, kv_heads: 4, head_dim: HEAD_DIM, window: None };
const INTERMEDIATE: usize = 1408;
const VOCABULARY: usize = 4096;

/// A kernel with operands to run it on.
pub struct Call {
    /// Name, with the format in which matrices are kept where that is not f32.
    pub name: &'static str,
    /// Floating-point operations of a run, where they are what counts.
    pub flops: Option<f64>,
    run: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl Call {
    /// Runs it once, on the current thread pool.
    ///
    /// # Errors
    /// Candle's; operands that were made here fit.
    pub fn run(&self) -> Result<()> {
        (self.run)()
    }
}

/// Every kernel of the forward pass for a chunk of `rows` tokens, attention over eight times as many keys.
///
/// # Errors
/// Candle's, when memory does not suffice.
pub fn calls(rows: usize) -> Result<Vec<Call>> {
    let keys = 8 * rows;
    let visible: f64 = (0..rows).map(|row| (keys - rows + row + 1) as f64).sum();
    let attention_flops = Some(4.0 * SHAPE.query_width() as f64 * visible);
    let product_flops = Some(2.0 * (rows * HIDDEN * 2 * INTERMEDIATE) as f64);
    let call = |name, flops, run| Call { name, flops, run };
    let mut calls = vec![
        call("attention", attention_flops, attention(rows, keys, DType::F32)?),
        call("attention bf16", attention_flops, attention(rows, keys, DType::BF16)?),
        call("product", product_flops, product(rows, Ok)?),
        call("product bf16", product_flops, product(rows, |linear| kept_in_bf16(&linear))?),
        call("rms-norm", None, norm(rows)?),
        call("rotate", None, rotation(rows)?),
        call("silu-mul", None, gate(rows)?),
        call("cross-entropy", None, cross_entropy(rows)?),
    ];
    let [amx, dot] = Unit::all_native();
    for (unit, parts, names) in [
        (amx, 1, ["attention bf16 amx", "product bf16 amx"]),
        (amx, 2, ["attention bf16x3 amx", "product bf16x3 amx"]),
        (dot, 1, ["attention bf16 avx512-bf16", "product bf16 avx512-bf16"]),
    ] {
        let Some(unit) = unit else { continue };
        calls.push(call(names[0], attention_flops, tiled_attention(unit, rows, keys, parts)?));
        calls.push(call(names[1], product_flops, product(rows, |linear| linear.tiled(unit, parts))?));
    }
    Ok(calls)
}

type Run = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Numbers between -1 and 1, always the same.
fn numbers(rows: usize, width: usize) -> Result<Tensor> {
    let number = |i: usize| ((i * 7919 % 1013) as f32 - 506.0) / 506.0;
    Tensor::from_vec((0..rows * width).map(number).collect::<Vec<_>>(), (rows, width), &Device::Cpu)
}

fn attention(rows: usize, keys: usize, dtype: DType) -> Result<Run> {
    let q = numbers(rows, SHAPE.query_width())?;
    let kv = numbers(SHAPE.kv_heads * keys, HEAD_DIM)?.reshape((SHAPE.kv_heads, keys, HEAD_DIM))?.to_dtype(dtype)?;
    Ok(Box::new(move || cpu::attention(SHAPE, &q, &kv, &kv)))
}

fn tiled_attention(unit: Unit, rows: usize, keys: usize, parts: usize) -> Result<Run> {
    let (q, kv) = (numbers(rows, SHAPE.query_width())?, numbers(keys, SHAPE.kv_heads * HEAD_DIM)?);
    let mut held = TiledKeyValues::new(unit, SHAPE.kv_heads, HEAD_DIM, keys, parts);
    held.append(&kv, &kv, 0)?;
    Ok(Box::new(move || held.attend(&SHAPE, &q, keys)))
}

fn product(rows: usize, prepare: impl Fn(Linear) -> Result<Linear>) -> Result<Run> {
    let (x, out) = (numbers(rows, HIDDEN)?, numbers(rows, 2 * INTERMEDIATE)?);
    let linear = prepare(Linear::new(numbers(2 * INTERMEDIATE, HIDDEN)?, None))?;
    Ok(Box::new(move || linear.forward(Kernels::Cpu, &x, Some(out.clone())).map(drop)))
}

fn kept_in_bf16(linear: &Linear) -> Result<Linear> {
    Ok(Linear::new(linear.weight().to_dtype(DType::BF16)?, None))
}

fn norm(rows: usize) -> Result<Run> {
    let (x, out, weight) = (numbers(rows, HIDDEN)?, numbers(rows, HIDDEN)?, numbers(1, HIDDEN)?.squeeze(0)?);
    Ok(Box::new(move || rms_norm(Kernels::Cpu, &x, &weight, 1e-5, Some(out.clone())).map(drop)))
}

fn rotation(rows: usize) -> Result<Run> {
    let (x, angles) = (numbers(rows, SHAPE.query_width())?, numbers(rows, HEAD_DIM / 2)?);
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    Ok(Box::new(move || rotate(Kernels::Cpu, x.clone(), HEAD_DIM, (&cos, &sin), None).map(drop)))
}

fn gate(rows: usize) -> Result<Run> {
    let x = numbers(rows, 2 * INTERMEDIATE)?;
    Ok(Box::new(move || silu_mul(Kernels::Cpu, x.clone()).map(drop)))
}

fn cross_entropy(rows: usize) -> Result<Run> {
    let (logits, targets) = (numbers(rows, VOCABULARY)?, vec![7; rows]);
    Ok(Box::new(move || {
        let mut loss = CrossEntropy::new(&targets);
        loss.add(Kernels::Cpu, &logits, 0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_runs() {
        for call in calls(16).unwrap() {
            call.run().unwrap_or_else(|error| panic!("{}: {error}", call.name));
        }
    }

    #[test]
    fn what_runs_is_named() {
        assert_eq!(describe(false, Dtype::Bf16), "cuda");
        assert_eq!(describe(true, Dtype::F32), simd::name(simd::best()));
        let fast = describe(true, Dtype::F32Fast);
        assert_eq!(fast.contains("bf16x3"), Unit::native(2).is_some(), "{fast}");
    }
}
