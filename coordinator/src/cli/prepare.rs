//! From a model folder and documents to a job: what `search` and `launch` do before anything is evaluated.

use super::failure::{Failure, OrFail as _};
use super::init::{self, Init};
use super::needle::NeedleArgs;
use super::options::{SamplingArgs, SearchArgs, SourceArgs, tokens};
use super::output::note;
use super::typed::wrong_job;
#[cfg(feature = "local")]
use crate::documents::Whole;
use crate::documents::{DocumentTokenizer, Documents, NamedSample, NeedlePlan, PER_DOCUMENT, SamplePlan, SampleSets};
use crate::plan::stand_ins;
use anyhow::Context as _;
use clap::Args;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::{JobSpec, ModelIdentity, SearchObjective, SearchOptions, ShortWindow, StrategyKind};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::sample::Sample;
use std::path::{Path, PathBuf};

/// Largest config.json read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A model's folder and what its config.json says.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The folder, absolute.
    pub path: PathBuf,
    /// Its last component, by which workers find it.
    pub name: String,
    /// The text of config.json.
    pub config_json: String,
    /// What that says of window and RoPE.
    pub description: ModelDescription,
}

/// Documents of a command, with the tokenizer where one is needed.
pub struct Source<'a> {
    paths: &'a [PathBuf],
    tokenizer: Option<DocumentTokenizer>,
    vocab_size: usize,
    #[cfg(feature = "local")]
    begin: Option<u32>,
}

/// The search that `search` and `launch` are to start.
#[derive(Args, Debug)]
pub struct JobArgs {
    /// Folder of the model: config.json, weights and, for --data, tokenizer.json
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// The window to reach, in tokens, for example 32768, 128k or 2m
    #[arg(long, value_name = "N", value_parser = tokens)]
    pub target_length: u32,

    /// Name of the job [default: the model's and the length]
    #[arg(long)]
    name: Option<String>,

    #[command(flatten)]
    search: SearchArgs,

    #[command(flatten)]
    needle: NeedleArgs,
}

/// A job ready to be launched, and the samples it names.
#[derive(Clone)]
pub struct PreparedJob {
    /// The job.
    pub spec: JobSpec,
    /// Its samples, the search's first.
    pub samples: Vec<Sample>,
}

// === impl ModelFolder ===

impl ModelFolder {
    /// Reads the config.json of a folder.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let config = path.join("config.json");
        let read = || -> anyhow::Result<String> {
            let size = std::fs::metadata(&config)?.len();
            anyhow::ensure!(size <= MAX_CONFIG_BYTES, "it has {size} bytes, which is no config.json");
            Ok(std::fs::read_to_string(&config)?)
        };
        let config_json = read().with_context(|| {
            format!(
                "{}: cannot read {}; name the folder of a Hugging Face checkpoint",
                path.display(),
                config.display()
            )
        });
        let config_json = config_json.or_input()?;
        let description = ModelDescription::from_config_json(&config_json)
            .with_context(|| config.display().to_string())
            .or_input()?;
        let path = path.canonicalize().with_context(|| path.display().to_string()).or_input()?;
        let name = path.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Self { path, name, config_json, description })
    }

    /// Makes ready to read documents for this model.
    pub fn source<'a>(&self, args: &'a SourceArgs) -> Result<Source<'a>, Failure> {
        let text = !args.data.is_empty();
        let tokenizer = text.then(|| DocumentTokenizer::open(&self.path, &self.description)).transpose().or_input()?;
        let paths = if text { &args.data } else { &args.tokens };
        Ok(Source {
            paths,
            #[cfg(feature = "local")]
            begin: tokenizer.as_ref().map_or(self.description.bos_token_id, DocumentTokenizer::bos),
            tokenizer,
            vocab_size: self.description.vocab_size,
        })
    }
}

// === impl Source ===

impl Source<'_> {
    fn documents(&self) -> Documents<'_> {
        match &self.tokenizer {
            Some(tokenizer) => Documents::Text { paths: self.paths, tokenizer },
            None => Documents::Tokens { paths: self.paths, vocab_size: self.vocab_size },
        }
    }

    #[cfg(feature = "local")]
    /// The first `limit` documents that are long enough, cut to `length` tokens.
    pub fn first(&self, length: u32, limit: usize) -> Result<Vec<Sample>, Failure> {
        let (named, tally) = self.documents().in_order(length as usize, limit).or_input()?;
        if tally.too_short() > 0 || tally.binary > 0 {
            note(format!("{tally}"));
        }
        // A document of token ids may be longer than asked for.
        let cut = |named: NamedSample| Sample::new(named.sample.tokens()[..length as usize].to_vec());
        named.into_iter().map(cut).collect::<Result<_, _>>().or_input()
    }

    #[cfg(feature = "local")]
    /// Documents as whole as limits allow: `length` tokens of each at most, until there are `budget` in all.
    pub fn whole(&self, length: usize, budget: u64) -> Result<Whole, Failure> {
        self.documents().whole(length, budget).or_input()
    }

    /// The id that documents begin with, where the model has one.
    #[cfg(feature = "local")]
    pub fn begin(&self) -> Option<u32> {
        self.begin
    }

    /// Draws the samples of a search.
    pub fn draw(&self, plan: &SamplePlan) -> Result<SampleSets, Failure> {
        self.documents().draw(plan).or_input()
    }
}

// === impl JobArgs ===

impl JobArgs {
    /// What `--init` names.
    pub fn init(&self) -> &[String] {
        &self.search.init
    }

    /// Prepares the job that was typed; of what `--init` names, jobs were fetched before.
    pub fn prepare(
        &self,
        folder: &ModelFolder,
        fingerprint: impl FnOnce() -> Result<Fingerprint, Failure>,
        fetched: &[Init],
    ) -> Result<PreparedJob, Failure> {
        let mut options = self.search.options().or_input()?;
        if options.strategy == StrategyKind::Ropewalk && self.search.population.is_some() {
            note(
                "--population has no effect: the strategy ropewalk starts from the published methods, and has no first population",
            );
        }
        let ratio = f64::from(self.target_length) / f64::from(folder.description.original_length);
        options.init = init::read(&self.search.init, fetched, &folder.description, ratio)?;
        let needles = self.needle.plan(options.objective, options.seed)?;
        let inputs = (&self.source, self.sampling, options, needles);
        prepare(folder, fingerprint, self.name.as_deref(), self.target_length, inputs)
    }
}

/// Reads, tokenises and draws the samples, and states the job; everything is checked before anything is launched, and the
/// options before weights and documents are read, which may take minutes.
pub fn prepare(
    folder: &ModelFolder,
    fingerprint: impl FnOnce() -> Result<Fingerprint, Failure>,
    name: Option<&str>,
    target_length: u32,
    (source, sampling, mut options, needles): (&SourceArgs, SamplingArgs, SearchOptions, Option<NeedlePlan>),
) -> Result<PreparedJob, Failure> {
    let original = folder.description.original_length;
    // A short window of an extended model is searched up to a stated factor; else there is nothing to search.
    if target_length <= original && options.max_factor.is_none() {
        return Err(Failure::input_message(format!(
            "--target-length {target_length} is not above the model's original length of {original} tokens: nothing to extend"
        )));
    }
    let name = name.map_or_else(|| default_name(&folder.name, target_length), str::to_owned);
    let state = |fingerprint, search, samples, held_out| JobSpec {
        name: name.clone(),
        model: ModelIdentity { name: folder.name.clone(), fingerprint, config_json: folder.config_json.clone() },
        target_length,
        search,
        samples,
        held_out,
    };
    let for_each = needles.as_ref().map_or(PER_DOCUMENT, |plan| plan.per_document);
    let judged = options.objective.judged(sampling.samples as u64, for_each.into()) as usize;
    let mut tried = options.clone();
    let drawn_later = stand_ins(&mut tried, judged);
    state(Fingerprint::from([0; 32]), tried, drawn_later, Vec::new()).check_new().map_err(wrong_job)?;
    let fingerprint = fingerprint()?;

    let plan = SamplePlan {
        length: target_length as usize,
        search: sampling.samples,
        held_out: sampling.held_out,
        seed: options.seed,
    };
    let sets = folder.source(source)?.draw(&plan)?;
    note(format!("{}", sets.tally));
    let (short, others) = short_samples(&mut options.keep_short, (&sets.search, &sets.held_out))?;
    let (search, held_out) = samples_of(folder, (&sets.search, &sets.held_out), options.objective, needles)?;
    let ids = |samples: &[Sample]| samples.iter().map(Sample::id).collect();
    let spec = state(fingerprint, options, ids(&search), ids(&held_out));
    spec.check_new().map_err(wrong_job)?;
    Ok(PreparedJob { spec, samples: search.into_iter().chain(short).chain(held_out).chain(others).collect() })
}

/// The samples of a search and those held out: documents, or needles in them, or both. Held-out documents are measured
/// whatever is minimised: what needles cost in text should stand beside what they gain.
pub fn samples_of(
    folder: &ModelFolder,
    (documents, others): (&[NamedSample], &[NamedSample]),
    objective: SearchObjective,
    needles: Option<NeedlePlan>,
) -> Result<(Vec<Sample>, Vec<Sample>), Failure> {
    let samples = |named: &[NamedSample]| named.iter().map(|named| named.sample.clone()).collect::<Vec<_>>();
    let (mut search, mut held_out) = (samples(documents), samples(others));
    let Some(plan) = needles else { return Ok((search, held_out)) };
    if objective == SearchObjective::Needle {
        search.clear();
    }
    let tokenizer = DocumentTokenizer::open(&folder.path, &folder.description).or_input()?;
    search.extend(plan.hide(documents, 0, &tokenizer).or_input()?);
    held_out.extend(plan.hide(others, documents.len(), &tokenizer).or_input()?);
    Ok((search, held_out))
}

/// The beginnings of documents by which short windows are judged, and those of held-out ones, each once; they are noted in
/// the windows. A held-out document that begins like one of the search is held out no longer, and left out.
pub fn short_samples(
    windows: &mut [ShortWindow],
    (documents, others): (&[NamedSample], &[NamedSample]),
) -> Result<(Vec<Sample>, Vec<Sample>), Failure> {
    let (mut judged, mut held_out) = (Vec::new(), Vec::new());
    for window in windows {
        for (named, is_judged) in documents.iter().map(|named| (named, true)).chain(others.iter().map(|o| (o, false))) {
            let beginning = named.sample.beginning(window.length).or_input()?;
            let id = beginning.id();
            if window.samples.contains(&id) || window.held_out.contains(&id) {
                continue;
            }
            if is_judged {
                window.samples.push(id);
                judged.push(beginning);
            } else {
                window.held_out.push(id);
                held_out.push(beginning);
            }
        }
    }
    Ok((judged, held_out))
}

/// `<model>-<length>`, with lengths that are whole multiples of 1,024 in k.
fn default_name(model: &str, target_length: u32) -> String {
    let plain: String = model.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(40).collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let length = match target_length {
        n if n.is_multiple_of(1024) => format!("{}k", n / 1024),
        n => n.to_string(),
    };
    if plain.is_empty() { format!("job-{length}") } else { format!("{plain}-{length}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_are_plain() {
        assert_eq!(default_name("Llama-2-7b-hf", 131_072), "Llama-2-7b-hf-128k");
        assert_eq!(default_name("-ä/..", 1000), "job-1000");
    }
}
