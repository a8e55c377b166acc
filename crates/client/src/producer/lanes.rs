//! The order of a producer's messages, without any input or output: what may be sent next, and what an answer, a
//! refusal or the end of a stream does to what is unanswered.
//!
//! Per interface (a lane) the unanswered messages are, in order: `refused`, in flight, `waiting`. A refusal for the
//! moment closes the lane: the node refuses everything behind it too, until a frame names the *latest* refusal. So
//! the lane waits until all it has in flight is answered, and for the pause asked for, and then begins again with
//! the first refused message.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use ordo_wire::v1::ingest_result::Result as Item;
use ordo_wire::v1::{IngestBatch, IngestMessage, IngestRequest, IngestResult, Reason};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Accepted, OnRefusal};
use crate::error::{Refusal, SendError};

/// A frame's size, in bytes; one message past it still goes, alone.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Messages in a frame.
const FRAME_MESSAGES_MAX: usize = 4096;
/// A frame's headers: a node weighs frames before it reads them, and ends a stream for one that is too heavy.
pub(super) const FRAME_HEADERS_MAX: usize = 50_000;
/// How many a lane may have unanswered as long as its interface's `dedup_messages` is not known: no interface can
/// know fewer.
const IN_FLIGHT_UNKNOWN: usize = 1;
/// How many a lane sends after a refusal; every accepted message allows one more. A full window is not flooded with
/// messages that come back.
const IN_FLIGHT_AFTER_REFUSAL: usize = 16;
/// Pauses where the node names none: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One message on its way.
pub(super) struct Entry {
    pub(super) message: IngestMessage,
    /// What it took of the queue's room.
    pub(super) cost: u32,
    /// It was on a stream at least once.
    pub(super) sent: bool,
    /// A stream ended that had it unanswered: the node may take it from there yet, whatever is said of it elsewhere.
    pub(super) in_doubt: bool,
    pub(super) reply: oneshot::Sender<Result<Accepted, SendError>>,
}

struct Lane {
    name: Arc<str>,
    waiting: VecDeque<Entry>,
    refused: VecDeque<Entry>,
    in_flight: usize,
    /// Half of the interface's `dedup_messages`; None while not known.
    limit: Option<usize>,
    /// What it may have in flight after a refusal; grows to the limit.
    allowance: usize,
    /// The highest sequence that was answered, named in every batch: what was sent before is answered, too.
    heard: u64,
    /// The latest refusal seen on this stream, named in every batch.
    latest_refusal: u64,
    /// Closed by a refusal, not before then.
    closed_until: Option<Instant>,
    /// Pauses in a row without an accepted message.
    pauses: u32,
    /// It stands in `Lanes::ready`.
    listed: bool,
    /// The limit was asked for and no answer came yet.
    asking: bool,
}

impl Lane {
    fn may_send(&self) -> bool {
        let limit = self.limit.unwrap_or(IN_FLIGHT_UNKNOWN).min(self.allowance);
        self.closed_until.is_none() && self.in_flight < limit && !self.waiting.is_empty()
    }
}

/// What answers freed: to be given back to the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// All of a producer's unanswered messages.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// Lanes that may send.
    ready: VecDeque<u32>,
    /// What is on the stream, in the order sent: results come in the same order.
    in_flight: VecDeque<(u32, Entry)>,
    /// Closed lanes that wait for nothing but the end of their pause.
    pausing: BinaryHeap<Reverse<(Instant, u32)>>,
    /// All messages not answered yet, on the stream or not.
    unanswered: usize,
    /// Lanes whose limit is not known and was not asked for.
    unasked: Vec<u32>,
    producer: String,
    /// Names this producer, so that nodes know what it may send again whatever others send.
    session: u64,
    on_refusal: OnRefusal,
    freed: Freed,
    /// The latest refusal for the moment, and of which interface.
    refusal: Option<(Arc<str>, Refusal)>,
}

/// The node sent more results than messages it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnexpectedResult;

impl Lanes {
    pub(super) fn new(producer: String, session: u64, on_refusal: OnRefusal) -> Self {
        Self {
            lanes: Vec::new(),
            ready: VecDeque::new(),
            in_flight: VecDeque::new(),
            pausing: BinaryHeap::new(),
            unanswered: 0,
            unasked: Vec::new(),
            producer,
            session,
            on_refusal,
            freed: Freed::default(),
            refusal: None,
        }
    }

    pub(super) fn add_lane(&mut self, name: Arc<str>) {
        self.lanes.push(Lane {
            name,
            waiting: VecDeque::new(),
            refused: VecDeque::new(),
            in_flight: 0,
            limit: None,
            allowance: usize::MAX,
            heard: 0,
            latest_refusal: 0,
            closed_until: None,
            pauses: 0,
            listed: false,
            asking: false,
        });
    }

    pub(super) fn push(&mut self, lane: u32, entry: Entry) {
        self.unanswered += 1;
        let state = &mut self.lanes[lane as usize];
        state.waiting.push_back(entry);
        if state.limit.is_none() && !state.asking {
            state.asking = true;
            self.unasked.push(lane);
        }
        self.list(lane);
    }

    /// A lane whose limit is to be asked for, and its interface.
    pub(super) fn unasked(&mut self) -> Option<(u32, Arc<str>)> {
        let lane = self.unasked.pop()?;
        Some((lane, Arc::clone(&self.lanes[lane as usize].name)))
    }

    /// The answer: the interface's `dedup_messages`, or None where it could not be had (then it is asked for again
    /// with the lane's next message).
    pub(super) fn learned(&mut self, lane: u32, dedup_messages: Option<u32>) {
        let state = &mut self.lanes[lane as usize];
        state.asking = false;
        if let Some(known) = dedup_messages {
            state.limit = Some((known as usize / 2).max(1));
            self.list(lane);
        }
    }

    /// Nothing is unanswered.
    pub(super) fn is_empty(&self) -> bool {
        self.unanswered == 0
    }

    pub(super) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When the next pause ends; lanes with something in flight wait for its answers first.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        self.pausing.peek().map(|Reverse((until, _))| *until)
    }

    /// Opens the lanes whose pause is over: what was refused is waiting again, in order.
    pub(super) fn open_due(&mut self, now: Instant) {
        while let Some(Reverse((until, index))) = self.pausing.peek().copied() {
            if until > now {
                return;
            }
            self.pausing.pop();
            let lane = &mut self.lanes[index as usize];
            lane.closed_until = None;
            mem::swap(&mut lane.waiting, &mut lane.refused);
            lane.waiting.append(&mut lane.refused);
            self.list(index);
        }
    }

    /// The next frame, which is then in flight; None where nothing may be sent. A batch is one lane's run; a lane
    /// with more left than fits stands at the end of the line.
    pub(super) fn next_frame(&mut self) -> Option<IngestRequest> {
        let mut frame = IngestRequest::default();
        let mut bytes = 0;
        let mut messages = 0;
        let mut headers = 0;
        while bytes < FRAME_BYTES_MAX && messages < FRAME_MESSAGES_MAX {
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            let lane = &mut self.lanes[index as usize];
            lane.listed = false;
            let mut batch = IngestBatch {
                interface: lane.name.as_ref().to_owned(),
                messages: Vec::with_capacity(lane.waiting.len().min(64)),
                producer: self.producer.clone(),
                after_refusal: lane.latest_refusal,
                session: self.session,
                heard_sequence: lane.heard,
            };
            while lane.may_send() && messages < FRAME_MESSAGES_MAX {
                let (next, next_headers) = lane.waiting.front().map_or((0, 0), |entry| {
                    (entry.cost as usize, entry.message.headers.len())
                });
                let full =
                    bytes + next > FRAME_BYTES_MAX || headers + next_headers > FRAME_HEADERS_MAX;
                if messages > 0 && full {
                    break;
                }
                let Some(mut entry) = lane.waiting.pop_front() else {
                    break;
                };
                entry.sent = true;
                bytes += next;
                messages += 1;
                headers += next_headers;
                lane.in_flight += 1;
                batch.messages.push(entry.message.clone());
                self.in_flight.push_back((index, entry));
            }
            let sent = !batch.messages.is_empty();
            if sent {
                frame.batches.push(batch);
            }
            self.list(index);
            if !sent {
                break;
            }
        }
        (messages > 0).then_some(frame)
    }

    /// The result of the first message in flight.
    pub(super) fn on_result(
        &mut self,
        result: IngestResult,
        now: Instant,
    ) -> Result<(), UnexpectedResult> {
        let (index, entry) = self.in_flight.pop_front().ok_or(UnexpectedResult)?;
        let lane = &mut self.lanes[index as usize];
        lane.in_flight -= 1;
        match result.result {
            Some(Item::Accepted(accepted)) => {
                lane.pauses = 0;
                lane.heard = lane.heard.max(accepted.sequence);
                lane.allowance = lane.allowance.saturating_add(1);
                let accepted = Accepted {
                    sequence: accepted.sequence,
                    duplicate: accepted.duplicate,
                };
                self.answer(entry, Ok(accepted));
            }
            Some(Item::Refused(refused)) if refused.refusal == 0 => {
                let mut refusal = Refusal::of_item(refused.reason, refused.text, 0);
                let expected = refused.expected_producer_sequence;
                refusal.expected_producer_sequence = (expected > 0).then_some(expected);
                let conflicting = refused.conflicting_sequence;
                refusal.sequence = (conflicting > 0).then_some(conflicting);
                self.answer(entry, Err(SendError::Refused(Box::new(refusal))));
            }
            Some(Item::Refused(refused)) => {
                lane.latest_refusal = refused.refusal;
                lane.allowance = IN_FLIGHT_AFTER_REFUSAL;
                let refusal =
                    Refusal::of_item(refused.reason, refused.text, refused.retry_after_ms);
                let behind_another = refusal.reason == Reason::EarlierRefused;
                if !behind_another {
                    self.refusal = Some((Arc::clone(&lane.name), refusal.clone()));
                }
                let gives_up = self.on_refusal == OnRefusal::GiveUp && !behind_another;
                let pause = if gives_up || behind_another {
                    Duration::ZERO
                } else {
                    lane.next_pause(&refusal)
                };
                let until = (now + pause).max(lane.closed_until.unwrap_or(now));
                lane.closed_until = Some(until);
                if gives_up {
                    let refusal = Box::new(refusal);
                    let error = if entry.in_doubt {
                        SendError::OutcomeUnknown(refusal)
                    } else {
                        SendError::Refused(refusal)
                    };
                    self.answer(entry, Err(error));
                } else {
                    lane.refused.push_back(entry);
                }
            }
            None => {
                let refusal = Refusal::local(
                    tonic::Code::Internal,
                    "the node sent a result without a kind",
                );
                self.answer(entry, Err(SendError::OutcomeUnknown(Box::new(refusal))));
            }
        }
        self.pause_when_drained(index);
        self.list(index);
        Ok(())
    }

    /// The stream is over: whatever it left unanswered waits again, in order. Refusal numbers were the stream's.
    pub(super) fn stream_ended(&mut self) {
        while let Some((index, mut entry)) = self.in_flight.pop_back() {
            entry.in_doubt = true;
            let lane = &mut self.lanes[index as usize];
            lane.in_flight -= 1;
            lane.waiting.push_front(entry);
            self.pause_when_drained(index);
        }
        for index in 0..self.lanes.len() {
            self.lanes[index].latest_refusal = 0;
            // A closed lane keeps its pause, and what was refused stays before what waits.
            self.list(u32::try_from(index).expect("lanes are numbered in u32"));
        }
    }

    /// Fails everything unanswered.
    pub(super) fn fail_all(&mut self, refusal: &Refusal) {
        self.stream_ended();
        self.ready.clear();
        self.pausing.clear();
        let mut failed = Vec::new();
        for lane in &mut self.lanes {
            lane.listed = false;
            lane.closed_until = None;
            failed.extend(lane.refused.drain(..));
            failed.extend(lane.waiting.drain(..));
        }
        for entry in failed {
            let refusal = Box::new(refusal.clone());
            let error = if entry.sent {
                SendError::OutcomeUnknown(refusal)
            } else {
                SendError::Unsent(refusal)
            };
            self.answer(entry, Err(error));
        }
    }

    /// The latest refusal for the moment since this was asked last, and of which interface.
    pub(super) fn take_refusal(&mut self) -> Option<(Arc<str>, Refusal)> {
        self.refusal.take()
    }

    /// What was freed since this was asked last.
    pub(super) fn take_freed(&mut self) -> Freed {
        mem::take(&mut self.freed)
    }

    fn answer(&mut self, entry: Entry, result: Result<Accepted, SendError>) {
        self.unanswered -= 1;
        self.freed.messages += 1;
        self.freed.bytes += entry.cost as usize;
        // Nobody may be waiting for it any more.
        let _ = entry.reply.send(result);
    }

    /// Called when a lane has one less in flight: once it has none, only its pause keeps it closed.
    fn pause_when_drained(&mut self, index: u32) {
        let lane = &self.lanes[index as usize];
        if let Some(until) = lane.closed_until
            && lane.in_flight == 0
        {
            self.pausing.push(Reverse((until, index)));
        }
    }

    fn list(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        if !lane.listed && lane.may_send() {
            lane.listed = true;
            self.ready.push_back(index);
        }
    }
}

impl Lane {
    fn next_pause(&mut self, refusal: &Refusal) -> Duration {
        let growing = PAUSE_MIN * 2_u32.pow(self.pauses.min(7));
        self.pauses = self.pauses.saturating_add(1);
        refusal
            .retry_after
            .unwrap_or_else(|| growing.min(PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests;
