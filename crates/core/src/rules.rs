//! The rules that guarantees hang on, one function each, so that a simulation can break one at a time and see
//! whether its checks find out.
//!
//! They are a type parameter of apply and of the leader's streams, and no runtime switch or cargo feature: what `ordo`
//! is built from holds the rules of [`Sound`] and nothing else.

use crate::command::RunPosition;
use crate::ids::{ClusterTime, Digest, Epoch, Sequence, StageNumber, Turn};
use crate::interface::{Slot, Status};

/// The rules of apply, and of what a leader refuses before. What stands here is how Ordo works; only simulations have
/// another implementation.
pub trait Rules: Send + Sync + 'static {
    /// The state's time after an entry: it never goes back.
    #[must_use]
    fn time(state: ClusterTime, entry: ClusterTime) -> ClusterTime {
        state.max(entry)
    }

    /// Whether an entry's ingests may be executed: the one before it in its run was applied (guarantee 3).
    #[must_use]
    fn follows(last: RunPosition, new: RunPosition) -> bool {
        (new.term, new.run, new.n) == (last.term, last.run, last.n + 1)
    }

    /// The sequence of a message, after the interface's `last` one (guarantee 2).
    #[must_use]
    fn next_sequence(last: Sequence) -> Sequence {
        last.next()
    }

    /// What is remembered of a `message_id` (guarantee 4).
    #[must_use]
    fn known(sequence: Option<Sequence>) -> Option<Sequence> {
        sequence
    }

    /// Whether an id that was derived from another may be given to a message that the system makes: nobody has it yet
    /// (guarantee 10).
    #[must_use]
    fn is_free(known: Option<Sequence>) -> bool {
        known.is_none()
    }

    /// Whether the same id comes with the same payload (guarantee 4).
    #[must_use]
    fn same_payload(known: Option<Digest>, given: Digest) -> bool {
        known == Some(given)
    }

    /// Whether messages behind a transient refusal may be taken: their frame names the latest one (guarantee 13).
    #[must_use]
    fn names_refusal(latest: u64, given: u64) -> bool {
        given == latest
    }

    /// Whether the oldest finished message is remembered still: so many `finished` ones are, of which `kept_max` may
    /// be, and this one is `young` (guarantee 4).
    #[must_use]
    fn remembers(finished: usize, kept_max: usize, young: bool) -> bool {
        young && finished <= kept_max
    }

    /// Whether a producer that has heard the answers through `heard` may not have heard the one to a finished message
    /// of its own yet, and may send it again (guarantee 4).
    #[must_use]
    fn is_unheard(heard: Sequence, finished: Sequence) -> bool {
        finished > heard
    }

    /// Whether a message waits in the stage that a report is about (guarantee 11).
    #[must_use]
    fn in_stage(slot: &Slot, stage: StageNumber) -> bool {
        slot.status == Status::Pending && slot.stage == stage
    }

    /// Whether `complete` counts: it is of a turn since the message `entered` the stage (guarantee 11).
    #[must_use]
    fn completes(entered: Turn, given: Turn) -> bool {
        entered <= given
    }

    /// Whether a payload of this row (0 as it was ingested, n as stage n - 1 left it) is the one that entered a stage:
    /// neither that stage nor a later one wrote it (guarantees 10 and 11).
    #[must_use]
    fn entered(payload_row: u8, stage: StageNumber) -> bool {
        payload_row <= stage.0
    }

    /// Whether any other report counts: it is of the `current` turn (guarantee 11).
    #[must_use]
    fn is_current(current: Turn, given: Turn) -> bool {
        current == given
    }

    /// Whether so many attempts or losses are all that a message has.
    #[must_use]
    fn exhausted(count: u32, max: u32) -> bool {
        count >= max
    }

    /// Whether the watermark may pass a message; FAILED ones wait while the dead letters are at their cap
    /// (guarantees 5, 8 and 9).
    #[must_use]
    fn releases(status: Status, dead_letters_full: bool) -> bool {
        match status {
            Status::Pending => false,
            Status::Failed(_) => !dead_letters_full,
            Status::Ready | Status::Filtered => true,
        }
    }

    /// Whether an answer is of the grant that holds (guarantee 6).
    #[must_use]
    fn holds(current: Epoch, given: Epoch) -> bool {
        current == given
    }

    /// Whether an answer is about something that is released, or sent: everything through `up_to` is (guarantee 6).
    #[must_use]
    fn is_released(up_to: Sequence, given: Sequence) -> bool {
        given <= up_to
    }

    /// Whether an answer that is of the head only is of the head.
    #[must_use]
    fn is_head(head: Sequence, given: Sequence) -> bool {
        head == given
    }

    /// The epoch of a new grant, or of an old one whose deliveries are void (guarantee 6).
    #[must_use]
    fn next_epoch(last: Epoch) -> Epoch {
        last.next()
    }

    /// Up to where an acknowledgement moves the checkpoint (guarantee 5).
    #[must_use]
    fn checkpoint(checkpoint: Sequence, through: Sequence) -> Sequence {
        checkpoint.max(through)
    }
}

/// The rules as they are.
#[derive(Clone, Copy, Debug)]
pub struct Sound;

impl Rules for Sound {}
