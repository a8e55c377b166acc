//! What a client must not be able to do is refused (guarantees 6 and 11).

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str =
    "What a client must not be able to do is refused (guarantees 6 and 11).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    if let Some((at, guarantee, text)) = lane.unlawful.first() {
        ensure!(false, [*at], "guarantee {guarantee}: {text}");
    }
    Ok(())
}
