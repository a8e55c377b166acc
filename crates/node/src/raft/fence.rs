//! Notices a node that lost what it acknowledged.
//!
//! A leader counts an acknowledged entry toward the quorum for good, and a vote that was given can't be given again.
//! A node that later does not have it (its disk lied, or somebody put an old copy of its folder back) breaks that, and
//! openraft checks it in debug builds only: in a release build it would send the entries again as if nothing had
//! been. So every node keeps, as long as its process lives, the highest vote each other node showed and the highest
//! index it had on its disk under that vote. Two things are done with that:
//!
//! - A node that starts asks the others (see `recall.rs`) and stops when it has less than they know.
//! - A leader to whom a follower says it lacks what it acknowledged to this very leader replicates nothing to it any
//!   more: the disk below a running process lost it, or nobody could be asked at the start.
//!
//! What nobody who can be asked remembers can't be noticed: when those who heard of it have been restarted since, or
//! are away at that moment. A folder that was set back is a failure of that node, and a cluster of three bears one.

use openraft::vote::RaftLeaderId;
use ordo_storage::LeaderId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// What is known of all peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fences(Arc<Mutex<ByNode>>);

type ByNode = BTreeMap<(u64, Uuid), Arc<Fence>>;

/// What one peer showed to have on its disk.
#[derive(Debug)]
pub(crate) struct Fence {
    node_id: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    shown: Standing,
    closed: Option<Lost>,
}

/// How far a node's log goes: an index, and the vote under which it got there. Under one vote it never shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// The vote.
    pub vote: LeaderId,
    /// The last index on the disk; 0 where nothing is known but the vote.
    pub index: u64,
}

impl Default for Standing {
    /// Nothing at all.
    fn default() -> Self {
        Self {
            vote: LeaderId::new(0, 0),
            index: 0,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, LeaderId { term, node_id }) = (self.index, self.vote);
        match index {
            0 => write!(f, "a vote for node {node_id} in term {term}"),
            _ => write!(
                f,
                "index {index} with a vote for node {node_id} in term {term}"
            ),
        }
    }
}

/// A peer that lost acknowledged entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {node_id} lost entries: it acknowledged index {acknowledged} in term {term} and now has nothing that matches \
     at {found}; nothing is replicated to it any more. Clear its data folder and take it in anew with \
     `ordo cluster add --replace`"
)]
pub(crate) struct Lost {
    node_id: u64,
    term: u64,
    acknowledged: u64,
    found: u64,
}

impl Fences {
    pub(crate) fn of(&self, node_id: u64, storage_id: Uuid) -> Arc<Fence> {
        let mut fences = self
            .0
            .lock()
            .expect("no code panics while it holds this lock");
        let fence = fences.entry((node_id, storage_id));
        Arc::clone(fence.or_insert_with(|| {
            Arc::new(Fence {
                node_id,
                state: Mutex::default(),
            })
        }))
    }
}

impl Fence {
    /// Whether the peer may still be replicated to.
    pub(crate) fn check(&self) -> Result<(), Lost> {
        self.state().closed.map_or(Ok(()), Err)
    }

    /// The peer showed that it gave `vote`, and that it has everything through `index` under it.
    pub(crate) fn has(&self, vote: LeaderId, index: u64) {
        let mut state = self.state();
        // A higher vote counts anew: the logs may have been cut for it.
        state.shown = state.shown.max(Standing { vote, index });
    }

    /// The most the peer ever showed.
    pub(crate) fn shown(&self) -> Standing {
        self.state().shown
    }

    /// The peer said, to the leader that `vote` names, that its entry at `index` is not the leader's.
    ///
    /// # Errors
    /// When it acknowledged that very entry; said once in the log.
    pub(crate) fn conflict(&self, vote: LeaderId, index: u64) -> Result<(), Lost> {
        let mut state = self.state();
        if let Some(lost) = state.closed {
            return Err(lost);
        }
        // Under another vote the acknowledgements were to another leader, whose entries may have been replaced.
        if vote != state.shown.vote || index > state.shown.index {
            return Ok(());
        }
        let lost = Lost {
            node_id: self.node_id,
            term: vote.term,
            acknowledged: state.shown.index,
            found: index,
        };
        state.closed = Some(lost);
        tracing::error!(node_id = self.node_id, log_index = index, "{lost}");
        Err(lost)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::{Fences, Standing};
    use openraft::vote::RaftLeaderId;
    use ordo_storage::LeaderId;
    use uuid::Uuid;

    fn leader(term: u64) -> LeaderId {
        LeaderId::new(term, 1)
    }

    #[test]
    fn a_peer_that_lost_acknowledged_entries_is_closed_for_good() {
        let fences = Fences::default();
        let fence = fences.of(2, Uuid::from_u128(1));
        fence.has(leader(3), 10);
        fence.has(leader(3), 8);
        assert_eq!(
            fence.conflict(leader(3), 11),
            Ok(()),
            "one past what is acknowledged may differ"
        );
        let lost = fence.conflict(leader(3), 10);
        assert!(lost.is_err());
        assert!(fences.of(2, Uuid::from_u128(1)).check().is_err());
        assert_eq!(fence.conflict(leader(4), 20), lost);
        assert!(
            fences.of(2, Uuid::from_u128(5)).check().is_ok(),
            "another storage is another node"
        );
        assert!(fences.of(1, Uuid::from_u128(1)).check().is_ok());
    }

    #[test]
    fn acknowledgements_to_an_earlier_leader_do_not_count() {
        let fence = Fences::default().of(2, Uuid::from_u128(1));
        fence.has(leader(3), 10);
        assert_eq!(fence.conflict(leader(4), 5), Ok(()));
        fence.has(leader(4), 6);
        fence.has(leader(3), 100);
        assert_eq!(fence.conflict(leader(4), 7), Ok(()));
        assert!(fence.conflict(leader(4), 6).is_err());
    }

    #[test]
    fn of_two_leaders_of_one_term_the_later_one_counts() {
        let fence = Fences::default().of(2, Uuid::from_u128(1));
        fence.has(LeaderId::new(3, 1), 10);
        fence.has(LeaderId::new(3, 3), 7);
        let shown = Standing {
            vote: LeaderId::new(3, 3),
            index: 7,
        };
        assert_eq!(fence.shown(), shown);
    }
}
