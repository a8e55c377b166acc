//! openraft's messages to and from the peer protocol. Entries' bytes are shared, never copied.

use crate::error::PeerError;
use openraft::alias::{CommittedLeaderIdOf, LeaderIdOf};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use ordo_storage::{
    Entry, EntryData, EntryPayload, LogId, Member, Membership, SnapshotMeta, StoredMembership,
    TypeConfig, Vote,
};
use ordo_wire::internal::v1 as proto;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

type Result<T> = std::result::Result<T, PeerError>;

fn missing(what: &'static str) -> PeerError {
    PeerError::Malformed(what)
}

pub(crate) fn log_id_to_proto(id: &LogId) -> proto::LogId {
    proto::LogId {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id(id: proto::LogId) -> LogId {
    LogId {
        leader_id: CommittedLeaderIdOf::<TypeConfig>::new(id.term, id.node_id),
        index: id.index,
    }
}

pub(crate) fn vote_to_proto(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote(vote: Option<proto::Vote>) -> Result<Vote> {
    let vote = vote.ok_or(missing("vote"))?;
    Ok(Vote {
        leader_id: LeaderIdOf::<TypeConfig>::new(vote.term, vote.node_id),
        committed: vote.committed,
    })
}

pub(crate) fn membership_to_proto(membership: &Membership) -> proto::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership
        .nodes()
        .map(|(node_id, member)| proto::MemberNode {
            node_id: *node_id,
            peer: member.peer.clone(),
            public: member.public.clone(),
            storage_id: bytes_of(member.storage_id),
        });
    proto::Membership {
        configs: configs
            .map(|voters| proto::Voters {
                node_ids: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: nodes.collect(),
    }
}

pub(crate) fn membership(membership: proto::Membership) -> Result<Membership> {
    let configs = membership
        .configs
        .into_iter()
        .map(|voters| voters.node_ids.into_iter().collect::<BTreeSet<u64>>());
    let nodes = membership.nodes.into_iter().map(|node| {
        let storage_id = uuid(&node.storage_id)?;
        Ok((
            node.node_id,
            Member {
                peer: node.peer,
                public: node.public,
                storage_id,
            },
        ))
    });
    let nodes = nodes.collect::<Result<BTreeMap<u64, Member>>>()?;
    Membership::new(configs.collect(), nodes).map_err(|_| missing("a node for each voter"))
}

pub(crate) fn bytes_of(id: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}

pub(crate) fn uuid(bytes: &[u8]) -> Result<Uuid> {
    Uuid::from_slice(bytes).map_err(|_| missing("a UUID of 16 bytes"))
}

fn entry_to_proto(entry: Entry) -> proto::LogEntry {
    use proto::log_entry::Payload;
    proto::LogEntry {
        log_id: Some(log_id_to_proto(&entry.log_id)),
        payload: match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(data) => Some(Payload::Normal(data.0)),
            EntryPayload::Membership(membership) => {
                Some(Payload::Membership(membership_to_proto(&membership)))
            }
        },
    }
}

fn entry(entry: proto::LogEntry) -> Result<Entry> {
    use proto::log_entry::Payload;
    Ok(Entry {
        log_id: log_id(entry.log_id.ok_or(missing("log_id"))?),
        payload: match entry.payload {
            None => EntryPayload::Blank,
            Some(Payload::Normal(bytes)) => EntryPayload::Normal(EntryData(bytes)),
            Some(Payload::Membership(nodes)) => EntryPayload::Membership(membership(nodes)?),
        },
    })
}

/// `synced` is the last index on this node's own disk.
pub(crate) fn append_to_proto(
    request: AppendEntriesRequest<TypeConfig>,
    synced: u64,
) -> proto::AppendRequest {
    proto::AppendRequest {
        vote: Some(vote_to_proto(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_proto),
        entries: request.entries.into_iter().map(entry_to_proto).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
        leader_synced: synced,
    }
}

pub(crate) fn append(request: proto::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>> {
    Ok(AppendEntriesRequest {
        vote: vote(request.vote)?,
        prev_log_id: request.previous.map(log_id),
        entries: request
            .entries
            .into_iter()
            .map(entry)
            .collect::<Result<_>>()?,
        leader_commit: request.leader_commit.map(log_id),
    })
}

pub(crate) fn appended_to_proto(result: &StreamAppendResult<TypeConfig>) -> proto::AppendResponse {
    use proto::append_response::Result;
    proto::AppendResponse {
        result: Some(match result {
            Ok(last) => Result::Success(proto::AppendSuccess {
                last_log_id: last.as_ref().map(log_id_to_proto),
            }),
            Err(StreamAppendError::Conflict(at)) => Result::Conflict(log_id_to_proto(at)),
            Err(StreamAppendError::HigherVote(vote)) => Result::HigherVote(vote_to_proto(vote)),
        }),
    }
}

pub(crate) fn appended(response: proto::AppendResponse) -> Result<StreamAppendResult<TypeConfig>> {
    use proto::append_response::Result;
    Ok(match response.result.ok_or(missing("result"))? {
        Result::Success(success) => Ok(success.last_log_id.map(log_id)),
        Result::Conflict(at) => Err(StreamAppendError::Conflict(log_id(at))),
        Result::HigherVote(higher) => Err(StreamAppendError::HigherVote(vote(Some(higher))?)),
    })
}

pub(crate) fn vote_request_to_proto(request: &VoteRequest<TypeConfig>) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: Some(vote_to_proto(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_proto),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request(request: proto::VoteRequest) -> Result<VoteRequest<TypeConfig>> {
    Ok(VoteRequest {
        vote: vote(request.vote)?,
        last_log_id: request.last_log_id.map(log_id),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn vote_response_to_proto(response: &VoteResponse<TypeConfig>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_proto),
    }
}

pub(crate) fn vote_response(response: proto::VoteResponse) -> Result<VoteResponse<TypeConfig>> {
    Ok(VoteResponse {
        vote: vote(response.vote)?,
        vote_granted: response.granted,
        last_log_id: response.last_log_id.map(log_id),
    })
}

pub(crate) fn transfer_to_proto(
    request: &TransferLeaderRequest<TypeConfig>,
) -> proto::TransferLeaderRequest {
    proto::TransferLeaderRequest {
        from_leader: Some(vote_to_proto(request.from_leader())),
        to_node_id: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_proto),
    }
}

pub(crate) fn transfer(
    request: proto::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>> {
    let last_log_id = request.last_log_id.map(log_id);
    Ok(TransferLeaderRequest::new(
        vote(request.from_leader)?,
        request.to_node_id,
        last_log_id,
    ))
}

pub(crate) fn transferred_to_proto(
    response: &TransferLeaderResponse<TypeConfig>,
) -> proto::TransferLeaderResponse {
    use proto::transfer_leader_response::Refusal;
    let refusal = response.as_ref().err().map(|error| match error {
        TransferLeaderError::VoteChanged { expected, actual } => {
            Refusal::VoteChanged(proto::VoteChanged {
                expected: Some(vote_to_proto(expected)),
                actual: Some(vote_to_proto(actual)),
            })
        }
        TransferLeaderError::LogNotFlushed { expected, actual } => {
            Refusal::LogNotFlushed(proto::LogNotFlushed {
                expected: expected.as_ref().map(log_id_to_proto),
                actual: actual.as_ref().map(log_id_to_proto),
            })
        }
    });
    proto::TransferLeaderResponse { refusal }
}

pub(crate) fn transferred(
    response: proto::TransferLeaderResponse,
) -> Result<TransferLeaderResponse<TypeConfig>> {
    use proto::transfer_leader_response::Refusal;
    Ok(match response.refusal {
        None => Ok(()),
        Some(Refusal::VoteChanged(changed)) => Err(TransferLeaderError::VoteChanged {
            expected: vote(changed.expected)?,
            actual: vote(changed.actual)?,
        }),
        Some(Refusal::LogNotFlushed(ids)) => Err(TransferLeaderError::LogNotFlushed {
            expected: ids.expected.map(log_id),
            actual: ids.actual.map(log_id),
        }),
    })
}

pub(crate) fn snapshot_head(vote: &Vote, meta: &SnapshotMeta) -> proto::SnapshotHead {
    proto::SnapshotHead {
        vote: Some(vote_to_proto(vote)),
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_proto),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(meta.last_membership.membership())),
    }
}

pub(crate) fn snapshot_meta(head: proto::SnapshotHead) -> Result<(Vote, SnapshotMeta)> {
    let nodes = membership(head.membership.ok_or(missing("membership"))?)?;
    let meta = SnapshotMeta {
        last_log_id: head.last_log_id.map(log_id),
        last_membership: StoredMembership::new(head.membership_log_id.map(log_id), nodes),
    };
    Ok((vote(head.vote)?, meta))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn id(index: u64) -> LogId {
        log_id(proto::LogId {
            term: 3,
            node_id: 2,
            index,
        })
    }

    fn member(n: u128) -> Member {
        Member {
            peer: format!("peer{n}:1"),
            public: format!("public{n}:1"),
            storage_id: Uuid::from_u128(n),
        }
    }

    fn nodes() -> Membership {
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        Membership::new(
            configs,
            BTreeMap::from([
                (1, member(1)),
                (2, member(2)),
                (3, member(3)),
                (4, member(4)),
            ]),
        )
        .unwrap()
    }

    #[test]
    fn requests_come_back_as_they_went() {
        let bytes = bytes::Bytes::from_static(b"opaque");
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(EntryData(bytes.clone())),
            EntryPayload::Membership(nodes()),
        ];
        let entries = payloads.into_iter().zip(8..).map(|(payload, index)| Entry {
            log_id: id(index),
            payload,
        });
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(3, 2),
            prev_log_id: Some(id(7)),
            entries: entries.collect(),
            leader_commit: Some(id(6)),
        };
        let wire = append_to_proto(request.clone(), 7);
        let Some(proto::log_entry::Payload::Normal(sent)) = &wire.entries[1].payload else {
            panic!("a normal entry")
        };
        assert_eq!(
            sent.as_ptr(),
            bytes.as_ptr(),
            "entries are shared, not copied"
        );
        let back = append(wire).unwrap();
        assert_eq!(
            (back.vote, back.prev_log_id, back.leader_commit),
            (request.vote, Some(id(7)), Some(id(6)))
        );
        assert_eq!(back.entries, request.entries);
    }

    #[test]
    fn answers_come_back_as_they_went() {
        for result in [
            Ok(Some(id(4))),
            Ok(None),
            Err(StreamAppendError::Conflict(id(3))),
            Err(StreamAppendError::HigherVote(Vote::new(9, 1))),
        ] {
            assert_eq!(appended(appended_to_proto(&result)).unwrap(), result);
        }
        let request = VoteRequest {
            vote: Vote::new(4, 1),
            last_log_id: Some(id(4)),
            leadership_transfer: true,
        };
        assert_eq!(
            vote_request(vote_request_to_proto(&request)).unwrap(),
            request
        );
        let response = VoteResponse {
            vote: Vote::new(4, 1),
            vote_granted: true,
            last_log_id: None,
        };
        assert_eq!(
            vote_response(vote_response_to_proto(&response)).unwrap(),
            response
        );
        let request = TransferLeaderRequest::new(Vote::new_committed(3, 2), 1, Some(id(9)));
        assert_eq!(transfer(transfer_to_proto(&request)).unwrap(), request);
        let meta = SnapshotMeta {
            last_log_id: Some(id(9)),
            last_membership: StoredMembership::new(Some(id(2)), nodes()),
        };
        let vote = Vote::new_committed(3, 2);
        assert_eq!(
            snapshot_meta(snapshot_head(&vote, &meta)).unwrap(),
            (vote, meta)
        );
    }

    #[test]
    fn what_is_malformed_is_refused() {
        assert!(append(proto::AppendRequest::default()).is_err());
        assert!(appended(proto::AppendResponse::default()).is_err());
        let voter = proto::Voters { node_ids: vec![1] };
        assert!(
            membership(proto::Membership {
                configs: vec![voter],
                nodes: Vec::new()
            })
            .is_err()
        );
        assert!(uuid(b"short").is_err());
    }
}
