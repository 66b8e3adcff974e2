//! Attention factors of pairs folded into the weights: the same losses without them, for every family.
#![allow(clippy::unwrap_used)]

use candle_core::Device;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::device::Dtype;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::fold::{self, FoldError};
use ropewalk_worker::model::Model;
use std::fs;
use std::path::{Path, PathBuf};

/// Every family, biases, norms per head, partial rotation, tied weights, shards.
const MODELS: [&str; 9] = [
    "llama",
    "llama-mlp-attn-bias",
    "llama-sharded",
    "llama-tied",
    "mistral",
    "qwen2-window",
    "qwen3",
    "phi3",
    "phi3-partial",
];

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden").join(case)
}

fn evaluator(dir: &Path) -> Evaluator {
    let model = Model::load(dir, &Device::Cpu, Dtype::F32).unwrap();
    Evaluator::new(model.into(), EvaluatorOptions { threads: 1, chunk_tokens: 32, ..Default::default() }).unwrap()
}

fn loss(evaluator: &Evaluator, rescale: &Rescale, tokens: &[u32]) -> f64 {
    evaluator.evaluate(rescale, tokens, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum
}

/// The folder of a model whose weights were folded.
fn folded(case: &str, pair_attention: &[f64]) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    fold::write(&golden(case), pair_attention, out.path()).unwrap();
    for entry in fs::read_dir(golden(case)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            fs::copy(&path, out.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    out
}

fn smooth(pairs: usize) -> Vec<f64> {
    (0..pairs).map(|pair| 1.5 - 0.8 * pair as f64 / pairs as f64 + 0.1 * (pair % 2) as f64).collect()
}

/// Powers of two: no format rounds anything.
fn exact(pairs: usize) -> Vec<f64> {
    (0..pairs).map(|pair| [2.0, 1.0, 0.5][pair % 3]).collect()
}

#[test]
fn a_folded_model_computes_the_same_at_every_length_and_with_any_factors() {
    for case in MODELS {
        let tokens: Vec<u32> = (0..149).map(|i| i * i * 31 % 96).collect();
        let original = evaluator(&golden(case));
        let pairs = original.model().description().geometry.pairs();
        // The weights of one case are f32; bf16 and f16 round what a smooth profile makes of theirs.
        for (profile, tolerance) in [(exact(pairs), 2e-6), (smooth(pairs), if case == "llama" { 2e-6 } else { 2e-3 })] {
            let dir = folded(case, &profile);
            let folded = evaluator(dir.path());
            for (start_tokens, attention_factor, length) in [(0, 1.0, 149), (4, 1.17, 149), (9, 1.17, 60)] {
                let factors = (0..pairs).map(|i| 1.0 + 3.5 * i as f64 / pairs as f64).collect();
                let one = Rescale { start_tokens, attention_factor, ..Rescale::with_factors(factors) };
                let each = Rescale { pair_attention: profile.clone(), ..one.clone() };
                let [with, without, plain] = [(&original, &each), (&folded, &one), (&original, &one)]
                    .map(|(evaluator, rescale)| loss(evaluator, rescale, &tokens[..length]));
                assert!((without / with - 1.0).abs() < tolerance, "{case}, {length} tokens: {without} for {with}");
                assert!((with / plain - 1.0).abs() > 1e-5, "{case}: the profile changes nothing");
            }
        }
    }
}

#[test]
fn only_queries_and_keys_change() {
    for case in ["llama-sharded", "qwen3"] {
        let dir = folded(case, &[1.0; 8]);
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let tensors = |path: &Path| {
                    let bytes = fs::read(path).unwrap();
                    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                    let mut all: Vec<_> = file
                        .tensors()
                        .into_iter()
                        .map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec()))
                        .collect();
                    all.sort();
                    all
                };
                assert_eq!(tensors(&path), tensors(&golden(case).join(path.file_name().unwrap())));
            }
        }
    }
}

#[test]
fn what_cannot_be_folded_is_refused() {
    let out = tempfile::tempdir().unwrap();
    for bad in [vec![1.0; 7], vec![0.0; 8], vec![f64::NAN; 8]] {
        let error = fold::write(&golden("llama"), &bad, out.path()).unwrap_err();
        assert!(matches!(error, FoldError::Factors { .. }), "{error}");
    }
    assert!(matches!(fold::write(out.path(), &[1.0; 8], out.path()), Err(FoldError::Load(_))));
    // A configuration that speaks of more layers than there are weights.
    let room = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(golden("llama").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = 9.into();
    fs::write(room.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(golden("llama/model.safetensors"), room.path().join("model.safetensors")).unwrap();
    let error = fold::write(room.path(), &[1.0; 8], out.path()).unwrap_err();
    assert!(matches!(error, FoldError::Missing(_)), "{error}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
