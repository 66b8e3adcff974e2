//! Files that commands leave behind.

#[cfg(feature = "local")]
use super::failure::Failure;
use super::failure::{OrFail as _, Outcome};
use anyhow::Context as _;
#[cfg(feature = "local")]
use ropewalk_shared::factor_file::FactorFile;
use std::io;
use std::path::Path;

/// Writes a file whole or not at all: beside its place first, then moved there. What a link points to is written, and not the link
/// replaced; what is no file, such as a device or a pipe, is written to as it is.
pub(super) fn write(path: &Path, content: &str) -> Outcome {
    let is_special = std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir());
    let written = if is_special { std::fs::write(path, content) } else { replace(path, content) };
    written.with_context(|| format!("cannot write {}", path.display())).or_work()
}

/// Refuses a file where a folder is to be written.
#[cfg(feature = "local")]
pub(super) fn check_folder(out: &Path) -> Outcome {
    if std::fs::metadata(out).is_ok_and(|there| !there.is_dir()) {
        return Err(Failure::input_message(format!(
            "--out {}: this is a file, and a folder is written",
            out.display()
        )));
    }
    Ok(())
}

/// Refuses a folder whose factors are of something else than `what`, and would be lost.
#[cfg(feature = "local")]
pub(super) fn keep_factors(path: &Path, what: &str, is_own: impl FnOnce(&FactorFile) -> bool) -> Outcome {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    if FactorFile::from_json(&text).is_ok_and(|file| is_own(&file)) {
        return Ok(());
    }
    Err(Failure::input_message(format!(
        "{} is not of this {what}, and would be lost: name another folder with --out, or move the file",
        path.display()
    )))
}

fn replace(path: &Path, content: &str) -> io::Result<()> {
    // A link may point to what is not there yet.
    let pointed = || Some(path.parent()?.join(std::fs::read_link(path).ok()?));
    let path = &std::fs::canonicalize(path).ok().or_else(pointed).unwrap_or_else(|| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = folder.join(name);
    let moved = std::fs::write(&part, content).and_then(|()| std::fs::rename(&part, path));
    moved.inspect_err(|_| drop(std::fs::remove_file(&part)))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_and_nothing_is_left_beside() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink("file", &link).unwrap();
        for content in ["not there before", "new"] {
            write(&link, content).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
        }
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        // A folder cannot be replaced by a file.
        assert!(write(folder.path(), "new").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    /// A socket is no file, and cannot be written to either: it must still be there.
    #[test]
    fn what_is_no_file_is_not_replaced() {
        use std::os::unix::fs::FileTypeExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(write(&path, "new").is_err());
        assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    }
}
