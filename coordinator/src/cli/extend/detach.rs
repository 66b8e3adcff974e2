//! `ropewalk extend --detach`: the plan becomes a job of the coordinator, which has it carried out.

use super::ExtendArgs;
use super::folder::PlanFolder;
use super::inputs::Inputs;
use super::order::Order;
use super::runner::Runner;
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::options::{again, connect};
use crate::cli::output::{self, note};
use anyhow::Context as _;
use ropewalk_shared::plan::PlanJob;

/// Launches a plan that was checked, and prints the job's id.
pub async fn run(args: &ExtendArgs, inputs: &Inputs, text: String) -> Outcome {
    let url = args.coordinator.as_deref().ok_or_else(|| Failure::input_message("--detach needs a --coordinator"))?;
    let client = connect(url, &args.access).await?;
    if args.from.is_some() {
        // Whoever carries the plan out now has the folder to itself.
        Runner::new(args, inputs, PlanFolder::open(&args.out)?)?.repeat().await?;
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display())).or_work()?;
    let root = args.out.canonicalize().with_context(|| args.out.display().to_string()).or_work()?;
    let (plan, description) = (&inputs.plan, &inputs.folder.description);
    let job = PlanJob {
        name: plan.name.clone(),
        model: inputs.folder.name.clone(),
        folder: root.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        order: Order::of(args, inputs, text)?.write(&root)?,
        original_length: description.original_length,
        target_length: plan.longest().max(description.original_length),
        stages: plan.stages.len() as u32,
    };
    job.check().or_input()?;
    let (id, created) = client.launch_plan(&job).await.or_work()?;
    if !created {
        note("the same plan was launched before; this is that job");
    }
    if args.output.json {
        return output::json(&serde_json::json!({ "job_id": id, "created": created }));
    }
    output::line(id.as_str())?;
    note(format!("`ropewalk watch {id}{}` follows it", again(url, &args.access)));
    Ok(())
}
