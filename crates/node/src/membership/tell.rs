//! What a node knows of its cluster.

use super::Membership;
use crate::membership::matched;
use crate::raft::{Machine, bytes_of};
use crate::rooms::Room;
use openraft::{RaftMetrics, ServerState};
use ordo_storage::TypeConfig;
use ordo_wire::v1;
use std::collections::BTreeSet;

impl<SM: Machine> Membership<SM> {
    /// What this node knows.
    pub(super) async fn tell(&self, with_state_hash: bool) -> v1::GetClusterStatusResponse {
        let metrics = self.metrics();
        let hash = match with_state_hash {
            true => (self.state_hash)().await,
            false => None,
        };
        let leads = metrics.state == ServerState::Leader;
        let leader_confirmed = leads && self.is_confirmed().await;
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let nodes = metrics.membership_config.nodes().map(|(node_id, member)| {
            let role = if metrics.current_leader == Some(*node_id) {
                v1::NodeRole::Leader
            } else if !voters.contains(node_id) {
                v1::NodeRole::Learner
            } else if *node_id == self.own_id() && metrics.state == ServerState::Candidate {
                v1::NodeRole::Candidate
            } else {
                v1::NodeRole::Follower
            };
            let known = match *node_id == self.own_id() {
                true => metrics.last_log_index,
                false => matched(&metrics, *node_id).filter(|_| leads),
            };
            v1::Node {
                node_id: *node_id,
                public_address: member.public.clone(),
                peer_address: member.peer.clone(),
                storage_id: bytes_of(member.storage_id),
                role: role.into(),
                matched_index: known.unwrap_or(0),
                room: self.rooms.of(*node_id).map(Room::to_proto),
            }
        });
        let index = |id: &Option<ordo_storage::LogId>| id.map_or(0, |id| id.index);
        let (applied_index, state_hash) =
            hash.unwrap_or_else(|| (index(&metrics.last_applied), Vec::new()));
        v1::GetClusterStatusResponse {
            cluster_id: self.identity.cluster_id().map(bytes_of).unwrap_or_default(),
            node_id: self.own_id(),
            leader_id: metrics.current_leader.unwrap_or(0),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(&metrics.local_committed),
            applied_index,
            snapshot_index: index(&metrics.snapshot),
            nodes: nodes.collect(),
            state_hash: state_hash.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader_confirmed,
            storage_id: bytes_of(self.identity.storage_id()),
            configured_addresses: self.configured_addresses(&metrics),
            problems: self.rooms.problems(),
        }
    }

    /// Where the configuration says that clients reach the other nodes, as long as this one is no member.
    fn configured_addresses(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<String> {
        if metrics.membership_config.nodes().next().is_some() {
            return Vec::new();
        }
        let others = self.config.peers.iter();
        let others = others.filter(|peer| peer.node_id != self.own_id());
        others.map(|peer| peer.public.clone()).collect()
    }
}
