//! openraft's log, on top of [`Log`].
//!
//! A log record is a head of 18 bytes (version, kind, term, node id) and the payload; its index is the record's own.
//! Payload bytes go from the network's buffer into the write buffer and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::vote::RaftLeaderId;
use openraft::{AsyncRuntime, OptionalSend};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::error::LogError;
use crate::log::{self, Head, Log, PurgePoint, Record};
use crate::runtime::OrdoRuntime;
use crate::store::StateStore;
use crate::types::{
    Entry, EntryData, EntryPayload, LeaderId, LogId, Member, Membership, TypeConfig, Vote,
};

/// The version byte of records.
const RECORD_VERSION: u8 = 1;
const HEAD_BYTES: usize = 18;
const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
/// How many bytes of entries one read returns to replication, and one chunk of a stream holds.
const READ_BYTES_MAX: usize = 4 << 20;

/// How a membership stands in a record. Our own shape, so that a new openraft can't change what old logs mean.
#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

/// The log as openraft writes it. One per log; readers are had from [`RaftLogStorage::get_log_reader`].
#[derive(Debug)]
pub struct RaftLog {
    reader: LogEntries,
    last: Option<LogId>,
}

/// The log as openraft reads it.
#[derive(Debug, Clone)]
pub struct LogEntries {
    log: Log,
    reads_off_thread: bool,
}

impl RaftLog {
    /// Takes over an open log, whose writer must be driven.
    ///
    /// # Errors
    /// Where the last record can't be read.
    pub fn open(log: Log) -> Result<Self, LogError> {
        let last = last_of(&log)?;
        Ok(Self {
            reader: LogEntries {
                log,
                reads_off_thread: true,
            },
            last,
        })
    }

    /// Drops entries that others have replaced, where the state or its newest snapshot says so. To be called before
    /// consensus starts, which takes such a log for damaged, or such entries for committed.
    ///
    /// A follower applies what its leader says is committed, which its own disk may not have yet. When it stops then, its
    /// log still ends in what another leader wrote at those places: an earlier one, or a later one that came to nothing
    /// (figure 8 of the Raft paper). None of that was ever committed: along what is, leaders only get later.
    ///
    /// # Errors
    /// Where a record can't be read.
    pub fn drop_replaced(&mut self, store: &StateStore) -> Result<(), LogError> {
        let snapshot = store.shelf().newest();
        let snapshot = snapshot.and_then(|snapshot| snapshot.meta.last_log_id);
        let applied = store.applied().last_log_id.max(snapshot);
        let (Some(last), Some(applied)) = (self.last, applied) else {
            return Ok(());
        };
        let mut kept = last.index;
        if last.index >= applied.index {
            match log_id_at(self.log(), applied.index)? {
                Some(own) if own != applied => kept = applied.index - 1,
                _ => return Ok(()),
            }
        }
        while log_id_at(self.log(), kept)?.is_some_and(|own| own.leader_id > applied.leader_id) {
            kept -= 1;
        }
        if kept < last.index {
            self.log().truncate(kept + 1)?;
            self.last = last_of(self.log())?;
            tracing::warn!(%last, %applied, "the log's end was replaced by another leader, and is dropped");
        }
        Ok(())
    }

    /// Reads old entries from the files in the calling task instead of a thread for blocking work. A simulation does,
    /// since its disk answers at once and threads are not part of its determinism.
    pub fn with_reads_on_task(mut self) -> Self {
        self.reader.reads_off_thread = false;
        self
    }

    /// The log below.
    pub fn log(&self) -> &Log {
        &self.reader.log
    }
}

/// The id of the last entry, or of the last that was purged.
fn last_of(log: &Log) -> Result<Option<LogId>, LogError> {
    let bounds = log.bounds();
    match bounds.last() {
        Some(index) => log_id_at(log, index),
        None => Ok(bounds.purge.map(purged_log_id)),
    }
}

/// The id of the entry at `index`, where there is one.
fn log_id_at(log: &Log, index: u64) -> Result<Option<LogId>, LogError> {
    let records = log.read(index, index + 1, usize::MAX)?;
    let record = records.into_iter().next();
    record
        .map(|record| decode(record).map(|entry| entry.log_id))
        .transpose()
}

fn purged_log_id(purge: PurgePoint) -> LogId {
    LogId {
        leader_id: LeaderId::new(purge.term, purge.node_id),
        index: purge.index,
    }
}

fn encode(entry: Entry) -> Result<Record, LogError> {
    let index = entry.log_id.index;
    let (kind, body) = match entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(data) => (KIND_NORMAL, data.0),
        EntryPayload::Membership(membership) => {
            (KIND_MEMBERSHIP, encode_membership(index, &membership)?)
        }
    };
    let leader = entry.log_id.leader_id;
    let mut head = [0u8; HEAD_BYTES];
    head[0] = RECORD_VERSION;
    head[1] = kind;
    head[2..10].copy_from_slice(&leader.term.to_le_bytes());
    head[10..18].copy_from_slice(&leader.node_id.to_le_bytes());
    Ok(Record {
        index,
        head: Head::new(head),
        body,
    })
}

fn decode(record: Record) -> Result<Entry, LogError> {
    let Record { index, head, body } = record;
    let unreadable = |what: &str| LogError::Unreadable {
        index,
        what: what.to_owned(),
    };
    let (head, body) = match head.as_slice() {
        [] if body.len() >= HEAD_BYTES => (body.slice(..HEAD_BYTES), body.slice(HEAD_BYTES..)),
        head => (Bytes::copy_from_slice(head), body),
    };
    if head.len() != HEAD_BYTES {
        return Err(unreadable("it is too short"));
    }
    if head[0] != RECORD_VERSION {
        return Err(unreadable(
            "it was written by a version this one does not know",
        ));
    }
    let number = |at: usize| {
        u64::from_le_bytes(
            head[at..at + 8]
                .try_into()
                .expect("eight bytes were sliced"),
        )
    };
    let payload = match head[1] {
        KIND_BLANK if body.is_empty() => EntryPayload::Blank,
        KIND_NORMAL => EntryPayload::Normal(EntryData(body)),
        KIND_MEMBERSHIP => EntryPayload::Membership(decode_membership(index, &body)?),
        _ => return Err(unreadable("it is of an unknown kind")),
    };
    let log_id = LogId {
        leader_id: LeaderId::new(number(2), number(10)),
        index,
    };
    Ok(Entry { log_id, payload })
}

fn encode_membership(index: u64, membership: &Membership) -> Result<Bytes, LogError> {
    let record = MembershipRecord {
        configs: membership.get_joint_config().clone(),
        nodes: membership
            .nodes()
            .map(|(id, member)| (*id, member.clone()))
            .collect(),
    };
    let bytes = postcard::to_stdvec(&record);
    bytes
        .map(Bytes::from)
        .map_err(|error| LogError::Unreadable {
            index,
            what: error.to_string(),
        })
}

fn decode_membership(index: u64, body: &[u8]) -> Result<Membership, LogError> {
    let unreadable = |what: String| LogError::Unreadable { index, what };
    let record: MembershipRecord =
        postcard::from_bytes(body).map_err(|error| unreadable(error.to_string()))?;
    Membership::new(record.configs, record.nodes).map_err(|error| unreadable(error.to_string()))
}

fn decode_all(records: Vec<Record>) -> io::Result<Vec<Entry>> {
    records
        .into_iter()
        .map(|record| decode(record).map_err(io::Error::from))
        .collect()
}

/// The half-open range of indexes that `range` means.
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl LogEntries {
    /// The log below.
    pub fn log(&self) -> &Log {
        &self.log
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        if !self.reads_off_thread || self.log.is_in_memory(start) {
            return decode_all(self.log.read(start, end, bytes_max)?);
        }
        let log = self.log.clone();
        let read = OrdoRuntime::spawn_blocking(move || log.read(start, end, bytes_max));
        decode_all(read.await??)
    }
}

impl RaftLogReader<TypeConfig> for LogEntries {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        let reader = self.clone();
        // A chunk at a time: a node that starts may have the whole log to apply.
        let chunks = stream::unfold(Some(start), move |next| {
            let reader = reader.clone();
            async move {
                let chunk = reader.read(next?, end, READ_BYTES_MAX).await;
                let next = chunk
                    .as_ref()
                    .ok()
                    .and_then(|entries| entries.last())
                    .map(|last| last.log_id.index + 1);
                match chunk {
                    Ok(entries) if entries.is_empty() => None,
                    Ok(entries) => Some((
                        stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
                        next,
                    )),
                    Err(error) => Some((stream::iter(vec![Err(error)]), None)),
                }
            }
        });
        Box::pin(chunks.flatten())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.log.vote();
        Ok(vote.map(|vote| Vote {
            leader_id: LeaderId::new(vote.term, vote.node_id),
            committed: vote.committed,
        }))
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = LogEntries;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.log().bounds().purge.map(purged_log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id: self.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (told, hears) = oneshot::channel();
        let vote = log::Vote {
            term: vote.leader_id.term,
            node_id: vote.leader_id.node_id,
            committed: vote.committed,
        };
        // Whoever asked may have given up; the vote is saved all the same.
        self.log()
            .save_vote(vote, Box::new(move |result| drop(told.send(result))));
        hears
            .await
            .map_err(|_| io::Error::from(LogError::Closed))?
            .map_err(io::Error::from)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log().set_committed(committed.index);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let Some(index) = self.log().committed() else {
            return Ok(None);
        };
        let purge = self.log().bounds().purge;
        if let Some(purge) = purge.filter(|purge| purge.index >= index) {
            return Ok(Some(purged_log_id(purge)));
        }
        let entries = self.reader.read(index, index + 1, usize::MAX).await?;
        Ok(entries.first().map(|entry| entry.log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut last = self.last;
        let mut records = Vec::new();
        for entry in entries {
            last = Some(entry.log_id);
            records.push(encode(entry)?);
        }
        let done = Box::new(move |result: Result<(), LogError>| {
            callback.io_completed(result.map_err(io::Error::from))
        });
        self.log().append(records, done)?;
        self.last = last;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.log()
            .truncate(last_log_id.map_or(0, |last| last.index + 1))?;
        let kept = last_log_id.filter(|kept| self.last.is_none_or(|last| kept.index < last.index));
        self.last = match (last_log_id, kept) {
            (None, _) => self.log().bounds().purge.map(purged_log_id),
            (Some(_), Some(kept)) => Some(kept),
            (Some(_), None) => self.last,
        };
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let LogId { leader_id, index } = log_id;
        self.log().purge(PurgePoint {
            term: leader_id.term,
            node_id: leader_id.node_id,
            index,
        })?;
        if self.last.is_none_or(|last| last.index <= index) {
            self.last = Some(log_id);
        }
        Ok(())
    }
}
