//! An order: everything that a plan is run with, as a file in the plan's folder that a coordinator's process reads.

use super::ExtendArgs;
use super::folder::write_bytes;
use super::inputs::Inputs;
use crate::cli::access::AccessArgs;
use crate::cli::device::DeviceRecord;
use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::options::JsonArgs;
use crate::cli::search::MachineArgs;
use crate::driver::order;
use crate::plan::{FactorSource, Plan, Training, Work};
use anyhow::Context as _;
use ropewalk_shared::plan::OrderId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The form of an order.
const SCHEMA: &str = "ropewalk.order/v1";

/// What is to be carried out. Paths are absolute, but for those in the plan.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    schema: String,
    /// The plan's text.
    plan: String,
    /// Where paths in the plan begin; absent where there are none.
    directory: Option<PathBuf>,
    model: PathBuf,
    data: Vec<PathBuf>,
    valid: Vec<PathBuf>,
    token_ids: bool,
    train_here: bool,
    workers: Option<usize>,
    device: DeviceRecord,
}

// === impl Order ===

impl Order {
    /// The order that the arguments make, whose plan has this text.
    pub fn of(args: &ExtendArgs, inputs: &Inputs, plan: String) -> Result<Self, Failure> {
        let absolute =
            |path: &PathBuf| std::path::absolute(path).with_context(|| path.display().to_string()).or_input();
        let all = |paths: &[PathBuf]| paths.iter().map(absolute).collect::<Result<Vec<_>, _>>();
        let here = || std::env::current_dir().context("cannot tell the current folder").or_work();
        Ok(Self {
            schema: SCHEMA.to_owned(),
            plan,
            directory: has_paths(&inputs.plan).then(here).transpose()?,
            model: inputs.folder.path.clone(),
            data: all(&args.data)?,
            valid: all(&args.valid)?,
            token_ids: args.token_ids,
            train_here: args.train_here,
            workers: args.machine.workers,
            device: args.machine.device.record(),
        })
    }

    /// Writes it into the plan's folder. One that is there already, and may be carried out now, stays as it is.
    pub fn write(&self, folder: &Path) -> Result<OrderId, Failure> {
        let content = serde_json::to_string_pretty(self).or_work()? + "\n";
        let id = OrderId::of(content.as_bytes());
        if order::read(folder, id).is_err() {
            let path = id.path(folder);
            let made = path.parent().map_or(Ok(()), fs::create_dir_all);
            made.with_context(|| format!("cannot create the folder of {}", path.display())).or_work()?;
            write_bytes(&path, content.as_bytes())?;
        }
        Ok(id)
    }

    /// Reads the one that was launched.
    pub fn read(folder: &Path, id: OrderId) -> Result<Self, Failure> {
        let content = order::read(folder, id).or_input()?;
        let path = id.path(folder);
        let order: Self = serde_json::from_slice(&content)
            .with_context(|| format!("{} is no order of this version; launch the plan again", path.display()))
            .or_input()?;
        if order.schema == SCHEMA {
            return Ok(order);
        }
        let message = format!("{} has schema {:?}, this version reads {SCHEMA:?}", path.display(), order.schema);
        Err(Failure::input_message(message))
    }

    /// The plan, read where its paths begin, and the arguments that it is run with.
    pub fn arguments(
        self,
        out: PathBuf,
        coordinator: String,
        access: AccessArgs,
    ) -> Result<(Plan, ExtendArgs), Failure> {
        if let Some(directory) = &self.directory {
            let entered = std::env::set_current_dir(directory);
            let missing = || format!("the plan names files below {}, which is not here", directory.display());
            entered.with_context(missing).or_input()?;
        }
        let plan = Plan::read(&self.plan).or_input()?;
        let args = ExtendArgs {
            plan: None,
            preset: None,
            model: Some(self.model),
            data: self.data,
            valid: self.valid,
            token_ids: self.token_ids,
            out,
            coordinator: Some(coordinator),
            access,
            train_here: self.train_here,
            detach: false,
            check: false,
            tflops: None,
            from: None,
            status: false,
            machine: MachineArgs { workers: self.workers, device: self.device.try_into().or_input()? },
            output: JsonArgs { json: true },
            carried: true,
        };
        Ok((plan, args))
    }
}

/// Whether the plan names anything by a path that depends on where it is read.
fn has_paths(plan: &Plan) -> bool {
    plan.stages.iter().any(|stage| {
        let file = |source: &&FactorSource| matches!(source, FactorSource::File(path) if path.is_relative());
        let training = match &stage.work {
            Work::Finetune(tune) => match &tune.training {
                Training::Checkpoint { path } => path.is_relative(),
                Training::Command { .. } => true,
                Training::Embedded { .. } => false,
            },
            Work::Search(_) | Work::Recover(_) | Work::Evaluate(_) | Work::Export(_) => false,
        };
        training || stage.work.factor_sources().iter().any(file)
    })
}
