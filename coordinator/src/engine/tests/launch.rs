//! What can be launched again: damage stays with its job.

use super::rig::{Rig, evaluated, job};
use crate::engine::EngineError;
use crate::store::StoreError;
use ropewalk_shared::status::JobState;

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
