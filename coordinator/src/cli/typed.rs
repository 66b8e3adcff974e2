//! What is wrong with a search or a training, by the options that say it.

use super::failure::Failure;
use ropewalk_shared::job::{InvalidJob, Problem};
use ropewalk_shared::training::InvalidTraining;
use std::fmt::Write as _;

/// Fields of a training whose options have other names.
const OF_TRAINING: [(&str, &str); 3] =
    [("sequences_per_step", "batch"), ("warmup_steps", "warm-up"), ("clip_norm", "clip")];

/// A search that cannot be run.
pub fn wrong_job(invalid: InvalidJob) -> Failure {
    wrong("the job", &invalid.problems, |field| field.replace('_', "-"))
}

/// A training that cannot be run.
#[cfg_attr(not(feature = "local"), expect(dead_code, reason = "only `finetune` takes the options of a training"))]
pub fn wrong_training(invalid: InvalidTraining) -> Failure {
    let option = |field: &str| {
        let other = OF_TRAINING.iter().find(|(of_job, _)| *of_job == field);
        other.map_or_else(|| field.replace('_', "-"), |(_, option)| (*option).to_owned())
    };
    wrong("the training", &invalid.problems, option)
}

fn wrong(what: &str, problems: &[Problem], option: impl Fn(&str) -> String) -> Failure {
    let mut text = format!("{what} cannot be run:");
    for Problem { field, reason } in problems {
        let _ = write!(text, "\n  --{}: {reason}", option(field));
    }
    Failure::input_message(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_as_they_are_typed() {
        let problem = |field| Problem { field, reason: "must be at least 1".to_owned() };
        let job = wrong_job(InvalidJob { problems: vec![problem("max_passes"), problem("name")] });
        assert_eq!(
            job.to_string(),
            "the job cannot be run:\n  --max-passes: must be at least 1\n  --name: must be at least 1"
        );
        let training =
            wrong_training(InvalidTraining { problems: vec![problem("sequences_per_step"), problem("short_share")] });
        assert!(
            training.to_string().ends_with("--batch: must be at least 1\n  --short-share: must be at least 1"),
            "{training}"
        );
        assert!(training.is_input());
    }
}
