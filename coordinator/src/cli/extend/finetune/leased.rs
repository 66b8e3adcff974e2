//! Training by a worker of a coordinator, which sees the plan's folder as this process does.

use super::super::folder::write_bytes;
use super::super::inputs::{identity, same_architecture};
use super::super::remote::{patiently, unless_away};
use super::super::runner::{Runner, StageModel};
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::finetune::data;
use crate::cli::options::again;
use crate::cli::output::note;
use crate::cli::watch::{ended_well, follow_elsewhere};
use crate::client::{Client, ClientError};
use crate::plan::{FinetuneStage, Stage};
use ropewalk_shared::event::{Event, JobEvent};
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::status::JobState;
use ropewalk_shared::training::{StepRecord, TrainingJob, TrainingPlace, write_sequences};
use serde_json::{Map, Value};
use std::path::Path;

/// What a job's events say of a training.
#[derive(Default)]
struct Told {
    curve: Vec<StepRecord>,
    fingerprint: Option<Fingerprint>,
    /// It was over when it was launched: nobody was asked.
    was_done: bool,
}

impl Runner<'_> {
    /// Has a worker train, and returns the steps.
    pub(super) async fn train_elsewhere(
        &self,
        url: &str,
        stage: &Stage,
        model: &StageModel,
        (tune, settings): (&FinetuneStage, &Map<String, Value>),
        place: &Path,
    ) -> Result<Vec<StepRecord>, Failure> {
        let settings = self.training(tune, settings)?;
        settings.check(&model.folder.description).or_input()?;
        self.show_to_workers(model)?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folders = TrainingPlace { folder: name(self.out.root()), stage: stage.name.clone(), output: name(place) };
        let packed = tokio::task::block_in_place(|| data::sequences(&model.folder, &self.inputs.data, &settings))?;
        let (bytes, sequences) = write_sequences(&packed);
        drop(packed);
        write_bytes(&folders.sequences(self.out.root()), &bytes)?;
        let mut job = TrainingJob {
            name: format!("{}-{}", self.inputs.plan.name, stage.name),
            model: identity(&model.folder, model.fingerprint),
            settings,
            sequences,
            place: folders,
            repetition: self.out.times_set_aside(&stage.name),
        };
        let told = loop {
            self.tell_job(stage, &job.id())?;
            self.remember(&stage.name, url, &job.id())?;
            let told = patiently(async || self.attempt_training(url, &job).await).await?;
            match self.check_here(place, &stage.name, told.fingerprint) {
                Ok(()) => break told,
                // The coordinator would never have that job done again.
                Err(_) if told.was_done => {
                    note(format!("{} was trained before, but that model is no longer here: once more", stage.name));
                    job.repetition += 1;
                }
                Err(failure) => return Err(failure),
            }
        };
        // Large, and of no further use. One that stays does no harm.
        let _ = std::fs::remove_file(job.place.sequences(self.out.root()));
        Ok(told.curve)
    }

    /// The coordinator only knows what a worker said; what lies here decides.
    fn check_here(&self, place: &Path, stage: &str, told: Option<Fingerprint>) -> Outcome {
        let checked = same_architecture(place, &self.inputs.folder);
        let (_, fingerprint) = checked.map_err(|failure| {
            Failure::work_message(format!(
                "a worker has trained the model, but it is not here: {failure}; --out must be the folder that workers see \
                 below their --train-root"
            ))
        })?;
        if told == Some(fingerprint) {
            return Ok(());
        }
        Err(Failure::work_message(format!(
            "{} is not the model that the worker made; --from {stage} makes it again",
            place.display()
        )))
    }

    async fn attempt_training(&self, url: &str, job: &TrainingJob) -> Result<Result<Told, Failure>, ClientError> {
        let access = match self.args.access.to(url) {
            Ok(access) => access,
            Err(failure) => return Ok(Err(failure)),
        };
        let client = Client::connect_with(url, &access).await?;
        let (id, created) = client.launch_training(job).await?;
        if created {
            note(format!("launched as {id}; `ropewalk watch {id}{}` follows it too", again(url, &self.args.access)));
        }
        let was_done = !created && client.job(id.as_str()).await?.state == JobState::Done;
        let mut told = Told { was_done, ..Told::default() };
        let mut hear = |event: &Event| match &event.what {
            JobEvent::TrainingStep(step) => told.curve.push(*step),
            JobEvent::Trained { fingerprint } => told.fingerprint = Some(*fingerprint),
            _ => {}
        };
        let status = match follow_elsewhere(&client, id.as_str(), self.args.of_jobs(), &mut hear).await {
            Ok(status) => status,
            Err(failure) => return unless_away(failure),
        };
        Ok(ended_well(&status).map(|()| told))
    }
}
