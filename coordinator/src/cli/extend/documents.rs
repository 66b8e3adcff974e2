//! The documents of a plan by use: those that results are judged on, and those that searches see.

use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::options::SourceArgs;
use crate::cli::prepare::ModelFolder;
use crate::documents::{NamedSample, SamplePlan};
use crate::plan::Plan;
use anyhow::Context as _;
use ropewalk_shared::sample::{Sample, SampleId};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes at both ends of a file that tell it from others of its size.
const ENDS: u64 = 64 << 10;
/// Folders inside each other that are looked into.
const MAX_DEPTH: usize = 16;

/// Documents by use. No document that results are judged on is ever seen by a search of the plan.
pub struct Drawn {
    /// As long as the longest window of the plan; a shorter one is judged on their beginnings.
    held_out: Vec<NamedSample>,
    /// For each length that is searched, documents of that length.
    searched: BTreeMap<u32, Vec<NamedSample>>,
}

// === impl Drawn ===

impl Drawn {
    /// Draws the documents by the plan's seed: first those of the longest window that are set aside, then for each search
    /// others of its length.
    pub fn draw(plan: &Plan, folder: &ModelFolder, valid: &SourceArgs) -> Result<Self, Failure> {
        let mut wanted: BTreeMap<u32, usize> = BTreeMap::new();
        for stage in &plan.stages {
            for (length, samples, _) in stage.work.searches() {
                let most = wanted.entry(length).or_default();
                *most = samples.max(*most);
            }
        }
        let longest = plan.longest();
        if longest == 0 {
            return Ok(Self { held_out: Vec::new(), searched: BTreeMap::new() });
        }
        if valid.data.is_empty() && valid.tokens.is_empty() {
            return Err(Failure::input_message("is missing: the plan searches or evaluates on documents"));
        }
        let source = folder.source(valid)?;
        let draw = |length: u32, count: usize| {
            source.draw(&SamplePlan { length: length as usize, search: count, held_out: 0, seed: plan.seed })
        };
        let held_out = draw(longest, plan.held_out)?.search;
        let mut searched = BTreeMap::new();
        for (length, count) in wanted {
            let judged: HashSet<SampleId> =
                held_out.iter().map(|named| cut(named, length).map(|cut| cut.sample.id())).collect::<Result<_, _>>()?;
            // As many more as could turn out to be set aside.
            let drawn = draw(length, count + plan.held_out)?.search;
            let short = drawn.iter().map(|named| cut(named, length)).collect::<Result<Vec<_>, _>>()?;
            let others = short.into_iter().filter(|named| !judged.contains(&named.sample.id()));
            searched.insert(length, others.take(count).collect());
        }
        Ok(Self { held_out, searched })
    }

    /// Documents that no search sees, `length` tokens of each, at most `count`.
    pub fn held_out(&self, length: u32, count: usize) -> Result<Vec<Sample>, Failure> {
        Ok(self.held_out_named(length, count)?.into_iter().map(|named| named.sample).collect())
    }

    /// The same with where they stand.
    pub fn held_out_named(&self, length: u32, count: usize) -> Result<Vec<NamedSample>, Failure> {
        self.held_out.iter().take(count).map(|named| cut(named, length)).collect()
    }

    /// Documents for a search at this length.
    pub fn searched(&self, length: u32, count: usize) -> Vec<NamedSample> {
        self.searched.get(&length).map_or_else(Vec::new, |drawn| drawn.iter().take(count).cloned().collect())
    }
}

fn cut(named: &NamedSample, length: u32) -> Result<NamedSample, Failure> {
    Ok(NamedSample { sample: named.sample.beginning(length).or_input()?, place: named.place.clone() })
}

/// What documents are, without reading all of them: names below the paths, sizes, and both ends of every file.
pub fn digest(paths: &[PathBuf]) -> Result<[u8; 32], Failure> {
    let mut hash = blake3::Hasher::new_derive_key("ropewalk plan documents v1");
    for path in paths {
        add(&mut hash, path, Path::new(""), 0).with_context(|| format!("cannot read {}", path.display())).or_input()?;
    }
    Ok(*hash.finalize().as_bytes())
}

fn add(hash: &mut blake3::Hasher, path: &Path, name: &Path, depth: usize) -> anyhow::Result<()> {
    anyhow::ensure!(depth <= MAX_DEPTH, "more than {MAX_DEPTH} folders inside each other");
    if fs::metadata(path)?.is_dir() {
        let mut names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        names.sort();
        return names.iter().try_for_each(|entry| add(hash, &path.join(entry), &name.join(entry), depth + 1));
    }
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let name = name.to_string_lossy();
    hash.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(&size.to_le_bytes());
    let mut end = Vec::new();
    (&mut file).take(ENDS).read_to_end(&mut end)?;
    if size > ENDS {
        file.seek(SeekFrom::Start(size.saturating_sub(ENDS).max(ENDS)))?;
        file.take(ENDS).read_to_end(&mut end)?;
    }
    hash.update(&end);
    Ok(())
}
