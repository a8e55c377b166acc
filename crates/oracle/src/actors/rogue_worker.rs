//! A worker that reports twice, late, of the wrong turn, and of messages it was never given.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ordo_client::proto::{
    WorkAssignment, WorkComplete, WorkFilter, WorkReject, WorkReport, WorkRequest, WorkResponse,
    WorkRetry, work_report,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::raw::{Frames, Raw};
use super::raw_work;
use super::script::{Script, Work};
use super::{Lives, paused, verdict};
use crate::history::{Verdict, What};
use crate::name::Name;
use crate::recorder::Scribe;

/// Far beyond any sequence or turn there is.
const FAR: u32 = 1_000_000;
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a rogue worker does.
#[derive(Clone, Debug)]
pub struct RogueWorkerPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// The stages it subscribes to.
    pub stages: Vec<Name>,
    /// Only interfaces whose names begin so.
    pub interface_prefix: String,
    /// Assignments at once.
    pub credits: u32,
    /// Of a hundred assignments, how many it does something wrong with.
    pub wrong_percent: u8,
    /// How late a late report is: later than the lease.
    pub late: Duration,
    /// Of a hundred times, how often it first does nothing for as long before it reads what it is given. Over a
    /// connection that takes little, the rest waits at the node, and may be over when it comes.
    pub reads_late_percent: u8,
    /// It comes and goes.
    pub lives: Lives,
}

impl RogueWorkerPlan {
    /// A plan for these stages, `lease` being theirs.
    pub fn draw(random: &mut StdRng, stages: &[Name], lease: Duration) -> Self {
        Self {
            seed: random.random(),
            stages: stages.to_vec(),
            interface_prefix: String::new(),
            credits: 1 << random.random_range(0..5),
            wrong_percent: random.random_range(10..=100),
            late: lease.mul_f64(random.random_range(1.0..2.0)),
            reads_late_percent: 0,
            lives: Lives::draw(random),
        }
    }

    /// A plan for one that does nothing wrong, but reads late what it takes much of.
    pub fn draw_slow_reader(random: &mut StdRng, stages: &[Name], lease: Duration) -> Self {
        Self {
            credits: 32,
            wrong_percent: 0,
            reads_late_percent: random.random_range(10..50),
            late: lease.mul_f64(random.random_range(1.1..2.0)),
            // Long enough to read after all.
            lives: Lives {
                min: lease * 5,
                max: lease * 10,
                ..Lives::draw(random)
            },
            ..Self::draw(random, stages, lease)
        }
    }
}

/// One report, as it will be sent.
#[derive(Clone)]
struct Planned {
    interface: Name,
    interface_id: Bytes,
    sequence: u64,
    stage: Name,
    turn: u32,
    work: Work,
    /// It names what can't be.
    impossible: bool,
}

struct Life<'a> {
    plan: &'a RogueWorkerPlan,
    scribe: &'a Scribe,
    random: &'a mut StdRng,
    /// Calls whose results are due, in order.
    pending: VecDeque<(u64, Planned)>,
    late: VecDeque<(Instant, Planned)>,
}

/// Works wrongly until `stop`.
pub async fn rogue_work(raw: Raw, scribe: Scribe, plan: RogueWorkerPlan, stop: CancellationToken) {
    let mut random = StdRng::seed_from_u64(plan.seed);
    while !stop.is_cancelled() {
        let (stages, prefix) = (&plan.stages, &plan.interface_prefix);
        let hello = raw_work::hello(&mut random, &scribe, stages, prefix, plan.credits);
        let length = Lives::length(Some(&plan.lives), &mut random);
        let mut life = Life {
            plan: &plan,
            scribe: &scribe,
            random: &mut random,
            pending: VecDeque::new(),
            late: VecDeque::new(),
        };
        let living = async { life.live(raw_work::open(&raw, hello).await).await };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tokio::time::timeout(length, living) => {}
        }
        paused(plan.lives.pause, &stop).await;
    }
}

impl Life<'_> {
    /// Until the stream ends.
    async fn live(&mut self, mut frames: Frames<WorkRequest, WorkResponse>) {
        let mut heartbeat_at = Instant::now() + HEARTBEAT;
        loop {
            if self.random.random_range(0..100) < self.plan.reads_late_percent {
                sleep_until(Instant::now() + self.plan.late).await;
            }
            let late_at = self.late.front().map_or(heartbeat_at, |(at, _)| *at);
            let mut request = WorkRequest::default();
            tokio::select! {
                biased;
                response = frames.responses.message() => match response {
                    Ok(Some(response)) => {
                        for result in &response.results {
                            self.judge(verdict(result.reason, &result.text));
                        }
                        for assignment in response.assignments {
                            let reports = self.plan_reports(assignment);
                            request.reports.extend(self.reports(reports));
                        }
                    }
                    _ => return,
                },
                () = sleep_until(late_at.min(heartbeat_at)) => {
                    if heartbeat_at <= Instant::now() {
                        request.heartbeat = 1;
                        heartbeat_at = Instant::now() + HEARTBEAT;
                    }
                    if let Some((_, planned)) = self.late.pop_front_if(|(at, _)| *at <= Instant::now()) {
                        request.reports.extend(self.reports(vec![planned]));
                    }
                }
            }
            let says_something = request.heartbeat > 0 || !request.reports.is_empty();
            if says_something && frames.requests.send(request).await.is_err() {
                return;
            }
        }
    }

    /// What is reported of an assignment, now.
    fn plan_reports(&mut self, assignment: WorkAssignment) -> Vec<Planned> {
        raw_work::note(self.scribe, &assignment);
        let (interface, stage) = (
            Name::from(assignment.interface),
            Name::from(assignment.stage),
        );
        let right = Planned {
            work: Script::work(&assignment.payload, &stage, assignment.attempts),
            interface,
            interface_id: assignment.interface_id,
            sequence: assignment.sequence,
            stage,
            turn: assignment.turn,
            impossible: false,
        };
        if self.random.random_range(0..100) >= self.plan.wrong_percent {
            return vec![right];
        }
        let mut wrong = right.clone();
        match self.random.random_range(0..7) {
            // Twice.
            0 => {}
            1 => {
                let at = Instant::now() + self.plan.late;
                self.late.push_back((at, right));
                return Vec::new();
            }
            2 => {
                wrong.turn = wrong.turn.saturating_sub(1);
                wrong.work = Work::Reject;
            }
            3 => {
                wrong.turn = FAR;
                wrong.impossible = true;
            }
            4 => {
                wrong.sequence += u64::from(FAR);
                wrong.impossible = true;
            }
            5 => {
                // Somebody else's, perhaps.
                wrong.sequence = (wrong.sequence + self.random.random_range(0..20))
                    .saturating_sub(10)
                    .max(1);
                wrong.turn = self.random.random_range(1..3);
            }
            // Never.
            _ => return Vec::new(),
        }
        match self.random.random_bool(0.5) {
            true => vec![right, wrong],
            false => vec![wrong, right],
        }
    }

    /// The reports as they go out, recorded before.
    fn reports(&mut self, planned: Vec<Planned>) -> Vec<WorkReport> {
        let mut reports = Vec::new();
        for planned in planned {
            let call = self.scribe.next_call();
            self.scribe.record(What::Report {
                call,
                interface: planned.interface.clone(),
                sequence: planned.sequence,
                stage: planned.stage.clone(),
                turn: planned.turn,
                kind: planned.work.kind(),
            });
            reports.push(WorkReport {
                interface_id: planned.interface_id.clone(),
                sequence: planned.sequence,
                stage: planned.stage.to_string(),
                turn: planned.turn,
                outcome: Some(outcome(&planned.work)),
            });
            self.pending.push_back((call, planned));
        }
        reports
    }

    /// The next result is there.
    fn judge(&mut self, verdict: Verdict) {
        let Some((call, planned)) = self.pending.pop_front() else {
            return;
        };
        let recorded = verdict == Verdict::Recorded;
        self.scribe.record(What::Reported { call, verdict });
        if recorded && planned.impossible {
            let (sequence, turn) = (planned.sequence, planned.turn);
            self.scribe.record(What::Unlawful {
                interface: planned.interface,
                guarantee: 11,
                text: format!("a report of turn {turn} on sequence {sequence}, neither of which there is, was recorded"),
            });
        }
    }
}

fn outcome(work: &Work) -> work_report::Outcome {
    let reason = || "as the script says".to_owned();
    match work {
        Work::Complete {
            payload,
            destinations,
        } => work_report::Outcome::Complete(WorkComplete {
            payload: payload.clone(),
            headers: Vec::new(),
            destinations: destinations.iter().map(ToString::to_string).collect(),
        }),
        Work::Retry => work_report::Outcome::Retry(WorkRetry { reason: reason() }),
        Work::Reject => work_report::Outcome::Reject(WorkReject { reason: reason() }),
        Work::Filter => work_report::Outcome::Filter(WorkFilter { reason: reason() }),
    }
}
