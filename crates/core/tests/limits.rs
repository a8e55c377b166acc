//! Limits too big for a scenario in words.

mod common;

use common::scenario::{digest_of, id_of};
use ordo_core::{
    ClusterTime, Command, CreateInterface, Entry, Ingest, InterfaceConfig, InterfaceId, MessageId,
    Refusal, Reply, RunPosition, State, WallTime, limits,
};

fn numbered(producer: usize, number: u64) -> Command {
    let name = format!("{producer}/{number}");
    Command::Ingest(Ingest {
        interface: InterfaceId(id_of("lab")),
        message_id: MessageId(id_of(&name)),
        digest: digest_of(name.as_bytes()),
        payload: name.clone().into(),
        headers: Vec::new(),
        numbered: Some((format!("producer {producer}"), number)),
        session: None,
    })
}

#[test]
fn numbered_producers_are_limited_and_those_there_are_go_on() {
    let create = Command::CreateInterface(CreateInterface {
        interface: InterfaceId(id_of("lab")),
        name: "lab".to_owned(),
        config: InterfaceConfig::default(),
    });
    let mut commands = vec![create];
    commands.extend((0..=limits::PRODUCERS_MAX).map(|producer| numbered(producer, 1)));
    commands.push(numbered(0, 2));
    let entry = Entry {
        cluster_time: ClusterTime(0),
        wall_time: WallTime(0),
        position: RunPosition {
            term: 1,
            run: 1,
            n: 1,
        },
        commands,
    };
    let replies = State::default().apply(1, entry, &mut Vec::new());
    let ingested = |reply: &&Reply| matches!(reply, Reply::Ingested { .. });
    let accepted = replies.iter().filter(ingested).count();
    assert_eq!(accepted, limits::PRODUCERS_MAX + 1);
    let full = Reply::Refused(Refusal::ProducersFull(limits::PRODUCERS_MAX));
    assert_eq!(replies[limits::PRODUCERS_MAX + 1], full);
}
