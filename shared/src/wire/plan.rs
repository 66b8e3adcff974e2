//! Plans on the wire.

use super::field::{InvalidField, digest, line, value};
use super::pb;
use crate::plan::{OrderId, PlanJob, PlanProgress, StageAtWork};

const MAX_LINE: usize = 200;

// === PlanJob ===

impl TryFrom<pb::PlanJob> for PlanJob {
    type Error = InvalidField;
    fn try_from(message: pb::PlanJob) -> Result<Self, InvalidField> {
        Ok(Self {
            name: line("name", message.name, MAX_LINE)?,
            model: line("model", message.model, MAX_LINE)?,
            folder: line("folder", message.folder, MAX_LINE)?,
            order: OrderId(digest::<32>("order", &message.order)?),
            original_length: message.original_length,
            target_length: message.target_length,
            stages: message.stages,
        })
    }
}

impl From<&PlanJob> for pb::PlanJob {
    fn from(job: &PlanJob) -> Self {
        Self {
            name: job.name.clone(),
            model: job.model.clone(),
            folder: job.folder.clone(),
            order: job.order.0.to_vec(),
            original_length: job.original_length,
            target_length: job.target_length,
            stages: job.stages,
        }
    }
}

// === progress ===

impl TryFrom<pb::PlanProgress> for PlanProgress {
    type Error = InvalidField;
    fn try_from(message: pb::PlanProgress) -> Result<Self, InvalidField> {
        let name = line("plan.stage", message.stage, MAX_LINE)?;
        let kind = line("plan.stage_kind", message.stage_kind, MAX_LINE)?;
        let job = message.job_id;
        Ok(Self {
            stages_done: message.stages_done,
            stages: message.stages,
            stage: (!name.is_empty()).then_some(StageAtWork { name, kind }),
            job: (!job.is_empty()).then(|| job.parse().map_err(value("plan.job_id"))).transpose()?,
        })
    }
}

impl From<&PlanProgress> for pb::PlanProgress {
    fn from(progress: &PlanProgress) -> Self {
        let StageAtWork { name, kind } =
            progress.stage.clone().unwrap_or_else(|| StageAtWork { name: String::new(), kind: String::new() });
        Self {
            stages_done: progress.stages_done,
            stages: progress.stages,
            stage: name,
            stage_kind: kind,
            job_id: progress.job.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> PlanJob {
        PlanJob {
            name: "mine".into(),
            model: "base".into(),
            folder: "plan".into(),
            order: OrderId([3; 32]),
            original_length: 64,
            target_length: 512,
            stages: 6,
        }
    }

    #[test]
    fn messages_give_back_what_was_said() {
        assert_eq!(PlanJob::try_from(pb::PlanJob::from(&job())), Ok(job()));
        let at_work = StageAtWork { name: "tune".into(), kind: "finetune".into() };
        for (stage, job) in [(None, None), (Some(at_work.clone()), None), (Some(at_work), Some(job().id()))] {
            let progress = PlanProgress { stages_done: 1, stages: 6, stage, job };
            assert_eq!(PlanProgress::try_from(pb::PlanProgress::from(&progress)), Ok(progress));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field() {
        let refused = |change: &dyn Fn(&mut pb::PlanJob)| {
            let mut message = pb::PlanJob::from(&job());
            change(&mut message);
            PlanJob::try_from(message).unwrap_err().field
        };
        assert_eq!(refused(&|message| message.name = "x".repeat(10_000)), "name");
        assert_eq!(refused(&|message| message.model = "a\u{1b}[2J".into()), "model");
        assert_eq!(refused(&|message| message.folder = "a\nb".into()), "folder");
        assert_eq!(refused(&|message| message.order = vec![0; 31]), "order");
        let of_progress = |change: &dyn Fn(&mut pb::PlanProgress)| {
            let mut message = pb::PlanProgress::from(&PlanProgress::default());
            change(&mut message);
            PlanProgress::try_from(message).unwrap_err().field
        };
        assert_eq!(of_progress(&|message| message.stage = "x".repeat(1000)), "plan.stage");
        assert_eq!(of_progress(&|message| message.stage_kind = "\u{7}".into()), "plan.stage_kind");
        assert_eq!(of_progress(&|message| message.job_id = "../x".into()), "plan.job_id");
    }
}
