//! The Admin service: interfaces, messages, dead letters, and the cluster itself.

mod dead_letters;
mod deliveries;
mod explain;
mod interfaces;
mod messages;

use super::{failed, lead, not_leader, stopped};
use crate::config::PeerConfig;
use crate::context::Context;
use crate::leader::{Event, Glance};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use ordo_core::{Command, Interface, Reply};
use ordo_wire::request::quoted;
use ordo_wire::status::Failure;
use ordo_wire::v1::admin_service_server::AdminService;
use ordo_wire::v1::{self, Reason};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};
use tonic::{Request, Response, Status};

/// How long a read waits for a quorum to confirm that this node leads.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
/// How long a change waits for its quorum.
const CHANGED_WITHIN: Duration = Duration::from_secs(10);
/// Items of a list, where the request says nothing.
const LIST_DEFAULT: u32 = 1_000;
/// Items of a list at most.
const LIST_MAX: u32 = 10_000;

/// See [`AdminService`].
pub(super) struct Admin {
    context: Arc<Context>,
    /// One note at a time: how many a message has is counted before the next is proposed.
    noting: Mutex<()>,
}

impl Admin {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            noting: Mutex::new(()),
        }
    }

    /// Proposes one change and waits.
    async fn change(&self, command: Command) -> Result<Reply, Failure> {
        lead(&self.context).await?;
        let proposed =
            tokio::time::timeout(CHANGED_WITHIN, self.context.proposer.propose_one(command)).await;
        let reply = proposed.map_err(|_| {
            let text = format!(
                "no quorum agreed within {} s; the change may still be made",
                CHANGED_WITHIN.as_secs()
            );
            Failure::new(Reason::OutcomeUnknown, text)
        })?;
        match reply.map_err(|error| failed(&self.context, error))? {
            Reply::Refused(refusal) => Err(Failure::from(&refusal)),
            reply => Ok(reply),
        }
    }

    /// Asks at one applied index: one that reflects every acknowledged change, unless the caller is content with
    /// less.
    async fn read<T: Send + 'static>(
        &self,
        stale_ok: bool,
        question: impl FnOnce(Glance<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if !stale_ok {
            self.confirm().await?;
        }
        let (answer, answered) = oneshot::channel();
        self.context
            .machine
            .send(Event::Ask(Box::new(move |glance| {
                // Whoever asked may have gone.
                let _ = answer.send(question(glance));
            })));
        answered.await.map_err(|_| stopped(&self.context))
    }

    /// Makes sure that this node leads and has applied whatever was acknowledged before.
    async fn confirm(&self) -> Result<(), Failure> {
        lead(&self.context).await?;
        let confirmed = self.context.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(CONFIRMED_WITHIN, confirmed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => {
                Err(not_leader(&self.context))
            }
            Ok(Err(RaftError::Fatal(_))) => Err(stopped(&self.context)),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                let text = "no quorum confirms that this node leads";
                Err(Failure {
                    text: text.to_owned(),
                    ..Failure::not_leader(None)
                })
            }
        }
    }

    /// Asks about one interface.
    async fn read_interface<T: Send + 'static>(
        &self,
        name: &str,
        stale_ok: bool,
        question: impl FnOnce(&Interface, &Glance<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let wanted = name.to_owned();
        let there = self.read(stale_ok, move |glance| {
            let interface = glance.state.interface_named(&wanted)?;
            Some(question(interface, &glance))
        });
        there.await?.ok_or_else(|| unknown_interface(name))
    }
}

fn unknown_interface(name: &str) -> Failure {
    Failure::new(
        Reason::UnknownInterface,
        format!("interface {} is unknown", quoted(name)),
    )
}

fn limit_of(given: u32) -> usize {
    let limit = if given == 0 {
        LIST_DEFAULT
    } else {
        given.min(LIST_MAX)
    };
    limit as usize
}

type Answer<T> = Result<Response<T>, Status>;

fn respond<T>(result: Result<T, Failure>) -> Answer<T> {
    result.map(Response::new).map_err(Status::from)
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_interface(
        &self,
        request: Request<v1::CreateInterfaceRequest>,
    ) -> Answer<v1::CreateInterfaceResponse> {
        respond(self.create(request.into_inner()).await)
    }

    async fn update_interface(
        &self,
        request: Request<v1::UpdateInterfaceRequest>,
    ) -> Answer<v1::UpdateInterfaceResponse> {
        respond(self.update(request.into_inner()).await)
    }

    async fn get_interface(
        &self,
        request: Request<v1::GetInterfaceRequest>,
    ) -> Answer<v1::GetInterfaceResponse> {
        respond(self.get(&request.into_inner().name).await)
    }

    async fn list_interfaces(
        &self,
        request: Request<v1::ListInterfacesRequest>,
    ) -> Answer<v1::ListInterfacesResponse> {
        respond(self.list(request.into_inner()).await)
    }

    async fn repair_interface(
        &self,
        request: Request<v1::RepairInterfaceRequest>,
    ) -> Answer<v1::RepairInterfaceResponse> {
        respond(self.repair(&request.into_inner().name).await)
    }

    async fn get_message(
        &self,
        request: Request<v1::GetMessageRequest>,
    ) -> Answer<v1::GetMessageResponse> {
        respond(self.message(request.into_inner()).await)
    }

    async fn explain_interface(
        &self,
        request: Request<v1::ExplainInterfaceRequest>,
    ) -> Answer<v1::ExplainInterfaceResponse> {
        respond(self.explain(&request.into_inner().interface).await)
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Answer<v1::ListDeadLettersResponse> {
        respond(self.dead_letters(request.into_inner()).await)
    }

    async fn get_dead_letter(
        &self,
        request: Request<v1::GetDeadLetterRequest>,
    ) -> Answer<v1::GetDeadLetterResponse> {
        respond(self.dead_letter(request.into_inner()).await)
    }

    async fn discard_dead_letter(
        &self,
        request: Request<v1::DiscardDeadLetterRequest>,
    ) -> Answer<v1::DiscardDeadLetterResponse> {
        respond(self.discard(request.into_inner()).await)
    }

    async fn redrive_dead_letter(
        &self,
        request: Request<v1::RedriveDeadLetterRequest>,
    ) -> Answer<v1::RedriveDeadLetterResponse> {
        respond(self.redrive(request.into_inner()).await)
    }

    async fn skip_delivery(
        &self,
        request: Request<v1::SkipDeliveryRequest>,
    ) -> Answer<v1::SkipDeliveryResponse> {
        respond(self.skip(request.into_inner()).await)
    }

    async fn resume_delivery(
        &self,
        request: Request<v1::ResumeDeliveryRequest>,
    ) -> Answer<v1::ResumeDeliveryResponse> {
        respond(self.resume(request.into_inner()).await)
    }

    async fn note_delivery(
        &self,
        request: Request<v1::NoteDeliveryRequest>,
    ) -> Answer<v1::NoteDeliveryResponse> {
        respond(self.note(request.into_inner()).await)
    }

    async fn init_cluster(
        &self,
        _: Request<v1::InitClusterRequest>,
    ) -> Answer<v1::InitClusterResponse> {
        let cluster_id = self.context.cluster.init().await?;
        Ok(Response::new(v1::InitClusterResponse {
            cluster_id: super::bytes_of(cluster_id),
        }))
    }

    async fn get_cluster_status(
        &self,
        request: Request<v1::GetClusterStatusRequest>,
    ) -> Answer<v1::GetClusterStatusResponse> {
        let with_state_hash = request.into_inner().with_state_hash;
        respond(self.context.cluster.status(with_state_hash).await)
    }

    async fn add_node(&self, request: Request<v1::AddNodeRequest>) -> Answer<v1::AddNodeResponse> {
        let v1::AddNodeRequest {
            node_id,
            peer_address,
            public_address,
            replace,
        } = request.into_inner();
        let node = PeerConfig {
            node_id: check_node_id(node_id)?,
            peer: check_peer_address(peer_address)?,
            public: public_address,
        };
        respond(
            self.context
                .cluster
                .add(node, replace)
                .await
                .map(|()| v1::AddNodeResponse {}),
        )
    }

    async fn move_node(
        &self,
        request: Request<v1::MoveNodeRequest>,
    ) -> Answer<v1::MoveNodeResponse> {
        let v1::MoveNodeRequest {
            node_id,
            peer_address,
            public_address,
        } = request.into_inner();
        let node = PeerConfig {
            node_id: check_node_id(node_id)?,
            peer: check_peer_address(peer_address)?,
            public: public_address,
        };
        let moved = self.context.cluster.move_node(node).await;
        respond(moved.map(|()| v1::MoveNodeResponse {}))
    }

    async fn promote_node(
        &self,
        request: Request<v1::PromoteNodeRequest>,
    ) -> Answer<v1::PromoteNodeResponse> {
        let node_id = check_node_id(request.into_inner().node_id)?;
        respond(
            self.context
                .cluster
                .promote(node_id)
                .await
                .map(|()| v1::PromoteNodeResponse {}),
        )
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Answer<v1::RemoveNodeResponse> {
        let node_id = check_node_id(request.into_inner().node_id)?;
        respond(
            self.context
                .cluster
                .remove(node_id)
                .await
                .map(|()| v1::RemoveNodeResponse {}),
        )
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Answer<v1::TransferLeadershipResponse> {
        let node_id = request.into_inner().node_id;
        let leader_id = self
            .context
            .cluster
            .transfer((node_id != 0).then_some(node_id))
            .await;
        respond(leader_id.map(|leader_id| v1::TransferLeadershipResponse { leader_id }))
    }
}

fn check_peer_address(address: String) -> Result<String, Failure> {
    match address.is_empty() {
        true => Err(Failure::field(
            "peer_address",
            "peer_address is empty; host:port is expected",
        )),
        false => Ok(address),
    }
}

fn check_node_id(node_id: u64) -> Result<u64, Failure> {
    match node_id {
        0 => Err(Failure::field(
            "node_id",
            "node_id is 0; nodes are numbered from 1",
        )),
        node_id => Ok(node_id),
    }
}
