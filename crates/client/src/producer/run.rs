//! The producer's task: keeps a stream to the leader and moves messages and answers between it and the lanes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ordo_wire::v1::ingest_service_client::IngestServiceClient;
use ordo_wire::v1::{IngestRequest, IngestResponse, Reason};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::lanes::{Lanes, UnexpectedResult};
use super::{ProducerBuilder, Shared};
use crate::FRAME_BYTES_MAX;
use crate::error::{CallError, Refusal};
use crate::seek::{Seek, open, reason_of_end, stream_end};

/// Frames between this task and the connection: few, so that messages gather here while it is busy.
const FRAMES_AHEAD: usize = 2;
/// How often it is said that ingest is refused.
const TOLD_EVERY: Duration = Duration::from_secs(30);
/// Questions for interfaces' limits at once.
const QUESTIONS_MAX: usize = 16;

pub(super) struct Run {
    settings: ProducerBuilder,
    shared: Arc<Shared>,
    lanes: Lanes,
    seek: Seek,
    /// Interfaces' `dedup_messages`, being asked for.
    questions: FuturesUnordered<BoxFuture<'static, (u32, Option<u32>)>>,
    /// When it was last said that ingest is refused.
    told: Option<Instant>,
}

/// An open stream.
struct Wire {
    address: String,
    outgoing: mpsc::Sender<IngestRequest>,
    incoming: Streaming<IngestResponse>,
}

impl Run {
    pub(super) fn new(settings: ProducerBuilder, shared: Arc<Shared>) -> Self {
        let session = settings.cluster.random_number();
        let lanes = Lanes::new(settings.name.clone(), session, settings.on_refusal);
        let seek = Seek::new(settings.cluster.clone());
        Self {
            settings,
            shared,
            lanes,
            seek,
            questions: FuturesUnordered::new(),
            told: None,
        }
    }

    /// Runs until the producer is closed and everything is answered. Dropping `finished` says so.
    pub(super) async fn run(mut self, finished: watch::Sender<()>) {
        while self.work_arrived().await {
            let Some(wire) = self.connect().await else {
                continue;
            };
            let address = wire.address.clone();
            let end = self.converse(wire).await;
            self.lanes.stream_ended();
            match end {
                None => break,
                Some(refusal) => self.stream_failed(&address, &refusal),
            }
        }
        drop(finished);
    }

    /// Waits until there is something to send; false when there is not and never will be.
    async fn work_arrived(&mut self) -> bool {
        loop {
            let closed = self.shared.closed.load(Ordering::Acquire);
            self.take_queue();
            if !self.lanes.is_empty() {
                return true;
            }
            if closed {
                return false;
            }
            self.shared.arrived.notified().await;
        }
    }

    fn take_queue(&mut self) {
        let (lanes, entries) = {
            let mut queue = self.shared.queue();
            (
                std::mem::take(&mut queue.new_lanes),
                std::mem::take(&mut queue.entries),
            )
        };
        for name in lanes {
            self.lanes.add_lane(name);
        }
        for (lane, entry) in entries {
            self.lanes.push(lane, entry);
        }
        self.ask();
    }

    fn ask(&mut self) {
        while self.questions.len() < QUESTIONS_MAX {
            let Some((lane, interface)) = self.lanes.unasked() else {
                return;
            };
            let admin = self.settings.cluster.admin();
            self.questions.push(Box::pin(async move {
                match admin.get_interface(&interface).await {
                    // 0 stands for the default.
                    Ok(found) => (
                        lane,
                        found
                            .config
                            .map(|config| config.dedup_messages)
                            .map(|known| match known {
                                0 => 1000,
                                known => known,
                            }),
                    ),
                    Err(error) => {
                        log_unanswered(&interface, &error);
                        (lane, None)
                    }
                }
            }));
        }
    }

    /// A stream to the leader; None when everything unanswered was given up meanwhile.
    async fn connect(&mut self) -> Option<Wire> {
        loop {
            let address = self.seek.next().await;
            let (outgoing, frames) = mpsc::channel(FRAMES_AHEAD);
            let opened = open(
                &self.settings.cluster,
                &address,
                move |channel| async move {
                    let mut client = IngestServiceClient::new(channel)
                        .max_decoding_message_size(FRAME_BYTES_MAX)
                        .max_encoding_message_size(FRAME_BYTES_MAX);
                    client.ingest(ReceiverStream::new(frames)).await
                },
            );
            match opened.await {
                Ok(response) => {
                    return Some(Wire {
                        address,
                        outgoing,
                        incoming: response.into_inner(),
                    });
                }
                Err(refusal) => {
                    self.stream_failed(&address, &refusal);
                    self.take_queue();
                    if self.lanes.is_empty() {
                        return None;
                    }
                }
            }
        }
    }

    /// Moves messages and answers until the stream ends (why), or the producer is closed and done (None).
    async fn converse(&mut self, mut wire: Wire) -> Option<Refusal> {
        let mut heard_at = Instant::now();
        loop {
            self.lanes.open_due(Instant::now());
            let opening = self.lanes.next_opening();
            let waits_for_answers = self.lanes.has_in_flight();
            tokio::select! {
                biased;
                () = self.shared.arrived.notified() => {
                    let closed = self.shared.closed.load(Ordering::Acquire);
                    self.take_queue();
                    if closed && self.lanes.is_empty() {
                        return None;
                    }
                }
                room = wire.outgoing.reserve(), if self.lanes.has_ready() => {
                    let Ok(room) = room else {
                        return Some(reason_of_end(&mut wire.incoming).await);
                    };
                    if !self.lanes.has_in_flight() {
                        heard_at = Instant::now();
                    }
                    self.take_queue();
                    if let Some(frame) = self.lanes.next_frame() {
                        room.send(frame);
                    }
                }
                response = wire.incoming.message() => {
                    heard_at = Instant::now();
                    match response {
                        Ok(Some(response)) => {
                            self.seek.succeeded(&wire.address);
                            if let Err(UnexpectedResult) = self.on_response(response, heard_at) {
                                return Some(Refusal::local(Code::Internal, "more results than messages sent"));
                            }
                            if self.shared.closed.load(Ordering::Acquire) {
                                self.take_queue();
                                if self.lanes.is_empty() {
                                    return None;
                                }
                            }
                        }
                        Ok(None) => return Some(stream_end()),
                        Err(status) => return Some(status.into()),
                    }
                }
                Some((lane, known)) = self.questions.next(), if !self.questions.is_empty() => {
                    self.lanes.learned(lane, known);
                    self.ask();
                }
                () = sleep_until(opening.unwrap_or(heard_at)), if opening.is_some() => {}
                () = sleep_until(heard_at + self.settings.stall_max), if waits_for_answers => {
                    let text = format!("no answer for {:?}", self.settings.stall_max);
                    return Some(Refusal::local(Code::DeadlineExceeded, text));
                }
            }
        }
    }

    fn on_response(
        &mut self,
        response: IngestResponse,
        now: Instant,
    ) -> Result<(), UnexpectedResult> {
        for result in response.results {
            self.lanes.on_result(result, now)?;
        }
        self.tell_refusal(now);
        self.give_back();
        Ok(())
    }

    /// Says that ingest is refused for the moment, where that may last and a person may have to look. A full window comes
    /// and goes.
    fn tell_refusal(&mut self, now: Instant) {
        let Some((interface, refusal)) = self.lanes.take_refusal() else {
            return;
        };
        let lasts = matches!(
            refusal.reason,
            Reason::NodeFull | Reason::BacklogFull | Reason::Paused
        );
        if lasts && self.told.is_none_or(|told| now - told >= TOLD_EVERY) {
            self.told = Some(now);
            tracing::warn!(%interface, "ingest is refused for now, and tried again: {}", refusal.text);
        }
    }

    /// Returns what was answered to the queue's room.
    fn give_back(&mut self) {
        let freed = self.lanes.take_freed();
        if freed.messages > 0 {
            self.shared.room.add_permits(freed.bytes);
            if self
                .shared
                .outstanding
                .fetch_sub(freed.messages, Ordering::AcqRel)
                == freed.messages
            {
                self.shared.idle.notify_waiters();
            }
        }
    }

    fn stream_failed(&mut self, address: &str, refusal: &Refusal) {
        self.seek.failed(address, refusal);
        let too_long = self
            .settings
            .give_up_after
            .is_some_and(|limit| self.seek.failing_for() >= limit);
        if too_long || is_final(refusal) {
            self.lanes.fail_all(refusal);
            self.give_back();
        }
    }
}

/// The node will never take this stream: what is on it, or who sends it, is wrong. A replay would end the same way.
fn is_final(refusal: &Refusal) -> bool {
    matches!(
        refusal.code,
        Code::InvalidArgument
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

fn log_unanswered(interface: &str, error: &CallError) {
    tracing::debug!(interface, %error, "the interface's dedup_messages is not known; one message at a time is sent");
}
