//! Which path shows what, and what holds for all of them: nothing is changed, nothing is large, nothing takes long.

use super::error::Unavailable;
use super::{Dashboard, api, health, metrics, pages};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest path with its query, in bytes.
const LONGEST: usize = 1024;
/// Requests worked on at a time; others wait for their turn.
const AT_ONCE: usize = 16;
/// How long a request may take, the wait for its turn included.
const LIMIT: Duration = Duration::from_secs(15);

/// Pages load their style from here and nothing else from anywhere, run no scripts, and stand in no other page.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];

/// All of them.
pub(super) fn routes(dashboard: Arc<Dashboard>) -> Router {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    Router::new()
        .route("/", get(pages::home))
        .route("/jobs/{id}", get(pages::job))
        .route("/metrics", get(metrics::scrape))
        .route("/readyz", get(health::ready))
        .route("/api/jobs", get(api::jobs))
        .route("/api/jobs/{id}", get(api::job))
        .route("/api/workers", get(api::workers))
        .route_layer(from_fn_with_state(turns, in_turn))
        // Whoever asks these waits for nobody.
        .route("/healthz", get(health::alive))
        .route("/style.css", get(pages::style))
        .fallback(nothing)
        .with_state(dashboard)
        .layer(from_fn(guard))
}

/// Refuses what no reader sends, and says how browsers have to treat the answer.
async fn guard(request: Request, next: Next) -> Response {
    let length = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let mut response = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "this can only be read: use GET");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        response
    } else if length > LONGEST {
        said(StatusCode::URI_TOO_LONG, &format!("a path of {length} bytes, at most {LONGEST} are read"))
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A few at a time, and none for long.
async fn in_turn(State(turns): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let answer = async {
        let _turn = turns.acquire().await;
        next.run(request).await
    };
    let silent = Unavailable::Silent { who: "dashboard", within: LIMIT };
    timeout(LIMIT, answer).await.unwrap_or_else(|_| silent.into_response())
}

async fn nothing() -> Response {
    said(StatusCode::NOT_FOUND, "nothing is here: / is the dashboard, /metrics the metrics")
}

fn said(status: StatusCode, what: &str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{what}\n")).into_response()
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        said(self.status(), &self.to_string())
    }
}
