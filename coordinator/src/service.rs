//! The gRPC services of the coordinator, and the server that carries them.
//!
//! [`serve`] is the whole coordinator: `ropewalk serve` runs it on a machine's address, and `ropewalk search` on a
//! free port of the loopback interface.

mod access;
mod clients;
mod error;
mod plans;
mod samples;
pub mod tls;
mod trainings;
mod watch;
mod workers;

pub use error::ServeError;

use crate::dashboard;
use crate::driver::order::PlanRoot;
use crate::driver::{Driver, PlanOptions};
use crate::engine::{Engine, EngineThreads, Stopped};
use crate::scheduler::SchedulerOptions;
use crate::store::Store;
use access::Guard;
use clients::Clients;
use plans::Plans;
use ropewalk_shared::access::Token;
use ropewalk_shared::wire::DESCRIPTORS;
use ropewalk_shared::wire::pb::plans_server::PlansServer;
use ropewalk_shared::wire::pb::ropewalk_server::RopewalkServer;
use ropewalk_shared::wire::pb::training_server::TrainingServer;
use ropewalk_shared::wire::pb::work_server::WorkServer;
use samples::Transfers;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tls::Tls;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tower_layer::{Identity, Stack};
use trainings::Trainings;
use workers::Workers;

/// Largest message that is accepted. A specification with a large config.json and a full batch of reports fit.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// How long open connections may take to end once the coordinator is stopping.
const DRAIN: Duration = Duration::from_secs(5);
/// A peer that does not answer to pings for this long is cut off.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How a coordinator serves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How long a lease lasts after it was given or renewed: what a worker that dies costs.
    pub lease: Duration,
    /// How plans are carried out; absent where none are.
    pub plans: Option<PlanOptions>,
    /// Who may call, and how calls are kept from others.
    pub security: Security,
    /// Where the dashboard listens; absent where there is none.
    pub http: Option<String>,
}

/// What protects the calls to a coordinator; by default nothing does.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// What every call but those to the health service has to bring along.
    pub token: Option<Token>,
    /// What connections are encrypted with.
    pub tls: Option<Tls>,
}

/// A running coordinator. It runs until the shutdown it was given completes, even when this is dropped.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    encrypted: bool,
    dashboard: Option<SocketAddr>,
    ended: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), plans: None, security: Security::default(), http: None }
    }
}

/// Opens the store, binds the address and serves until `shutdown` completes.
///
/// Returns once calls are accepted; `127.0.0.1:0` binds a free port, which [`Serving::address`] tells.
///
/// # Errors
/// [`ServeError`] when the store cannot be opened or the address cannot be bound.
pub async fn serve(
    listen: &str,
    store: &Path,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Serving, ServeError> {
    let listener = bind(listen).await?;
    let address = listener.local_addr().map_err(|error| bind_error(listen, &error))?;
    let ServeOptions { lease, plans, security, http } = options;
    let http = match http {
        Some(http) => Some(dashboard::bind(&http).await?),
        None => None,
    };
    let dashboard = http.as_ref().and_then(|http| http.local_addr().ok());
    let encrypted = security.tls.is_some();
    let scheduler = SchedulerOptions { lease, ..SchedulerOptions::default() };
    let (engine, threads) = start_engine(store.to_owned(), scheduler).await?;
    let ended = tokio::spawn(run((listener, http), engine, threads, (plans, security), shutdown));
    Ok(Serving { address, encrypted, dashboard, ended })
}

// === impl Serving ===

impl Serving {
    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as clients and workers on this machine write it.
    pub fn url(&self) -> String {
        url_of(self.address, self.encrypted)
    }

    /// The dashboard's bound address; absent where there is none.
    pub fn dashboard(&self) -> Option<SocketAddr> {
        self.dashboard
    }

    /// Waits until the coordinator has stopped, everything is flushed and the store is free.
    ///
    /// # Errors
    /// [`ServeError`] when it stopped for another reason than the shutdown.
    pub async fn finished(mut self) -> Result<(), ServeError> {
        self.ended().await
    }

    /// The same, for whoever waits for something else too. Once it has completed, nothing may be waited for again.
    ///
    /// # Errors
    /// As [`Self::finished`].
    pub async fn ended(&mut self) -> Result<(), ServeError> {
        (&mut self.ended).await.unwrap_or_else(|error| Err(ServeError::Server(error.to_string())))
    }
}

fn url_of(mut address: SocketAddr, encrypted: bool) -> String {
    if address.ip().is_unspecified() {
        // Bound to every address of the machine, which is none to connect to.
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("{}://{address}", if encrypted { "https" } else { "http" })
}

async fn bind(listen: &str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(listen).await.map_err(|error| bind_error(listen, &error))
}

fn bind_error(listen: &str, error: &std::io::Error) -> ServeError {
    let address = listen.to_owned();
    match error.kind() {
        ErrorKind::AddrInUse => ServeError::PortInUse { address },
        ErrorKind::InvalidInput => ServeError::NoAddress { address, reason: error.to_string() },
        _ => ServeError::Bind { address, reason: error.to_string() },
    }
}

/// Opening a store reads it through, which is no work for a thread that serves.
async fn start_engine(path: PathBuf, options: SchedulerOptions) -> Result<(Engine, EngineThreads), ServeError> {
    let started = tokio::task::spawn_blocking(move || {
        let store = Store::open(&path)?;
        Engine::start(Arc::new(store), options)
    });
    Ok(started.await.map_err(|error| ServeError::Server(error.to_string()))??)
}

async fn run(
    (listener, http): (TcpListener, Option<TcpListener>),
    engine: Engine,
    threads: EngineThreads,
    (plans, security): (Option<PlanOptions>, Security),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let (close, closing) = channel::channel(false);
    let root = plans.as_ref().map(|plans| plans.root.clone());
    let encrypted = security.tls.is_some();
    let router = router(&engine, root, security, &closing).await?;
    let address = listener.local_addr().map_err(|error| ServeError::Server(error.to_string()))?;
    let driver = plans.map(|plans| {
        let url = plans.url(address.port()).unwrap_or_else(|| url_of(address, encrypted));
        tokio::spawn(Driver::new(engine.clone(), plans, url).run(closing.clone()))
    });
    let dashboard = http.map(|http| tokio::spawn(dashboard::run(http, engine.clone(), closing.clone())));
    let stopped = engine.clone();
    let signal = async move {
        tokio::select! {
            () = shutdown => tracing::info!("stopping"),
            reason = stopped.stopped() => tracing::error!(?reason, "the engine has stopped"),
        }
        // Streams and waiting requests end now; other calls are answered.
        close.send_replace(true);
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = {
        let server = router.serve_with_incoming_shutdown(incoming, signal);
        let mut closing = closing;
        let deadline = async move {
            raised(&mut closing).await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = server => served,
            () = deadline => Ok(()),
        }
    };
    if let Some(dashboard) = dashboard {
        let _ = dashboard.await;
    }
    if let Some(driver) = driver {
        // It ends with the flag that ended the server, and its processes with it.
        let _ = driver.await;
    }
    engine.stop().await;
    threads.join().await;
    match engine.stopped().await {
        Stopped::Store(error) => Err(error.into()),
        Stopped::Panicked(message) => Err(ServeError::Server(message)),
        Stopped::Asked => served.map_err(|error| ServeError::Server(error.to_string())),
    }
}

/// Completes when the coordinator is stopping.
async fn raised(closing: &mut channel::Receiver<bool>) {
    // Whoever raises the flag lives until everything has ended; if not, this is the end as well.
    let _ = closing.wait_for(|closing| *closing).await;
}

async fn router(
    engine: &Engine,
    root: Option<PlanRoot>,
    security: Security,
    closing: &channel::Receiver<bool>,
) -> Result<Router<Stack<Guard, Identity>>, ServeError> {
    let transfers = Transfers::new(engine.store().clone());
    let (engine, closing) = (engine.clone(), closing.clone());
    let clients = Clients { engine: engine.clone(), transfers: transfers.clone(), closing: closing.clone() };
    let trainings = Trainings { engine: engine.clone(), closing: closing.clone() };
    let plans = Plans { engine: engine.clone(), root };
    let workers = Workers { engine, transfers, closing };
    let clients = RopewalkServer::new(clients).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let workers = WorkServer::new(workers).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let trainings = TrainingServer::new(trainings).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let plans = PlansServer::new(plans).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RopewalkServer<Clients>>().await;
    health.set_serving::<WorkServer<Workers>>().await;
    health.set_serving::<TrainingServer<Trainings>>().await;
    health.set_serving::<PlansServer<Plans>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ServeError::Server(error.to_string()))?;
    let mut server = Server::builder();
    if let Some(tls) = &security.tls {
        server = server.tls_config(tls.config()).map_err(|error| ServeError::Server(error.to_string()))?;
    }
    Ok(server
        .layer(Guard::new(security.token))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(clients)
        .add_service(workers)
        .add_service(trainings)
        .add_service(plans))
}
