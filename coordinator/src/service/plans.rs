//! The service for plans: launching them. The driver has them carried out.

use super::error::{invalid, refused};
use super::samples::blocking;
use crate::driver::order::PlanRoot;
use crate::engine::Engine;
use ropewalk_shared::plan::PlanJob;
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::plans_server::Plans as Service;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub(super) struct Plans {
    pub engine: Engine,
    /// Where plans' folders lie; absent where none are carried out.
    pub root: Option<PlanRoot>,
}

#[tonic::async_trait]
impl Service for Plans {
    async fn launch_plan(
        &self,
        request: Request<pb::LaunchPlanRequest>,
    ) -> Result<Response<pb::LaunchJobResponse>, Status> {
        let job = request.into_inner().job.ok_or_else(|| Status::invalid_argument("field job: is missing"))?;
        let job = PlanJob::try_from(job).map_err(invalid)?;
        job.check().map_err(|error| refused(error.into()))?;
        let Some(root) = self.root.clone() else {
            return Err(Status::failed_precondition(
                "this coordinator carries out no plans: start it with --plan-root and the folder in which plans' folders lie",
            ));
        };
        let named = job.clone();
        // Checked here, where somebody is told at once; whoever carries it out looks again.
        blocking(move || root.folder(&named).map_err(|error| Status::failed_precondition(error.to_string()))).await?;
        let launched = self.engine.durable(move |core, now| core.launch_plan(job, now)).await.map_err(refused)?;
        Ok(Response::new(pb::LaunchJobResponse { job_id: launched.job.to_string(), created: launched.created }))
    }
}
