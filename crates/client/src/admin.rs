//! Typed calls for interfaces, messages, dead letters and the cluster. Each follows the leader.

use std::time::Duration;

use ordo_wire::v1::admin_service_client::AdminServiceClient;
use ordo_wire::v1::{
    AddNodeRequest, CreateInterfaceRequest, DiscardDeadLetterRequest, ExplainInterfaceRequest,
    ExplainInterfaceResponse, GetClusterStatusRequest, GetClusterStatusResponse,
    GetDeadLetterRequest, GetDeadLetterResponse, GetInterfaceRequest, GetMessageRequest,
    InitClusterRequest, Interface, InterfaceConfig, ListDeadLettersRequest,
    ListDeadLettersResponse, ListInterfacesRequest, ListInterfacesResponse, Message,
    MoveNodeRequest, NoteDeliveryRequest, PromoteNodeRequest, RedriveDeadLetterRequest,
    RedriveDeadLetterResponse, RemoveNodeRequest, RepairInterfaceRequest, ResumeDeliveryRequest,
    SkipDeliveryRequest, TransferLeadershipRequest,
};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::error::{CallError, Refusal};
use crate::seek::Seek;
use crate::{FRAME_BYTES_MAX, bounded_reason, bytes_of, uuid_of};

type Client = AdminServiceClient<Channel>;

/// What kind of call it is: decides when it is repeated, and what an answer says about the node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Answered by the leader; a repeat does no harm.
    Read,
    /// Answered by any node.
    ReadAnywhere,
    /// Repeated only when the try before was certainly not executed.
    Change,
}

/// How a message is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKey {
    /// By its sequence.
    Sequence(u64),
    /// By its id.
    Id(Uuid),
}

/// Administrative calls. A call waits for a leader up to the time-out; reads are repeated meanwhile, changes only
/// when the try before was certainly not executed.
#[derive(Clone, Debug)]
pub struct Admin {
    cluster: Cluster,
    timeout: Duration,
}

impl Admin {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            timeout: Duration::from_secs(10),
        }
    }

    /// How long a call may take in all. Default 10 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Creates an interface. What `config` leaves 0 or empty takes its default.
    ///
    /// # Errors
    /// See [`CallError`]; so everywhere below.
    pub async fn create_interface(
        &self,
        name: &str,
        config: InterfaceConfig,
    ) -> Result<Interface, CallError> {
        let request = CreateInterfaceRequest {
            name: name.to_owned(),
            config: Some(config),
        };
        let response = self
            .call(Kind::Change, request, async |mut c, r| {
                c.create_interface(r).await
            })
            .await?;
        present(response.interface)
    }

    /// Replaces an interface's whole configuration; `config_version` is the version the change is made from.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn update_interface(
        &self,
        name: &str,
        config_version: u64,
        config: InterfaceConfig,
    ) -> Result<Interface, CallError> {
        let request = ordo_wire::v1::UpdateInterfaceRequest {
            name: name.to_owned(),
            config_version,
            config: Some(config),
        };
        let response = self
            .call(Kind::Change, request, async |mut c, r| {
                c.update_interface(r).await
            })
            .await?;
        present(response.interface)
    }

    /// An interface: its configuration and where it stands.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get_interface(&self, name: &str) -> Result<Interface, CallError> {
        let request = GetInterfaceRequest {
            name: name.to_owned(),
        };
        let response = self
            .call(Kind::Read, request, async |mut c, r| {
                c.get_interface(r).await
            })
            .await?;
        present(response.interface)
    }

    /// Asks for a repair of a quarantined interface: the quarantine is lifted where every invariant holds after what can
    /// be derived was derived afresh. One that is not quarantined stays as it is.
    ///
    /// # Errors
    /// See [`CallError`]. [`Reason::Quarantined`](ordo_wire::v1::Reason::Quarantined) where an invariant still does not
    /// hold, which the text names.
    pub async fn repair_interface(&self, name: &str) -> Result<Interface, CallError> {
        let request = RepairInterfaceRequest {
            name: name.to_owned(),
        };
        let response = self
            .call(Kind::Change, request, async |mut c, r| {
                c.repair_interface(r).await
            })
            .await?;
        present(response.interface)
    }

    /// One page of the interfaces, by name.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_interfaces(
        &self,
        request: ListInterfacesRequest,
    ) -> Result<ListInterfacesResponse, CallError> {
        let kind = if request.stale_ok {
            Kind::ReadAnywhere
        } else {
            Kind::Read
        };
        self.call(kind, request, async |mut c, r| c.list_interfaces(r).await)
            .await
    }

    /// Every interface whose name begins with `prefix`, by name.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn all_interfaces(&self, prefix: &str) -> Result<Vec<Interface>, CallError> {
        let mut all: Vec<Interface> = Vec::new();
        loop {
            let after = all
                .last()
                .map(|interface| interface.name.clone())
                .unwrap_or_default();
            let request = ListInterfacesRequest {
                prefix: prefix.to_owned(),
                after,
                limit: 0,
                stale_ok: false,
            };
            let page = self.list_interfaces(request).await?;
            let more = page.more && !page.interfaces.is_empty();
            all.extend(page.interfaces);
            if !more {
                return Ok(all);
            }
        }
    }

    /// One message's whole history.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get_message(
        &self,
        interface: &str,
        key: MessageKey,
    ) -> Result<Message, CallError> {
        let mut request = GetMessageRequest {
            interface: interface.to_owned(),
            ..Default::default()
        };
        match key {
            MessageKey::Sequence(sequence) => request.sequence = sequence,
            MessageKey::Id(message_id) => request.message_id = bytes_of(message_id),
        }
        let response = self
            .call(Kind::Read, request, async |mut c, r| c.get_message(r).await)
            .await?;
        present(response.message)
    }

    /// What the head of an interface waits for.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn explain_interface(
        &self,
        interface: &str,
    ) -> Result<ExplainInterfaceResponse, CallError> {
        let request = ExplainInterfaceRequest {
            interface: interface.to_owned(),
        };
        self.call(Kind::Read, request, async |mut c, r| {
            c.explain_interface(r).await
        })
        .await
    }

    /// One page of an interface's dead letters, by sequence. A `limit` of 0 is the node's own.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_dead_letters(
        &self,
        interface: &str,
        after_sequence: u64,
        limit: u32,
    ) -> Result<ListDeadLettersResponse, CallError> {
        let request = ListDeadLettersRequest {
            interface: interface.to_owned(),
            after_sequence,
            limit,
        };
        self.call(Kind::Read, request, async |mut c, r| {
            c.list_dead_letters(r).await
        })
        .await
    }

    /// A dead letter with its payload and history. `destination` is empty for one that failed in a stage.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get_dead_letter(
        &self,
        interface: &str,
        sequence: u64,
        destination: &str,
    ) -> Result<GetDeadLetterResponse, CallError> {
        let (interface, destination) = (interface.to_owned(), destination.to_owned());
        let request = GetDeadLetterRequest {
            interface,
            sequence,
            destination,
        };
        self.call(Kind::Read, request, async |mut c, r| {
            c.get_dead_letter(r).await
        })
        .await
    }

    /// Resolves a dead letter by throwing it away.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn discard_dead_letter(
        &self,
        interface: &str,
        sequence: u64,
        destination: &str,
    ) -> Result<(), CallError> {
        let (interface, destination) = (interface.to_owned(), destination.to_owned());
        let request = DiscardDeadLetterRequest {
            interface,
            sequence,
            destination,
        };
        self.call(Kind::Change, request, async |mut c, r| {
            c.discard_dead_letter(r).await
        })
        .await?;
        Ok(())
    }

    /// Puts a dead letter back to work: in place, or at the tail unless `in_place_only`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn redrive_dead_letter(
        &self,
        interface: &str,
        sequence: u64,
        destination: &str,
        in_place_only: bool,
    ) -> Result<RedriveDeadLetterResponse, CallError> {
        let (interface, destination) = (interface.to_owned(), destination.to_owned());
        let request = RedriveDeadLetterRequest {
            interface,
            sequence,
            destination,
            in_place_only,
        };
        self.call(Kind::Change, request, async |mut c, r| {
            c.redrive_dead_letter(r).await
        })
        .await
    }

    /// Gives up checkpoint + 1 for one destination: it becomes a dead letter for it, as if the receiver had rejected it.
    /// `turn` is the destination's turn as it was read: where another answer or decision came first, the call is refused
    /// ([`Reason::Stale`](ordo_wire::v1::Reason::Stale)) and nothing changes. The destination's turn then.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn skip_delivery(
        &self,
        interface: &str,
        destination: &str,
        sequence: u64,
        turn: u32,
    ) -> Result<u32, CallError> {
        let (interface, destination) = (interface.to_owned(), destination.to_owned());
        let request = SkipDeliveryRequest {
            interface,
            destination,
            sequence,
            turn,
        };
        let response = self
            .call(Kind::Change, request, async |mut c, r| {
                c.skip_delivery(r).await
            })
            .await?;
        Ok(response.turn)
    }

    /// Ends a destination's pause, so that checkpoint + 1 is sent now; one that is not paused stays as it is. With a
    /// `turn` it is refused where another answer or decision came first. The destination's turn then.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn resume_delivery(
        &self,
        interface: &str,
        destination: &str,
        turn: Option<u32>,
    ) -> Result<u32, CallError> {
        let (interface, destination) = (interface.to_owned(), destination.to_owned());
        let request = ResumeDeliveryRequest {
            interface,
            destination,
            turn: turn.unwrap_or(0),
        };
        let response = self
            .call(Kind::Change, request, async |mut c, r| {
                c.resume_delivery(r).await
            })
            .await?;
        Ok(response.turn)
    }

    /// Keeps what a receiver said of a message after its delivery was settled, with the message's history: eight notes
    /// a message at most, 1,024 bytes each, longer ones are cut. The same note again is kept once.
    ///
    /// # Errors
    /// See [`CallError`]. [`Reason::NotAcknowledged`](ordo_wire::v1::Reason::NotAcknowledged) as long as the destination
    /// has not acknowledged the message, [`Reason::CapReached`](ordo_wire::v1::Reason::CapReached) past the eight.
    pub async fn note_delivery(&self, mut note: NoteDeliveryRequest) -> Result<(), CallError> {
        note.text = bounded_reason(note.text);
        self.call(Kind::Change, note, async |mut c, r| {
            c.note_delivery(r).await
        })
        .await?;
        Ok(())
    }

    /// Makes the node at `address` and its configured peers a cluster; its id. Once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn init_cluster(&self, address: &str) -> Result<Uuid, CallError> {
        let request = async |mut client: Client| client.init_cluster(InitClusterRequest {}).await;
        match self.attempt(address, self.timeout, request).await {
            Ok(response) => Ok(uuid_of(&response.cluster_id)),
            Err(refusal) => Err(final_error(Box::new(refusal), Kind::Change)),
        }
    }

    /// The cluster as one of its nodes sees it, the leader where one is known. Whether a quorum says the same, only an
    /// answer with `leader_confirmed` tells.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn cluster_status(&self) -> Result<GetClusterStatusResponse, CallError> {
        let request = GetClusterStatusRequest::default();
        self.call(Kind::ReadAnywhere, request, async |mut c, r| {
            c.get_cluster_status(r).await
        })
        .await
    }

    /// The cluster as the node at `address` sees it. One try, of 2 s at most.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn cluster_status_of(
        &self,
        address: &str,
    ) -> Result<GetClusterStatusResponse, CallError> {
        let limit = self.timeout.min(Duration::from_secs(2));
        self.status_of(address, limit, false).await
    }

    /// The same, with the hash of the node's whole state, all of which it reads for that. One try.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn cluster_status_with_hash(
        &self,
        address: &str,
    ) -> Result<GetClusterStatusResponse, CallError> {
        self.status_of(address, self.timeout, true).await
    }

    async fn status_of(
        &self,
        address: &str,
        limit: Duration,
        with_state_hash: bool,
    ) -> Result<GetClusterStatusResponse, CallError> {
        let message = GetClusterStatusRequest { with_state_hash };
        let request = async |mut client: Client| client.get_cluster_status(message).await;
        let result = self.attempt(address, limit, request).await;
        result.map_err(|refusal| final_error(Box::new(refusal), Kind::Read))
    }

    /// Adds a node as a learner.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn add_node(&self, node: AddNodeRequest) -> Result<(), CallError> {
        self.call(Kind::Change, node, async |mut c, r| c.add_node(r).await)
            .await?;
        Ok(())
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn promote_node(&self, node_id: u64) -> Result<(), CallError> {
        let request = PromoteNodeRequest { node_id };
        self.call(Kind::Change, request, async |mut c, r| {
            c.promote_node(r).await
        })
        .await?;
        Ok(())
    }

    /// Says where a member is that was started at another address with its own data folder.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn move_node(&self, node: MoveNodeRequest) -> Result<(), CallError> {
        self.call(Kind::Change, node, async |mut c, r| c.move_node(r).await)
            .await?;
        Ok(())
    }

    /// Takes a node out of the cluster.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn remove_node(&self, node_id: u64) -> Result<(), CallError> {
        let request = RemoveNodeRequest { node_id };
        self.call(Kind::Change, request, async |mut c, r| {
            c.remove_node(r).await
        })
        .await?;
        Ok(())
    }

    /// Hands leadership to a node (None: any other voter); who leads then.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn transfer_leadership(&self, node_id: Option<u64>) -> Result<u64, CallError> {
        let request = TransferLeadershipRequest {
            node_id: node_id.unwrap_or(0),
        };
        let response = self
            .call(Kind::Change, request, async |mut c, r| {
                c.transfer_leadership(r).await
            })
            .await?;
        Ok(response.leader_id)
    }

    /// Calls the leader, and again while that makes sense and time is left.
    async fn call<Q, R, F>(
        &self,
        kind: Kind,
        request: Q,
        call: impl Fn(Client, Q) -> F,
    ) -> Result<R, CallError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut seek = Seek::new(self.cluster.clone());
        let mut last = Box::new(Refusal::local(
            Code::DeadlineExceeded,
            "no node was reached",
        ));
        loop {
            let Ok(address) = tokio::time::timeout_at(deadline, seek.next()).await else {
                return Err(CallError::Unsent(last));
            };
            let left = deadline.saturating_duration_since(Instant::now());
            // A read that hangs leaves time for another node; a change is waited for.
            let limit = if kind != Kind::Change {
                left.min(self.timeout / 3)
            } else {
                left
            };
            match self
                .attempt(&address, limit, |client| call(client, request.clone()))
                .await
            {
                Ok(response) => {
                    if kind != Kind::ReadAnywhere {
                        seek.succeeded(&address);
                    }
                    return Ok(response);
                }
                Err(refusal) => {
                    let again = refusal.is_transient()
                        && (kind != Kind::Change || refusal.is_certainly_unexecuted());
                    if !again {
                        return Err(final_error(Box::new(refusal), kind));
                    }
                    seek.failed(&address, &refusal);
                    *last = refusal;
                }
            }
        }
    }

    async fn attempt<R, F>(
        &self,
        address: &str,
        limit: Duration,
        call: impl FnOnce(Client) -> F,
    ) -> Result<R, Refusal>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let channel = self.cluster.shared_channel(address);
        let channel =
            channel.map_err(|error| Refusal::local(Code::InvalidArgument, error.to_string()))?;
        let client = AdminServiceClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        match timeout(limit, call(client)).await {
            Ok(result) => Ok(result?.into_inner()),
            Err(_) => {
                self.cluster.gave_no_answer(address);
                let text = format!("{address} did not answer in {} ms", limit.as_millis());
                Err(Refusal::local(Code::DeadlineExceeded, text))
            }
        }
    }
}

/// What a refusal that is not tried again means for the call.
fn final_error(refusal: Box<Refusal>, kind: Kind) -> CallError {
    if !refusal.is_transient() {
        CallError::Refused(refusal)
    } else if kind != Kind::Change || refusal.is_certainly_unexecuted() {
        CallError::Unsent(refusal)
    } else {
        CallError::OutcomeUnknown(refusal)
    }
}

/// What the protocol says is always there.
fn present<T>(field: Option<T>) -> Result<T, CallError> {
    let missing = || Refusal::local(Code::Internal, "the node's answer lacks what was asked for");
    field.ok_or_else(|| CallError::OutcomeUnknown(Box::new(missing())))
}
