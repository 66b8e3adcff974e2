//! `ropewalk search`: a whole search on this machine, in one process.

use super::device::DeviceArgs;
use super::failure::{Failure, OrFail as _, Outcome};
use super::files::check_folder;
use super::forecast::forecast;
use super::local::{LocalSearch, Machine};
use super::options::JsonArgs;
use super::prepare::{JobArgs, ModelFolder};
use clap::Args;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_worker::model::config::DecoderSpec;
use ropewalk_worker::model::fingerprint_dir;
use ropewalk_worker::model::weights::WeightFiles;
use std::path::PathBuf;

/// Search factors for a model on this machine, in one process.
///
/// Interrupted or killed, the same command goes on where it stopped.
#[derive(Args, Debug)]
pub struct SearchCommand {
    #[command(flatten)]
    job: JobArgs,

    // The heading of the options above would go on.
    #[command(flatten, next_help_heading = None::<&str>)]
    machine: MachineArgs,

    /// Folder for the results, and for what an interrupted search needs to go on
    #[arg(long, value_name = "DIR", default_value = "ropewalk-search")]
    out: PathBuf,

    #[command(flatten)]
    output: JsonArgs,
}

/// What of this machine is used.
#[derive(Args, Clone, Debug)]
pub struct MachineArgs {
    /// Candidates evaluated at the same time [default: one a core on the CPU, else one]
    #[arg(long, value_name = "K")]
    pub workers: Option<usize>,

    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The fingerprint of a model that can be loaded, as far as its configuration and the headers of its weights tell: what
/// is wrong with them should be said now, and not by every worker.
pub(super) fn checked_fingerprint(folder: &ModelFolder) -> Result<Fingerprint, Failure> {
    DecoderSpec::from_config_json(&folder.config_json).or_input()?;
    WeightFiles::open(&folder.path).or_input()?;
    fingerprint_dir(&folder.path).or_input()
}

pub(super) async fn run(args: SearchCommand) -> Outcome {
    check_folder(&args.out)?;
    let folder = ModelFolder::open(&args.job.model)?;
    let job = args.job.prepare(&folder, || checked_fingerprint(&folder), &[])?;
    let devices = args.machine.device.devices();
    if job.spec.search.slope_steps > 0 && !devices.is_cpu() {
        return Err(Failure::input_message(format!(
            "--slope-steps follow gradients, which are computed on the CPU in 32-bit numbers and not on --device {devices}: \
             take --device cpu, or leave them out"
        )));
    }
    let machine = Machine::new(args.machine, &folder, args.job.target_length, job.spec.samples.len())?;
    // Where an earlier run stopped, its budget was found worth while.
    if !args.out.join("store").exists() {
        let (machine, folder, job) = (machine.clone(), folder.clone(), job.clone());
        tokio::task::spawn_blocking(move || forecast(&machine, &folder, &job)).await.or_work()??;
    }
    LocalSearch { folder: &folder, job, out: &args.out, machine, json: args.output }.run().await
}
