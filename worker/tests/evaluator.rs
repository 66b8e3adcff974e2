//! What the evaluator promises: the same bits from any number of threads, answers instead of crashes, little memory.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::Device;
use ropewalk_shared::rope::{InvalidRescale, Rescale};
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::cost;
use ropewalk_worker::device::{DeviceError, Dtype};
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::model::{LoadError, Model, fingerprint_dir};
use ropewalk_worker::perplexity::{EvalError, Loss};
use ropewalk_worker::placement::Residence;
use std::sync::Arc;
use support::{TestModel, tokens};

fn load(model: &TestModel) -> Arc<Model> {
    Arc::new(Model::load(model.dir(), &Device::Cpu, Dtype::F32).unwrap())
}

fn load_plain() -> Model {
    Model::load(TestModel::new().dir(), &Device::Cpu, Dtype::F32).unwrap()
}

fn evaluator(model: &Arc<Model>, threads: usize, chunk_tokens: usize) -> Evaluator {
    Evaluator::new(model.clone(), EvaluatorOptions { threads, chunk_tokens, ..Default::default() }).unwrap()
}

fn rescale(model: &Model) -> Rescale {
    let pairs = model.description().geometry.pairs();
    let factors = (0..pairs).map(|i| 1.0 + 7.0 * i as f64 / pairs as f64).collect();
    Rescale { factors, start_tokens: 4, attention_factor: 1.1, pair_attention: Vec::new() }
}

fn loss(evaluator: &Evaluator, tokens: &[u32]) -> Result<Loss, EvalError> {
    evaluator.evaluate(&rescale(evaluator.model()), tokens, &CancelFlag::new(), &mut |_| {})
}

#[test]
fn threads_and_repetitions_change_no_bit() {
    for window in [None, Some(100)] {
        let model = load(&TestModel::with_window(window));
        let tokens = tokens(1500);
        let first = loss(&evaluator(&model, 1, 512), &tokens).unwrap();
        assert!(first.nll_sum.is_finite() && first.tokens == 1499);
        for threads in [1, 2, 3, 8] {
            let evaluator = evaluator(&model, threads, 512);
            assert_eq!(evaluator.threads(), threads);
            for _ in 0..2 {
                let again = loss(&evaluator, &tokens).unwrap();
                assert_eq!(again.nll_sum.to_bits(), first.nll_sum.to_bits(), "{threads} threads, window {window:?}");
            }
        }
    }
}

#[test]
fn sharing_the_first_layer_changes_no_bit() {
    let model = load(&TestModel::with_window(Some(300)));
    let (long, short) = (tokens(1100), tokens(700));
    let candidate = |i: usize| Rescale { attention_factor: 1.0 + 0.1 * i as f64, ..rescale(&model) };
    let run = |evaluator: &Evaluator, i: usize, tokens: &[u32]| {
        evaluator.evaluate(&candidate(i), tokens, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum.to_bits()
    };
    // None of it, a part of a sample, one sample and a part of the other, all.
    for shared_bytes in [0, 600 << 10, 1200 << 10, 1 << 30] {
        for model in [model.clone(), Arc::new(load_plain().with_tensor_operations())] {
            let options = EvaluatorOptions { threads: 2, chunk_tokens: 128, shared_bytes, ..Default::default() };
            let sharing = Evaluator::new(model.clone(), options.clone()).unwrap();
            for i in 0..if shared_bytes == 0 { 1 } else { 4 } {
                let alone = Evaluator::new(model.clone(), options.clone()).unwrap();
                for tokens in [&long, &short] {
                    assert_eq!(run(&sharing, i, tokens), run(&alone, i, tokens), "{shared_bytes} bytes, candidate {i}");
                }
            }
        }
    }
}

#[test]
fn evaluators_side_by_side_do_not_disturb_each_other() {
    let model = load(&TestModel::new());
    let tokens = tokens(700);
    let alone = loss(&evaluator(&model, 1, 256), &tokens).unwrap();
    std::thread::scope(|scope| {
        let run = || loss(&evaluator(&model, 1, 256), &tokens).unwrap();
        let all: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap(), alone));
    });
}

#[test]
fn chunks_do_not_matter() {
    for window in [None, Some(100)] {
        let model = load(&TestModel::with_window(window));
        let tokens = tokens(1100);
        let whole = loss(&evaluator(&model, 2, 2048), &tokens).unwrap().mean();
        for chunk in [7, 64, 1024] {
            let mean = loss(&evaluator(&model, 2, chunk), &tokens).unwrap().mean();
            assert!((mean - whole).abs() < 1e-6, "chunks of {chunk}: {mean} for {whole}, window {window:?}");
        }
    }
}

#[test]
fn input_that_cannot_be_evaluated_is_named() {
    let model = load(&TestModel::new());
    let evaluator = evaluator(&model, 1, 64);
    let run = |rescale: &Rescale, tokens: &[u32]| {
        evaluator.evaluate(rescale, tokens, &CancelFlag::new(), &mut |_| {}).unwrap_err()
    };
    let good = rescale(&model);
    assert!(matches!(run(&good, &[]), EvalError::TooShort(0)));
    assert!(matches!(run(&good, &[1]), EvalError::TooShort(1)));
    let error = run(&good, &[1, 2, 512, 3]);
    assert!(matches!(error, EvalError::Token { position: 2, token: 512, vocab: 512 }), "{error}");
    assert!(matches!(run(&good, &[1, u32::MAX]), EvalError::Token { position: 1, .. }));
    let mut short = good.clone();
    short.factors.pop();
    assert!(matches!(run(&short, &[1, 2]), EvalError::Rescale(InvalidRescale::Length { .. })));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut broken = good.clone();
        broken.factors[1] = bad;
        assert!(matches!(run(&broken, &[1, 2]), EvalError::Rescale(InvalidRescale::Factor { pair: 1, .. })));
    }
}

#[test]
fn capacity_is_stated_and_kept() {
    let model = load(&TestModel::new());
    let options = EvaluatorOptions { threads: 1, chunk_tokens: 64, max_tokens: Some(100), ..Default::default() };
    let small = Evaluator::new(model.clone(), options).unwrap();
    let error = loss(&small, &tokens(101)).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("101") && error.to_string().contains("100"), "{error}");
    assert!(loss(&small, &tokens(100)).is_ok());
    // What the weights really hold is what the configuration says they do.
    assert_eq!(model.weight_bytes(), cost::weights(model.spec()) * 4);
    assert!(evaluator(&model, 1, 64).max_tokens() > 10_000);
}

#[test]
fn cancelling_stops_between_chunks() {
    let model = load(&TestModel::new());
    let (cancel, mut seen) = (CancelFlag::new(), Vec::new());
    let evaluator = evaluator(&model, 1, 64);
    let result = evaluator.evaluate(&rescale(&model), &tokens(640), &cancel, &mut |fraction| {
        seen.push(fraction);
        if seen.len() == 5 {
            cancel.cancel();
        }
    });
    assert!(matches!(result, Err(EvalError::Cancelled)));
    assert_eq!(seen.len(), 5);

    let mut seen = Vec::new();
    evaluator.evaluate(&rescale(&model), &tokens(640), &CancelFlag::new(), &mut |f| seen.push(f)).unwrap();
    assert!(seen.is_sorted() && seen[0] == 0.0 && *seen.last().unwrap() == 1.0);
}

#[test]
fn a_broken_model_gives_a_loss_that_is_not_finite() {
    let test = TestModel::new();
    test.poison("model.layers.1.mlp.down_proj.weight");
    let model = load(&test);
    let loss = loss(&evaluator(&model, 1, 64), &tokens(200)).unwrap();
    assert!(!loss.nll_sum.is_finite());
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let missing = Model::load("/nowhere/at/all".as_ref(), &Device::Cpu, Dtype::F32).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/at/all/config.json"), "{missing}");
    let test = TestModel::new();
    let half = Model::load(test.dir(), &Device::Cpu, Dtype::F16).unwrap_err();
    assert!(matches!(half, LoadError::Device(DeviceError::CpuDtype(Dtype::F16))));

    test.edit_config(|config| config["intermediate_size"] = 255.into());
    let error = Model::load(test.dir(), &Device::Cpu, Dtype::F32).unwrap_err().to_string();
    assert!(error.contains("gate_proj") && error.contains("[255, 128]") && error.contains("[256, 128]"), "{error}");

    let test = TestModel::new();
    test.edit_config(|config| config["tie_word_embeddings"] = false.into());
    let error = Model::load(test.dir(), &Device::Cpu, Dtype::F32).unwrap_err();
    assert!(matches!(&error, LoadError::MissingTensor { tensor, .. } if tensor == "lm_head.weight"), "{error}");

    let test = TestModel::new();
    test.edit_config(|config| config["num_hidden_layers"] = 1.into());
    let error = Model::load(test.dir(), &Device::Cpu, Dtype::F32).unwrap_err();
    assert!(matches!(&error, LoadError::SurplusLayer { layers: 1, found: 2, .. }), "{error}");

    // Biases and norms of heads, of which the configuration says nothing.
    for surplus in ["self_attn.q_proj.bias", "self_attn.q_norm.weight", "mlp.experts.0.up_proj.weight"] {
        for layers in [Residence::Device, Residence::Host] {
            let (test, tensor) = (TestModel::new(), format!("model.layers.1.{surplus}"));
            test.add(&tensor);
            let error = Model::load_placed(test.dir(), &[Device::Cpu], Dtype::F32, layers).unwrap_err();
            assert!(matches!(&error, LoadError::UnusedTensor { tensor: named, .. } if *named == tensor), "{error}");
        }
    }
    let test = TestModel::new();
    test.add("model.layers.0.self_attn.rotary_emb.inv_freq");
    test.add("lm_head.weight");
    load(&test);

    let test = TestModel::new();
    test.edit_config(|config| config["model_type"] = "gpt2".into());
    let error = Model::load(test.dir(), &Device::Cpu, Dtype::F32).unwrap_err();
    assert!(matches!(error, LoadError::ModelType { .. }), "{error}");
}

#[test]
fn the_fingerprint_is_that_of_the_content() {
    let (one, other) = (TestModel::new(), TestModel::new());
    let print = fingerprint_dir(one.dir()).unwrap();
    assert_eq!(print, fingerprint_dir(other.dir()).unwrap());
    other.poison("model.norm.weight");
    assert_ne!(print, fingerprint_dir(other.dir()).unwrap());
    one.edit_config(|config| config["rms_norm_eps"] = 0.5.into());
    assert_ne!(print, fingerprint_dir(one.dir()).unwrap());
    assert!(matches!(fingerprint_dir("/nowhere".as_ref()), Err(LoadError::Io { .. })));
}
