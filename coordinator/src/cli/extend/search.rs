//! Search and recovery: jobs of a coordinator, in this process or elsewhere.

use super::folder::{Made, write};
use super::inputs::identity;
use super::remote::{patiently, unless_away};
use super::runner::{Runner, StageModel};
use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::local::{LocalSearch, Machine};
use crate::cli::needle::NeedleArgs;
use crate::cli::options::again;
use crate::cli::output::note;
use crate::cli::prepare::{PreparedJob, samples_of, short_samples};
use crate::cli::results::Results;
use crate::cli::watch::{ended_well, follow_elsewhere};
use crate::client::{Client, ClientError, JobResult};
use crate::plan::{FactorSource, RecoverStage, SearchStage, Stage, job};
use anyhow::Context as _;
use ropewalk_shared::factor_file::{FactorFile, FactorWindow};
use ropewalk_shared::job::SearchOptions;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use std::path::Path;

/// A search of a stage: at which length, how, and from where.
struct Wanted<'a> {
    length: u32,
    samples: usize,
    options: &'a SearchOptions,
    start: Vec<Rescale>,
}

impl Runner<'_> {
    /// Searches factors for one length. On a fine-tuned model this is the second search: it starts from the factors of the
    /// training, rescaled to the new ratio; what it finds is, as always, relative to the original RoPE.
    pub(super) async fn search(&self, stage: &Stage, search: &SearchStage, out: &Path) -> Result<Made, Failure> {
        let start = search.start.iter().map(|source| self.stretched(source, search.length));
        let start = start.collect::<Result<Vec<_>, _>>()?;
        let model = self.model_of(stage)?;
        let wanted = Wanted { length: search.length, samples: search.samples, options: &search.options, start };
        let result = self.find(stage, &model, wanted, out).await?;
        Results::new(&model.folder, &result).write(out)?;
        let file = &result.factors;
        let summary = format!("{} tokens, {}", search.length, worth(file));
        Ok(Made { factors: Some(self.below(&out.join("factors.json"))), summary, ..Made::default() })
    }

    /// Searches factors for short lengths and joins them with the long ones to a table. Each set serves every length up to
    /// the one it was searched for.
    pub(super) async fn recover(&self, stage: &Stage, recover: &RecoverStage, out: &Path) -> Result<Made, Failure> {
        let (model, long) = (self.model_of(stage)?, self.factors(&recover.long)?);
        // Without the short sets a table has one window, so there is always a last length below it.
        let (mut windows, mut from, mut summary) = (Vec::new(), 1, Vec::new());
        for &length in &recover.lengths {
            let folder = out.join(length.to_string());
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))
                .or_work()?;
            let start = match recover.options.strategy.takes_init() {
                true => vec![self.stretched(&recover.long, length)?],
                false => Vec::new(),
            };
            let wanted = Wanted { length, samples: recover.samples, options: &recover.options, start };
            let result = self.find(stage, &model, wanted, &folder).await?;
            write(&folder.join("factors.json"), &result.factors_json)?;
            windows.push(FactorWindow { from_length: from, rescale: result.factors.rescale() });
            summary.push(format!("{length} tokens: {}", worth(&result.factors)));
            from = length + 1;
        }
        for source in &recover.keep {
            let file = self.factors(source)?;
            let length = file.target_length.unwrap_or(from);
            windows.push(FactorWindow { from_length: from, rescale: file.rescale() });
            from = length + 1;
        }
        windows.push(FactorWindow { from_length: from, rescale: long.rescale() });
        let mut table = long;
        table.set_windows(windows).or_work()?;
        let path = out.join("factors.json");
        write(&path, &table.to_json().or_work()?)?;
        Ok(Made { factors: Some(self.below(&path)), summary: summary.join("; "), ..Made::default() })
    }

    /// Factors rescaled to another length's ratio.
    pub(super) fn stretched(&self, source: &FactorSource, length: u32) -> Result<Rescale, Failure> {
        let file = self.factors(source)?;
        let original = f64::from(self.inputs.folder.description.original_length);
        let ratio = |length: u32| f64::from(length) / original;
        let origin = file.target_length.map_or_else(|| file.extension_ratio.unwrap_or(1.0), ratio);
        let rescale = file.rescale();
        if rescale.has_pair_attention() {
            note(format!(
                "{source}: its attention factors of single pairs are left out: searches and trainings begin without any"
            ));
        }
        Ok(rescale.without_pair_attention().for_ratio(origin, ratio(length)))
    }

    async fn find(
        &self,
        stage: &Stage,
        model: &StageModel,
        wanted: Wanted<'_>,
        out: &Path,
    ) -> Result<JobResult, Failure> {
        let plan = &self.inputs.plan;
        let mut options = wanted.options.clone();
        let documents = self.inputs.drawn.searched(wanted.length, wanted.samples);
        let others = self.inputs.drawn.held_out_named(wanted.length, plan.held_out)?;
        let (short, short_held_out) = short_samples(&mut options.keep_short, (&documents, &others))?;
        let needles = NeedleArgs::default().plan(options.objective, options.seed)?;
        let (searched, held_out) = samples_of(&model.folder, (&documents, &others), options.objective, needles)?;
        let ids = |samples: &[Sample]| samples.iter().map(Sample::id).collect();
        let identity = identity(&model.folder, model.fingerprint);
        let samples = (ids(&searched), ids(&held_out));
        let spec = job((plan, stage), identity, (wanted.length, &options), wanted.start, samples);
        let samples = searched.into_iter().chain(short).chain(held_out).chain(short_held_out).collect();
        let job = PreparedJob { spec, samples };
        match &self.args.coordinator {
            Some(url) => {
                self.show_to_workers(model)?;
                self.tell_job(stage, &job.spec.id())?;
                self.remember(&stage.name, url, &job.spec.id())?;
                patiently(async || self.attempt(url, &job).await).await
            }
            None => {
                let samples = job.spec.samples.len();
                let machine = Machine::new(self.args.machine.clone(), &model.folder, wanted.length, samples)?;
                LocalSearch { folder: &model.folder, job, out, machine, json: self.args.output }.search().await
            }
        }
    }

    /// Workers find models below one folder: the model that the plan began with is linked there beside those it made.
    ///
    /// Another of the same name is told apart by its fingerprint, which is what workers look for.
    pub(super) fn show_to_workers(&self, model: &StageModel) -> Result<(), Failure> {
        let (models, path) = (self.out.root().join("models"), &model.folder.path);
        let name = path.file_name().unwrap_or_default();
        let leads_there =
            |link: &Path| link.canonicalize().ok().zip(path.canonicalize().ok()).is_some_and(|(to, model)| to == model);
        let mut link = models.join(name);
        if link.symlink_metadata().is_ok() && !leads_there(&link) {
            let mut name = name.to_owned();
            name.push(format!("-{}", model.fingerprint.short()));
            link = models.join(name);
        }
        if leads_there(&link) {
            return Ok(());
        }
        // Where the model was before it was moved: a name with its fingerprint is nobody else's.
        if link.is_symlink() {
            std::fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display())).or_work()?;
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(path, &link).with_context(|| format!("cannot link {}", link.display())).or_work()?;
        Ok(())
    }

    async fn attempt(&self, url: &str, job: &PreparedJob) -> Result<Result<JobResult, Failure>, ClientError> {
        let access = match self.args.access.to(url) {
            Ok(access) => access,
            Err(failure) => return Ok(Err(failure)),
        };
        let client = Client::connect_with(url, &access).await?;
        client.put_samples(&job.samples, |_, _| ()).await?;
        let (id, created) = client.launch(&job.spec).await?;
        if created {
            note(format!("launched as {id}; `ropewalk watch {id}{}` follows it too", again(url, &self.args.access)));
        }
        let status = match follow_elsewhere(&client, id.as_str(), self.args.of_jobs(), &mut |_| ()).await {
            Ok(status) => status,
            Err(failure) => return unless_away(failure),
        };
        if let Err(failure) = ended_well(&status) {
            return Ok(Err(failure));
        }
        client.result(id.as_str()).await.map(Ok)
    }
}

/// Perplexity in a line: on held-out documents where there are any.
fn worth(file: &FactorFile) -> String {
    let objective = file.objective.as_ref();
    match objective.map(|objective| (objective.held_out, objective.value)) {
        Some((Some(held_out), _)) => format!("held-out perplexity {held_out:.3}"),
        Some((None, value)) => format!("perplexity {value:.3}"),
        None => "not measured".to_owned(),
    }
}
