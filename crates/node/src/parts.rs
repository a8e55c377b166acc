//! What a node is put together from, where simulations put eyes, crash points and planted bugs between.

use crate::leader::{Event, Loops};
use crate::proposer::{RaftConsensus, Replicate};
use openraft::storage::RaftLogStorage;
use ordo_core::{Rules, Sound};
use ordo_storage::{Machine, Observer, RaftLog, TypeConfig};

/// The parts of a node. `ordo` has those of [`Sound`]; a type parameter, and no cargo feature or switch, so that no
/// other can get into it.
pub trait Parts: Send + Sync + 'static {
    /// The rules of the state machine.
    type Rules: Rules;
    /// The log, as openraft drives it.
    type Log: RaftLogStorage<TypeConfig>;
    /// The leader's loops.
    type Loops: Observer<Event = Event>;
    /// Consensus, as the proposer sees it.
    type Consensus: Replicate;

    /// Takes the log.
    fn log(&self, log: RaftLog) -> Self::Log;
    /// Takes the loops.
    fn loops(&self, loops: Loops) -> Self::Loops;
    /// Takes consensus.
    fn consensus(&self, consensus: RaftConsensus<Machine<Event>>) -> Self::Consensus;
}

impl Parts for Sound {
    type Rules = Sound;
    type Log = RaftLog;
    type Loops = Loops;
    type Consensus = RaftConsensus<Machine<Event>>;

    fn log(&self, log: RaftLog) -> RaftLog {
        log
    }

    fn loops(&self, loops: Loops) -> Loops {
        loops
    }

    fn consensus(&self, consensus: RaftConsensus<Machine<Event>>) -> Self::Consensus {
        consensus
    }
}
