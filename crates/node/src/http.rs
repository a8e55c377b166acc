//! Health and metrics, over HTTP/1.

use crate::metrics::Metrics;
use crate::net::Connection;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::{Stream, StreamExt};
use std::io;
use std::sync::Arc;

/// What the pages are made from.
pub(crate) trait Pages: Send + Sync + 'static {
    /// Brings the gauges up to date.
    fn look(&self);
    /// Whether this node takes part in a cluster that works; an error says what is missing.
    fn ready(&self) -> Result<(), String>;
}

struct Site<P> {
    metrics: Arc<Metrics>,
    pages: P,
}

/// `/metrics`, `/healthz` (the process runs) and `/readyz` (it is of use).
pub(crate) fn router<P: Pages>(metrics: Arc<Metrics>, pages: P) -> Router {
    let site = Arc::new(Site { metrics, pages });
    Router::new()
        .route("/metrics", get(show_metrics::<P>))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_ready::<P>))
        .with_state(site)
}

async fn show_metrics<P: Pages>(State(site): State<Arc<Site<P>>>) -> impl IntoResponse {
    site.pages.look();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], site.metrics.text())
}

async fn show_ready<P: Pages>(State(site): State<Arc<Site<P>>>) -> impl IntoResponse {
    match site.pages.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}

/// Accepted connections, as axum wants them.
pub(crate) struct Connections<S>(pub(crate) S);

impl<S> axum::serve::Listener for Connections<S>
where
    S: Stream<Item = io::Result<Connection>> + Send + Unpin + 'static,
{
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        loop {
            match self.0.next().await {
                Some(Ok(connection)) => return (connection, ()),
                Some(Err(error)) => tracing::warn!(%error, "cannot accept a connection"),
                // Nothing comes in any more: the server ends by its own signal.
                None => std::future::pending::<()>().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}
