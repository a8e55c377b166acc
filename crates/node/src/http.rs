//! Health and metrics, over HTTP/1.

use crate::metrics::Metrics;
use crate::net::Connection;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tower::ServiceExt;

/// How long a request's head may take to come, counted from the connection's beginning or the answer before: so it
/// bounds idle connections, too. `axum::serve` would wait for ever.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// What a request's head may take, in bytes, and how many headers it may have.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// How long a page of metrics is good for. Making one takes a moment of the runtime that serves clients.
const TOLD_FOR: Duration = Duration::from_millis(100);

/// What the pages are made from.
pub(crate) trait Pages: Send + Sync + 'static {
    /// Brings the gauges up to date.
    fn look(&self);
    /// Whether this node takes part in a cluster that works, and what a person should look at all the same; an error
    /// says what is missing.
    fn ready(&self) -> Result<Vec<String>, String>;
}

struct Site<P> {
    metrics: Arc<Metrics>,
    pages: P,
    /// The text that was made last, and when.
    told: Mutex<Option<(Instant, Bytes)>>,
}

impl<P: Pages> Site<P> {
    fn text(&self) -> Bytes {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*told
            && at.elapsed() < TOLD_FOR
        {
            return text.clone();
        }
        self.pages.look();
        let text = Bytes::from(self.metrics.text());
        *told = Some((Instant::now(), text.clone()));
        text
    }
}

/// `/metrics`, `/healthz` (the process runs) and `/readyz` (it is of use).
pub(crate) fn router<P: Pages>(metrics: Arc<Metrics>, pages: P) -> Router {
    let site = Arc::new(Site {
        metrics,
        pages,
        told: Mutex::default(),
    });
    Router::new()
        .route("/metrics", get(show_metrics::<P>))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_ready::<P>))
        .with_state(site)
}

async fn show_metrics<P: Pages>(State(site): State<Arc<Site<P>>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], site.text())
}

async fn show_ready<P: Pages>(State(site): State<Arc<Site<P>>>) -> impl IntoResponse {
    match site.pages.ready() {
        Ok(mut problems) => {
            problems.extend(quarantined(&site.metrics));
            let lines: String = problems.iter().map(|line| format!("{line}\n")).collect();
            (StatusCode::OK, format!("ok\n{lines}"))
        }
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}

/// In how many interfaces something is wrong: the others go on, so the node is of use.
fn quarantined(metrics: &Metrics) -> Option<String> {
    let quarantined = metrics.quarantined_interfaces.get();
    let line = || format!("quarantined interfaces: {quarantined}, see `ordo interface list`");
    (quarantined > 0).then(line)
}

/// Serves `router` on what comes in until `closing` is there; then answers the requests that have begun.
pub(crate) async fn serve<S>(incoming: S, router: Router, closing: impl Future<Output = ()>)
where
    S: Stream<Item = io::Result<Connection>> + Unpin,
{
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let graceful = GracefulShutdown::new();
    let closing = pin!(closing);
    let mut incoming = incoming.take_until(closing);
    while let Some(Ok(connection)) = incoming.next().await {
        let activity = Arc::clone(&connection.remote().activity);
        let router = router.clone().map_request(move |request| {
            // A request counts as a moment only: none of these pages takes long.
            activity.begin();
            activity.end();
            request
        });
        let served =
            builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
        let served = graceful.watch(served.into_owned());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "an HTTP connection broke");
            }
        });
    }
    drop(incoming);
    graceful.shutdown().await;
}
