//! Exact gradients: against central differences of the evaluator and against PyTorch's, for every family.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use candle_core::Device;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::device::Dtype;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::gradient::{Gradient, bytes, max_tokens};
use ropewalk_worker::model::Model;
use ropewalk_worker::perplexity::EvalError;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::TestModel;

/// One case at least for each family and each peculiarity of a decoder.
const FAMILIES: [&str; 7] =
    ["llama", "llama-mlp-attn-bias", "mistral", "qwen2-window", "qwen3", "phi3", "phi3-partial"];

/// Of the gradient's norm. The loss is an f32 sum with an error of some 1e-7 of itself, which steps divide.
const DIFFERENCE_TOLERANCE: f64 = 5e-3;
/// Of the gradient's norm; errors measured are from 1e-6 to 1.2e-5.
const AUTOGRAD_TOLERANCE: f64 = 5e-5;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden")
}

fn evaluator(case: &str, threads: usize, chunk_tokens: usize) -> Evaluator {
    let model = Arc::new(Model::load(&root().join(case), &Device::Cpu, Dtype::F32).unwrap());
    Evaluator::new(model, EvaluatorOptions { threads, chunk_tokens, ..Default::default() }).unwrap()
}

fn json(case: &str, file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join(case).join(file)).unwrap()).unwrap()
}

fn tokens(case: &str) -> Vec<u32> {
    serde_json::from_value(json(case, "golden.json")["tokens"].clone()).unwrap()
}

fn rescale(pairs: usize) -> Rescale {
    let factors = (0..pairs).map(|i| 1.0 + 3.5 * i as f64 / pairs as f64).collect();
    // A profile that is none of the factors'.
    let pair_attention = (0..pairs).map(|i| 0.9 + 0.05 * (i * i % 5) as f64).collect();
    Rescale { factors, start_tokens: 4, attention_factor: 1.17, pair_attention }
}

fn gradient(evaluator: &Evaluator, rescale: &Rescale, tokens: &[u32]) -> Gradient {
    evaluator.gradient(rescale, (tokens, 0), &CancelFlag::new(), &mut |_| {}).unwrap()
}

fn numbers(gradient: &Gradient) -> Vec<f64> {
    let pairs = gradient.log_factors.iter().chain(&gradient.log_pair_attention);
    pairs.copied().chain([gradient.log_attention_factor]).collect()
}

fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Size of the difference, relative to what is wanted.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    norm(&got.iter().zip(want).map(|(got, want)| got - want).collect::<Vec<_>>()) / norm(want)
}

/// Central differences of fourth order. The loss has an error of some 1e-7 of itself, so steps are as large as angles
/// allow: the last position turns by 0.05 more.
fn differences(evaluator: &Evaluator, rescale: &Rescale, tokens: &[u32]) -> Vec<f64> {
    let geometry = evaluator.model().description().geometry;
    let loss =
        |rescale: &Rescale| evaluator.evaluate(rescale, tokens, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum;
    let slope = |step: f64, moved: &dyn Fn(f64) -> Rescale| {
        let difference = |step: f64| (loss(&moved(step)) - loss(&moved(-step))) / (2.0 * step);
        (4.0 * difference(step / 2.0) - difference(step)) / 3.0
    };
    let by_factor = (0..geometry.pairs()).map(|pair| {
        let last = tokens.len() as f64 * geometry.inverse_frequency(pair) / rescale.factors[pair];
        slope((0.1 / last).clamp(1e-3, 0.1), &|step| {
            let mut moved = rescale.clone();
            moved.factors[pair] *= step.exp();
            moved
        })
    });
    let by_pair_attention = (0..geometry.pairs()).map(|pair| {
        slope(0.02, &|step| {
            let mut moved = rescale.clone();
            moved.pair_attention[pair] *= step.exp();
            moved
        })
    });
    let by_attention =
        slope(0.02, &|step| Rescale { attention_factor: rescale.attention_factor * step.exp(), ..rescale.clone() });
    by_factor.chain(by_pair_attention).chain([by_attention]).collect()
}

#[test]
fn differences_of_the_loss_are_the_gradient_for_every_family() {
    for case in FAMILIES {
        let evaluator = evaluator(case, 2, 20);
        let tokens = &tokens(case)[..70];
        let rescale = rescale(evaluator.model().description().geometry.pairs());
        let got = gradient(&evaluator, &rescale, tokens);
        let want = differences(&evaluator, &rescale, tokens);
        let distance = distance(&numbers(&got), &want);
        assert!(distance < DIFFERENCE_TOLERANCE, "{case}: off by {distance:.1e}");
    }
}

/// Attention is causal: what is counted from a position on is the whole without the tokens before.
#[test]
fn counted_gradients_are_the_rest_of_the_whole() {
    for case in ["llama", "qwen2-window", "phi3-partial"] {
        let tokens = tokens(case);
        for chunk in [7, 32, 1024] {
            let evaluator = evaluator(case, 2, chunk);
            let rescale = rescale(evaluator.model().description().geometry.pairs());
            let whole = gradient(&evaluator, &rescale, &tokens);
            for from in [1, 2, chunk, chunk + 1, tokens.len() - 3, tokens.len() - 1] {
                if from >= tokens.len() {
                    continue;
                }
                let counted = (&tokens[..], from);
                let got = evaluator.gradient(&rescale, counted, &CancelFlag::new(), &mut |_| {}).unwrap();
                assert_eq!(got.loss.tokens, (tokens.len() - from) as u64);
                let (mut sum, mut nll_sum) = (numbers(&got), got.loss.nll_sum);
                if from > 1 {
                    let before = gradient(&evaluator, &rescale, &tokens[..from]);
                    sum.iter_mut().zip(numbers(&before)).for_each(|(sum, by)| *sum += by);
                    nll_sum += before.loss.nll_sum;
                }
                let what = format!("{case} in chunks of {chunk}, from {from}");
                assert!((nll_sum / whole.loss.nll_sum - 1.0).abs() < 3e-6, "{what}");
                assert!(distance(&sum, &numbers(&whole)) < AUTOGRAD_TOLERANCE, "{what}");
            }
        }
    }
}

#[test]
fn pytorch_computes_the_same_gradient_in_any_chunks() {
    let mut cases: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("gradient.json").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    cases.sort();
    assert!(FAMILIES.iter().all(|family| cases.iter().any(|case| case == family)), "{cases:?}");
    for case in &cases {
        let golden = json(case, "gradient.json");
        let rescale: Rescale = serde_json::from_value(golden.clone()).unwrap();
        let mut want: Vec<f64> = serde_json::from_value(golden["log_factors"].clone()).unwrap();
        let by_pairs: Vec<f64> = serde_json::from_value(golden["log_pair_attention"].clone()).unwrap();
        want.extend(by_pairs);
        want.push(golden["log_attention_factor"].as_f64().unwrap());
        assert!(!rescale.has_pair_attention());
        let tokens = &tokens(case)[..golden["length"].as_u64().unwrap() as usize];
        for chunk in [7, 64, 1024] {
            let evaluator = evaluator(case, 2, chunk);
            let got = gradient(&evaluator, &rescale, tokens);
            let loss = evaluator.evaluate(&rescale, tokens, &CancelFlag::new(), &mut |_| {}).unwrap();
            assert_eq!(got.loss, loss, "{case} in chunks of {chunk}");
            assert!((got.loss.nll_sum / golden["nll_sum"].as_f64().unwrap() - 1.0).abs() < 1e-6);
            let distance = distance(&numbers(&got), &want);
            assert!(distance < AUTOGRAD_TOLERANCE, "{case} in chunks of {chunk}: off by {distance:.1e}");
        }
    }
}

#[test]
fn starting_tokens_depend_on_the_attention_factor_alone() {
    let (evaluator, tokens) = (evaluator("llama", 1, 20), tokens("llama"));
    let mut rescale = rescale(evaluator.model().description().geometry.pairs());
    rescale.start_tokens = 30;
    let got = gradient(&evaluator, &rescale, &tokens[..30]);
    assert!(got.log_factors.iter().all(|by| *by == 0.0), "{:?}", got.log_factors);
    assert!(got.log_attention_factor.abs() > 0.1);
    rescale.start_tokens = 29;
    // The last token is not scored, and nothing that is sees it.
    assert!(gradient(&evaluator, &rescale, &tokens[..30]).log_factors.iter().all(|by| *by == 0.0));
    rescale.start_tokens = 28;
    assert!(gradient(&evaluator, &rescale, &tokens[..30]).log_factors.iter().any(|by| *by != 0.0));
}

fn large(window: Option<usize>) -> (TestModel, Vec<u32>) {
    (TestModel::with_window(window), support::tokens(2300))
}

fn large_evaluator(model: &TestModel, threads: usize, max_tokens: Option<usize>) -> Evaluator {
    let model = Arc::new(Model::load(model.dir(), &Device::Cpu, Dtype::F32).unwrap());
    Evaluator::new(model, EvaluatorOptions { threads, chunk_tokens: 512, max_tokens, ..Default::default() }).unwrap()
}

#[test]
fn threads_and_repetitions_change_no_bit() {
    for window in [None, Some(100)] {
        let (model, tokens) = large(window);
        let on = |threads| {
            let got = gradient(&large_evaluator(&model, threads, None), &rescale(16), &tokens);
            assert!(got.loss.nll_sum.is_finite() && norm(&numbers(&got)).is_finite());
            numbers(&got).into_iter().chain([got.loss.nll_sum]).map(f64::to_bits).collect::<Vec<_>>()
        };
        let one = on(1);
        for threads in [1, 2, 3] {
            assert_eq!(on(threads), one, "{threads} threads, window {window:?}");
        }
    }
}

#[test]
fn the_loss_rises_along_the_gradient_as_fast_as_it_says() {
    // Long enough for several units of the attention, and other matrices than the golden models'.
    let (model, tokens) = large(None);
    let (evaluator, start) = (large_evaluator(&model, 2, None), rescale(16));
    let got = gradient(&evaluator, &start, &tokens);
    let size = norm(&numbers(&got));
    let loss = |step: f64| {
        let mut moved = start.clone();
        moved.factors.iter_mut().zip(&got.log_factors).for_each(|(factor, by)| *factor *= (step * by / size).exp());
        moved.attention_factor *= (step * got.log_attention_factor / size).exp();
        let pairs = moved.pair_attention.iter_mut().zip(&got.log_pair_attention);
        pairs.for_each(|(factor, by)| *factor *= (step * by / size).exp());
        evaluator.evaluate(&moved, &tokens, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum
    };
    let slope = (loss(4e-5) - loss(-4e-5)) / 8e-5;
    assert!((slope / size - 1.0).abs() < 0.02, "{slope}, expected {size}");
}

#[test]
fn what_cannot_be_differentiated_is_an_answer() {
    let (model, tokens) = large(None);
    let evaluator = large_evaluator(&model, 1, Some(2000));
    let run = |tokens: &[u32]| evaluator.gradient(&rescale(16), (tokens, 0), &CancelFlag::new(), &mut |_| {});
    assert!(matches!(run(&tokens), Err(EvalError::TooLarge { tokens: 2300, max_tokens: 2000 })));
    assert!(matches!(run(&[1]), Err(EvalError::TooShort(1))));
    assert!(matches!(run(&[1, 512]), Err(EvalError::Token { position: 1, .. })));
    let short = evaluator.gradient(&rescale(15), (&[1, 2], 0), &CancelFlag::new(), &mut |_| {});
    assert!(matches!(short, Err(EvalError::Rescale(_))));
    let elsewhere = Model::load(model.dir(), &Device::Cpu, Dtype::F32).unwrap().with_tensor_operations();
    let elsewhere = Evaluator::new(elsewhere.into(), EvaluatorOptions::default()).unwrap();
    let error = elsewhere.gradient(&rescale(16), (&[1, 2], 0), &CancelFlag::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, EvalError::NoGradient) && error.to_string().contains("CPU"), "{error}");

    model.poison("model.layers.1.mlp.down_proj.weight");
    let broken = gradient(&large_evaluator(&model, 2, None), &rescale(16), &tokens[..200]);
    assert!(!broken.loss.nll_sum.is_finite() && numbers(&broken).iter().any(|x| !x.is_finite()));
}

#[test]
fn cancelling_stops_anywhere() {
    let (model, tokens) = large(None);
    let (evaluator, tokens) = (large_evaluator(&model, 2, None), &tokens[..1000]);
    let mut all = Vec::new();
    evaluator.gradient(&rescale(16), (tokens, 0), &CancelFlag::new(), &mut |fraction| all.push(fraction)).unwrap();
    assert!(all.is_sorted() && all[0] == 0.0 && *all.last().unwrap() == 1.0, "{all:?}");
    for stop in 1..all.len() {
        let (cancel, mut seen) = (CancelFlag::new(), 0);
        let result = evaluator.gradient(&rescale(16), (tokens, 0), &cancel, &mut |_| {
            seen += 1;
            if seen == stop {
                cancel.cancel();
            }
        });
        assert!(matches!(result, Err(EvalError::Cancelled)) && seen == stop, "{seen} of {stop}");
    }
}

#[test]
fn memory_is_stated() {
    let (model, _) = large(None);
    let evaluator = large_evaluator(&model, 1, None);
    let spec = evaluator.model().spec();
    for limit in [0, 1 << 20, 1 << 28, 1 << 36, 1 << 40] {
        let tokens = max_tokens(spec, 512, limit);
        assert!(tokens == 0 || bytes(spec, 512, tokens) <= limit);
        assert!(bytes(spec, 512, tokens + tokens / 10 + 1) > limit);
    }
    assert!(evaluator.max_gradient_tokens() > 1000);
    // On the processor a device's memory is a part of the host's, and a bound on either holds.
    let whole = evaluator.model();
    let given = whole.weight_bytes() + bytes(spec, 512, 500);
    let options = EvaluatorOptions { threads: 1, device_memory: Some(given), shared_bytes: 0, ..Default::default() };
    let narrow = Evaluator::new(whole.clone(), options).unwrap();
    assert!((450..=500).contains(&narrow.max_gradient_tokens()), "{}", narrow.max_gradient_tokens());
    assert!(narrow.max_tokens() > 500);
    assert!(evaluator.max_gradient_tokens() <= evaluator.max_tokens());
}
