//! Which interfaces are set aside, on every node, for its log and its metrics.

use crate::metrics::{Metrics, gauge_of};
use ordo_core::{Effect, InterfaceId, State};
use std::collections::BTreeSet;

/// The interfaces that are quarantined, or are to be.
#[derive(Debug, Default)]
pub(super) struct SetAside(BTreeSet<InterfaceId>);

impl SetAside {
    /// Another state: looks at all of it.
    pub(super) fn look(&mut self, state: &State, metrics: &Metrics) {
        self.0.clear();
        for interface in state.interfaces() {
            if let Some(quarantine) = interface.set_aside_text() {
                self.0.insert(interface.id);
                tracing::error!(interface = %interface.name, "{quarantine}");
            }
        }
        self.tell(metrics);
    }

    /// What entries changed.
    pub(super) fn follow(&mut self, state: &State, effects: &[Effect], metrics: &Metrics) {
        for effect in effects {
            let Effect::Interface { interface: id } = effect else {
                continue;
            };
            let Some(interface) = state.interface(*id) else {
                continue;
            };
            match interface.set_aside_text() {
                Some(quarantine) => {
                    if self.0.insert(*id) {
                        tracing::error!(interface = %interface.name, "{quarantine}");
                    }
                }
                None => {
                    if self.0.remove(id) {
                        tracing::warn!(interface = %interface.name, "the quarantine is lifted: every invariant holds");
                    }
                }
            }
            self.tell(metrics);
        }
    }

    fn tell(&self, metrics: &Metrics) {
        metrics
            .quarantined_interfaces
            .set(gauge_of(self.0.len() as u64));
    }
}
