use super::*;
use crate::leader::loops::{RECHECK, due};

#[test]
fn a_worker_gets_no_more_than_it_has_credits_for_and_more_when_it_reports() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse"], 2);
    for _ in 0..4 {
        world.ingest(1, 10);
    }
    let given = worker.given();
    assert_eq!(
        given.iter().map(|a| a.place.sequence.0).collect::<Vec<_>>(),
        [1, 2]
    );
    world.complete(&worker, &given[1]);
    assert_eq!(worker.sequences(), [3]);
}

#[test]
fn the_head_of_a_lane_goes_first_even_when_it_became_ready_last() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut first = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    let head = first.given().remove(0);
    world.ingest(1, 10);
    world.ingest(1, 10);
    world.report(
        &first,
        &head,
        Outcome::Retry {
            reason: "busy".into(),
            jitter: 0,
        },
    );
    let second = first.given().remove(0);
    assert_eq!(second.place.sequence, Sequence(2));
    world.pass(1_000);
    world.complete(&first, &second);
    assert_eq!(
        first.sequences(),
        [1],
        "the head before 3, which was ready long before it"
    );
}

#[test]
fn a_loud_interface_does_not_starve_a_quiet_one() {
    let mut world = World::new(&[stages(&["parse"]), stages(&["parse"])]);
    for _ in 0..50 {
        world.ingest(1, 60_000);
    }
    world.ingest(2, 100);
    let mut worker = world.join(1, &["parse"], 4);
    let quiet = |given: &[Assignment]| given.iter().any(|a| a.place.interface == interface_id(2));
    assert!(
        quiet(&worker.given()),
        "its message is among the first four of 51"
    );
}

#[test]
fn work_is_spread_over_the_workers_of_a_stage() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut workers = [
        world.join(1, &["parse"], 100),
        world.join(2, &["parse"], 100),
    ];
    for _ in 0..40 {
        world.ingest(1, 10);
    }
    for worker in &mut workers {
        assert_eq!(worker.given().len(), 20);
    }
}

#[test]
fn a_prefix_and_the_stages_decide_who_gets_what() {
    let mut world = World::new(&[stages(&["parse"]), stages(&["parse"])]);
    let mut only_b = world.join_with(1, &["parse"], 10, "b", &[]);
    let mut other_stage = world.join(2, &["route"], 10);
    world.ingest(1, 10);
    world.ingest(2, 10);
    let given = only_b.given();
    assert_eq!(given.len(), 1);
    assert_eq!(given[0].place.interface, interface_id(2));
    assert_eq!(other_stage.given(), []);
}

#[test]
fn hello_is_answered_with_the_stages_nobody_has() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse", "prase"], 1);
    match worker.pushes.try_recv().unwrap() {
        WorkPush::Welcome { unknown_stages } => assert_eq!(unknown_stages, ["prase"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn stages_follow_each_other() {
    let mut world = World::new(&[stages(&["parse", "route"])]);
    let (mut parser, mut router) = (world.join(1, &["parse"], 1), world.join(2, &["route"], 1));
    world.ingest(1, 10);
    let parse = parser.given().remove(0);
    assert_eq!(router.given(), []);
    world.complete(&parser, &parse);
    let route = router.given().remove(0);
    assert_eq!((&*route.stage, route.attempts), ("route", 0));
    world.complete(&router, &route);
    assert_eq!(
        world.state.interface(interface_id(1)).unwrap().watermark,
        Sequence(1)
    );
}

#[test]
fn a_lease_that_passes_is_a_loss_and_the_message_is_then_assigned_alone() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut silent = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    assert_eq!(silent.sequences(), [1]);
    world.leave(&silent);
    let mut busy = world.join(2, &["parse"], 5);
    for _ in 0..3 {
        world.ingest(1, 10);
    }
    let held = busy.given();
    assert_eq!(held.len(), 3);
    world.pass(1_000);
    let slot = |world: &World| {
        world
            .state
            .interface(interface_id(1))
            .unwrap()
            .slot(Sequence(1))
            .unwrap()
            .clone()
    };
    assert_eq!(
        slot(&world).losses,
        1,
        "the grace of a worker that left is over"
    );
    assert_eq!(busy.given(), [], "its hands are not empty");
    world.ingest(1, 10);
    assert_eq!(
        busy.given(),
        [],
        "it gets nothing else either, or they never would be"
    );
    for held in &held {
        world.complete(&busy, held);
    }
    let alone = busy.given();
    assert_eq!(
        alone.iter().map(|a| a.place.sequence.0).collect::<Vec<_>>(),
        [1]
    );
    world.complete(&busy, &alone[0]);
    assert_eq!(busy.sequences(), [5]);
}

#[test]
fn a_worker_that_does_not_report_in_time_loses_its_lease() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut slow = world.join(1, &["parse"], 10);
    world.ingest(1, 10);
    let given = slow.given().remove(0);
    world.pass(20_000);
    world.extend(&slow, &given);
    world.pass(20_000);
    assert_eq!(slow.given(), [], "extended");
    world.pass(10_000);
    assert_eq!(slow.given(), [], "it may be frozen");
    world.speak(&slow);
    let again = slow.given().remove(0);
    assert!(again.turn > given.turn);
    let slot = world
        .state
        .interface(interface_id(1))
        .unwrap()
        .slot(Sequence(1))
        .unwrap();
    assert_eq!((slot.losses, slot.attempts), (1, 0));
}

#[test]
fn a_message_that_was_lost_goes_to_another_worker_wherever_there_is_one() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut frozen = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    assert_eq!(frozen.sequences(), [1]);
    let mut busy = world.join(2, &["parse"], 1);
    world.ingest(1, 10);
    let held = busy.given().remove(0);
    world.pass(20_000);
    world.extend(&busy, &held);
    world.pass(10_000);
    assert_eq!(world.losses(1, Sequence(1)), 1);
    assert_eq!(frozen.given(), [], "it has said nothing");
    world.ingest(1, 10);
    assert_eq!(frozen.given(), [], "nor is it given anything else");
    world.speak(&frozen);
    assert_eq!(
        frozen.sequences(),
        [3],
        "it is well, and another one has to try the first"
    );
    world.complete(&busy, &held);
    let again = busy.given().remove(0);
    assert_eq!(again.place.sequence, Sequence(1));
    world.complete(&busy, &again);
    assert_eq!(world.losses(1, Sequence(3)), 0);
}

#[test]
fn a_worker_alone_is_given_what_it_lost_once_it_is_heard_of() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    for losses in 1..=2 {
        assert_eq!(worker.sequences(), [1]);
        world.pass(300_000);
        assert_eq!(worker.given(), []);
        assert_eq!(
            world.losses(1, Sequence(1)),
            losses,
            "one silence is one loss"
        );
        world.speak(&worker);
    }
    assert_eq!(worker.sequences(), [1]);
    world.leave(&worker);
    world.pass(1_000);
    let interface = world.state.interface(interface_id(1)).unwrap();
    assert_eq!(interface.dead_letters.len(), 1, "the third was the last");
}

#[test]
fn a_worker_that_extends_its_lease_for_ever_has_it_for_as_long_as_the_stage_allows() {
    let mut config = stages(&["parse"]);
    config.stages[0].work_ms_max = 70_000;
    let mut world = World::new(&[config]);
    let mut hung = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    let given = hung.given().remove(0);
    let mut hung = {
        world.pass(20_000);
        world.extend(&hung, &given);
        world.pass(20_000);
        // A stream that breaks begins nothing anew.
        world.leave(&hung);
        world.join_with(1, &["parse"], 1, "", std::slice::from_ref(&given))
    };
    world.extend(&hung, &given);
    let place = given.place;
    assert_eq!(world.dispatcher.held[&place].extensions, 2);
    world.pass(20_000);
    world.extend(&hung, &given);
    world.pass(9_999);
    assert_eq!(world.losses(1, Sequence(1)), 0);
    let mut other = world.join(2, &["parse"], 1);
    world.pass(1);
    assert_eq!(world.losses(1, Sequence(1)), 1);
    assert_eq!(other.sequences(), [1]);
    world.extend(&hung, &given);
    assert_eq!(hung.given(), []);
    assert_eq!(world.losses(1, Sequence(1)), 1);
}

#[test]
fn a_worker_that_comes_back_in_time_keeps_what_it_names() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse"], 2);
    world.ingest(1, 10);
    world.ingest(1, 10);
    let given = worker.given();
    world.leave(&worker);
    world.pass(900);
    let mut back = world.join_with(worker.id, &["parse"], 2, "", &given[1..]);
    assert_eq!(back.sequences(), [1], "what it does not name it never had");
    world.pass(5_000);
    world.complete(&back, &given[1]);
    let interface = world.state.interface(interface_id(1)).unwrap();
    assert_eq!(
        interface.slot(Sequence(1)).unwrap().losses,
        0,
        "nothing was lost"
    );
}

#[test]
fn a_newer_stream_of_a_worker_takes_the_place_of_the_older_one() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut old = world.join(1, &["parse"], 2);
    world.ingest(1, 10);
    let given = old.given();
    let mut new = world.join_with(1, &["parse"], 2, "", &given);
    assert!(matches!(old.pushes.try_recv(), Ok(WorkPush::Replaced)));
    assert_eq!(new.given(), []);
    world.leave(&old);
    world.complete(&new, &given[0]);
    assert_eq!(world.dispatcher.held.len(), 0);
}

#[test]
fn a_drained_worker_loses_nothing() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut leaving = world.join(1, &["parse"], 2);
    world.ingest(1, 10);
    assert_eq!(leaving.sequences(), [1]);
    world.dispatcher.drain(leaving.session);
    world.ingest(1, 10);
    assert_eq!(leaving.sequences(), [] as [u64; 0]);
    world.leave(&leaving);
    let mut other = world.join(2, &["parse"], 2);
    assert_eq!(other.sequences(), [1, 2]);
    assert_eq!(
        world
            .state
            .interface(interface_id(1))
            .unwrap()
            .slot(Sequence(1))
            .unwrap()
            .losses,
        0
    );
}

#[test]
fn a_message_that_keeps_killing_workers_ends_as_a_dead_letter() {
    let mut world = World::new(&[stages(&["parse"])]);
    world.ingest(1, 10);
    for id in 0..3 {
        let mut victim = world.join(id, &["parse"], 1);
        assert_eq!(victim.sequences(), [1]);
        world.leave(&victim);
        world.pass(1_000);
    }
    let interface = world.state.interface(interface_id(1)).unwrap();
    assert_eq!(
        (interface.dead_letters.len(), interface.watermark),
        (1, Sequence(1))
    );
    assert_eq!(world.dispatcher.held.len(), 0);
}

#[test]
fn a_paused_interface_gets_no_work_done_until_it_goes_on() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut config = stages(&["parse"]);
    world.ingest(1, 10);
    config.paused = true;
    world.update(1, 1, &config);
    let mut worker = world.join(1, &["parse"], 2);
    assert_eq!(worker.given(), []);
    config.paused = false;
    world.update(1, 2, &config);
    assert_eq!(worker.sequences(), [1]);
}

#[test]
fn a_new_leader_waits_a_moment_for_workers_to_name_what_they_hold() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut holder = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    world.ingest(1, 10);
    let given = holder.given();
    world.change_leader();
    let mut other = world.join(2, &["parse"], 5);
    assert_eq!(other.given(), [], "the holder may be on its way");
    let mut holder = world.join_with(1, &["parse"], 1, "", &given);
    world.pass(200);
    assert_eq!(other.sequences(), [2]);
    assert_eq!(holder.given(), []);
    world.complete(&holder, &given[0]);
    assert_eq!(
        world.state.interface(interface_id(1)).unwrap().watermark,
        Sequence(1)
    );
}

#[test]
fn nothing_is_given_out_while_a_message_backs_off() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse"], 2);
    world.ingest(1, 10);
    let given = worker.given().remove(0);
    world.report(
        &worker,
        &given,
        Outcome::Retry {
            reason: "busy".into(),
            jitter: 0,
        },
    );
    assert!(world.dispatcher.is_waiting());
    world.pass(999);
    assert_eq!(worker.given(), []);
    world.pass(1);
    assert_eq!(worker.given()[0].attempts, 1);
    assert!(!world.dispatcher.is_waiting());
}

#[test]
fn a_message_that_became_ready_twice_is_given_out_once() {
    let mut world = World::new(&[stages(&["parse"])]);
    world.ingest(1, 10);
    world.ingest(1, 10);
    let mut config = stages(&["parse"]);
    for (config_version, paused) in [(1, true), (2, false)] {
        config.paused = paused;
        world.update(1, config_version, &config);
    }
    let mut worker = world.join(1, &["parse"], 4);
    let given = worker.given();
    let sequences: Vec<u64> = given.iter().map(|a| a.place.sequence.0).collect();
    assert_eq!(sequences, [1, 2]);
    for assignment in &given {
        world.complete(&worker, assignment);
    }
    for _ in 0..5 {
        world.ingest(1, 10);
    }
    assert_eq!(worker.sequences(), [3, 4, 5, 6], "all credits are back");
}

#[test]
fn a_worker_is_not_kept_for_a_message_that_went_to_another() {
    let mut world = World::new(&[stages(&["parse"]), stages(&["parse"])]);
    world.lose(2, "b", 1);
    world.ingest(1, 10);
    let mut kept = world.join_with(1, &["parse"], 1, "a", &[]);
    let held = kept.given().remove(0);
    world.lose(1, "a", 1);
    assert_eq!(world.losses(1, Sequence(2)), 1);
    let mut other = world.join_with(2, &["parse"], 1, "a", &[]);
    let alone = other.given().remove(0);
    assert_eq!(alone.place.sequence, Sequence(2));
    world.complete(&other, &alone);
    world.leave(&other);
    world.complete(&kept, &held);
    world.ingest(1, 10);
    assert_eq!(
        kept.sequences(),
        [3],
        "the other interface's message, for which there is no worker, is no reason to wait"
    );
}

#[test]
fn messages_that_nobody_can_take_alone_hide_none_that_somebody_can() {
    let mut world = World::new(&[stages(&["parse"]), stages(&["parse"])]);
    world.lose(1, "a", 70);
    world.lose(2, "b", 1);
    let mut worker = world.join_with(1, &["parse"], 1, "b", &[]);
    assert_eq!(worker.sequences(), [1]);
}

#[test]
fn many_messages_are_each_alone_in_the_end() {
    let mut world = World::new(&[stages(&["parse"])]);
    world.lose(1, "a", 3);
    let mut worker = world.join(1, &["parse"], 10);
    for sequence in 1..=3 {
        let given = worker.given();
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].place.sequence, Sequence(sequence));
        world.complete(&worker, &given[0]);
    }
}

#[test]
fn a_message_to_be_alone_and_what_else_is_there_take_turns_at_a_stages_only_worker() {
    let mut world = World::new(&[stages(&["parse"])]);
    world.lose(1, "a", 2);
    for _ in 0..4 {
        world.ingest(1, 10);
    }
    let mut worker = world.join(1, &["parse"], 2);
    for expected in [&[1][..], &[3, 4], &[2], &[5, 6]] {
        let given = worker.given();
        let sequences: Vec<u64> = given.iter().map(|given| given.place.sequence.0).collect();
        assert_eq!(sequences, expected);
        for given in &given {
            world.complete(&worker, given);
        }
    }
}

#[test]
fn messages_to_be_alone_keep_half_of_the_workers_while_there_is_work_for_the_others() {
    let mut world = World::new(&[stages(&["parse"])]);
    world.lose(1, "a", 4);
    for _ in 0..20 {
        world.ingest(1, 10);
    }
    let mut workers: Vec<TestWorker> = (1..=4).map(|id| world.join(id, &["parse"], 1)).collect();
    let (mut done, mut alone) = (Vec::new(), Vec::new());
    // Those with a message that is alone never report.
    loop {
        let mut idle = true;
        for worker in &mut workers {
            for given in worker.given() {
                idle = false;
                if given.place.sequence <= Sequence(4) {
                    alone.push(given.place.sequence.0);
                } else {
                    world.complete(worker, &given);
                    done.push(given.place.sequence.0);
                }
            }
        }
        if idle {
            break;
        }
        assert!(done.len() == 20 || alone.len() <= 2, "{alone:?}, {done:?}");
    }
    assert_eq!(done, (5..=24).collect::<Vec<_>>());
    assert_eq!(
        alone,
        [1, 2, 3, 4],
        "with nothing else to do, all take them"
    );
}

/// A world with endless work, a worker that is busy for ever with sequence 1, one that holds as much as it may, and
/// a message that has to be alone.
fn busy(
    credits: u32,
) -> (
    World,
    TestWorker,
    Assignment,
    TestWorker,
    Vec<Assignment>,
    Sequence,
) {
    let mut world = World::new(&[stages(&["parse"])]);
    world.ingest(1, 10);
    let mut stuck = world.join(1, &["parse"], 1);
    let job = stuck.given().remove(0);
    for _ in 0..credits {
        world.ingest(1, 10);
    }
    let mut other = world.join(2, &["parse"], credits);
    let held = other.given();
    assert_eq!(held.len(), credits as usize);
    world.lose(1, "a", 1);
    let alone = Sequence(u64::from(credits) + 2);
    assert_eq!(world.losses(1, alone), 1);
    for _ in 0..200 {
        world.ingest(1, 10);
    }
    (world, stuck, job, other, held, alone)
}

#[test]
fn empty_hands_take_a_message_that_has_to_be_alone_before_what_else_is_there() {
    let (mut world, _stuck, _, mut other, held, alone) = busy(1);
    world.complete(&other, &held[0]);
    assert_eq!(other.sequences(), [alone.0]);
}

#[test]
fn a_message_to_be_alone_does_not_wait_for_a_worker_that_is_busy_for_ever() {
    let (mut world, stuck, job, mut other, mut held, alone) = busy(3);
    let mut done = 0;
    while held.iter().all(|held| held.place.sequence != alone) {
        world.complete(&other, &held.remove(0));
        done += 1;
        assert!(done < 100, "it is not given out");
        held.extend(other.given());
        world.extend(&stuck, &job);
        world.pass(1_000);
    }
    assert_eq!(held.len(), 1);
}

#[test]
fn workers_of_other_interfaces_do_not_count_as_ones_that_are_alone() {
    let mut world = World::new(&[stages(&["parse"]), stages(&["parse"])]);
    world.lose(1, "a", 1);
    let mut first = world.join_with(1, &["parse"], 1, "a", &[]);
    assert_eq!(first.sequences(), [1]);
    world.ingest(2, 10);
    let mut second = world.join_with(2, &["parse"], 1, "b", &[]);
    let held = second.given().remove(0);
    world.lose(2, "b", 1);
    world.ingest(2, 10);
    world.complete(&second, &held);
    assert_eq!(second.sequences(), [2], "not 3, though the first is alone");
}

#[test]
fn a_leaders_pause_ends_no_lease() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    assert_eq!(worker.sequences(), [1]);
    world.pause(Duration::from_secs(3_600));
    assert_eq!(world.losses(1, Sequence(1)), 0);
    world.pass(28_000);
    assert_eq!(world.losses(1, Sequence(1)), 0);
    world.pass(1_000);
    assert_eq!(world.losses(1, Sequence(1)), 1, "30 s of cluster time");
}

#[test]
fn a_back_off_that_is_over_does_not_wake_a_leader_without_its_quorum() {
    let mut world = World::new(&[stages(&["parse"])]);
    let mut worker = world.join(1, &["parse"], 1);
    world.ingest(1, 10);
    let given = worker.given().remove(0);
    world.report(
        &worker,
        &given,
        Outcome::Retry {
            reason: "busy".into(),
            jitter: 0,
        },
    );
    world.has_quorum = false;
    world.pass(1_000);
    let due = due(&world.dispatcher, &world.releaser, world.now, false);
    assert_eq!(due, Some(world.now.instant + RECHECK));
}

#[test]
fn stages_that_only_a_worker_named_go_with_it() {
    let mut world = World::new(&[stages(&["parse"]), stages(&["route"])]);
    world.ingest(1, 10);
    for n in 0..10 {
        let own = format!("own-{n}");
        let mut worker = world.join(n, &[&own, "parse", "later"], 1);
        match worker.pushes.try_recv().unwrap() {
            WorkPush::Welcome { unknown_stages } => assert_eq!(unknown_stages, [&own, "later"]),
            other => panic!("{other:?}"),
        }
        let given = worker.given();
        world.leave(&worker);
        let mut back = world.join_with(n, &[&own, "parse"], 1, "", &given);
        assert_eq!(back.given(), []);
        world.dispatcher.drain(back.session);
        world.leave(&back);
    }
    assert!(
        world.dispatcher.queues.len() <= 3,
        "{} queues",
        world.dispatcher.queues.len()
    );
    let named: Vec<&String> = world.dispatcher.stages.keys().collect();
    assert_eq!(named, ["parse"]);
    world.ingest(2, 10);
    let mut router = world.join(21, &["route"], 1);
    let mut parser = world.join(22, &["parse"], 1);
    assert_eq!(&*router.given()[0].stage, "route");
    assert_eq!(&*parser.given()[0].stage, "parse");
}
