//! `ropewalk workers`: who evaluates.

use super::failure::{OrFail as _, Outcome};
use super::options::{CoordinatorArgs, JsonArgs};
use super::output;
use clap::Args;
use ropewalk_shared::status::WorkerStatus;

/// List the workers of a coordinator.
#[derive(Args, Debug)]
pub struct WorkersArgs {
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    #[command(flatten)]
    output: JsonArgs,
}

pub(super) async fn run(args: WorkersArgs) -> Outcome {
    let workers = args.coordinator.connect().await?.workers().await.or_work()?;
    if args.output.json {
        return workers.iter().try_for_each(output::json);
    }
    if workers.is_empty() {
        let url = &args.coordinator.coordinator;
        output::note(format!("no workers yet; `ropewalk-worker --coordinator {url} --model-root DIR` starts one"));
        return Ok(());
    }
    output::line(table(&workers))
}

fn table(workers: &[WorkerStatus]) -> String {
    let mut header =
        vec!["worker", "name", "device", "dtype", "longest", "connected", "leased", "results", "failures", "tokens/s"];
    // Nothing is stopped without races, cancelled jobs or work done ahead: a column of zeros then.
    let stopped = workers.iter().any(|worker| worker.stopped_passes > 0.0);
    if stopped {
        header.push("stopped passes");
    }
    let training = workers.iter().any(|worker| worker.training.is_some());
    if training {
        header.push("training");
    }
    let row = |worker: &WorkerStatus| {
        let mut cells = vec![
            worker.worker_id.clone(),
            worker.name.clone(),
            worker.device.clone(),
            worker.dtype.clone(),
            worker.max_tokens.to_string(),
            if worker.connected { "yes" } else { "no" }.to_owned(),
            worker.leased.to_string(),
            worker.results.to_string(),
            worker.failures.to_string(),
            format!("{:.0}", worker.tokens_per_second),
        ];
        if stopped {
            cells.push(format!("{:.1}", worker.stopped_passes));
        }
        if training {
            cells.push(worker.training.as_ref().map_or_else(String::new, ToString::to_string));
        }
        cells
    };
    output::columns(&header, &workers.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(worker_id: &str, stopped_passes: f64) -> WorkerStatus {
        WorkerStatus {
            worker_id: worker_id.into(),
            name: "node".into(),
            device: "cpu".into(),
            dtype: "f32".into(),
            max_tokens: 2048,
            version: "0.1.0".into(),
            connected: true,
            last_seen_ms: 0,
            leased: 1,
            results: 7,
            failures: 0,
            tokens_per_second: 900.0,
            stopped_passes,
            training: None,
        }
    }

    #[test]
    fn whoever_trains_is_listed_with_what_it_trains() {
        let training = WorkerStatus { training: Some("tune-0123456789".parse().unwrap()), ..worker("b", 0.0) };
        let text = table(&[worker("a", 0.0), training]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("  training"), "{text}");
        assert!(lines[2].ends_with("tune-0123456789"), "{text}");
    }

    #[test]
    fn stopped_passes_are_listed_once_there_are_some() {
        assert!(!table(&[worker("a", 0.0)]).contains("stopped"));
        let text = table(&[worker("a", 0.0), worker("b", 2.25)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("tokens/s  stopped passes"), "{text}");
        assert!(lines[1].ends_with("0.0") && lines[2].ends_with("2.2"), "{text}");
    }
}
