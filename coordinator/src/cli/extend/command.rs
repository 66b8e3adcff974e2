//! Training by another program: it is told where everything is, and its exit status and checkpoint decide.

use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::output::note;
use crate::cli::stop::stop_signal;
use anyhow::Context as _;
use fs2::FileExt as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Bytes of the log's end that a failure shows.
const SHOWN: i64 = 2000;
/// Pause between looks at a running program.
const POLL: Duration = Duration::from_millis(50);
/// How long it may take to end once it was asked to: less than a coordinator waits for the process that runs it.
const GRACE: Duration = Duration::from_secs(10);

/// What the program is told.
pub struct Told<'a> {
    /// The program and its arguments, with `{model}`, `{factors}`, `{data}`, `{out}`, `{steps}` and `{length}` in them.
    pub command: &'a [String],
    /// Folder of the model to train.
    pub model: &'a Path,
    /// The factor file.
    pub factors: &'a Path,
    /// Documents to train on.
    pub data: &'a [PathBuf],
    /// Folder for the checkpoint; what an earlier run of the program left there is still in it.
    pub out: &'a Path,
    /// Optimiser steps, where the plan says how many.
    pub steps: Option<u32>,
    /// Tokens of a sequence, where the plan says how many.
    pub length: Option<u32>,
}

// === impl Told ===

impl Told<'_> {
    /// Runs the program to its end, with what it prints in the file `log`.
    pub async fn run(&self, log: &Path) -> Outcome {
        let open = || File::options().create(true).append(true).read(true).open(log);
        let file = open().with_context(|| format!("cannot open {}", log.display())).or_work()?;
        // The program shares this lock through its output: while it runs, even as an orphan of a run that was killed, no
        // other may write to the same folder.
        if file.try_lock_exclusive().is_err() {
            note("the program of an earlier run is still at work; waiting for its end");
            let waiting = file.try_clone().or_work()?;
            let waited = tokio::task::spawn_blocking(move || waiting.lock_exclusive());
            tokio::select! {
                waited = waited => waited.or_work()?.or_work()?,
                () = stop_signal() => return Err(interrupted()),
            }
        }
        std::fs::create_dir_all(self.out).with_context(|| format!("cannot create {}", self.out.display())).or_work()?;
        let arguments = self.arguments();
        let (program, rest) = arguments.split_first().ok_or_else(|| Failure::input_message("the command is empty"))?;
        note(format!("running {}; its output is in {}", arguments.join(" "), log.display()));
        let mut command = Command::new(program);
        command.args(rest).envs(self.environment()).stdin(Stdio::null());
        command.stdout(file.try_clone().or_work()?).stderr(file.try_clone().or_work()?);
        // What the program starts itself belongs to its group, and ends with it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("cannot run {program}")).or_work()?;
        let status = ended(child).await?;
        if status.success() {
            return Ok(());
        }
        let end = end_of(file).unwrap_or_default();
        Err(Failure::work_message(format!("{program} ended with {status}; the end of {}:\n{end}", log.display())))
    }

    /// The arguments with everything in its place. One that is `{data}` and nothing else becomes one for each path.
    fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let mut arguments = Vec::new();
        for argument in self.command {
            if argument == "{data}" {
                arguments.extend(self.data.iter().map(|path| text(path)));
                continue;
            }
            let places = [
                ("{model}", text(self.model)),
                ("{factors}", text(self.factors)),
                ("{data}", self.joined_data()),
                ("{out}", text(self.out)),
                ("{steps}", number(self.steps)),
                ("{length}", number(self.length)),
            ];
            arguments
                .push(places.iter().fold(argument.clone(), |argument, (place, value)| argument.replace(place, value)));
        }
        arguments
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut environment = vec![
            ("ROPEWALK_MODEL", text(self.model)),
            ("ROPEWALK_FACTORS", text(self.factors)),
            ("ROPEWALK_DATA", self.joined_data()),
            ("ROPEWALK_OUT", text(self.out)),
        ];
        environment.extend(self.steps.map(|steps| ("ROPEWALK_STEPS", steps.to_string())));
        environment.extend(self.length.map(|length| ("ROPEWALK_LENGTH", length.to_string())));
        environment
    }

    /// The paths as one text, as lists of paths are written on this system.
    fn joined_data(&self) -> String {
        std::env::join_paths(self.data).map(|joined| joined.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Waits for the end of a program, or ends it when this process is asked to stop.
async fn ended(mut child: Child) -> Result<ExitStatus, Failure> {
    let mut stop = std::pin::pin!(stop_signal());
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the program").or_work()? {
            return Ok(status);
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = &mut stop => {
                end(&mut child).await;
                return Err(interrupted());
            }
        }
    }
}

/// Ends a program and all that it has started: they are asked to, and killed if they take too long.
async fn end(child: &mut Child) {
    tell(child, false);
    let since = Instant::now();
    while since.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
        tokio::time::sleep(POLL).await;
    }
    // The first of them may have ended before the others.
    tell(child, true);
    let _ = child.wait();
}

/// Asks a program's group to end, or kills it. One that has just ended cannot be told, and need not be.
#[cfg(unix)]
fn tell(child: &mut Child, kill: bool) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, if kill { Signal::KILL } else { Signal::TERM });
    }
}

#[cfg(not(unix))]
fn tell(child: &mut Child, _kill: bool) {
    let _ = child.kill();
}

fn interrupted() -> Failure {
    Failure::work_message("interrupted, and the program with it; the same command runs it again, in the same folder")
}

fn end_of(mut log: File) -> std::io::Result<String> {
    let size = log.metadata()?.len() as i64;
    log.seek(SeekFrom::End(-SHOWN.min(size)))?;
    let mut end = Vec::new();
    log.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled() {
        let command =
            ["train", "--all={model}:{factors}:{data}", "{data}", "{out}", "{steps}", "{length}"].map(String::from);
        let data = [PathBuf::from("a"), PathBuf::from("b c")];
        let told = Told {
            command: &command,
            model: Path::new("m"),
            factors: Path::new("f.json"),
            data: &data,
            out: Path::new("o"),
            steps: Some(7),
            length: None,
        };
        assert_eq!(told.arguments(), ["train", "--all=m:f.json:a:b c", "a", "b c", "o", "7", ""]);
        assert!(told.environment().contains(&("ROPEWALK_STEPS", "7".to_owned())));
        assert!(told.environment().iter().all(|(name, _)| *name != "ROPEWALK_LENGTH"));
    }
}
