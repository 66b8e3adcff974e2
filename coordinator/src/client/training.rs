//! Launching trainings.

use super::error::{answer, refused};
use super::{Client, ClientError, pb};
use ropewalk_shared::job::JobId;
use ropewalk_shared::training::TrainingJob;

// === impl Client ===

impl Client {
    /// Launches a training, of which the file of sequences lies in the folder that the workers share. The second value is
    /// false when the same was launched before: that job is then named, and set going again if it had been cancelled or
    /// had failed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with everything that is wrong with the training.
    pub async fn launch_training(&self, job: &TrainingJob) -> Result<(JobId, bool), ClientError> {
        let request = pb::LaunchTrainingRequest { job: Some(job.into()) };
        let response = self.trainings.clone().launch_training(request).await.map_err(refused(&self.url))?.into_inner();
        Ok((response.job_id.parse().map_err(answer)?, response.created))
    }
}
