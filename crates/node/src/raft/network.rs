//! openraft's calls to the other nodes.

use super::calls::{Peers, Purpose, within};
use super::convert;
use super::fence::Fence;
use super::handshake::{NodeName, addressed};
use super::snapshot;
use futures_util::stream::{self, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use ordo_storage::log::Log;
use ordo_storage::{
    Driver, LeaderId, LogId, Member, Snapshot, SnapshotFolder, StateStore, TypeConfig, Vote,
};
use ordo_wire::internal::v1 as proto;
use proto::peer_service_client::PeerServiceClient;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// How long a follower may leave an append unanswered. Its disk may be slow; a dead connection is noticed earlier, by
/// HTTP/2's own keep-alive.
const STALL: Duration = Duration::from_secs(10);

/// How long opening a stream of appends may take, the connection included.
const OPEN: Duration = Duration::from_secs(2);

type AppendResult = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Makes links to other nodes.
#[derive(Clone)]
pub(crate) struct PeerNetwork {
    peers: Peers,
    log: Log,
    store: StateStore,
    reach: Arc<Mutex<BTreeMap<u64, Arc<Reach>>>>,
    driver: Driver,
}

impl PeerNetwork {
    /// The network of the node whose own log and state these are.
    pub(crate) fn new(peers: Peers, log: Log, store: StateStore, driver: Driver) -> Self {
        Self {
            peers,
            log,
            store,
            driver,
            reach: Arc::default(),
        }
    }

    fn link(&self, target: u64, member: &Member, purpose: Purpose) -> PeerLink {
        PeerLink {
            peers: self.peers.clone(),
            driver: self.driver,
            purpose,
            address: member.peer.clone(),
            to: NodeName {
                node_id: target,
                storage_id: member.storage_id,
            },
            fence: self.peers.fences.of(target, member.storage_id),
            log: self.log.clone(),
            store: self.store.clone(),
            reach: Arc::clone(
                self.reach
                    .lock()
                    .expect("no code panics while it holds this lock")
                    .entry(target)
                    .or_default(),
            ),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = PeerLink;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerLink {
        self.link(target, node, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerLink {
        self.link(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> PeerLink {
        self.link(target, node, Purpose::Snapshot)
    }
}

/// The way to one node, for one purpose.
pub(crate) struct PeerLink {
    peers: Peers,
    driver: Driver,
    purpose: Purpose,
    address: String,
    to: NodeName,
    fence: Arc<Fence>,
    log: Log,
    store: StateStore,
    reach: Arc<Reach>,
}

/// Whether a node answers, so that a change is said once and not at every try.
#[derive(Debug, Default)]
pub(crate) struct Reach(AtomicBool);

impl Reach {
    fn lost(&self, node_id: u64, address: &str, status: &Status) {
        if !self.0.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                node_id,
                address,
                "a node cannot be reached: {}",
                status.message()
            );
        }
    }

    fn found(&self, node_id: u64) {
        // Read first: this is asked at every answer.
        if self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel) {
            tracing::info!(node_id, "a node answers again");
        }
    }
}

impl PeerLink {
    fn client(&self) -> Result<PeerServiceClient<Channel>, RPCError<TypeConfig>> {
        let place = self.peers.place_of(self.to, &self.address);
        self.peers
            .client(&place, self.purpose)
            .map_err(|status| self.failed(&status))
    }

    fn request<T>(&self, message: T) -> Result<tonic::Request<T>, RPCError<TypeConfig>> {
        addressed(message, &self.peers.identity, self.to).map_err(|status| self.failed(&status))
    }

    /// A node that is not there, or is another one than was meant, is not asked again at once.
    fn failed(&self, status: &Status) -> RPCError<TypeConfig> {
        let text = format!(
            "node {} at {}: {}",
            self.to.node_id,
            self.address,
            status.message()
        );
        match status.code() {
            Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
                RPCError::Network(NetworkError::from_string(text))
            }
            _ => RPCError::Unreachable(Unreachable::from_string(text)),
        }
    }

    async fn append_stream<S>(
        &self,
        mut input: S,
        option: RPCOption,
    ) -> Result<BoxStream<'static, AppendResult>, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let sent = Arc::new(AtomicU64::new(0));
        // openraft waits its back-off within this stream, so a first request must be taken before anything can fail.
        let Some(first) = input.next().await else {
            return Ok(Box::pin(stream::empty()));
        };
        self.fence
            .check()
            .map_err(|lost| RPCError::Unreachable(Unreachable::new(&lost)))?;
        // All requests of one stream are of one leader in one term.
        let vote = first.vote.leader_id;
        let requests = {
            let (sent, log) = (Arc::clone(&sent), self.log.clone());
            stream::once(async { first })
                .chain(input)
                .map(move |request| {
                    sent.fetch_add(1, Ordering::AcqRel);
                    convert::append_to_proto(request, log.last_synced_index().unwrap_or(0))
                })
        };
        let mut client = self.client()?;
        let call = client.append(self.request(requests)?);
        // openraft gives a heartbeat no longer than that; for a stream the same would be too short on a slow network.
        let limit = match self.purpose {
            Purpose::Heartbeat => option.soft_ttl(),
            Purpose::Log | Purpose::Snapshot => OPEN,
        };
        let answers = within(limit, call)
            .await
            .map_err(|status| {
                self.reach.lost(self.to.node_id, &self.address, &status);
                self.failed(&status)
            })?
            .into_inner();
        let session = Session {
            answers,
            sent,
            received: 0,
            vote,
            fence: Arc::clone(&self.fence),
            reach: Arc::clone(&self.reach),
            to: self.to,
            from: self.peers.identity.node_id(),
            address: self.address.clone(),
        };
        Ok(Box::pin(stream::unfold(
            Some(session),
            |session| async move {
                let mut session = session?;
                let answer = session.next().await?;
                // openraft reads nothing after these.
                let ends = matches!(&answer, Err(_) | Ok(Err(_)));
                Some((answer, (!ends).then_some(session)))
            },
        )))
    }
}

/// One stream of appends and what came back so far.
struct Session {
    answers: Streaming<proto::AppendResponse>,
    sent: Arc<AtomicU64>,
    received: u64,
    vote: LeaderId,
    fence: Arc<Fence>,
    reach: Arc<Reach>,
    to: NodeName,
    from: u64,
    address: String,
}

impl Session {
    async fn next(&mut self) -> Option<AppendResult> {
        let answer = loop {
            let sent = self.sent.load(Ordering::Acquire);
            match tokio::time::timeout(STALL, self.answers.message()).await {
                Ok(answer) => break answer,
                // What was sent before this wait began is still unanswered.
                Err(_) if self.received < sent => {
                    return Some(Err(RPCError::Timeout(Timeout {
                        action: RPCTypes::AppendEntries,
                        id: self.from,
                        target: self.to.node_id,
                        timeout: STALL,
                    })));
                }
                Err(_) => {}
            }
        };
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return None,
            Err(status) => {
                let text = format!(
                    "node {} at {}: {}",
                    self.to.node_id,
                    self.address,
                    status.message()
                );
                return Some(Err(match status.code() {
                    Code::FailedPrecondition | Code::Unauthenticated | Code::InvalidArgument => {
                        RPCError::Unreachable(Unreachable::from_string(text))
                    }
                    _ => RPCError::Network(NetworkError::from_string(text)),
                }));
            }
        };
        self.received += 1;
        self.reach.found(self.to.node_id);
        Some(match convert::appended(answer) {
            Ok(result) => self.fenced(result),
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        })
    }

    /// Notes what the follower acknowledged, and ends the stream to one that lost some of it.
    fn fenced(&self, result: StreamAppendResult<TypeConfig>) -> AppendResult {
        match &result {
            Ok(Some(LogId { index, .. })) => self.fence.has(self.vote, *index),
            Err(StreamAppendError::Conflict(at)) => {
                self.fence
                    .conflict(self.vote, at.index)
                    .map_err(|lost| RPCError::Unreachable(Unreachable::new(&lost)))?;
            }
            Ok(None) | Err(StreamAppendError::HigherVote(_)) => {}
        }
        Ok(result)
    }
}

impl RaftNetworkV2<TypeConfig> for PeerLink {
    type SnapshotData = SnapshotFolder;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.soft_ttl();
        let mut answers = self
            .append_stream(Box::pin(stream::once(async { rpc })), option)
            .await?;
        match tokio::time::timeout(limit, answers.next()).await {
            Ok(Some(answer)) => answer.map(AppendEntriesResponse::from),
            Ok(None) => Err(self.failed(&Status::cancelled("it ended the call without an answer"))),
            Err(_) => Err(self.failed(&Status::deadline_exceeded("no answer in time"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answers: BoxStream<'s, AppendResult> = self.append_stream(input, option).await?;
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (mut client, request) = (
            self.client()?,
            self.request(convert::vote_request_to_proto(&rpc))?,
        );
        let answer = within(option.soft_ttl(), client.vote(request))
            .await
            .map_err(|status| self.failed(&status))?;
        let answer = convert::vote_response(answer.into_inner())
            .map_err(|error| self.failed(&error.into()))?;
        if answer.vote_granted {
            self.fence.has(rpc.vote.leader_id, 0);
        }
        Ok(answer)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = proto::PreVoteRequest {
            vote: Some(convert::vote_to_proto(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(convert::log_id_to_proto),
        };
        let (mut client, request) = (self.client()?, self.request(request)?);
        let answer = within(option.soft_ttl(), client.pre_vote(request))
            .await
            .map_err(|status| self.failed(&status))?;
        let proto::PreVoteResponse {
            vote,
            granted,
            last_log_id,
        } = answer.into_inner();
        let answer = proto::VoteResponse {
            vote,
            granted,
            last_log_id,
        };
        convert::vote_response(answer).map_err(|error| self.failed(&error.into()))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (mut client, request) = (
            self.client()?,
            self.request(convert::transfer_to_proto(&req))?,
        );
        let call = client.transfer_leader(request);
        let answer = within(option.soft_ttl(), call)
            .await
            .map_err(|status| self.failed(&status))?;
        convert::transferred(answer.into_inner()).map_err(|error| self.failed(&error.into()))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.fence
            .check()
            .map_err(|lost| StreamingError::Unreachable(Unreachable::new(&lost)))?;
        let head = convert::snapshot_head(&vote, &snapshot.meta);
        let (parts, held) =
            snapshot::send(self.store.clone(), snapshot.snapshot, head, self.driver);
        let (mut client, request) = (self.client()?, self.request(parts)?);
        // Not how long all of it may take: how long nothing may happen.
        let silence = option.hard_ttl();
        let call = async {
            let opened = tokio::time::timeout(silence, client.install_snapshot(request));
            let opened = opened
                .await
                .map_err(|_| snapshot::silent("receiver", silence));
            snapshot::follow(opened??.into_inner(), held, silence).await
        };
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            answer = call => answer,
        };
        let answer = answer.map_err(|status| StreamingError::from(self.failed(&status)))?;
        if let Some(last) = &snapshot.meta.last_log_id {
            self.fence.has(vote.leader_id, last.index);
        }
        let vote = convert::vote(Some(answer)).map_err(|error| self.failed(&error.into()))?;
        Ok(SnapshotResponse::new(vote))
    }
}
