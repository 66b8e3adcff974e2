//! What stands in `deploy/` fits the programs.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::{ropewalk, worker};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders that configure coordinators and workers; `finetune` and `gpu` have scripts with variables of their own.
const FOLDERS: [&str; 4] = ["container", "kubernetes", "slurm", "systemd"];
/// Which program `deploy/slurm/workers.sbatch` starts; not for the program itself.
const OF_A_SCRIPT: &str = "ROPEWALK_WORKER";

#[test]
fn every_variable_is_one_that_a_program_reads() -> Result<()> {
    let helps = [ropewalk(["serve", "--help"])?, ropewalk(["launch", "--help"])?, worker(["--help"])?];
    let mut known = BTreeSet::from([OF_A_SCRIPT.to_owned()]);
    for help in helps {
        let help = help.done()?.stdout;
        known.extend(help.split("[env: ").skip(1).filter_map(|rest| Some(rest.split_once('=')?.0.to_owned())));
    }
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&deploy.join(folder), &mut files)?;
    }
    let mut found = 0;
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for name in variables(&text) {
            ensure!(known.contains(name), "{} sets {name}, which no program reads: {known:?}", file.display());
            found += 1;
        }
    }
    ensure!(found >= 10, "{found} variables: the files are elsewhere, or written otherwise");
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn variables(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
    text.match_indices("ROPEWALK_").map(move |(start, _)| {
        let rest = &text[start..];
        &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())]
    })
}
