//! What this node answers the others.

use super::calls::MESSAGE_BYTES_MAX;
use super::fence::Fences;
use super::handshake::{self, NodeName, check, check_candidate};
use super::{Machine, RaftOf, convert, snapshot};
use crate::identity::{Identity, IdentityError};
use crate::net::Told;
use crate::rooms::Rooms;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use ordo_storage::{Snapshot, StateStore};
use ordo_wire::internal::v1 as proto;
use proto::install_snapshot_request::Part;
use proto::peer_service_server::PeerServiceServer;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// The peer protocol's server.
pub(crate) struct PeerService<SM: Machine> {
    raft: RaftOf<SM>,
    identity: Arc<Identity>,
    fences: Fences,
    store: StateStore,
    public: String,
    rooms: Arc<Rooms>,
    /// The refusal that was logged last: a node that is refused calls again and again, and a stranger may say
    /// something else each time.
    refused: std::sync::Mutex<(String, Told)>,
}

impl<SM: Machine> PeerService<SM> {
    /// The service; `public` is where clients reach this node.
    pub(crate) fn server(
        raft: RaftOf<SM>,
        identity: Arc<Identity>,
        fences: Fences,
        store: StateStore,
        public: String,
        rooms: Arc<Rooms>,
    ) -> PeerServiceServer<Self> {
        PeerServiceServer::new(Self {
            raft,
            identity,
            fences,
            store,
            public,
            rooms,
            refused: std::sync::Mutex::default(),
        })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Checks who calls whom. What is refused is a person's business: data of another cluster, or a node set up anew.
    fn check<T>(&self, request: &Request<T>) -> Result<NodeName, Status> {
        let from = check(request.metadata(), &self.identity).inspect_err(|status| {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let (last, told) = &mut *refused;
            if last != status.message() && told.may_tell() {
                status.message().clone_into(last);
                tracing::error!("a node's call was refused: {}", status.message());
            }
        })?;
        self.rooms.was_called();
        Ok(from)
    }

    /// Checks a candidate's call. An append or a snapshot comes from a leader, whom a quorum checked so; there, only
    /// the cluster and the addressee are looked at, since a node that missed a membership change can't know better.
    fn candidate<T>(&self, request: &Request<T>) -> Result<NodeName, Status> {
        let from = self.check(request)?;
        check_candidate(from, &handshake::membership(&self.raft)).inspect_err(|status| {
            tracing::warn!(
                node_id = from.node_id,
                "a candidate was refused: {}",
                status.message()
            )
        })?;
        Ok(from)
    }

    /// Receives a snapshot and has it installed, whether or not the sender is there to its end: only one of them is
    /// received at a time, and what is being installed must not be taken apart by the next.
    async fn receive(
        &self,
        mut parts: Streaming<proto::InstallSnapshotRequest>,
    ) -> Result<mpsc::Receiver<Result<proto::InstallSnapshotResponse, Status>>, Status> {
        let silence = self.raft.config().install_snapshot_timeout();
        let first = tokio::time::timeout(silence, parts.message()).await;
        let first = first.map_err(|_| snapshot::silent("sender", silence))??;
        let Some(Part::Head(head)) = first.and_then(|first| first.part) else {
            return Err(Status::invalid_argument("a snapshot begins with its head"));
        };
        let (vote, meta) = convert::snapshot_meta(head)?;
        let raft = self.raft.clone();
        let install = move |snapshot: Snapshot| async move {
            if snapshot.meta != meta {
                return Err(Status::invalid_argument(
                    "the snapshot covers something else than its head says",
                ));
            }
            let log_index = meta.last_log_id.map(|id| id.index);
            tracing::info!(log_index, "received a snapshot");
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            let installed = installed.map_err(stopped)?;
            tracing::info!(log_index, "the snapshot is installed");
            Ok(convert::vote_to_proto(&installed.vote))
        };
        let (answers, receiver) = mpsc::channel(snapshot::ANSWERS_WAITING);
        let store = self.store.clone();
        tokio::spawn(snapshot::receive(store, parts, answers, silence, install));
        Ok(receiver)
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("consensus has stopped on this node: {error}"))
}

type AppendStream = Pin<Box<dyn Stream<Item = Result<proto::AppendResponse, Status>> + Send>>;

type SnapshotStream =
    Pin<Box<dyn Stream<Item = Result<proto::InstallSnapshotResponse, Status>> + Send>>;

#[tonic::async_trait]
impl<SM: Machine> proto::peer_service_server::PeerService for PeerService<SM> {
    type AppendStream = AppendStream;
    type InstallSnapshotStream = SnapshotStream;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<AppendStream>, Status> {
        let from = self.check(&request)?;
        let fence = self.fences.of(from.node_id, from.storage_id);
        let requests = (request.into_inner(), fence);
        // A broken or malformed request ends what openraft reads; what it took before is still answered.
        let requests = stream::unfold(requests, |(mut requests, fence)| async move {
            let request = match requests.message().await {
                Ok(request) => request?,
                Err(status) => {
                    tracing::debug!(%status, "a leader's stream ended");
                    return None;
                }
            };
            let synced = request.leader_synced;
            match convert::append(request) {
                Ok(request) => {
                    fence.has(request.vote.leader_id, synced);
                    Some((request, (requests, fence)))
                }
                Err(error) => {
                    tracing::warn!(%error, "a leader sent what means nothing");
                    None
                }
            }
        });
        let answers = self
            .raft
            .stream_append(requests)
            .map(|answer| match answer {
                Ok(result) => Ok(convert::appended_to_proto(&result)),
                Err(fatal) => Err(stopped(fatal)),
            });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let from = self.candidate(&request)?;
        let request = convert::vote_request(request.into_inner())?;
        // A candidate saves its vote for itself before it asks for others.
        let fence = self.fences.of(from.node_id, from.storage_id);
        fence.has(request.vote.leader_id, 0);
        let answer = self.raft.vote(request).await.map_err(stopped)?;
        Ok(Response::new(convert::vote_response_to_proto(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<proto::PreVoteRequest>,
    ) -> Result<Response<proto::PreVoteResponse>, Status> {
        self.candidate(&request)?;
        let proto::PreVoteRequest { vote, last_log_id } = request.into_inner();
        let request = proto::VoteRequest {
            vote,
            last_log_id,
            leadership_transfer: false,
        };
        let answer = self
            .raft
            .pre_vote(convert::vote_request(request)?)
            .await
            .map_err(stopped)?;
        let proto::VoteResponse {
            vote,
            granted,
            last_log_id,
        } = convert::vote_response_to_proto(&answer);
        Ok(Response::new(proto::PreVoteResponse {
            vote,
            granted,
            last_log_id,
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        self.check(&request)?;
        let request = convert::transfer(request.into_inner())?;
        let answer = self
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(stopped)?;
        Ok(Response::new(convert::transferred_to_proto(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::InstallSnapshotRequest>>,
    ) -> Result<Response<SnapshotStream>, Status> {
        let from = self.check(&request)?;
        let told = move |status: &Status| {
            tracing::warn!(
                node_id = from.node_id,
                "a snapshot was not received: {}",
                status.message()
            );
        };
        let answers = self.receive(request.into_inner()).await;
        let answers = ReceiverStream::new(answers.inspect_err(told)?);
        Ok(Response::new(Box::pin(answers.inspect_err(told))))
    }

    async fn identify(
        &self,
        _request: Request<proto::IdentifyRequest>,
    ) -> Result<Response<proto::IdentifyResponse>, Status> {
        Ok(Response::new(proto::IdentifyResponse {
            node_id: self.identity.node_id(),
            storage_id: convert::bytes_of(self.identity.storage_id()),
            cluster_id: self
                .identity
                .cluster_id()
                .map(convert::bytes_of)
                .unwrap_or_default(),
            initialized: self.raft.is_initialized().await.map_err(stopped)?,
            public_address: self.public.clone(),
        }))
    }

    async fn adopt(
        &self,
        request: Request<proto::AdoptRequest>,
    ) -> Result<Response<proto::AdoptResponse>, Status> {
        let request = request.into_inner();
        let cluster_id: Uuid = convert::uuid(&request.cluster_id)?;
        let meant = NodeName {
            node_id: request.node_id,
            storage_id: convert::uuid(&request.storage_id)?,
        };
        let own = NodeName::of(&self.identity);
        if meant != own {
            return Err(Status::failed_precondition(format!(
                "this is node {own}, not node {meant}"
            )));
        }
        match self.identity.adopt(cluster_id) {
            Ok(()) => {
                tracing::info!(%cluster_id, "this node belongs to a cluster");
                Ok(Response::new(proto::AdoptResponse {}))
            }
            Err(error @ IdentityError::OtherCluster { .. }) => {
                Err(Status::failed_precondition(error.to_string()))
            }
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    async fn recall(
        &self,
        request: Request<proto::RecallRequest>,
    ) -> Result<Response<proto::RecallResponse>, Status> {
        let from = self.check(&request)?;
        let shown = self.fences.of(from.node_id, from.storage_id).shown();
        Ok(Response::new(proto::RecallResponse {
            term: shown.vote.term,
            node_id: shown.vote.node_id,
            index: shown.index,
        }))
    }

    async fn get_room(
        &self,
        request: Request<proto::GetRoomRequest>,
    ) -> Result<Response<proto::GetRoomResponse>, Status> {
        self.check(&request)?;
        Ok(Response::new(proto::GetRoomResponse {
            room: Some(self.rooms.own().to_proto()),
        }))
    }
}
