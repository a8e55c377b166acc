//! Sequences of commands: the state machine, its store, a second replica that restarts, and the naive model agree
//! after every entry, and every invariant holds.
#![no_main]

#[path = "../../../crates/core/tests/common/mod.rs"]
mod common;

use common::bench::Replica;
use common::driver::{Change, Driver, How, IDS, Off, Op, Place, Step, What};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// The bench compares everything there is after each step: longer sequences cost more than they find.
const STEPS_MAX: usize = 64;

fuzz_target!(|data: &[u8]| {
    let mut choices = Unstructured::new(data);
    // Reading choices fails only where a range is empty, and none is.
    run(&mut choices).expect("every choice is from a range that is not empty");
});

fn run(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut driver = Driver::new([shape(choices)?, shape(choices)?]);
    for _ in 0..STEPS_MAX {
        if choices.is_empty() {
            break;
        }
        driver.step(&step(choices)?);
    }
    driver.finish();
    Ok(())
}

/// A number from 0 to `max`, out of one byte.
fn up_to(choices: &mut Unstructured<'_>, max: u8) -> Result<u8> {
    choices.int_in_range(0..=max)
}

/// Mostly 0, the rest from `from` to `to`.
fn mostly_zero(choices: &mut Unstructured<'_>, from: i8, to: i8) -> Result<i8> {
    let span = to.abs_diff(from);
    let chosen = up_to(choices, 4 * span)?;
    Ok(match chosen <= span {
        true => from.saturating_add_unsigned(chosen),
        false => 0,
    })
}

/// Yes, once in `n` times.
fn rarely(choices: &mut Unstructured<'_>, n: u8) -> Result<bool> {
    choices.ratio(1, n)
}

/// How many stages and destinations.
fn shape(choices: &mut Unstructured<'_>) -> Result<(u8, u8)> {
    Ok((up_to(choices, 3)?, 1 + up_to(choices, 2)?))
}

fn step(choices: &mut Unstructured<'_>) -> Result<Step> {
    let place = match up_to(choices, 15)? {
        0 => Place::Gap,
        1 => Place::NewRun,
        2 => Place::NewRunGap,
        3 => Place::NewTerm,
        4 => Place::Old,
        _ => Place::Next,
    };
    let passed_ms = match up_to(choices, 15)? {
        0 => 25 * 3_600_000,
        1 => 12 * 3_600_000,
        2 => 0,
        n => u64::from(n) * 150,
    };
    let replica = match up_to(choices, 4)? {
        0 => Replica::Restarts,
        1 => Replica::Writes,
        _ => Replica::Gathers,
    };
    let count = match up_to(choices, 7)? {
        n @ 0..=2 => 2 * n,
        _ => 1,
    };
    let op = |choices: &mut Unstructured<'_>| Ok((lane(choices)?, op(choices)?));
    Ok(Step {
        place,
        passed_ms,
        behind: rarely(choices, 20)?,
        replica,
        ops: (0..count).map(|_| op(choices)).collect::<Result<_>>()?,
    })
}

/// Mostly the first one, so that things happen to the same messages.
fn lane(choices: &mut Unstructured<'_>) -> Result<u8> {
    Ok(up_to(choices, 11)?.saturating_sub(9))
}

fn destination(choices: &mut Unstructured<'_>) -> Result<u8> {
    Ok(match up_to(choices, 11)? {
        0 => 3,
        1 => 2,
        n => n % 2,
    })
}

fn op(choices: &mut Unstructured<'_>) -> Result<Op> {
    Ok(match up_to(choices, 33)? {
        0..=7 => Op::Ingest {
            id: up_to(choices, IDS - 1)?,
            other_payload: rarely(choices, 10)?,
            headers: choices.arbitrary()?,
            numbered: match rarely(choices, 3)? {
                true => Some((choices.arbitrary()?, mostly_zero(choices, -2, 2)?)),
                false => None,
            },
            session: match rarely(choices, 2)? {
                true => Some((up_to(choices, 19)?, up_to(choices, 15)?)),
                false => None,
            },
        },
        8..=17 => Op::Report {
            which: up_to(choices, 3)?.into(),
            off: off(choices)?,
            what: what(choices)?,
        },
        18..=22 => Op::Answer {
            destination: destination(choices)?,
            old: rarely(choices, 10)?,
            off: mostly_zero(choices, -2, 3)?,
            how: how(choices)?,
        },
        23 | 24 => Op::Redrive {
            which: up_to(choices, 7)?.into(),
            in_place_only: rarely(choices, 5)?,
            off: rarely(choices, 10)?,
        },
        25 => Op::Discard {
            which: up_to(choices, 7)?.into(),
            off: rarely(choices, 10)?,
        },
        26 => Op::Grant {
            destination: destination(choices)?,
            position: match rarely(choices, 3)? {
                true => Some(mostly_zero(choices, -1, 5)?),
                false => None,
            },
            incarnation: 1 + u32::from(rarely(choices, 10)?),
        },
        27 => Op::GrantEnd {
            destination: destination(choices)?,
            old: choices.arbitrary()?,
        },
        28 => Op::Forget {
            through: up_to(choices, 31)?.into(),
        },
        29 => Op::Update {
            old: rarely(choices, 10)?,
            change: change(choices)?,
        },
        30 => Op::Refuse {
            id: up_to(choices, 11)?,
            producer: choices.arbitrary()?,
            off: mostly_zero(choices, -2, 2)?,
        },
        31 => Op::Decide {
            destination: destination(choices)?,
            skip: choices.arbitrary()?,
            old: rarely(choices, 5)?,
            off: mostly_zero(choices, -1, 1)?,
        },
        32 => Op::Note {
            destination: destination(choices)?,
            old: rarely(choices, 5)?,
            off: choices.int_in_range(-4..=2)?,
        },
        _ => Op::Create {
            name: up_to(choices, 2)?,
        },
    })
}

/// How far off a report is.
fn off(choices: &mut Unstructured<'_>) -> Result<Off> {
    Ok(match up_to(choices, 31)? {
        n @ 1..=2 => Off::Turn(n),
        3 => Off::Future,
        n @ 4..=7 => Off::Stage(n - 4),
        n @ 8..=11 => Off::Sequence(n - 8),
        _ => Off::Right,
    })
}

fn what(choices: &mut Unstructured<'_>) -> Result<What> {
    Ok(match up_to(choices, 15)? {
        0 | 1 => What::Retry(choices.arbitrary()?),
        2 | 3 => What::Reject,
        4 => What::Filter,
        5 | 6 => What::Lose,
        _ => What::Complete {
            payload: choices.arbitrary()?,
            header: choices.arbitrary()?,
            named: match rarely(choices, 4)? {
                true => up_to(choices, 15)?,
                false => 0,
            },
        },
    })
}

fn how(choices: &mut Unstructured<'_>) -> Result<How> {
    Ok(match up_to(choices, 10)? {
        0 | 1 => How::Retry(choices.int_in_range(0..=2_999)?),
        2 | 3 => How::Reject,
        4 => How::Unavailable(choices.int_in_range(0..=2_999)?),
        _ => How::Ack,
    })
}

fn change(choices: &mut Unstructured<'_>) -> Result<Change> {
    Ok(match up_to(choices, 7)? {
        0 => Change::AddDestination,
        1 => Change::DropDestination,
        2 => Change::Stages(up_to(choices, 3)?),
        3 => Change::Same,
        _ => Change::Caps(1 + up_to(choices, 2)?, choices.int_in_range(1..=23)?),
    })
}
