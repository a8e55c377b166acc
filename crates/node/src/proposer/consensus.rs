//! openraft, as the proposer sees it.

use super::standing::QuorumAge;
use super::task::{LeaderId, Replicate, SubmitError, Submitted};
use bytes::Bytes;
use futures_util::FutureExt;
use openraft::Instant;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::raft::ClientWriteResult;
use openraft::storage::RaftStateMachine;
use openraft::vote::RaftLeaderId;
use ordo_core::Reply;
use ordo_storage::{EntryData, SnapshotFolder, TypeConfig};
use std::time::Duration;

/// openraft, as the proposer sees it.
pub struct RaftConsensus<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotFolder>,
{
    raft: openraft::Raft<TypeConfig, M>,
    server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    data: WatchReceiverOf<TypeConfig, RaftDataMetrics<TypeConfig>>,
}

impl<M> RaftConsensus<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotFolder>,
{
    /// Over a running Raft.
    #[must_use]
    pub fn new(raft: openraft::Raft<TypeConfig, M>) -> Self {
        let (server, data) = (raft.server_metrics(), raft.data_metrics());
        Self { raft, server, data }
    }
}

impl<M> Clone for RaftConsensus<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotFolder>,
{
    fn clone(&self) -> Self {
        Self::new(self.raft.clone())
    }
}

impl<M> Replicate for RaftConsensus<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotFolder>,
{
    async fn submit(&self, data: Bytes, leader: LeaderId) -> Submitted {
        let (responder, applied) = ProgressResponder::complete_only();
        let request = self
            .raft
            .write(EntryData(data))
            .with_leader(leader.to_committed())
            .responder(responder);
        if request.await.is_err() {
            return std::future::ready(Err(SubmitError::Stopped)).boxed();
        }
        // Without an answer consensus has stopped with the entry in hand.
        async move { applied.await.map_or(Err(SubmitError::Unknown), replies_of) }.boxed()
    }

    fn leading(&self) -> Option<LeaderId> {
        let server = self.server.borrow_watched();
        let leader = *server.vote.leader_id();
        (server.vote.is_committed() && *leader.node_id() == server.id).then_some(leader)
    }

    async fn changed(&mut self, quorum: bool) {
        let changed = tokio::select! {
            biased;
            changed = self.server.changed() => changed.is_ok(),
            changed = self.data.changed(), if quorum => changed.is_ok(),
        };
        // The senders go with consensus; the node is about to stop then.
        if !changed {
            std::future::pending::<()>().await;
        }
    }

    fn quorum_lease(&self) -> (Duration, QuorumAge) {
        let (data, server) = (self.data.clone(), self.server.clone());
        // openraft's followers grant no vote for the longest election time-out after they heard of a leader.
        let lease = Duration::from_millis(self.raft.config().election_timeout_max);
        let age = move || {
            let alone = server
                .borrow_watched()
                .membership_config
                .voter_ids()
                .count()
                == 1;
            let acked = || {
                data.borrow_watched()
                    .last_quorum_acked
                    .map(|acked| acked.elapsed())
            };
            // A single voter is its own quorum, and openraft notes no acknowledgement.
            if alone { Some(Duration::ZERO) } else { acked() }
        };
        (lease, Box::new(age))
    }
}

fn replies_of(result: ClientWriteResult<TypeConfig>) -> Result<Vec<Reply>, SubmitError> {
    match result {
        Ok(applied) => Ok(applied.data.0),
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(SubmitError::NotLeader {
            leader: forward.leader_node.map(|member| member.public),
        }),
        // Discarded here, it may still be committed through another leader; the others are not ours to see.
        Err(_) => Err(SubmitError::Unknown),
    }
}
