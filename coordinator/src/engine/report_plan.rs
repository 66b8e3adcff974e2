//! What the final report compares: the winner with the model as shipped and the published methods.

use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::factor_file::{WITHOUT_PAIR_ATTENTION, WITHOUT_START_TOKENS};
use ropewalk_shared::job::{JobSpec, SearchOptions};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::Rescale;

/// What the name of a method ends with where it has the attention factor of the job.
const WINNERS: &str = "-attention";

/// The baselines of a job, by the name under which the factor file lists them.
///
/// `none` is the model as it is shipped, run at the target length. The published methods stand there as published:
/// PI and NTK with attention factor 1, YaRN with its own. Where the job has another attention factor, each appears
/// a second time with that one (`pi-attention`, …), so that what the factors are worth can be told from what the
/// attention factor is. A winner that leaves starting tokens alone is listed without them too: no engine can do so; and one whose
/// pairs have attention factors of their own, with the one factor for all.
pub(super) fn baselines(
    spec: &JobSpec,
    description: &ModelDescription,
    winner: Option<&Rescale>,
) -> Vec<(String, Rescale)> {
    let (original, ratio) = (description.original_length, spec.extension_ratio(description));
    // Where it was searched, the winner's own.
    let attention_factor = winner.map_or_else(|| spec.attention_factor(description), |winner| winner.attention_factor);
    let mut entries = vec![("none".to_owned(), description.shipped_rescale(spec.target_length as usize))];
    let published = [
        (Baseline::Pi, AttentionFactorPolicy::None),
        (Baseline::Ntk, AttentionFactorPolicy::None),
        (Baseline::Yarn, AttentionFactorPolicy::Yarn),
    ];
    for (baseline, own) in published {
        let factors = baseline.factors(&description.geometry, original, ratio);
        let with = |attention_factor| Rescale { attention_factor, ..Rescale::with_factors(factors.clone()) };
        let (as_published, as_searched) = (with(own.value(ratio, original)), with(attention_factor));
        let differs = as_published.id() != as_searched.id();
        entries.push((baseline.name().to_owned(), as_published));
        if differs {
            entries.push((format!("{}{WINNERS}", baseline.name()), as_searched));
        }
    }
    if let Some(winner) = winner.filter(|winner| winner.has_start_tokens()) {
        entries.push((WITHOUT_START_TOKENS.to_owned(), Rescale { start_tokens: 0, ..winner.clone() }));
    }
    if let Some(winner) = winner.filter(|winner| winner.has_pair_attention()) {
        entries.push((WITHOUT_PAIR_ATTENTION.to_owned(), winner.without_pair_attention()));
    }
    entries
}

/// How many sets of factors the report of a search measures at most: the winner, the model as shipped, three methods with two
/// attention factors each, and the winner without starting tokens and without attention factors of pairs.
pub(super) fn most_sets(search: &SearchOptions) -> u64 {
    9 + u64::from(search.pair_attention > 0)
}

/// What of the comparison does not depend on the winner, each once.
pub(super) fn certain(spec: &JobSpec, description: &ModelDescription) -> Vec<Rescale> {
    let searched = spec.search.attention_factor == AttentionFactorPolicy::Search;
    let entries = baselines(spec, description, None).into_iter();
    // Where the attention factor is searched, these have the winner's.
    entries.filter(|(name, _)| !(searched && name.ends_with(WINNERS))).map(|(_, rescale)| rescale).collect()
}
