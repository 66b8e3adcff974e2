//! The end of a search on this machine: the comparison, the files, the plots.

use super::compare;
use super::failure::{Failure, OrFail as _, Outcome};
use super::files::write;
use super::options::JsonArgs;
use super::output::{self, note};
use super::prepare::ModelFolder;
use crate::client::JobResult;
use crate::export::{DroppedStartTokens, Export, HfOptions, hf};
use crate::report::{Curve, Level, factor_plot, progress_plot};
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::factor_file::FactorFile;
use std::path::Path;

/// Baselines that the plots show beside the searched factors.
const PLOTTED: [Baseline; 3] = [Baseline::Pi, Baseline::Ntk, Baseline::Yarn];

/// What a finished search leaves behind.
pub struct Results<'a> {
    folder: &'a ModelFolder,
    result: &'a JobResult,
}

// === impl Results ===

impl<'a> Results<'a> {
    /// Of this job.
    pub fn new(folder: &'a ModelFolder, result: &'a JobResult) -> Self {
        Self { folder, result }
    }

    /// Writes the factor file, the patch of config.json and the plots, and returns their names.
    pub fn write(&self, out: &Path) -> Result<Vec<String>, Failure> {
        let mut written = Vec::new();
        let mut put = |name: &str, content: &str| {
            let path = out.join(name);
            written.push(path.display().to_string());
            write(&path, content)
        };
        put("factors.json", &self.result.factors_json)?;
        // A model that the form cannot express still has its factor file.
        match self.patch() {
            Ok(export) => {
                put("hf-config-patch.json", &export.content)?;
                put("hf-config-patch.txt", &(export.notes.join("\n") + "\n"))?;
            }
            Err(failure) => note(format!("no patch for transformers: {failure}")),
        }
        put("factors.svg", &self.factor_plot()?)?;
        put("search.svg", &self.progress_plot()?)?;
        Ok(written)
    }

    /// Prints the comparison, or the factor file for programs.
    pub fn print(&self, json: JsonArgs) -> Outcome {
        if json.json { output::json(&self.result.factors) } else { compare::print(&self.result.factors) }
    }

    /// The patch for transformers, without starting tokens where there are any: no engine can leave them alone.
    fn patch(&self) -> Result<Export, Failure> {
        let file = &self.result.factors;
        let dropped = DroppedStartTokens::of(file);
        hf::export(file, &self.folder.config_json, &HfOptions { dropped, ..HfOptions::default() }).or_input()
    }

    fn factor_plot(&self) -> Result<String, Failure> {
        let file = &self.result.factors;
        let description = &self.folder.description;
        let ratio = file.extension_ratio.unwrap_or(1.0);
        let others = PLOTTED.map(|baseline| Curve {
            name: title(baseline).to_owned(),
            factors: baseline.factors(&description.geometry, description.original_length, ratio),
        });
        let searched = Curve { name: "searched".to_owned(), factors: file.rescale_factors.clone() };
        let title = format!("Rescale factors of {}", self.subject(file));
        factor_plot(&title, &searched, &others).or_work()
    }

    fn progress_plot(&self) -> Result<String, Failure> {
        let file = &self.result.factors;
        let history: Vec<crate::search::GenerationSummary> =
            serde_json::from_str(&self.result.history_json).or_work()?;
        let levels = PLOTTED.iter().filter_map(|baseline| {
            let measured = file.baselines.get(baseline.name())?;
            Some(Level { name: title(*baseline).to_owned(), perplexity: measured.value })
        });
        let title = format!("Search for {}", self.subject(file));
        progress_plot(&title, &history, &levels.collect::<Vec<_>>()).or_work()
    }

    /// `lab-model, 256 to 2048 tokens`
    fn subject(&self, file: &FactorFile) -> String {
        let target = file.target_length.map_or_else(|| "?".to_owned(), |length| length.to_string());
        format!("{}, {} to {target} tokens", self.folder.name, self.folder.description.original_length)
    }
}

/// The name of a method as its paper writes it.
fn title(baseline: Baseline) -> &'static str {
    match baseline {
        Baseline::Pi => "PI",
        Baseline::Ntk => "NTK",
        Baseline::Yarn => "YaRN",
        Baseline::YarnFactors => "YaRN (factors)",
    }
}
