//! The plan's folder on disk: which stages are done, which were begun, and how a result becomes one.

use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::plan::Plan;
use crate::plan::identity::StageId;
use anyhow::Context as _;
use fs2::FileExt as _;
use ropewalk_shared::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The form of `result.json`.
const SCHEMA: &str = "ropewalk.stage/v1";
/// Results that were set aside for one stage before the names run out.
const MAX_SET_ASIDE: u32 = 10_000;

/// The folder of a plan, which one process has at a time.
#[derive(Debug)]
pub struct PlanFolder {
    root: PathBuf,
    /// Held until the process ends, however it ends.
    _lock: File,
}

/// What a stage left behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageResult {
    schema: String,
    /// Its name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Everything that determined it.
    pub id: StageId,
    /// Seconds since the last start.
    pub seconds: f64,
    /// What it made.
    #[serde(flatten)]
    pub made: Made,
}

/// What a stage made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Made {
    /// The factor file, below the plan's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factors: Option<PathBuf>,
    /// The model's folder, below the plan's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What that model was when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// In one line, for people.
    pub summary: String,
}

/// How a stage stands on disk.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Nothing is there.
    New,
    /// Begun, as it would be now.
    Begun,
    /// Done, as it would be now.
    Done(Box<StageResult>),
    /// Begun or done with other settings, inputs or predecessors.
    Other,
}

/// What `stage.json` says: with which identity the stage was begun.
#[derive(Serialize, Deserialize)]
struct Begun {
    id: StageId,
}

// === impl PlanFolder ===

impl PlanFolder {
    /// Opens or makes the folder, and keeps others out of it.
    pub fn open(root: &Path) -> Result<Self, Failure> {
        Self::open_if_free(root)?.ok_or_else(|| {
            Failure::work_message(format!(
                "{} is in use by another process; wait for it, or use another --out",
                root.display()
            ))
        })
    }

    /// The same; `None` where another process has the folder.
    pub fn open_if_free(root: &Path) -> Result<Option<Self>, Failure> {
        let made = fs::create_dir_all(root.join("stages")).and_then(|()| fs::create_dir_all(root.join("models")));
        made.with_context(|| format!("cannot create {}", root.display())).or_work()?;
        let root = root.canonicalize().with_context(|| root.display().to_string()).or_work()?;
        let path = root.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display())).or_work()?;
        match lock.try_lock_exclusive() {
            Ok(()) => Ok(Some(Self { root, _lock: lock })),
            Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(None),
            Err(error) => {
                Err(Failure::work(anyhow::Error::new(error).context(format!("cannot lock {}", path.display()))))
            }
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a stage.
    pub fn stage(&self, name: &str) -> PathBuf {
        self.root.join("stages").join(name)
    }

    /// The place of a model that a stage makes, of the model `base`. All lie side by side, so that workers find them below one
    /// folder.
    pub fn model(&self, base: &str, stage: &str) -> PathBuf {
        self.root.join("models").join(format!("{base}-{stage}"))
    }

    /// Keeps the plan beside its results, for whoever wants to know later.
    pub fn record(&self, plan: &Plan) -> Outcome {
        write(&self.root.join("plan.json"), &(serde_json::to_string_pretty(plan).or_work()? + "\n"))
    }

    /// How a stage stands that would now have this identity.
    pub fn standing(&self, name: &str, id: StageId) -> Result<Standing, Failure> {
        let folder = self.stage(name);
        if let Some(result) = read_result(&folder)? {
            return Ok(if result.id == id { Standing::Done(Box::new(result)) } else { Standing::Other });
        }
        match read::<Begun>(&folder.join("stage.json"))? {
            Some(begun) if begun.id == id => Ok(Standing::Begun),
            Some(_) => Ok(Standing::Other),
            None if folder.exists() => Ok(Standing::Other),
            None => Ok(Standing::New),
        }
    }

    /// Begins a stage: from now on what its folder holds is this identity's.
    pub fn begin(&self, name: &str, id: StageId) -> Result<PathBuf, Failure> {
        let folder = self.stage(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display())).or_work()?;
        write(&folder.join("stage.json"), &(serde_json::to_string(&Begun { id }).or_work()? + "\n"))?;
        Ok(folder)
    }

    /// Ends a stage: once this has returned, it is never repeated by itself.
    pub fn finish(
        &self,
        (name, kind): (&str, &str),
        id: StageId,
        seconds: f64,
        made: Made,
    ) -> Result<StageResult, Failure> {
        let (stage, kind, schema) = (name.to_owned(), kind.to_owned(), SCHEMA.to_owned());
        let result = StageResult { schema, stage, kind, id, seconds, made };
        let text = serde_json::to_string_pretty(&result).or_work()? + "\n";
        write(&self.stage(name).join("result.json"), &text)?;
        Ok(result)
    }

    /// How often a stage's results were put out of the way.
    pub fn times_set_aside(&self, name: &str) -> u32 {
        let aside = self.root.join("set-aside");
        (1..=MAX_SET_ASIDE).take_while(|number| aside.join(format!("{name}-{number}")).exists()).count() as u32
    }

    /// Puts what a stage made out of the way, and returns where it lies now; `None` where there is nothing.
    pub fn set_aside(&self, name: &str, base: &str) -> Result<Option<PathBuf>, Failure> {
        let (folder, model) = (self.stage(name), self.model(base, name));
        if !folder.exists() && !model.exists() {
            return Ok(None);
        }
        let aside = self.root.join("set-aside");
        let before = self.times_set_aside(name);
        if before == MAX_SET_ASIDE {
            return Err(Failure::work_message(format!("{} is full; empty it", aside.display())));
        }
        let to = aside.join(format!("{name}-{}", before + 1));
        let moved = || -> std::io::Result<()> {
            fs::create_dir_all(&to)?;
            // The result first: without it the stage is not done, whatever else is still there.
            for (from, to) in [(folder, to.join("stage")), (model, to.join("model"))] {
                if from.exists() {
                    fs::rename(from, to)?;
                }
            }
            Ok(())
        };
        moved().with_context(|| format!("cannot move the results of {name} to {}", to.display())).or_work()?;
        Ok(Some(to))
    }
}

/// The result of the stage in a folder, where it is done.
pub fn read_result(folder: &Path) -> Result<Option<StageResult>, Failure> {
    let path = folder.join("result.json");
    match read::<StageResult>(&path)? {
        Some(result) if result.schema != SCHEMA => Err(Failure::work_message(format!(
            "{} has schema {:?}, this version reads {SCHEMA:?}; use the version that wrote it, or another --out",
            path.display(),
            result.schema
        ))),
        result => Ok(result),
    }
}

/// Reads a file of the plan's folder; `None` where there is none.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::work(anyhow::Error::new(error).context(format!("cannot read {}", path.display()))));
        }
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).with_context(|| format!("{} is damaged; move the folder away", path.display())).or_work()
}

/// Writes a file whole and for good: when this has returned, it survives a loss of power.
pub fn write(path: &Path, content: &str) -> Outcome {
    write_bytes(path, content.as_bytes())
}

/// The same for any content.
pub fn write_bytes(path: &Path, content: &[u8]) -> Outcome {
    let written = || -> std::io::Result<()> {
        let part = path.with_extension("part");
        let mut file = File::create(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    written().with_context(|| format!("cannot write {}", path.display())).or_work()
}
