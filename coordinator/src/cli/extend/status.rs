//! `ropewalk extend --status`: how the plan of a folder stands.

use super::folder::{StageResult, read_result};
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::options::JsonArgs;
use crate::cli::output;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The part of `plan.json` that is shown.
#[derive(Deserialize)]
struct Recorded {
    stages: Vec<RecordedStage>,
}

#[derive(Deserialize)]
struct RecordedStage {
    name: String,
    kind: String,
}

#[derive(Serialize)]
struct StageStatus {
    stage: String,
    kind: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<StageResult>,
}

/// Prints a line for each stage.
pub fn run(out: &Path, json: JsonArgs) -> Outcome {
    let path = out.join("plan.json");
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("{} holds no plan: cannot read {}", out.display(), path.display()));
    let recorded: Recorded =
        serde_json::from_str(&text.or_input()?).with_context(|| path.display().to_string()).or_input()?;
    let stages = recorded.stages.into_iter().map(|stage| of(out, stage)).collect::<Result<Vec<_>, _>>()?;
    if json.json {
        return stages.iter().try_for_each(output::json);
    }
    let rows = stages.into_iter().map(|stage| {
        let seconds = stage.result.as_ref().map(|result| output::duration(result.seconds));
        let summary = stage.result.map(|result| result.made.summary);
        vec![
            stage.stage,
            stage.kind,
            stage.state.to_owned(),
            seconds.unwrap_or_else(|| "-".to_owned()),
            summary.unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output::line(output::columns(&["stage", "kind", "state", "last run", "result"], &rows.collect::<Vec<_>>()))
}

fn of(out: &Path, RecordedStage { name, kind }: RecordedStage) -> Result<StageStatus, Failure> {
    let folder = out.join("stages").join(&name);
    let result = read_result(&folder)?;
    let state = match &result {
        Some(_) => "done",
        None if folder.exists() => "begun",
        None => "waiting",
    };
    Ok(StageStatus { stage: name, kind, state, result })
}
