//! Where the binaries under test lie.
//!
//! They belong to other packages, for which cargo neither builds them before these tests nor tells where they are.
//! So cargo is asked to bring them up to date once per test program, which takes a moment when they are.

use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a folder with `ropewalk` and `ropewalk-worker` to test instead of building them.
const FOLDER_VARIABLE: &str = "ROPEWALK_TEST_BINARIES";

/// The `ropewalk` command.
///
/// # Errors
/// When it cannot be built.
pub fn ropewalk() -> Result<PathBuf> {
    Ok(folder()?.join(format!("ropewalk{}", std::env::consts::EXE_SUFFIX)))
}

/// The `ropewalk-worker` command.
///
/// # Errors
/// When it cannot be built.
pub fn worker() -> Result<PathBuf> {
    Ok(folder()?.join(format!("ropewalk-worker{}", std::env::consts::EXE_SUFFIX)))
}

fn folder() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match std::env::var_os(FOLDER_VARIABLE) {
        Some(folder) => Ok(folder.into()),
        // The whole chain as text: an error cannot be handed out twice.
        None => build().map_err(|error| format!("{error:#}")),
    });
    match folder {
        Ok(folder) => Ok(folder),
        Err(error) => bail!("cannot build the binaries under test: {error}"),
    }
}

/// Builds into the folder from which this test program runs, with the same profile.
fn build() -> Result<PathBuf> {
    // target/<profile>/deps/<test program>
    let program = std::env::current_exe()?;
    let folder = program.ancestors().nth(2).context("the test program does not lie in target/<profile>/deps")?;
    let target = folder.parent().context("no target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => bail!("{} names no profile", folder.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(folder.to_owned())
}
