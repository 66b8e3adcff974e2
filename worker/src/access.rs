//! The files of what a worker brings along when it connects to a coordinator.

use ropewalk_shared::access::{Access, MAX_TOKEN_FILE_BYTES, Token};
use ropewalk_shared::wire::connection::trusted;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Reads them.
///
/// # Errors
/// Which file is wrong, and in what.
pub fn read(token_file: Option<&Path>, ca: Option<&Path>) -> Result<Access, String> {
    let token = token_file.map(|path| token(path).map_err(|error| format!("--token-file {}: {error}", path.display())));
    let roots = ca.map(|path| roots(path).map_err(|error| format!("--ca {}: {error}", path.display())));
    Ok(Access { token: token.transpose()?, roots: roots.transpose()?.map(Into::into) })
}

fn token(path: &Path) -> io::Result<Token> {
    let file = File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.permissions().mode() & 0o004 != 0 {
            let path = path.display();
            tracing::warn!("other users may read the token in {path}; `chmod 600 {path}` ends that");
        }
    }
    let mut content = Vec::new();
    file.take(MAX_TOKEN_FILE_BYTES).read_to_end(&mut content)?;
    Token::parse(&content).map_err(io::Error::other)
}

fn roots(path: &Path) -> io::Result<Vec<u8>> {
    let pem = std::fs::read(path)?;
    trusted(&pem).map_err(io::Error::other)?;
    Ok(pem)
}
