//! Dispatcher and releaser over a real state, without a node around them.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod dispatch;
mod flat;
mod release;

use super::dispatcher::{Dispatcher, Now};
use super::events::{
    Assignment, DeliverPush, Freed, Heard, Hold, LineKey, Place, SessionId, SubscribeEvent,
    SubscriptionKey, Tag, WorkPush, WorkerHello, WorkerId,
};
use super::releaser::Releaser;
use bytes::Bytes;
use ordo_core::{
    ClusterTime, Command, ConsumerId, CreateInterface, DestinationConfig, DestinationNumber,
    Digest, Effect, Entry, Ingest, InterfaceConfig, InterfaceId, Loss, MessageId, Outcome, Reply,
    Report, RunPosition, Sequence, StageConfig, State, UpdateInterface, WallTime,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;
use uuid::Uuid;

/// A state, and a leader's loops beside it.
struct World {
    state: State,
    index: u64,
    now: Now,
    dispatcher: Dispatcher,
    releaser: Releaser,
    has_quorum: bool,
}

/// One worker's stream.
struct TestWorker {
    session: SessionId,
    id: u128,
    silent: Arc<AtomicBool>,
    pushes: UnboundedReceiver<WorkPush>,
}

/// One consumer's stream with one subscription.
struct TestConsumer {
    key: SubscriptionKey,
    heard: Arc<Heard>,
    pushes: UnboundedReceiver<DeliverPush>,
}

fn hold(held: &Assignment) -> Hold {
    Hold {
        place: held.place,
        stage: held.stage.to_string(),
        turn: held.turn,
    }
}

fn interface_id(n: u8) -> InterfaceId {
    InterfaceId(Uuid::from_u128(n.into()))
}

fn stages(names: &[&str]) -> InterfaceConfig {
    let stages = names
        .iter()
        .map(|name| StageConfig {
            backoff_ms: 1_000,
            ..StageConfig::named(name)
        })
        .collect();
    InterfaceConfig {
        stages,
        ..InterfaceConfig::default()
    }
}

impl World {
    /// With interfaces `a`, `b`, … of these configurations; the leader's grace is over.
    fn new(configs: &[InterfaceConfig]) -> Self {
        let state = State::default();
        let now = Now {
            instant: Instant::now(),
            cluster: ClusterTime(0),
        };
        let (dispatcher, releaser) = (Dispatcher::new(&state, now), Releaser::new(&state, now));
        let mut world = Self {
            state,
            index: 0,
            now,
            dispatcher,
            releaser,
            has_quorum: true,
        };
        for (n, config) in (1u8..).zip(configs) {
            let name = char::from(b'a' + n - 1).to_string();
            let create = CreateInterface {
                interface: interface_id(n),
                name,
                config: config.clone(),
            };
            world.apply(vec![Command::CreateInterface(create)]);
        }
        world.pass(200);
        world
    }

    fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.index += 1;
        let entry = Entry {
            cluster_time: self.now.cluster,
            wall_time: WallTime(self.now.cluster.0),
            position: RunPosition {
                term: 1,
                run: 1,
                n: self.index,
            },
            commands,
        };
        let mut effects = Vec::new();
        let replies = self.state.apply(self.index, entry, &mut effects);
        for effect in effects {
            match effect {
                Effect::Work {
                    interface,
                    sequence,
                } => {
                    self.dispatcher.work(
                        &self.state,
                        Place {
                            interface,
                            sequence,
                        },
                        self.now,
                    );
                }
                Effect::Released { interface } => self.releaser.released(&self.state, interface),
                Effect::Destination {
                    interface,
                    destination,
                } => {
                    self.releaser.destination(
                        &self.state,
                        LineKey {
                            interface,
                            destination,
                        },
                        self.now,
                    );
                }
                Effect::Interface { interface } => {
                    self.dispatcher.configured(&self.state, interface, self.now);
                    self.releaser.interface(&self.state, interface, self.now);
                }
            }
        }
        self.round();
        replies
    }

    /// Gives out and sends, and applies what the loops propose.
    fn round(&mut self) {
        if self.has_quorum {
            self.dispatcher.dispatch(&self.state, self.now);
            self.dispatcher.flush();
        }
        self.releaser.pump(&self.state, self.now, self.has_quorum);
        let losses = self.dispatcher.take_losses();
        if !losses.is_empty() {
            let commands = losses.iter().map(|lost| {
                Command::Loss(Loss {
                    interface: lost.place.interface,
                    sequence: lost.place.sequence,
                    stage: lost.stage,
                    turn: lost.turn,
                    reason: lost.reason.clone(),
                })
            });
            self.apply(commands.collect());
            let applied: Vec<_> = losses
                .iter()
                .map(|lost| (lost.place, lost.stage, lost.turn))
                .collect();
            self.dispatcher.lost(&self.state, &applied, self.now);
            self.round();
        }
        for (command, tag) in self.releaser.take_proposals() {
            let replies = self.apply(vec![command]);
            self.proposed(&tag, replies);
        }
    }

    fn proposed(&mut self, tag: &Tag, replies: Vec<Reply>) {
        self.releaser
            .proposed(&self.state, tag, &Ok(replies), self.now);
        self.round();
    }

    /// Lets time pass, by both clocks.
    fn pass(&mut self, ms: u64) {
        self.now.instant += Duration::from_millis(ms);
        self.now.cluster = self.now.cluster.after_ms(ms);
        self.dispatcher.tick(&self.state, self.now);
        self.releaser.tick(&self.state, self.now);
        self.round();
    }

    /// The leader was stopped for a while, of which cluster time counts one second.
    fn pause(&mut self, stopped: Duration) {
        self.now.instant += stopped;
        self.now.cluster = self.now.cluster.after_ms(1_000);
        self.dispatcher.tick(&self.state, self.now);
        self.releaser.tick(&self.state, self.now);
        self.round();
    }

    /// Another leader takes over, with nothing but the state.
    fn change_leader(&mut self) {
        self.dispatcher = Dispatcher::new(&self.state, self.now);
        self.releaser = Releaser::new(&self.state, self.now);
    }

    /// One message with a payload of so many bytes.
    fn ingest(&mut self, interface: u8, bytes: usize) -> Sequence {
        let ingest = Ingest {
            interface: interface_id(interface),
            message_id: MessageId(Uuid::from_u128(
                u128::from(self.index) << 8 | u128::from(interface),
            )),
            digest: Digest([0; 16]),
            payload: Bytes::from(vec![b'x'; bytes]),
            headers: Vec::new(),
            numbered: None,
            session: None,
        };
        match self.apply(vec![Command::Ingest(ingest)])[..] {
            [
                Reply::Ingested {
                    sequence,
                    duplicate: false,
                },
            ] => sequence,
            ref other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, interface: u8, config_version: u64, config: &InterfaceConfig) {
        let update = UpdateInterface {
            interface: interface_id(interface),
            config_version,
            config: config.clone(),
        };
        self.apply(vec![Command::UpdateInterface(update)]);
    }

    fn losses(&self, interface: u8, sequence: Sequence) -> u32 {
        let interface = self.state.interface(interface_id(interface)).unwrap();
        interface.slot(sequence).unwrap().losses.into()
    }

    /// So many messages of an interface that a worker took and never came back with.
    fn lose(&mut self, interface: u8, name: &str, count: u32) {
        for _ in 0..count {
            self.ingest(interface, 10);
        }
        let mut victim = self.join_with(1_000, &["parse"], count, name, &[]);
        assert_eq!(victim.given().len(), count as usize);
        self.leave(&victim);
        self.pass(1_000);
    }

    fn report(
        &mut self,
        worker: &TestWorker,
        assignment: &Assignment,
        outcome: Outcome,
    ) -> Vec<Reply> {
        let stage = self.state.interface(assignment.place.interface).unwrap();
        let report = Report {
            interface: assignment.place.interface,
            sequence: assignment.place.sequence,
            stage: stage.config.stage_number(&assignment.stage).unwrap(),
            turn: assignment.turn,
            outcome,
        };
        let replies = self.apply(vec![Command::Report(report)]);
        let freed = [Freed {
            place: assignment.place,
            turn: assignment.turn,
        }];
        self.dispatcher
            .freed(&self.state, worker.session, &freed, self.now);
        self.round();
        replies
    }

    fn complete(&mut self, worker: &TestWorker, assignment: &Assignment) {
        let complete = Outcome::Complete {
            payload: None,
            headers: Vec::new(),
            destinations: Vec::new(),
        };
        assert_eq!(self.report(worker, assignment, complete), [Reply::Done]);
    }

    fn join(&mut self, id: u128, stages: &[&str], credits: u32) -> TestWorker {
        self.join_with(id, stages, credits, "", &[])
    }

    fn join_with(
        &mut self,
        id: u128,
        stages: &[&str],
        credits: u32,
        prefix: &str,
        holds: &[Assignment],
    ) -> TestWorker {
        let (push, pushes) = unbounded_channel();
        let session = SessionId::next();
        let silent = Arc::default();
        let hello = WorkerHello {
            session,
            worker: WorkerId(Uuid::from_u128(id)),
            name: format!("worker-{id}"),
            stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
            interface_prefix: prefix.to_owned(),
            holds: holds.iter().map(hold).collect(),
            credits,
            silent: Arc::clone(&silent),
            push,
        };
        self.dispatcher.join(&self.state, hello, self.now);
        self.round();
        TestWorker {
            session,
            id,
            silent,
            pushes,
        }
    }

    /// A worker's stream says anything.
    fn speak(&mut self, worker: &TestWorker) {
        if worker.silent.swap(false, Ordering::Relaxed) {
            self.dispatcher.spoke(worker.session);
        }
        self.round();
    }

    fn extend(&mut self, worker: &TestWorker, assignment: &Assignment) {
        let hold = hold(assignment);
        self.dispatcher
            .extend(&self.state, worker.session, &[hold], self.now);
        self.speak(worker);
    }

    fn leave(&mut self, worker: &TestWorker) {
        self.dispatcher.leave(&self.state, worker.session, self.now);
        self.round();
    }

    fn subscribe(&mut self, interface: &str, consumer: u128, credits: u32) -> TestConsumer {
        let (push, pushes) = unbounded_channel();
        let key = SubscriptionKey {
            session: SessionId::next(),
            number: 1,
        };
        let heard = Heard::now();
        self.releaser.subscribe(
            &self.state,
            SubscribeEvent {
                key,
                interface: interface.to_owned(),
                destination: "default".to_owned(),
                consumer: ConsumerId(Uuid::from_u128(consumer)),
                name: format!("consumer-{consumer}"),
                credits,
                position: None,
                heard: Arc::clone(&heard),
                push,
            },
            self.now,
        );
        self.round();
        TestConsumer { key, heard, pushes }
    }
}

impl TestWorker {
    /// What it was given since the last call.
    fn given(&mut self) -> Vec<Assignment> {
        let mut given = Vec::new();
        while let Ok(push) = self.pushes.try_recv() {
            if let WorkPush::Assignments(mut assignments) = push {
                given.append(&mut assignments);
            }
        }
        given
    }

    fn sequences(&mut self) -> Vec<u64> {
        self.given()
            .iter()
            .map(|assignment| assignment.place.sequence.0)
            .collect()
    }
}

impl TestConsumer {
    fn pushes(&mut self) -> Vec<DeliverPush> {
        std::iter::from_fn(|| self.pushes.try_recv().ok()).collect()
    }

    /// The sequences it was sent since the last call.
    fn sequences(&mut self) -> Vec<u64> {
        let sent = self.pushes().into_iter().flat_map(|push| match push {
            DeliverPush::Deliveries { deliveries, .. } => deliveries,
            _ => Vec::new(),
        });
        sent.map(|delivery| delivery.sequence.0).collect()
    }
}
