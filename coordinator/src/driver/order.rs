//! Where a plan's order lies, and reading it: only from its folder, only up to a bound, and only what was launched.

use ropewalk_shared::plan::{OrderId, PlanJob};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Largest order that is read, in bytes.
const MAX_ORDER_BYTES: u64 = 4 << 20;

/// The folder of plans that a coordinator carries out, or a plan's own.
#[derive(Clone, Debug)]
pub struct PlanRoot(PathBuf);

/// An order that cannot be carried out here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// Not below the plan root.
    #[error(
        "the plan's order is not on the coordinator's machine: neither {} nor {} is there; --out must lie in the folder that \
         the coordinator was started with (--plan-root), on a disk that it shares with whoever launches", .0.display(), .1.display()
    )]
    NotHere(PathBuf, PathBuf),
    /// The system says no.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
    /// Far more than any plan has.
    #[error("{} is larger than any order, which have {MAX_ORDER_BYTES} bytes at most", .0.display())]
    TooLarge(PathBuf),
    /// Another content than was launched.
    #[error("{} is damaged or was changed since the plan was launched; launch it again", .0.display())]
    Changed(PathBuf),
}

// === impl PlanRoot ===

impl PlanRoot {
    /// The root, as it was given.
    pub fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// The plan's folder: the one that holds its order, which was checked.
    ///
    /// # Errors
    /// [`OrderError`]
    pub fn folder(&self, job: &PlanJob) -> Result<PathBuf, OrderError> {
        let [named, root] = [self.0.join(&job.folder), self.0.clone()];
        let found = [&named, &root].into_iter().find(|folder| job.order.path(folder).is_file());
        let Some(folder) = found else {
            return Err(OrderError::NotHere(job.order.path(&named), job.order.path(&root)));
        };
        read(folder, job.order).map(|_| folder.clone())
    }
}

/// Reads the order in a plan's folder.
///
/// # Errors
/// [`OrderError`]
pub fn read(folder: &Path, order: OrderId) -> Result<Vec<u8>, OrderError> {
    let path = order.path(folder);
    let mut content = Vec::new();
    let file = File::open(&path).and_then(|file| file.take(MAX_ORDER_BYTES + 1).read_to_end(&mut content));
    match file {
        Err(error) => Err(OrderError::Io(path, error)),
        Ok(_) if content.len() as u64 > MAX_ORDER_BYTES => Err(OrderError::TooLarge(path)),
        Ok(_) if OrderId::of(&content) != order => Err(OrderError::Changed(path)),
        Ok(_) => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(order: &[u8]) -> PlanJob {
        PlanJob {
            name: "mine".into(),
            model: "base".into(),
            folder: "plan".into(),
            order: OrderId::of(order),
            original_length: 64,
            target_length: 512,
            stages: 6,
        }
    }

    fn put(folder: &Path, order: OrderId, content: &[u8]) {
        std::fs::create_dir_all(folder.join("orders")).unwrap();
        std::fs::write(order.path(folder), content).unwrap();
    }

    #[test]
    fn a_plans_folder_lies_in_the_root_or_is_it() {
        let root = tempfile::tempdir().unwrap();
        let (here, job) = (PlanRoot::new(root.path().to_owned()), job(b"{}"));
        assert!(here.folder(&job).unwrap_err().to_string().contains("--plan-root"));
        put(root.path(), job.order, b"{}");
        assert_eq!(here.folder(&job).unwrap(), root.path());
        put(&root.path().join("plan"), job.order, b"{}");
        assert_eq!(here.folder(&job).unwrap(), root.path().join("plan"));
    }

    #[test]
    fn only_what_was_launched_is_read_and_no_more_than_an_order_has() {
        let root = tempfile::tempdir().unwrap();
        let (here, job) = (PlanRoot::new(root.path().to_owned()), job(b"{}"));
        put(root.path(), job.order, b"{ }");
        assert!(matches!(here.folder(&job), Err(OrderError::Changed(_))));
        put(root.path(), job.order, b"");
        assert!(matches!(here.folder(&job), Err(OrderError::Changed(_))));
        put(root.path(), job.order, &vec![b' '; (MAX_ORDER_BYTES + 1) as usize]);
        assert!(matches!(here.folder(&job), Err(OrderError::TooLarge(_))));
    }
}
