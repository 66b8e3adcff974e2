//! An engine on a store of its own, time that the test owns, and workers that compute a formula.

use crate::engine::{Core, Now};
use crate::scheduler::SchedulerOptions;
use crate::search::strategy::begin;
use crate::search::{Ask, Outcome, StrategyState};
use crate::store::Store;
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::{EvolutionOptions, JobSpec, ModelIdentity, SearchOptions, StrategyKind};
use ropewalk_shared::outcome::{FailureKind, Loss, LossSlope, UnitFailure};
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::status::JobStatus;
use ropewalk_shared::work::{LeaseRequest, Measure, Unit, UnitOutcome, UnitReport, Verdict, WorkerId, WorkerProfile};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const TARGET: u32 = 64;

/// An engine under test.
pub struct Rig {
    folder: tempfile::TempDir,
    generation_of_store: u32,
    pub core: Core,
    pub time: Duration,
    requests: u64,
    fill_gaps: bool,
}

impl Rig {
    pub fn new() -> Self {
        Self::filling_gaps(true)
    }

    /// Where idle workers are given what is wanted later, or not.
    pub fn filling_gaps(fill_gaps: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let core = open(&folder.path().join("0"), Duration::ZERO, fill_gaps);
        Self { folder, generation_of_store: 0, core, time: Duration::ZERO, requests: 0, fill_gaps }
    }

    pub fn now(&self) -> Now {
        Now { since_start: self.time, unix_ms: 1_700_000_000_000 + self.time.as_millis() as u64 }
    }

    /// Stores the samples of a job and launches it.
    pub fn launch(&mut self, spec: &JobSpec) {
        for number in 0..10 {
            let sample = sample(number);
            self.core.store().put_sample(sample.id(), &sample).unwrap();
        }
        self.core.launch(spec.clone(), self.now()).unwrap();
        self.commit();
    }

    /// What the engine's threads do after every round.
    pub fn commit(&mut self) {
        let batch = self.core.take_batch();
        self.core.store().apply(batch).unwrap();
        self.core.store().flush().unwrap();
    }

    pub fn pass(&mut self, time: Duration) {
        self.time += time;
        self.core.tick(self.now()).unwrap();
        self.commit();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.generation_of_store.to_string())
    }

    /// Kills the coordinator and starts it again: what is on the disk at this moment is all that is left.
    pub fn kill(&mut self) {
        let (dead, alive) = (self.path(), self.folder.path().join((self.generation_of_store + 1).to_string()));
        copy(&dead, &alive);
        self.core = open(&alive, self.time, self.fill_gaps);
        self.commit();
        self.generation_of_store += 1;
        std::fs::remove_dir_all(dead).unwrap();
    }

    pub fn register(&mut self, max_tokens: u64) -> WorkerId {
        let profile = WorkerProfile {
            name: "fake".into(),
            device: "cpu".into(),
            dtype: "f64".into(),
            max_tokens,
            max_gradient_tokens: max_tokens,
            version: "0".into(),
        };
        self.core.register(profile, self.now()).unwrap().worker
    }

    pub fn lease(&mut self, worker: &WorkerId, max_units: u32) -> Vec<Unit> {
        self.requests += 1;
        let request = LeaseRequest {
            worker: worker.clone(),
            request_id: self.requests,
            max_units,
            wait: Duration::ZERO,
            loaded: Vec::new(),
            missing: Vec::new(),
        };
        self.core.lease(request, self.now()).unwrap()
    }

    pub fn report(&mut self, worker: &WorkerId, reports: Vec<UnitReport>) -> Vec<Verdict> {
        let verdicts = self.core.report(worker, reports, self.now()).unwrap();
        self.commit();
        verdicts
    }

    pub fn status(&self, spec: &JobSpec) -> JobStatus {
        self.core.status(spec.id().as_str(), self.now()).unwrap().0
    }

    /// The factor file, once the job is done.
    pub fn factors(&self, spec: &JobSpec) -> Option<String> {
        let result = self.core.result(spec.id().as_str(), self.now()).ok()?;
        result.complete.then_some(result.factors_json)
    }

    /// The value of the best factors so far.
    pub fn best(&self, spec: &JobSpec) -> Option<f64> {
        let result = self.core.result(spec.id().as_str(), self.now()).ok()?;
        FactorFile::from_json(&result.factors_json).unwrap().objective.map(|objective| objective.value)
    }

    /// Lets one worker do everything there is to do.
    pub fn work_to_the_end(&mut self, spec: &JobSpec) -> String {
        self.work_with(7, evaluated);
        self.factors(spec).expect("no work is left, so the job is done")
    }

    /// Lets one worker that takes so many units at a time report this of each, until none is left.
    pub fn work_with(&mut self, at_once: u32, report: impl Fn(&Unit) -> UnitReport) {
        let worker = self.register(u64::MAX);
        loop {
            let units = self.lease(&worker, at_once);
            if units.is_empty() {
                return;
            }
            self.report(&worker, units.iter().map(&report).collect());
        }
    }
}

fn open(path: &Path, time: Duration, fill_gaps: bool) -> Core {
    let store = Arc::new(Store::open(path).unwrap());
    let options = SchedulerOptions { lease: Duration::from_secs(10), fill_gaps, ..SchedulerOptions::default() };
    Core::open(store, options, Now { since_start: time, unix_ms: 0 }).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A job of 16 tokens to 64, with 5 + 4 * 4 candidates of 4 factors.
pub fn job(seed: u64) -> JobSpec {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 16,
    });
    let evolution = EvolutionOptions {
        population: 7,
        mutations: 3,
        crossovers: 2,
        generations: 4,
        parents: 3,
        mutation_probability: 0.5,
    };
    JobSpec {
        name: "test".into(),
        model: ModelIdentity {
            name: "model".into(),
            fingerprint: Fingerprint::from([1; 32]),
            config_json: config.to_string(),
        },
        target_length: TARGET,
        search: SearchOptions { seed, evolution, start_tokens: vec![0, 4], ..SearchOptions::default() },
        samples: (0..3).map(|number| sample(number).id()).collect(),
        held_out: (5..7).map(|number| sample(number).id()).collect(),
    }
}

pub fn sample(number: u32) -> Sample {
    Sample::new((0..TARGET + number).map(|token| token * 3 + number).collect()).unwrap()
}

/// A loss that has a best place, which differs a little between samples.
pub fn loss(rescale: &Rescale, sample: SampleId, tokens: u32) -> Loss {
    let wish = f64::from(sample.as_bytes()[0]) / 256.0;
    let distance: f64 = rescale
        .factors
        .iter()
        .zip(1..)
        .map(|(factor, place)| (factor.ln() - f64::from(place) * (0.3 + wish / 50.0)).powi(2))
        .sum();
    let start = f64::from(rescale.start_tokens.abs_diff(4)) / 100.0;
    // Fast pairs like more attention than slow ones.
    let attention = rescale.pair_attention.iter().zip([0.1, 0.05, -0.05, -0.1]);
    let pairs: f64 = attention.map(|(m, wish)| (m.ln() - wish).powi(2) - f64::powi(wish, 2)).sum();
    let mean = 1.0 + distance + start + (rescale.attention_factor - 1.0).abs() / 10.0 + pairs;
    let predicted = u64::from(tokens) - 1;
    Loss { nll_sum: mean * predicted as f64, tokens: predicted }
}

/// The derivatives of [`loss`], where it has any.
fn slope(rescale: &Rescale, sample: SampleId, tokens: u32) -> LossSlope {
    let wish = f64::from(sample.as_bytes()[0]) / 256.0;
    let predicted = f64::from(tokens - 1);
    let factors = rescale.factors.iter().zip(1..);
    let by_factor = |(factor, place): (&f64, i32)| 2.0 * (factor.ln() - f64::from(place) * (0.3 + wish / 50.0));
    LossSlope {
        log_factors: factors.map(|pair| predicted * by_factor(pair)).collect(),
        log_attention_factor: predicted * (rescale.attention_factor - 1.0).signum() * rescale.attention_factor / 10.0,
        log_pair_attention: Vec::new(),
    }
}

/// The same job under the strategy that follows gradients, with the attention factor searched.
pub fn gradient_job(seed: u64) -> JobSpec {
    let mut spec = job(seed);
    spec.search.strategy = StrategyKind::Ropewalk;
    spec.search.slope_steps = 4;
    spec.search.attention_factor = AttentionFactorPolicy::Search;
    spec
}

/// A job that searches attention factors of pairs after the factors.
pub fn pair_attention_job(seed: u64, strategy: StrategyKind) -> JobSpec {
    let mut spec = job(seed);
    spec.search.strategy = strategy;
    spec.search.start_tokens = if strategy.searches_start_tokens() { spec.search.start_tokens } else { vec![0] };
    spec.search.evolution.generations = 2;
    spec.search.pair_attention = 30;
    spec
}

/// A job whose candidates race: 40 + 6 * 8 of them on 5 samples.
pub fn racing_job(seed: u64) -> JobSpec {
    let mut spec = job(seed);
    spec.search.racing = Racing::Fast;
    spec.search.evolution = EvolutionOptions {
        population: 40,
        mutations: 5,
        crossovers: 3,
        generations: 6,
        parents: 8,
        ..spec.search.evolution
    };
    spec.samples = (0..5).map(|number| sample(number).id()).collect();
    spec
}

/// The same under the strategy that finds a curve first, with 10 generations of 8 after it.
pub fn racing_curve_job(seed: u64) -> JobSpec {
    let mut spec = racing_job(seed);
    spec.search.strategy = StrategyKind::Ropewalk;
    spec.search.evolution.generations = 10;
    spec
}

pub fn report_of(unit: &Unit, outcome: UnitOutcome) -> UnitReport {
    UnitReport { lease: unit.lease, job: unit.job.clone(), sample: unit.sample, rescale: unit.rescale.clone(), outcome }
}

pub fn evaluated(unit: &Unit) -> UnitReport {
    let loss = loss(&unit.rescale, unit.sample, unit.tokens);
    let outcome = match unit.measure {
        Measure::Loss => UnitOutcome::Loss { loss, seconds: 0.01 },
        Measure::Gradient => {
            UnitOutcome::Gradient { loss, slope: slope(&unit.rescale, unit.sample, unit.tokens), seconds: 0.03 }
        }
    };
    report_of(unit, outcome)
}

pub fn failed(unit: &Unit, kind: FailureKind) -> UnitReport {
    report_of(unit, UnitOutcome::Failure(UnitFailure { kind, reason: "on purpose".into() }))
}

/// The states of a job's search after each of its generations, without a coordinator.
pub fn run_alone(spec: &JobSpec) -> Vec<StrategyState> {
    let description = spec.check().unwrap();
    let mut strategy = begin(spec, &description).unwrap();
    let mut states = vec![strategy.snapshot()];
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let outcome = |candidate: &Candidate| {
            let rescale = candidate.rescale(spec.search.grid, 1.0);
            let means: Vec<f64> = spec.samples.iter().map(|sample| loss(&rescale, *sample, TARGET).mean()).collect();
            let score = (means.iter().sum::<f64>() / means.len() as f64).exp().into();
            Outcome { score, passes: means.len() as u64, means, slope: None }
        };
        strategy.tell_outcomes(generation, &candidates.iter().map(outcome).collect::<Vec<_>>()).unwrap();
        states.push(strategy.snapshot());
    }
    states
}
