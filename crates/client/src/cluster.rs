//! What is known of the cluster: its nodes' addresses and who leads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::admin::Admin;
use crate::connector::{Connect, TcpConnector, endpoint};
use crate::consumer::ConsumerBuilder;
use crate::error::ConnectError;
use crate::producer::ProducerBuilder;
use crate::worker::WorkerBuilder;
use ordo_wire::lease::BootClock;
use ordo_wire::v1::GetClusterStatusRequest;
use ordo_wire::v1::admin_service_client::AdminServiceClient;

/// How long a leader is asked for its members, beside whatever it is used for.
const LEARN_MAX: Duration = Duration::from_secs(2);
/// Addresses remembered at most, those given and those learned together.
const ADDRESSES_MAX: usize = 64;

/// A cluster of Ordo nodes. Cheap to clone; all clones share what they learn about the leader.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Box<dyn Connect>,
    clock: BootClock,
    known: Mutex<Known>,
}

struct Known {
    /// Those given first, then those learned.
    addresses: Vec<String>,
    leader: Option<String>,
    /// The leader that was asked last who the members are.
    asked: Option<String>,
    /// Channels of calls that share a connection; streams have connections of their own.
    channels: BTreeMap<String, Channel>,
    random: StdRng,
}

impl Cluster {
    /// A cluster known by the addresses ("host:port") of any of its nodes. Connects when it is first used.
    ///
    /// # Errors
    /// No address is given, or one can't be used.
    pub fn connect<A>(addresses: impl IntoIterator<Item = A>) -> Result<Self, ConnectError>
    where
        A: Into<String>,
    {
        Self::builder().addresses(addresses).build()
    }

    /// A cluster with settings of its own.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            addresses: Vec::new(),
            connector: Box::new(TcpConnector),
            clock: BootClock::default(),
            seed: None,
        }
    }

    /// A producer with its defaults.
    #[must_use]
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// A worker, to be given its stages.
    #[must_use]
    pub fn worker(&self) -> WorkerBuilder {
        WorkerBuilder::new(self.clone())
    }

    /// A consumer, to be given its subscriptions.
    #[must_use]
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Administrative calls.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A random UUID (version 4) from the cluster's own generator, so that a seeded program repeats.
    #[must_use]
    pub fn random_uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.known().random.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A random number that is not 0, from the same generator.
    pub(crate) fn random_number(&self) -> u64 {
        self.known().random.random_range(1..=u64::MAX)
    }

    /// The clock by which a consumer's lease is counted.
    pub(crate) fn clock(&self) -> BootClock {
        self.shared.clock.clone()
    }

    /// Between half of `duration` and all of it, so that clients do not come back all at once.
    pub(crate) fn jittered(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.known().random.random_range(0.5..=1.0))
    }

    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn random_below(&self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            self.known().random.random_range(0..bound)
        }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.known().addresses.clone()
    }

    pub(crate) fn leader(&self) -> Option<String> {
        self.known().leader.clone()
    }

    pub(crate) fn set_leader(&self, address: &str) {
        let mut known = self.known();
        if known.leader.as_deref() != Some(address) {
            known.leader = Some(address.to_owned());
        }
        known.learn(address);
    }

    /// Asks a new leader, in the background, where the other members are: whoever was given one address survives the
    /// loss of that node. What fails is asked of the next leader.
    pub(crate) fn learn_members(&self, leader: &str) {
        {
            let mut known = self.known();
            if known.asked.as_deref() == Some(leader) {
                return;
            }
            known.asked = Some(leader.to_owned());
        }
        let Ok(channel) = self.shared_channel(leader) else {
            return;
        };
        let cluster = self.clone();
        tokio::spawn(async move {
            let mut client = AdminServiceClient::new(channel);
            let request = GetClusterStatusRequest::default();
            let status = tokio::time::timeout(LEARN_MAX, client.get_cluster_status(request)).await;
            if let Ok(Ok(status)) = status {
                let mut known = cluster.known();
                for node in status.into_inner().nodes {
                    known.learn(&node.public_address);
                }
            }
        });
    }

    /// Forgets that `address` leads, if that is what was thought.
    pub(crate) fn forget_leader(&self, address: &str) {
        let mut known = self.known();
        if known.leader.as_deref() == Some(address) {
            known.leader = None;
        }
    }

    /// A call to `address` was not answered in its time: the next one does not take it for the leader, and uses a new
    /// connection, since this one may be dead without a word.
    pub(crate) fn gave_no_answer(&self, address: &str) {
        self.known().channels.remove(address);
        self.forget_leader(address);
    }

    /// A new connection, for one stream: another stream that is not read can't fill its flow-control window.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, ConnectError> {
        self.shared.connector.channel(address)
    }

    /// The connection that calls share.
    pub(crate) fn shared_channel(&self, address: &str) -> Result<Channel, ConnectError> {
        if let Some(channel) = self.known().channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.channel(address)?;
        let mut known = self.known();
        if known.channels.len() >= ADDRESSES_MAX {
            known.channels.clear();
        }
        Ok(known
            .channels
            .entry(address.to_owned())
            .or_insert(channel)
            .clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in there can be left half changed by a panic.
        self.shared
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn learn(&mut self, address: &str) {
        let new = !address.is_empty() && !self.addresses.iter().any(|known| known == address);
        if new && self.addresses.len() < ADDRESSES_MAX {
            self.addresses.push(address.to_owned());
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known();
        f.debug_struct("Cluster")
            .field("addresses", &known.addresses)
            .field("leader", &known.leader)
            .finish()
    }
}

/// Settings of a [`Cluster`].
pub struct ClusterBuilder {
    addresses: Vec<String>,
    connector: Box<dyn Connect>,
    clock: BootClock,
    seed: Option<u64>,
}

impl ClusterBuilder {
    /// Adds addresses of nodes; any of the cluster's will do.
    #[must_use]
    pub fn addresses<A>(mut self, addresses: impl IntoIterator<Item = A>) -> Self
    where
        A: Into<String>,
    {
        self.addresses.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// Connects in another way than over TCP.
    #[must_use]
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Box::new(connector);
        self
    }

    /// Counts leases by another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: BootClock) -> Self {
        self.clock = clock;
        self
    }

    /// Seeds the generator that jitter and new ids are drawn from, so that a simulation repeats. Two programs with
    /// one seed choose the same message ids: never do this outside tests.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The cluster. Nothing is connected yet.
    ///
    /// # Errors
    /// No address was given, or one can't be used.
    pub fn build(self) -> Result<Cluster, ConnectError> {
        if self.addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        for address in &self.addresses {
            endpoint(address)?;
        }
        let random = self
            .seed
            .map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        let known = Known {
            addresses: self.addresses,
            leader: None,
            asked: None,
            channels: BTreeMap::new(),
            random,
        };
        Ok(Cluster {
            shared: Arc::new(Shared {
                connector: self.connector,
                clock: self.clock,
                known: Mutex::new(known),
            }),
        })
    }
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("addresses", &self.addresses)
            .field("seed", &self.seed)
            .finish()
    }
}
