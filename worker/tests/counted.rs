//! Counted positions against full evaluations, whose losses are checked against transformers' in `parity`.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::Device;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::counted::Counted;
use ropewalk_worker::device::Dtype;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::model::Model;
use ropewalk_worker::perplexity::EvalError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{TestModel, tokens};

fn evaluator(model: &Arc<Model>, chunk_tokens: usize) -> Evaluator {
    Evaluator::new(model.clone(), EvaluatorOptions { threads: 2, chunk_tokens, ..Default::default() }).unwrap()
}

fn load(dir: &Path) -> Model {
    Model::load(dir, &Device::Cpu, Dtype::F32).unwrap()
}

fn rescale(model: &Model) -> Rescale {
    let pairs = model.description().geometry.pairs();
    let factors = (0..pairs).map(|i| 1.0 + 7.0 * i as f64 / pairs as f64).collect();
    Rescale { factors, start_tokens: 4, attention_factor: 1.1, pair_attention: Vec::new() }
}

fn counted(evaluator: &Evaluator, tokens: &[u32], from: usize) -> Result<Counted, EvalError> {
    let rescale = rescale(evaluator.model());
    evaluator.evaluate_counted(&rescale, tokens, from, &CancelFlag::new(), &mut |_| {})
}

fn full(evaluator: &Evaluator, tokens: &[u32]) -> f64 {
    evaluator.evaluate(&rescale(evaluator.model()), tokens, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum
}

fn families() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden");
    let mut cases: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.join("golden.json").exists());
    cases.sort();
    cases
}

/// The loss from a position on is the whole loss without that of the tokens before: attention is causal.
fn check(model: &Arc<Model>, tokens: &[u32], chunks: &[usize], what: &str) {
    let reference = evaluator(model, 1024);
    let whole = full(&reference, tokens);
    for &chunk in chunks {
        let evaluator = evaluator(model, chunk);
        for from in [0, 1, 2, chunk, chunk + 1, chunk + 2, 2 * chunk, tokens.len() - 2, tokens.len() - 1] {
            let got = counted(&evaluator, tokens, from).unwrap();
            let before = if from < 2 { 0.0 } else { full(&reference, &tokens[..from]) };
            assert_eq!(got.loss.tokens, (tokens.len() - from.max(1)) as u64);
            let error = (got.loss.nll_sum - (whole - before)).abs() / whole;
            assert!(error < 3e-6, "{what} in chunks of {chunk}, from {from}: off by {error:.1e}");
        }
    }
}

#[test]
fn counted_losses_are_the_rest_of_the_whole_in_every_family() {
    let families = families();
    assert!(families.len() >= 20);
    for dir in families {
        let (model, name) = (load(&dir), dir.display().to_string());
        let tokens: Vec<u32> = (0..61).map(|i| (i * i * 31 + i * 7) % model.spec().vocab as u32).collect();
        check(&Arc::new(model), &tokens, &[7, 20], &name);
        check(&Arc::new(load(&dir).with_tensor_operations()), &tokens, &[13], &name);
    }
}

#[test]
fn so_are_they_where_kernels_use_all_their_threads() {
    for window in [None, Some(100)] {
        let model = Arc::new(load(TestModel::with_window(window).dir()));
        check(&model, &tokens(700), &[33, 256], "random model");
    }
}

#[test]
fn so_are_they_where_the_last_layer_is_the_first() {
    check(&Arc::new(load(TestModel::with_layers(1).dir())), &tokens(100), &[16, 33], "one layer");
}

/// The token of highest likelihood after `tokens`, found by trying every one.
fn greedy(evaluator: &Evaluator, tokens: &[u32]) -> u32 {
    let loss = |token: u32| full(evaluator, &[tokens, &[token]].concat());
    let losses: Vec<f64> = (0..evaluator.model().spec().vocab as u32).map(loss).collect();
    (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap() as u32
}

#[test]
fn an_answer_is_exact_when_greedy_decoding_gives_it() {
    let model = Arc::new(load(TestModel::new().dir()));
    let evaluator = evaluator(&model, 16);
    let prompt = tokens(40);
    let mut decoded = prompt.clone();
    for _ in 0..4 {
        decoded.push(greedy(&evaluator, &decoded));
    }
    let exact = counted(&evaluator, &decoded, prompt.len()).unwrap();
    assert_eq!(exact.correct, 4);
    assert!(exact.is_exact());
    for position in prompt.len()..decoded.len() {
        let mut other = decoded.clone();
        other[position] = (other[position] + 1) % model.spec().vocab as u32;
        let wrong = counted(&evaluator, &other, prompt.len()).unwrap();
        assert!(!wrong.is_exact(), "{position}");
        assert!(wrong.correct >= (position - prompt.len()) as u64, "tokens before {position} stay right");
    }
}

#[test]
fn nothing_counted_is_refused_and_broken_numbers_are_never_right() {
    let broken = TestModel::new();
    let evaluate = |model: &TestModel, from| counted(&evaluator(&Arc::new(load(model.dir())), 16), &tokens(40), from);
    assert!(matches!(evaluate(&broken, 40), Err(EvalError::NothingCounted { counted_from: 40, tokens: 40 })));
    broken.poison("model.norm.weight");
    let got = evaluate(&broken, 30).unwrap();
    assert!(!got.loss.nll_sum.is_finite());
    assert_eq!(got.correct, 0);
}
