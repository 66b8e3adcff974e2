//! RoPE arithmetic against values computed by other programs: transformers' own functions, and 50-digit arithmetic.
//!
//! `tests/golden/generate.py` at the root of the repository writes the file; see `tests/data/golden/README.md`.

#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::{AngleRule, Rescale, RopeGeometry};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Golden {
    relative_tolerance: f64,
    rotation_absolute_tolerance: f64,
    geometries: Vec<Geometry>,
}

#[derive(Deserialize)]
struct Geometry {
    head_dim: usize,
    partial_rotary_factor: f64,
    rotary_dim: usize,
    theta: f64,
    original_tokens: u32,
    inv_freq: Vec<f64>,
    extensions: Vec<Extension>,
    rotation: Rotation,
}

#[derive(Deserialize)]
struct Extension {
    ratio: f64,
    pi: Vec<f64>,
    ntk: Vec<f64>,
    yarn: Vec<f64>,
    llama3: Vec<f64>,
    yarn_attention_factor: f64,
    longrope_attention_factor: f64,
}

#[derive(Deserialize)]
struct Rotation {
    rescale_factors: Vec<f64>,
    start_tokens: u32,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    position: u64,
    cos: Vec<f64>,
    sin: Vec<f64>,
}

impl Geometry {
    fn rope(&self) -> RopeGeometry {
        RopeGeometry { head_dim: self.head_dim, rotary_dim: self.rotary_dim, theta: self.theta }
    }
}

fn golden() -> Golden {
    let golden: Golden = serde_json::from_str(include_str!("../../tests/data/golden/rope.json")).unwrap();
    assert!(golden.geometries.len() >= 3);
    golden
}

fn assert_close(what: &str, ours: &[f64], theirs: &[f64], relative: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= relative * b.abs(), "{what}[{i}]: {a} against {b}");
    }
}

#[test]
fn inverse_frequencies_are_those_of_transformers() {
    let golden = golden();
    for geometry in &golden.geometries {
        let rope = geometry.rope();
        let ours: Vec<f64> = (0..rope.pairs()).map(|i| rope.inverse_frequency(i)).collect();
        assert_close("inv_freq", &ours, &geometry.inv_freq, golden.relative_tolerance);
    }
}

#[test]
fn baselines_are_those_of_transformers() {
    let golden = golden();
    for geometry in &golden.geometries {
        for extension in &geometry.extensions {
            for (baseline, theirs) in
                [(Baseline::Pi, &extension.pi), (Baseline::Ntk, &extension.ntk), (Baseline::Yarn, &extension.yarn)]
            {
                let ours = baseline.factors(&geometry.rope(), geometry.original_tokens, extension.ratio);
                assert_close(baseline.name(), &ours, theirs, golden.relative_tolerance);
            }
        }
    }
}

#[test]
fn attention_factors_are_those_of_transformers() {
    let golden = golden();
    for geometry in &golden.geometries {
        for extension in &geometry.extensions {
            let ours = |policy: AttentionFactorPolicy| policy.value(extension.ratio, geometry.original_tokens);
            let pairs = [
                (ours(AttentionFactorPolicy::Yarn), extension.yarn_attention_factor),
                (ours(AttentionFactorPolicy::LongRope), extension.longrope_attention_factor),
            ];
            for (ours, theirs) in pairs {
                assert_close("attention factor", &[ours], &[theirs], golden.relative_tolerance);
            }
        }
    }
}

#[test]
fn a_shipped_scaling_becomes_the_factors_of_transformers() {
    let golden = golden();
    for geometry in &golden.geometries {
        for extension in &geometry.extensions {
            let scalings = [
                (json!({"rope_type": "yarn", "factor": extension.ratio}), &extension.yarn),
                (
                    json!({"rope_type": "llama3", "factor": extension.ratio, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
                    &extension.llama3,
                ),
                (json!({"rope_type": "linear", "factor": extension.ratio}), &extension.pi),
            ];
            for (scaling, theirs) in scalings {
                let config = json!({
                    "model_type": "llama", "vocab_size": 100, "hidden_size": 4096, "num_hidden_layers": 2,
                    "num_attention_heads": 32, "head_dim": geometry.head_dim, "rope_theta": geometry.theta,
                    "partial_rotary_factor": geometry.partial_rotary_factor,
                    "max_position_embeddings": 4 * geometry.original_tokens,
                    "original_max_position_embeddings": geometry.original_tokens, "rope_scaling": scaling,
                });
                let description = ModelDescription::from_config_json(&config.to_string()).unwrap();
                assert_eq!(description.original_length, geometry.original_tokens);
                let rescale = description.shipped_rescale(1 << 17);
                assert_close(&scaling.to_string(), &rescale.factors, theirs, golden.relative_tolerance);
            }
        }
    }
}

#[test]
fn angles_keep_their_precision_at_large_positions() {
    let golden = golden();
    for geometry in &golden.geometries {
        let Rotation { rescale_factors, start_tokens, rows } = &geometry.rotation;
        let rescale = Rescale {
            factors: rescale_factors.clone(),
            start_tokens: *start_tokens,
            attention_factor: 1.0,
            pair_attention: Vec::new(),
        };
        let rule = AngleRule::new(&geometry.rope(), &rescale).unwrap();
        assert!(rows.iter().any(|row| row.position > 100_000), "no large position to check");
        for row in rows {
            for pair in 0..rule.pairs() {
                let (cos, sin) = rule.cos_sin(pair, row.position);
                let error = (cos - row.cos[pair]).abs().max((sin - row.sin[pair]).abs());
                assert!(error < golden.rotation_absolute_tolerance, "pair {pair}, position {}", row.position);
            }
        }
    }
}
