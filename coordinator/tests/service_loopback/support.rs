//! A coordinator of the test's own, and a small job.

use ropewalk_coordinator::client::{Client, Watched};
use ropewalk_coordinator::driver::PlanOptions;
use ropewalk_coordinator::service::{ServeOptions, Serving, serve};
use ropewalk_shared::event::Event;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::{EvolutionOptions, JobSpec, ModelIdentity, SearchOptions};
use ropewalk_shared::sample::Sample;
use ropewalk_shared::status::JobStatus;
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;

/// A coordinator that ends with its test.
pub struct Coordinator {
    serving: Serving,
    stop: oneshot::Sender<()>,
}

impl Coordinator {
    pub async fn start(store: &Path) -> Self {
        Self::start_at("127.0.0.1:0", store).await
    }

    pub async fn start_at(listen: &str, store: &Path) -> Self {
        Self::open(listen, store, None).await
    }

    /// One that carries out plans, or does not.
    pub async fn start_with(store: &Path, plans: Option<PlanOptions>) -> Self {
        Self::open("127.0.0.1:0", store, plans).await
    }

    async fn open(listen: &str, store: &Path, plans: Option<PlanOptions>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let options = ServeOptions { lease: Duration::from_secs(2), plans, ..ServeOptions::default() };
        let serving = serve(listen, store, options, shutdown).await.unwrap();
        Self { serving, stop }
    }

    pub fn url(&self) -> String {
        self.serving.url()
    }

    pub fn listen(&self) -> String {
        self.serving.address().to_string()
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url()).await.unwrap()
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.finished().await.unwrap();
    }
}

/// A job of 16 tokens to 64, with 7 + generations * 5 candidates of 4 factors.
pub fn job(generations: u32) -> JobSpec {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 16,
    });
    let evolution = EvolutionOptions {
        population: 7,
        mutations: 3,
        crossovers: 2,
        generations,
        parents: 3,
        mutation_probability: 0.5,
    };
    JobSpec {
        name: "test".into(),
        model: ModelIdentity {
            name: "model".into(),
            fingerprint: Fingerprint::from([1; 32]),
            config_json: config.to_string(),
        },
        target_length: 64,
        search: SearchOptions { evolution, start_tokens: vec![0, 4], ..SearchOptions::default() },
        samples: samples()[..3].iter().map(Sample::id).collect(),
        held_out: samples()[3..].iter().map(Sample::id).collect(),
    }
}

pub fn samples() -> Vec<Sample> {
    (0..5).map(|number| Sample::new((0..64 + number).map(|token| token * 3 + number).collect()).unwrap()).collect()
}

/// Uploads the samples and launches the job.
pub async fn launch(client: &Client, spec: &JobSpec) {
    client.put_samples(&samples(), |_, _| ()).await.unwrap();
    client.launch(spec).await.unwrap();
}

/// Follows a job to its end; returns every event and the last status.
pub async fn follow(client: &Client, spec: &JobSpec) -> (Vec<Event>, JobStatus) {
    let (mut all, mut last) = (Vec::new(), None);
    let mut watch = client.watch(spec.id().as_str(), 0);
    while let Some(step) = watch.next().await.unwrap() {
        if let Watched::Progress { events, status } = step {
            all.extend(events);
            last = Some(*status);
        }
    }
    assert!(all.iter().zip(1..).all(|(event, number)| event.sequence == number), "gaps in {all:?}");
    (all, last.unwrap())
}
