//! What a plan is run with: the model and the documents, checked as a whole before anything runs.

use super::ExtendArgs;
use super::documents::{Drawn, digest};
use super::foreseen::{self, FactorFiles};
use crate::cli::factors::read_file;
use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::options::SourceArgs;
use crate::cli::prepare::ModelFolder;
use crate::cli::search::checked_fingerprint;
use crate::plan::{FactorSource, InvalidPlan, Plan, Problem, Stage, Training, Work};
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::ModelIdentity;
use ropewalk_shared::training::TrainingPlace;
use ropewalk_worker::model::weights::WeightFiles;
use std::path::{Path, PathBuf};

/// The output head, which checkpoints may leave out where it is the embedding.
const UNTIED: &str = "lm_head.weight";

/// A plan with everything it needs.
pub struct Inputs {
    /// The plan.
    pub plan: Plan,
    /// The model that is extended.
    pub folder: ModelFolder,
    /// What that model is.
    pub fingerprint: Fingerprint,
    /// Documents to train on.
    pub data: SourceArgs,
    /// The documents of `valid` by use.
    pub drawn: Drawn,
    /// What `data` and `valid` are.
    pub digests: Digests,
}

/// Digests of the documents.
#[derive(Clone, Copy, Debug)]
pub struct Digests {
    /// Of those to train on.
    pub data: [u8; 32],
    /// Of those to search and to judge on.
    pub valid: [u8; 32],
}

// === impl Inputs ===

impl Inputs {
    /// Opens everything and checks the plan against it.
    pub fn open(args: &ExtendArgs, plan: Plan) -> Result<Self, Failure> {
        let (inputs, problems) = Self::checked(args, plan)?;
        match (inputs, problems.is_empty()) {
            (Some(inputs), true) => Ok(inputs),
            _ => Err(Failure::input(InvalidPlan { problems })),
        }
    }

    /// As [`Self::open`], with the problems beside the plan; without documents where they are a problem.
    pub fn checked(args: &ExtendArgs, plan: Plan) -> Result<(Option<Self>, Vec<Problem>), Failure> {
        let folder = ModelFolder::open(args.model()?)?;
        let fingerprint = checked_fingerprint(&folder)?;
        let identity = identity(&folder, fingerprint);
        let mut problems = plan.problems_with(&identity, &folder.description);
        let mut read = FactorFiles::new();
        for stage in &plan.stages {
            files(stage, &folder, &mut read, &mut problems);
            let mut problem =
                |field: &str, reason: String| problems.push(Problem::of_stage(&stage.name, field, reason));
            foreseen::check(&plan, stage, (&folder, fingerprint), &read, &mut problem);
        }
        let source = |paths: &[PathBuf]| {
            let (none, paths) = (Vec::new(), paths.to_vec());
            if args.token_ids {
                SourceArgs { data: none, tokens: paths }
            } else {
                SourceArgs { data: paths, tokens: none }
            }
        };
        let (data, valid) = (source(&args.data), source(&args.valid));
        if plan.trains() && args.data.is_empty() {
            problems.push(Problem::of_plan("--data", "is missing: the plan trains on documents"));
        }
        let mut digest = |option: &str, paths: &[PathBuf]| match digest(paths) {
            Ok(digest) => digest,
            Err(failure) => {
                problems.push(Problem::of_plan(option, failure));
                [0; 32]
            }
        };
        let digests = Digests { data: digest("--data", &args.data), valid: digest("--valid", &args.valid) };
        let drawn = match Drawn::draw(&plan, &folder, &valid) {
            Ok(drawn) => Some(drawn),
            Err(failure) => {
                problems.push(Problem::of_plan("--valid", failure));
                None
            }
        };
        problems.extend(unplain_folder(args, &plan));
        // Documents that are not there are missed by whoever reads them.
        let mut told: Vec<Problem> = Vec::new();
        for problem in problems {
            if !told.contains(&problem) {
                told.push(problem);
            }
        }
        let inputs = drawn.map(|drawn| Self { plan, folder, fingerprint, data, drawn, digests });
        Ok((inputs, told))
    }
}

/// Workers find the plan's folder by its name, which becomes part of a training's job.
fn unplain_folder(args: &ExtendArgs, plan: &Plan) -> Option<Problem> {
    let is_leased = |stage: &Stage| matches!(&stage.work, Work::Finetune(tune) if matches!(tune.training, Training::Embedded { .. }));
    if args.coordinator.is_none() || args.train_here || !plan.stages.iter().any(is_leased) {
        return None;
    }
    let out = std::path::absolute(&args.out).ok()?;
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let reason = format!(
        "{}: workers find the folder by its name, which must be letters, digits, '-', '_' or '.', the first a letter or digit",
        args.out.display()
    );
    (!TrainingPlace::can_be_named(&name)).then(|| Problem::of_plan("--out", reason))
}

/// The model as jobs name it.
pub fn identity(folder: &ModelFolder, fingerprint: Fingerprint) -> ModelIdentity {
    ModelIdentity { name: folder.name.clone(), fingerprint, config_json: folder.config_json.clone() }
}

/// What a stage names outside the plan: factor files, checkpoints, programs, settings of the training.
fn files(stage: &Stage, base: &ModelFolder, read: &mut FactorFiles, problems: &mut Vec<Problem>) {
    let mut problem = |field: &str, reason: String| problems.push(Problem::of_stage(&stage.name, field, reason));
    for source in stage.work.factor_sources() {
        let FactorSource::File(path) = source else { continue };
        match read_file(path, &base.description) {
            Err(failure) => problem("factors", failure.to_string()),
            Ok(file) if file.target_length.is_none() => {
                problem("factors", format!("{} does not say for which length (target_length)", path.display()));
            }
            Ok(file) => _ = read.insert(path.clone(), file),
        }
    }
    let Work::Finetune(tune) = &stage.work else { return };
    match &tune.training {
        Training::Checkpoint { path } => {
            if let Err(failure) = same_architecture(path, base) {
                problem("checkpoint", failure.to_string());
            }
        }
        Training::Command { command, .. } => {
            let program = command.first().map_or("", String::as_str);
            if !is_program(program) {
                problem("command", format!("{program:?} is no program, neither a file nor in PATH"));
            }
        }
        Training::Embedded { settings } => super::finetune::check(settings, base, &mut problem),
    }
}

/// Whether a command of this name can be started, as far as names tell.
fn is_program(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// A checkpoint's folder whose model has the shape of `base`, and weights that fit it.
pub fn same_architecture(path: &Path, base: &ModelFolder) -> Result<(ModelFolder, Fingerprint), Failure> {
    let folder = ModelFolder::open(path)?;
    let (theirs, ours) = (&folder.description, &base.description);
    let fields = [
        ("model_type", theirs.model_type.clone(), ours.model_type.clone()),
        ("layers", theirs.layers.to_string(), ours.layers.to_string()),
        ("hidden_size", theirs.hidden_size.to_string(), ours.hidden_size.to_string()),
        ("vocab_size", theirs.vocab_size.to_string(), ours.vocab_size.to_string()),
        ("rotary dimensions", theirs.geometry.rotary_dim.to_string(), ours.geometry.rotary_dim.to_string()),
        ("rope_theta", theirs.geometry.theta.to_string(), ours.geometry.theta.to_string()),
        ("original length", theirs.original_length.to_string(), ours.original_length.to_string()),
    ];
    let differ: Vec<String> = fields
        .into_iter()
        .filter(|(_, theirs, ours)| theirs != ours)
        .map(|(field, theirs, ours)| format!("{field} is {theirs} and not {ours}"))
        .collect();
    if !differ.is_empty() {
        let message = format!("{} is a checkpoint of another architecture: {}", path.display(), differ.join(", "));
        return Err(Failure::input_message(message));
    }
    let fingerprint = checked_fingerprint(&folder)?;
    // Loading would tell as well, and take the memory of a whole model.
    let shapes = |path: &Path| WeightFiles::open(path).map(|files| files.shapes()).or_input();
    let (theirs, ours) = (shapes(&folder.path)?, shapes(&base.path)?);
    for (name, shape) in ours.iter().filter(|(name, _)| *name != UNTIED) {
        let got = match theirs.get(name) {
            Some(got) if got == shape => continue,
            Some(got) => format!("is {got:?} and not {shape:?}"),
            None => "is missing".to_owned(),
        };
        let message = format!("{} is not a whole checkpoint of the model: tensor {name} {got}", path.display());
        return Err(Failure::input_message(message));
    }
    Ok((folder, fingerprint))
}
