//! `ropewalk workers`: who evaluates.

use super::failure::{OrFail as _, Outcome};
use super::options::{CoordinatorArgs, JsonArgs};
use super::output;
use crate::client::Client;
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
    let workers = Client::connect(&args.coordinator.coordinator).await.or_work()?.workers().await.or_work()?;
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
    let header =
        ["worker", "name", "device", "dtype", "longest", "connected", "leased", "results", "failures", "tokens/s"];
    let row = |worker: &WorkerStatus| {
        vec![
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
        ]
    };
    output::columns(&header, &workers.iter().map(row).collect::<Vec<_>>())
}
