//! The loss of every family against transformers', from vectors that `tests/golden/generate.py` made.
#![allow(clippy::unwrap_used)]

use candle_core::Device;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::device::Dtype;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::model::Model;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Other orders of summation move a loss by 1e-7 of itself; the smallest mistake known by 9e-5 (see the README there).
const RELATIVE_TOLERANCE: f64 = 3e-6;
/// Nats per token by which a loss may move when weights, hidden states, keys and values are kept in bf16. The models here
/// are random and the documents a few dozen tokens; a trained model and a real document stay within 5e-3, which
/// `tests/tests/number_formats.rs` checks.
const BF16_TOLERANCE: f64 = 1e-2;
/// The same when numbers are split into two of bf16.
const BF16X3_TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    evaluations: Vec<Evaluation>,
}

#[derive(Deserialize)]
struct Evaluation {
    name: String,
    length: usize,
    rescale_factors: Option<Vec<f64>>,
    start_tokens: u32,
    attention_factor: f64,
    nll_sum: f64,
    predicted: u64,
}

impl Evaluation {
    fn rescale(&self, model: &Model) -> Rescale {
        match self.rescale_factors.clone() {
            None => model.description().shipped_rescale(self.length),
            Some(factors) => Rescale {
                factors,
                start_tokens: self.start_tokens,
                attention_factor: self.attention_factor,
                pair_attention: Vec::new(),
            },
        }
    }
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden");
    let mut cases: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.join("golden.json").exists());
    cases.sort();
    cases
}

fn golden(case: &Path) -> Golden {
    serde_json::from_str(&std::fs::read_to_string(case.join("golden.json")).unwrap()).unwrap()
}

fn load(case: &Path, dtype: Dtype) -> Model {
    Model::load(case, &Device::Cpu, dtype).unwrap_or_else(|error| panic!("{}: {error}", case.display()))
}

fn evaluator(model: &Arc<Model>, chunk_tokens: usize) -> Evaluator {
    Evaluator::new(model.clone(), EvaluatorOptions { threads: 2, chunk_tokens, ..Default::default() }).unwrap()
}

/// Nats per token.
fn tolerance_of(dtype: Dtype) -> f64 {
    if dtype == Dtype::F32Fast { BF16X3_TOLERANCE } else { BF16_TOLERANCE }
}

fn check_all(dtype: Dtype, load: impl Fn(&Path, Dtype) -> Model, chunks: &[usize]) -> usize {
    let (mut checked, mut wrong) = (0, Vec::new());
    for case in cases() {
        let (golden, model) = (golden(&case), Arc::new(load(&case, dtype)));
        for &chunk in chunks {
            let evaluator = evaluator(&model, chunk);
            for evaluation in &golden.evaluations {
                let (rescale, tokens) = (evaluation.rescale(&model), &golden.tokens[..evaluation.length]);
                let loss = evaluator.evaluate(&rescale, tokens, &CancelFlag::new(), &mut |_| {}).unwrap();
                assert_eq!(loss.tokens, evaluation.predicted);
                let (error, tolerance) = match dtype {
                    Dtype::F32 => ((loss.nll_sum / evaluation.nll_sum - 1.0).abs(), RELATIVE_TOLERANCE),
                    _ => ((loss.nll_sum - evaluation.nll_sum).abs() / loss.tokens as f64, tolerance_of(dtype)),
                };
                if error.is_nan() || error > tolerance {
                    let name = case.file_name().unwrap().to_string_lossy().into_owned();
                    wrong.push(format!("{name} {} in chunks of {chunk}: off by {error:.1e}", evaluation.name));
                }
                checked += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    checked
}

#[test]
fn every_family_gives_the_loss_of_transformers_in_any_chunks() {
    assert!(check_all(Dtype::F32, load, &[7, 64, 1024]) >= 100);
}

#[test]
fn what_is_kept_in_bf16_moves_no_loss_far() {
    check_all(Dtype::Bf16, load, &[7, 64]);
}

#[test]
fn a_matrix_unit_computes_the_same() {
    let tiled = |case: &Path, dtype| Model::load_with_tiles(case, dtype).unwrap();
    check_all(Dtype::Bf16, tiled, &[64]);
    check_all(Dtype::F32Fast, tiled, &[7, 64]);
}

#[test]
fn so_do_candles_own_operations() {
    check_all(Dtype::F32, |case, dtype| load(case, dtype).with_tensor_operations(), &[64]);
}

#[test]
fn every_family_is_there() {
    let types: Vec<String> =
        cases().iter().map(|case| load(case, Dtype::F32).description().model_type.clone()).collect();
    for family in ropewalk_worker::model::config::SUPPORTED {
        assert!(types.iter().any(|model_type| model_type == family), "no golden vectors for {family}");
    }
}
