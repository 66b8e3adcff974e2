//! The Hugging Face patch: the rules that make every engine run what was searched.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_coordinator::export::{
    DroppedStartTokens, ExportError, HfOptions, ShortSet, StartTokensWorth, csv, hf, json,
};
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::factor_file::{FactorFile, FactorModel};
use ropewalk_shared::rope::Rescale;
use serde_json::{Map, Value, json};

const ORIGINAL: u32 = 64;
const TARGET: u32 = 512;

fn config(model_type: &str, extra: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": ORIGINAL, "rope_theta": 500000.0,
    });
    let object = config.as_object_mut().unwrap();
    for (key, value) in extra.as_object().unwrap() {
        object.insert(key.clone(), value.clone());
    }
    config
}

fn factors(pairs: usize, attention_factor: f64) -> FactorFile {
    let factors = (0..pairs).map(|pair| 1.0 + (pair as f64 / 3.0).powi(2)).collect();
    let mut file =
        FactorFile::from_rescale(Rescale { factors, start_tokens: 0, attention_factor, pair_attention: Vec::new() });
    file.target_length = Some(TARGET);
    file
}

fn su() -> f64 {
    AttentionFactorPolicy::LongRope.value(8.0, ORIGINAL)
}

fn patch_with(file: &FactorFile, config: &Value, options: &HfOptions) -> Result<(Value, String), ExportError> {
    let export = hf::export(file, &config.to_string(), options)?;
    Ok((serde_json::from_str(&export.content).unwrap(), export.notes.join("\n")))
}

fn patch(file: &FactorFile, config: &Value) -> Value {
    patch_with(file, config, &HfOptions::default()).unwrap().0
}

#[test]
fn the_generic_form_says_everything_twice() {
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let file = factors(8, 1.0);
        let source = config(model_type, json!({"head_dim": 16}));
        let (patch, notes) = patch_with(&file, &source, &HfOptions::default()).unwrap();
        let dictionary = json!({
            "rope_type": "longrope", "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 64,
            "attention_factor": 1.0, "short_mscale": 1.0, "long_mscale": 1.0,
            "short_factor": file.rescale_factors, "long_factor": file.rescale_factors,
        });
        let expected = json!({
            "max_position_embeddings": 512, "original_max_position_embeddings": 64, "rope_theta": 500000.0,
            "head_dim": 16, "rope_scaling": dictionary, "rope_parameters": dictionary,
        });
        assert_eq!(patch, expected);
        assert!(notes.contains("--max-model-len 512"), "{notes}");
    }
}

#[test]
fn the_phi_form_has_three_keys() {
    let file = factors(6, su());
    let partial = json!({"rope_theta": 500000.0, "partial_rotary_factor": 0.75, "rope_type": "default"});
    let source = config("phi3", json!({"rope_parameters": partial}));
    let expected = json!({
        "max_position_embeddings": 512, "original_max_position_embeddings": 64, "rope_theta": 500000.0,
        "partial_rotary_factor": 0.75, "rope_parameters": null,
        "rope_scaling": {"type": "longrope", "short_factor": file.rescale_factors, "long_factor": file.rescale_factors},
    });
    assert_eq!(patch(&file, &source), expected);
}

#[test]
fn phi_with_an_attention_factor_of_its_own_needs_transformers_5() {
    let source = config("phi3", json!({}));
    let file = factors(8, 1.0);
    let refused = patch_with(&file, &source, &HfOptions::default()).unwrap_err();
    assert!(matches!(refused, ExportError::PhiAttentionFactor { .. }) && refused.to_string().contains("--hf5-only"));
    let options = HfOptions { hf5_only: true, ..HfOptions::default() };
    let (patch, notes) = patch_with(&file, &source, &options).unwrap();
    assert_eq!(patch["rope_scaling"]["attention_factor"], json!(1.0));
    assert_eq!((&patch["rope_scaling"]["type"], patch["rope_scaling"].get("rope_type")), (&json!("longrope"), None));
    assert!(notes.contains("transformers 5"), "{notes}");
}

#[test]
fn mscales_stand_where_engines_would_compute_another_attention_factor() {
    let with = |attention_factor| {
        let dictionary = patch(&factors(8, attention_factor), &config("llama", json!({})))["rope_scaling"].clone();
        (
            dictionary["attention_factor"].clone(),
            dictionary.get("short_mscale").cloned(),
            dictionary.get("long_mscale").cloned(),
        )
    };
    assert_eq!(with(su()), (json!(su()), None, None));
    assert_eq!(with(1.25), (json!(1.25), Some(json!(1.25)), Some(json!(1.25))));
}

#[test]
fn an_absent_head_dimension_is_written_out() {
    for source in [config("mistral", json!({})), config("mistral", json!({"head_dim": null}))] {
        assert_eq!(patch(&factors(8, su()), &source)["head_dim"], json!(16));
    }
}

#[test]
fn numbers_keep_every_digit() {
    let mut file = factors(8, su());
    file.rescale_factors[3] = 1.0 + 1.0 / 3.0;
    let text = hf::export(&file, &config("llama", json!({})).to_string(), &HfOptions::default()).unwrap().content;
    assert!(text.contains("1.3333333333333333"), "{text}");
    file.target_length = Some(600);
    let patch = patch(&file, &config("llama", json!({})));
    assert_eq!(patch["rope_scaling"]["factor"].as_f64(), Some(600.0 / 64.0));
    // transformers 4 warns of a whole number.
    file.target_length = Some(512);
    assert!(
        hf::export(&file, &config("llama", json!({})).to_string(), &HfOptions::default())
            .unwrap()
            .content
            .contains("8.0")
    );
}

#[test]
fn the_partial_factor_goes_to_both_places() {
    let source = config(
        "llama",
        json!({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "rope_theta": 1e4}),
    );
    let patch = patch(&factors(4, su()), &source);
    assert_eq!(patch["partial_rotary_factor"], json!(0.5));
    assert_eq!(patch["rope_parameters"]["partial_rotary_factor"], json!(0.5));
    assert_eq!(patch["rope_parameters"]["rope_theta"], json!(1e4));
}

#[test]
fn short_sets() {
    let shipped = json!({"original_max_position_embeddings": ORIGINAL, "max_position_embeddings": 256, "head_dim": null,
        "rope_scaling": {"type": "longrope", "short_factor": vec![1.5; 8], "long_factor": vec![2.0; 8]}});
    let short = |source: &Value, set: Option<ShortSet>| {
        let options = HfOptions { short: set, ..HfOptions::default() };
        let (patch, notes) = patch_with(&factors(8, su()), source, &options).unwrap();
        (patch["rope_scaling"]["short_factor"].clone(), notes)
    };
    let long = json!(factors(8, 1.0).rescale_factors);
    let plain = config("llama", json!({}));
    assert_eq!(short(&plain, None).0, long);
    assert_eq!(short(&config("phi3", shipped.clone()), None).0, json!(vec![1.5; 8]));
    assert_eq!(short(&config("phi3", shipped), Some(ShortSet::Same)).0, long);
    assert_eq!(short(&plain, Some(ShortSet::Given(Rescale::with_factors(vec![1.25; 8])))).0, json!(vec![1.25; 8]));
    let (ones, notes) = short(&plain, Some(ShortSet::Ones));
    assert_eq!(ones, json!(vec![1.0; 8]));
    assert!(notes.contains("mixes keys of both sets") && notes.contains("multiplies short inputs as well"), "{notes}");
    let given = |rescale: Rescale| HfOptions { short: Some(ShortSet::Given(rescale)), ..HfOptions::default() };
    let options = given(Rescale::with_factors(vec![1.0; 7]));
    assert!(matches!(patch_with(&factors(8, su()), &plain, &options), Err(ExportError::Short(_))));
    // Engines have no starting tokens, and one attention factor for both sets.
    let options = given(Rescale { start_tokens: 4, ..Rescale::with_factors(vec![1.0; 8]) });
    let refused = patch_with(&factors(8, su()), &plain, &options);
    assert!(matches!(refused, Err(ExportError::ShortStartTokens { start_tokens: 4, .. })));
    let options = given(Rescale { attention_factor: 1.5, ..Rescale::with_factors(vec![1.0; 8]) });
    let (_, notes) = patch_with(&factors(8, su()), &plain, &options).unwrap();
    assert!(notes.contains("1.5"), "{notes}");
}

#[test]
fn a_replaced_scaling_and_a_short_window_are_noted() {
    let scaling = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0});
    let source = config("mistral", json!({"rope_scaling": scaling, "sliding_window": 128}));
    let (patch, notes) = patch_with(&factors(8, su()), &source, &HfOptions::default()).unwrap();
    assert_eq!(patch["rope_scaling"]["rope_type"], json!("longrope"));
    assert!(notes.contains("rope type linear") && notes.contains("sliding_window is 128"), "{notes}");
    let unused = config("qwen2", json!({"sliding_window": 128, "use_sliding_window": false}));
    let (_, notes) = patch_with(&factors(8, su()), &unused, &HfOptions::default()).unwrap();
    assert!(!notes.contains("sliding_window"), "{notes}");
}

/// The first token stands at position 0, which no factor moves.
#[test]
fn one_starting_token_is_none() {
    let (none, mut one) = (factors(8, su()), factors(8, su()));
    one.start_tokens = 1;
    assert_eq!(DroppedStartTokens::of(&one), None);
    let config = config("llama", json!({})).to_string();
    let exported = |file| hf::export(file, &config, &HfOptions::default()).unwrap();
    assert_eq!(exported(&one), exported(&none));
    assert_eq!(csv::export(&one, None).unwrap(), csv::export(&none, None).unwrap());
}

#[test]
fn starting_tokens_are_refused_unless_they_were_dropped() {
    let mut file = factors(8, su());
    file.start_tokens = 4;
    let config = config("llama", json!({})).to_string();
    for error in [hf::export(&file, &config, &HfOptions::default()).unwrap_err(), csv::export(&file, None).unwrap_err()]
    {
        let text = error.to_string();
        for part in ["4 starting tokens", "no engine", "--start-tokens 0", "--drop-start-tokens"] {
            assert!(text.contains(part), "{text}");
        }
    }
    let dropped = DroppedStartTokens {
        start_tokens: 4,
        worth: Some(StartTokensWorth { with: 9.5, without: 9.75, held_out: true }),
    };
    let options = HfOptions { dropped: Some(dropped), ..HfOptions::default() };
    let export = hf::export(&file, &config, &options).unwrap();
    assert!(export.notes[0].contains("9.5000") && export.notes[0].contains("9.7500"), "{:?}", export.notes);
    assert!(!export.content.contains("start"));
    assert!(csv::export(&file, Some(&dropped)).unwrap().content.starts_with("1.0\n1.1111111111111112\n"));

    let text = json::export(&file, Some(&dropped)).unwrap().content;
    let read = FactorFile::from_json(&text).unwrap();
    assert_eq!((read.start_tokens, &read.rescale_factors), (0, &file.rescale_factors));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value["dropped_start_tokens"],
        json!({"start_tokens": 4, "with": 9.5, "without": 9.75, "held_out": true})
    );
    assert_eq!(json::export(&file, None).unwrap().content, file.to_json().unwrap());
}

/// Factors that were trained under, or given by hand, were not measured without.
#[test]
fn starting_tokens_are_dropped_unmeasured_where_nobody_knows_better() {
    let mut file = factors(8, su());
    assert_eq!(DroppedStartTokens::of(&file), None);
    file.start_tokens = 4;
    let objective = json!({"kind": "perplexity", "value": 9.0, "held_out": null, "samples": 2});
    file.objective = Some(serde_json::from_value(objective).unwrap());
    let dropped = DroppedStartTokens::of(&file).unwrap();
    assert_eq!(dropped, DroppedStartTokens { start_tokens: 4, worth: None });
    assert!(csv::export(&file, Some(&dropped)).unwrap().notes[0].contains("not measured"));
    let text = json::export(&file, Some(&dropped)).unwrap().content;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["dropped_start_tokens"], json!({"start_tokens": 4}));
    assert_eq!(FactorFile::from_json(&text).unwrap().objective, None, "9.0 was measured with them");

    // Without held-out samples it is known on those of the search.
    let measured = json!({"value": 9.5, "held_out": null});
    file.baselines.insert("without-start-tokens".into(), serde_json::from_value(measured).unwrap());
    let dropped = DroppedStartTokens::of(&file).unwrap();
    assert_eq!(dropped.worth, Some(StartTokensWorth { with: 9.0, without: 9.5, held_out: false }));
    let text = json::export(&file, Some(&dropped)).unwrap().content;
    assert_eq!(FactorFile::from_json(&text).unwrap().objective.unwrap().value, 9.5);
}

#[test]
fn two_target_lengths_are_refused_and_one_is_enough() {
    let source = config("llama", json!({})).to_string();
    let mut file = factors(8, su());
    let given = |length| HfOptions { target_length: Some(length), ..HfOptions::default() };
    let refused = hf::export(&file, &source, &given(4 * TARGET)).unwrap_err();
    assert!(matches!(refused, ExportError::OtherTargetLength { stated: TARGET, given } if given == 4 * TARGET));
    assert!(hf::export(&file, &source, &given(TARGET)).is_ok());
    file.target_length = None;
    assert!(hf::export(&file, &source, &given(4 * TARGET)).is_ok());
}

#[test]
fn factors_of_another_model_are_refused() {
    let source = config("llama", json!({}));
    let refused = |change: &dyn Fn(&mut FactorFile)| {
        let mut file = factors(8, su());
        change(&mut file);
        patch_with(&file, &source, &HfOptions::default()).unwrap_err().to_string()
    };
    assert!(refused(&|file| file.rescale_factors.push(9.0)).contains("9 rescale factors given, the model needs 8"));
    assert!(refused(&|file| file.rescale_factors[2] = f64::NAN).contains("rescale factor 2"));
    assert!(refused(&|file| file.original_length = Some(4096)).contains("original length 4096"));
    assert!(refused(&|file| file.target_length = Some(64)).contains("not above the original length 64"));
    assert!(refused(&|file| file.target_length = None).contains("--target-length"));
    let theta = refused(&|file| {
        let geometry =
            serde_json::from_value(json!({"head_dim": 16, "rotary_dim": 16, "rope_theta": 10000.0})).unwrap();
        file.model =
            Some(FactorModel { name: "m".into(), model_type: "llama".into(), fingerprint: [0; 32].into(), geometry });
    });
    assert!(theta.contains("rope_theta 10000, this model has 500000"), "{theta}");
    let nested = config("llama", json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}));
    assert!(matches!(
        patch_with(&factors(8, su()), &nested, &HfOptions::default()),
        Err(ExportError::PerLayerType | ExportError::Config(_))
    ));
    assert!(matches!(hf::export(&factors(8, su()), "[]", &HfOptions::default()), Err(ExportError::Config(_))));
}

#[test]
fn a_patch_applied_is_a_config_with_the_searched_factors() {
    let file = factors(8, 1.125);
    for model_type in ["llama", "phi3"] {
        let source = config(model_type, json!({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}))
            .to_string();
        let options = HfOptions { hf5_only: true, ..HfOptions::default() };
        let patch = hf::export(&file, &source, &options).unwrap().content;
        let merged = hf::apply(&source, &patch).unwrap();
        let model = ropewalk_shared::model_description::ModelDescription::from_config_json(&merged).unwrap();
        assert_eq!(model.original_length, ORIGINAL);
        assert_eq!(model.shipped_rescale(TARGET as usize), file.rescale());
        let merged: Map<String, Value> = serde_json::from_str(&merged).unwrap();
        assert!(merged.values().all(|value| !value.is_null()));
    }
}
