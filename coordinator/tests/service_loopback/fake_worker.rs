//! A worker that computes a formula instead of a model.

use ropewalk_shared::outcome::Loss;
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::work_client::WorkClient;
use ropewalk_shared::work::{Unit, UnitOutcome, UnitReport};
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;

/// Works until it is dropped, across restarts of the coordinator.
pub async fn work(url: String, max_units: u32) {
    loop {
        if let Ok(mut service) = WorkClient::connect(url.clone()).await {
            // It ends when the coordinator goes away or has forgotten the worker.
            let _ = work_until_error(&mut service, max_units).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn work_until_error(service: &mut WorkClient<Channel>, max_units: u32) -> Result<(), tonic::Status> {
    let worker_id = register(service, 1 << 20).await?;
    for request_id in 1.. {
        let request = lease_request(&worker_id, request_id, max_units, 1000);
        let units = service.lease(request).await?.into_inner().units;
        if units.is_empty() {
            continue;
        }
        let reports = units.into_iter().map(|unit| evaluated(unit.try_into().unwrap())).collect();
        service.report(pb::ReportRequest { worker_id: worker_id.clone(), reports }).await?;
    }
    Ok(())
}

pub async fn register(service: &mut WorkClient<Channel>, max_tokens: u64) -> Result<String, tonic::Status> {
    let request = pb::RegisterRequest {
        name: "fake".into(),
        device: "cpu".into(),
        dtype: "f64".into(),
        max_tokens,
        max_gradient_tokens: Some(max_tokens),
        version: "0".into(),
    };
    Ok(service.register(request).await?.into_inner().worker_id)
}

pub fn lease_request(worker_id: &str, request_id: u64, max_units: u32, wait_ms: u64) -> pb::LeaseRequest {
    pb::LeaseRequest {
        worker_id: worker_id.into(),
        request_id,
        max_units,
        wait_ms,
        loaded_models: Vec::new(),
        missing_models: Vec::new(),
    }
}

/// A loss that has a best place.
pub fn evaluated(unit: Unit) -> pb::UnitReport {
    let places = unit.rescale.factors.iter().zip(1..);
    let distance: f64 = places.map(|(factor, place)| (factor.ln() - f64::from(place) * 0.3).powi(2)).sum();
    let mean = 1.0 + distance + f64::from(unit.rescale.start_tokens) / 1000.0;
    let predicted = u64::from(unit.tokens) - 1;
    let loss = Loss { nll_sum: mean * predicted as f64, tokens: predicted };
    let report = UnitReport {
        lease: unit.lease,
        job: unit.job,
        sample: unit.sample,
        rescale: unit.rescale,
        outcome: UnitOutcome::Loss { loss, seconds: 0.001 },
    };
    (&report).into()
}

pub fn is(result: Result<impl Sized, tonic::Status>, code: Code) -> bool {
    result.err().is_some_and(|status| status.code() == code)
}
