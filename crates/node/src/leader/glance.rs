//! A look at the state and at what the leader has in hand, at one applied index.

use super::dispatcher::{Dispatcher, Now};
use super::events::{LineKey, Place};
use super::releaser::Releaser;
use ordo_core::{ClusterTime, State};
use std::sync::Arc;
use std::time::Duration;

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

impl Glance<'_> {
    /// The cluster's time.
    #[must_use]
    pub const fn cluster_time(&self) -> ClusterTime {
        self.now.cluster
    }

    /// The worker that has a message now, and for how long it has had it.
    #[must_use]
    pub fn holder_of(&self, place: Place) -> Option<(Arc<str>, Duration)> {
        let (dispatcher, _) = self.loops?;
        let held = dispatcher.held.get(&place)?;
        let worker = dispatcher.workers.get(&held.session)?;
        Some((
            Arc::clone(&worker.name),
            self.now.instant.saturating_duration_since(held.since),
        ))
    }

    /// How many workers are connected for a stage and serve an interface.
    #[must_use]
    pub fn workers_for(&self, stage: &str, interface: &str) -> usize {
        let Some((dispatcher, _)) = self.loops else {
            return 0;
        };
        let Some(queue) = dispatcher.stages.get(stage) else {
            return 0;
        };
        let connected = dispatcher
            .workers
            .values()
            .filter(|worker| worker.push.is_some() && !worker.draining);
        connected
            .filter(|worker| worker.stages.contains(queue) && interface.starts_with(&worker.prefix))
            .count()
    }

    /// How many deliveries to an (interface, destination) are not acknowledged.
    #[must_use]
    pub fn in_flight(&self, key: LineKey) -> usize {
        self.loops
            .map_or(0, |(_, releaser)| releaser.in_flight(key))
    }
}
