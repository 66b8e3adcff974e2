//! The model card: what the folder is, what the factors are worth, how it is loaded.

use super::Ingredients;
use crate::export::ExportError;
use crate::report::comparison::{Comparison, perplexity, thousands};
use ropewalk_shared::factor_file::{FactorFile, WITHOUT_START_TOKENS};
use ropewalk_shared::model_description::ModelDescription;
use std::fmt::Write as _;

/// Longest name taken over from a file, in characters.
const MAX_NAME: usize = 80;

/// The text of README.md for these factors and a window of `target` tokens; `notes` say how engines run the export, and
/// `is_folded` whether weights had to be changed for it.
pub(super) fn card(
    from: &Ingredients<'_>,
    factors: &FactorFile,
    (target, is_folded): (u32, bool),
    notes: &[String],
) -> Result<String, ExportError> {
    let original = ModelDescription::from_config_json(from.config_json)?.original_length;
    let versions = if from.options.hf5_only { "5" } else { "4 or 5" };
    let notes: String = notes.iter().map(|note| format!("- {note}\n")).collect();
    let name = plain(from.name);
    let ratio = f64::from(target) / f64::from(original);
    Ok(format!(
        "---
library_name: transformers
pipeline_tag: text-generation
tags:
- longrope
---

# {name}, {target_text} tokens

{name} with LongRoPE rescale factors for a window of {target_text} tokens, {ratio} times its original {original_text}. \
{weights}: config.json holds the factors, and factors.json where they come from. {provenance}

## What the factors are worth

{table}
## Loading

With transformers {versions}:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = \"path/to/this/folder\"
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

With vLLM:

```sh
vllm serve path/to/this/folder --max-model-len {target}
```

{notes}",
        weights = if is_folded {
            "Query and key weights are multiplied by the attention factors of the rotary pairs, all others are unchanged"
        } else {
            "The weights are unchanged"
        },
        target_text = thousands(target),
        original_text = thousands(original),
        provenance = provenance(from.factors),
        table = table(factors),
    ))
}

fn provenance(factors: &FactorFile) -> String {
    let model = match &factors.model {
        Some(model) => format!(
            "They were searched for this model ({}, fingerprint {})",
            plain(&model.name),
            model.fingerprint.short()
        ),
        None => "The factor file does not say which model they were searched for".to_owned(),
    };
    match &factors.search {
        Some(search) => format!(
            "{model}, by strategy {} with seed {} in {} evaluations.",
            plain(search.strategy_name()),
            search.seed,
            search.evaluations
        ),
        None => format!("{model}."),
    }
}

/// The comparison of the factor file in Markdown.
fn table(factors: &FactorFile) -> String {
    let Some(comparison) = Comparison::of_factor_file(factors) else {
        return "The factor file records no measurement.\n".to_owned();
    };
    let kind = factors.objective.as_ref().map(|objective| plain(&objective.kind)).unwrap_or_default();
    let length = comparison.length.map(|length| format!(" at {} tokens", thousands(length))).unwrap_or_default();
    let samples = comparison.search_samples;
    let mut text = format!(
        "Measured: {kind}{length}, lower is better. The search saw {samples} samples; it never saw the held-out ones.\n\n\
         | factors | start tokens | attention factor | samples of the search | held-out |\n\
         | --- | ---: | ---: | ---: | ---: |\n"
    );
    for row in &comparison.rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.4} | {} | {} |",
            plain(&row.factors),
            row.start_tokens,
            row.attention_factor,
            perplexity(row.search),
            perplexity(row.held_out)
        );
    }
    text.push_str(
        "\n`none` is the model as it was; names that end in `-attention` have the attention factor of the search.\n",
    );
    if factors.rescale().has_start_tokens() {
        let _ = writeln!(
            text,
            "The row `searched` leaves {} starting tokens unscaled, which no engine does: this folder runs \
             `{WITHOUT_START_TOKENS}`.",
            factors.start_tokens
        );
    } else {
        text.push_str("This folder runs the row `searched`.\n");
    }
    text
}

/// A name from a file as text that means nothing to Markdown.
fn plain(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars().take(MAX_NAME) {
        match character {
            _ if character.is_control() => text.push(' '),
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '&' => text.extend(['\\', character]),
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_table() {
        assert_eq!(plain("a|b\n<c>"), "a\\|b \\<c\\>");
        assert_eq!(plain(&"x".repeat(500)).len(), MAX_NAME);
    }
}
