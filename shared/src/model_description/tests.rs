use super::*;
use serde_json::json;

fn config(extra: Value) -> Map<String, Value> {
    let mut config = json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 256, "bos_token_id": 0,
    });
    let object = config.as_object_mut().unwrap();
    object.extend(extra.as_object().unwrap().clone());
    object.clone()
}

fn describe(extra: Value) -> Result<ModelDescription, ConfigError> {
    ModelDescription::from_config(&config(extra))
}

#[test]
fn both_generations_of_config_say_the_same() {
    let v4 = describe(json!({"rope_theta": 500000.0})).unwrap();
    let v5 = describe(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}})).unwrap();
    assert_eq!(v4, v5);
    assert_eq!(v4.geometry, RopeGeometry { head_dim: 16, rotary_dim: 16, theta: 500000.0 });
    assert_eq!((v4.original_length, v4.bos_token_id), (256, Some(0)));
}

#[test]
fn the_base_is_found_where_transformers_5_left_it() {
    let patched = describe(json!({
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }));
    assert_eq!(patched.unwrap().geometry.theta, 1e6);
}

#[test]
fn a_shipped_scaling_gives_the_original_length() {
    let factors = vec![1.5; 8];
    let long = describe(json!({
        "max_position_embeddings": 1024, "original_max_position_embeddings": 128,
        "rope_scaling": {"type": "su", "short_factor": vec![1.0; 8], "long_factor": factors},
    }))
    .unwrap();
    assert_eq!(long.original_length, 128);
    assert_eq!(long.shipped_rescale(128).factors, vec![1.0; 8]);
    assert_eq!(long.shipped_rescale(129).factors, factors);
    let expected = (1.0 + 8f64.ln() / 128f64.ln()).sqrt();
    assert!((long.shipped_rescale(129).attention_factor - expected).abs() < 1e-12);
}

#[test]
fn partial_rotation_sets_the_number_of_pairs() {
    assert_eq!(describe(json!({"partial_rotary_factor": 0.5})).unwrap().geometry.pairs(), 4);
    let nested = json!({"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.75}});
    assert_eq!(describe(nested).unwrap().geometry.rotary_dim, 12);
}

#[test]
fn hostile_values_are_refused_by_name() {
    for (field, value) in [
        ("vocab_size", json!(-1)),
        ("vocab_size", json!(u64::MAX)),
        ("hidden_size", json!("64")),
        ("num_attention_heads", json!(0)),
        ("max_position_embeddings", json!(1e300)),
        ("hidden_size", json!(1 << 20)),
        ("head_dim", json!(0)),
        ("partial_rotary_factor", json!(0.0)),
        ("partial_rotary_factor", json!(7)),
        ("rope_theta", json!(0.0)),
        ("rope_theta", json!("10000")),
        ("rope_scaling", json!(3)),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0.0})),
        ("rope_scaling", json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]})),
        ("rope_scaling", json!({"rope_type": "llama3"})),
        ("rope_scaling", json!({"rope_type": "proportional"})),
    ] {
        assert!(describe(json!({ field: value.clone() })).is_err(), "{field} = {value}");
    }
    assert!(ModelDescription::from_config_json("[]").is_err());
    assert!(ModelDescription::from_config_json("{").is_err());
    assert_eq!(ModelDescription::from_config_json("{}"), Err(ConfigError::Missing("model_type")));
}
