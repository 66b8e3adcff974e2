//! Launching plans.

use super::error::{answer, refused};
use super::{Client, ClientError, pb};
use ropewalk_shared::job::JobId;
use ropewalk_shared::plan::PlanJob;

// === impl Client ===

impl Client {
    /// Launches a plan whose order lies in its folder, which the coordinator sees too. The second value is false when the same
    /// was launched before: that job is then named, and goes through its stages again if it was over.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what is wrong with it, or where the coordinator carries out no plans.
    pub async fn launch_plan(&self, job: &PlanJob) -> Result<(JobId, bool), ClientError> {
        let request = pb::LaunchPlanRequest { job: Some(job.into()) };
        let response = self.plans.clone().launch_plan(request).await.map_err(refused(&self.url))?.into_inner();
        Ok((response.job_id.parse().map_err(answer)?, response.created))
    }
}
