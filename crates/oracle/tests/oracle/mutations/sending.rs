//! What is wrong with how messages were taken.

use super::*;

/// The calls that sent an id which was sent once only.
pub(super) fn sent_once(events: &[Event]) -> BTreeSet<u64> {
    let ids: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Send {
                call, message_id, ..
            } => Some((*message_id, *call)),
            _ => None,
        })
        .collect();
    let once = |id| ids.iter().filter(|(other, _)| *other == id).count() == 1;
    ids.iter()
        .filter(|(id, _)| once(*id))
        .map(|(_, call)| *call)
        .collect()
}

pub(super) fn two_sequences_are_swapped(events: &mut Vec<Event>, _: &mut StdRng) -> bool {
    let mut places = Vec::new();
    for (at, event) in events.iter().enumerate() {
        if let What::Sent {
            result: SendResult::Accepted { sequence, .. },
            ..
        } = event.what
        {
            places.push((at, sequence));
        }
    }
    let Some(((first, a), (second, b))) = places
        .iter()
        .zip(places.iter().skip(1))
        .find(|(a, b)| a.1 != b.1)
    else {
        return false;
    };
    for (at, to) in [(*first, *b), (*second, *a)] {
        if let What::Sent {
            result: SendResult::Accepted { sequence, .. },
            ..
        } = &mut events[at].what
        {
            *sequence = to;
        }
    }
    true
}

/// Changes the answer of one send of an id that was sent once, and accepted.
pub(super) fn answer_otherwise(
    events: &mut [Event],
    random: &mut StdRng,
    otherwise: SendResult,
) -> bool {
    let once = sent_once(events);
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Sent { call, result: SendResult::Accepted { .. } } if once.contains(call)
        )
    }) else {
        return false;
    };
    if let What::Sent { result, .. } = &mut events[at].what {
        *result = otherwise;
    }
    true
}

pub(super) fn a_refused_message_is_there(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let reason = "REASON_WINDOW_FULL".into();
    answer_otherwise(events, random, SendResult::Refused { reason })
}

pub(super) fn a_conflict_is_made_up(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let reason = "REASON_CONFLICTING_PAYLOAD".into();
    answer_otherwise(events, random, SendResult::Refused { reason })
}

pub(super) fn a_conflict_is_accepted(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Sent { result: SendResult::Refused { reason }, .. } if reason == "REASON_CONFLICTING_PAYLOAD"
        )
    }) else {
        return false;
    };
    let What::Sent { call: of, .. } = events[at].what else {
        return false;
    };
    let id = events.iter().find_map(|event| match event.what {
        What::Send {
            call, message_id, ..
        } if call == of => Some(message_id),
        _ => None,
    });
    let calls: Vec<_> = events
        .iter()
        .filter_map(|event| match event.what {
            What::Send {
                call, message_id, ..
            } if Some(message_id) == id => Some(call),
            _ => None,
        })
        .collect();
    let accepted = events.iter().find_map(|event| match event.what {
        What::Sent {
            call,
            result: SendResult::Accepted { sequence, .. },
        } if calls.contains(&call) => Some(sequence),
        _ => None,
    });
    let Some(sequence) = accepted else {
        return false;
    };
    if let What::Sent { result, .. } = &mut events[at].what {
        *result = SendResult::Accepted {
            sequence,
            duplicate: true,
        };
    }
    true
}

pub(super) fn a_repeat_gets_a_new_sequence(events: &mut Vec<Event>, random: &mut StdRng) -> bool {
    let Some(at) = pick(events, random, |what| {
        matches!(
            what,
            What::Sent {
                result: SendResult::Accepted {
                    duplicate: true,
                    ..
                },
                ..
            }
        )
    }) else {
        return false;
    };
    if let What::Sent {
        result: SendResult::Accepted { sequence, .. },
        ..
    } = &mut events[at].what
    {
        *sequence += 500;
    }
    true
}

/// Swaps something of two sends of one producer whose answers are known.
pub(super) fn swap_sends(
    events: &mut [Event],
    producer: &str,
    swap: fn(&mut What, &mut What),
) -> bool {
    let accepted: BTreeSet<_> = events
        .iter()
        .filter_map(|event| match event.what {
            What::Sent {
                call,
                result: SendResult::Accepted { .. },
            } => Some(call),
            _ => None,
        })
        .collect();
    let places: Vec<_> = (0..events.len())
        .filter(|at| {
            let of = &*events[*at].actor == producer;
            of && matches!(events[*at].what, What::Send { call, .. } if accepted.contains(&call))
        })
        .collect();
    let [first, second, ..] = places[..] else {
        return false;
    };
    let (before, after) = events.split_at_mut(second);
    swap(&mut before[first].what, &mut after[0].what);
    true
}

pub(super) fn a_producer_is_reordered(events: &mut Vec<Event>, _: &mut StdRng) -> bool {
    swap_sends(events, "p0", |first, second| {
        if let (What::Send { order: a, .. }, What::Send { order: b, .. }) = (first, second) {
            std::mem::swap(a, b);
        }
    })
}

pub(super) fn numbers_are_swapped(events: &mut Vec<Event>, _: &mut StdRng) -> bool {
    swap_sends(events, "p1", |first, second| {
        if let (What::Send { numbered: a, .. }, What::Send { numbered: b, .. }) = (first, second) {
            std::mem::swap(a, b);
        }
    })
}

pub(super) fn a_message_is_there_before_it_is_sent(
    events: &mut Vec<Event>,
    random: &mut StdRng,
) -> bool {
    let once = sent_once(events);
    let Some(at) = pick(events, random, |what| {
        matches!(
            what, What::Send { call, .. } if once.contains(call)
        )
    }) else {
        return false;
    };
    let What::Send {
        call: of,
        message_id: id,
        ..
    } = events[at].what
    else {
        return false;
    };
    let place = |fit: &dyn Fn(&What) -> bool| events.iter().position(|event| fit(&event.what));
    let answered = place(&|what| matches!(what, What::Sent { call, .. } if *call == of));
    let seen =
        place(&|what| matches!(what, What::Assigned { message_id, .. } if *message_id == id));
    match (answered, seen) {
        (Some(answered), Some(seen)) if seen < answered => {
            let send = events.remove(at);
            events.insert(seen, send);
            true
        }
        _ => false,
    }
}
