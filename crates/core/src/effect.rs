//! What follows from a change for the leader.

use crate::ids::{DestinationNumber, InterfaceId, Sequence};

/// Tells the leader's loops where to look. At least once, and derivable afresh from the state
/// ([`State::resume`](crate::State::resume)), so a new leader needs no history: each names a place, and what to do
/// there is read from the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// A message is PENDING and not (or no longer) in anyone's hands: it can be assigned for its stage from its
    /// `not_before` on.
    Work {
        /// Where.
        interface: InterfaceId,
        /// Which.
        sequence: Sequence,
    },
    /// The release watermark moved.
    Released {
        /// Where.
        interface: InterfaceId,
    },
    /// A destination's grant, epoch, checkpoint or suspension changed.
    Destination {
        /// Where.
        interface: InterfaceId,
        /// Which.
        destination: DestinationNumber,
    },
    /// The interface is new, or its configuration changed.
    Interface {
        /// Which.
        interface: InterfaceId,
    },
}
