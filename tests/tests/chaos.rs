//! Killed at any moment, the search ends with the same file.

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use ropewalk_tests::models;
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::{Search, factors, is_done, status, wait_done, wait_until};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// How often a search is killed: each of the three victims in turn.
const KILLS: usize = 18;
/// A search that ends before so many kills is too short to show anything.
const FEWEST_KILLS: usize = 6;

fn search(folder: &Path) -> Result<Search> {
    Ok(Search { name: "chaos".to_owned(), population: 24, generations: 60, ..Search::sized(folder, 1024, 4)? })
}

/// The factor file of a run with so many workers that nobody disturbs.
fn undisturbed(workers: usize) -> Result<String> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let start = |number| Worker::start(folder.path(), &coordinator.url, &format!("calm-{number}"), &models::root());
    let _workers: Vec<Worker> = (0..workers).map(start).collect::<Result<_>>()?;
    let job = search(folder.path())?.launch(&coordinator.url)?;
    wait_done(&coordinator.url, &job)?;
    factors(&coordinator.url, &job)
}

/// The factor file of a run in which coordinator and workers are killed in turn, at moments drawn from the seed.
///
/// Moments are counted in document passes and not in seconds, so that a faster machine is disturbed as often.
fn disturbed(seed: u64) -> Result<String> {
    let folder = TempDir::new()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut coordinator = Coordinator::start(folder.path())?;
    let start = |name: &str| Worker::start(folder.path(), &coordinator.url, name, &models::root());
    let mut workers = [start("left")?, start("right")?];
    let job = search(folder.path())?.launch(&coordinator.url)?;
    let mut passes = 0;
    for kill in 0..KILLS {
        let next = passes + rng.random_range(1..25);
        let now = wait_until(&coordinator.url, &job, |status| {
            is_done(status) || status["passes"].as_u64().is_some_and(|passes| passes >= next)
        })
        .with_context(|| format!("after {kill} kills: {}{}", coordinator.log(), workers[0].log()))?;
        if is_done(&now) {
            ensure!(kill >= FEWEST_KILLS, "the search ended after {kill} kills: it is too short for this test");
            break;
        }
        passes = now["passes"].as_u64().context("no passes")?;
        std::thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
        let away = Duration::from_millis(rng.random_range(0..400));
        match kill % 3 {
            0 => {
                coordinator.kill()?;
                std::thread::sleep(away);
                coordinator.restart()?;
            }
            victim => {
                workers[victim - 1].kill()?;
                std::thread::sleep(away);
                workers[victim - 1].restart()?;
            }
        }
        // What was acknowledged is still there.
        let after = status(&coordinator.url, &job)?["passes"].as_u64().context("no passes")?;
        ensure!(after >= passes, "{passes} passes before the kill, {after} after it");
    }
    wait_done(&coordinator.url, &job)?;
    factors(&coordinator.url, &job)
}

#[test]
fn a_search_that_is_killed_again_and_again_ends_with_the_same_file() -> Result<()> {
    let calm = undisturbed(1)?;
    assert_eq!(undisturbed(3)?, calm, "the number of workers must not matter");
    for seed in [1, 2] {
        assert_eq!(disturbed(seed)?, calm, "seed {seed}");
    }
    Ok(())
}

#[test]
fn everything_dies_at_once() -> Result<()> {
    let folder = TempDir::new()?;
    let mut coordinator = Coordinator::start(folder.path())?;
    let mut worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    let search = Search::small(folder.path())?;
    let job = search.launch(&coordinator.url)?;
    wait_until(&coordinator.url, &job, |status| is_done(status) || status["passes"].as_u64() > Some(10))?;
    coordinator.kill()?;
    worker.kill()?;
    // The worker first: it waits for its coordinator.
    worker.restart()?;
    coordinator.restart()?;
    wait_done(&coordinator.url, &job)?;
    let after = factors(&coordinator.url, &job)?;
    // A finished job survives as well, and launching the same search again names it.
    coordinator.kill()?;
    coordinator.restart()?;
    assert_eq!(search.launch(&coordinator.url)?, job);
    assert_eq!(factors(&coordinator.url, &job)?, after);
    assert_eq!(search.in_one_process(&folder.path().join("calm"), 2)?, after);
    Ok(())
}

#[test]
fn a_worker_that_is_asked_to_stop_hands_back_and_leaves() -> Result<()> {
    let folder = TempDir::new()?;
    let mut coordinator = Coordinator::start(folder.path())?;
    let mut first = Worker::start(folder.path(), &coordinator.url, "first", &models::root())?;
    let job = search(folder.path())?.launch(&coordinator.url)?;
    wait_until(&coordinator.url, &job, |status| status["passes"].as_u64() > Some(20))?;
    assert_eq!(first.interrupt()?, Some(0), "{}", first.log());
    assert!(first.log().contains("stopped"), "{}", first.log());
    let left = status(&coordinator.url, &job)?;
    assert_eq!(left["leased"], 0, "nothing is kept: {left:#}");
    assert_eq!(coordinator.interrupt()?, Some(0), "{}", coordinator.log());
    Ok(())
}
