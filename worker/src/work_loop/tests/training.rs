//! Trainings of a worker, and a coordinator that misbehaves.

mod fake;

use super::fake::{Fake, Served};
use super::{LONG, MODEL, MODELS, Running, fingerprint, sample, start, unit};
use crate::model::fingerprint_dir;
use crate::train::{self, Trained};
use crate::work_loop::{WorkerConfig, WorkerError, run};
use fake::FakeTrainings;
use ropewalk_shared::job::ModelIdentity;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::training::{
    SequencesId, TrainSequence, TrainSpec, TrainingJob, TrainingPlace, read_sequences, write_sequences,
};
use ropewalk_shared::wire::pb::report_training_request::End;
use ropewalk_shared::wire::pb::training_failure::Kind;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::Code;

/// Steps of a training that takes a second or so.
const STEPS: u32 = 60;
/// Of one that nobody waits for.
const ENDLESS: u32 = 100_000;

/// A plan's folder below a train root, and the job that trains there.
struct Plan {
    root: TempDir,
    job: TrainingJob,
}

impl Plan {
    fn new(steps: u32) -> Self {
        let sequences: Vec<TrainSequence> =
            (0..6).map(|first| TrainSequence::long((first..first + 200).map(|i| i * i * 7 % 96).collect())).collect();
        let (bytes, sequences) = write_sequences(&sequences);
        let settings = TrainSpec {
            sequences_per_step: 2,
            learning_rate: 1e-3,
            warmup_steps: 2,
            checkpoint_every: 10,
            ..TrainSpec::new(steps, 200, Rescale::with_factors(vec![1.5; 8]))
        };
        let config_json = std::fs::read_to_string(Path::new(MODELS).join(MODEL).join("config.json")).unwrap();
        let plan = Self {
            root: TempDir::new().unwrap(),
            job: TrainingJob {
                name: "plan-tune".into(),
                model: ModelIdentity { name: MODEL.into(), fingerprint: fingerprint(), config_json },
                settings,
                sequences,
                place: TrainingPlace { folder: "plan".into(), stage: "tune".into(), output: "tuned".into() },
                repetition: 0,
            },
        };
        let path = plan.job.place.sequences(&plan.folder());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        plan
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("plan")
    }

    fn checkpoints(&self) -> PathBuf {
        self.job.place.checkpoints(&self.folder())
    }

    fn output(&self) -> PathBuf {
        self.job.place.output(&self.folder())
    }

    fn weights(&self) -> Vec<u8> {
        std::fs::read(self.output().join("model.safetensors")).unwrap()
    }

    /// Whether nobody trains there.
    fn is_free(&self) -> bool {
        File::open(self.checkpoints().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok())
    }

    /// What the same training gives without workers.
    fn alone(&self) -> (Trained, Vec<u8>) {
        let (room, model) = (TempDir::new().unwrap(), Path::new(MODELS).join(MODEL));
        let bytes = std::fs::read(self.job.place.sequences(&self.folder())).unwrap();
        let sequences = read_sequences(&bytes, self.job.sequences).unwrap();
        let (work, out) = (room.path().join("work"), room.path().join("out"));
        let go_on = &mut |_| ControlFlow::Continue(());
        let trained = train::run(&model, &self.job.settings, &sequences, &work, &out, go_on).unwrap();
        (trained, std::fs::read(out.join("model.safetensors")).unwrap())
    }

    /// A coordinator that leases the training so many times.
    async fn launched(&self, times: usize) -> (FakeTrainings, Served) {
        let fake = FakeTrainings::new();
        fake.state().jobs.extend(vec![self.job.clone(); times]);
        let served = fake.serve(&Fake::default()).await;
        (fake, served)
    }

    fn start(&self, served: &Served) -> Running {
        start(served, |config| config.train_root = Some(self.root.path().to_owned()))
    }
}

#[tokio::test]
async fn a_training_is_told_step_by_step_and_gives_what_it_gives_elsewhere() {
    let plan = Plan::new(STEPS);
    let (fake, served) = plan.launched(2).await;
    let worker = plan.start(&served);
    fake.until("the end, twice", |state| state.end(2).is_some()).await;
    assert_eq!(worker.stop().await.trainings, 2);

    let (trained, weights) = plan.alone();
    assert!(plan.weights() == weights);
    let (state, made) = (fake.state(), fingerprint_dir(&plan.output()).unwrap());
    assert_eq!(state.steps(1), trained.curve);
    // The second time the model stands already, and is told all the same.
    assert_eq!(state.steps(2), trained.curve);
    for lease in [1, 2] {
        assert!(matches!(state.end(lease), Some(End::Result(end)) if end.fingerprint == made.as_bytes()));
    }
    let first: Vec<_> = state.reports.iter().filter(|report| report.lease_id == 1).collect();
    // The lease was confirmed before anything was trained.
    assert!(first[0].steps.is_empty() && first[0].checkpoint == 0);
    assert!(first.len() > 3, "{} reports of {STEPS} steps", first.len());
    assert_eq!(first.last().unwrap().checkpoint, STEPS);
    assert!(first.is_sorted_by_key(|report| report.checkpoint));
    assert!(state.requests.iter().all(|request| request.declined_jobs.is_empty() && request.device == "cpu"));
}

#[tokio::test]
async fn a_worker_that_stops_hands_back_and_another_goes_on() {
    let plan = Plan::new(STEPS);
    let (fake, served) = plan.launched(2).await;
    let worker = plan.start(&served);
    fake.until("a few steps", |state| state.steps(1).len() > 4).await;
    worker.stop().await;
    let kept = {
        let state = fake.state();
        let last = state.reports.last().unwrap();
        assert_eq!(state.failure(1).map(|failure| failure.kind()), Some(Kind::HandedBack));
        // What it did is in a checkpoint, not only the last tenth step.
        assert_eq!(last.checkpoint as usize, state.steps(1).len());
        last.checkpoint
    };
    assert!(plan.is_free() && !plan.output().exists() && kept < STEPS, "{kept}");

    // One that goes without a word.
    let worker = plan.start(&served);
    fake.until("more steps", |state| state.steps(2).len() as u32 > kept + 4).await;
    worker.worker.abort();
    while !plan.is_free() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fake.state().jobs.push_back(plan.job.clone());
    let worker = plan.start(&served);
    fake.until("the end", |state| state.end(3).is_some()).await;
    worker.stop().await;
    let (trained, weights) = plan.alone();
    assert!(plan.weights() == weights);
    assert_eq!(fake.state().steps(3), trained.curve);
}

#[tokio::test]
async fn what_is_not_wanted_any_more_stops() {
    let plan = Plan::new(ENDLESS);
    let (fake, served) = plan.launched(1).await;
    fake.state().unwanted_from = Some(5);
    let worker = plan.start(&served);
    fake.until("another request", |state| state.requests.len() == 2).await;
    worker.stop().await;
    let state = fake.state();
    assert!(plan.is_free() && state.end(1).is_none());
    let last = state.reports.last().unwrap().steps.last().unwrap().step;
    assert!(last >= 5 && state.requests[1].declined_jobs.is_empty());
    // What was done is kept, the steps after the last report too.
    let kept = std::fs::read_dir(plan.checkpoints()).unwrap().map(|entry| entry.unwrap().file_name());
    let kept = kept.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse::<u32>().ok()).max();
    assert!(kept >= Some(last), "{kept:?} of {last}");
}

#[tokio::test]
async fn without_answers_it_stops_before_its_lease_is_over() {
    let plan = Plan::new(ENDLESS);
    let (fake, served) = plan.launched(1).await;
    let lease = Duration::from_secs(2);
    fake.state().lease = lease;
    let worker = plan.start(&served);
    fake.until("a few steps", |state| state.steps(1).len() > 4).await;
    let answered = {
        let mut state = fake.state();
        state.failing = Some(Code::Unavailable);
        state.answered.unwrap()
    };
    while !plan.is_free() {
        assert!(answered.elapsed() < lease, "it still trains after {:?}", answered.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Not at the first failure, for that may pass.
    assert!(answered.elapsed() > lease / 2, "{:?}", answered.elapsed());
    let told = fake.state().steps(1).len();
    {
        let mut state = fake.state();
        state.failing = None;
        state.jobs.push_back(plan.job.clone());
    }
    fake.until("steps under another lease", |state| state.steps(2).len() > told).await;
    worker.stop().await;
    assert_eq!(fake.state().steps(2)[0].step, 1);
}

#[tokio::test]
async fn a_coordinator_that_was_away_for_a_moment_gets_all_steps() {
    let plan = Plan::new(STEPS);
    let (fake, served) = plan.launched(1).await;
    let worker = plan.start(&served);
    fake.until("a few steps", |state| state.steps(1).len() > 4).await;
    fake.state().failing = Some(Code::Unavailable);
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.state().failing = None;
    fake.until("the end", |state| state.end(1).is_some()).await;
    worker.stop().await;
    assert_eq!(fake.state().steps(1).iter().map(|step| step.step).collect::<Vec<_>>(), Vec::from_iter(1..=STEPS));
}

#[tokio::test]
async fn what_cannot_be_trained_here_is_said_and_not_asked_for_again() {
    let plan = Plan::new(STEPS);
    let change = |change: &dyn Fn(&mut TrainingJob)| {
        let mut job = plan.job.clone();
        change(&mut job);
        job
    };
    let jobs = [
        (Kind::NotHere, "another file", change(&|job| job.sequences = SequencesId([1; 32]))),
        (Kind::NotHere, "--train-root", change(&|job| job.place.stage = "other".into())),
        (
            Kind::NotHere,
            "\"big\"",
            // Under another name alone it would be found by its fingerprint.
            change(&|job| (job.model.name, job.model.fingerprint) = ("big".into(), [8; 32].into())),
        ),
        (Kind::NotHere, "fingerprint", change(&|job| job.model.fingerprint = [7; 32].into())),
        (Kind::Invalid, "folder", change(&|job| job.place.folder = "..".into())),
        (Kind::Invalid, "factors", change(&|job| job.settings.rescale = Rescale::identity(3))),
    ];
    let (fake, served) = plan.launched(0).await;
    fake.state().jobs.extend(jobs.iter().map(|(_, _, job)| job.clone()));
    let worker = plan.start(&served);
    fake.until("all ends", |state| (1..=jobs.len() as u64).all(|lease| state.end(lease).is_some())).await;
    fake.until("another request", |state| state.requests.len() > jobs.len()).await;
    worker.stop().await;
    let state = fake.state();
    for (lease, (kind, fragment, _)) in (1..).zip(&jobs) {
        let failure = state.failure(lease).unwrap();
        assert!(failure.kind() == *kind && failure.reason.contains(fragment), "{failure:?}");
    }
    let mut declined: Vec<String> = jobs[..4].iter().map(|(_, _, job)| job.id().to_string()).collect();
    declined.sort();
    assert_eq!(state.requests.last().unwrap().declined_jobs, declined);
}

#[tokio::test]
async fn a_folder_that_is_taken_is_left_alone() {
    let plan = Plan::new(STEPS);
    std::fs::create_dir_all(plan.checkpoints()).unwrap();
    let lock = File::create(plan.checkpoints().join("lock")).unwrap();
    lock.lock().unwrap();
    let (fake, served) = plan.launched(1).await;
    let worker = plan.start(&served);
    fake.until("the end", |state| state.failure(1).is_some()).await;
    worker.stop().await;
    let state = fake.state();
    let failure = state.failure(1).unwrap();
    assert!(failure.kind() == Kind::Busy && failure.reason.contains("another process"), "{failure:?}");
    assert!(state.steps(1).is_empty());
}

#[tokio::test]
async fn a_training_that_diverges_says_where() {
    let mut plan = Plan::new(STEPS);
    plan.job.settings.learning_rate = 1.0;
    plan.job.settings.clip_norm = None;
    plan.job.settings.warmup_steps = 0;
    plan.job.settings.adamw.beta2 = 0.0;
    plan.job.settings.adamw.weight_decay = 1.0;
    let (fake, served) = plan.launched(1).await;
    let worker = plan.start(&served);
    fake.until("the end", |state| state.end(1).is_some()).await;
    worker.stop().await;
    let state = fake.state();
    let failure = state.failure(1).unwrap();
    assert!(failure.kind() == Kind::Diverged && failure.reason.contains("diverged"), "{failure:?}");
}

#[tokio::test]
async fn nothing_is_evaluated_while_it_trains() {
    let (plan, units) = (Plan::new(ENDLESS), Fake::default());
    let long = sample(LONG);
    units.hold(&long);
    units.state().units.push_back(unit(1, &long));
    let fake = FakeTrainings::new();
    let served = fake.serve(&units).await;
    let worker = plan.start(&served);
    units.until("an evaluation", |state| state.heartbeats.iter().any(|beat| beat.lease_ids == [1])).await;
    fake.state().jobs.push_back(plan.job.clone());
    fake.until("a few steps", |state| state.steps(1).len() > 4).await;
    // What was being evaluated was finished first.
    let evaluated = units.state().reports.len();
    units.state().units.push_back(unit(2, &long));
    let steps = fake.state().steps(1).len();
    fake.until("many steps", |state| state.steps(1).len() > steps + 50).await;
    {
        let state = units.state();
        assert_eq!((evaluated, state.units.len(), state.reports.len()), (1, 1, 1));
        assert!(state.heartbeats.last().unwrap().lease_ids.is_empty());
    }
    fake.state().unwanted_from = Some(1);
    units.until("another evaluation", |state| state.reports.len() == 2).await;
    let summary = worker.stop().await;
    assert_eq!((summary.results, summary.handed_back, summary.trainings), (2, 0, 0));
}

#[tokio::test]
async fn a_coordinator_without_trainings_is_worked_for_all_the_same() {
    let (plan, units) = (Plan::new(STEPS), Fake::default());
    let short = sample(100);
    units.hold(&short);
    units.state().units.extend((1..=5).map(|lease| unit(lease, &short)));
    let served = units.serve("127.0.0.1:0").await;
    let worker = plan.start(&served);
    units.until("5 reports", |state| state.reports.len() == 5).await;
    assert_eq!(worker.stop().await.results, 5);
}

#[tokio::test]
async fn the_train_root_is_checked_at_once() {
    let plan = Plan::new(STEPS);
    let good = WorkerConfig::new("127.0.0.1:1", MODELS);
    let nowhere = WorkerConfig { train_root: Some("/no/such/folder".into()), ..good.clone() };
    let error = run(nowhere, std::future::pending()).await.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("/no/such/folder is not a folder"), "{error}");
    let error = WorkerError::TrainsOnCpu { devices: "cuda:0".into() };
    assert!(error.is_usage() && error.to_string().contains("cuda:0"), "{error}");
    let begun = Instant::now();
    let timeout = Some(Duration::from_millis(300));
    let alone = WorkerConfig { connect_timeout: timeout, train_root: Some(plan.root.path().into()), ..good };
    assert!(matches!(run(alone, std::future::pending()).await, Err(WorkerError::NotThere { .. })));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
