//! Whenever it is read, checkpoint <= watermark <= last sequence (guarantee 5).

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str =
    "Whenever it is read, checkpoint <= watermark <= last sequence (guarantee 5).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let reads = lane.reads.iter().map(|read| (read.at, read.standing));
    for (at, standing) in reads.chain(lane.last) {
        let (watermark, last) = (standing.watermark, standing.last_sequence);
        ensure!(
            watermark <= last,
            [at],
            "the watermark is {watermark}, and the last sequence {last}"
        );
        for (destination, standing) in &standing.destinations {
            ensure!(
                standing.checkpoint <= watermark,
                [at],
                "the checkpoint of {destination} is {}, and the watermark {watermark}",
                standing.checkpoint
            );
        }
    }
    Ok(())
}
