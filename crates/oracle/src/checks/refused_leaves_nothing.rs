//! A message that was refused has no sequence (guarantees 3 and 13).

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str =
    "A message that was refused has no sequence (guarantees 3 and 13).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    for sight in &lane.sights {
        if let Some(calls) = lane.sends_of.get(&sight.message_id) {
            ensure!(
                calls.iter().any(|call| !lane.sends[*call].refused()),
                [lane.sends[calls[0]].at, sight.at],
                "message {} was refused each time it was sent, and is sequence {}",
                sight.message_id,
                sight.sequence
            );
        }
    }
    Ok(())
}
