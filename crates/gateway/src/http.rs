//! `/healthz`, `/readyz` and `/metrics` of a gateway, over HTTP/1.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::inbound::ACCEPT_PAUSE;
use crate::metrics::Metrics;
use crate::watch::Standing;

/// How long a request's head may take to come, counted from the connection's beginning or the answer before: so it
/// bounds idle connections, too.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// What a request's head may take, in bytes, and how many headers it may have.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Connections at once; others wait for their turn.
const CONNECTIONS_MAX: usize = 64;

/// What the pages are made from.
#[derive(Clone)]
struct Site {
    metrics: Metrics,
    standing: Arc<Standing>,
}

/// Serves the pages until `end`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    standing: Arc<Standing>,
    end: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_ready))
        .with_state(Site { metrics, standing });
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accept = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = end.cancelled() => return,
            accepted = accept => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let (builder, end) = (builder.clone(), end.clone());
        tokio::spawn(async move {
            let served = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = end.cancelled() => {}
                served = served => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "an HTTP connection broke");
                    }
                }
            }
            drop(permit);
        });
    }
}

async fn show_metrics(State(site): State<Site>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], site.metrics.text())
}

async fn show_ready(State(site): State<Site>) -> impl IntoResponse {
    match site.standing.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}
