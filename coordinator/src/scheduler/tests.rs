use super::*;
use ropewalk_shared::outcome::{FailureKind, UnitFailure};
use std::collections::BTreeSet;

const MODEL: [u8; 32] = [1; 32];
const SECOND: Duration = Duration::from_secs(1);

struct Rig {
    scheduler: Scheduler,
    now: Duration,
    requests: u64,
}

impl Rig {
    fn new() -> Self {
        let options = SchedulerOptions { lease: 10 * SECOND, ..SchedulerOptions::default() };
        Self { scheduler: Scheduler::new(options, 1), now: Duration::ZERO, requests: 0 }
    }

    fn worker(&mut self, max_tokens: u64) -> WorkerId {
        self.gradient_worker(max_tokens, 0)
    }

    fn gradient_worker(&mut self, max_tokens: u64, max_gradient_tokens: u64) -> WorkerId {
        let text = String::new;
        let (name, device, dtype, version) = (text(), text(), text(), text());
        let profile = WorkerProfile { name, device, dtype, max_tokens, max_gradient_tokens, version };
        self.scheduler.register(self.now, profile).unwrap()
    }

    /// Opens a job of `slots` candidates on samples of these lengths.
    fn open(&mut self, name: &str, model: [u8; 32], slots: u32, tokens: &[u32]) -> JobId {
        self.open_measuring(name, model, &vec![Measure::Loss; slots as usize], tokens)
    }

    /// Opens a job with a candidate for each of these measures.
    fn open_measuring(&mut self, name: &str, model: [u8; 32], measures: &[Measure], tokens: &[u32]) -> JobId {
        let slots = measures.len() as u32;
        let job: JobId = name.parse().unwrap();
        let units = (0..slots)
            .flat_map(|slot| (0..tokens.len() as u32).map(move |sample| UnitKey::now(slot, sample)))
            .collect::<Vec<_>>();
        self.scheduler.open(&job, model.into(), tokens.to_vec(), measures.to_vec(), units);
        job
    }

    fn request(&mut self, worker: &WorkerId, max_units: u32, loaded: &[[u8; 32]]) -> LeaseRequest {
        self.requests += 1;
        LeaseRequest {
            worker: worker.clone(),
            request_id: self.requests,
            max_units,
            wait: Duration::ZERO,
            loaded: loaded.iter().map(|model| Fingerprint::from(*model)).collect(),
            missing: Vec::new(),
        }
    }

    fn lease(&mut self, worker: &WorkerId, max_units: u32) -> Vec<Grant> {
        let request = self.request(worker, max_units, &[]);
        self.scheduler.lease(self.now, &request).unwrap()
    }

    fn complete(&mut self, worker: &WorkerId, grant: &Grant) -> bool {
        self.scheduler.complete(self.now, worker, &grant.job, grant.unit, 1.0)
    }

    fn fail(&mut self, worker: &WorkerId, grant: &Grant, kind: FailureKind) -> AfterFailure {
        let failure = UnitFailure { kind, reason: "on purpose".into() };
        self.scheduler.fail(self.now, worker, grant.lease, &grant.job, grant.unit, &failure)
    }
}

#[test]
fn every_unit_is_leased_once_and_in_order() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 3, &[10, 10]);
    let (first, second) = (rig.worker(10), rig.worker(10));
    let mut grants = rig.lease(&first, 2);
    grants.extend(rig.lease(&second, 100));
    let units: Vec<(u32, u32)> = grants.iter().map(|grant| (grant.unit.slot, grant.unit.sample)).collect();
    assert_eq!(units, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    let leases: BTreeSet<LeaseId> = grants.iter().map(|grant| grant.lease).collect();
    assert_eq!((leases.len(), rig.scheduler.leased(&job)), (6, 6));
    assert!(grants.iter().all(|grant| rig.complete(&first, grant)));
    assert!(!rig.complete(&first, &grants[0]));
    assert!(rig.lease(&first, 1).is_empty());
}

#[test]
fn an_expired_lease_is_offered_first() {
    let mut rig = Rig::new();
    rig.open("a", MODEL, 4, &[10]);
    let (first, second) = (rig.worker(10), rig.worker(10));
    let grants = rig.lease(&first, 2);
    rig.now += 9 * SECOND;
    assert!(rig.scheduler.expire(rig.now).is_empty());
    assert_eq!(rig.scheduler.heartbeat(rig.now, &first, &[grants[0].lease]), Ok(vec![]));
    rig.now += SECOND;
    let expired = rig.scheduler.expire(rig.now);
    assert_eq!(expired.iter().map(|expired| expired.unit).collect::<Vec<_>>(), [grants[1].unit]);
    assert_eq!((&expired[0].worker, expired[0].attempt), (&first, 1));
    let next = rig.lease(&second, 2);
    assert_eq!((next[0].unit, next[0].attempt), (grants[1].unit, 2));
    assert_eq!(next[1].unit.slot, 2);
    // The first worker learns of it, and its late result counts all the same.
    let revoked = rig.scheduler.heartbeat(rig.now, &first, &[grants[0].lease, grants[1].lease]);
    assert_eq!(revoked, Ok(vec![grants[1].lease]));
    assert!(rig.complete(&first, &grants[1]));
    assert_eq!(rig.scheduler.heartbeat(rig.now, &second, &[next[0].lease]), Ok(vec![next[0].lease]));
    assert!(!rig.complete(&second, &next[0]));
}

#[test]
fn several_expired_leases_keep_their_order() {
    let mut rig = Rig::new();
    rig.open("a", MODEL, 4, &[10]);
    let worker = rig.worker(10);
    let before = rig.lease(&worker, 3);
    rig.now += 10 * SECOND;
    assert_eq!(rig.scheduler.expire(rig.now).len(), 3);
    let after = rig.lease(&worker, 3);
    assert!(before.iter().map(|grant| grant.unit).eq(after.iter().map(|grant| grant.unit)));
}

#[test]
fn a_lease_is_not_renewed_without_end() {
    let mut rig = Rig::new();
    rig.scheduler.options.lease_limit = 25 * SECOND;
    rig.open("a", MODEL, 1, &[10]);
    let worker = rig.worker(10);
    let lease = rig.lease(&worker, 1)[0].lease;
    for _ in 0..3 {
        rig.now += 8 * SECOND;
        assert_eq!(rig.scheduler.heartbeat(rig.now, &worker, &[lease]), Ok(vec![]));
        assert!(rig.scheduler.expire(rig.now).is_empty());
    }
    rig.now += 2 * SECOND;
    assert_eq!(rig.scheduler.expire(rig.now).len(), 1);
}

#[test]
fn the_same_request_gets_the_same_leases() {
    let mut rig = Rig::new();
    rig.open("a", MODEL, 4, &[10]);
    let worker = rig.worker(10);
    let early = rig.request(&worker, 1, &[]);
    let request = rig.request(&worker, 2, &[]);
    let grants = rig.scheduler.lease(rig.now, &request).unwrap();
    rig.now += 9 * SECOND;
    assert_eq!(rig.scheduler.lease(rig.now, &request).unwrap(), grants);
    rig.now += 9 * SECOND;
    assert!(rig.scheduler.expire(rig.now).is_empty(), "asking again renewed them");
    rig.complete(&worker, &grants[0]);
    assert_eq!(rig.scheduler.lease(rig.now, &request).unwrap(), grants[1..]);
    assert_eq!(rig.scheduler.lease(rig.now, &early).unwrap(), [], "a request that was overtaken");
    assert_eq!(rig.lease(&worker, 10).len(), 2);
}

#[test]
fn three_failed_leases_fail_the_candidate() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 2, &[10, 10]);
    let worker = rig.worker(10);
    for attempt in 1..=3 {
        let grants = rig.lease(&worker, 10);
        let grant = grants.iter().find(|grant| grant.unit == UnitKey::now(0, 0)).unwrap();
        assert_eq!(grant.attempt, attempt);
        let after = rig.fail(&worker, grant, FailureKind::Evaluation);
        match attempt {
            3 => assert!(matches!(after, AfterFailure::CandidateFailed(reason) if reason.contains("on purpose"))),
            _ => assert_eq!(after, AfterFailure::Requeued),
        }
        if attempt < 3 {
            assert_eq!(rig.fail(&worker, grant, FailureKind::Evaluation), AfterFailure::Duplicate);
        }
    }
    rig.scheduler.withdraw(&job, Lane::Now, 0);
    assert_eq!(rig.scheduler.leased(&job), 2, "those of the other candidate");
}

#[test]
fn only_who_holds_a_unit_can_fail_it() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 2, &[10]);
    let (worker, other) = (rig.worker(10), rig.worker(10));
    let (mine, others) = (rig.lease(&worker, 1).remove(0), rig.lease(&other, 1).remove(0));
    for number in 0..10 {
        let invented = Grant { lease: LeaseId(number), ..mine.clone() };
        assert_eq!(rig.fail(&other, &invented, FailureKind::Evaluation), AfterFailure::NotWanted);
    }
    let of_another_unit = Grant { lease: others.lease, ..mine.clone() };
    assert_eq!(rig.fail(&other, &of_another_unit, FailureKind::Evaluation), AfterFailure::NotWanted);
    assert_eq!(rig.scheduler.leased(&job), 2, "both hold what they held");
    assert!(rig.complete(&worker, &mine));
}

#[test]
fn a_worker_whose_results_cannot_be_right_gets_no_more_and_the_candidate_is_none_the_worse() {
    let mut rig = Rig::new();
    let job = rig.open_measuring("a", MODEL, &[Measure::Loss, Measure::Gradient], &[10]);
    let only = rig.gradient_worker(10, 10);
    let grant = rig.lease(&only, 1).remove(0);
    assert!(rig.scheduler.refuse(rig.now, &only, grant.lease, &job));
    let waiting = Waiting::NoneAble {
        connected: 1,
        without_model: 0,
        refused: 1,
        without_gradients: 0,
        largest: None,
        needed: 10,
    };
    assert!(waiting.to_string().contains("1 left out for results that cannot be right"), "{waiting}");
    assert_eq!(rig.scheduler.waiting(rig.now, &job), Some(waiting));
    for _ in 0..10 {
        let broken = rig.gradient_worker(10, 10);
        let grant = rig.lease(&broken, 1).remove(0);
        let (worker, now) = (rig.worker(10), rig.now);
        assert!(!rig.scheduler.refuse(now, &worker, grant.lease, &job), "it is not its lease");
        assert!(rig.scheduler.refuse(now, &broken, grant.lease, &job));
        assert!(!rig.scheduler.refuse(now, &broken, grant.lease, &job), "once");
        assert!(rig.lease(&broken, 10).is_empty(), "nothing of this model");
    }
    let worker = rig.gradient_worker(10, 10);
    let grants = rig.lease(&worker, 10);
    assert_eq!(grants.iter().map(|grant| grant.unit.slot).collect::<Vec<_>>(), [0, 1]);
    // A gradient that is none says nothing of losses.
    assert!(rig.scheduler.refuse(rig.now, &worker, grants[1].lease, &job));
    rig.open("b", MODEL, 1, &[10]);
    assert_eq!(rig.lease(&worker, 10).len(), 1);
}

/// One broken worker among others must not cost a candidate, however fast it fails.
#[test]
fn what_failed_on_a_worker_is_left_to_others() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 2, &[10]);
    let (broken, sound) = (rig.worker(10), rig.worker(10));
    let busy = rig.lease(&sound, 1);
    let failing = rig.lease(&broken, 1);
    assert_eq!(rig.fail(&broken, &failing[0], FailureKind::Evaluation), AfterFailure::Requeued);
    // The other is at work, and will come back.
    rig.now += 5 * SECOND;
    assert_eq!(rig.lease(&broken, 4), []);
    assert_eq!(rig.scheduler.waiting(rig.now, &job), None);
    assert!(rig.complete(&sound, &busy[0]));
    let again = rig.lease(&sound, 4);
    assert_eq!((again.len(), again[0].unit, again[0].attempt), (1, failing[0].unit, 2));
    // It fails there too: now it may be the candidate, and whoever is free takes it.
    assert_eq!(rig.fail(&sound, &again[0], FailureKind::Evaluation), AfterFailure::Requeued);
    let last = rig.lease(&broken, 1);
    assert!(matches!(rig.fail(&broken, &last[0], FailureKind::Evaluation), AfterFailure::CandidateFailed(_)));
}

#[test]
fn a_unit_that_failed_does_not_wait_for_workers_that_never_come() {
    for other in ["silent", "too small", "training", "idle", "asking"] {
        let mut rig = Rig::new();
        rig.open("a", MODEL, 1, &[10]);
        let (worker, second) = (rig.worker(10), rig.worker(if other == "too small" { 9 } else { 10 }));
        let grant = rig.lease(&worker, 1);
        rig.fail(&worker, &grant[0], FailureKind::Evaluation);
        assert_eq!(rig.lease(&worker, 1).len(), usize::from(other == "too small"), "{other}");
        rig.now += 11 * SECOND;
        match other {
            "training" | "idle" => _ = rig.scheduler.heartbeat(rig.now, &second, &[]).unwrap(),
            "asking" => {
                let mut request = rig.request(&second, 1, &[]);
                request.missing.push(MODEL.into());
                assert_eq!(rig.scheduler.lease(rig.now, &request), Ok(vec![]));
                request = rig.request(&second, 0, &[]);
                assert_eq!(rig.scheduler.lease(rig.now, &request), Ok(vec![]));
            }
            _ => {}
        }
        let expected = usize::from(!["too small", "asking"].contains(&other));
        assert_eq!(rig.lease(&worker, 1).len(), expected, "{other}");
    }
}

#[test]
fn failures_that_are_not_the_candidates_do_not_count() {
    let mut rig = Rig::new();
    rig.open("a", MODEL, 1, &[10]);
    let worker = rig.worker(10);
    for _ in 0..10 {
        let grant = rig.lease(&worker, 1).remove(0);
        assert_eq!(rig.fail(&worker, &grant, FailureKind::HandedBack), AfterFailure::Requeued);
    }
    let grant = rig.lease(&worker, 1).remove(0);
    assert_eq!(rig.fail(&worker, &grant, FailureKind::SampleUnavailable), AfterFailure::Requeued);
    assert!(rig.lease(&worker, 1).is_empty(), "it is tried again after a while");
    let waiting = rig.scheduler.waiting(rig.now, &grant.job);
    assert_eq!(waiting, Some(Waiting::Retry { units: 1, reason: "on purpose".into() }));
    rig.now += SECOND;
    let grant = rig.lease(&worker, 1).remove(0);
    rig.fail(&worker, &grant, FailureKind::SampleUnavailable);
    rig.now += SECOND;
    assert!(rig.lease(&worker, 1).is_empty(), "and then after twice as long");
    rig.now += SECOND;
    assert_eq!(rig.lease(&worker, 1).len(), 1);
}

#[test]
fn a_worker_is_never_leased_what_it_cannot_hold() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 2, &[100, 50, 200]);
    let (small, large) = (rig.worker(100), rig.worker(1000));
    let grants = rig.lease(&small, 10);
    assert!(grants.iter().all(|grant| grant.unit.sample != 2) && grants.len() == 4);
    // It turns out that it holds even less.
    let too_large = grants.iter().find(|grant| grant.unit.sample == 0).unwrap();
    assert_eq!(rig.fail(&small, too_large, FailureKind::TooLarge), AfterFailure::WorkerUnable);
    assert!(rig.lease(&small, 10).is_empty());
    assert_eq!(rig.lease(&large, 10).len(), 3);
    assert_eq!(rig.scheduler.waiting(rig.now, &job), None);
}

/// Another program may have had the memory that was missing.
#[test]
fn a_worker_is_asked_again_some_time_after_a_unit_was_too_large() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 2, &[100]);
    let worker = rig.worker(1000);
    let grants = rig.lease(&worker, 2);
    assert_eq!(rig.fail(&worker, &grants[0], FailureKind::TooLarge), AfterFailure::WorkerUnable);
    rig.now += 300 * SECOND;
    // What it held besides shows that nothing has changed since.
    assert_eq!(rig.fail(&worker, &grants[1], FailureKind::TooLarge), AfterFailure::Requeued);
    rig.now += 599 * SECOND;
    rig.scheduler.expire(rig.now);
    assert!(rig.lease(&worker, 2).is_empty());
    assert!(matches!(rig.scheduler.waiting(rig.now, &job), Some(Waiting::NoneAble { largest: Some(99), .. })));
    rig.now += SECOND;
    let offers = rig.scheduler.offers();
    rig.scheduler.expire(rig.now);
    assert!(rig.scheduler.offers() > offers, "whoever waits for work is told");
    assert_eq!(rig.scheduler.waiting(rig.now, &job), None);
    let again = rig.lease(&worker, 2);
    assert_eq!(again.len(), 2);
    assert_eq!(rig.fail(&worker, &again[0], FailureKind::TooLarge), AfterFailure::WorkerUnable, "news again");

    // What no passing of time mends lasts.
    rig.fail(&worker, &again[1], FailureKind::FingerprintMismatch);
    rig.now += 3000 * SECOND;
    rig.scheduler.expire(rig.now);
    assert!(rig.lease(&worker, 2).is_empty());
}

#[test]
fn gradients_go_to_workers_that_compute_them() {
    let mut rig = Rig::new();
    let job = rig.open_measuring("a", MODEL, &[Measure::Gradient, Measure::Loss], &[100]);
    let (losses, both, short) = (rig.worker(1000), rig.gradient_worker(1000, 1000), rig.gradient_worker(1000, 99));
    let slots = |grants: &[Grant]| grants.iter().map(|grant| grant.unit.slot).collect::<Vec<_>>();
    let grants = rig.lease(&losses, 10);
    assert_eq!(slots(&grants), [1], "the loss behind the gradient");
    assert!(rig.complete(&losses, &grants[0]));
    assert!(rig.lease(&short, 10).is_empty());
    assert_eq!(rig.scheduler.waiting(rig.now, &job), None, "one of the connected can take it");

    // It turns out that it cannot after all, and is not asked again; losses it still takes.
    let grant = rig.lease(&both, 10).remove(0);
    assert_eq!(rig.fail(&both, &grant, FailureKind::NoGradient), AfterFailure::WorkerUnable);
    assert!(rig.lease(&both, 10).is_empty());
    let waiting = Waiting::NoneAble {
        connected: 3,
        without_model: 0,
        refused: 0,
        without_gradients: 2,
        largest: Some(99),
        needed: 100,
    };
    assert!(waiting.to_string().contains("2 that compute no gradients"), "{waiting}");
    assert_eq!(rig.scheduler.waiting(rig.now, &job), Some(waiting));
    rig.open("b", MODEL, 1, &[1000]);
    assert_eq!(rig.lease(&both, 10).len(), 1);
}

#[test]
fn a_gradient_that_does_not_fit_says_nothing_of_losses() {
    let mut rig = Rig::new();
    rig.open_measuring("a", MODEL, &[Measure::Gradient, Measure::Loss], &[100]);
    let worker = rig.gradient_worker(1000, 1000);
    let grant = rig.lease(&worker, 1).remove(0);
    assert_eq!(rig.fail(&worker, &grant, FailureKind::TooLarge), AfterFailure::WorkerUnable);
    let grants = rig.lease(&worker, 10);
    assert_eq!(grants.iter().map(|grant| grant.unit.slot).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_gradient_counts_for_three_losses_between_jobs() {
    let mut rig = Rig::new();
    let gradients = rig.open_measuring("gradients", MODEL, &[Measure::Gradient; 100], &[10]);
    rig.open("losses", MODEL, 100, &[10]);
    let worker = rig.gradient_worker(10, 10);
    let grants: Vec<Grant> = (0..40).flat_map(|_| rig.lease(&worker, 1)).collect();
    assert_eq!(grants.iter().filter(|grant| grant.job == gradients).count(), 10, "a quarter of the units");
}

#[test]
fn a_worker_without_the_model_is_left_alone() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 1, &[10]);
    let worker = rig.worker(10);
    let grant = rig.lease(&worker, 1).remove(0);
    assert_eq!(rig.fail(&worker, &grant, FailureKind::FingerprintMismatch), AfterFailure::WorkerUnable);
    assert!(rig.lease(&worker, 1).is_empty());
    let other = rig.worker(10);
    let mut request = rig.request(&other, 1, &[]);
    request.missing = vec![MODEL.into()];
    assert!(rig.scheduler.lease(rig.now, &request).unwrap().is_empty());
    let waiting = Waiting::NoneAble {
        connected: 2,
        without_model: 2,
        refused: 0,
        without_gradients: 0,
        largest: None,
        needed: 10,
    };
    assert_eq!(rig.scheduler.waiting(rig.now, &job), Some(waiting));
    rig.now += 60 * SECOND;
    assert_eq!(rig.scheduler.waiting(rig.now, &job), Some(Waiting::NoWorker));
    // It found the model in the meantime.
    let grant = rig.lease(&other, 1).remove(0);
    assert_eq!(rig.fail(&other, &grant, FailureKind::HandedBack), AfterFailure::Requeued);
    // And so did the one that had said so of a unit.
    let mut request = rig.request(&worker, 1, &[]);
    request.missing = vec![MODEL.into()];
    assert!(rig.scheduler.lease(rig.now, &request).unwrap().is_empty());
    assert_eq!(rig.lease(&worker, 1).len(), 1);
}

#[test]
fn jobs_share_alike_and_a_late_one_neither_starves_nor_catches_up() {
    let mut rig = Rig::new();
    let (large, small) = (rig.open("large", MODEL, 1000, &[100]), rig.open("small", MODEL, 1000, &[50]));
    let worker = rig.worker(1000);
    let mut tokens = std::collections::BTreeMap::<String, u64>::new();
    let mut work = |rig: &mut Rig, times: u32| {
        let mut served = tokens.clone();
        for _ in 0..times {
            let grant = rig.lease(&worker, 1).remove(0);
            *served.entry(grant.job.to_string()).or_insert(0) += if grant.job == small { 50 } else { 100 };
            rig.complete(&worker, &grant);
        }
        tokens = served.clone();
        served
    };
    let served = work(&mut rig, 300);
    assert!(served["large"].abs_diff(served["small"]) <= 100, "{served:?}");
    let late = rig.open("late", MODEL, 1000, &[100]);
    let later = work(&mut rig, 400);
    let share = |job: &JobId| later[job.as_str()] - served.get(job.as_str()).copied().unwrap_or(0);
    assert!(share(&large).abs_diff(share(&late)) <= 200 && share(&small).abs_diff(share(&late)) <= 200, "{later:?}");
}

#[test]
fn a_loaded_model_is_preferred_but_not_for_ever() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a", MODEL, 1000, &[10]), rig.open("b", [2; 32], 1000, &[10]));
    let worker = rig.worker(1000);
    let (mut jobs, mut loaded) = (Vec::new(), MODEL);
    for _ in 0..200 {
        let request = rig.request(&worker, 1, &[loaded]);
        let grant = rig.scheduler.lease(rig.now, &request).unwrap().remove(0);
        rig.complete(&worker, &grant);
        loaded = if grant.job == a { MODEL } else { [2; 32] };
        jobs.push(grant.job);
    }
    let switches = jobs.windows(2).filter(|two| two[0] != two[1]).count();
    assert!((2..20).contains(&switches), "{switches}");
    let of_b = jobs.iter().filter(|job| **job == b).count();
    assert!((80..=120).contains(&of_b), "{of_b}");
}

#[test]
fn a_paused_job_keeps_its_leases_and_gets_no_more() {
    let mut rig = Rig::new();
    let job = rig.open("a", MODEL, 3, &[10]);
    let worker = rig.worker(10);
    let grant = rig.lease(&worker, 1).remove(0);
    rig.scheduler.set_paused(&job, true);
    assert!(rig.lease(&worker, 1).is_empty());
    assert_eq!(rig.scheduler.heartbeat(rig.now, &worker, &[grant.lease]), Ok(vec![]));
    assert!(rig.complete(&worker, &grant));
    rig.open("a", MODEL, 3, &[10]);
    assert!(rig.lease(&worker, 1).is_empty(), "its next stage is paused as well");
    rig.scheduler.set_paused(&job, false);
    assert_eq!(rig.lease(&worker, 1).len(), 1);
    rig.scheduler.close(&job);
    assert_eq!(rig.scheduler.workers().get(&worker).unwrap().leased, 0);
}

#[test]
fn a_unit_over_which_workers_keep_dying_is_given_up() {
    let mut rig = Rig::new();
    rig.open("a", MODEL, 1, &[10]);
    for time in 1..=20 {
        let worker = rig.worker(10);
        assert_eq!(rig.lease(&worker, 1).len(), 1);
        rig.now += 10 * SECOND;
        let expired = rig.scheduler.expire(rig.now).remove(0);
        assert_eq!(expired.given_up.is_some(), time == 20, "{time}");
    }
}

#[test]
fn leases_and_workers_of_an_earlier_run_are_strangers_but_not_enemies() {
    let mut rig = Rig::new();
    rig.open("a", MODEL, 1, &[10]);
    let mut former = Rig::new();
    former.open("a", MODEL, 1, &[10]);
    let worker = former.worker(10);
    let grant = former.lease(&worker, 1).remove(0);
    rig.scheduler = Scheduler::new(rig.scheduler.options.clone(), 2);
    rig.open("a", MODEL, 1, &[10]);
    assert_eq!(rig.scheduler.heartbeat(rig.now, &worker, &[grant.lease]), Err(UnknownWorker(worker.clone())));
    let again = rig.worker(10);
    assert_ne!(again, worker);
    assert_eq!(rig.scheduler.heartbeat(rig.now, &again, &[grant.lease]), Ok(vec![]));
    assert!(rig.complete(&worker, &grant), "a result counts whoever brings it");
}

#[test]
fn silent_workers_are_forgotten() {
    let mut rig = Rig::new();
    let worker = rig.worker(10);
    rig.now += 3601 * SECOND;
    rig.scheduler.expire(rig.now);
    assert!(rig.scheduler.workers().get(&worker).is_none());
}

#[test]
fn what_is_wanted_later_waits_for_idle_workers_and_goes_on_when_it_is_wanted() {
    let mut rig = Rig::new();
    let (first, second) = (rig.worker(100), rig.worker(100));
    let job = rig.open("a", MODEL, 1, &[10]);
    let other = rig.open("b", MODEL, 1, &[10]);
    for slot in 0..3 {
        rig.scheduler.add(&job, UnitKey::ahead(slot, 0));
    }
    // What is wanted now comes first, that of other jobs too, and then one at a time.
    let grants = rig.lease(&first, 10);
    assert_eq!(grants.iter().map(|grant| grant.unit).collect::<Vec<_>>(), [UnitKey::now(0, 0); 2]);
    assert_ne!(grants[0].job, grants[1].job);
    let early = rig.lease(&second, 10);
    assert_eq!(early.iter().map(|grant| grant.unit).collect::<Vec<_>>(), [UnitKey::ahead(0, 0)]);
    assert!(rig.lease(&second, 10).is_empty(), "it holds one");
    // The next stage wants it: the same lease goes on, and nobody else is given the unit.
    rig.scheduler.open(&job, MODEL.into(), vec![10], vec![Measure::Loss], [UnitKey::now(0, 0)]);
    rig.scheduler.promote(&job, UnitKey::ahead(0, 0), UnitKey::now(0, 0));
    rig.scheduler.promote(&job, UnitKey::ahead(1, 0), UnitKey::now(1, 0));
    assert_eq!(rig.scheduler.heartbeat(rig.now, &second, &[early[0].lease]), Ok(Vec::new()));
    assert!(rig.complete(&first, grants.iter().find(|grant| grant.job == other).unwrap()));
    assert_eq!(rig.lease(&first, 10).iter().map(|grant| grant.unit).collect::<Vec<_>>(), [UnitKey::ahead(2, 0)]);
    assert!(rig.scheduler.complete(rig.now, &second, &job, UnitKey::now(0, 0), 1.0));
    assert!(!rig.scheduler.complete(rig.now, &second, &job, UnitKey::ahead(0, 0), 1.0));
}

#[test]
fn a_time_that_gives_no_speed_is_passed_over() {
    let mut rig = Rig::new();
    rig.open("a", MODEL, 6, &[10]);
    let worker = rig.worker(10);
    for seconds in [2.0, 1e-309, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        let grant = rig.lease(&worker, 1).remove(0);
        assert!(rig.scheduler.complete(rig.now, &worker, &grant.job, grant.unit, seconds));
    }
    let worker = rig.scheduler.workers().get(&worker).unwrap();
    assert_eq!((worker.results, worker.tokens_per_second), (6, 5.0));
}
