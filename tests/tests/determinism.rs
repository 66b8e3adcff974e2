//! Same search, same bytes, whatever the number of workers.

use anyhow::Result;
use ropewalk_tests::search::Search;
use tempfile::TempDir;

#[test]
fn the_number_of_workers_does_not_matter() -> Result<()> {
    let folder = TempDir::new()?;
    let search = Search::small(folder.path())?;
    let run = |name: &str, workers| search.in_one_process(&folder.path().join(name), workers);
    let one = run("one", 1)?;
    assert!(one.contains("\"schema\": \"ropewalk.factors/v1\""), "{one}");
    assert_eq!(run("one again", 1)?, one);
    assert_eq!(run("two", 2)?, one);
    assert_eq!(run("three", 3)?, one);
    // The same command in the same folder finds everything done.
    assert_eq!(run("one", 1)?, one);
    Ok(())
}

#[test]
fn the_seed_does() -> Result<()> {
    let folder = TempDir::new()?;
    let search = Search::small(folder.path())?;
    let other = Search { seed: 2, ..search.clone() };
    let first = search.in_one_process(&folder.path().join("first"), 2)?;
    assert_ne!(other.in_one_process(&folder.path().join("second"), 2)?, first);
    Ok(())
}
