//! What a worker holds: work in progress, and reports until they are answered. Outlives every stream.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use ordo_wire::v1::{Reason, WorkAssignment, WorkExtend, WorkReport, WorkResult};

use super::{Assignment, Counters, Extender, Extensions, Handler, Outcome, Stage, Working};

/// Reports in a frame, their payload in bytes, and their headers and destinations; and leases that begin anew. A node
/// weighs a frame before it reads it.
const FRAME_REPORTS_MAX: usize = 4096;
const FRAME_BYTES_MAX: usize = 1 << 20;
const FRAME_PARTS_MAX: usize = 50_000;
const FRAME_EXTENDS_MAX: usize = 50_000;

/// The largest payload that is sent at all: a node reads frames of 32 MiB, and takes 1 MiB unless configured otherwise.
const PAYLOAD_BYTES_MAX: usize = 30 << 20;

/// Names an assignment toward the node.
#[derive(Clone)]
struct Held {
    interface_id: Bytes,
    sequence: u64,
    /// Its place in the worker's list.
    stage: usize,
    turn: u32,
}

/// A finished assignment's report, kept until it is answered.
struct Report {
    held: Held,
    outcome: Outcome,
}

impl Report {
    /// What no frame takes would end every stream it is sent on.
    fn new(held: Held, outcome: Outcome) -> Self {
        let (bytes, parts) = (outcome.payload_bytes(), outcome.parts());
        let text = if bytes > PAYLOAD_BYTES_MAX {
            format!("its payload has {bytes} bytes, past the {PAYLOAD_BYTES_MAX} of a frame")
        } else if parts > FRAME_PARTS_MAX {
            format!(
                "it has {parts} headers and destinations, past the {FRAME_PARTS_MAX} of a frame"
            )
        } else {
            return Self { held, outcome };
        };
        Self {
            held,
            outcome: Outcome::retry(format!("completion refused: {text}")),
        }
    }
}

/// A handler's future, and whose it is.
struct Work {
    token: u64,
    working: Working,
}

impl Future for Work {
    type Output = (u64, Outcome);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let token = self.token;
        self.working
            .as_mut()
            .poll(context)
            .map(|outcome| (token, outcome))
    }
}

pub(super) struct Desk {
    stages: Vec<Stage>,
    next_token: u64,
    /// Given to a handler and not finished.
    held: BTreeMap<u64, Held>,
    working: FuturesUnordered<Work>,
    /// To be sent.
    outbox: VecDeque<Report>,
    /// Sent on this stream; results come in the same order.
    unanswered: VecDeque<Report>,
    /// Refused for the moment: to be sent again after a pause.
    postponed: Vec<Report>,
    pub(super) extensions: Arc<Extensions>,
    counters: Arc<Counters>,
}

impl Desk {
    pub(super) fn new(stages: Vec<Stage>, counters: Arc<Counters>) -> Self {
        Self {
            stages,
            next_token: 0,
            held: BTreeMap::new(),
            working: FuturesUnordered::new(),
            outbox: VecDeque::new(),
            unanswered: VecDeque::new(),
            postponed: Vec::new(),
            extensions: Arc::default(),
            counters,
        }
    }

    pub(super) fn stage_names(&self) -> Vec<String> {
        self.stages.iter().map(|stage| stage.name.clone()).collect()
    }

    /// Begins work on an assignment. A handler that is done at once costs no more than its call.
    pub(super) fn take(&mut self, assignment: WorkAssignment) {
        Counters::count(&self.counters.assigned);
        let Some(stage) = self
            .stages
            .iter()
            .position(|stage| stage.name == assignment.stage)
        else {
            // Not held: it comes to others once its lease is over.
            tracing::warn!(
                interface = assignment.interface,
                sequence = assignment.sequence,
                stage = assignment.stage,
                "an assignment for a stage that this worker did not name"
            );
            return;
        };
        let token = self.next_token;
        self.next_token += 1;
        let held = Held {
            interface_id: assignment.interface_id.clone(),
            sequence: assignment.sequence,
            stage,
            turn: assignment.turn,
        };
        let extender = Extender {
            token,
            extensions: Arc::clone(&self.extensions),
        };
        let assignment = Assignment {
            wire: assignment,
            extender,
        };
        match &self.stages[stage].handler {
            Handler::Call(handler) => {
                let outcome = handler(assignment);
                self.outbox.push_back(Report::new(held, outcome));
            }
            Handler::Future(handler) => {
                let mut working = handler(assignment);
                // Polled once more in the set, with a waker, where it is not ready.
                if let Some(outcome) = working.as_mut().now_or_never() {
                    self.outbox.push_back(Report::new(held, outcome));
                } else {
                    self.held.insert(token, held);
                    self.working.push(Work { token, working });
                }
            }
        }
    }

    pub(super) fn is_working(&self) -> bool {
        !self.working.is_empty()
    }

    /// Waits for work to finish, and takes all that has. Only to be called while [`Desk::is_working`]. Nothing is
    /// lost when it is dropped.
    pub(super) async fn finished(&mut self) {
        let mut next = self.working.next().await;
        for _ in 0..FRAME_REPORTS_MAX {
            let Some((token, outcome)) = next else { return };
            if let Some(held) = self.held.remove(&token) {
                self.outbox.push_back(Report::new(held, outcome));
            }
            next = self.working.next().now_or_never().flatten();
        }
        // The last one taken must not be lost.
        if let Some((token, outcome)) = next
            && let Some(held) = self.held.remove(&token)
        {
            self.outbox.push_back(Report::new(held, outcome));
        }
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub(super) fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Reports that no node has answered.
    pub(super) fn reports_open(&self) -> usize {
        self.outbox.len() + self.unanswered.len() + self.postponed.len()
    }

    /// Nothing is held and everything is answered.
    pub(super) fn is_clear(&self) -> bool {
        self.held.is_empty() && self.reports_open() == 0
    }

    /// The next reports to send, which then wait for their results.
    pub(super) fn next_reports(&mut self) -> Vec<WorkReport> {
        let mut reports = Vec::with_capacity(self.outbox.len().min(FRAME_REPORTS_MAX));
        let (mut bytes, mut parts) = (0, 0);
        while reports.len() < FRAME_REPORTS_MAX {
            let Some(next) = self.outbox.front().map(|report| &report.outcome) else {
                break;
            };
            bytes += next.payload_bytes();
            parts += next.parts();
            let full = bytes > FRAME_BYTES_MAX || parts > FRAME_PARTS_MAX;
            if full && !reports.is_empty() {
                break;
            }
            let Some(report) = self.outbox.pop_front() else {
                break;
            };
            reports.push(WorkReport {
                interface_id: report.held.interface_id.clone(),
                sequence: report.held.sequence,
                stage: self.stages[report.held.stage].name.clone(),
                turn: report.held.turn,
                outcome: Some(report.outcome.to_wire()),
            });
            self.unanswered.push_back(report);
        }
        reports
    }

    /// The result of the first unanswered report; false when there is none.
    pub(super) fn on_result(&mut self, result: WorkResult) -> bool {
        let Some(report) = self.unanswered.pop_front() else {
            return false;
        };
        match result.reason() {
            Reason::Unspecified => Counters::count(&self.counters.recorded),
            // What is gone was done by somebody else; what is quarantined is given out again after a repair.
            Reason::Stale | Reason::UnknownMessage | Reason::Quarantined => {
                Counters::count(&self.counters.stale)
            }
            Reason::NotLeader | Reason::Superseded | Reason::OutcomeUnknown | Reason::NodeFull => {
                self.postponed.push(report);
            }
            reason => self.on_refused(report, reason, &result.text),
        }
        true
    }

    /// A report that will never be recorded. What a handler completed with something that is not allowed (too large,
    /// say) would otherwise stay with this worker until its lease is over, and again without end: as a retry it
    /// counts as an attempt, with a reason that a person can read.
    fn on_refused(&mut self, report: Report, reason: Reason, text: &str) {
        Counters::count(&self.counters.refused);
        let reason = reason.as_str_name();
        let stage = &self.stages[report.held.stage].name;
        tracing::warn!(
            sequence = report.held.sequence,
            stage,
            reason,
            text,
            "report refused"
        );
        if report.outcome.is_complete() {
            let outcome = Outcome::retry(format!("completion refused: {text} ({reason})"));
            self.outbox.push_back(Report {
                held: report.held,
                outcome,
            });
        }
    }

    /// What was refused for the moment goes again.
    pub(super) fn resume_postponed(&mut self) {
        self.outbox.extend(self.postponed.drain(..));
    }

    /// The stream is over: what it left unanswered goes again, on the next. A repeat is stale at worst.
    pub(super) fn stream_ended(&mut self) {
        let mut again: VecDeque<Report> = mem::take(&mut self.unanswered);
        again.extend(self.postponed.drain(..));
        again.append(&mut self.outbox);
        self.outbox = again;
    }

    /// Everything this worker holds in the node's eyes: work in progress, and what is finished but not recorded.
    pub(super) fn holds(&self) -> Vec<WorkExtend> {
        let reports = self
            .unanswered
            .iter()
            .chain(&self.postponed)
            .chain(&self.outbox)
            .map(|report| &report.held);
        self.held
            .values()
            .chain(reports)
            .map(|held| self.name(held))
            .collect()
    }

    /// The extensions asked for, of what is still held: as many as fit into a frame. The others have arrived anew.
    pub(super) fn next_extends(&mut self) -> Vec<WorkExtend> {
        let mut wanted = self
            .extensions
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let fits = wanted.len().min(FRAME_EXTENDS_MAX);
        let rest = wanted.split_off(fits);
        if !rest.is_empty() {
            self.extensions.arrived.notify_one();
        }
        mem::replace(&mut *wanted, rest)
            .iter()
            .filter_map(|token| self.held.get(token))
            .map(|held| self.name(held))
            .collect()
    }

    fn name(&self, held: &Held) -> WorkExtend {
        WorkExtend {
            interface_id: held.interface_id.clone(),
            sequence: held.sequence,
            stage: self.stages[held.stage].name.clone(),
            turn: held.turn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        let stage = Stage {
            name: "parse".to_owned(),
            handler: Handler::Call(Box::new(|_| Outcome::complete())),
        };
        Desk::new(vec![stage], Arc::default())
    }

    fn held(sequence: u64) -> Held {
        Held {
            interface_id: Bytes::new(),
            sequence,
            stage: 0,
            turn: 1,
        }
    }

    #[test]
    fn a_frame_holds_no_more_than_a_node_takes() {
        let mut desk = desk();
        let headers = |count| {
            (0..count).fold(Outcome::complete(), |outcome, n| {
                outcome.with_header(format!("h{n}"), "v")
            })
        };
        for sequence in 1..=6 {
            let report = Report::new(held(sequence), headers(FRAME_PARTS_MAX / 3));
            desk.outbox.push_back(report);
        }
        assert_eq!(desk.next_reports().len(), 3);
        assert_eq!(desk.next_reports().len(), 3);
        let tokens = 0..FRAME_EXTENDS_MAX as u64 + 1;
        desk.held = tokens.clone().map(|token| (token, held(token))).collect();
        desk.extensions
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(tokens);
        assert_eq!(desk.next_extends().len(), FRAME_EXTENDS_MAX);
        assert_eq!(desk.next_extends().len(), 1);
        assert_eq!(desk.next_extends().len(), 0);
    }

    #[test]
    fn what_no_frame_takes_is_reported_as_a_failed_attempt() {
        let many: Vec<String> = (0..=FRAME_PARTS_MAX).map(|n| n.to_string()).collect();
        let outcome = Outcome::complete().for_destinations(many);
        assert!(!Report::new(held(1), outcome).outcome.is_complete());
        let large = Outcome::complete_with(vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert!(!Report::new(held(1), large).outcome.is_complete());
        assert!(
            Report::new(held(1), Outcome::complete())
                .outcome
                .is_complete()
        );
    }
}
