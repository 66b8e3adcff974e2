//! Has plans carried out: a process for each, that runs the plan's stages and dies with the coordinator.
//!
//! A client of the engine, which knows of plans and nothing of processes: it says which plans are to run, and takes in what is
//! told of them. A plan's folder decides what is done, so that any process may be killed at any moment, and another goes on.

mod attempt;
mod child;
pub mod order;
pub mod said;

use crate::engine::{AttemptEnd, Engine, EngineError, PlanReport, PlanToRun};
use attempt::Attempt;
use order::PlanRoot;
use ropewalk_shared::job::JobId;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

/// Plans that are carried out at a time. Their processes mostly wait for jobs; what they compute themselves shares this machine.
const MAX_PLANS: usize = 4;
/// How often is looked again for what no offer announces.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How plans are carried out.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The folder in which plans' folders lie, or which is one.
    pub root: PlanRoot,
    /// The `ropewalk` program.
    pub program: PathBuf,
    /// How their processes reach this coordinator.
    pub own: OwnAddress,
}

/// How processes of this machine reach the coordinator that starts them.
#[derive(Clone, Debug, Default)]
pub struct OwnAddress {
    /// Its URL, to which the port is added that it listens on where it names none; absent for the address it listens on.
    pub url: Option<String>,
    /// Environment variables with which its clients find its token and trust its certificate.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// Carries plans out until it is told to stop.
pub struct Driver {
    engine: Engine,
    options: Arc<PlanOptions>,
    coordinator: String,
    attempts: HashMap<JobId, Running>,
    tasks: JoinSet<AttemptEnd>,
}

/// An attempt that is being made.
struct Running {
    number: u32,
    task: Id,
    stop: watch::Sender<bool>,
}

// === impl PlanOptions ===

impl PlanOptions {
    /// The URL that processes are told, where it is not that of the address which is listened on.
    pub fn url(&self, port: u16) -> Option<String> {
        let url = self.own.url.as_deref()?.trim_end_matches('/');
        let authority = url.split("://").last().unwrap_or(url);
        let host_ends = authority.rfind(']').map_or(0, |end| end + 1);
        let has_port = authority[host_ends..].contains(':');
        Some(if has_port { url.to_owned() } else { format!("{url}:{port}") })
    }
}

// === impl Driver ===

impl Driver {
    /// One that carries out the plans of this engine, whose coordinator answers at this URL.
    pub fn new(engine: Engine, options: PlanOptions, coordinator: String) -> Self {
        Self { engine, options: Arc::new(options), coordinator, attempts: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Runs until `closing` is raised or the engine ends; all processes have ended when it returns.
    pub async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut offers = self.engine.offers();
        loop {
            // Noted before looking: what is offered while looking is seen as a change.
            offers.mark_unchanged();
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "plans are no longer carried out");
                break;
            }
            tokio::select! {
                _ = tokio::time::timeout(LOOK_AGAIN, offers.changed()) => {}
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await,
                () = raised(&mut closing) => break,
            }
        }
        self.attempts.values().for_each(|running| _ = running.stop.send_replace(true));
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(ended).await;
        }
    }

    /// Stops what is no longer wanted, and starts what is.
    async fn look(&mut self) -> Result<(), EngineError> {
        let wanted = self.engine.volatile(|core, now| Ok(core.plans_to_run(now))).await?;
        for (id, running) in &self.attempts {
            let goes_on = wanted.iter().any(|plan| plan.id == *id && plan.carried == Some(running.number));
            if !goes_on && !running.stop.send_replace(true) {
                tracing::info!(job = %id, attempt = running.number, "a plan is no longer carried out");
            }
        }
        for plan in wanted {
            if self.attempts.len() < MAX_PLANS && !self.attempts.contains_key(&plan.id) {
                self.begin(plan).await?;
            }
        }
        Ok(())
    }

    async fn begin(&mut self, PlanToRun { id, job, .. }: PlanToRun) -> Result<(), EngineError> {
        let named = id.clone();
        let Some(number) = self.engine.durable(move |core, now| core.carry_plan(&named, now)).await? else {
            return Ok(());
        };
        tracing::info!(job = %id, attempt = number, "a plan is carried out");
        let (stop, stopped) = watch::channel(false);
        let (engine, options, coordinator) = (self.engine.clone(), self.options.clone(), self.coordinator.clone());
        let attempt = Attempt { engine, options, coordinator, id: id.clone(), job, number, stop: stopped };
        let task = self.tasks.spawn(attempt.make()).id();
        self.attempts.insert(id, Running { number, task, stop });
        Ok(())
    }

    async fn ended(&mut self, ended: Result<(Id, AttemptEnd), JoinError>) {
        let (task, end) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), AttemptEnd::Failed(format!("internal error: {error}; please report it"))),
        };
        let found = self.attempts.iter().find(|(_, running)| running.task == task).map(|(id, _)| id.clone());
        let Some((id, running)) = found.and_then(|id| self.attempts.remove_entry(&id)) else { return };
        let report = PlanReport::Ended(end);
        let told = self.engine.durable(move |core, now| core.report_plan(&id, running.number, report, now)).await;
        if let Err(error) = told {
            // Started again, the coordinator has the plan carried out anew.
            tracing::debug!(%error, "the end of an attempt was not taken in");
        }
    }
}

/// Completes when the flag is raised, or whoever could raise it has gone.
async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|raised| *raised).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_left_out_is_the_one_that_is_listened_on() {
        let told = |url: Option<&str>| {
            let own = OwnAddress { url: url.map(str::to_owned), ..OwnAddress::default() };
            PlanOptions { root: PlanRoot::new("/".into()), program: "ropewalk".into(), own }.url(7311)
        };
        assert_eq!(told(None), None);
        for (given, url) in [
            ("https://node", "https://node:7311"),
            ("https://node/", "https://node:7311"),
            ("https://node:443", "https://node:443"),
            ("https://[::1]", "https://[::1]:7311"),
            ("https://[::1]:1", "https://[::1]:1"),
        ] {
            assert_eq!(told(Some(given)).as_deref(), Some(url));
        }
    }
}
