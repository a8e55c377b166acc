//! How a cluster begins: who is there, and which cluster they are given.

use super::{Membership, refused};
use crate::raft::{Machine, NodeName};
use ordo_storage::Member;
use ordo_wire::status::Failure;
use ordo_wire::v1::Reason;
use std::collections::BTreeMap;
use uuid::Uuid;

impl<SM: Machine> Membership<SM> {
    /// Who is at each address of the configuration, and the cluster id that an earlier attempt gave some of them.
    pub(super) async fn find_members(
        &self,
    ) -> Result<(BTreeMap<u64, Member>, Option<Uuid>), Failure> {
        let (mut members, mut cluster_id) = (BTreeMap::new(), self.identity.cluster_id());
        for peer in &self.config.peers {
            let at = format!("node {} at {}", peer.node_id, peer.peer);
            let (name, found) = if peer.node_id == self.own_id() {
                (NodeName::of(&self.identity), self.identity.cluster_id())
            } else {
                let unreachable = |status: tonic::Status| {
                    refused(format!("{at} can't be reached: {}", status.message()))
                };
                let found = self.peers.identify(&peer.peer).await.map_err(unreachable)?;
                if found.name.node_id != peer.node_id {
                    return Err(refused(format!(
                        "{at} says that it is node {}",
                        found.name.node_id
                    )));
                }
                if found.initialized {
                    let text = format!("{at} has data of a cluster already");
                    return Err(Failure::new(Reason::AlreadyInitialized, text));
                }
                (found.name, found.cluster_id)
            };
            match (cluster_id, found) {
                (Some(one), Some(other)) if one != other => {
                    return Err(refused(format!(
                        "{at} was given cluster {other} by another attempt, this one has {one}: run init where the \
                         other was run, or empty the data folders"
                    )));
                }
                (None, Some(_)) => cluster_id = found,
                _ => {}
            }
            let member = Member {
                peer: peer.peer.clone(),
                public: peer.public.clone(),
                storage_id: name.storage_id,
            };
            members.insert(peer.node_id, member);
        }
        Ok((members, cluster_id))
    }

    pub(super) async fn adopt(
        &self,
        node_id: u64,
        member: &Member,
        cluster_id: Uuid,
    ) -> Result<(), Failure> {
        let text = |error: String| refused(format!("node {node_id} at {}: {error}", member.peer));
        if node_id == self.own_id() {
            return self
                .identity
                .adopt(cluster_id)
                .map_err(|error| text(error.to_string()));
        }
        let name = NodeName {
            node_id,
            storage_id: member.storage_id,
        };
        let adopted = self.peers.adopt(&member.peer, name, cluster_id).await;
        adopted.map_err(|status| text(status.message().to_owned()))
    }
}
