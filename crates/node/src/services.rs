//! The public gRPC services: they check, propose and wait. What they answer is decided by the state machine.

mod admin;
mod delivery;
mod ingest;
mod outstanding;
#[cfg(test)]
mod tests;
mod work;

use crate::admission::InterfaceView;
use crate::context::Context;
use crate::leader::{Event, SessionId};
use crate::proposer::{ProposeError, RunId, Standing, headers_weight};
use openraft::async_runtime::WatchReceiver;
use ordo_core::{Interface, InterfaceId, Rules, State};
use ordo_storage::BodyPlace;
use ordo_wire::status::Failure;
use ordo_wire::v1::Reason;
use ordo_wire::v1::admin_service_server::AdminServiceServer;
use ordo_wire::v1::delivery_service_server::DeliveryServiceServer;
use ordo_wire::v1::ingest_service_server::IngestServiceServer;
use ordo_wire::v1::work_service_server::WorkServiceServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::service::Routes;
use uuid::Uuid;

/// Bytes of one frame of messages or reports that a client may send, and of one frame to a client: a payload of the
/// largest size there is, and others beside it.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of one frame of a consumer's: it carries no payloads.
pub(crate) const ANSWERS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the request of any other call: an interface's configuration is the largest.
pub(crate) const CALL_BYTES_MAX: usize = 256 * 1024;
/// Bytes of bodies after which a frame to a client ends. What one client leaves unread is a few times this.
const FRAME_BYTES: usize = 256 * 1024;
/// Items after which a frame to a client ends.
const FRAME_ITEMS: usize = 1_024;
/// Frames to a client that wait for the network.
const FRAMES_WAITING: usize = 2;
/// Results put into one response; while so many wait for the client no frame is read.
const RESULTS: usize = 8_192;
/// How long what is for a client waits for it to read. Then its stream ends, and what it held is given to others.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Events of one stream after which it waits for the machine to come to them.
const EVENTS_AHEAD: usize = 64;
/// Leases that are extended count as one event.
const HOLDS_PER_EVENT: usize = 64;
/// How long a call waits for a leader that has just been elected to open.
const OPENS_WITHIN: Duration = Duration::from_secs(1);
/// How long a stream that has to end waits for what it has proposed.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// The four services by these rules, ready to be served.
#[must_use]
pub fn router<R: Rules>(context: Arc<Context>) -> Routes {
    let ingest = IngestServiceServer::new(ingest::Ingest::<R>::new(Arc::clone(&context)));
    let work = WorkServiceServer::new(work::Work::<R>::new(Arc::clone(&context)));
    let delivery = DeliveryServiceServer::new(delivery::Deliver::<R>::new(Arc::clone(&context)));
    let admin = AdminServiceServer::new(admin::Admin::new(context));
    let ingest = ingest.max_decoding_message_size(FRAME_BYTES_MAX);
    let work = work.max_decoding_message_size(FRAME_BYTES_MAX);
    let delivery = delivery.max_decoding_message_size(ANSWERS_BYTES_MAX);
    let admin = admin.max_decoding_message_size(CALL_BYTES_MAX);
    Routes::new(ingest.max_encoding_message_size(FRAME_BYTES_MAX))
        .add_service(work.max_encoding_message_size(FRAME_BYTES_MAX))
        .add_service(delivery.max_encoding_message_size(FRAME_BYTES_MAX))
        .add_service(admin.max_encoding_message_size(FRAME_BYTES_MAX))
}

/// Has in memory what a stream is about to send. An async thread must not wait for a disk: all others would, too.
async fn read_ahead(context: &Context, places: &[BodyPlace]) {
    if let Some(took) = context.store.warm(places, FRAME_BYTES).await {
        context
            .metrics
            .body_read_seconds
            .observe(took.as_secs_f64());
    }
}

/// A stream that has always another frame ready would keep the node's thread for as long as its buffers last.
async fn others_turn() {
    tokio::task::yield_now().await;
}

/// The client does not read.
fn unread(patience: Duration) -> Failure {
    let text = format!(
        "what is for the client waited {} s to be read: reconnect, and send again what has no answer",
        patience.as_secs_f64()
    );
    Failure::new(Reason::Superseded, text)
}

/// Bytes that a body takes in a frame.
fn body_bytes(body: &ordo_storage::Body) -> usize {
    body.payload.len() + headers_weight(&body.headers)
}

/// That another node leads, and which.
fn not_leader(context: &Context) -> Failure {
    let metrics = context.raft.metrics();
    let metrics = metrics.borrow_watched();
    if metrics.membership_config.nodes().next().is_none() {
        let text =
            "this node is not a member of a cluster yet: run `ordo cluster init` once, on any node";
        return Failure::new(Reason::NotInitialized, text);
    }
    let other = metrics
        .current_leader
        .filter(|leader| *leader != metrics.id);
    let member = other.and_then(|leader| metrics.membership_config.get_node(&leader));
    Failure::not_leader(member.map(|member| member.public.clone()))
}

/// Waits until this node leads, if it is about to.
async fn lead(context: &Context) -> Result<RunId, Failure> {
    let mut standing = context.proposer.standing();
    let settled = standing.wait_for(|standing| *standing != Standing::Opening);
    let settled = tokio::time::timeout(OPENS_WITHIN, settled).await;
    match settled {
        Ok(Ok(standing)) => standing.run().ok_or_else(|| not_leader(context)),
        _ => Err(not_leader(context)),
    }
}

/// Why nothing came of a proposal.
fn failed(context: &Context, error: ProposeError) -> Failure {
    match error {
        ProposeError::NotLeader {
            leader: Some(leader),
        } => Failure::not_leader(Some(leader)),
        ProposeError::NotLeader { leader: None } | ProposeError::ShuttingDown => {
            not_leader(context)
        }
        ProposeError::RunEnded => run_ended(),
        ProposeError::Full { .. } => Failure::new(Reason::NodeFull, error.to_string())
            .retry_after(Duration::from_millis(200)),
        ProposeError::OutcomeUnknown => Failure::new(Reason::OutcomeUnknown, error.to_string()),
    }
}

/// The order of what was sent on an ingest stream can no longer be vouched for.
fn run_ended() -> Failure {
    let text = "an earlier proposal was lost: reconnect and send again from the first message without an answer";
    Failure::new(Reason::Superseded, text)
}

fn stopped(context: &Context) -> Failure {
    let hint = not_leader(context);
    Failure {
        text: "this node is shutting down".to_owned(),
        ..hint
    }
}

/// The view of an interface by its name; `None` when there is no such interface.
async fn view_named(context: &Context, name: &str) -> Result<Option<Arc<InterfaceView>>, Failure> {
    if let Some(view) = context.admission.named(name) {
        return Ok(Some(view));
    }
    let name = name.to_owned();
    learn(context, move |state| state.interface_named(&name)).await
}

/// The view of an interface by its id; `None` when there is no such interface.
async fn view_of(
    context: &Context,
    id: InterfaceId,
) -> Result<Option<Arc<InterfaceView>>, Failure> {
    if let Some(view) = context.admission.of(id) {
        return Ok(Some(view));
    }
    learn(context, move |state| state.interface(id)).await
}

/// Makes the view of an interface that is used for the first time.
async fn learn(
    context: &Context,
    find: impl for<'a> FnOnce(&'a State) -> Option<&'a Interface> + Send + 'static,
) -> Result<Option<Arc<InterfaceView>>, Failure> {
    let admission = Arc::clone(&context.admission);
    let learn = move |view: ordo_storage::View<'_>| {
        find(view.state).map(|interface| admission.learn(interface))
    };
    let view = context.machine.query(learn).await;
    view.map_err(|_| stopped(context))
}

/// A UUID as the protocol has it.
fn bytes_of(id: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}

/// Ends a stream with its reason; a client that does not read can't keep it open.
async fn end<T>(responses: &mpsc::Sender<Result<T, Status>>, failure: &Failure) {
    let told = responses.send(Err(failure.to_status()));
    // Whoever left needs no reason.
    let _ = tokio::time::timeout(ENDS_WITHIN, told).await;
}

/// Ends a stream that can't be read on: the client is gone, or sent what is no frame, and hears what was wrong with it.
async fn broken<T>(responses: &mpsc::Sender<Result<T, Status>>, status: Status) {
    tracing::debug!(code = ?status.code(), "a client's stream broke");
    let told = responses.send(Err(status));
    let _ = tokio::time::timeout(ENDS_WITHIN, told).await;
}

/// What every stream has.
struct Stream {
    context: Arc<Context>,
    session: SessionId,
    standing: watch::Receiver<Standing>,
    run: RunId,
    /// Events sent since the machine was last waited for.
    ahead: usize,
    /// Since when something waits for the client to read.
    unread_since: Option<Instant>,
}

impl Stream {
    async fn open(context: &Arc<Context>) -> Result<Self, Status> {
        let standing = context.proposer.standing();
        let run = lead(context).await?;
        Ok(Self {
            context: Arc::clone(context),
            session: SessionId::next(),
            standing,
            run,
            ahead: 0,
            unread_since: None,
        })
    }

    /// Puts an event in the machine's queue, which has no bound of its own: now and then waits until the machine has
    /// come to it, so that no client fills the queue faster than it is emptied. `size` is 1 for all but long events.
    async fn tell(&mut self, event: Event, size: usize) -> Result<(), Failure> {
        self.context.machine.send(event);
        self.ahead += size;
        if self.ahead < EVENTS_AHEAD {
            return Ok(());
        }
        self.ahead = 0;
        let reached = self.context.machine.query(|_| ()).await;
        reached.map_err(|_| stopped(&self.context))
    }

    /// When the client has to have read something, while something `waits` for it. What was written resets
    /// `unread_since`.
    fn read_by(&mut self, waits: bool) -> Instant {
        if !waits {
            self.unread_since = None;
        }
        *self.unread_since.get_or_insert_with(Instant::now) + READ_WITHIN
    }

    /// Waits until this node no longer leads in the stream's term.
    async fn lost(&mut self) -> Failure {
        let (stop, term) = (self.context.stop.clone(), self.run.term);
        tokio::select! {
            biased;
            () = stop.cancelled() => stopped(&self.context),
            _ = self.standing.wait_for(|standing| standing.term() != Some(term)) => not_leader(&self.context),
        }
    }
}
