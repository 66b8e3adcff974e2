//! `ropewalk export`: factors in the form an engine loads.

#[cfg(feature = "local")]
mod apply;

use super::factors::read_file;
use super::failure::{Failure, OrFail as _, Outcome};
use super::files::write;
use super::options::{CoordinatorArgs, tokens};
use super::output::{self, note};
use super::prepare::ModelFolder;
use crate::export::{DroppedStartTokens, Export, Format, HfOptions, ShortSet, csv, hf, json, read_factors};
use anyhow::Context as _;
use clap::Args;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::model_description::ModelDescription;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Write the factors of a job or factor file in the form an engine loads.
///
/// Formats: json is the factor file; hf a patch of config.json for transformers, vLLM and SGLang; csv one factor a line, as
/// the LongRoPE authors' code reads them. Of a factor table, hf takes the set at the original length and the last, and says
/// which it leaves out; csv takes the one that --window names. Attention factors of single rotary pairs stand in json alone;
/// --apply folds them into the query and key weights. With --apply MODEL the export is a whole model: a folder with the weights and
/// tokenizer of MODEL, a config.json with the factors, the factor file and a model card. How to use the result is
/// printed to standard error.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// A job's id (or a beginning of it), a factor file, or the folder of a search
    #[arg(value_name = "JOB|FILE")]
    what: String,

    /// Form of the export: json, hf or csv
    #[arg(long, default_value = "json")]
    format: Format,

    /// File to write [default: standard output]; with --apply the folder, which must be new or empty
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,

    /// Folder of the model that the factors were searched for: write it to --out with the factors applied. The weights
    /// are hard links where possible; an error leaves no folder behind
    #[cfg(feature = "local")]
    #[arg(long, value_name = "MODEL", requires = "out", conflicts_with_all = ["model", "format", "whole"])]
    apply: Option<PathBuf>,

    /// Folder of the model, for format hf from a factor file: its config.json is what is patched
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Write the whole patched config.json instead of the patch (format hf)
    #[arg(long)]
    whole: bool,

    /// Factors for windows up to the original length (format hf, --apply): same as the long ones, ones, or a factor file
    #[arg(long, value_name = "same|ones|FILE")]
    short: Option<String>,

    /// Of a factor table, export the one set that serves inputs of this many tokens
    #[arg(long, value_name = "LENGTH", value_parser = tokens)]
    window: Option<u32>,

    /// Export without the starting tokens of the search, which no engine can leave alone
    #[arg(long)]
    drop_start_tokens: bool,

    /// The window, where the factor file does not say it (format hf, --apply)
    #[arg(long, value_name = "N", value_parser = tokens)]
    target_length: Option<u32>,

    /// Allow a form that only transformers 5 reads, where there is no common one (format hf, --apply)
    #[arg(long)]
    hf5_only: bool,

    /// Print one JSON object: what was written or would be, the notes, and the windows of a factor table left out
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    coordinator: CoordinatorArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// `json`, `hf` or `csv`; `model` with --apply.
    format: &'a str,
    /// Where it was written; absent without --out.
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<&'a Path>,
    /// The export itself, without --out.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    notes: &'a [String],
    left_out_windows: &'a [u32],
}

/// Factors, and the config.json they are for where that is known.
struct Subject {
    file: FactorFile,
    /// The text of the factor file, which is passed on as it is.
    text: Option<String>,
    config_json: Option<String>,
}

pub(super) async fn run(args: ExportArgs) -> Outcome {
    #[cfg(feature = "local")]
    if let (Some(model), Some(out)) = (&args.apply, &args.out) {
        return apply::run(&args, model, out).await;
    }
    let model = args.model.as_deref().map(ModelFolder::open).transpose()?;
    let subject = args.subject(model.as_ref()).await?;
    let export = args.export(subject)?;
    export.notes.iter().for_each(note);
    if let Some(path) = &args.out {
        write(path, &export.content)?;
    }
    match &args.out {
        out if args.json => output::json(&Report {
            format: args.format.name(),
            out: out.as_deref(),
            content: out.is_none().then_some(&export.content),
            notes: &export.notes,
            left_out_windows: &export.left_out_windows,
        }),
        None => output::line(export.content.trim_end()),
        Some(_) => Ok(()),
    }
}

// === impl ExportArgs ===

impl ExportArgs {
    /// The factors, checked against the model where one is given; of a table the set that `--window` names.
    async fn subject(&self, model: Option<&ModelFolder>) -> Result<Subject, Failure> {
        let mut subject = self.whole_subject(model).await?;
        if let Some(length) = self.window {
            subject.file = subject.file.at_window(length).context("--window").or_input()?;
            subject.text = None;
        }
        Ok(subject)
    }

    async fn whole_subject(&self, model: Option<&ModelFolder>) -> Result<Subject, Failure> {
        let given = model.map(|model| model.config_json.clone());
        let path = Path::new(&self.what);
        // The folder of a search that is done, as --init takes it.
        let of_folder = path.join("factors.json");
        let path = if of_folder.is_file() { of_folder.as_path() } else { path };
        if path.is_dir() {
            return Err(Failure::input_message(format!(
                "{}: this folder has no factors.json; name a factor file, the folder of a search that is done, or a job",
                self.what
            )));
        }
        if path.is_file() {
            let pairs = model.map(|model| model.description.geometry.pairs());
            let read = read_factors(path, pairs).or_input()?;
            read.notices.iter().for_each(|notice| note(format!("{}: {notice}", path.display())));
            return Ok(Subject { file: read.file, text: None, config_json: given });
        }
        if self.what.contains(['/', '\\']) || self.what.ends_with(".json") || self.what.ends_with(".csv") {
            return Err(Failure::input_message(format!("{}: no such factor file", self.what)));
        }
        let client = self.coordinator.connect().await?;
        let result = client.result(&self.what).await?;
        if !result.complete {
            note("the job is not done: these are the best factors so far");
        }
        let config_json = given.or(Some(result.config_json));
        Ok(Subject { file: result.factors, text: Some(result.factors_json), config_json })
    }

    fn export(&self, subject: Subject) -> Result<Export, Failure> {
        let Subject { file, text, config_json } = subject;
        let dropped = if self.drop_start_tokens { DroppedStartTokens::of(&file) } else { None };
        if self.format != Format::Hf {
            let only_hf = [
                ("--whole", self.whole),
                ("--short", self.short.is_some()),
                ("--hf5-only", self.hf5_only),
                ("--target-length", self.target_length.is_some()),
            ];
            if let Some((option, _)) = only_hf.iter().find(|(_, given)| *given) {
                let format = self.format.name();
                return Err(Failure::input_message(format!(
                    "{option} says something about a config.json, and --format {format} writes none: take --format hf, or \
                     leave it out"
                )));
            }
        }
        match self.format {
            Format::Csv => csv::export(&file, dropped.as_ref()).or_input(),
            Format::Json => match (text, dropped) {
                (Some(content), None) => Ok(Export { content, ..Export::default() }),
                (_, dropped) => json::export(&file, dropped.as_ref()).or_input(),
            },
            Format::Hf => {
                let config_json = config_json.ok_or_else(|| {
                    Failure::input_message("format hf patches a config.json: name the model's folder with --model DIR")
                })?;
                let options = HfOptions {
                    short: self.short_set(&config_json, &file.pair_attention)?,
                    target_length: self.target_length,
                    dropped,
                    hf5_only: self.hf5_only,
                };
                let export = if self.whole { hf::whole } else { hf::export };
                export(&file, &config_json, &options).or_input()
            }
        }
    }

    /// The factors for short inputs, beside long ones with these attention factors of pairs.
    fn short_set(&self, config_json: &str, profile: &[f64]) -> Result<Option<ShortSet>, Failure> {
        match self.short.as_deref() {
            None => Ok(None),
            Some("same") => Ok(Some(ShortSet::Same)),
            Some("ones") => Ok(Some(ShortSet::Ones)),
            Some(path) => {
                let description = ModelDescription::from_config_json(config_json).or_input()?;
                let given = read_file(Path::new(path), &description)?;
                let short = given.rescale_for(description.original_length);
                if short.pair_attention != profile {
                    return Err(Failure::input_message(format!(
                        "--short {path}: attention factors of single rotary pairs must be those of the long factors, since \
                         weights have one of them for all lengths"
                    )));
                }
                Ok(Some(ShortSet::Given(short)))
            }
        }
    }
}
