//! Dispatcher, releaser and timers, as the state machine's observer.

use super::dispatcher::{Dispatcher, Lost, Now};
use super::events::{Event, LineKey, Place, Tag};
use super::glance::Glance;
use super::releaser::Releaser;
use super::set_aside::SetAside;
use crate::admission::Admission;
use crate::metrics::Metrics;
use crate::proposer::{LoopsLink, Proposed, Proposer};
use ordo_core::{ClusterTime, Command, Effect, InterfaceId, Loss, QuarantineInterface, State};
use ordo_storage::{Lump, MachineHandle, Observer, View};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Lumps after which frames go out even while the machine has more to do.
const LUMPS_HELD_BACK: u32 = 4;
/// How long a leader whose quorum lease has lapsed waits before it looks again.
pub(super) const RECHECK: Duration = Duration::from_millis(50);
/// Losses in one proposal.
const LOSSES_AT_ONCE: usize = 512;

/// Dispatcher, releaser and timers. Idle on every node but the leader.
pub struct Loops {
    proposer: Proposer,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    wake: watch::Sender<Option<Instant>>,
    leading: Option<Leading>,
    /// Interfaces whose counters changed; kept for its room.
    touched: Vec<InterfaceId>,
    set_aside: SetAside,
}

struct Leading {
    dispatcher: Dispatcher,
    releaser: Releaser,
    /// Lumps since something was sent.
    lumps: u32,
}

/// Wakes the loops when something is due. Runs as a task beside them.
pub struct Timers(watch::Receiver<Option<Instant>>);

impl Loops {
    /// Loops that propose through `proposer`, with the timers that wake them.
    #[must_use]
    pub fn new(
        proposer: Proposer,
        admission: Arc<Admission>,
        metrics: Arc<Metrics>,
    ) -> (Self, Timers) {
        let (wake, due) = watch::channel(None);
        (
            Self {
                proposer,
                admission,
                metrics,
                wake,
                leading: None,
                touched: Vec::new(),
                set_aside: SetAside::default(),
            },
            Timers(due),
        )
    }

    fn now(&self, state: &State) -> Now {
        let cluster = self.proposer.clock().now().max(state.cluster_time());
        Now {
            instant: Instant::now(),
            cluster,
        }
    }

    /// Carries out what entries did.
    fn follow_effects(&mut self, state: &State, effects: &[Effect], now: Now) {
        let Some(Leading {
            dispatcher,
            releaser,
            ..
        }) = &mut self.leading
        else {
            return;
        };
        for effect in effects {
            let id = match *effect {
                Effect::Work {
                    interface,
                    sequence,
                } => {
                    dispatcher.work(
                        state,
                        Place {
                            interface,
                            sequence,
                        },
                        now,
                    );
                    interface
                }
                Effect::Released { interface } => {
                    releaser.released(state, interface);
                    interface
                }
                Effect::Destination {
                    interface,
                    destination,
                } => {
                    releaser.destination(
                        state,
                        LineKey {
                            interface,
                            destination,
                        },
                        now,
                    );
                    interface
                }
                Effect::Interface { interface } => {
                    dispatcher.configured(state, interface, now);
                    releaser.interface(state, interface, now);
                    interface
                }
            };
            if self.touched.last() != Some(&id) {
                self.touched.push(id);
            }
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        for id in self.touched.drain(..) {
            if let Some(interface) = state.interface(id) {
                self.admission.update(interface);
            }
        }
    }

    /// Gives out, sends and proposes what there is, and says when to look again.
    fn round(&mut self, state: &State) {
        if self.leading.is_none() {
            return;
        }
        let now = self.now(state);
        let has_quorum = self.proposer.has_quorum();
        let Some(leading) = &mut self.leading else {
            return;
        };
        leading.lumps = 0;
        if has_quorum {
            leading.dispatcher.dispatch(state, now);
            leading.dispatcher.flush();
        }
        leading.releaser.pump(state, now, has_quorum);
        let losses = leading.dispatcher.take_losses();
        let grants = leading.releaser.take_proposals();
        let (delivered, skipped) = leading.releaser.take_acknowledged();
        self.metrics.delivered.inc_by(delivered);
        self.metrics.skipped.inc_by(skipped);
        self.metrics.losses.inc_by(losses.len() as u64);
        self.metrics
            .assignments_outstanding
            .set(i64::try_from(leading.dispatcher.held.len()).unwrap_or(i64::MAX));
        for losses in losses.chunks(LOSSES_AT_ONCE) {
            let tag = Tag::Losses(
                losses
                    .iter()
                    .map(|lost| (lost.place, lost.stage, lost.turn))
                    .collect(),
            );
            self.proposer
                .propose_for_loops(losses.iter().map(command_of).collect(), tag);
        }
        for (command, tag) in grants {
            self.proposer.propose_for_loops(vec![command], tag);
        }
        self.proposer
            .set_period_runs(leading.dispatcher.is_waiting() || leading.releaser.is_waiting());
        let due = due(&leading.dispatcher, &leading.releaser, now, has_quorum);
        // Woken too early is harmless; a watch that did not change wakes nobody.
        self.wake
            .send_if_modified(|there| std::mem::replace(there, due) != due);
    }

    fn lead(&mut self, state: &State, term: u64) {
        let now = self.now(state);
        tracing::debug!(
            term,
            interfaces = state.interfaces().count(),
            "deriving work and grants from the state"
        );
        self.admission.clear();
        let (dispatcher, releaser) = (Dispatcher::new(state, now), Releaser::new(state, now));
        self.leading = Some(Leading {
            dispatcher,
            releaser,
            lumps: 0,
        });
        for (interface, invariant) in state.suspects() {
            let command = Command::QuarantineInterface(QuarantineInterface {
                interface: interface.id,
                invariant: invariant.to_owned(),
            });
            // Nobody waits for it.
            drop(self.proposer.propose(vec![command]));
        }
    }

    fn glance<'a>(&'a self, view: View<'a>) -> Glance<'a> {
        Glance {
            state: view.state,
            applied_index: view.applied_index,
            now: self.now(view.state),
            loops: self
                .leading
                .as_ref()
                .map(|leading| (&leading.dispatcher, &leading.releaser)),
        }
    }

    fn follow(&mut self) {
        // The streams end with the senders that go here.
        self.leading = None;
        self.admission.clear();
        self.proposer.set_period_runs(false);
        self.metrics.assignments_outstanding.set(0);
        self.wake.send_replace(None);
    }
}

/// When to look again. Without the quorum's word nothing goes out, cluster time may stand still, and what it has made
/// due stays due: looking again now and then is enough.
pub(super) fn due(
    dispatcher: &Dispatcher,
    releaser: &Releaser,
    now: Now,
    has_quorum: bool,
) -> Option<Instant> {
    let (work, by_cluster_time) = dispatcher.next(now);
    let (lines, suspended) = releaser.next(now);
    let after = |at: ClusterTime| {
        now.instant + Duration::from_millis(at.0.saturating_sub(now.cluster.0).max(1))
    };
    let by_cluster_time = by_cluster_time
        .into_iter()
        .chain(suspended)
        .filter(|_| has_quorum)
        .map(after);
    let lapsed = (!has_quorum).then(|| now.instant + RECHECK);
    work.into_iter()
        .chain(lines)
        .chain(by_cluster_time)
        .chain(lapsed)
        .min()
}

fn command_of(lost: &Lost) -> Command {
    Command::Loss(Loss {
        interface: lost.place.interface,
        sequence: lost.place.sequence,
        stage: lost.stage,
        turn: lost.turn,
        reason: lost.reason.clone(),
    })
}

impl Observer for Loops {
    type Event = Event;

    fn applied(&mut self, view: View<'_>, lump: &Lump) {
        self.set_aside
            .follow(view.state, &lump.effects, &self.metrics);
        if self.leading.is_none() {
            return;
        }
        let now = self.now(view.state);
        self.follow_effects(view.state, &lump.effects, now);
        if let Some(leading) = &mut self.leading {
            leading.lumps += 1;
            if leading.lumps >= LUMPS_HELD_BACK {
                self.round(view.state);
            }
        }
    }

    fn event(&mut self, view: View<'_>, event: Event) {
        let state = view.state;
        let event = match event {
            Event::Lead { term } => return self.lead(state, term),
            Event::Follow => return self.follow(),
            Event::Ask(question) => return question(self.glance(view)),
            event => event,
        };
        let now = self.now(state);
        // A stream's last words may come after the end of its leader.
        let Some(Leading {
            dispatcher,
            releaser,
            ..
        }) = &mut self.leading
        else {
            return;
        };
        match event {
            Event::Lead { .. } | Event::Follow | Event::Ask(_) => {}
            Event::Tick => {
                dispatcher.tick(state, now);
                releaser.tick(state, now);
            }
            Event::Proposed {
                tag: Tag::Losses(losses),
                ..
            } => dispatcher.lost(state, &losses, now),
            Event::Proposed { tag, result } => releaser.proposed(state, &tag, &result, now),
            Event::WorkerJoined(hello) => dispatcher.join(state, hello, now),
            Event::WorkerCredits { session, credits } => dispatcher.credits(session, credits),
            Event::WorkerExtends { session, holds } => {
                dispatcher.extend(state, session, &holds, now)
            }
            Event::WorkerSpoke { session } => dispatcher.spoke(session),
            Event::WorkerDrains { session } => dispatcher.drain(session),
            Event::WorkerFreed { session, freed } => dispatcher.freed(state, session, &freed, now),
            Event::WorkerLeft { session } => dispatcher.leave(state, session, now),
            Event::Subscribe(subscribe) => releaser.subscribe(state, subscribe, now),
            Event::Unsubscribe(key) => releaser.unsubscribe(state, key, now),
            Event::ConsumerLeft { session, numbers } => {
                releaser.leave(state, session, &numbers, now)
            }
        }
    }

    fn installed(&mut self, view: View<'_>) {
        self.set_aside.look(view.state, &self.metrics);
        // A leader installs no snapshots: whoever sent this one leads, and the end of this one's lead is on its way.
        self.follow();
    }

    fn loaded(&mut self, view: View<'_>) {
        self.set_aside.look(view.state, &self.metrics);
    }

    fn idle(&mut self, view: View<'_>) {
        self.round(view.state);
    }
}

impl Timers {
    /// Wakes the loops until `stop` is cancelled.
    pub async fn run(mut self, machine: MachineHandle<Event>, stop: CancellationToken) {
        loop {
            let due = *self.0.borrow_and_update();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.0.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep => {
                    machine.send(Event::Tick);
                    // The tick moves the date on; until it has, there is nothing to wake for.
                    let _ = tokio::time::timeout(RECHECK, self.0.changed()).await;
                }
            }
        }
    }
}

impl LoopsLink for MachineHandle<Event> {
    async fn lead(&self, term: u64) -> Option<ClusterTime> {
        self.send(Event::Lead { term });
        self.query(|view| view.state.cluster_time()).await.ok()
    }

    fn follow(&self) {
        self.send(Event::Follow);
    }

    fn proposed(&self, tag: Tag, result: Proposed) {
        self.send(Event::Proposed { tag, result });
    }
}
