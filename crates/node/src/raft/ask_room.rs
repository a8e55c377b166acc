//! Asks another node for its room.

use super::calls::{Peers, Purpose, within};
use super::handshake::{NodeName, addressed};
use ordo_storage::Member;
use ordo_wire::internal::v1 as proto;
use ordo_wire::v1;
use std::time::Duration;
use tonic::{Code, Status};

/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What the member says of its room; nothing where it is of a version that says nothing.
pub(crate) async fn ask_room(
    peers: &Peers,
    node_id: u64,
    member: &Member,
) -> Result<Option<v1::NodeRoom>, Status> {
    let to = NodeName {
        node_id,
        storage_id: member.storage_id,
    };
    let request = addressed(proto::GetRoomRequest {}, &peers.identity, to)?;
    let mut client = peers.client(&member.peer, Purpose::Heartbeat)?;
    match within(ANSWER_WITHIN, client.get_room(request)).await {
        Ok(answer) => Ok(answer.into_inner().room),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(status),
    }
}
