//! A client of the coordinator: domain types in and out, errors that say what to do next.

mod error;
mod plan;
mod samples;
mod training;
mod watch;

pub use error::ClientError;
pub use watch::{Watch, Watched};

use error::{answer, refused};
use ropewalk_shared::access::Access;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::job::{JobId, JobSpec};
use ropewalk_shared::status::{JobStatus, WorkerStatus};
use ropewalk_shared::wire::connection::{Bearer, Calls, endpoint, root_cause, with_scheme};
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::plans_client::PlansClient;
use ropewalk_shared::wire::pb::ropewalk_client::RopewalkClient;
use ropewalk_shared::wire::pb::training_client::TrainingClient;
use std::time::Duration;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read: a list of many thousand jobs, or a history of as many generations.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A connection to a coordinator. Cheap to clone; it reconnects by itself when a call needs it.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    service: RopewalkClient<Calls>,
    trainings: TrainingClient<Calls>,
    plans: PlansClient<Calls>,
}

/// The factors of a job, so far or for good.
#[derive(Clone, Debug)]
pub struct JobResult {
    /// True when the job is done and the report complete.
    pub complete: bool,
    /// The factors and what they are worth.
    pub factors: FactorFile,
    /// The factor file as the coordinator wrote it: write this text where the file is to be byte-identical.
    pub factors_json: String,
    /// The model's config.json, for exports.
    pub config_json: String,
    /// Generations closed so far, as a JSON array of their summaries.
    pub history_json: String,
}

// === impl Client ===

impl Client {
    /// Connects to a coordinator that asks for no token, for example `http://127.0.0.1:7311` or `127.0.0.1:7311`.
    ///
    /// # Errors
    /// [`ClientError::Url`] for an address that is none, [`ClientError::Unreachable`] when no coordinator answers there.
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
        Self::connect_with(url, &Access::default()).await
    }

    /// Connects to a coordinator, `https://` too, with what it asks for. Whether it accepts the token shows with the first call.
    ///
    /// # Errors
    /// As [`Self::connect`], and [`ClientError::Access`].
    pub async fn connect_with(url: &str, access: &Access) -> Result<Self, ClientError> {
        let with_scheme = with_scheme(url);
        let endpoint = endpoint(&with_scheme, access)
            .map_err(|reason| ClientError::Url { url: url.to_owned(), reason })?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
        let unreachable = |reason: String| ClientError::Unreachable { url: with_scheme.clone(), reason };
        let silent = || unreachable(format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs()));
        let channel = connected.map_err(|_| silent())?.map_err(|error| error::unconnected(&with_scheme, &error))?;
        // Other servers accept connections too, and some then say nothing.
        let mut health = HealthClient::new(channel.clone());
        match tokio::time::timeout(CONNECT_TIMEOUT, health.check(HealthCheckRequest::default())).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                let cause = std::error::Error::source(&status).map(root_cause);
                let said = cause.unwrap_or_else(|| status.message().to_owned());
                let hint = if endpoint.uri().scheme_str() == Some("http") {
                    "; with TLS, its address begins with https://"
                } else {
                    ""
                };
                return Err(unreachable(format!("what listens there does not answer as one ({said}{hint})")));
            }
            Err(_) => return Err(silent()),
        }
        let bearer = Bearer::of(access.token.as_ref());
        let calls = Calls::new(channel, bearer);
        let trainings = TrainingClient::new(calls.clone());
        let plans = PlansClient::new(calls.clone());
        let service = RopewalkClient::new(calls).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { url: with_scheme, service, trainings, plans })
    }

    /// The coordinator's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Launches a job whose samples the coordinator holds. The second value is false when the same specification was
    /// launched before: that job is then named, and set going again if it had been cancelled or had failed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with everything that is wrong with the specification.
    pub async fn launch(&self, spec: &JobSpec) -> Result<(JobId, bool), ClientError> {
        let request = pb::LaunchJobRequest { spec: Some(spec.into()) };
        let response = self.service.clone().launch_job(request).await.map_err(refused(&self.url))?.into_inner();
        Ok((response.job_id.parse().map_err(answer)?, response.created))
    }

    /// All jobs, newest first.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, ClientError> {
        let response = self.service.clone().list_jobs(pb::ListJobsRequest {}).await.map_err(refused(&self.url))?;
        response.into_inner().jobs.into_iter().map(|job| job.try_into().map_err(answer)).collect()
    }

    /// How a job stands. Here and below a job is named by its id or any beginning of it that fits one job only.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn job(&self, job: &str) -> Result<JobStatus, ClientError> {
        let request = pb::GetJobRequest { job_id: job.to_owned() };
        self.status(self.service.clone().get_job(request).await)
    }

    /// Leases no further unit of a job.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn pause(&self, job: &str) -> Result<JobStatus, ClientError> {
        let request = pb::PauseJobRequest { job_id: job.to_owned() };
        self.status(self.service.clone().pause_job(request).await)
    }

    /// Leases units of a paused job again.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn resume(&self, job: &str) -> Result<JobStatus, ClientError> {
        let request = pb::ResumeJobRequest { job_id: job.to_owned() };
        self.status(self.service.clone().resume_job(request).await)
    }

    /// Ends a job; its workers stop evaluating it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn cancel(&self, job: &str) -> Result<JobStatus, ClientError> {
        let request = pb::CancelJobRequest { job_id: job.to_owned() };
        self.status(self.service.clone().cancel_job(request).await)
    }

    /// The best factors so far, or the final ones with the full report.
    ///
    /// # Errors
    /// [`ClientError::Refused`] while no candidate has a score.
    pub async fn result(&self, job: &str) -> Result<JobResult, ClientError> {
        let request = pb::GetResultRequest { job_id: job.to_owned() };
        let response = self.service.clone().get_result(request).await.map_err(refused(&self.url))?.into_inner();
        let pb::GetResultResponse { complete, factors_json, config_json, history_json } = response;
        let factors = FactorFile::from_json(&factors_json).map_err(answer)?;
        Ok(JobResult { complete, factors, factors_json, config_json, history_json })
    }

    /// The workers the coordinator knows.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, ClientError> {
        let response =
            self.service.clone().list_workers(pb::ListWorkersRequest {}).await.map_err(refused(&self.url))?;
        response.into_inner().workers.into_iter().map(|worker| worker.try_into().map_err(answer)).collect()
    }

    /// What happens to a job, from an event on (0 and 1 both mean from the beginning) until the job ends.
    pub fn watch(&self, job: &str, from_sequence: u64) -> Watch {
        Watch::new(self.clone(), job.to_owned(), from_sequence)
    }

    fn status(
        &self,
        response: Result<tonic::Response<pb::JobStatus>, tonic::Status>,
    ) -> Result<JobStatus, ClientError> {
        response.map_err(refused(&self.url))?.into_inner().try_into().map_err(answer)
    }
}
