//! Standard output whose reader goes away.

use anyhow::Result;
use ropewalk_tests::command::{Ended, first_line};
use ropewalk_tests::models;
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::{Search, status, wait_done};
use tempfile::TempDir;

#[test]
fn a_search_that_nobody_reads_is_work_undone_and_can_go_on() -> Result<()> {
    let folder = TempDir::new()?;
    let search = Search { generations: 6, ..Search::sized(folder.path(), 512, 3)? };
    let out = folder.path().join("out");
    let mut arguments = vec!["search".to_owned(), "--json".to_owned(), "--out".to_owned(), out.display().to_string()];
    arguments.extend(search.arguments());
    let left = first_line(&arguments)?;
    assert_eq!(left.status, Some(1), "{left}");
    assert!(left.stdout.starts_with('{') && left.stderr.contains("goes on where it stopped"), "{left}");
    assert!(!out.join("factors.json").exists());
    assert_eq!(search.in_one_process(&out, 1)?, search.in_one_process(&folder.path().join("undisturbed"), 1)?);
    Ok(())
}

#[test]
fn commands_that_only_show_end_well() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let search = Search { generations: 8, ..Search::sized(folder.path(), 512, 3)? };
    let job = search.launch(&coordinator.url)?;
    let watch = |json: &[&str]| -> Result<Ended> {
        first_line(["watch", &job, "--coordinator", &coordinator.url].iter().chain(json))
    };
    let _worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    let left = watch(&["--json"])?;
    assert_eq!((left.status, left.stderr.contains("nobody reads")), (Some(0), false), "{left}");
    // The job is others' work.
    wait_done(&coordinator.url, &job)?;
    let left = watch(&["--json"])?;
    assert_eq!(left.status, Some(0), "{left}");
    assert_eq!(status(&coordinator.url, &job)?["state"], "done");
    Ok(())
}
