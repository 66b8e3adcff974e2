//! What a command brings along when it connects to a coordinator, and the files that it is in.

use super::failure::{Failure, OrFail as _};
use super::output::note;
use crate::service::tls::read_certificates;
use anyhow::Context as _;
use clap::Args;
use ropewalk_shared::access::{Access, MAX_TOKEN_FILE_BYTES, Token};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// How to be let in by a coordinator, and how to know it.
#[derive(Args, Clone, Debug, Default)]
pub struct AccessArgs {
    /// File that holds the coordinator's token, where it asks for one (`ropewalk serve --token-file`)
    #[arg(long, env = "ROPEWALK_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// PEM file with the certificates to trust at an https:// address, instead of the system's
    #[arg(long, env = "ROPEWALK_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

// === impl AccessArgs ===

impl AccessArgs {
    /// What the next command takes to be let in as this one was, so far as the environment does not say it.
    pub fn again(&self) -> String {
        let told = |variable: &str, path: &Path| std::env::var_os(variable).is_some_and(|value| value == path);
        let options = [("token-file", "ROPEWALK_TOKEN_FILE", &self.token_file), ("ca", "ROPEWALK_CA", &self.ca)];
        let typed = options.iter().filter_map(|(option, variable, path)| {
            let path = path.as_deref().filter(|path| !told(variable, path))?;
            Some(format!(" --{option} {}", path.display()))
        });
        typed.collect()
    }

    /// Reads what is to be brought to the coordinator at this address, and warns once if others could read it on the way.
    pub fn to(&self, url: &str) -> Result<Access, Failure> {
        static WARNED: Once = Once::new();
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let roots = self.ca.as_deref().map(|path| read_certificates("--ca", path).or_input()).transpose()?;
        let access = Access { token, roots: roots.map(|(pem, _)| pem.into()) };
        if let Some(warning) = access.exposed(url) {
            WARNED.call_once(|| note(format!("warning: {warning}")));
        }
        Ok(access)
    }
}

/// Reads the file that `--token-file` names.
pub fn read_token(path: &Path) -> Result<Token, Failure> {
    static WARNED: Once = Once::new();
    let named = || format!("--token-file {}", path.display());
    let mut content = Vec::new();
    let file = File::open(path).with_context(named).or_input()?;
    if open_to_others(&file) {
        let path = path.display();
        WARNED.call_once(|| {
            note(format!("warning: other users may read the token in {path}; `chmod 600 {path}` ends that"))
        });
    }
    file.take(MAX_TOKEN_FILE_BYTES).read_to_end(&mut content).with_context(named).or_input()?;
    Token::parse(&content).with_context(named).or_input()
}

#[cfg(unix)]
fn open_to_others(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn open_to_others(_: &File) -> bool {
    false
}
