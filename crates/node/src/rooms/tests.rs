#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::{Room, Standing, Voters, judge};
use std::collections::BTreeSet;

fn voters(own: u64, leads: bool, sets: &[&[u64]]) -> Voters {
    Voters {
        own,
        leads,
        sets: sets
            .iter()
            .map(|set| set.iter().copied().collect::<BTreeSet<u64>>())
            .collect(),
    }
}

fn full() -> Standing {
    Standing::Lacks("its disk has 1 bytes left".to_owned())
}

fn refusal(voters: &Voters, of: [Standing; 3]) -> Option<String> {
    judge(voters, |node_id| of[node_id as usize - 1].clone()).refusal
}

#[test]
fn ingest_is_refused_while_a_quorums_room_is_gone() {
    use Standing::{Away, Room};
    let three = voters(1, true, &[&[1, 2, 3]]);
    assert_eq!(refusal(&three, [Room, Room, Room]), None);
    assert_eq!(refusal(&three, [Room, full(), Room]), None);
    let why = refusal(&three, [Room, full(), full()]).unwrap();
    assert!(why.contains("node 2") && why.contains("node 3"), "{why}");
    // With one node away the other follower's room is the quorum's.
    let why = refusal(&three, [Room, full(), Away]).unwrap();
    assert!(why.contains("node 2") && why.contains("node 3"), "{why}");
    // Who is away lacks nothing that is known.
    assert_eq!(refusal(&three, [Room, Room, Away]), None);
    assert_eq!(refusal(&three, [Room, Away, Away]), None);
    // The leader's own room is needed in any case; a follower's lack is its own.
    let why = refusal(&three, [full(), Room, Room]).unwrap();
    assert!(why.contains("node 1, which leads"), "{why}");
    assert_eq!(
        refusal(&voters(2, false, &[&[1, 2, 3]]), [full(), Room, Room]),
        None
    );
}

#[test]
fn while_the_voters_change_both_quorums_need_room() {
    use Standing::Room;
    let joint = voters(1, true, &[&[1, 2, 3], &[1, 2]]);
    assert_eq!(refusal(&joint, [Room, Room, full()]), None);
    assert!(refusal(&joint, [Room, full(), Room]).is_some());
}

#[test]
fn what_lacks_is_said_with_value_and_limit() {
    let room = Room {
        memory: Some(100),
        memory_max: 100,
        disk_free: Some(80),
        disk_free_min: 80,
    };
    assert_eq!(room.lacks(), None);
    assert!(!room.is_ample());
    let full = Room {
        disk_free: Some(79),
        ..room
    };
    let why = full.lacks().unwrap();
    assert!(
        why.contains("79") && why.contains("limits.disk_free_bytes is 80"),
        "{why}"
    );
    let full = Room {
        memory: Some(101),
        ..room
    };
    let why = full.lacks().unwrap();
    assert!(
        why.contains("101") && why.contains("limits.memory_bytes is 100"),
        "{why}"
    );
    let unknown = Room {
        memory: None,
        disk_free: None,
        ..room
    };
    assert!(unknown.lacks().is_none() && unknown.is_ample());
    assert_eq!(Room::from_proto(&full.to_proto()), full);
}
