//! What a budget buys, said before anything is spent, and refused when that is not one generation.

use super::failure::{Failure, OrFail as _, Outcome};
use super::local::Machine;
use super::output::note;
use super::prepare::{ModelFolder, PreparedJob};
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::job::{JobSpec, StrategyKind};
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use std::time::Instant;

/// Says what the budgets of a search buy on this machine; a time budget is judged by one document pass, which is measured.
pub fn forecast(machine: &Machine, folder: &ModelFolder, job: &PreparedJob) -> Outcome {
    let spec = &job.spec;
    if spec.search.max_passes.is_none() && spec.search.time_budget_seconds.is_none() {
        return Ok(());
    }
    let by_time = match spec.search.time_budget_seconds {
        Some(budget) => {
            let seconds = calibrate(machine, folder, job)?;
            let passes = (budget as f64 * machine.workers() as f64 / seconds) as u64;
            let rate = format!("{budget} seconds, at {seconds:.2} a document pass on {} workers", machine.workers());
            Some((passes, seconds, rate))
        }
        None => None,
    };
    if let Some((passes, seconds, rate)) = &by_time {
        let first = first_generation(spec);
        if *passes < first {
            let needed = (first as f64 * seconds / machine.workers() as f64).ceil();
            return Err(Failure::input_message(format!(
                "--time-budget: {rate}, buy about {passes} document passes, and the first generation takes {first}: give at \
                 least {needed:.0}s, or fewer --samples or a smaller --population"
            )));
        }
    }
    let limits = spec.search.max_passes.map(|max| (max, format!("{max} document passes")));
    let limits = limits.into_iter().chain(by_time.map(|(passes, _, rate)| (passes, rate)));
    for (passes, what) in limits {
        note(format!("{what}, buy {}", bought(spec, passes)));
    }
    Ok(())
}

/// Document passes of the first generation.
fn first_generation(spec: &JobSpec) -> u64 {
    let candidates = match spec.search.strategy {
        // The seeds alone.
        StrategyKind::Ropewalk => 4 + spec.search.init.len() as u64,
        _ => spec.search.evolution.population.into(),
    };
    candidates * spec.samples.len() as u64
}

/// What so many passes buy when nothing is dropped early.
fn bought(spec: &JobSpec, passes: u64) -> String {
    let samples = (spec.samples.len() as u64).max(1);
    let candidates = passes / samples;
    if spec.search.strategy == StrategyKind::Ropewalk {
        return format!("the price of {candidates} evaluations");
    }
    let options = &spec.search.evolution;
    let all = options.evaluations().min(candidates);
    let bred = (u64::from(options.mutations) + u64::from(options.crossovers)).max(1);
    let generations = all.saturating_sub(options.population.into()) as f64 / bred as f64;
    let more = if spec.search.racing.is_off() || all < candidates { "" } else { ", and more by what racing saves" };
    format!("{all} candidates: the first generation and {generations:.1} of {} more{more}", options.generations)
}

/// Seconds of one document pass, with as many threads as each worker will have.
fn calibrate(machine: &Machine, folder: &ModelFolder, job: &PreparedJob) -> Result<f64, Failure> {
    let Some(sample) = job.samples.first() else {
        return Err(Failure::input_message("there is no document to search on"));
    };
    let evaluator = machine.evaluator(&folder.path, sample.tokens().len())?;
    let description = &folder.description;
    let ratio = job.spec.extension_ratio(description);
    let factors = Baseline::Yarn.factors(&description.geometry, description.original_length, ratio);
    note("measuring one document pass for the forecast");
    let start = Instant::now();
    let rescale = Rescale::with_factors(factors);
    evaluator.evaluate(&rescale, sample.tokens(), &CancelFlag::new(), &mut |_| ()).or_work()?;
    Ok(start.elapsed().as_secs_f64().max(1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::fingerprint::Fingerprint;
    use ropewalk_shared::job::{ModelIdentity, SearchOptions};
    use ropewalk_shared::racing::Racing;
    use ropewalk_shared::sample::SampleId;

    /// The paper's parameters: 64 candidates, then 40 generations of 32, on 5 documents.
    #[test]
    fn passes_are_told_in_generations() {
        let mut spec = JobSpec {
            name: "x".into(),
            model: ModelIdentity {
                name: "x".into(),
                fingerprint: Fingerprint::from([0; 32]),
                config_json: "{}".into(),
            },
            target_length: 1,
            search: SearchOptions::default(),
            samples: (0..5).map(|number| SampleId::from([number; 32])).collect(),
            held_out: Vec::new(),
        };
        assert_eq!(first_generation(&spec), 320);
        assert_eq!(bought(&spec, 804), "160 candidates: the first generation and 3.0 of 40 more");
        assert!(bought(&spec, 100_000).starts_with("1344 candidates: the first generation and 40.0 of 40 more"));
        spec.search.racing = Racing::Safe;
        assert!(bought(&spec, 804).ends_with("and more by what racing saves"));
    }
}
