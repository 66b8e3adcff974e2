//! The published methods, each with the attention factor that suits it best.

use super::course::perplexity_on;
use super::losses::Losses;
use super::valley::lowest;
use anyhow::Result;
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::candidate::attention_value;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_shared::space::ATTENTION_BOUNDS;
use serde::Serialize;

/// Thousandths between the attention factors that are looked at first.
const STRIDE: u32 = 200;

/// Factors with one attention factor, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    /// Of the factors: `none`, or the name of the published method.
    pub name: String,
    /// What cosine and sine are multiplied by.
    pub attention_factor: f64,
    /// Perplexity on the documents searched.
    pub search: f64,
    /// Perplexity on the held-out documents.
    pub held_out: f64,
}

// === impl Method ===

impl Method {
    /// As tables name it.
    pub fn title(&self) -> String {
        let attention_factor = (1e4 * self.attention_factor).round() / 1e4;
        format!("{} x {attention_factor}", self.name)
    }
}

/// Every published method, and the model as shipped, at one length.
///
/// As the attention factor of a search is, theirs is looked for on the documents searched, on the same grid and within the same bounds, and
/// judged on those held out.
///
/// # Errors
/// When a document cannot be evaluated.
pub fn with_own_attention(
    description: &ModelDescription,
    length: u32,
    (search, held_out): (&[Sample], &[Sample]),
    losses: &mut Losses,
) -> Result<Vec<Method>> {
    let (low, high) = ATTENTION_BOUNDS;
    let of = |(name, factors): (String, Vec<f64>)| {
        let with = |attention_factor| Rescale {
            factors: factors.clone(),
            start_tokens: 0,
            attention_factor,
            pair_attention: Vec::new(),
        };
        let best = lowest(low..=high, STRIDE, |at| perplexity_on(losses, &with(attention_value(at)), search))?;
        let attention_factor = attention_value(best.at);
        let held_out = perplexity_on(losses, &with(attention_factor), held_out)?;
        Ok(Method { name, attention_factor, search: best.value, held_out })
    };
    factor_sets(description, length).into_iter().map(of).collect()
}

/// The published methods with each attention factor they are used with, whatever the documents say.
///
/// # Errors
/// When a document cannot be evaluated.
pub fn with_policies(
    description: &ModelDescription,
    length: u32,
    (search, held_out): (&[Sample], &[Sample]),
    losses: &mut Losses,
) -> Result<Vec<Method>> {
    let (original, ratio) = (description.original_length, ratio(description, length));
    let mut methods = Vec::new();
    for (name, factors) in factor_sets(description, length).into_iter().skip(1) {
        for policy in [AttentionFactorPolicy::None, AttentionFactorPolicy::LongRope, AttentionFactorPolicy::Yarn] {
            let attention_factor = policy.value(ratio, original);
            let rescale =
                Rescale { factors: factors.clone(), start_tokens: 0, attention_factor, pair_attention: Vec::new() };
            let (search, held_out) =
                (perplexity_on(losses, &rescale, search)?, perplexity_on(losses, &rescale, held_out)?);
            methods.push(Method { name: name.clone(), attention_factor, search, held_out });
        }
    }
    Ok(methods)
}

fn ratio(description: &ModelDescription, length: u32) -> f64 {
    f64::from(length) / f64::from(description.original_length)
}

/// The factors of the model as shipped and of each method, the former first.
fn factor_sets(description: &ModelDescription, length: u32) -> Vec<(String, Vec<f64>)> {
    let shipped = ("none".to_owned(), description.shipped_rescale(length as usize).factors);
    let published = Baseline::ALL.iter().map(|method| {
        let factors = method.factors(&description.geometry, description.original_length, ratio(description, length));
        (method.to_string(), factors)
    });
    std::iter::once(shipped).chain(published).collect()
}
