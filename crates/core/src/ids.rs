//! The names of things: newtypes, so that no function takes two bare numbers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// An interface's identity; its name is for people.
    InterfaceId
);
uuid_id!(
    /// A message's identity within its interface, chosen by the producer.
    MessageId
);
uuid_id!(
    /// A consumer's identity, the same over its reconnects.
    ConsumerId
);

number!(
    /// A message's place in its interface: from 1, without gaps. 0 is "before the first".
    Sequence(u64)
);
number!(
    /// Raised by every report, loss or redrive of a message that was applied; never reset.
    Turn(u32)
);
number!(
    /// The fencing token of a grant.
    Epoch(u64)
);
number!(
    /// A stage's place in its interface's list, from 0.
    StageNumber(u8)
);
number!(
    /// A destination's place in its interface's list, from 0.
    DestinationNumber(u8)
);
number!(
    /// Raised by a restore from a backup, so that receivers can tell the histories apart.
    Incarnation(u32)
);
number!(
    /// Milliseconds in which the cluster had a leader. Every period counts in it.
    ClusterTime(u64)
);
number!(
    /// Milliseconds since 1970 (UTC). For people; decides nothing.
    WallTime(u64)
);

impl MessageId {
    /// The id of the message that the system makes of this one when it counts so many.
    #[must_use]
    pub fn derived(self, count: u64) -> Self {
        Self(Uuid::new_v5(&self.0, &count.to_be_bytes()))
    }
}

impl Sequence {
    /// Before the first.
    pub const ZERO: Self = Self(0);
}

impl ClusterTime {
    /// This time, `ms` milliseconds later.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// A producer's session: drawn once by whoever sends messages and remembers which of them were not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerSession(pub NonZeroU64);

/// A 128-bit hash of a message's ingested bytes: tells a repeat from a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A set of an interface's destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationSet(u16);

impl DestinationSet {
    /// Every destination, those added later included.
    pub const ALL: Self = Self(u16::MAX);
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether `destination` is in it.
    #[must_use]
    pub const fn contains(self, destination: DestinationNumber) -> bool {
        destination.0 < 16 && self.0 & (1 << destination.0) != 0
    }

    /// Adds `destination`, which is below 16.
    pub const fn insert(&mut self, destination: DestinationNumber) {
        self.0 |= 1 << destination.0;
    }
}

impl FromIterator<DestinationNumber> for DestinationSet {
    fn from_iter<I: IntoIterator<Item = DestinationNumber>>(destinations: I) -> Self {
        let mut set = Self::NONE;
        for destination in destinations {
            set.insert(destination);
        }
        set
    }
}

/// A dead letter's name within its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeadLetterKey {
    /// The sequence of the message that failed.
    pub sequence: Sequence,
    /// The destination that refused it; `None` when it failed in a stage, for all its destinations.
    pub destination: Option<DestinationNumber>,
}
