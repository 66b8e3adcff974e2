//! What a user of the export should know.

use super::{Plan, ShortSet};
use serde_json::{Map, Value};

/// How a patch is used; nothing that whoever has the whole config.json needs to know.
pub const PATCH: &str = "the export is a patch: put its keys into the model's config.json; a null deletes the key";

/// How engines run the factors, and what differs from one to the other.
pub fn notes(plan: &Plan, config: &Map<String, Value>) -> Vec<String> {
    let (original, target) = (plan.original, plan.target);
    let mut notes = vec![format!(
        "vLLM: vllm serve MODEL --max-model-len {target} (without the option vLLM serves {original} tokens and uses \
         the short factors; with it, the long ones for every request)"
    )];
    notes.extend(short_set(plan));
    if !plan.attention_is_computed() {
        notes.push(format!(
            "attention factor {}: engines that compute their own ({:.6} here: mlx-lm, exllamav2, TensorRT-LLM) run something \
             else than what was searched",
            plan.attention_factor, plan.computed_attention
        ));
    }
    if plan.is_phi() && !plan.attention_is_computed() {
        notes.push("only transformers 5 reads this form: transformers 4 refuses it for Phi models".to_owned());
    }
    let shipped = plan.model.shipped.rope_type();
    if !plan.model.shipped.is_none() && shipped != "longrope" {
        notes.push(format!(
            "the model was shipped with rope type {shipped}, which the patch replaces: the factors are relative to the \
             plain base"
        ));
    }
    notes.extend(sliding_window(config, target));
    notes
}

fn short_set(plan: &Plan) -> Option<String> {
    let original = plan.original;
    if plan.short == plan.long {
        return Some(format!(
            "the long factors stand for short inputs too: the same in every engine, at some cost below {original} tokens"
        ));
    }
    let source = match plan.short_set {
        ShortSet::Shipped => "the model's own short factors are kept",
        ShortSet::Ones => "the short factors are ones",
        ShortSet::Window(_) => "the short factors are those of the factor table's short window",
        _ => "the short factors are a set of their own",
    };
    let attention = if plan.short_attention != plan.attention_factor {
        format!(
            "; they come with the attention factor {:.6}, and every engine multiplies by {:.6} at every length",
            plan.short_attention, plan.attention_factor
        )
    } else if plan.attention_factor == 1.0 {
        String::new()
    } else {
        format!("; the attention factor {:.6} multiplies short inputs as well", plan.attention_factor)
    };
    let switch = if plan.is_phi() {
        "transformers recomputes its cache when a sequence grows past that"
    } else {
        "a sequence that grows past that while it is generated mixes keys of both sets in transformers, SGLang and \
         mistral.rs: keep prompts on one side"
    };
    Some(format!("{source} up to {original} tokens{attention}; {switch}"))
}

fn sliding_window(config: &Map<String, Value>, target: u32) -> Option<String> {
    let window = config.get("sliding_window")?.as_u64()?;
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    // Qwen states a window and uses it only where it says so.
    let by_default = !matches!(model_type, "qwen2" | "qwen3");
    let used = config.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(by_default);
    (used && window < u64::from(target)).then(|| {
        format!("sliding_window is {window}: attention never reaches further back than that, whatever the factors")
    })
}
