//! What is wrong with how messages were delivered.

use super::*;

pub(super) fn is_delivered(what: &What) -> bool {
    matches!(what, What::Delivered { .. })
}

pub(super) fn is_message(what: &What) -> bool {
    matches!(
        what,
        What::Delivered {
            content: Content::Message { .. },
            ..
        }
    )
}

pub(super) fn a_delivery_is_dropped(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let named: BTreeSet<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Report {
                sequence,
                kind: ReportKind::Complete { destinations, .. },
                ..
            } if !destinations.is_empty() => Some(*sequence),
            _ => None,
        })
        .collect();
    let place = |what: &What| match what {
        What::Delivered {
            destination,
            sequence,
            content: Content::Message { redrive_of: 0, .. },
            ..
        } => Some((destination.clone(), *sequence)),
        _ => None,
    };
    let mut counts = std::collections::BTreeMap::<_, usize>::new();
    for event in events.iter() {
        if let Some(place) = place(&event.what) {
            *counts.entry(place).or_default() += 1;
        }
    }
    let at = pick(events, random, |what| {
        place(what).is_some_and(|place| counts[&place] == 1 && !named.contains(&place.1))
    });
    at.map(|at| events.remove(at)).is_some()
}

pub(super) fn a_delivery_comes_twice(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, is_delivered) else {
        return false;
    };
    let twice = events[at].clone();
    events.insert(at + 1, twice);
    true
}

pub(super) fn a_delivery_carries_other_bytes(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, is_message) else {
        return false;
    };
    if let What::Delivered {
        content: Content::Message { digest, .. },
        ..
    } = &mut events[at].what
    {
        digest.0 ^= 1;
    }
    true
}

pub(super) fn a_delivery_is_another_message(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, is_delivered) else {
        return false;
    };
    if let What::Delivered { message_id, .. } = &mut events[at].what {
        *message_id = uuid::Uuid::nil();
    }
    true
}

pub(super) fn a_message_becomes_a_skip(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, is_message) else {
        return false;
    };
    let What::Delivered {
        sequence, content, ..
    } = &mut events[at].what
    else {
        return false;
    };
    let of = *sequence;
    *content = Content::Skip {
        cause: SkipCause::Rejected,
        dead_letter: true,
    };
    // One that a worker tried to reject, too late, has a cause.
    !events.iter().any(|event| {
        matches!(
            event.what,
            What::Report { sequence, kind: ReportKind::Reject, .. } if sequence == of
        )
    })
}

pub(super) fn a_delivery_comes_under_an_old_epoch(
    events: &mut Vec<Event>,
    random: &mut StdRng,
) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Delivered {
                epoch: 2..,
                raw: false,
                ..
            }
        )
    }) else {
        return false;
    };
    let mut old = events[at].clone();
    if let What::Delivered { epoch, .. } = &mut old.what {
        *epoch -= 1;
    }
    events.insert(at + 1, old);
    true
}

pub(super) fn two_consumers_share_an_epoch(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, is_delivered) else {
        return false;
    };
    let mut other = events[at].clone();
    other.actor = "c7".into();
    events.insert(at + 1, other);
    true
}

pub(super) fn what_was_done_comes_back(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Granted {
                checkpoint: 1..,
                epoch: 2..,
                ..
            }
        )
    }) else {
        return false;
    };
    let What::Granted {
        epoch: held,
        checkpoint,
        destination: of,
        ..
    } = events[at].what.clone()
    else {
        return false;
    };
    let delivered = events[..at].iter().find(|event| matches!(
        &event.what,
        What::Delivered { destination, sequence, .. } if *destination == of && *sequence <= checkpoint
    ));
    let Some(mut again) = delivered.cloned() else {
        return false;
    };
    again.actor = events[at].actor.clone();
    if let What::Delivered { epoch, .. } = &mut again.what {
        *epoch = held;
    }
    events.insert(at + 1, again);
    true
}

pub(super) fn an_old_epoch_is_answered(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(what, What::Granted { epoch: 2.., .. })
    }) else {
        return false;
    };
    let What::Granted {
        interface,
        destination,
        epoch,
        checkpoint,
        ..
    } = events[at].what.clone()
    else {
        return false;
    };
    let answer = What::Answer {
        call: 1_000_000,
        interface,
        destination,
        epoch: epoch - 1,
        sequence: checkpoint,
        kind: AnswerKind::Ack,
    };
    insert(events, at + 1, "c1", answer);
    let answered = What::Answered {
        call: 1_000_000,
        verdict: Verdict::Recorded,
        checkpoint: Some(checkpoint),
    };
    insert(events, at + 2, "c1", answered);
    true
}

pub(super) fn a_skip_ends_as_delivered(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Delivered {
                content: Content::Skip { .. },
                ..
            }
        )
    }) else {
        return false;
    };
    let What::Delivered { sequence: of, .. } = events[at].what else {
        return false;
    };
    let status = events.iter_mut().find_map(|event| match &mut event.what {
        What::FinalMessage {
            sequence, status, ..
        } if *sequence == of => Some(status),
        _ => None,
    });
    status
        .map(|status| *status = MessageStatus::Delivered)
        .is_some()
}
