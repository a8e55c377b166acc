//! Channels to the other nodes: one for each purpose, kept over terms.

use super::fence::Fences;
use super::handshake::NodeName;
use crate::identity::Identity;
use crate::net::Dial;
use crate::raft::convert;
use hyper_util::rt::TokioIo;
use ordo_storage::Member;
use ordo_wire::internal::v1 as proto;
use ordo_wire::v1::GetClusterStatusRequest;
use ordo_wire::v1::admin_service_client::AdminServiceClient;
use proto::peer_service_client::PeerServiceClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use uuid::Uuid;

/// Bytes of one message between nodes. An append holds 4 MiB of entries, or one entry of any size.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// HTTP/2 windows between nodes, in bytes.
pub(crate) const WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// How often a connection that nothing comes from is tried.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long the other side may take to answer that, busy as it may be. With the above it is how long a node may stay
/// behind on a connection that a partition left half dead.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls of one purpose have a connection of their own, so that a snapshot or a full append window can't hold up a
/// heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Log,
    Heartbeat,
    Snapshot,
}

/// The way to the other nodes.
#[derive(Clone)]
pub(crate) struct Peers {
    dial: Arc<dyn Dial>,
    pub(crate) identity: Arc<Identity>,
    /// What the others showed to have.
    pub(crate) fences: Fences,
    channels: Arc<Mutex<BTreeMap<(String, Purpose), Channel>>>,
    /// Where the membership says that nodes are now.
    places: Arc<Mutex<BTreeMap<(u64, Uuid), String>>>,
}

impl Peers {
    pub(crate) fn new(dial: Arc<dyn Dial>, identity: Arc<Identity>) -> Self {
        Self {
            dial,
            identity,
            fences: Fences::default(),
            channels: Arc::default(),
            places: Arc::default(),
        }
    }

    /// Takes over where nodes are: openraft keeps a link as it was made when a member moves.
    pub(crate) fn set_places<'a>(&self, members: impl Iterator<Item = (&'a u64, &'a Member)>) {
        let places = members.map(|(node_id, member)| {
            let name = (*node_id, member.storage_id);
            (name, member.peer.clone())
        });
        *self
            .places
            .lock()
            .expect("no code panics while it holds this lock") = places.collect();
    }

    /// Where a node is now, as far as the membership says; else at `address`.
    pub(crate) fn place_of(&self, node: NodeName, address: &str) -> String {
        let places = self
            .places
            .lock()
            .expect("no code panics while it holds this lock");
        let place = places.get(&(node.node_id, node.storage_id));
        place.map_or_else(|| address.to_owned(), String::clone)
    }

    /// A client for the node at `address`. Connects when it is used, again whenever the connection was lost.
    pub(crate) fn client(
        &self,
        address: &str,
        purpose: Purpose,
    ) -> Result<PeerServiceClient<Channel>, Status> {
        let mut channels = self
            .channels
            .lock()
            .expect("no code panics while it holds this lock");
        let key = (address.to_owned(), purpose);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.channel(address)?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(Self::over(channel))
    }

    fn over(channel: Channel) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| {
                Status::invalid_argument(format!("{address:?} is not an address: {error}"))
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let (dial, address) = (Arc::clone(&self.dial), address.to_owned());
        Ok(
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
                let dialled = dial.dial(&address);
                async move { dialled.await.map(TokioIo::new) }
            })),
        )
    }

    /// Who is at `address`.
    pub(crate) async fn identify(&self, address: &str) -> Result<Identified, Status> {
        // A connection of its own: whoever is there may be no member, now or ever.
        let mut client = Self::over(self.channel(address)?);
        let call = client.identify(Request::new(proto::IdentifyRequest {}));
        let response = within(CALL_TIMEOUT, call).await?.into_inner();
        let cluster_id = match response.cluster_id.is_empty() {
            true => None,
            false => Some(convert::uuid(&response.cluster_id)?),
        };
        Ok(Identified {
            name: NodeName {
                node_id: response.node_id,
                storage_id: convert::uuid(&response.storage_id)?,
            },
            cluster_id,
            initialized: response.initialized,
            public: response.public_address,
        })
    }

    /// The data folder of the node that answers clients at `address`.
    pub(crate) async fn storage_at(&self, address: &str) -> Result<Uuid, Status> {
        let mut client = AdminServiceClient::new(self.channel(address)?);
        let call = client.get_cluster_status(Request::new(GetClusterStatusRequest::default()));
        let response = within(CALL_TIMEOUT, call).await?.into_inner();
        Ok(convert::uuid(&response.storage_id)?)
    }

    /// Gives the node at `address` its cluster.
    pub(crate) async fn adopt(
        &self,
        address: &str,
        name: NodeName,
        cluster_id: Uuid,
    ) -> Result<(), Status> {
        let mut client = Self::over(self.channel(address)?);
        let call = client.adopt(Request::new(proto::AdoptRequest {
            cluster_id: convert::bytes_of(cluster_id),
            node_id: name.node_id,
            storage_id: convert::bytes_of(name.storage_id),
        }));
        within(CALL_TIMEOUT, call).await.map(|_| ())
    }
}

/// Who answered.
#[derive(Clone, Debug)]
pub(crate) struct Identified {
    pub(crate) name: NodeName,
    pub(crate) cluster_id: Option<Uuid>,
    pub(crate) initialized: bool,
    pub(crate) public: String,
}

/// `call`, or an error when it takes longer than `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {} ms",
            limit.as_millis()
        ))),
    }
}
