//! The stages of a plan, one after another: what is done is passed over, what was begun goes on.

use super::ExtendArgs;
use super::folder::{Made, PlanFolder, StageResult, Standing};
use super::inputs::Inputs;
use crate::cli::factors::read_file;
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::output::{self, note};
use crate::cli::prepare::ModelFolder;
use crate::cli::stop::stop_signal;
use crate::driver::said::{PlanLine, state};
use crate::plan::identity::StageId;
use crate::plan::{FactorSource, Stage, Training, Work};
use anyhow::Context as _;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::JobId;
use ropewalk_worker::model::fingerprint_dir;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A plan at work.
pub struct Runner<'a> {
    pub(super) args: &'a ExtendArgs,
    pub(super) inputs: &'a Inputs,
    pub(super) out: PlanFolder,
    ids: HashMap<&'a str, StageId>,
    results: HashMap<&'a str, StageResult>,
}

/// A model that a stage works on.
pub(super) struct StageModel {
    pub(super) folder: ModelFolder,
    pub(super) fingerprint: Fingerprint,
}

/// Refuses a checkpoint that was put in the place of the one on which everything after it stands.
fn still_there(stage: &Stage, result: &StageResult) -> Outcome {
    let Work::Finetune(tune) = &stage.work else { return Ok(()) };
    let Training::Checkpoint { path } = &tune.training else { return Ok(()) };
    if Some(fingerprint_dir(path).or_input()?) == result.made.fingerprint {
        return Ok(());
    }
    let (name, path) = (&stage.name, path.display());
    Err(Failure::work_message(format!(
        "stage {name}: {path} is another checkpoint than the one that was used; --from {name} begins again with it"
    )))
}

// === impl Runner ===

impl<'a> Runner<'a> {
    /// In the plan's folder, which was opened.
    pub fn new(args: &'a ExtendArgs, inputs: &'a Inputs, out: PlanFolder) -> Result<Self, Failure> {
        out.record(&inputs.plan)?;
        Ok(Self { args, inputs, out, ids: HashMap::new(), results: HashMap::new() })
    }

    /// Runs what is not done.
    pub async fn run(mut self) -> Outcome {
        self.repeat().await?;
        let count = self.inputs.plan.stages.len();
        // Stages look out for it while they work, which keeps it from ending the process; between them nobody would.
        let mut stop = std::pin::pin!(stop_signal());
        for (number, stage) in self.inputs.plan.stages.iter().enumerate() {
            let (name, kind) = (stage.name.as_str(), stage.work.kind());
            let id = self.identity(stage)?;
            let step = format!("[{}/{count}] {name} ({kind})", number + 1);
            tokio::select! {
                biased;
                () = &mut stop => {
                    let message = format!("interrupted before stage {name}; the same command goes on where it stopped");
                    return Err(Failure::work_message(message));
                }
                () = std::future::ready(()) => {}
            }
            let mut standing = self.out.standing(name, id)?;
            if let Standing::Done(result) = &standing
                && let Some(gone) = self.gone(result)
            {
                let why = format!("{} is gone", gone.display());
                for name in self.inputs.plan.dependents(name) {
                    self.set_aside(name, &why).await?;
                }
                standing = Standing::New;
            }
            let result = match standing {
                Standing::Done(result) => {
                    still_there(stage, &result)?;
                    self.tell(
                        stage,
                        state::DONE_BEFORE,
                        Some(&result),
                        &format!("{step}: done before: {}", result.made.summary),
                    )?;
                    *result
                }
                standing => {
                    if !matches!(standing, Standing::Begun) {
                        self.set_aside(name, "made with other settings or inputs").await?;
                    }
                    let goes_on = matches!(standing, Standing::Begun);
                    let text = if goes_on { format!("{step}: going on") } else { step.clone() };
                    self.tell(stage, if goes_on { state::GOING_ON } else { state::BEGUN }, None, &text)?;
                    let folder = self.out.begin(name, id)?;
                    let started = Instant::now();
                    let made =
                        self.stage(stage, &folder).await.map_err(|failure| failure.context(format!("stage {name}")))?;
                    let seconds = started.elapsed().as_secs_f64();
                    let result = self.out.finish((name, kind), id, seconds, made)?;
                    let took = output::duration(seconds);
                    self.tell(
                        stage,
                        state::DONE,
                        Some(&result),
                        &format!("{step}: done in {took}: {}", result.made.summary),
                    )?;
                    result
                }
            };
            self.ids.insert(name, id);
            self.results.insert(name, result);
        }
        if self.args.output.json {
            return Ok(());
        }
        note("the plan is done; everything lies in");
        output::line(self.out.root().display().to_string())
    }

    async fn stage(&self, stage: &Stage, folder: &Path) -> Result<Made, Failure> {
        match &stage.work {
            Work::Search(search) => self.search(stage, search, folder).await,
            Work::Recover(recover) => self.recover(stage, recover, folder).await,
            Work::Finetune(tune) => self.finetune(stage, tune, folder).await,
            Work::Evaluate(evaluate) => self.evaluate(stage, evaluate, folder).await,
            Work::Export(export) => self.export(stage, export),
        }
    }

    fn tell(&self, stage: &Stage, state: &str, result: Option<&StageResult>, text: &str) -> Outcome {
        if self.args.output.json {
            let result = result.map(serde_json::to_value).transpose().or_work()?;
            return output::event(&PlanLine { result, ..line(stage, state) });
        }
        note(text);
        Ok(())
    }

    /// Tells programs which job a stage will wait for, before it is launched.
    pub(super) fn tell_job(&self, stage: &Stage, job: &JobId) -> Outcome {
        if self.args.output.json {
            output::event(&PlanLine { job: Some(job.to_string()), ..line(stage, state::JOB) })?;
        }
        Ok(())
    }

    /// What a stage made in the plan's folder and is no longer there.
    fn gone(&self, result: &StageResult) -> Option<PathBuf> {
        let Made { factors, model, .. } = &result.made;
        // A checkpoint that was trained before lies elsewhere, under its whole path.
        let made = [factors, model].into_iter().flatten().filter(|path| path.is_relative());
        made.map(|path| self.out.root().join(path)).find(|path| !path.exists())
    }

    /// Puts out of the way what is to be made again.
    pub async fn repeat(&self) -> Outcome {
        for name in self.args.from.iter().flat_map(|from| self.inputs.plan.dependents(from)) {
            self.set_aside(name, "to be repeated").await?;
        }
        Ok(())
    }

    async fn set_aside(&self, name: &str, why: &str) -> Outcome {
        self.end_former(name).await?;
        if let Some(to) = self.out.set_aside(name, &self.inputs.folder.name)? {
            note(format!("{name}: {why}; what was there is now in {}", to.display()));
        }
        Ok(())
    }

    /// Everything that determines a stage's result: its settings, what it needs, and what it reads besides.
    fn identity(&self, stage: &Stage) -> Result<StageId, Failure> {
        let needs: Vec<StageId> = stage.needs().iter().filter_map(|need| self.ids.get(need).copied()).collect();
        let digests = self.inputs.digests;
        let mut inputs = vec![("model", *self.inputs.fingerprint.as_bytes())];
        match &stage.work {
            Work::Search(_) | Work::Recover(_) | Work::Evaluate(_) => {
                inputs.push(("valid", digests.valid));
                // The draw depends on the whole plan: what one stage may not see, another is judged on.
                let mut draw = [0; 32];
                let (longest, held_out) = (self.inputs.plan.longest(), self.inputs.plan.held_out as u64);
                draw[..4].copy_from_slice(&longest.to_le_bytes());
                draw[8..16].copy_from_slice(&held_out.to_le_bytes());
                draw[16..24].copy_from_slice(&self.inputs.plan.seed.to_le_bytes());
                inputs.push(("draw", draw));
            }
            Work::Finetune(tune) if tune.needs_data() => inputs.push(("data", digests.data)),
            Work::Finetune(_) | Work::Export(_) => {}
        }
        for source in stage.work.factor_sources() {
            if let FactorSource::File(path) = source {
                let content =
                    std::fs::read(path).with_context(|| format!("cannot read {}", path.display())).or_input()?;
                inputs.push(("file", *blake3::hash(&content).as_bytes()));
            }
        }
        StageId::of(stage, &needs, &inputs).or_work()
    }

    fn result(&self, name: &str) -> Result<&StageResult, Failure> {
        // The plan's order has every stage after those that it needs.
        self.results.get(name).ok_or_else(|| Failure::work_message(format!("stage {name} has no result yet")))
    }

    /// The model that a stage works on; one that a stage made must still be what it was.
    pub(super) fn model_of(&self, stage: &Stage) -> Result<StageModel, Failure> {
        let Some(from) = &stage.from else {
            return Ok(StageModel {
                folder: ModelFolder::open(&self.inputs.folder.path)?,
                fingerprint: self.inputs.fingerprint,
            });
        };
        let made = &self.result(from)?.made;
        let path = made.model.as_ref().map(|path| self.out.root().join(path));
        let path = path.ok_or_else(|| Failure::work_message(format!("stage {from} made no model")))?;
        let repeat = || format!("the model that stage {from} made has changed; --from {from} makes it again");
        let fingerprint = fingerprint_dir(&path).with_context(repeat).or_work()?;
        if made.fingerprint != Some(fingerprint) {
            return Err(Failure::work_message(repeat()));
        }
        Ok(StageModel { folder: ModelFolder::open(&path)?, fingerprint })
    }

    /// The file with a source's factors.
    pub(super) fn factors_path(&self, source: &FactorSource) -> Result<PathBuf, Failure> {
        match source {
            FactorSource::File(path) => Ok(path.clone()),
            FactorSource::Stage(name) => {
                let path = self.result(name)?.made.factors.as_ref().map(|path| self.out.root().join(path));
                path.ok_or_else(|| Failure::work_message(format!("stage {name} found no factors")))
            }
        }
    }

    /// A source's factors, checked against the model.
    pub(super) fn factors(&self, source: &FactorSource) -> Result<FactorFile, Failure> {
        read_file(&self.factors_path(source)?, &self.inputs.folder.description)
    }

    /// A path below the plan's folder, as results write it.
    pub(super) fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.out.root()).unwrap_or(path).to_owned()
    }
}

fn line(stage: &Stage, state: &str) -> PlanLine {
    let (name, kind) = (stage.name.clone(), stage.work.kind().to_owned());
    PlanLine { stage: Some(name), kind: Some(kind), state: state.to_owned(), ..PlanLine::default() }
}
