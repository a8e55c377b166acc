//! Right histories with one thing wrong: each is found, by the check that guards it.

mod delivering;
mod sending;

use std::collections::BTreeSet;

use ordo_oracle::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::sequential;
use delivering::*;
use sending::*;

struct Mutation {
    name: &'static str,
    /// The checks of which at least one must find it.
    found_by: &'static [&'static str],
    /// Whether it could be made.
    make: fn(&mut Vec<Event>, &mut StdRng) -> bool,
}

macro_rules! mutations {
    ($($make:ident => [$($check:literal),*];)*) => {
        &[$(Mutation { name: stringify!($make), found_by: &[$($check),*], make: $make }),*]
    };
}

const MUTATIONS: &[Mutation] = mutations! {
    two_sequences_are_swapped => ["sequence_has_one_message"];
    a_delivery_is_dropped => ["effects_happen_once", "everything_ends"];
    a_delivery_comes_twice => ["strictly_next"];
    a_delivery_carries_other_bytes => ["nothing_is_invented"];
    a_delivery_is_another_message => ["sequence_has_one_message"];
    a_message_becomes_a_skip => ["skips_have_causes"];
    a_delivery_comes_under_an_old_epoch => ["epochs_only_grow"];
    two_consumers_share_an_epoch => ["epochs_only_grow"];
    what_was_done_comes_back => ["what_is_done_stays_done"];
    a_read_is_old => ["reads_are_fresh"];
    a_watermark_is_too_high => ["reads_make_sense"];
    a_checkpoint_is_not_earned => ["checkpoints_are_earned"];
    the_end_is_lost => ["reads_are_fresh", "everything_ends"];
    a_sequence_is_nobodys => ["no_gaps"];
    a_dead_letter_is_lost => ["everything_ends"];
    a_refused_message_is_there => ["refused_leaves_nothing"];
    a_conflict_is_accepted => ["id_has_one_payload"];
    a_conflict_is_made_up => ["id_has_one_payload"];
    a_repeat_gets_a_new_sequence => ["id_has_one_sequence"];
    a_producer_is_reordered => ["producer_order"];
    numbers_are_swapped => ["numbers_are_dense"];
    a_message_is_there_before_it_is_sent => ["nothing_is_invented"];
    a_late_report_counts => ["late_reports_change_nothing"];
    an_assignment_carries_other_bytes => ["nothing_is_invented", "stage_has_one_payload"];
    a_stage_is_left_out => ["nothing_is_invented"];
    an_old_epoch_is_answered => ["answers_are_fenced"];
    a_rejection_has_no_report => ["skips_have_causes", "failures_were_reported"];
    a_refusal_was_not_given => ["failures_were_reported"];
    a_skip_ends_as_delivered => ["endings_agree"];
    a_rogue_has_its_way => ["nothing_unlawful"];
};

#[test]
fn every_mutation_of_a_right_history_is_found() {
    for mutation in MUTATIONS {
        let mut made = 0;
        for seed in 0..40 {
            let mut history = sequential::history(seed, 900);
            let mut random = StdRng::seed_from_u64(seed);
            if !(mutation.make)(&mut history.events, &mut random) {
                continue;
            }
            made += 1;
            let violations = check(&history, Completeness::Healed);
            let found: BTreeSet<_> = violations.iter().map(|violation| violation.check).collect();
            assert!(
                mutation.found_by.iter().any(|check| found.contains(check)),
                "{} (seed {seed}) was found by {found:?} only",
                mutation.name
            );
        }
        assert!(made >= 10, "{} was made {made} times", mutation.name);
    }
}

#[test]
fn every_check_finds_a_mutation() {
    let found: BTreeSet<_> = MUTATIONS.iter().flat_map(|m| m.found_by).collect();
    // Those that only judge what a mutation of another kind shows first have stories of their own.
    let alone = ["every_call_in_its_time", "one_outcome"];
    for check in ALL {
        assert!(
            found.contains(&check.name) || alone.contains(&check.name),
            "no mutation is found by {}",
            check.name
        );
    }
}

/// The place of one of the events that `fit`.
fn pick(events: &[Event], random: &mut StdRng, fit: impl Fn(&What) -> bool) -> Option<usize> {
    let places: Vec<_> = (0..events.len())
        .filter(|at| fit(&events[*at].what))
        .collect();
    (!places.is_empty()).then(|| places[random.random_range(0..places.len())])
}

fn insert(events: &mut Vec<Event>, at: usize, actor: &str, what: What) {
    let at_us = events[at.min(events.len() - 1)].at_us;
    let actor = actor.into();
    events.insert(at, Event { at_us, actor, what });
}

fn a_read_is_old(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| matches!(what, What::Reading { .. })) else {
        return false;
    };
    let What::Reading { call: of, .. } = events[at].what else {
        return false;
    };
    let known = events[..at]
        .iter()
        .any(|event| matches!(event.what, What::Assigned { .. }));
    let answered = events.iter_mut().find_map(|event| match &mut event.what {
        What::Read { call, standing } if *call == of => Some(standing),
        _ => None,
    });
    answered
        .map(|standing| *standing = Standing::default())
        .is_some()
        && known
}

fn a_watermark_is_too_high(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| matches!(what, What::Read { .. })) else {
        return false;
    };
    if let What::Read { standing, .. } = &mut events[at].what {
        standing.watermark = standing.last_sequence + 1;
    }
    true
}

fn a_checkpoint_is_not_earned(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Granted {
                epoch: 1,
                checkpoint: 0,
                ..
            }
        )
    }) else {
        return false;
    };
    if let What::Granted { checkpoint, .. } = &mut events[at].what {
        *checkpoint = 1_000_000;
    }
    true
}

fn the_end_is_lost(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| matches!(what, What::Final { .. })) else {
        return false;
    };
    let What::Final { standing, .. } = &mut events[at].what else {
        return false;
    };
    let last = standing.last_sequence.saturating_sub(1);
    (standing.last_sequence, standing.watermark) = (last, last);
    standing
        .destinations
        .values_mut()
        .for_each(|d| d.checkpoint = last);
    last > 0
}

fn a_sequence_is_nobodys(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| matches!(what, What::Final { .. })) else {
        return false;
    };
    let What::Final { standing, .. } = &mut events[at].what else {
        return false;
    };
    standing.last_sequence += 1_000;
    true
}

fn a_dead_letter_is_lost(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let operated: BTreeSet<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Operate { sequence, .. } => Some(*sequence),
            _ => None,
        })
        .collect();
    let at = pick(events, random, |what| {
        matches!(
            what, What::FinalDeadLetter { sequence, .. } if !operated.contains(sequence)
        )
    });
    at.map(|at| events.remove(at)).is_some()
}

fn a_late_report_counts(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(what, What::Report { turn: 1, .. })
    }) else {
        return false;
    };
    let What::Report { sequence: of, .. } = events[at].what else {
        return false;
    };
    let mut late = events[at].clone();
    if let What::Report { call, .. } = &mut late.what {
        *call = 1_000_000;
    }
    let delivered = events.iter().position(|event| {
        matches!(
            event.what, What::Delivered { sequence, .. } if sequence == of
        )
    });
    let Some(delivered) = delivered else {
        return false;
    };
    events.insert(delivered + 1, late);
    let what = What::Reported {
        call: 1_000_000,
        verdict: Verdict::Recorded,
    };
    insert(events, delivered + 2, "w1", what);
    true
}

fn an_assignment_carries_other_bytes(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| matches!(what, What::Assigned { .. })) else {
        return false;
    };
    if let What::Assigned { digest, .. } = &mut events[at].what {
        digest.0 ^= 1;
    }
    true
}

fn a_stage_is_left_out(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, is_message) else {
        return false;
    };
    let What::Delivered { sequence: of, .. } = events[at].what else {
        return false;
    };
    let redrive = matches!(
        events[at].what,
        What::Delivered {
            content: Content::Message {
                redrive_of: 1..,
                ..
            },
            ..
        }
    );
    let before = events.len();
    events.retain(|event| {
        !matches!(
            event.what,
            What::Report { sequence, kind: ReportKind::Complete { .. }, .. } if sequence == of
        )
    });
    // Their answers would be answers to nothing.
    let calls: BTreeSet<_> = events
        .iter()
        .filter_map(|event| match event.what {
            What::Report { call, .. } => Some(call),
            _ => None,
        })
        .collect();
    events.retain(
        |event| !matches!(event.what, What::Reported { call, .. } if !calls.contains(&call)),
    );
    before != events.len() && !redrive
}

fn a_rejection_has_no_report(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Delivered {
                content: Content::Skip {
                    cause: SkipCause::Rejected,
                    ..
                },
                ..
            }
        )
    }) else {
        return false;
    };
    let What::Delivered { sequence: of, .. } = events[at].what else {
        return false;
    };
    for event in events.iter_mut() {
        if let What::Report { sequence, kind, .. } = &mut event.what
            && *sequence == of
            && *kind == ReportKind::Reject
        {
            *kind = ReportKind::Retry;
        }
    }
    true
}

fn a_refusal_was_not_given(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(what, What::FinalMessage { .. })
    }) else {
        return false;
    };
    if let What::FinalMessage { events, .. } = &mut events[at].what {
        let place = "nowhere".into();
        events.push(MessageEvent {
            kind: EventKind::DeliveryRetried,
            place,
        });
    }
    true
}

fn a_rogue_has_its_way(events: &mut Vec<Event>, _: &mut StdRng) -> bool {
    let interface = "lab".into();
    let text = "it was let".into();
    let end = events.len();
    insert(
        events,
        end,
        "rogue",
        What::Unlawful {
            interface,
            guarantee: 6,
            text,
        },
    );
    true
}
