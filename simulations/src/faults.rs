//! What goes wrong in a run, and when.

use crate::place::DiskFault;
use crate::points::{Down, Point, Trap};
use rand::Rng;
use rand::rngs::StdRng;

/// Whom a fault hits, chosen when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever leads, or anybody while nobody does.
    Leader,
    /// Anybody who does not lead.
    Follower,
    /// Anybody.
    Any,
}

/// Which ways are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Both.
    Both,
    /// What the node sends is lost.
    Out,
    /// What is sent to the node is lost.
    In,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A node crashes at once.
    Crash {
        /// Whom it hits.
        who: Who,
        /// How.
        down: Down,
        /// For how long.
        down_ms: u64,
    },
    /// A crash waits for its moment.
    Trap {
        /// Whom it hits.
        who: Who,
        /// What for.
        trap: Trap,
    },
    /// All nodes lose power together.
    Blackout {
        /// For how long.
        down_ms: u64,
    },
    /// A node is cut off from the other nodes.
    Cut {
        /// Whom it hits.
        who: Who,
        /// Which ways.
        way: Way,
        /// Whether clients are cut off from it, too.
        clients: bool,
        /// For how long.
        ms: u64,
    },
    /// Two nodes can't reach each other.
    CutPair {
        /// For how long.
        ms: u64,
    },
    /// Segments are lost: without retransmission, that is connections that hang.
    Loss {
        /// How many in a thousand.
        permille: u32,
        /// For how long.
        ms: u64,
    },
    /// What goes to and from a node takes long.
    Slow {
        /// Whom it hits.
        who: Who,
        /// How long.
        latency_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// A disk takes long.
    DiskBusy {
        /// Whom it hits.
        who: Who,
        /// How long at most for a group of writes.
        busy_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// A disk fails, the node stops by itself and comes back when the disk was replaced by a good copy.
    Disk {
        /// Whom it hits.
        who: Who,
        /// How it fails.
        fault: DiskFault,
    },
    /// A wall clock jumps, and runs fast or slow from then on. Where it jumps ahead, the machine was suspended.
    Clock {
        /// Whom it hits.
        who: Who,
        /// By how much, in milliseconds.
        offset_ms: i64,
        /// How many parts in a thousand it runs fast.
        drift: i64,
    },
    /// Some of the leader's proposals are refused or late.
    Proposals {
        /// For how long.
        ms: u64,
    },
    /// Leadership is handed over.
    Transfer,
    /// A node takes a snapshot.
    Snapshot {
        /// Whom it hits.
        who: Who,
    },
    /// A new node joins and votes.
    Grow,
    /// A voter is removed, and its machine is taken away.
    Shrink,
    /// A voter loses its disk and rejoins by the operator's command.
    Replace,
    /// A client's process ends and begins anew.
    ClientCrash {
        /// For how long it is away.
        down_ms: u64,
    },
    /// A client is cut off from all nodes.
    ClientCut {
        /// For how long.
        ms: u64,
    },
}

impl Fault {
    /// What the names of all kinds begin with, so that they stand apart from what faults led to.
    pub const LABEL: &str = "fault: ";

    /// Its kind, in counts, after [`Fault::LABEL`].
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Crash {
                down: Down::Killed, ..
            } => "fault: process crashes",
            Self::Crash {
                down: Down::PowerLost,
                ..
            } => "fault: power losses",
            Self::Trap { .. } => "fault: traps set",
            Self::Blackout { .. } => "fault: blackouts",
            Self::Cut { way: Way::Both, .. } => "fault: partitions",
            Self::Cut { .. } => "fault: one-way partitions",
            Self::CutPair { .. } => "fault: cut pairs",
            Self::Loss { .. } => "fault: lossy periods",
            Self::Slow { .. } => "fault: slow links",
            Self::DiskBusy { .. } => "fault: slow disks",
            Self::Disk { .. } => "fault: failing disks",
            Self::Clock { .. } => "fault: clock jumps",
            Self::Proposals { .. } => "fault: periods of wrong proposals",
            Self::Transfer => "fault: leadership transfers",
            Self::Snapshot { .. } => "fault: snapshots asked for",
            Self::Grow => "fault: nodes to add",
            Self::Shrink => "fault: nodes to remove",
            Self::Replace => "fault: disks lost for good",
            Self::ClientCrash { .. } => "fault: client crashes",
            Self::ClientCut { .. } => "fault: clients cut off",
        }
    }
}

fn who(rng: &mut StdRng) -> Who {
    match rng.random_range(0..10) {
        0..=4 => Who::Leader,
        5..=7 => Who::Follower,
        _ => Who::Any,
    }
}

/// For how long something is down: mostly short, sometimes so long that a snapshot is needed to catch up.
fn down_ms(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..10) {
        0..=5 => rng.random_range(50..2_000),
        6..=8 => rng.random_range(2_000..6_000),
        _ => rng.random_range(8_000..15_000),
    }
}

fn trap(rng: &mut StdRng) -> Trap {
    Trap {
        point: Point::ALL[rng.random_range(0..Point::ALL.len())],
        passes: match rng.random_range(0..4) {
            0 => 0,
            1 | 2 => rng.random_range(1..10),
            _ => rng.random_range(10..100),
        },
        down: match rng.random_range(0..3) {
            0 => Down::Killed,
            _ => Down::PowerLost,
        },
        down_ms: down_ms(rng),
    }
}

/// Which kinds of faults a run has: each seed has another mix, and some kinds of a mix come often.
#[derive(Clone, Debug)]
pub struct Mix {
    weights: Vec<(u32, Kind)>,
    /// Between two faults on average, in milliseconds.
    pub every_ms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash,
    Trap,
    Blackout,
    Cut,
    CutPair,
    Loss,
    Slow,
    DiskBusy,
    Disk,
    Clock,
    Proposals,
    Transfer,
    Snapshot,
    Grow,
    Shrink,
    Replace,
    ClientCrash,
    ClientCut,
}

impl Mix {
    /// A mix of one seed.
    pub fn draw(rng: &mut StdRng) -> Self {
        use Kind::*;
        let kinds = [
            (4, Crash),
            (8, Trap),
            (1, Blackout),
            (4, Cut),
            (2, CutPair),
            (1, Loss),
            (2, Slow),
            (2, DiskBusy),
            (1, Disk),
            (1, Clock),
            (2, Proposals),
            (2, Transfer),
            (2, Snapshot),
            (1, Grow),
            (1, Shrink),
            (1, Replace),
            (2, ClientCrash),
            (1, ClientCut),
        ];
        let mut weights: Vec<(u32, Kind)> = Vec::new();
        for (weight, kind) in kinds {
            // A third of the kinds is left out of each run, so that some runs are about little else than a few.
            match rng.random_range(0..6) {
                0 | 1 => {}
                5 => weights.push((weight * 4, kind)),
                _ => weights.push((weight, kind)),
            }
        }
        if weights.is_empty() {
            weights.push((1, Trap));
        }
        Self {
            weights,
            every_ms: rng.random_range(300..3_000),
        }
    }

    /// The next fault.
    pub fn next(&self, rng: &mut StdRng) -> Fault {
        let total: u32 = self.weights.iter().map(|(weight, _)| weight).sum();
        let mut at = rng.random_range(0..total);
        let kind = self.weights.iter().find_map(|(weight, kind)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found.then_some(*kind)
        });
        fault(kind.unwrap_or(Kind::Trap), rng)
    }
}

fn fault(kind: Kind, rng: &mut StdRng) -> Fault {
    match kind {
        Kind::Crash => Fault::Crash {
            who: who(rng),
            down: match rng.random() {
                true => Down::Killed,
                false => Down::PowerLost,
            },
            down_ms: down_ms(rng),
        },
        Kind::Trap => Fault::Trap {
            who: who(rng),
            trap: trap(rng),
        },
        Kind::Blackout => Fault::Blackout {
            down_ms: rng.random_range(100..4_000),
        },
        Kind::Cut => Fault::Cut {
            who: who(rng),
            way: match rng.random_range(0..4) {
                0 => Way::In,
                1 => Way::Out,
                _ => Way::Both,
            },
            clients: rng.random_range(0..3) == 0,
            ms: rng.random_range(200..9_000),
        },
        Kind::CutPair => Fault::CutPair {
            ms: rng.random_range(200..9_000),
        },
        Kind::Loss => Fault::Loss {
            permille: rng.random_range(1..30),
            ms: rng.random_range(200..4_000),
        },
        Kind::Slow => Fault::Slow {
            who: who(rng),
            latency_ms: rng.random_range(50..3_000),
            ms: rng.random_range(500..8_000),
        },
        Kind::DiskBusy => Fault::DiskBusy {
            who: who(rng),
            busy_ms: rng.random_range(20..1_500),
            ms: rng.random_range(500..8_000),
        },
        Kind::Disk => Fault::Disk {
            who: who(rng),
            fault: match rng.random() {
                true => DiskFault::SyncFails,
                false => DiskFault::Full,
            },
        },
        Kind::Clock => Fault::Clock {
            who: who(rng),
            offset_ms: rng.random_range(-3_600_000..3_600_000),
            drift: rng.random_range(-200..200),
        },
        Kind::Proposals => Fault::Proposals {
            ms: rng.random_range(200..4_000),
        },
        Kind::Transfer => Fault::Transfer,
        Kind::Snapshot => Fault::Snapshot { who: who(rng) },
        Kind::Grow => Fault::Grow,
        Kind::Shrink => Fault::Shrink,
        Kind::Replace => Fault::Replace,
        Kind::ClientCrash => Fault::ClientCrash {
            down_ms: rng.random_range(50..4_000),
        },
        Kind::ClientCut => Fault::ClientCut {
            ms: rng.random_range(200..9_000),
        },
    }
}
