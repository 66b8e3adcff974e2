//! Greedy decoding with kept keys and values, against trying every token with a full evaluation.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use candle_core::Device;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::cost::{Format, Load, Memory};
use ropewalk_worker::device::Dtype;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::model::Model;
use ropewalk_worker::perplexity::EvalError;
use std::path::Path;
use std::sync::Arc;
use support::{TestModel, tokens};

fn load(dir: &Path) -> Model {
    Model::load(dir, &Device::Cpu, Dtype::F32).unwrap()
}

fn evaluator(model: &Arc<Model>, chunk_tokens: usize, max_tokens: Option<usize>) -> Evaluator {
    Evaluator::new(model.clone(), EvaluatorOptions { threads: 2, chunk_tokens, max_tokens, ..Default::default() })
        .unwrap()
}

fn rescale(model: &Model) -> Rescale {
    let pairs = model.description().geometry.pairs();
    let factors = (0..pairs).map(|i| 1.0 + 7.0 * i as f64 / pairs as f64).collect();
    Rescale { factors, start_tokens: 4, attention_factor: 1.1, pair_attention: Vec::new() }
}

fn decode(evaluator: &Evaluator, prompt: &[u32], count: usize) -> Result<Vec<u32>, EvalError> {
    evaluator.decode(&rescale(evaluator.model()), (prompt, count), &CancelFlag::new(), &mut |_| {})
}

/// The token of highest likelihood after `tokens`, found by trying every one.
fn likeliest(evaluator: &Evaluator, tokens: &[u32]) -> u32 {
    let loss = |token: u32| {
        let all = [tokens, &[token]].concat();
        evaluator.evaluate(&rescale(evaluator.model()), &all, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum
    };
    let losses: Vec<f64> = (0..evaluator.model().spec().vocab as u32).map(loss).collect();
    (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap() as u32
}

#[test]
fn each_token_is_the_likeliest_of_all() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden");
    for case in ["llama", "qwen2-window", "qwen3", "phi3-partial"] {
        let model = Arc::new(load(&root.join(case)));
        let prompt: Vec<u32> = (0..41).map(|i| (i * i * 31 + i * 7) % model.spec().vocab as u32).collect();
        let reference = evaluator(&model, 1024, None);
        let mut expected = prompt.clone();
        for _ in 0..3 {
            expected.push(likeliest(&reference, &expected));
        }
        for chunk in [7, 41, 512] {
            let got = decode(&evaluator(&model, chunk, None), &prompt, 3).unwrap();
            assert_eq!(got, expected[41..], "{case} in chunks of {chunk}");
        }
        let elsewhere = Arc::new(load(&root.join(case)).with_tensor_operations());
        assert_eq!(decode(&evaluator(&elsewhere, 20, None), &prompt, 3).unwrap(), expected[41..], "{case}");
    }
}

/// The criterion by which retrieval is counted without decoding.
#[test]
fn one_pass_says_the_same_of_long_answers() {
    for window in [None, Some(50)] {
        let model = Arc::new(load(TestModel::with_window(window).dir()));
        let (evaluator, prompt) = (evaluator(&model, 64, None), tokens(200));
        let answer = decode(&evaluator, &prompt, 40).unwrap();
        assert_eq!(answer.len(), 40);
        let all = [&prompt[..], &answer].concat();
        let rescale = rescale(&model);
        let counted = evaluator.evaluate_counted(&rescale, &all, 200, &CancelFlag::new(), &mut |_| {}).unwrap();
        assert!(counted.is_exact(), "{} of 40", counted.correct);
    }
}

#[test]
fn what_cannot_be_decoded_is_an_answer() {
    let folder = TestModel::new();
    let model = Arc::new(load(folder.dir()));
    let small = evaluator(&model, 64, Some(30));
    assert!(matches!(decode(&small, &tokens(28), 3), Err(EvalError::TooLarge { tokens: 31, .. })));
    assert!(decode(&small, &tokens(28), 0).unwrap().is_empty());
    assert!(matches!(decode(&small, &[1], 3), Err(EvalError::TooShort(1))));
    let (cancel, rescale) = (CancelFlag::new(), rescale(&model));
    cancel.cancel();
    let cancelled = small.decode(&rescale, (&tokens(20), 3), &cancel, &mut |_| {});
    assert!(matches!(cancelled, Err(EvalError::Cancelled)));
    folder.poison("model.norm.weight");
    let broken = evaluator(&Arc::new(load(folder.dir())), 64, None);
    let nothing = decode(&broken, &tokens(28), 3).unwrap();
    assert!(nothing.is_empty(), "{nothing:?}: where no likelihood is a number nothing is the likeliest");
}

#[test]
fn a_devices_memory_bounds_what_is_decoded() {
    let model = Arc::new(load(TestModel::with_layers(4).dir()));
    let load = Load { spec: model.spec(), format: Format::on(true, Dtype::F32), chunk_tokens: 64, tokens: 3000 };
    // Room for an evaluation, which keeps the keys and values of one layer, and not for those of all.
    let device_memory = Some(model.weight_bytes() + Memory::of(load).evaluation());
    let options =
        EvaluatorOptions { threads: 1, chunk_tokens: 64, device_memory, shared_bytes: 0, ..Default::default() };
    let narrow = Evaluator::new(model.clone(), options).unwrap();
    assert!(narrow.max_tokens() >= 3000);
    match decode(&narrow, &tokens(2990), 10) {
        Err(EvalError::TooLarge { tokens: 3000, max_tokens }) => assert!(max_tokens > 500 && max_tokens < 3000),
        other => panic!("{other:?}"),
    }
    assert_eq!(decode(&narrow, &tokens(100), 2).unwrap().len(), 2);
}
