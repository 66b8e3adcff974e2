use super::*;
use serde_json::json;

fn base(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "hidden_act": "silu", "sliding_window": null
    })
}

fn with(model_type: &str, fields: Value) -> Result<DecoderSpec, LoadError> {
    let mut config = base(model_type);
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    DecoderSpec::from_config_json(&config.to_string())
}

fn without(model_type: &str, field: &str) -> Result<DecoderSpec, LoadError> {
    let mut config = base(model_type);
    config.as_object_mut().unwrap().remove(field);
    DecoderSpec::from_config_json(&config.to_string())
}

#[test]
fn families_differ_in_what_they_must() {
    let spec = |family| with(family, json!({})).unwrap();
    for family in SUPPORTED {
        let spec = spec(family);
        assert_eq!((spec.heads, spec.kv_heads, spec.head_dim, spec.layers()), (4, 2, 8, 4));
        assert_eq!(spec.qkv_bias, family == "qwen2");
        assert_eq!(spec.head_norm, family == "qwen3");
        assert_eq!(spec.fused_tensors, family == "phi3");
        assert_eq!(spec.norm_eps, if family == "phi3" { 1e-5 } else { 1e-6 });
        assert!(!spec.tied && !spec.output_bias && !spec.mlp_bias);
    }
    let biased = with("llama", json!({"attention_bias": true, "mlp_bias": true})).unwrap();
    assert!(biased.qkv_bias && biased.output_bias && biased.mlp_bias);
    assert!(!with("mistral", json!({"attention_bias": true})).unwrap().qkv_bias);
}

#[test]
fn windows_follow_each_family() {
    let windows = |family, fields| with(family, fields).unwrap().windows;
    let all = |window| vec![window; 4];
    assert_eq!(windows("llama", json!({"sliding_window": 9})), all(None));
    assert_eq!(windows("mistral", json!({"sliding_window": 9})), all(Some(9)));
    assert_eq!(without("mistral", "sliding_window").unwrap().windows, all(Some(4096)));
    assert_eq!(windows("mistral", json!({})), all(None));
    assert_eq!(without("phi3", "sliding_window").unwrap().windows, all(None));
    for family in ["qwen2", "qwen3"] {
        assert_eq!(windows(family, json!({"sliding_window": 9})), all(None));
        let sliding = |more: Value| {
            let mut fields = json!({"sliding_window": 9, "use_sliding_window": true});
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            windows(family, fields)
        };
        assert_eq!(sliding(json!({})), all(None));
        assert_eq!(sliding(json!({"max_window_layers": 3})), [None, None, None, Some(9)]);
        let kinds = json!(["sliding_attention", "full_attention", "full_attention", "sliding_attention"]);
        assert_eq!(sliding(json!({"max_window_layers": 3, "layer_types": kinds})), [Some(9), None, None, Some(9)]);
    }
}

#[test]
fn a_type_that_is_not_known_lists_those_that_are() {
    let error = with("mamba", json!({})).unwrap_err().to_string();
    assert!(error.contains("\"mamba\"") && error.contains("llama, mistral, qwen2, qwen3, phi3"), "{error}");
}

#[test]
fn quantised_checkpoints_are_refused_with_their_method() {
    let gptq = with("llama", json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}));
    let error = gptq.unwrap_err();
    assert!(matches!(error, LoadError::Quantised { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("\"gptq\"") && text.contains("not read") && text.contains("unquantised weights"), "{text}");
    assert!(with("llama", json!({"quantization_config": {}})).is_err());
    assert!(with("llama", json!({"quantization_config": null})).is_ok());
}

#[test]
fn hostile_fields_are_refused_by_name() {
    for (field, value) in [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(1u64 << 60)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(-2)),
        ("intermediate_size", json!(0)),
        ("intermediate_size", json!(1u64 << 40)),
        ("intermediate_size", json!("big")),
        ("num_hidden_layers", json!(1u64 << 40)),
        ("hidden_size", json!(1e99)),
        ("head_dim", json!(0)),
        ("head_dim", json!(1u64 << 40)),
        ("vocab_size", json!(0)),
        ("rms_norm_eps", json!(-1.0)),
        ("rms_norm_eps", json!("x")),
        ("hidden_act", json!("gelu")),
        ("tie_word_embeddings", json!("yes")),
    ] {
        let mut fields = json!({});
        fields[field] = value.clone();
        let error = with("llama", fields).unwrap_err().to_string();
        assert!(error.contains(field), "{field} = {value}: {error}");
    }
    for fields in [
        json!({"use_sliding_window": true, "sliding_window": 0}),
        json!({"use_sliding_window": true, "layer_types": ["full_attention"]}),
        json!({"use_sliding_window": true, "layer_types": "full_attention"}),
        json!({"use_sliding_window": true, "layer_types": [1, 2, 3, 4]}),
        json!({"partial_rotary_factor": 0.5}),
    ] {
        assert!(with("qwen2", fields.clone()).is_err(), "{fields}");
    }
    for field in ["intermediate_size", "hidden_size", "vocab_size", "num_attention_heads", "num_hidden_layers"] {
        assert!(without("llama", field).unwrap_err().to_string().contains(field), "{field}");
    }
    assert_eq!(without("llama", "num_key_value_heads").unwrap().kv_heads, 4);
    assert!(without("qwen2", "num_key_value_heads").is_err());
    for text in ["", "[]", "{", "null", "{}"] {
        assert!(DecoderSpec::from_config_json(text).is_err(), "{text}");
    }
}
