//! A node that starts asks the others what they know that it had: see `fence.rs`.

use super::calls::{Peers, Purpose, within};
use super::fence::Standing;
use super::handshake::{NodeName, addressed};
use futures_util::future::join_all;
use openraft::vote::RaftLeaderId;
use ordo_storage::{LeaderId, Member, StoredMembership};
use ordo_wire::internal::v1 as proto;
use std::time::Duration;
use tonic::Status;

/// How long another node may take to answer. One that is away can't warn, and doesn't keep this one from starting:
/// after a power loss the first node that is back would wait for the others for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The most that another member knows this node to have had on its disk, and who it is. Asked before this node
/// answers anyone, so that nothing in it is from after the start.
pub(crate) async fn recall(
    peers: &Peers,
    membership: &StoredMembership,
) -> Option<(u64, Standing)> {
    let own = peers.identity.node_id();
    // Who is of no cluster yet has shown nothing to anyone.
    peers.identity.cluster_id()?;
    let others = membership.nodes().filter(|(node_id, _)| **node_id != own);
    let answers = others.map(|(node_id, member)| async move {
        let shown = within(ANSWER_WITHIN, ask(peers, *node_id, member)).await;
        let shown = shown.inspect_err(|status| {
            tracing::debug!(
                node_id,
                "does not say what this node had: {}",
                status.message()
            );
        });
        Some((*node_id, shown.ok()?))
    });
    let answers = join_all(answers).await.into_iter().flatten();
    answers.max_by_key(|(_, shown)| *shown)
}

async fn ask(peers: &Peers, node_id: u64, member: &Member) -> Result<Standing, Status> {
    let to = NodeName {
        node_id,
        storage_id: member.storage_id,
    };
    let request = addressed(proto::RecallRequest {}, &peers.identity, to)?;
    let mut client = peers.client(&member.peer, Purpose::Heartbeat)?;
    let shown = client.recall(request).await?.into_inner();
    Ok(Standing {
        vote: LeaderId::new(shown.term, shown.node_id),
        index: shown.index,
    })
}
