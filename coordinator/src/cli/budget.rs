//! What a budget buys, in words and numbers, and whether it buys one generation.

use super::failure::{Failure, OrFail as _, Outcome};
use super::output::note;
use crate::client::Client;
use ropewalk_shared::job::{JobSpec, StrategyKind};
use ropewalk_shared::status::WorkerStatus;

/// A time budget in document passes.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Document passes a second of all workers together.
    pub passes_per_second: f64,
    /// For people: where that comes from.
    pub said: String,
}

/// Says what the budgets of a search buy at this speed.
///
/// # Errors
/// With the numbers, where a time budget does not buy the first generation.
pub fn judge(spec: &JobSpec, speed: Option<&Speed>) -> Outcome {
    let by_time = match (spec.search.time_budget_seconds, speed) {
        (Some(budget), Some(speed)) => {
            let passes = (budget as f64 * speed.passes_per_second) as u64;
            let first = first_generation(spec);
            if passes < first {
                let needed = (first as f64 / speed.passes_per_second).ceil();
                // The first candidates of ropewalk are the published methods.
                let smaller = match spec.search.strategy {
                    StrategyKind::Ropewalk => "or fewer --samples",
                    _ => "or fewer --samples or a smaller --population",
                };
                return Err(Failure::input_message(format!(
                    "--time-budget: {budget} seconds, {}, buy about {passes} document passes, and the first generation \
                     takes {first}: give at least {needed:.0}s, {smaller}",
                    speed.said
                )));
            }
            Some((passes, format!("{budget} seconds, {}", speed.said)))
        }
        _ => None,
    };
    let limits = spec.search.max_passes.map(|max| (max, format!("{max} document passes")));
    for (passes, what) in limits.into_iter().chain(by_time) {
        note(format!("{what}, buy {}", bought(spec, passes)));
    }
    Ok(())
}

/// Says what the budgets of a search buy on a coordinator's workers, by the speed that was measured of them.
///
/// # Errors
/// As [`judge`], and when the coordinator does not answer.
pub async fn on_coordinator(client: &Client, spec: &JobSpec) -> Outcome {
    if spec.search.max_passes.is_none() && spec.search.time_budget_seconds.is_none() {
        return Ok(());
    }
    let workers = client.workers().await.or_work()?;
    let speed = speed_of(&workers, spec.target_length);
    if speed.is_none() && spec.search.time_budget_seconds.is_some() {
        note("no worker that could take it has brought a result yet, so that nobody can say what the time budget buys");
    }
    judge(spec, speed.as_ref())
}

/// The speed of connected workers that hold so many tokens, as far as they brought results; `None` where none did.
fn speed_of(workers: &[WorkerStatus], tokens: u32) -> Option<Speed> {
    let able = workers.iter().filter(|worker| worker.connected && worker.max_tokens >= u64::from(tokens));
    let (measured, unknown): (Vec<_>, Vec<_>) = able.partition(|worker| worker.tokens_per_second > 0.0);
    let rate: f64 = measured.iter().map(|worker| worker.tokens_per_second).sum();
    let more = if unknown.is_empty() { String::new() } else { format!(" ({} more have no speed yet)", unknown.len()) };
    let said = format!("at the {rate:.0} tokens a second that {} workers did lately{more}", measured.len());
    (rate > 0.0).then(|| Speed { passes_per_second: rate / f64::from(tokens), said })
}

/// Document passes of the first generation.
fn first_generation(spec: &JobSpec) -> u64 {
    spec.search.first_generation() * spec.samples.len() as u64
}

/// What so many passes buy when nothing is dropped early.
fn bought(spec: &JobSpec, passes: u64) -> String {
    let samples = (spec.samples.len() as u64).max(1);
    let candidates = passes / samples;
    let aside = u64::from(spec.search.pair_attention).min(candidates);
    if spec.search.strategy == StrategyKind::Ropewalk {
        return format!("the price of {candidates} evaluations");
    }
    let options = &spec.search.evolution;
    let all = options.evaluations().min(candidates - aside);
    let bred = (u64::from(options.mutations) + u64::from(options.crossovers)).max(1);
    let generations = all.saturating_sub(options.population.into()) as f64 / bred as f64;
    let more = if spec.search.racing.is_off() || all < candidates { "" } else { ", and more by what racing saves" };
    let profiles = if aside > 0 { format!(", then {aside} for attention factors of pairs") } else { String::new() };
    format!(
        "{all} candidates: the first generation and {generations:.1} of {} more{more}{profiles}",
        options.generations
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::fingerprint::Fingerprint;
    use ropewalk_shared::job::{ModelIdentity, SearchOptions};
    use ropewalk_shared::racing::Racing;
    use ropewalk_shared::sample::SampleId;

    /// The paper's parameters: 64 candidates, then 40 generations of 32, on 5 documents.
    fn paper() -> JobSpec {
        JobSpec {
            name: "x".into(),
            model: ModelIdentity {
                name: "x".into(),
                fingerprint: Fingerprint::from([0; 32]),
                config_json: "{}".into(),
            },
            target_length: 1000,
            search: SearchOptions::default(),
            samples: (0..5).map(|number| SampleId::from([number; 32])).collect(),
            held_out: Vec::new(),
        }
    }

    #[test]
    fn passes_are_told_in_generations() {
        let mut spec = paper();
        assert_eq!(first_generation(&spec), 320);
        assert_eq!(bought(&spec, 804), "160 candidates: the first generation and 3.0 of 40 more");
        assert!(bought(&spec, 100_000).starts_with("1344 candidates: the first generation and 40.0 of 40 more"));
        spec.search.racing = Racing::Safe;
        assert!(bought(&spec, 804).ends_with("and more by what racing saves"));
    }

    /// 2,000 tokens a second are 2 passes of 1,000: 160 seconds for 320.
    #[test]
    fn a_time_that_buys_no_generation_is_refused_with_the_numbers() {
        let worker = |connected, max_tokens, tokens_per_second| WorkerStatus {
            worker_id: "w".into(),
            name: String::new(),
            device: "cpu".into(),
            dtype: "f32".into(),
            max_tokens,
            version: String::new(),
            connected,
            last_seen_ms: 0,
            leased: 0,
            results: 1,
            failures: 0,
            tokens_per_second,
            stopped_passes: 0.0,
            training: None,
        };
        let mut spec = paper();
        assert_eq!(speed_of(&[worker(true, 1000, 0.0), worker(false, 1000, 5.0), worker(true, 999, 5.0)], 1000), None);
        let workers = [worker(true, 1000, 500.0), worker(true, 5000, 1500.0), worker(true, 1000, 0.0)];
        let speed = speed_of(&workers, spec.target_length).unwrap();
        assert!(speed.said.contains("2 workers") && speed.said.contains("1 more"), "{}", speed.said);
        spec.search.time_budget_seconds = Some(100);
        let refusal = judge(&spec, Some(&speed)).unwrap_err().to_string();
        for number in ["100 seconds", "200 document passes", "takes 320", "at least 160s"] {
            assert!(refusal.contains(number), "{number} in {refusal}");
        }
        spec.search.time_budget_seconds = Some(160);
        assert!(judge(&spec, Some(&speed)).is_ok() && judge(&spec, None).is_ok());
    }
}
