//! What can be launched, and launched again: nothing begins that no restart brings back, and damage stays with its job.

use super::rig::{Rig, evaluated, job, pair_attention_job, racing_curve_job, racing_job, run_alone};
use crate::engine::EngineError;
use crate::engine::launch::most_state_bytes;
use crate::store::StoreError;
use ropewalk_shared::job::{JobSpec, ShortWindow, StrategyKind};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::status::JobState;
use ropewalk_shared::work::Verdict;

#[test]
fn the_state_of_a_search_never_takes_more_than_was_reckoned() {
    let pairs = [StrategyKind::Ropewalk, StrategyKind::LongRope2].map(|strategy| pair_attention_job(3, strategy));
    for mut spec in [job(3), racing_job(3), racing_curve_job(3)].into_iter().chain(pairs) {
        // The longest numbers there are.
        spec.search.max_factor = Some(1e5);
        for state in run_alone(&spec) {
            let (bytes, most) = (serde_json::to_vec(&state).unwrap().len() as u64, most_state_bytes(&spec, 4));
            assert!(bytes <= most, "{bytes} bytes, reckoned with {most}");
        }
    }
}

#[test]
fn what_could_not_be_read_back_is_not_launched() {
    let mut rig = Rig::new();
    rig.launch(&job(1));
    let now = rig.now();
    let mut long = job(1);
    long.search.evolution.generations = 1_000_000;
    let error = rig.core.launch(long.clone(), now).unwrap_err();
    assert!(matches!(error, EngineError::TooMuchState { .. }), "{error:?}");
    assert!(error.to_string().contains("at most 128 are stored"), "{error}");
    // With a limit it cannot get there.
    long.search.evolution.generations = 1000;
    long.search.max_evaluations = Some(1000);
    assert!(rig.core.launch(long, now).is_ok());
    let mut wide = job(1);
    wide.search.evolution.population = 5000;
    wide.model.config_json =
        wide.model.config_json.replace("\"hidden_size\":16", "\"hidden_size\":16,\"head_dim\":4096");
    assert!(matches!(rig.core.launch(wide, now), Err(EngineError::TooMuchState { .. })));
}

/// Each candidate is evaluated on the samples of short windows too.
#[test]
fn samples_of_short_windows_count() {
    let mut rig = Rig::new();
    let mut spec = job(1);
    (spec.search.evolution.population, spec.search.evolution.mutations) = (2000, 2000);
    let samples: Vec<SampleId> = (0..600u16)
        .map(|number| {
            let mut id = [7; 32];
            id[..2].copy_from_slice(&number.to_le_bytes());
            SampleId::from(id)
        })
        .collect();
    let window = ShortWindow { length: 8, percent: 1.0, samples, held_out: Vec::new() };
    spec.search.keep_short = vec![window];
    let error = rig.core.launch(spec, rig.now()).unwrap_err();
    assert!(matches!(error, EngineError::TooManyUnits { samples: 603, .. }), "{error:?}");
}

/// The first generation of the default strategy is all that it is given to start from.
#[test]
fn what_a_search_starts_from_counts() {
    let mut rig = Rig::new();
    let mut spec = job(1);
    spec.search.strategy = StrategyKind::Ropewalk;
    spec.search.init = (0..1000).map(|number| Rescale::with_factors(vec![1.0 + f64::from(number) * 1e-3; 4])).collect();
    spec.samples = (0..1000u16)
        .map(|number| {
            let mut id = [9; 32];
            id[..2].copy_from_slice(&number.to_le_bytes());
            SampleId::from(id)
        })
        .collect();
    let error = rig.core.launch(spec, rig.now()).unwrap_err();
    assert!(matches!(error, EngineError::TooManyUnits { samples: 1000, .. }), "{error:?}");
}

/// With a base this small, YaRN's ramp begins behind the last pair: no state with such a curve is read back.
#[test]
fn a_search_whose_curve_does_not_fit_the_model_is_refused() {
    let mut rig = Rig::new();
    let mut spec = job(1);
    let config = spec.model.config_json.replace("\"max_position_embeddings\":16", "\"max_position_embeddings\":512");
    assert_ne!(config, spec.model.config_json);
    spec.model.config_json = config.replace('{', "{\"rope_theta\":1.3,");
    spec.target_length = 1024;
    let long = |number: u32| Sample::new((0..1024).map(|token| token + number).collect()).unwrap();
    let samples: Vec<Sample> = (0..5).map(long).collect();
    for sample in &samples {
        rig.core.store().put_sample(sample.id(), sample).unwrap();
    }
    let ids: Vec<SampleId> = samples.iter().map(Sample::id).collect();
    (spec.samples, spec.held_out) = (ids[..3].to_vec(), ids[3..].to_vec());
    let with = |strategy| JobSpec {
        search: ropewalk_shared::job::SearchOptions { strategy, ..spec.search.clone() },
        ..spec.clone()
    };
    let error = rig.core.launch(with(StrategyKind::Ropewalk), rig.now()).unwrap_err();
    assert!(error.to_string().contains("rope_theta is too small"), "{error}");
    rig.core.launch(with(StrategyKind::LongRope), rig.now()).unwrap();
    rig.commit();
    rig.kill();
    assert_eq!(rig.status(&with(StrategyKind::LongRope)).state, JobState::Running);
}

#[test]
fn a_job_with_a_damaged_result_fails_by_itself() {
    let (mut rig, bad, good) = (Rig::new(), job(1), job(2));
    rig.launch(&bad);
    let worker = rig.register(u64::MAX);
    let unit = rig.lease(&worker, 1).remove(0);
    rig.report(&worker, vec![evaluated(&unit)]);
    rig.core.cancel(bad.id().as_str(), rig.now()).unwrap();
    rig.commit();
    rig.core.store().damage_result(&bad.id(), unit.rescale.id(), unit.sample);
    let (before, last) = rig.core.status(bad.id().as_str(), rig.now()).unwrap();
    for _ in 0..2 {
        let error = rig.core.launch(bad.clone(), rig.now()).unwrap_err();
        assert!(matches!(error, EngineError::Store(StoreError::Corrupt { what: "a result", .. })), "{error:?}");
        assert_eq!(rig.core.broken(), None);
        assert!(rig.core.take_batch().is_empty(), "nothing of it is written");
        assert_eq!(rig.core.status(bad.id().as_str(), rig.now()).unwrap(), (before.clone(), last));
        assert!(rig.lease(&worker, 1).is_empty());
        // Its acknowledgement was lost, and the worker reports again.
        assert_eq!(rig.report(&worker, vec![evaluated(&unit)]), [Verdict::NotWanted]);
        assert_eq!(rig.core.broken(), None);
    }
    rig.launch(&good);
    rig.work_to_the_end(&good);
}

#[test]
fn a_job_whose_record_is_damaged_keeps_nobody_from_starting() {
    let (mut rig, bad, good) = (Rig::new(), job(1), job(2));
    rig.launch(&bad);
    rig.launch(&good);
    rig.core.store().damage_record(&bad.id());
    rig.core.store().flush().unwrap();
    rig.kill();
    let status = rig.status(&bad);
    assert_eq!(status.state, JobState::Failed);
    assert!(status.reason.unwrap().contains("a job record cannot be read"));
    let error = rig.core.launch(bad.clone(), rig.now()).unwrap_err();
    assert!(matches!(error, EngineError::Store(StoreError::Corrupt { what: "a job record", .. })), "{error:?}");
    rig.work_to_the_end(&good);
}
