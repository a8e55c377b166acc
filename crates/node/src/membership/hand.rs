//! How leadership goes from one node to another.

use super::{ANSWER_WITHIN, CHANGE_WITHIN, Membership, refused};
use crate::membership::matched;
use crate::raft::Machine;
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ReadPolicy};
use ordo_storage::TypeConfig;
use ordo_wire::status::Failure;
use std::collections::BTreeSet;
use tokio::time::{Instant, timeout};

impl<SM: Machine> Membership<SM> {
    /// The nodes beside this leader that answer now: waits until they are `enough`, or for [`ANSWER_WITHIN`].
    pub(super) async fn answering(&self, enough: impl Fn(&BTreeSet<u64>) -> bool) -> BTreeSet<u64> {
        let asked = Instant::now();
        // Consensus that has stopped answers nothing, either.
        let _ = self.raft.trigger().heartbeat().await;
        let mut metrics = self.raft.metrics();
        let mut alive = BTreeSet::new();
        let wait = async {
            loop {
                let since = asked.elapsed();
                let heartbeats = metrics
                    .borrow_watched()
                    .heartbeat
                    .clone()
                    .unwrap_or_default();
                let fresh = heartbeats
                    .iter()
                    .filter(|(_, at)| at.is_some_and(|at| at.elapsed() < since));
                alive = fresh.map(|(node_id, _)| *node_id).collect();
                if enough(&alive) || metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        // What is known by then is the answer.
        let _ = timeout(ANSWER_WITHIN, wait).await;
        alive
    }

    /// Hands leadership to the one of `voters` that answers, has room as far as is known, and is furthest. None: none of
    /// them answers.
    pub(super) async fn hand_to(
        &self,
        metrics: &RaftMetrics<TypeConfig>,
        voters: &BTreeSet<u64>,
    ) -> Result<Option<u64>, Failure> {
        let own = self.own_id();
        let alive = self.answering(|alive| !voters.is_disjoint(alive)).await;
        let rank = |voter: &u64| (self.rooms.lacks(*voter).is_none(), matched(metrics, *voter));
        let Some(&target) = voters.intersection(&alive).max_by_key(|voter| rank(voter)) else {
            return Ok(None);
        };
        let triggered = self.raft.trigger().transfer_leader(target).await;
        triggered.map_err(|error| refused(format!("this node stops: {error}")))?;
        let mut leader = None;
        let changed = self
            .wait(|metrics| {
                leader = metrics.current_leader.filter(|leader| *leader != own);
                leader.is_some()
            })
            .await;
        match leader {
            Some(leader) if changed => Ok(Some(leader)),
            _ => Err(refused(format!(
                "node {target} did not take over within {} s",
                CHANGE_WITHIN.as_secs()
            ))),
        }
    }

    /// Whether a quorum confirms now that this node leads.
    pub(super) async fn is_confirmed(&self) -> bool {
        let confirmed = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        matches!(timeout(ANSWER_WITHIN, confirmed).await, Ok(Ok(_)))
    }
}
