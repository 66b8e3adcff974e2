//! A small plan, from its text to everything it makes.

use super::command::{Ended, ropewalk};
use super::process::Process;
use super::{binaries, documents, models};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A stage that takes longer to begin hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Settings of small searches.
const SMALL: &str = "samples = 2\npopulation = 8\nmutations = 3\ncrossovers = 1\nparents = 4\ngenerations = 3\n";

/// A plan of the tiny model, whose window of 64 tokens is stretched to 256 and then to 512.
#[derive(Clone, Debug)]
pub struct SmallPlan {
    /// The model's folder.
    pub model: PathBuf,
    /// The plan's text.
    pub text: String,
    /// Documents to train on.
    pub data: PathBuf,
    /// Documents to search and to judge on.
    pub valid: PathBuf,
    folder: PathBuf,
}

/// A run that has not ended.
#[derive(Debug)]
pub struct Running(Process);

// === impl SmallPlan ===

impl SmallPlan {
    /// The stages of the plan in their order.
    pub const STAGES: [&str; 6] = ["first", "tune", "second", "recover", "measure", "give"];

    /// A plan of every kind of stage, with `training` as the lines that say how the model is trained.
    ///
    /// # Errors
    /// When its documents cannot be written.
    pub fn new(folder: &Path, training: &str) -> Result<Self> {
        let text = format!(
            "name = \"small\"\nheld_out = 1\n\
             [[stage]]\nname = \"first\"\nkind = \"search\"\nlength = 256\nstart_tokens = [0, 4]\n{SMALL}\
             [[stage]]\nname = \"tune\"\nkind = \"finetune\"\nfactors = \"first\"\n{training}\n\
             [[stage]]\nname = \"second\"\nkind = \"search\"\nfrom = \"tune\"\nlength = 512\nstart_tokens = [0, 4]\n{SMALL}\
             [[stage]]\nname = \"recover\"\nkind = \"recover\"\nfrom = \"tune\"\nlong = \"second\"\nkeep = [\"first\"]\n\
             lengths = [64, 128]\nmax_factor = 2\n{SMALL}\
             [[stage]]\nname = \"measure\"\nkind = \"evaluate\"\nfrom = \"tune\"\nfactors = \"recover\"\nlengths = [64, 256, 512]\n\
             [[stage]]\nname = \"give\"\nkind = \"export\"\nfrom = \"tune\"\nfactors = \"recover\"\n"
        );
        let valid = documents::write(folder, 4, 512, models::TINY_VOCABULARY, 3)?;
        let data = documents::write(folder, 3, 300, models::TINY_VOCABULARY, 4)?;
        Ok(Self { model: models::tiny(), text, data, valid, folder: folder.to_owned() })
    }

    /// The arguments of a run into this folder.
    ///
    /// # Errors
    /// When the plan cannot be written.
    pub fn arguments(&self, out: &Path) -> Result<Vec<String>> {
        let plan = self.folder.join("plan.toml");
        std::fs::write(&plan, &self.text)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let arguments = [
            "extend".to_owned(),
            text(&plan),
            "--model".to_owned(),
            text(&self.model),
            "--data".to_owned(),
            text(&self.data),
            "--valid".to_owned(),
            text(&self.valid),
            "--token-ids".to_owned(),
            "--out".to_owned(),
            text(out),
        ];
        Ok(arguments.into())
    }

    /// Runs it to its end, with more arguments.
    ///
    /// # Errors
    /// When it does not start or does not end.
    pub fn run(&self, out: &Path, more: &[&str]) -> Result<Ended> {
        let more = more.iter().map(|argument| (*argument).to_owned());
        ropewalk(self.arguments(out)?.into_iter().chain(more))
    }

    /// Hands it over to a coordinator, and returns the job's id.
    ///
    /// # Errors
    /// When the coordinator does not take it.
    pub fn launch(&self, out: &Path, url: &str) -> Result<String> {
        Ok(self.run(out, &["--coordinator", url, "--detach"])?.done()?.stdout.trim().to_owned())
    }

    /// Starts it, to be killed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self, out: &Path, more: &[&str]) -> Result<Running> {
        let more = more.iter().map(|argument| (*argument).to_owned());
        let arguments = self.arguments(out)?.into_iter().chain(more);
        Ok(Running(Process::start(&binaries::ropewalk()?, arguments, &self.folder)?.0))
    }
}

// === impl Running ===

impl Running {
    /// Waits until a stage has begun.
    ///
    /// # Errors
    /// When the run ends before, or never gets there.
    pub fn wait_for(&mut self, out: &Path, stage: &str) -> Result<()> {
        let (begun, start) = (out.join("stages").join(stage).join("stage.json"), Instant::now());
        while !begun.exists() {
            let waits = !self.0.has_ended()? && start.elapsed() < LIMIT;
            // It may have begun the stage and ended since it was last looked for.
            ensure!(waits || begun.exists(), "stage {stage} never begins: {}", self.0.log());
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Kills it with -9.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(mut self) -> Result<()> {
        self.0.kill()
    }

    /// Asks it to stop, and returns its exit status and what it said.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn interrupt(mut self) -> Result<(Option<i32>, String)> {
        let status = self.0.interrupt()?;
        Ok((status, self.0.log()))
    }
}

/// The content of all factor files and weights that a plan made, by their place.
///
/// # Errors
/// When the folder cannot be read.
pub fn made(out: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![out.join("stages"), out.join("models")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "store" && !path.is_symlink() {
                folders.push(path);
            } else if name == "factors.json" || name.ends_with(".safetensors") {
                found.insert(path.strip_prefix(out)?.to_owned(), std::fs::read(&path)?);
            }
        }
    }
    Ok(found)
}
