//! Factor tables in a form that has two places for factors.

use super::{Plan, ShortSet};
use ropewalk_shared::factor_file::FactorFile;

/// Where the windows begin whose factors are neither the short set nor the long one.
pub(super) fn left_out(file: &FactorFile, plan: &Plan) -> Vec<u32> {
    let taken = match &plan.short_set {
        ShortSet::Window(window) => Some(window.from_length),
        _ => None,
    };
    let all_but_last = &file.windows[..file.windows.len().saturating_sub(1)];
    all_but_last.iter().map(|window| window.from_length).filter(|from| Some(*from) != taken).collect()
}

/// Which sets of the table engines get, and for which lengths.
pub(super) fn note(file: &FactorFile, plan: &Plan, left_out: &[u32]) -> Option<String> {
    let last = file.windows.last()?.from_length;
    let original = plan.original;
    let sets = match &plan.short_set {
        ShortSet::Window(window) => format!(
            "of the factor table engines take the set from {} tokens for inputs up to {original} tokens, and the set from \
             {last} for all longer ones",
            window.from_length
        ),
        _ => format!("of the factor table engines take the set from {last} tokens for inputs above {original} tokens"),
    };
    let left_out: Vec<String> = left_out.iter().map(u32::to_string).collect();
    Some(match left_out.len() {
        0 => sets,
        1 => format!("{sets}; left out is the set from {} tokens, which this form has no place for", left_out[0]),
        _ => format!(
            "{sets}; left out are the sets from {} tokens, which this form has no place for",
            left_out.join(", ")
        ),
    })
}
