use super::*;
use crate::proposer::ProposeError;
use ordo_core::{Answer, AnswerKind, Epoch};
use ordo_wire::v1::Reason;

/// An interface without stages: what is ingested is released at once.
fn direct() -> World {
    World::new(&[InterfaceConfig::default()])
}

fn answer(world: &mut World, epoch: Epoch, sequence: u64, kind: AnswerKind) -> Reply {
    let answer = Answer {
        interface: interface_id(1),
        destination: DestinationNumber(0),
        epoch,
        sequence: Sequence(sequence),
        kind,
    };
    world.apply(vec![Command::Answer(answer)]).remove(0)
}

fn granted(pushes: &[DeliverPush]) -> Option<(Epoch, Sequence)> {
    pushes.iter().rev().find_map(|push| match push {
        DeliverPush::Granted {
            epoch, checkpoint, ..
        } => Some((*epoch, *checkpoint)),
        _ => None,
    })
}

fn unavailable(after_ms: u64) -> AnswerKind {
    AnswerKind::Unavailable {
        after_ms,
        sent: false,
        reason: "connection refused".into(),
    }
}

#[test]
fn the_grant_comes_first_and_sequences_follow_in_order() {
    let mut world = direct();
    world.ingest(1, 10);
    let mut consumer = world.subscribe("a", 1, 0);
    world.ingest(1, 10);
    let pushes = consumer.pushes();
    assert_eq!(granted(&pushes[..1]), Some((Epoch(1), Sequence(0))));
    assert!(pushes[1..].iter().all(|push| matches!(
        push,
        DeliverPush::Deliveries {
            epoch: Epoch(1),
            ..
        }
    )));
    world.ingest(1, 10);
    assert_eq!(consumer.sequences(), [3]);
}

#[test]
fn no_more_is_sent_than_may_be_unacknowledged() {
    let mut world = direct();
    let mut consumer = world.subscribe("a", 1, 2);
    for _ in 0..5 {
        world.ingest(1, 10);
    }
    assert_eq!(consumer.sequences(), [1, 2]);
    answer(&mut world, Epoch(1), 1, AnswerKind::Ack);
    assert_eq!(consumer.sequences(), [3]);
    answer(&mut world, Epoch(1), 3, AnswerKind::Ack);
    assert_eq!(consumer.sequences(), [4, 5]);
}

#[test]
fn after_an_answer_that_is_no_ack_delivery_restarts_at_the_head_alone() {
    let mut world = direct();
    let mut consumer = world.subscribe("a", 1, 0);
    for _ in 0..3 {
        world.ingest(1, 10);
    }
    assert_eq!(consumer.sequences(), [1, 2, 3]);
    answer(&mut world, Epoch(1), 1, unavailable(2_000));
    let pushes = consumer.pushes();
    assert_eq!(granted(&pushes), Some((Epoch(2), Sequence(0))));
    assert_eq!(
        pushes.len(),
        1,
        "nothing goes out while the destination is suspended"
    );
    assert!(world.releaser.is_waiting());
    world.pass(1_999);
    assert_eq!(consumer.sequences(), [] as [u64; 0]);
    world.pass(1);
    assert_eq!(consumer.sequences(), [1], "the head probes");
    answer(&mut world, Epoch(2), 1, AnswerKind::Ack);
    assert_eq!(consumer.sequences(), [2, 3]);
    assert!(!world.releaser.is_waiting());
}

#[test]
fn a_second_consumer_waits_and_is_told_for_whom() {
    let mut world = direct();
    world.ingest(1, 10);
    let mut first = world.subscribe("a", 1, 0);
    let mut second = world.subscribe("a", 2, 0);
    assert_eq!(first.sequences(), [1]);
    assert_eq!(
        second.pushes(),
        [DeliverPush::Waiting {
            number: 1,
            holder: "consumer-1".into()
        }]
    );
    world
        .releaser
        .unsubscribe(&world.state, first.key, world.now);
    world.round();
    let pushes = second.pushes();
    assert_eq!(granted(&pushes), Some((Epoch(2), Sequence(0))));
    assert!(
        pushes
            .iter()
            .any(|push| matches!(push, DeliverPush::Deliveries { .. }))
    );
}

#[test]
fn a_consumer_whose_stream_broke_has_as_long_as_a_silent_one() {
    let mut world = direct();
    world.ingest(1, 10);
    let mut gone = world.subscribe("a", 1, 0);
    let mut second = world.subscribe("a", 2, 0);
    assert_eq!(gone.sequences(), [1]);
    world
        .releaser
        .leave(&world.state, gone.key.session, &[1], world.now);
    world.pass(5_500);
    assert_eq!(
        second.sequences(),
        [] as [u64; 0],
        "it may still be delivering"
    );
    world.pass(1_000);
    assert_eq!(second.sequences(), [1]);
}

#[test]
fn a_silent_consumer_loses_its_grant_though_its_stream_is_open() {
    let mut world = direct();
    let mut silent = world.subscribe("a", 1, 0);
    world.pass(6_500);
    let pushes = silent.pushes();
    assert!(
        matches!(
            pushes.last(),
            Some(DeliverPush::Ended {
                reason: Reason::Epoch,
                ..
            })
        ),
        "{pushes:?}"
    );
    let destination = world
        .state
        .interface(interface_id(1))
        .unwrap()
        .destination(DestinationNumber(0))
        .unwrap();
    assert_eq!(destination.holder, None);
}

#[test]
fn a_consumer_that_comes_back_is_granted_again_at_once_under_a_higher_epoch() {
    let mut world = direct();
    world.ingest(1, 10);
    world.ingest(1, 10);
    let mut consumer = world.subscribe("a", 1, 0);
    assert_eq!(consumer.sequences(), [1, 2]);
    answer(&mut world, Epoch(1), 1, AnswerKind::Ack);
    let mut back = world.subscribe("a", 1, 0);
    let replaced = consumer.pushes();
    assert!(
        matches!(
            replaced.last(),
            Some(DeliverPush::Ended {
                reason: Reason::Replaced,
                ..
            })
        ),
        "{replaced:?}"
    );
    let pushes = back.pushes();
    assert_eq!(granted(&pushes), Some((Epoch(2), Sequence(1))));
    world
        .releaser
        .leave(&world.state, consumer.key.session, &[1], world.now);
    world.ingest(1, 10);
    assert_eq!(
        back.sequences(),
        [3],
        "the old stream's end changes nothing"
    );
}

#[test]
fn a_new_leader_grants_the_holder_again_before_it_sends_anything() {
    let mut world = direct();
    world.ingest(1, 10);
    let mut before = world.subscribe("a", 1, 0);
    assert_eq!(before.sequences(), [1]);
    world.change_leader();
    let mut other = world.subscribe("a", 2, 0);
    assert!(matches!(other.pushes()[..], [DeliverPush::Waiting { .. }]));
    let mut back = world.subscribe("a", 1, 0);
    let pushes = back.pushes();
    assert_eq!(granted(&pushes), Some((Epoch(2), Sequence(0))));
    assert!(pushes.iter().all(|push| !matches!(
        push,
        DeliverPush::Deliveries {
            epoch: Epoch(1),
            ..
        }
    )));
}

#[test]
fn a_leader_without_its_quorums_word_sends_nothing() {
    let mut world = direct();
    let mut consumer = world.subscribe("a", 1, 0);
    world.has_quorum = false;
    world.ingest(1, 10);
    assert_eq!(consumer.sequences(), [] as [u64; 0]);
    assert!(
        world.releaser.next(world.now).0.is_some(),
        "it looks again soon"
    );
    world.has_quorum = true;
    world.round();
    assert_eq!(consumer.sequences(), [1]);
}

#[test]
fn sequences_meant_for_others_are_passed_over() {
    let named = |name| DestinationConfig::named(name);
    let config = InterfaceConfig {
        destinations: vec![named("default"), named("lab")],
        ..stages(&["parse"])
    };
    let mut world = World::new(&[config]);
    let mut worker = world.join(1, &["parse"], 5);
    let mut consumer = world.subscribe("a", 1, 0);
    for _ in 0..3 {
        world.ingest(1, 10);
    }
    let given = worker.given();
    for (n, assignment) in given.iter().enumerate() {
        let destinations = if n == 1 {
            vec![DestinationNumber(1)]
        } else {
            Vec::new()
        };
        let complete = Outcome::Complete {
            payload: None,
            headers: Vec::new(),
            destinations,
        };
        world.report(&worker, assignment, complete);
    }
    assert_eq!(consumer.sequences(), [1, 3]);
}

#[test]
fn a_failed_message_goes_out_as_a_skip_marker_that_names_its_dead_letter() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse"], 5);
    let mut consumer = world.subscribe("a", 1, 0);
    world.ingest(1, 10);
    let given = worker.given().remove(0);
    world.report(
        &worker,
        &given,
        Outcome::Reject {
            reason: "no MSH".into(),
        },
    );
    let pushes = consumer.pushes();
    let skip = pushes.iter().find_map(|push| match push {
        DeliverPush::Deliveries { deliveries, .. } => Some(deliveries[0].content),
        _ => None,
    });
    let reason = ordo_wire::v1::SkipReason::Rejected;
    assert_eq!(
        skip,
        Some(super::super::Content::Skip {
            reason,
            dead_letter: true
        })
    );
}

#[test]
fn what_does_not_exist_is_refused_by_name() {
    let mut world = direct();
    let mut lost = world.subscribe("nowhere", 1, 0);
    assert!(matches!(
        lost.pushes()[..],
        [DeliverPush::Ended {
            reason: Reason::UnknownInterface,
            ..
        }]
    ));
}

#[test]
fn a_heartbeat_keeps_a_grant() {
    let mut world = direct();
    let mut consumer = world.subscribe("a", 1, 0);
    // The releaser compares with what the stream notes, which is real time: so the test's clock goes back, not on.
    for _ in 0..3 {
        world.now.instant = Instant::now();
        consumer.heard.touch();
        world.pass(5_500);
    }
    world.ingest(1, 10);
    assert_eq!(consumer.sequences(), [1]);
}

/// What the releaser proposes does not get through for a moment.
fn fail_proposals(world: &mut World) {
    let proposals = world.releaser.take_proposals();
    assert!(!proposals.is_empty());
    for (_, tag) in proposals {
        let failed = Err(ProposeError::NotLeader { leader: None });
        world
            .releaser
            .proposed(&world.state, &tag, &failed, world.now);
    }
}

#[test]
fn a_consumer_that_gave_back_and_came_again_is_waited_for_when_its_stream_breaks() {
    let mut world = direct();
    world.ingest(1, 10);
    let first = world.subscribe("a", 1, 0);
    let mut second = world.subscribe("a", 2, 0);
    world
        .releaser
        .unsubscribe(&world.state, first.key, world.now);
    fail_proposals(&mut world);
    let mut again = world.subscribe("a", 1, 0);
    assert_eq!(again.sequences(), [1]);
    world
        .releaser
        .leave(&world.state, again.key.session, &[1], world.now);
    world.pass(5_500);
    assert_eq!(
        second.sequences(),
        [] as [u64; 0],
        "it may still be delivering"
    );
    world.pass(1_000);
    assert_eq!(second.sequences(), [1]);
}

#[test]
fn one_that_leaves_the_line_does_not_undo_that_the_holder_gave_back() {
    let mut world = direct();
    world.ingest(1, 10);
    let first = world.subscribe("a", 1, 0);
    let second = world.subscribe("a", 2, 0);
    let mut third = world.subscribe("a", 3, 0);
    world
        .releaser
        .unsubscribe(&world.state, first.key, world.now);
    fail_proposals(&mut world);
    world
        .releaser
        .unsubscribe(&world.state, second.key, world.now);
    world.round();
    assert_eq!(third.sequences(), [1]);
}

#[test]
fn a_receiver_that_is_down_without_a_word_is_probed_too() {
    let mut world = direct();
    let mut consumer = world.subscribe("a", 1, 0);
    for _ in 0..3 {
        world.ingest(1, 10);
    }
    assert_eq!(consumer.sequences(), [1, 2, 3]);
    let silent = AnswerKind::Unavailable {
        after_ms: 1_000,
        sent: false,
        reason: String::new(),
    };
    answer(&mut world, Epoch(1), 1, silent);
    world.pass(1_000);
    assert_eq!(consumer.sequences(), [1], "the head probes");
}

#[test]
fn a_suspension_runs_on_while_its_consumer_is_away() {
    let mut world = direct();
    world.ingest(1, 10);
    let consumer = world.subscribe("a", 1, 0);
    answer(&mut world, Epoch(1), 1, unavailable(5_000));
    world
        .releaser
        .leave(&world.state, consumer.key.session, &[1], world.now);
    assert!(world.releaser.is_waiting());
    world.pass(5_000);
    assert!(!world.releaser.is_waiting());
    let mut back = world.subscribe("a", 1, 0);
    assert_eq!(back.sequences(), [1]);
}
