//! Raft's own rows in the state store: what was applied last. Written in the batch of the lump that applied it.

use crate::keys;
use crate::rows::{decode_fields, encode_fields};
use crate::store_engine::Engine;
use crate::store_error::StoreError;
use crate::types::{LeaderId, LogId, Member, Membership, SnapshotMeta, StoredMembership};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What was applied last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry; `None` before the first.
    pub last_log_id: Option<LogId>,
    /// The last membership.
    pub membership: StoredMembership,
}

impl Applied {
    /// The last entry's index; 0 before the first.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.last_log_id.map_or(0, |log_id| log_id.index)
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last_log_id,
            last_membership: self.membership.clone(),
        }
    }
}

/// A log id, as stored: permanent.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LogIdRow {
    term: u64,
    node_id: u64,
    index: u64,
}

impl From<LogId> for LogIdRow {
    fn from(log_id: LogId) -> Self {
        let leader = log_id.leader_id;
        Self {
            term: leader.term,
            node_id: leader.node_id,
            index: log_id.index,
        }
    }
}

impl From<LogIdRow> for LogId {
    fn from(row: LogIdRow) -> Self {
        Self::new(
            LeaderId {
                term: row.term,
                node_id: row.node_id,
            },
            row.index,
        )
    }
}

/// A membership, as stored: permanent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MembershipRow {
    log_id: Option<LogIdRow>,
    /// One set of voters, or two while it changes.
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

impl From<&StoredMembership> for MembershipRow {
    fn from(stored: &StoredMembership) -> Self {
        let membership = stored.membership();
        Self {
            log_id: stored.log_id().map(LogIdRow::from),
            configs: membership.get_joint_config().clone(),
            nodes: membership
                .nodes()
                .map(|(id, member)| (*id, member.clone()))
                .collect(),
        }
    }
}

impl MembershipRow {
    /// # Errors
    /// When a voter is no node: nothing that was stored.
    pub(crate) fn membership(self) -> Result<StoredMembership, String> {
        let membership =
            Membership::new(self.configs, self.nodes).map_err(|error| error.to_string())?;
        Ok(StoredMembership::new(
            self.log_id.map(LogId::from),
            membership,
        ))
    }
}

/// The rows to write so that a store at `before` says `after`.
pub(crate) fn rows(before: &Applied, after: &Applied) -> Vec<(&'static [u8], Vec<u8>)> {
    let mut rows = Vec::with_capacity(2);
    let mut put = |key, encode: &dyn Fn(&mut Vec<u8>)| {
        let mut row = Vec::with_capacity(32);
        encode(&mut row);
        rows.push((key, row));
    };
    put(keys::APPLIED, &|row| {
        encode_fields(&after.last_log_id.map(LogIdRow::from), row)
    });
    if before.membership != after.membership {
        put(keys::MEMBERSHIP, &|row| {
            encode_fields(&MembershipRow::from(&after.membership), row)
        });
    }
    rows
}

/// Reads what was applied last.
pub(crate) fn read(engine: &dyn Engine, folder: &str) -> Result<Applied, StoreError> {
    let damage = |what: String| StoreError::Damage {
        folder: folder.to_owned(),
        what,
    };
    let mut applied = Applied::default();
    if let Some(row) = engine.get(keys::APPLIED)? {
        let row: Option<LogIdRow> =
            decode_fields(&row).map_err(|error| damage(format!("last log id: {error}")))?;
        applied.last_log_id = row.map(LogId::from);
    }
    if let Some(row) = engine.get(keys::MEMBERSHIP)? {
        let row: MembershipRow =
            decode_fields(&row).map_err(|error| damage(format!("membership: {error}")))?;
        applied.membership = row
            .membership()
            .map_err(|error| damage(format!("membership: {error}")))?;
    }
    Ok(applied)
}
