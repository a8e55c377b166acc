//! The cluster itself: how it begins, who is in it, who leads.

mod begin;
mod hand;
mod tell;

use crate::config::{Config, PeerConfig};
use crate::identity::Identity;
use crate::raft::{Machine, Peers, RaftOf};
use crate::rooms::Rooms;
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics, ReadPolicy, ServerState};
use ordo_storage::{Member, TypeConfig};
use ordo_wire::status::Failure;
use ordo_wire::v1::{self, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a change waits for its quorum, and a transfer for the new leader.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// How long the others may take to show that they are there.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How many entries a node may lack and still be made a voter: they take no time.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// How long it takes to look again at a change that could not be ended.
const END_AGAIN: Duration = Duration::from_millis(500);

/// What an operator can do to the cluster. Served by the admin service; each call that needs the leader is refused
/// with a hint elsewhere.
#[tonic::async_trait]
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Gives the cluster its id and its first members, those of this node's configuration. Once, on any node; after
    /// a failure it can be called again and goes on where it stopped.
    async fn init(&self) -> Result<Uuid, Failure>;
    /// Adds a node that runs and has no cluster yet, as a learner. Where a member of that number has another data
    /// folder, `replace` takes it out first.
    async fn add(&self, node: PeerConfig, replace: bool) -> Result<(), Failure>;
    /// Says where a member is that runs with its own data folder at another address.
    async fn move_node(&self, node: PeerConfig) -> Result<(), Failure>;
    /// Makes a learner that has caught up a voter.
    async fn promote(&self, node_id: u64) -> Result<(), Failure>;
    /// Takes a node out.
    async fn remove(&self, node_id: u64) -> Result<(), Failure>;
    /// Hands leadership to a voter, or to the one that is furthest of those that have room; answers who leads then.
    async fn transfer(&self, node_id: Option<u64>) -> Result<u64, Failure>;
    /// Hands leadership to a voter that has caught up and certainly has room; answers who leads then.
    async fn transfer_to_room(&self) -> Result<u64, Failure>;
    /// What this node knows.
    async fn status(&self, with_state_hash: bool) -> Result<v1::GetClusterStatusResponse, Failure>;
}

/// The hash of the whole state and the index it is of.
pub type StateHash = Box<dyn Fn() -> BoxFuture<'static, Option<(u64, Vec<u8>)>> + Send + Sync>;

/// [`ClusterAdmin`] over openraft.
pub(crate) struct Membership<SM: Machine> {
    pub(crate) raft: RaftOf<SM>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) config: Arc<Config>,
    pub(crate) peers: Peers,
    pub(crate) draw: Box<dyn Fn() -> Uuid + Send + Sync>,
    pub(crate) state_hash: StateHash,
    pub(crate) rooms: Arc<Rooms>,
    /// One change at a time, so that two of one node can't get into each other's way.
    pub(crate) changing: Mutex<()>,
}

fn refused(text: impl Into<String>) -> Failure {
    Failure::new(Reason::Membership, text)
}

impl<SM: Machine> Membership<SM> {
    fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    fn own_id(&self) -> u64 {
        self.identity.node_id()
    }

    /// Consensus as it stands, where this node leads.
    fn leading(&self) -> Result<RaftMetrics<TypeConfig>, Failure> {
        let metrics = self.metrics();
        if metrics.membership_config.nodes().next().is_none() {
            let text =
                "this cluster has not been initialized: run `ordo cluster init` once, on any node";
            return Err(Failure::new(Reason::NotInitialized, text));
        }
        match metrics.current_leader {
            Some(leader) if leader == self.own_id() && metrics.state == ServerState::Leader => {
                Ok(metrics)
            }
            leader => Err(not_leader(&metrics, leader)),
        }
    }

    /// The same, with no change of the members half done: one that is, is ended first.
    async fn settled(&self) -> Result<RaftMetrics<TypeConfig>, Failure> {
        let metrics = self.leading()?;
        let membership = metrics.membership_config.membership();
        let [_, .., wanted] = membership.get_joint_config().as_slice() else {
            return Ok(metrics);
        };
        // Its first half may not be committed yet; consensus refuses the second one before.
        if !self.committed(&metrics).await {
            return Err(slow());
        }
        tracing::info!(voters = ?wanted, "ending a membership change that was begun before");
        let wanted = ChangeMembers::ReplaceAllVoters(wanted.clone());
        self.change(wanted).await?;
        let is_whole = |now: &RaftMetrics<TypeConfig>| {
            let membership = now.membership_config.membership();
            membership.get_joint_config().len() == 1
        };
        match self.wait(is_whole).await {
            true => self.leading(),
            false => Err(slow()),
        }
    }

    /// Waits until what `metrics` say of the members is so for good. What a leader has written of them counts for it at
    /// once, and may yet come to nothing; and it may have been replaced without a word.
    async fn agreed(&self, metrics: &RaftMetrics<TypeConfig>) -> Result<(), Failure> {
        let written = metrics.membership_config.log_id();
        let confirmed = async {
            self.committed(metrics).await
                && self
                    .raft
                    .ensure_linearizable(ReadPolicy::ReadIndex)
                    .await
                    .is_ok()
        };
        let confirmed = timeout(CHANGE_WITHIN, confirmed).await;
        match self.leading()?.membership_config.log_id() == written {
            true if confirmed == Ok(true) => Ok(()),
            _ => Err(slow()),
        }
    }

    /// Waits until what `metrics` say of the members is committed.
    async fn committed(&self, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let written = metrics.membership_config.log_id();
        self.wait(|now| now.local_committed >= *written).await
    }

    async fn change(&self, members: ChangeMembers<u64, Member>) -> Result<(), Failure> {
        match timeout(CHANGE_WITHIN, self.raft.change_membership(members, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.change_failed(error)),
            Err(_) => Err(slow()),
        }
    }

    fn change_failed(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Failure {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                Failure::not_leader(forward.leader_node.map(|member| member.public))
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                refused(error.to_string())
            }
            RaftError::APIError(error) => Failure::new(Reason::OutcomeUnknown, error.to_string()),
            RaftError::Fatal(error) => {
                Failure::new(Reason::OutcomeUnknown, format!("this node stops: {error}"))
            }
        }
    }

    /// Takes a node out that is not this one.
    async fn take_out(
        &self,
        metrics: &RaftMetrics<TypeConfig>,
        node_id: u64,
    ) -> Result<(), Failure> {
        let out = BTreeSet::from([node_id]);
        match self.goes_on_without(metrics, node_id).await? {
            Had::Vote => self.change(ChangeMembers::RemoveVoters(out)).await,
            Had::NoVote => self.change(ChangeMembers::RemoveNodes(out)).await,
        }
    }

    /// Whether the node votes; a refusal where it does and the cluster would stand still without it.
    async fn goes_on_without(
        &self,
        metrics: &RaftMetrics<TypeConfig>,
        node_id: u64,
    ) -> Result<Had, Failure> {
        let membership = &metrics.membership_config;
        if membership.get_node(&node_id).is_none() {
            self.agreed(metrics).await?;
            return Err(unknown(node_id));
        }
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        if !voters.remove(&node_id) {
            return Ok(Had::NoVote);
        }
        if voters.is_empty() {
            return Err(refused(format!("node {node_id} is the only voter")));
        }
        let needed = voters.len() / 2 + 1;
        let own = usize::from(node_id != self.own_id());
        let count = |alive: &BTreeSet<u64>| voters.intersection(alive).count() + own;
        let alive = count(&self.answering(|alive| count(alive) >= needed).await);
        if alive < needed {
            return Err(refused(format!(
                "without node {node_id} the cluster would stand still: of its other {} voters {alive} answer and \
                 {needed} are needed",
                voters.len()
            )));
        }
        Ok(Had::Vote)
    }

    /// Ends changes that an earlier leader did not live to end, whenever this node leads, until `stop` is cancelled; and
    /// keeps links going to where the membership says that nodes are.
    ///
    /// A change of voters is two entries: both old and new voters decide between them. openraft leaves the second one
    /// to whoever asked for the change, and so to nobody when that leader is gone.
    pub(crate) async fn end_changes(self: Arc<Self>, stop: CancellationToken) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let joint = {
                let metrics = metrics.borrow_watched();
                let membership = metrics.membership_config.membership();
                self.peers.set_places(membership.nodes());
                metrics.state.is_leader() && membership.get_joint_config().len() > 1
            };
            let ended = async {
                if joint {
                    self.end_change().await;
                    tokio::time::sleep(END_AGAIN).await;
                    true
                } else {
                    metrics.changed().await.is_ok()
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                go_on = ended => if !go_on { return },
            }
        }
    }

    async fn end_change(&self) {
        // One that this node makes itself ends before this lock is free.
        let _alone = self.changing.lock().await;
        if let Err(failure) = self.settled().await {
            tracing::warn!("no membership change was ended: {}", failure.text);
        }
    }

    /// Waits until `holds`, or [`CHANGE_WITHIN`] has passed; says whether it does.
    async fn wait(&self, mut holds: impl FnMut(&RaftMetrics<TypeConfig>) -> bool) -> bool {
        let mut metrics = self.raft.metrics();
        let wait = async {
            while !holds(&metrics.borrow_watched()) {
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        timeout(CHANGE_WITHIN, wait).await.unwrap_or(false)
    }
}

fn not_leader(metrics: &RaftMetrics<TypeConfig>, leader: Option<u64>) -> Failure {
    let member = leader.and_then(|leader| metrics.membership_config.get_node(&leader));
    Failure::not_leader(member.map(|member| member.public.clone()))
}

fn slow() -> Failure {
    let text = format!(
        "no quorum agreed within {} s; the change may still be made",
        CHANGE_WITHIN.as_secs()
    );
    Failure::new(Reason::OutcomeUnknown, text)
}

fn matched(metrics: &RaftMetrics<TypeConfig>, node_id: u64) -> Option<u64> {
    let progress = metrics.replication.as_ref()?.get(&node_id)?.as_ref()?;
    Some(progress.index)
}

/// What a node had that is taken out.
enum Had {
    Vote,
    NoVote,
}

#[tonic::async_trait]
impl<SM: Machine> ClusterAdmin for Membership<SM> {
    async fn init(&self) -> Result<Uuid, Failure> {
        let _alone = self.changing.lock().await;
        let initialized = self.raft.is_initialized().await;
        if initialized.map_err(|error| refused(format!("this node stops: {error}")))? {
            let cluster_id = self.identity.cluster_id().unwrap_or_default();
            let text = format!("this node belongs to cluster {cluster_id} already");
            return Err(Failure::new(Reason::AlreadyInitialized, text));
        }
        if self.config.peers.is_empty() {
            return Err(refused(
                "the configuration of this node names no [[peers]] to begin a cluster with",
            ));
        }
        let (members, earlier) = self.find_members().await?;
        let cluster_id = earlier.unwrap_or_else(|| (self.draw)());
        // In the order of their numbers: of two attempts at once one loses at its first step, with nothing done.
        for (node_id, member) in &members {
            self.adopt(*node_id, member, cluster_id).await?;
        }
        let initialized = self.raft.initialize(members).await;
        initialized
            .map_err(|error| refused(format!("the cluster was not initialized: {error}")))?;
        tracing::info!(%cluster_id, "the cluster is initialized");
        // For the operator's next command; without a leader within that time the cluster is there all the same.
        self.wait(|metrics| metrics.current_leader.is_some()).await;
        Ok(cluster_id)
    }

    async fn add(&self, node: PeerConfig, replace: bool) -> Result<(), Failure> {
        let _alone = self.changing.lock().await;
        let metrics = self.settled().await?;
        let at = format!("node {} at {}", node.node_id, node.peer);
        let found = self.peers.identify(&node.peer).await;
        let found = found
            .map_err(|status| refused(format!("{at} can't be reached: {}", status.message())))?;
        if found.name.node_id != node.node_id {
            return Err(refused(format!(
                "{at} says that it is node {}",
                found.name.node_id
            )));
        }
        let known = metrics.membership_config.get_node(&node.node_id);
        let replaced = match known {
            None => false,
            // Once more, after an answer that was lost, is fine.
            Some(known) if known.storage_id == found.name.storage_id => {
                let public = node.public.is_empty() || known.public == node.public;
                return match known.peer == node.peer && public {
                    true => self.agreed(&metrics).await,
                    false => Err(refused(format!(
                        "node {} is a member already, at {}, with this very data folder: if it was moved, run `ordo \
                         cluster move {} --peer {} --public {}`",
                        node.node_id, known.peer, node.node_id, node.peer, node.public
                    ))),
                };
            }
            Some(known) if !replace => {
                return Err(refused(format!(
                    "node {} is a member already, at {} with storage {}, and this is another data folder: replace it \
                     (--replace), or remove that one first",
                    node.node_id, known.peer, known.storage_id
                )));
            }
            Some(_) => true,
        };
        let own = self
            .identity
            .cluster_id()
            .ok_or_else(|| refused("this node has no cluster id"))?;
        if found.cluster_id.is_some_and(|other| other != own) {
            return Err(refused(format!(
                "{at} belongs to another cluster; its data folder must be emptied first"
            )));
        }
        let public = if node.public.is_empty() {
            found.public
        } else {
            node.public
        };
        let member = Member {
            peer: node.peer,
            public,
            storage_id: found.name.storage_id,
        };
        if replaced {
            self.take_out(&metrics, node.node_id).await?;
        }
        self.adopt(node.node_id, &member, own).await?;
        match timeout(
            CHANGE_WITHIN,
            self.raft.add_learner(node.node_id, member, false),
        )
        .await
        {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.change_failed(error)),
            Err(_) => Err(slow()),
        }
    }

    async fn move_node(&self, node: PeerConfig) -> Result<(), Failure> {
        let _alone = self.changing.lock().await;
        let metrics = self.settled().await?;
        let node_id = node.node_id;
        let membership = &metrics.membership_config;
        let Some(known) = membership.get_node(&node_id) else {
            self.agreed(&metrics).await?;
            return Err(unknown(node_id));
        };
        let at = format!("node {node_id} at {}", node.peer);
        let found = self.peers.identify(&node.peer).await;
        let found = found
            .map_err(|status| refused(format!("{at} can't be reached: {}", status.message())))?;
        if found.name.node_id != node_id {
            let other = found.name.node_id;
            return Err(refused(format!("{at} says that it is node {other}")));
        }
        if found.name.storage_id != known.storage_id {
            return Err(refused(replaced(
                node_id,
                &Member {
                    peer: node.peer,
                    public: node.public,
                    storage_id: known.storage_id,
                },
            )));
        }
        let public = match node.public.is_empty() {
            true => found.public,
            false => node.public,
        };
        let taken = membership
            .nodes()
            .find(|(other, member)| **other != node_id && member.public == public);
        if let Some((other, _)) = taken {
            return Err(refused(format!(
                "{public} is where clients reach node {other}"
            )));
        }
        let member = Member {
            peer: node.peer,
            public,
            storage_id: known.storage_id,
        };
        // Once more, after an answer that was lost, is fine.
        if member == *known {
            return self.agreed(&metrics).await;
        }
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node_id, member)])))
            .await
    }

    async fn promote(&self, node_id: u64) -> Result<(), Failure> {
        let _alone = self.changing.lock().await;
        let metrics = self.settled().await?;
        let Some(member) = metrics.membership_config.get_node(&node_id).cloned() else {
            self.agreed(&metrics).await?;
            return Err(unknown(node_id));
        };
        let found = self.peers.identify(&member.peer).await;
        if let Ok(found) = &found
            && found.name.node_id == node_id
            && found.name.storage_id != member.storage_id
        {
            return Err(refused(replaced(node_id, &member)));
        }
        if metrics
            .membership_config
            .voter_ids()
            .any(|voter| voter == node_id)
        {
            self.agreed(&metrics).await?;
            return Err(refused(format!("node {node_id} votes already")));
        }
        if let Err(status) = found {
            return Err(refused(format!(
                "node {node_id} at {} can't be reached: {}",
                member.peer,
                status.message()
            )));
        }
        let (has, last) = (
            matched(&metrics, node_id).unwrap_or(0),
            metrics.last_log_index.unwrap_or(0),
        );
        if has + CAUGHT_UP_ENTRIES < last {
            return Err(refused(format!(
                "node {node_id} has not caught up: it has {has} of {last} log entries"
            )));
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node_id])))
            .await
    }

    async fn remove(&self, node_id: u64) -> Result<(), Failure> {
        let alone = self.changing.lock().await;
        let metrics = self.settled().await?;
        if node_id == self.own_id() {
            // The next leader does it: whoever called is sent there.
            self.goes_on_without(&metrics, node_id).await?;
            drop(alone);
            let leader = self.transfer(None).await?;
            return Err(not_leader(&self.metrics(), Some(leader)));
        }
        self.take_out(&metrics, node_id).await
    }

    async fn transfer(&self, node_id: Option<u64>) -> Result<u64, Failure> {
        let _alone = self.changing.lock().await;
        let metrics = self.leading()?;
        let own = self.own_id();
        let voters = metrics
            .membership_config
            .voter_ids()
            .filter(|voter| *voter != own);
        let voters: BTreeSet<u64> = voters.collect();
        match node_id {
            Some(node_id) if node_id == own => return Ok(own),
            Some(node_id) if metrics.membership_config.get_node(&node_id).is_none() => {
                return Err(unknown(node_id));
            }
            Some(node_id) if !voters.contains(&node_id) => {
                return Err(refused(format!(
                    "node {node_id} is no voter: promote it first"
                )));
            }
            Some(node_id) => {
                // It would hand leadership on at once.
                if let Some(lacks) = self.rooms.lacks(node_id) {
                    return Err(refused(format!("node {node_id} lacks room: {lacks}")));
                }
            }
            None => {}
        }
        let wanted = match node_id {
            Some(node_id) => BTreeSet::from([node_id]),
            None => voters,
        };
        match (self.hand_to(&metrics, &wanted).await?, node_id) {
            (Some(leader), _) => Ok(leader),
            (None, Some(node_id)) => Err(refused(format!("node {node_id} does not answer"))),
            (None, None) => Err(refused("no other voter answers")),
        }
    }

    async fn transfer_to_room(&self) -> Result<u64, Failure> {
        let _alone = self.changing.lock().await;
        let metrics = self.leading()?;
        let own = self.own_id();
        let last = metrics.last_log_index.unwrap_or(0);
        let able = metrics.membership_config.voter_ids().filter(|voter| {
            let has = matched(&metrics, *voter).unwrap_or(0);
            *voter != own && has + CAUGHT_UP_ENTRIES >= last && self.rooms.is_ample(*voter)
        });
        let able: BTreeSet<u64> = able.collect();
        let leader = self.hand_to(&metrics, &able).await?;
        leader.ok_or_else(|| refused("no voter that has caught up and has room answers"))
    }

    async fn status(&self, with_state_hash: bool) -> Result<v1::GetClusterStatusResponse, Failure> {
        Ok(self.tell(with_state_hash).await)
    }
}

/// What is to be done about a member whose data folder is another one than the membership's.
fn replaced(node_id: u64, member: &Member) -> String {
    format!(
        "node {node_id} was replaced: its data folder is not the one that the membership knows, and it takes no part. `ordo \
         cluster add {node_id} --peer {} --public {} --replace` takes it in again, and `ordo cluster promote {node_id}` \
         gives it a vote",
        member.peer, member.public
    )
}

fn unknown(node_id: u64) -> Failure {
    refused(format!("node {node_id} is not a member of this cluster"))
}
