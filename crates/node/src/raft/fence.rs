//! Notices a follower that lost what it acknowledged.
//!
//! A leader counts an acknowledged entry toward the quorum for good. A follower that later says it does not have it
//! (its disk lied, or somebody put an old copy of its folder back) breaks that, and openraft checks it in debug
//! builds only: in a release build it would send the entries again as if nothing had been. So the peer network keeps
//! the highest index each peer acknowledged to this leader; an answer below it ends replication to that peer until
//! this process ends or the peer comes back under another storage id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// What is known of all peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fences(Arc<Mutex<ByNode>>);

type ByNode = BTreeMap<(u64, Uuid), Arc<Fence>>;

/// What one peer acknowledged.
#[derive(Debug)]
pub(crate) struct Fence {
    node_id: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    term: u64,
    acknowledged: u64,
    closed: Option<Lost>,
}

/// A peer that lost acknowledged entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {node_id} lost entries: it acknowledged index {acknowledged} in term {term} and now has nothing that matches \
     at {found}; nothing is replicated to it any more. Remove it, clear its data folder and add it anew"
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

    /// The peer said, to the leader of `term`, that it has everything through `index`.
    pub(crate) fn acknowledged(&self, term: u64, index: u64) {
        let mut state = self.state();
        if term > state.term {
            state.term = term;
            state.acknowledged = index;
        } else if term == state.term {
            state.acknowledged = state.acknowledged.max(index);
        }
    }

    /// The peer said, to the leader of `term`, that its entry at `index` is not the leader's.
    ///
    /// # Errors
    /// When it acknowledged that very entry; said once in the log.
    pub(crate) fn conflict(&self, term: u64, index: u64) -> Result<(), Lost> {
        let mut state = self.state();
        if let Some(lost) = state.closed {
            return Err(lost);
        }
        // In another term the acknowledgements were to another leader, whose entries may have been replaced.
        if term != state.term || index > state.acknowledged {
            return Ok(());
        }
        let lost = Lost {
            node_id: self.node_id,
            term,
            acknowledged: state.acknowledged,
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
    use super::Fences;
    use uuid::Uuid;

    #[test]
    fn a_peer_that_lost_acknowledged_entries_is_closed_for_good() {
        let fences = Fences::default();
        let fence = fences.of(2, Uuid::from_u128(1));
        fence.acknowledged(3, 10);
        fence.acknowledged(3, 8);
        assert_eq!(
            fence.conflict(3, 11),
            Ok(()),
            "one past what is acknowledged may differ"
        );
        let lost = fence.conflict(3, 10);
        assert!(lost.is_err());
        assert!(fences.of(2, Uuid::from_u128(1)).check().is_err());
        assert_eq!(fence.conflict(4, 20), lost);
        assert!(
            fences.of(2, Uuid::from_u128(5)).check().is_ok(),
            "another storage is another node"
        );
        assert!(fences.of(1, Uuid::from_u128(1)).check().is_ok());
    }

    #[test]
    fn acknowledgements_to_an_earlier_leader_do_not_count() {
        let fence = Fences::default().of(2, Uuid::from_u128(1));
        fence.acknowledged(3, 10);
        assert_eq!(fence.conflict(4, 5), Ok(()));
        fence.acknowledged(4, 6);
        fence.acknowledged(3, 100);
        assert_eq!(fence.conflict(4, 7), Ok(()));
        assert!(fence.conflict(4, 6).is_err());
    }
}
