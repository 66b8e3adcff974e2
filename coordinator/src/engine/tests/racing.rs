//! Candidates that are dropped before they were evaluated on every sample.

use super::rig::{Rig, evaluated, racing_curve_job, racing_job};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::RescaleId;
use ropewalk_shared::sample::SampleId;
use ropewalk_shared::work::Unit;
use std::collections::BTreeMap;

/// Runs a job; the samples on which each candidate of the search was evaluated, in the order in which they were asked.
fn search(spec: &JobSpec) -> (Rig, BTreeMap<RescaleId, Vec<SampleId>>) {
    let mut rig = Rig::new();
    rig.launch(spec);
    let worker = rig.register(u64::MAX);
    let mut asked: BTreeMap<RescaleId, Vec<SampleId>> = BTreeMap::new();
    loop {
        let in_search = rig.status(spec).state == ropewalk_shared::status::JobState::Running;
        let units = rig.lease(&worker, 3);
        if units.is_empty() {
            return (rig, asked);
        }
        for unit in units.iter().filter(|unit| in_search && is_searched(unit, spec)) {
            asked.entry(unit.rescale.id()).or_default().push(unit.sample);
        }
        rig.report(&worker, units.iter().map(evaluated).collect());
    }
}

/// Whether a unit is one of a candidate on the search's samples, and not of what the report compares with: that has another
/// attention factor, or factors beside the grid.
fn is_searched(unit: &Unit, spec: &JobSpec) -> bool {
    let on_grid = |factor: &f64| (factor * 100.0 - (factor * 100.0).round()).abs() < 1e-6;
    let rescale = &unit.rescale;
    spec.samples.contains(&unit.sample) && rescale.attention_factor > 1.2 && rescale.factors.iter().all(on_grid)
}

fn closed(rig: &Rig, spec: &JobSpec) -> Vec<(u32, u64)> {
    let (_, last) = rig.core.status(spec.id().as_str(), rig.now()).unwrap();
    let events = rig.core.store().events(&spec.id(), 1, last, 10_000).unwrap();
    let closed = events.into_iter().filter_map(|event| match event.what {
        JobEvent::GenerationClosed { dropped, document_passes, .. } => Some((dropped, document_passes)),
        _ => None,
    });
    closed.collect()
}

#[test]
fn every_pass_is_counted_and_samples_follow_one_another() {
    let mut spec = racing_job(1);
    spec.search.evolution.generations = 20;
    let (rig, asked) = search(&spec);
    let closed = closed(&rig, &spec);
    assert_eq!(closed[0], (0, 200), "the first generation is evaluated whole");
    let passes: u64 = asked.values().map(|samples| samples.len() as u64).sum();
    let file = FactorFile::from_json(&rig.factors(&spec).unwrap()).unwrap();
    assert_eq!(file.search.as_ref().unwrap().passes, passes);
    assert_eq!(closed.last().unwrap().1, passes);
    let dropped: u32 = closed.iter().map(|(dropped, _)| dropped).sum();
    assert_eq!(asked.values().filter(|samples| samples.len() < 5).count(), dropped as usize);
    assert!(dropped > 5, "{dropped} of 200 were dropped");
    // Those of a generation are asked the same samples first; the order is another one once some tell more than others.
    let orders: std::collections::BTreeSet<&[SampleId]> =
        asked.values().filter(|samples| samples.len() == 5).map(Vec::as_slice).collect();
    assert!(orders.contains(&spec.samples[..]) && orders.len() > 1 && orders.len() <= closed.len(), "{orders:?}");
    assert!(asked.values().all(|samples| orders.iter().any(|order| order.starts_with(samples))));
    let text = rig.core.result(spec.id().as_str(), rig.now()).unwrap().history_json;
    let history: Vec<crate::search::GenerationSummary> = serde_json::from_str(&text).unwrap();
    let summaries: Vec<(u32, u64)> = history.iter().map(|closed| (closed.dropped, closed.document_passes)).collect();
    assert_eq!(summaries, closed);
    assert_eq!(asked[&file.rescale().id()].len(), 5, "the winner was evaluated on all of them");
}

/// A star's values say where to go, and are wanted whole; combinations and the pairs race.
#[test]
fn a_search_for_a_curve_races_between_its_stars() {
    let spec = racing_curve_job(1);
    let (rig, asked) = search(&spec);
    let closed = closed(&rig, &spec);
    // Seeds, then three times a star and combinations.
    assert!([0, 1, 3, 5].iter().all(|&whole| closed[whole].0 == 0), "{closed:?}");
    let dropped: u32 = closed.iter().map(|(dropped, _)| dropped).sum();
    assert_eq!(asked.values().filter(|samples| samples.len() < 5).count(), dropped as usize);
    assert!(dropped > 5, "{closed:?}");
    let passes: u64 = asked.values().map(|samples| samples.len() as u64).sum();
    assert_eq!(closed.last().unwrap().1, passes);
}

/// On a landscape on which one sample tells nearly all, nothing is lost by it.
#[test]
fn a_safe_race_ends_where_the_search_without_one_does() {
    ends_alike(racing_job(2));
    ends_alike(racing_curve_job(2));
}

fn ends_alike(mut spec: JobSpec) {
    spec.search.racing = Racing::Safe;
    let (raced, asked) = search(&spec);
    assert!(asked.values().any(|samples| samples.len() < 5));
    spec.search.racing = Racing::Off;
    let (whole, asked) = search(&spec);
    assert!(asked.values().all(|samples| samples.len() == 5));
    let factors = |rig: &Rig, racing| {
        let spec =
            JobSpec { search: ropewalk_shared::job::SearchOptions { racing, ..spec.search.clone() }, ..spec.clone() };
        FactorFile::from_json(&rig.factors(&spec).unwrap()).unwrap().rescale_factors
    };
    assert_eq!(factors(&raced, Racing::Safe), factors(&whole, Racing::Off));
}

#[test]
fn a_limit_on_passes_is_never_exceeded_and_nearly_used_up() {
    for (racing, max) in [(Racing::Off, 333), (Racing::Fast, 333), (Racing::Fast, 200)] {
        for mut spec in [racing_job(4), racing_curve_job(4)] {
            (spec.search.racing, spec.search.max_passes) = (racing, Some(max));
            spec.search.evolution.generations = 100;
            let (rig, asked) = search(&spec);
            let passes: u64 = asked.values().map(|samples| samples.len() as u64).sum();
            assert!(passes <= max && passes + 5 > max, "{racing}: {passes} of {max}");
            assert_eq!(FactorFile::from_json(&rig.factors(&spec).unwrap()).unwrap().search.unwrap().passes, passes);
        }
    }
}
