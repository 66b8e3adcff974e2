//! The thread that owns the engine, and the handle that others hold.

use super::committer::{Answer, Round, commit_rounds};
use super::core::Core;
use super::error::EngineError;
use super::time::{Clock, Now};
use crate::scheduler::SchedulerOptions;
use crate::store::{Store, StoreError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that may wait; who comes then waits before sending.
const COMMANDS: usize = 1024;
/// Commands whose changes are written in one batch.
const COMMANDS_PER_ROUND: usize = 512;
/// Rounds that may wait for a flush.
const ROUNDS: usize = 16;
/// How often time passes for the engine. Far below the gap after which it takes itself for held up.
const TICK: Duration = Duration::from_millis(200);

/// The way to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    store: Arc<Store>,
    offers: watch::Receiver<u64>,
    commits: watch::Receiver<u64>,
    stopped: watch::Receiver<Option<Stopped>>,
}

/// The engine's threads. They end when the engine is told to stop, or its store fails.
#[derive(Debug)]
pub struct EngineThreads {
    threads: Vec<JoinHandle<()>>,
    ticker: tokio::task::JoinHandle<()>,
}

/// Why the engine has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was told to.
    Asked,
    /// Its store failed.
    Store(StoreError),
    /// It has an error of its own.
    Panicked(String),
}

type Volatile = Box<dyn FnOnce(&mut Core, Now) + Send>;
type Durable = Box<dyn FnOnce(&mut Core, Now) -> Answer + Send>;

/// Something to do. What it changes is written; when its answer goes out is the difference.
enum Command {
    /// Answers at once: nothing of it has to last.
    Volatile(Volatile),
    /// Answers when everything up to here is durable.
    Durable(Durable),
    Stop,
}

// === impl Engine ===

impl Engine {
    /// Starts the engine on a store, within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read, or there is no thread to be had.
    pub fn start(store: Arc<Store>, options: SchedulerOptions) -> Result<(Self, EngineThreads), StoreError> {
        let clock = Clock::start();
        let core = Core::open(store.clone(), options, clock.now())?;
        let (commands, received) = mpsc::channel(COMMANDS);
        let (rounds, to_commit) = sync_channel(ROUNDS);
        let (offered, offers) = watch::channel(0);
        let (committed, commits) = watch::channel(0);
        let (stop, stopped) = watch::channel(None);
        let loops = Loop { core, commands: received, rounds, clock, offered };
        let committing = store.clone();
        let stop_committer = stop.clone();
        let threads = vec![
            spawn(&store, "engine", stop, move || loops.run().map(|()| Some(Stopped::Asked)))?,
            // It ends when the engine drops its side of the channel, and then everything is flushed.
            spawn(&store, "committer", stop_committer, move || {
                commit_rounds(&committing, &to_commit, &committed).map(|()| None)
            })?,
        ];
        let engine = Self { commands, store, offers, commits, stopped };
        let ticker = tokio::spawn(engine.clone().tick());
        Ok((engine, EngineThreads { threads, ticker }))
    }

    /// Carries out a command that changes nothing that has to last, and answers at once.
    ///
    /// # Errors
    /// What the command says, or [`EngineError::Stopping`].
    pub async fn volatile<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Core, Now) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let (sender, receiver) = oneshot::channel();
        let command = Command::Volatile(Box::new(move |core: &mut Core, now| {
            // Nobody may be waiting any more; the command is carried out all the same.
            let _ = sender.send(command(core, now));
        }));
        self.ask(command, receiver).await
    }

    /// Carries out a command and answers when everything it changed, and everything it saw, is durable.
    ///
    /// # Errors
    /// What the command says, [`EngineError::Store`] when the store fails, or [`EngineError::Stopping`].
    pub async fn durable<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Core, Now) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let (sender, receiver) = oneshot::channel();
        let command = Command::Durable(Box::new(move |core: &mut Core, now| {
            let answer = command(core, now);
            Box::new(move |failure: Option<&StoreError>| {
                let _ = sender.send(match failure {
                    None => answer,
                    Some(error) => Err(error.clone().into()),
                });
            })
        }));
        self.ask(command, receiver).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        self.commands.send(command).await.map_err(|_| self.ending())?;
        answer.await.unwrap_or_else(|_| Err(self.ending()))
    }

    fn ending(&self) -> EngineError {
        match self.store.failure() {
            Some(error) => error.clone().into(),
            None => EngineError::Stopping,
        }
    }

    /// The store, for what can be read or written beside the engine: samples, and events that are committed.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Changes whenever there may be work that there was not before.
    pub fn offers(&self) -> watch::Receiver<u64> {
        self.offers.clone()
    }

    /// Changes whenever something became durable.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }

    /// Lets the engine end after what it has been told so far.
    pub async fn stop(&self) {
        // An engine that has ended needs no telling.
        let _ = self.commands.send(Command::Stop).await;
    }

    /// Waits until the engine has ended, and says why.
    pub async fn stopped(&self) -> Stopped {
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(Stopped::Asked),
            Err(_) => Stopped::Asked,
        }
    }

    async fn tick(self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if self.volatile(|core, now| core.tick(now)).await.is_err() {
                return;
            }
        }
    }
}

// === impl EngineThreads ===

impl EngineThreads {
    /// Waits until the threads have ended, so that the store is free.
    pub async fn join(self) {
        self.ticker.abort();
        let _ = self.ticker.await;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                // A panic was caught and told before.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

/// The engine's own thread.
struct Loop {
    core: Core,
    commands: mpsc::Receiver<Command>,
    rounds: SyncSender<Round>,
    clock: Clock,
    offered: watch::Sender<u64>,
}

// === impl Loop ===

impl Loop {
    fn run(mut self) -> Result<(), StoreError> {
        let mut goes_on = true;
        while goes_on {
            let Some(first) = self.commands.blocking_recv() else { break };
            let mut answers = Vec::new();
            goes_on = self.carry_out(first, &mut answers);
            for _ in 1..COMMANDS_PER_ROUND {
                match self.commands.try_recv() {
                    Ok(command) if goes_on => goes_on = self.carry_out(command, &mut answers),
                    _ => break,
                }
            }
            let round = self.finish_round(answers);
            if round.result.is_err() {
                goes_on = false;
            }
            let result = round.result.clone();
            // While one flush takes long, heartbeats and the passing of time must not wait behind it for nothing.
            let is_over =
                if round.is_idle() { self.core.store().failure().is_some() } else { self.rounds.send(round).is_err() };
            if is_over {
                // The committer ends only when the store has failed.
                return self.core.store().failure().cloned().map_or(Ok(()), Err);
            }
            result?;
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command, answers: &mut Vec<Answer>) -> bool {
        let now = self.clock.now();
        self.core.attend(now);
        match command {
            Command::Volatile(command) => command(&mut self.core, now),
            Command::Durable(command) => answers.push(command(&mut self.core, now)),
            Command::Stop => return false,
        }
        true
    }

    fn finish_round(&mut self, answers: Vec<Answer>) -> Round {
        let batch = self.core.take_batch();
        let wrote = !batch.is_empty();
        let result = match self.core.broken() {
            // What is in memory is half a step; what is stored is whole.
            Some(error) => Err(error.clone()),
            None if wrote => self.core.store().apply(batch),
            None => Ok(()),
        };
        let offers = self.core.offers();
        self.offered.send_if_modified(|last| std::mem::replace(last, offers) != offers);
        Round { answers, wrote, result }
    }
}

fn spawn(
    store: &Store,
    name: &'static str,
    stop: watch::Sender<Option<Stopped>>,
    run: impl FnOnce() -> Result<Option<Stopped>, StoreError> + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let thread = Builder::new().name(name.into()).spawn(move || {
        let stopped = match catch_unwind(AssertUnwindSafe(run)) {
            // Ended because the other thread has, which tells why.
            Ok(Ok(None)) => return,
            Ok(Ok(Some(stopped))) => stopped,
            Ok(Err(error)) => Stopped::Store(error),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Stopped::Panicked(text.unwrap_or("no message").to_owned())
            }
        };
        tracing::debug!(thread = name, ?stopped, "ended");
        stop.send_if_modified(|reason| {
            // A failure is worth more than the ending that follows from it.
            let tell = !matches!(reason, Some(Stopped::Store(_) | Stopped::Panicked(_)));
            if tell {
                *reason = Some(stopped);
            }
            tell
        });
    });
    thread.map_err(|error| StoreError::Io {
        path: store.path().to_owned(),
        doing: "starting a thread for",
        reason: error.to_string(),
    })
}
