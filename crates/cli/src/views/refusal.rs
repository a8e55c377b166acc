//! What a gateway refused.

use ordo_gateway::refusals::Refused;
use serde::Serialize;

use super::time;
use crate::output::Row;

/// A refused message, in a list.
#[derive(Serialize)]
pub struct RefusalRow {
    at_ms: u64,
    interface: String,
    peer: String,
    control_id: String,
    reason: String,
}

impl From<Refused> for RefusalRow {
    fn from(refused: Refused) -> Self {
        Self {
            at_ms: refused.unix_ms,
            interface: refused.interface,
            peer: refused.peer,
            control_id: refused.control_id,
            reason: refused.reason,
        }
    }
}

impl Row for RefusalRow {
    const HEADINGS: &'static [&'static str] = &["at", "interface", "peer", "control id", "reason"];

    fn cells(&self) -> Vec<String> {
        vec![
            time(self.at_ms),
            self.interface.clone(),
            self.peer.clone(),
            self.control_id.clone(),
            self.reason.clone(),
        ]
    }
}
