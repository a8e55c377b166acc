//! A receiver that discards repeats by sequence sees each message once, in order, and misses none (guarantee 7).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::history::Content;
use crate::lane::Lane;
use crate::name::Name;

pub(super) const SENTENCE: &str = "A receiver that discards repeats by sequence sees each message once, in order, and misses none (guarantee 7).";
pub(super) const HEALED_ONLY: bool = false;

/// What a destination's receiver has taken, over all consumers that served it.
#[derive(Default)]
struct Receiver {
    last: u64,
    last_at: usize,
    messages: BTreeMap<uuid::Uuid, (u64, usize)>,
}

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut receivers: BTreeMap<&Name, Receiver> = BTreeMap::new();
    for delivered in &lane.delivered {
        let (sequence, at) = (delivered.sequence, delivered.at);
        let receiver = receivers.entry(delivered.destination).or_default();
        if sequence <= receiver.last {
            continue;
        }
        if let Some(due) = lane.first_due(delivered.destination, receiver.last, sequence) {
            ensure!(
                false,
                [receiver.last_at, at],
                "the receiver of {} got sequence {sequence} and never {due}",
                delivered.destination
            );
        }
        (receiver.last, receiver.last_at) = (sequence, at);
        if matches!(delivered.content, Content::Message { .. }) {
            let id = delivered.message_id;
            let twice = receiver.messages.insert(id, (sequence, at));
            if let Some((first, first_at)) = twice {
                ensure!(
                    lane.may_be_forgotten(first, sequence),
                    [first_at, at],
                    "the receiver of {} got message {id} twice, as {first} and as {sequence}",
                    delivered.destination
                );
            }
        }
    }
    Ok(())
}
