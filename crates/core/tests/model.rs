//! Random command sequences against the naive model.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod common;

use common::bench::Replica;
use common::driver::{Change, DERIVED, Driver, How, IDS, Off, Op, Place, Step, What};
use proptest::prelude::*;

fn off() -> impl Strategy<Value = i8> {
    prop_oneof![6 => Just(0i8), 1 => -2i8..=2]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        8 => (any::<bool>(), any::<bool>(), prop_oneof![3 => Just(0u8), 1 => 1u8..16])
            .prop_map(|(payload, header, named)| What::Complete { payload, header, named }),
        2 => any::<u16>().prop_map(What::Retry),
        2 => Just(What::Reject),
        1 => Just(What::Filter),
        2 => Just(What::Lose),
    ]
}

fn report() -> impl Strategy<Value = Op> {
    let off = prop_oneof![
        12 => Just(Off::Right),
        2 => (1u8..3).prop_map(Off::Turn),
        1 => Just(Off::Future),
        1 => (0u8..4).prop_map(Off::Stage),
        1 => (0u8..4).prop_map(Off::Sequence),
    ];
    (any::<u16>(), off, what()).prop_map(|(which, off, what)| Op::Report { which, off, what })
}

fn answer() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        6 => Just(How::Ack),
        2 => (0u16..3_000).prop_map(How::Retry),
        2 => Just(How::Reject),
        1 => (0u16..3_000).prop_map(How::Unavailable),
    ];
    (
        destination(),
        prop::bool::weighted(0.1),
        prop_oneof![4 => Just(0i8), 2 => 1i8..4, 1 => -2i8..0],
        how,
    )
        .prop_map(|(destination, old, off, how)| Op::Answer {
            destination,
            old,
            off,
            how,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let numbered = prop::option::weighted(0.3, (any::<bool>(), off()));
    let position = prop::option::weighted(0.3, prop_oneof![3 => 0i8..3, 1 => -1i8..6]);
    let change = prop_oneof![
        3 => (1u8..4, 1u16..24).prop_map(|(count, bytes)| Change::Caps(count, bytes)),
        1 => Just(Change::AddDestination),
        1 => Just(Change::DropDestination),
        1 => (0u8..4).prop_map(Change::Stages),
        1 => Just(Change::Same),
    ];
    prop_oneof![
        24 => (
            prop_oneof![5 => 0..DERIVED, 1 => DERIVED..IDS],
            prop::bool::weighted(0.1),
            any::<bool>(),
            numbered,
            session(),
        )
            .prop_map(|(id, other_payload, headers, numbered, session)| {
                Op::Ingest { id, other_payload, headers, numbered, session }
            }
        ),
        1 => (0u8..12, any::<bool>(), off())
            .prop_map(|(id, producer, off)| Op::Refuse { id, producer, off }),
        40 => report(),
        5 => (destination(), position, prop_oneof![9 => Just(1u32), 1 => Just(2)]).prop_map(
            |(destination, position, incarnation)| Op::Grant { destination, position, incarnation }
        ),
        1 => (destination(), any::<bool>())
            .prop_map(|(destination, old)| Op::GrantEnd { destination, old }),
        24 => answer(),
        2 => (destination(), any::<bool>(), prop::bool::weighted(0.2), prop_oneof![4 => Just(0i8), 1 => -1i8..2])
            .prop_map(|(destination, skip, old, off)| Op::Decide { destination, skip, old, off }),
        2 => (destination(), prop::bool::weighted(0.2), -4i8..3)
            .prop_map(|(destination, old, off)| Op::Note { destination, old, off }),
        3 => (any::<u16>(), prop::bool::weighted(0.1)).prop_map(|(which, off)| Op::Discard { which, off }),
        6 => (any::<u16>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(which, in_place_only, off)| Op::Redrive { which, in_place_only, off }),
        2 => any::<u16>().prop_map(|through| Op::Forget { through }),
        2 => (prop::bool::weighted(0.1), change).prop_map(|(old, change)| Op::Update { old, change }),
        1 => (0u8..3).prop_map(|name| Op::Create { name }),
    ]
}

/// A few sessions that are heard of often, and more than are told apart; most are some answers behind.
fn session() -> impl Strategy<Value = Option<(u8, u8)>> {
    let session = prop_oneof![4 => 0u8..2, 1 => 0u8..40];
    prop::option::weighted(0.7, (session, prop_oneof![1 => 0u8..4, 2 => Just(200u8)]))
}

/// How many stages and destinations.
fn shape() -> impl Strategy<Value = (u8, u8)> {
    let stages = prop_oneof![2 => Just(0u8), 5 => Just(1), 2 => Just(2), 1 => Just(3)];
    (
        stages,
        prop_oneof![3 => Just(1u8), 4 => Just(2), 1 => Just(3)],
    )
}

/// Mostly the first one, so that things happen to the same messages.
fn lane() -> impl Strategy<Value = u8> {
    prop_oneof![10 => Just(0u8), 1 => Just(1), 1 => Just(2)]
}

/// Mostly one that exists.
fn destination() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(0u8), 4 => Just(1), 1 => Just(2), 1 => Just(3)]
}

fn step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![
        20 => Just(Place::Next),
        1 => Just(Place::Gap),
        1 => Just(Place::NewRun),
        1 => Just(Place::NewRunGap),
        1 => Just(Place::NewTerm),
        1 => Just(Place::Old),
    ];
    let passed = prop_oneof![
        12 => 0u64..2_000,
        1 => Just(12 * 3_600_000),
        1 => Just(25 * 3_600_000),
    ];
    let replica = prop_oneof![
        6 => Just(Replica::Gathers),
        2 => Just(Replica::Writes),
        2 => Just(Replica::Restarts),
    ];
    let ops = prop_oneof![
        5 => prop::collection::vec((lane(), op()), 1..2),
        1 => prop::collection::vec((lane(), op()), 0..6),
    ];
    (place, passed, prop::bool::weighted(0.05), replica, ops).prop_map(
        |(place, passed_ms, behind, replica, ops)| Step {
            place,
            passed_ms,
            behind,
            replica,
            ops,
        },
    )
}

proptest! {
    #[test]
    fn the_state_machine_does_what_the_naive_model_does(
        shapes in prop::array::uniform2(shape()),
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut driver = Driver::new(shapes);
        for step in &steps {
            driver.step(step);
        }
        driver.finish();
    }
}
