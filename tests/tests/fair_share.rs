//! Several jobs share the workers.

use anyhow::{Result, ensure};
use ropewalk_tests::models;
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::{Search, factors, is_done, status, wait_done, wait_until};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[test]
fn two_jobs_get_on_at_the_same_time() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let _worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    let large =
        Search { name: "large".into(), population: 48, generations: 20, ..Search::sized(folder.path(), 512, 3)? };
    let small = Search { name: "small".into(), ..Search::sized(folder.path(), 512, 2)? };
    let first = large.launch(&coordinator.url)?;
    wait_until(&coordinator.url, &first, |status| status["passes"].as_u64() > Some(0))?;
    let second = small.launch(&coordinator.url)?;
    // Although it came later: the large one must not have to end first.
    wait_done(&coordinator.url, &second)?;
    let at_that_time = status(&coordinator.url, &first)?;
    assert!(!is_done(&at_that_time), "{at_that_time:#}");
    let passes = at_that_time["passes"].as_u64();
    wait_until(&coordinator.url, &first, |status| is_done(status) || status["passes"].as_u64() > passes)?;
    // Company does not change what is found.
    let alone = small.in_one_process(&folder.path().join("alone"), 1)?;
    assert_eq!(factors(&coordinator.url, &second)?, alone);
    Ok(())
}

#[test]
fn a_paused_job_lets_others_pass() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let paused = Search { name: "paused".into(), ..Search::small(folder.path())? };
    let first = paused.launch(&coordinator.url)?;
    let command =
        |command: &str| ropewalk_tests::command::ropewalk([command, &first, "--coordinator", &coordinator.url]);
    command("pause")?.done()?;
    let _worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    let other = Search { name: "other".into(), ..Search::small(folder.path())? };
    let second = other.launch(&coordinator.url)?;
    wait_done(&coordinator.url, &second)?;
    let waiting = status(&coordinator.url, &first)?;
    assert_eq!((&waiting["state"], &waiting["passes"]), (&"paused".into(), &0.into()), "{waiting:#}");
    command("resume")?.done()?;
    wait_done(&coordinator.url, &first)?;
    Ok(())
}

#[test]
fn a_cancelled_job_frees_the_workers() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let _worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    let endless =
        Search { name: "endless".into(), population: 60, generations: 1000, ..Search::sized(folder.path(), 512, 3)? };
    let first = endless.launch(&coordinator.url)?;
    wait_until(&coordinator.url, &first, |status| status["passes"].as_u64() > Some(0))?;
    ropewalk_tests::command::ropewalk(["cancel", &first, "--coordinator", &coordinator.url])?.done()?;
    let second = Search::small(folder.path())?.launch(&coordinator.url)?;
    wait_done(&coordinator.url, &second)?;
    assert_eq!(status(&coordinator.url, &first)?["state"], "cancelled");
    Ok(())
}

#[test]
fn a_unit_that_is_out_stops_on_its_way() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let _worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    // One unit takes seconds.
    let job = Search { name: "long".into(), ..Search::sized(folder.path(), 60_000, 1)? }.launch(&coordinator.url)?;
    let worker = || ropewalk_tests::command::ropewalk(["workers", "--coordinator", &coordinator.url, "--json"])?.json();
    let wait = |wanted: &dyn Fn(&Value) -> bool| -> Result<Value> {
        let start = Instant::now();
        loop {
            let worker = worker()?;
            if wanted(&worker) {
                return Ok(worker);
            }
            ensure!(start.elapsed() < Duration::from_secs(120), "{worker:#}");
            thread::sleep(Duration::from_millis(50));
        }
    };
    wait(&|worker| worker["leased"].as_u64() > Some(0))?;
    thread::sleep(Duration::from_millis(300));
    ropewalk_tests::command::ropewalk(["cancel", &job, "--coordinator", &coordinator.url])?.done()?;
    let worker = wait(&|worker| worker["stopped_passes"].as_f64() > Some(0.0))?;
    let (stopped, results) = (worker["stopped_passes"].as_f64(), worker["results"].as_u64());
    assert!(stopped < Some(1.0) && results == Some(0), "{worker:#}");
    Ok(())
}
