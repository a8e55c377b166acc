//! What the services of a node share.

use crate::admission::Admission;
use crate::config::Config;
use crate::identity::Identity;
use crate::leader;
use crate::membership::ClusterAdmin;
use crate::metrics::Metrics;
use crate::proposer::{Proposer, WallClock};
use crate::raft::{Peers, Raft};
use crate::rooms::Rooms;
use ordo_storage::{MachineHandle, StateStore};
use rand::rngs::StdRng;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the services of a node share.
pub struct Context {
    /// The configuration.
    pub config: Arc<Config>,
    /// Which node this is.
    pub identity: Arc<Identity>,
    /// Consensus.
    pub raft: Raft,
    /// The thread that applies entries: queries and events for the leader's loops go there.
    pub machine: MachineHandle<leader::Event>,
    /// Bodies and records, readable from any thread.
    pub store: StateStore,
    /// The way into the log.
    pub proposer: Proposer,
    /// Whether there is room for more.
    pub admission: Arc<Admission>,
    /// Which nodes have room.
    pub(crate) rooms: Arc<Rooms>,
    /// The cluster's membership.
    pub cluster: Arc<dyn ClusterAdmin>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Milliseconds since 1970.
    pub wall: WallClock,
    /// Randomness; a simulation seeds it.
    pub rng: Arc<Mutex<StdRng>>,
    /// The way to the other nodes.
    pub(crate) peers: Peers,
    /// Cancelled when the node begins to stop: streams end then.
    pub stop: CancellationToken,
}

impl Context {
    /// A random id.
    #[must_use]
    pub fn draw_uuid(&self) -> Uuid {
        draw_uuid(&self.rng)
    }
}

/// A random id from `rng`.
pub(crate) fn draw_uuid(rng: &Mutex<StdRng>) -> Uuid {
    use rand::Rng;
    let random = rng
        .lock()
        .expect("no code panics while it holds this lock")
        .random();
    uuid::Builder::from_random_bytes(random).into_uuid()
}
