//! Consensus: openraft, set up for Ordo, and the way nodes talk.

mod ask_room;
mod calls;
mod convert;
mod fence;
mod handshake;
mod network;
mod peer_service;
mod recall;
mod snapshot;

pub(crate) use ask_room::ask_room;
pub(crate) use calls::{KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, MESSAGE_BYTES_MAX, Peers, WINDOW_BYTES};
pub(crate) use convert::bytes_of;
pub use fence::Standing;
pub(crate) use handshake::NodeName;
pub(crate) use network::PeerNetwork;
pub(crate) use peer_service::PeerService;
pub(crate) use recall::recall;

use crate::config::RaftTiming;
use openraft::storage::RaftStateMachine;
use openraft::{SnapshotPolicy, StepDownPolicy};
use ordo_storage::TypeConfig;
use std::sync::Arc;

/// openraft with a state machine.
pub(crate) type RaftOf<SM> = openraft::Raft<TypeConfig, SM>;

/// The handle of this node's consensus.
pub type Raft = RaftOf<ordo_storage::Machine<crate::leader::Event>>;

/// A state machine whose snapshots are folders.
pub(crate) trait Machine:
    RaftStateMachine<TypeConfig, SnapshotData = ordo_storage::SnapshotFolder>
{
}

impl<SM: RaftStateMachine<TypeConfig, SnapshotData = ordo_storage::SnapshotFolder>> Machine for SM {}

/// Entries of one append: storage cuts by bytes before this cuts by count.
const PAYLOAD_ENTRIES_MAX: u64 = 1_024;

/// What openraft is told.
///
/// # Panics
/// Never: the configuration was checked.
pub(crate) fn settings(timing: &RaftTiming) -> Arc<openraft::Config> {
    let config = openraft::Config {
        cluster_name: "ordo".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_ms_min,
        election_timeout_max: timing.election_ms_max,
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_entries),
        max_in_snapshot_log_to_keep: timing.keep_entries,
        purge_batch_size: 256,
        // A follower gets a snapshot when the log no longer has what it lacks, not for being slow: entries are
        // cheaper to send than the whole state.
        replication_lag_threshold: timing.snapshot_entries.saturating_mul(4),
        // How long nothing may happen in a transfer or an installation; neither has a limit of its own.
        install_snapshot_timeout: 120_000,
        removed_leader_step_down: StepDownPolicy::After(timing.heartbeat_ms),
        enable_pre_vote: Some(true),
        // The state is not durable when it is applied, and the commit index is not saved: a leader that came back
        // could lead with a state it has yet to replay.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        backoff: "100ms 200ms ...1000ms".to_owned(),
        ..openraft::Config::default()
    };
    Arc::new(config.validate().expect("the configuration was checked"))
}

#[cfg(test)]
mod tests {
    use super::settings;
    use crate::config::RaftTiming;

    #[test]
    fn the_defaults_are_fit_for_openraft_and_replace_a_dead_leader_in_two_seconds() {
        let timing = RaftTiming::default();
        let config = settings(&timing);
        assert_eq!(
            (config.enable_pre_vote, config.enable_leader_restore),
            (Some(true), Some(false))
        );
        assert!(timing.takeover_max().as_millis() < 2_000);
    }
}
