//! The worker's task: keeps a stream to the leader, and moves assignments and reports between it and the desk.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ordo_wire::v1::work_service_client::WorkServiceClient;
use ordo_wire::v1::{Reason, WorkHello, WorkRequest, WorkResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use uuid::Uuid;

use super::desk::Desk;
use super::{Counters, WorkerBuilder};
use crate::cluster::Cluster;
use crate::error::{Refusal, WorkError};
use crate::seek::{Seek, open, reason_of_end, stream_end};
use crate::{FRAME_BYTES_MAX, bytes_of};

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A node that says nothing for so long, heartbeats included, is given up.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How long a report that was refused for the moment waits.
const POSTPONED: Duration = Duration::from_millis(50);
/// Frames between this task and the connection: few, so that reports gather here while it is busy.
const FRAMES_AHEAD: usize = 2;

pub(super) struct Run {
    cluster: Cluster,
    seek: Seek,
    desk: Desk,
    hello: WorkHello,
    drain_max: Duration,
}

/// An open stream.
struct Wire {
    address: String,
    outgoing: mpsc::Sender<WorkRequest>,
    incoming: Streaming<WorkResponse>,
}

/// Why a stream is over.
enum End {
    /// The worker is drained.
    Drained,
    Failed(Refusal),
}

/// What one stream is about to say besides reports.
#[derive(Default)]
struct Pending {
    extends: bool,
    /// The number of a heartbeat to send; 0 for none.
    heartbeat: u64,
    drain: bool,
}

impl Pending {
    fn any(&self) -> bool {
        self.extends || self.heartbeat > 0 || self.drain
    }
}

impl Run {
    pub(super) fn new(settings: WorkerBuilder, counters: Arc<Counters>) -> Self {
        let worker_id: Uuid = settings.cluster.random_uuid();
        let desk = Desk::new(settings.stages, counters);
        let hello = WorkHello {
            worker_id: bytes_of(worker_id),
            name: settings.name,
            stages: desk.stage_names(),
            interface_prefix: settings.interface_prefix,
            holds: Vec::new(),
            credits: settings.concurrency,
        };
        let seek = Seek::new(settings.cluster.clone());
        Self {
            cluster: settings.cluster,
            seek,
            desk,
            hello,
            drain_max: settings.drain_max,
        }
    }

    /// Runs until drained, or refused for good.
    pub(super) async fn run(mut self, mut drain: watch::Receiver<bool>) -> Result<(), WorkError> {
        let mut drain_by = None;
        loop {
            if is_draining(&drain) {
                if self.desk.is_clear() {
                    return Ok(());
                }
                drain_by.get_or_insert_with(|| Instant::now() + self.drain_max);
            }
            let address = while_working(&mut self.desk, self.seek.next()).await;
            let (address, end) = match self.connect(address, drain_by.is_some()).await {
                Ok(wire) => (wire.address.clone(), self.converse(wire, &mut drain).await),
                Err((address, refusal)) => (address, End::Failed(refusal)),
            };
            self.desk.stream_ended();
            let refusal = match end {
                End::Drained => return Ok(()),
                End::Failed(refusal) => refusal,
            };
            if is_final(&refusal) {
                return Err(WorkError::Refused(Box::new(refusal)));
            }
            if drain_by.is_some_and(|by| Instant::now() >= by) {
                let count = self.desk.reports_open();
                return Err(WorkError::ReportsUnanswered {
                    count,
                    last: Box::new(refusal),
                });
            }
            self.seek.failed(&address, &refusal);
        }
    }

    /// Opens a stream, its first frame saying who this is and what it still holds.
    async fn connect(
        &mut self,
        address: String,
        draining: bool,
    ) -> Result<Wire, (String, Refusal)> {
        let (outgoing, frames) = mpsc::channel(FRAMES_AHEAD);
        let mut hello = WorkHello {
            holds: self.desk.holds(),
            ..self.hello.clone()
        };
        if draining {
            hello.credits = 0;
        }
        let first = WorkRequest {
            hello: Some(hello),
            ..WorkRequest::default()
        };
        outgoing.try_send(first).expect("a new channel has room");
        let opened = open(&self.cluster, &address, move |channel| async move {
            let mut client = WorkServiceClient::new(channel)
                .max_decoding_message_size(FRAME_BYTES_MAX)
                .max_encoding_message_size(FRAME_BYTES_MAX);
            client.work(ReceiverStream::new(frames)).await
        });
        match while_working(&mut self.desk, opened).await {
            Ok(response) => Ok(Wire {
                address,
                outgoing,
                incoming: response.into_inner(),
            }),
            Err(refusal) => Err((address, refusal)),
        }
    }

    async fn converse(&mut self, mut wire: Wire, drain: &mut watch::Receiver<bool>) -> End {
        let mut heard_at = Instant::now();
        let mut heartbeats = interval_at(heard_at + HEARTBEAT, HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = 0;
        let mut pending = Pending::default();
        // The heartbeat sent with the drain: once it is answered, no assignment is on its way any more.
        let mut last_word: Option<u64> = None;
        let mut no_more = false;
        let mut postponed_until = None;
        let extensions = Arc::clone(&self.desk.extensions);
        loop {
            if no_more && self.desk.is_clear() {
                return End::Drained;
            }
            if self.desk.has_postponed() {
                postponed_until.get_or_insert_with(|| Instant::now() + POSTPONED);
            }
            tokio::select! {
                biased;
                () = draining(drain), if last_word.is_none() => {
                    heartbeat += 1;
                    last_word = Some(heartbeat);
                    pending.heartbeat = heartbeat;
                    pending.drain = true;
                }
                _ = heartbeats.tick() => {
                    if heard_at.elapsed() >= SILENCE_MAX {
                        let text = format!("no word from {} for {SILENCE_MAX:?}", wire.address);
                        return End::Failed(Refusal::local(Code::DeadlineExceeded, text));
                    }
                    heartbeat += 1;
                    pending.heartbeat = heartbeat;
                }
                () = extensions.arrived.notified() => pending.extends = true,
                () = sleep_until(postponed_until.unwrap_or(heard_at)), if postponed_until.is_some() => {
                    postponed_until = None;
                    self.desk.resume_postponed();
                }
                room = wire.outgoing.reserve(), if pending.any() || self.desk.has_reports() => match room {
                    Ok(room) => room.send(frame(&mut self.desk, &mut pending)),
                    Err(_) => return End::Failed(reason_of_end(&mut wire.incoming).await),
                },
                response = wire.incoming.message() => match response {
                    Ok(Some(response)) => {
                        heard_at = Instant::now();
                        self.seek.succeeded(&wire.address);
                        no_more |= last_word.is_some_and(|number| response.heartbeat >= number);
                        if let Err(refusal) = self.on_response(response) {
                            return End::Failed(refusal);
                        }
                    }
                    Ok(None) => return End::Failed(stream_end()),
                    Err(status) => return End::Failed(status.into()),
                },
                () = self.desk.finished(), if self.desk.is_working() => {}
            }
        }
    }

    fn on_response(&mut self, response: WorkResponse) -> Result<(), Refusal> {
        if let Some(welcome) = response.welcome
            && !welcome.unknown_stages.is_empty()
        {
            tracing::warn!(stages = ?welcome.unknown_stages, "no interface has these stages yet");
        }
        for result in response.results {
            if !self.desk.on_result(result) {
                return Err(Refusal::local(
                    Code::Internal,
                    "more results than reports sent",
                ));
            }
        }
        for assignment in response.assignments {
            self.desk.take(assignment);
        }
        Ok(())
    }
}

/// Whatever waits to be said, in one frame.
fn frame(desk: &mut Desk, pending: &mut Pending) -> WorkRequest {
    let pending = std::mem::take(pending);
    WorkRequest {
        reports: desk.next_reports(),
        extends: if pending.extends {
            desk.next_extends()
        } else {
            Vec::new()
        },
        heartbeat: pending.heartbeat,
        drain: pending.drain,
        ..WorkRequest::default()
    }
}

/// Handlers go on while there is no stream.
async fn while_working<T>(desk: &mut Desk, what: impl Future<Output = T>) -> T {
    let mut what = pin!(what);
    loop {
        tokio::select! {
            biased;
            result = &mut what => return result,
            () = desk.finished(), if desk.is_working() => {}
        }
    }
}

async fn draining(drain: &mut watch::Receiver<bool>) {
    // A worker without a handle any more is being aborted.
    if drain.wait_for(|drain| *drain).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn is_draining(drain: &watch::Receiver<bool>) -> bool {
    *drain.borrow()
}

/// No node will ever take this worker.
fn is_final(refusal: &Refusal) -> bool {
    let replaced = refusal.reason == Reason::Replaced;
    let code = matches!(
        refusal.code,
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    );
    replaced || code
}
