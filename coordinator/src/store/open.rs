//! Opening a store: lock, version, number of the run.

use super::{Store, StoreError, guarded, keys, space};
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

/// Version of the stored format as a whole.
pub const SCHEMA: u32 = 1;

/// Where a new store begins to count its runs, at random: workers of the coordinator that had another one may still come with
/// ids of its runs. Of six digits, to be read and to leave room in the number of a lease.
const FIRST_EPOCHS: Range<u32> = 100_000..1_000_000;

/// Memory for pages of the database.
const CACHE_BYTES: u64 = 128 << 20;
/// Four times what a full leaf of 16 KiB values needs, so that nothing is written outside of the log.
const SEGMENT_BYTES: usize = 2 << 20;
/// sled's own file in the folder, and the one that tells a sled folder from any other.
const DATABASE_FILE: &str = "db";

impl Store {
    /// Opens the store in a folder, which is created where there is none.
    ///
    /// # Errors
    /// [`StoreError`] says which of the things that can be wrong it is, and what to do.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = create(path)?;
        let database = path.join(DATABASE_FILE);
        let is_new = !database.exists();
        if is_new && !is_untouched(&path).map_err(io("opening", &path))? {
            return Err(StoreError::NotAStore { path });
        }
        space::require(&path, "opening", space::TO_OPEN)?;
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            // The engine flushes whenever it has something to acknowledge.
            .flush_every_ms(None);
        let (db, state, samples) = guarded(&path, "opening", || {
            let db = config.open()?;
            let (state, samples) = (db.open_tree("state")?, db.open_tree("samples")?);
            Ok((db, state, samples))
        })?;
        let file = OpenOptions::new().read(true).write(true).open(&database).map_err(io("opening", &path))?;
        let mut store =
            Self { path, state, samples, db, file, epoch: 0, uploads: Mutex::new(()), failure: OnceLock::new() };
        store.check_schema(is_new)?;
        store.begin_epoch()?;
        if is_new {
            // The folder's own entries are not the database's business.
            sync_folder(&store.path).map_err(io("opening", &store.path))?;
        }
        Ok(store)
    }

    fn check_schema(&self, is_new: bool) -> Result<(), StoreError> {
        let key = keys::meta("schema");
        let version = |found: String| StoreError::Version { path: self.path.clone(), found, supported: SCHEMA };
        match self.read(|| self.state.get(&key))? {
            // Killed before the first flush: nothing was acknowledged.
            None if is_new || self.state.is_empty() => {
                self.write("writing", || self.state.insert(key, SCHEMA.to_string().as_bytes()))?;
                self.flush()
            }
            None => Err(version("unknown".into())),
            Some(found) if *found == *SCHEMA.to_string().as_bytes() => Ok(()),
            Some(found) => Err(version(String::from_utf8_lossy(&found).chars().take(20).collect())),
        }
    }

    fn begin_epoch(&mut self) -> Result<(), StoreError> {
        let key = keys::meta("epoch");
        let last = self.read(|| self.state.get(&key))?;
        self.epoch = match last.as_deref().map(<[u8; 4]>::try_from) {
            None => rand::random_range(FIRST_EPOCHS),
            Some(Ok(bytes)) => u32::from_be_bytes(bytes).wrapping_add(1),
            Some(Err(_)) => return Err(self.corrupt("the number of the last run", "its form")),
        };
        let epoch = self.epoch;
        self.write("writing", || self.state.insert(key, &epoch.to_be_bytes()))?;
        self.flush()
    }
}

fn create(path: &Path) -> Result<PathBuf, StoreError> {
    fs::create_dir_all(path).map_err(io("creating", path))?;
    // One name for one folder, in messages as well as for sled.
    path.canonicalize().map_err(io("opening", path))
}

/// Whether a folder holds nothing but what sled creates before its file: a coordinator may have been killed right then.
fn is_untouched(path: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_sleds = match entry.file_name().to_str() {
            Some("conf") => entry.file_type()?.is_file(),
            Some("blobs") => entry.file_type()?.is_dir() && fs::read_dir(entry.path())?.next().is_none(),
            _ => false,
        };
        if !is_sleds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    fs::File::open(path)?.sync_all()
}

fn io(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> StoreError {
    move |error| StoreError::of_io(path.to_owned(), doing, &error)
}
