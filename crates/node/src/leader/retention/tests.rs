//! One node with many interfaces, at default limits: what it remembers leaves room for ingest, and goes.
//!
//!     cargo test --release -p ordo-node many_interfaces -- --ignored --nocapture
//!
//! does it with 25,000 interfaces, each of which remembers all it may.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use super::sweep;
use crate::config::{Config, PeerConfig};
use crate::context::Context;
use crate::memory::Memory;
use crate::net::Listening;
use crate::proposer::Pending;
use crate::serve::{Seams, start};
use ordo_core::{
    Answer, AnswerKind, Command, ConsumerId, CreateInterface, DestinationNumber, Digest, Epoch,
    Grant, Ingest, InterfaceConfig, InterfaceId, MessageId, Sequence,
};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR_MS: u64 = 3_600_000;
/// Messages of an interface in one proposal.
const AT_ONCE: u64 = 100;
/// Proposals on their way.
const ON_THEIR_WAY: usize = 32;

fn id(interface: u64) -> InterfaceId {
    InterfaceId(Uuid::from_u128(u128::from(interface) + 1))
}

fn create(interface: u64) -> [Command; 2] {
    let create = CreateInterface {
        interface: id(interface),
        name: interface.to_string(),
        config: InterfaceConfig::default(),
    };
    let grant = Grant {
        interface: id(interface),
        destination: DestinationNumber(0),
        consumer: ConsumerId(Uuid::nil()),
        name: String::new(),
        position: None,
    };
    [Command::CreateInterface(create), Command::Grant(grant)]
}

/// Messages that are ingested and delivered at once.
fn pass(interface: u64, from: u64, through: u64) -> Vec<Command> {
    let ingest = |n: u64| {
        let name = Uuid::new_v5(&id(interface).0, &n.to_be_bytes());
        Command::Ingest(Ingest {
            interface: id(interface),
            message_id: MessageId(name),
            digest: Digest(name.into_bytes()),
            payload: bytes::Bytes::new(),
            headers: Vec::new(),
            numbered: None,
            session: None,
        })
    };
    let mut commands: Vec<Command> = (from..=through).map(ingest).collect();
    commands.push(Command::Answer(Answer {
        interface: id(interface),
        destination: DestinationNumber(0),
        epoch: Epoch(1),
        sequence: Sequence(through),
        kind: AnswerKind::Ack,
    }));
    commands
}

/// Nothing hinders ingest, as a stream would be told.
async fn takes_ingest(context: &Context, interface: u64) {
    let admission = std::sync::Arc::clone(&context.admission);
    let learn = move |view: ordo_storage::View<'_>| {
        admission.learn(view.state.interface(id(interface)).unwrap())
    };
    let view = context.machine.query(learn).await.unwrap();
    let (_room, taken, refusal) = context.admission.take_room(&view, &view.config(), &[100]);
    assert_eq!((taken, refusal), (1, None));
}

async fn answered(on_their_way: &mut VecDeque<Pending>, left: usize) {
    while on_their_way.len() > left {
        on_their_way.pop_front().unwrap().await.unwrap();
    }
}

/// How many finished messages are remembered.
async fn remembered(context: &Context) -> u64 {
    let sum = |view: ordo_storage::View<'_>| {
        let interfaces = view.state.interfaces();
        let kept = interfaces.map(|i| i.finished_through().0 + 1 - i.known_from().0);
        kept.sum()
    };
    context.machine.query(sum).await.unwrap()
}

fn pass_time(context: &Context, hours: u64) {
    let clock = context.proposer.clock();
    clock.start(clock.now().after_ms(hours * HOUR_MS));
}

async fn records(context: &Context, interfaces: u64, messages: u64) -> usize {
    let ends = [1, messages];
    let all = (0..interfaces).flat_map(|interface| ends.map(|n| (id(interface), Sequence(n))));
    all.filter(|(id, n)| context.store.record(*id, *n).unwrap().is_some())
        .count()
}

async fn run(interfaces: u64, messages: u64) {
    let (folder, listeners) = (
        tempfile::tempdir().unwrap(),
        [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ],
    );
    let mut config = Config::local(1, folder.path().to_owned());
    let limit = config.limits.memory_bytes;
    let [peer, public] = &listeners;
    (config.peer, config.public) = (peer.local_addr().unwrap(), public.local_addr().unwrap());
    config.peers = vec![PeerConfig {
        node_id: 1,
        peer: config.peer.to_string(),
        public: config.public.to_string(),
    }];
    let [peer, public] = listeners.map(|listener| Some(Listening::on(listener).unwrap()));
    let seams = Seams {
        peer,
        public,
        ..Seams::default()
    };
    let node = start(config, seams).await.unwrap();
    let context = std::sync::Arc::clone(node.context());
    context.cluster.init().await.unwrap();
    let until = Instant::now() + PATIENCE;
    while context.proposer.run().is_none() {
        assert!(Instant::now() < until, "it does not lead");
        sleep(Duration::from_millis(5)).await;
    }

    let mut on_their_way = VecDeque::new();
    for interface in 0..interfaces {
        let pending = context.proposer.propose(create(interface).into());
        on_their_way.push_back(pending);
        answered(&mut on_their_way, ON_THEIR_WAY).await;
    }
    let mut memory = Memory::default();
    let mut most = 0;
    for from in (1..=messages).step_by(usize::try_from(AT_ONCE).unwrap()) {
        for interface in 0..interfaces {
            let commands = pass(interface, from, messages.min(from + AT_ONCE - 1));
            on_their_way.push_back(context.proposer.propose(commands));
            answered(&mut on_their_way, ON_THEIR_WAY).await;
            if interface % 100 == 0 {
                takes_ingest(&context, interface).await;
                most = most.max(memory.bytes(limit / 8 * 7).await.unwrap());
            }
        }
    }
    answered(&mut on_their_way, 0).await;
    assert_eq!(remembered(&context).await, interfaces * messages.min(1_000));
    let kept = Memory::default().bytes(0).await.unwrap();
    sweep(&context.proposer, &context.machine).await.unwrap();
    assert_eq!(remembered(&context).await, interfaces * messages.min(1_000));
    assert_eq!(
        records(&context, interfaces, messages).await as u64,
        interfaces * 2
    );

    pass_time(&context, 25);
    let begun = Instant::now();
    sweep(&context.proposer, &context.machine).await.unwrap();
    let day = begun.elapsed();
    assert_eq!(remembered(&context).await, 0);
    assert_eq!(
        records(&context, interfaces, messages).await as u64,
        interfaces * 2
    );
    let after_a_day = Memory::default().bytes(0).await.unwrap();

    pass_time(&context, 6 * 24);
    let begun = Instant::now();
    sweep(&context.proposer, &context.machine).await.unwrap();
    let week = begun.elapsed();
    assert_eq!(records(&context, interfaces, messages).await, 0);
    takes_ingest(&context, 0).await;
    println!(
        "{interfaces} interfaces with {messages} messages each: {} MB at most, {} MB then, {} MB a day later (swept in \
         {day:.1?}, the records in {week:.1?}); limits.memory_bytes is {} MB",
        most >> 20,
        kept >> 20,
        after_a_day >> 20,
        limit >> 20,
    );
    // What is remembered is some 40 bytes each.
    let freed = interfaces * messages.min(1_000) * 25;
    assert!(
        most < limit && after_a_day + freed < kept,
        "{after_a_day} of {kept} bytes"
    );
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_interfaces_remember_little_and_forget_in_time() {
    run(200, 300).await;
}

#[tokio::test]
#[ignore = "takes gigabytes of disk and many minutes"]
async fn many_interfaces_that_remember_all_they_may_leave_room_for_ingest() {
    run(25_000, 1_100).await;
}
