//! The same message_id is accepted with one payload only, and refused with another (guarantee 4).

use super::{Seen, ensure};
use crate::history::SendResult;
use crate::lane::{Lane, Send};

pub(super) const SENTENCE: &str = "The same message_id is accepted with one payload only, and refused with another (guarantee 4).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    for calls in lane.sends_of.values() {
        let sends = || calls.iter().map(|call| &lane.sends[*call]);
        let mut accepted: Option<&Send<'_>> = None;
        for send in sends().filter(|send| send.accepted().is_some()) {
            let first = accepted.get_or_insert(send);
            let same = first.accepted().map(|(_, s)| s) == send.accepted().map(|(_, s)| s);
            ensure!(
                !same || first.digest == send.digest,
                [first.at, send.at],
                "message {} was accepted with two payloads under one sequence",
                send.message_id
            );
        }
        for send in sends() {
            if let Some((at, SendResult::Refused { reason })) = send.sent
                && reason == "REASON_CONFLICTING_PAYLOAD"
            {
                ensure!(
                    sends().any(|other| other.digest != send.digest && other.at < at),
                    [send.at, at],
                    "message {} was refused for another payload, and was never sent with one",
                    send.message_id
                );
            }
        }
    }
    Ok(())
}
