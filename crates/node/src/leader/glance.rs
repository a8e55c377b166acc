//! A look at the state and at what the leader has in hand, at one applied index.

use super::dispatcher::{Dispatcher, Now};
use super::events::{LineKey, Place};
use super::releaser::Releaser;
use ordo_core::{ClusterTime, State};

/// A look at the state and at what the leader has in hand, at one applied index.
pub struct Glance<'a> {
    /// The state.
    pub state: &'a State,
    /// The last applied log index.
    pub applied_index: u64,
    pub(crate) now: Now,
    /// `None` where this node does not lead.
    pub(crate) loops: Option<(&'a Dispatcher, &'a Releaser)>,
}

/// A worker that has a message.
#[derive(Clone, Debug, Default)]
pub struct InHand {
    /// Its name.
    pub worker: String,
    /// For how long it has had it, in milliseconds.
    pub worked_on_ms: u64,
    /// How often it has extended its lease.
    pub lease_extensions: u32,
}

impl Glance<'_> {
    /// The cluster's time.
    #[must_use]
    pub const fn cluster_time(&self) -> ClusterTime {
        self.now.cluster
    }

    /// Who has a message now.
    #[must_use]
    pub fn holder_of(&self, place: Place) -> Option<InHand> {
        let (dispatcher, _) = self.loops?;
        let held = dispatcher.held.get(&place)?;
        let worker = dispatcher.workers.get(&held.session)?;
        let worked_on = self.now.instant.saturating_duration_since(held.since);
        Some(InHand {
            worker: worker.name.to_string(),
            worked_on_ms: u64::try_from(worked_on.as_millis()).unwrap_or(u64::MAX),
            lease_extensions: held.extensions,
        })
    }

    /// How many workers are connected for a stage and serve an interface, without those that lost a lease and have
    /// said nothing since.
    #[must_use]
    pub fn workers_for(&self, stage: &str, interface: &str) -> usize {
        let Some((dispatcher, _)) = self.loops else {
            return 0;
        };
        let Some(queue) = dispatcher.stages.get(stage) else {
            return 0;
        };
        let crews = dispatcher.queues[*queue].crews.serving(interface);
        let workers = crews.flat_map(|(_, crew)| &crew.workers);
        workers
            .filter_map(|session| dispatcher.workers.get(session))
            .filter(|worker| worker.is_there())
            .count()
    }

    /// How many deliveries to an (interface, destination) are not acknowledged.
    #[must_use]
    pub fn in_flight(&self, key: LineKey) -> usize {
        self.loops
            .map_or(0, |(_, releaser)| releaser.in_flight(key))
    }
}
