//! The three servers of a node.

use super::{Pages, Seams, descriptors};
use crate::config::Config;
use crate::context::Context;
use crate::error::ServeError;
use crate::inlet::{self, Inlet};
use crate::net::{Listening, Open};
use crate::raft::{KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, PeerService, WINDOW_BYTES};
use crate::services;
use ordo_core::Rules;
use ordo_storage::log::Log;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Connections of other nodes: three each, some that are about to be noticed as dead, and who is about to join.
const PEER_CONNECTIONS: u32 = 256;
const HTTP_CONNECTIONS: u32 = 64;
const OTHER_CONNECTIONS: u32 = PEER_CONNECTIONS + HTTP_CONNECTIONS;
/// Every HTTP/2 connection begins with so many bytes; those of HTTP/1 have a limit of their own for the head.
const HTTP2_HELLO_BYTES: usize = 24;
const HTTP1_HELLO_BYTES: usize = 1;
/// Calls and streams of all clients at once, for each connection they may have. Our clients open one on each; the rest
/// is for those that share one.
const CALLS_PER_CONNECTION: usize = 2;
/// Calls of other nodes at once, in all and on one connection: a leader has one stream and few calls.
const PEER_CALLS: usize = 512;
const PEER_CALLS_PER_CONNECTION: u32 = 64;
/// Of the node's memory, the part that may hold beginnings of frames: an eighth. The peers' part is enough for what two
/// leaders, one of them about to learn that it is none, have on their way.
const PARTIAL_SHARE: u64 = 8;
const PEER_PARTIAL_BYTES: usize = 3 * crate::raft::MESSAGE_BYTES_MAX;
/// Bytes of the metadata of one call.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// HTTP/2 frames of clients; one stream's and one connection's windows. What one connection sends and nobody reads yet
/// stays below the latter.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
const STREAM_WINDOW_BYTES: u32 = crate::inlet::PROGRESS_BYTES as u32;
const CONNECTION_WINDOW_BYTES: u32 = 2 * STREAM_WINDOW_BYTES;
/// Streams that a client opened and reset before they were looked at, and those that we reset for its errors, before
/// its connection is closed: a flood of resets (CVE-2023-44487) ends there. h2 knows 50 refused streams for a second;
/// what comes for others counts as an error, too.
const RESETS_MAX: usize = 64;
const RESETS_OWN_MAX: usize = 256;
/// How often a silent client is asked whether it is there, and how long it may take to say so.
const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The services that reflection and health know.
pub(super) const SERVICES: [&str; 4] = [
    "ordo.v1.IngestService",
    "ordo.v1.WorkService",
    "ordo.v1.DeliveryService",
    "ordo.v1.AdminService",
];

pub(super) struct Listeners {
    pub(super) public: Listening,
    pub(super) peer: Listening,
    pub(super) http: Listening,
}

pub(super) async fn listen(config: &Config, seams: &mut Seams) -> Result<Listeners, ServeError> {
    Ok(Listeners {
        public: one("public", config.public, seams.public.take()).await?,
        peer: one("peer", config.peer, seams.peer.take()).await?,
        http: one("http", config.http, seams.http.take()).await?,
    })
}

async fn one(
    key: &'static str,
    address: SocketAddr,
    given: Option<Listening>,
) -> Result<Listening, ServeError> {
    match given {
        Some(listening) => Ok(listening),
        None => Listening::bind(address)
            .await
            .map_err(|error| ServeError::Listen {
                key,
                address,
                error,
            }),
    }
}

/// What of the servers is needed to end them.
pub(super) struct Servers {
    /// Their tasks; the other nodes' ends by a token of its own, since consensus is needed longer.
    pub(super) tasks: JoinSet<Result<(), ServeError>>,
    pub(super) peer_task: JoinSet<Result<(), ServeError>>,
    pub(super) peers_closing: CancellationToken,
    pub(super) open: [Open; 3],
    pub(super) health: HealthReporter,
}

/// Spawns the servers; they end when `closing` is cancelled and their calls are through.
pub(super) async fn spawn<R: Rules>(
    context: &Arc<Context>,
    listening: Listeners,
    closing: &CancellationToken,
    log: &Log,
) -> Servers {
    let (mut tasks, mut peer_task, peers_closing) =
        (JoinSet::new(), JoinSet::new(), CancellationToken::new());
    let Listeners { public, peer, http } = listening;
    let limits = &context.config.limits;
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES {
        reporter
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let mut reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(ordo_wire::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    // The peers' service is in the descriptors too, and not here.
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        reflection = reflection.with_service_name(service);
    }
    let reflection = reflection
        .build_v1()
        .expect("the descriptors were made by our own build");
    let connections = descriptors::connections(limits.connections, OTHER_CONNECTIONS);
    let partial = usize::try_from(limits.memory_bytes / PARTIAL_SHARE).unwrap_or(usize::MAX);
    let calls = connections as usize * CALLS_PER_CONNECTION;
    let inlet = Inlet::new(calls, partial, inlet::public);
    let server = Server::builder()
        .max_concurrent_streams(limits.streams_per_connection)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_OWN_MAX))
        .http2_keepalive_interval(Some(CLIENT_KEEP_ALIVE))
        .http2_keepalive_timeout(Some(CLIENT_KEEP_ALIVE))
        .layer(inlet)
        .add_routes(services::router::<R>(Arc::clone(context)))
        .add_service(health)
        .add_service(reflection);
    let (incoming, public) = public.bounded(connections, HTTP2_HELLO_BYTES);
    let closed = closing.clone().cancelled_owned();
    tasks.spawn(async move {
        ended(
            "public",
            server.serve_with_incoming_shutdown(incoming, closed).await,
        )
    });

    let service = PeerService::server(
        context.raft.clone(),
        Arc::clone(&context.identity),
        context.peers.fences.clone(),
        context.store.clone(),
        context.config.public_address(),
        Arc::clone(&context.rooms),
    );
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(PEER_CALLS_PER_CONNECTION)
        .max_frame_size(1024 * 1024)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_OWN_MAX))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .layer(Inlet::new(PEER_CALLS, PEER_PARTIAL_BYTES, inlet::peer))
        .add_service(service);
    let (incoming, peer) = peer.bounded(PEER_CONNECTIONS, HTTP2_HELLO_BYTES);
    let closed = peers_closing.clone().cancelled_owned();
    peer_task.spawn(async move {
        ended(
            "peer",
            server.serve_with_incoming_shutdown(incoming, closed).await,
        )
    });

    let pages = Pages {
        context: Arc::clone(context),
        log: log.clone(),
    };
    let router = crate::http::router(Arc::clone(&context.metrics), pages);
    let (incoming, http) = http.bounded(HTTP_CONNECTIONS, HTTP1_HELLO_BYTES);
    let closed = closing.clone().cancelled_owned();
    tasks.spawn(async move {
        crate::http::serve(incoming, router, closed).await;
        Ok(())
    });
    Servers {
        tasks,
        peer_task,
        peers_closing,
        open: [public, peer, http],
        health: reporter,
    }
}

fn ended(
    server: &'static str,
    result: Result<(), impl std::error::Error>,
) -> Result<(), ServeError> {
    result.map_err(|error| ServeError::Server {
        server,
        error: error.to_string(),
    })
}
