//! What a budget buys on this machine, said before anything is spent, and refused when that is not one generation.

use super::budget::{Speed, judge};
use super::failure::{Failure, OrFail as _, Outcome};
use super::local::Machine;
use super::output::note;
use super::prepare::{ModelFolder, PreparedJob};
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use std::time::Instant;

/// Says what the budgets of a search buy on this machine; a time budget is judged by one document pass, which is measured.
pub fn forecast(machine: &Machine, folder: &ModelFolder, job: &PreparedJob) -> Outcome {
    let spec = &job.spec;
    if spec.search.max_passes.is_none() && spec.search.time_budget_seconds.is_none() {
        return Ok(());
    }
    let speed = match spec.search.time_budget_seconds {
        Some(_) => {
            let (seconds, workers) = (calibrate(machine, folder, job)?, machine.workers());
            let said = format!("at {seconds:.2} a document pass on {workers} workers");
            Some(Speed { passes_per_second: workers as f64 / seconds, said })
        }
        None => None,
    };
    judge(spec, speed.as_ref())
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
