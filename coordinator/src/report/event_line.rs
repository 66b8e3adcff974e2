//! What happened to a job, in a line for people.

use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::SearchObjective;

/// What the best value of a search with this objective is.
pub fn measure(objective: SearchObjective) -> String {
    match objective {
        SearchObjective::Perplexity => "perplexity".to_owned(),
        other => format!("perplexity ({other})"),
    }
}

/// An event in a line; `measure` is what the job minimises.
pub fn event_line(what: &JobEvent, measure: &str) -> String {
    match what {
        JobEvent::Launched { planned_evaluations, samples, held_out } => {
            format!("launched: {planned_evaluations} candidates on {samples} documents, {held_out} held out")
        }
        JobEvent::GenerationOpened { generation, candidates } => {
            format!("generation {generation} begins with {candidates} candidates")
        }
        JobEvent::GenerationClosed { generation, evaluated, dropped, best, total_evaluated, .. } => {
            let best = best.map_or_else(|| "none".to_owned(), |ppl| format!("{ppl:.4}"));
            let dropped = if *dropped > 0 { format!(" ({dropped} dropped early)") } else { String::new() };
            format!(
                "generation {generation}: {evaluated} candidates{dropped}, {total_evaluated} so far, best {measure} {best}"
            )
        }
        JobEvent::NewBest { generation, perplexity, .. } => {
            format!("new best {measure} {perplexity:.4} in generation {generation}")
        }
        JobEvent::CandidateFailed { reason, .. } => format!("a candidate failed and ranks last: {reason}"),
        JobEvent::ResultConflict { sample, worker, .. } => {
            let worker = worker.as_deref().unwrap_or("a worker");
            format!("{worker} disagrees with an earlier result on sample {sample}; the first stands")
        }
        JobEvent::LeaseExpired { worker, .. } => format!("worker {worker} fell silent; its unit goes to another"),
        JobEvent::WorkerUnable { worker, reason, .. } => format!("worker {worker} cannot take part: {reason}"),
        JobEvent::TrainingLaunched { steps } => format!("launched: a training of {steps} steps"),
        JobEvent::TrainingLeased { worker, attempt } if *attempt > 1 => format!("worker {worker} goes on with it"),
        JobEvent::TrainingLeased { worker, .. } => format!("worker {worker} trains"),
        JobEvent::TrainingStep(step) => {
            format!("step {}: loss {:.4}, gradient {:.3}", step.step, step.loss, step.gradient_norm)
        }
        JobEvent::TrainingCheckpoint { step } => format!("checkpoint after step {step}"),
        JobEvent::TrainingReturned { worker, reason, .. } => format!("worker {worker} trains no longer: {reason}"),
        JobEvent::Trained { fingerprint } => format!("trained: the model has the fingerprint {fingerprint}"),
        JobEvent::PlanLaunched { stages } => format!("launched: a plan of {stages} stages"),
        JobEvent::StageBegun { stage, stage_kind } => format!("stage {stage} ({stage_kind})"),
        JobEvent::StageJob { stage, job } => format!("stage {stage} waits for job {job}"),
        JobEvent::StageDone { stage, summary } => format!("stage {stage} is done: {summary}"),
        JobEvent::PlanReturned { reason } => format!("it will be tried again: {reason}"),
        JobEvent::Paused => "paused".to_owned(),
        JobEvent::Resumed => "resumed".to_owned(),
        JobEvent::Restarted => "launched again; going on from where it stood".to_owned(),
        JobEvent::Reporting { because, units } => {
            format!("search ended: {because}; measuring the result on {units} more passes")
        }
        JobEvent::Done { perplexity: Some(perplexity), held_out } => {
            let held_out = held_out.map_or_else(String::new, |ppl| format!(", {ppl:.4} on held-out documents"));
            format!("done: {measure} {perplexity:.4}{held_out}")
        }
        JobEvent::Done { perplexity: None, .. } => "done".to_owned(),
        JobEvent::Cancelled => "cancelled".to_owned(),
        JobEvent::Failed { reason } => format!("failed: {reason}"),
        JobEvent::Unknown => "something that a later version knows".to_owned(),
    }
}
