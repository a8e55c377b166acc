//! openraft's own storage suite, over our log and a state machine that is just enough for it.

use std::io;
use std::sync::Arc;

use crate::log_support::{Outcome, tiny};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, StorageError};
use ordo_storage::log::{Log, LogThread};
use ordo_storage::{
    Entry, EntryData, EntryPayload, EntryReply, LeaderId, LogError, LogId, MemDisk, Member,
    Membership, RaftLog, Snapshot, SnapshotFolder, SnapshotMeta, StoredMembership, TypeConfig,
};

#[derive(Default)]
struct Machine {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

struct Builder(SnapshotMeta);

fn snapshot(meta: SnapshotMeta) -> Snapshot {
    Snapshot {
        meta,
        snapshot: SnapshotFolder {
            path: "unused".into(),
        },
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFolder;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Ok(snapshot(self.0.clone()))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFolder;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(EntryReply::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        self.snapshot = Some(meta.clone());
        Builder(meta)
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        _snapshot: SnapshotFolder,
    ) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshot.clone().map(snapshot))
    }
}

struct InMemory {
    reads_on_task: bool,
}

impl StoreBuilder<TypeConfig, RaftLog, Machine, LogThread> for InMemory {
    async fn build(&self) -> Result<(LogThread, RaftLog, Machine), StorageError<TypeConfig>> {
        let (log, writer) = Log::open(Arc::new(MemDisk::new()), tiny(1)).unwrap();
        let thread = writer.spawn().unwrap();
        let raft_log = RaftLog::open(log).unwrap();
        let raft_log = if self.reads_on_task {
            raft_log.with_reads_on_task()
        } else {
            raft_log
        };
        Ok((thread, raft_log, Machine::default()))
    }
}

#[tokio::test]
async fn openrafts_storage_suite_passes() {
    Suite::test_all(InMemory {
        reads_on_task: false,
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn openrafts_storage_suite_passes_with_reads_on_the_task() {
    Suite::test_all(InMemory {
        reads_on_task: true,
    })
    .await
    .unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId::new(term, 2),
        index,
    }
}

fn normal(index: u64, length: usize) -> Entry {
    let data = EntryData(Bytes::from(vec![index as u8; length]));
    Entry {
        log_id: log_id(3, index),
        payload: EntryPayload::Normal(data),
    }
}

async fn append(log: &mut RaftLog, entries: Vec<Entry>) {
    let (told, hears) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(told)).await.unwrap();
    hears.await.unwrap().unwrap();
}

fn reopen(disk: &MemDisk, seed: u64) -> (RaftLog, LogThread) {
    let (log, writer) = Log::open(Arc::new(disk.clone()), tiny(seed)).unwrap();
    let thread = writer.spawn().unwrap();
    (RaftLog::open(log).unwrap(), thread)
}

#[tokio::test]
async fn every_kind_of_entry_reads_back_from_memory_and_from_the_files() {
    let disk = MemDisk::new();
    let member = Member {
        peer: "a:7401".into(),
        public: "a:7400".into(),
        storage_id: uuid::Uuid::from_u128(7),
    };
    let nodes = std::collections::BTreeMap::from([(1, member.clone()), (2, member)]);
    let membership = Membership::new(vec![[1].into(), [1, 2].into()], nodes).unwrap();
    let mut entries = vec![
        Entry {
            log_id: log_id(1, 0),
            payload: EntryPayload::Membership(membership),
        },
        Entry {
            log_id: log_id(2, 1),
            payload: EntryPayload::Blank,
        },
    ];
    entries.extend((2..40).map(|index| normal(index, index as usize * 20)));
    let (mut log, thread) = reopen(&disk, 1);
    append(&mut log, entries.clone()).await;
    let mut reader = log.get_log_reader().await;
    assert!(
        !log.log().is_in_memory(0),
        "the beginning is to come from the files"
    );
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
    let streamed: Vec<_> = reader
        .entries_stream(0..40)
        .await
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(streamed, entries);
    thread.join();
    let (mut log, _thread) = reopen(&disk, 2);
    assert_eq!(
        log.get_log_state().await.unwrap().last_log_id,
        Some(log_id(3, 39))
    );
    assert_eq!(
        log.get_log_reader()
            .await
            .try_get_log_entries(..)
            .await
            .unwrap(),
        entries
    );
}

#[tokio::test]
async fn replication_reads_are_bounded_in_bytes_and_streams_go_through_all() {
    let disk = MemDisk::new();
    let (mut log, _thread) = reopen(&disk, 1);
    let entries: Vec<_> = (0..30).map(|index| normal(index, 1 << 20)).collect();
    append(&mut log, entries.clone()).await;
    let mut reader = log.get_log_reader().await;
    for start in 0..30 {
        let got = reader.limited_get_log_entries(start, 30).await.unwrap();
        assert!((1..=4).contains(&got.len()));
        assert_eq!(got, entries[start as usize..start as usize + got.len()]);
    }
    let streamed: Vec<_> = reader
        .entries_stream(3..=28)
        .await
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(streamed, entries[3..29]);
}

#[tokio::test]
async fn last_and_purged_ids_vote_and_committed_survive_a_restart() {
    let disk = MemDisk::new();
    let (mut log, thread) = reopen(&disk, 1);
    append(&mut log, (0..20).map(|index| normal(index, 100)).collect()).await;
    log.save_vote(&ordo_storage::Vote {
        leader_id: LeaderId::new(8, 5),
        committed: true,
    })
    .await
    .unwrap();
    log.save_committed(Some(log_id(3, 15))).await.unwrap();
    log.truncate_after(Some(log_id(3, 17))).await.unwrap();
    log.purge(log_id(3, 4)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    thread.join();
    let (mut log, thread) = reopen(&disk, 2);
    assert_eq!(log.get_log_state().await.unwrap(), state);
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(log_id(3, 4)), Some(log_id(3, 17)))
    );
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(3, 15)));
    let vote = log
        .get_log_reader()
        .await
        .read_vote()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (vote.leader_id, vote.committed),
        (LeaderId::new(8, 5), true)
    );
    // Past the end: the state machine was ahead of the log.
    log.purge(log_id(4, 50)).await.unwrap();
    let outcome = Outcome::default();
    log.log().flush(outcome.done());
    thread.join();
    assert!(outcome.is_ok());
    let (mut log, _thread) = reopen(&disk, 3);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(log_id(4, 50)), Some(log_id(4, 50)))
    );
    append(&mut log, vec![normal(51, 10)]).await;
}

#[tokio::test]
async fn a_failing_disk_reaches_openraft_and_payloads_stay_out_of_texts() {
    let disk = MemDisk::new();
    let (mut log, _thread) = reopen(&disk, 1);
    disk.fail_after(0);
    let (told, hears) = TypeConfig::oneshot();
    let secret = Entry {
        log_id: log_id(1, 0),
        payload: EntryPayload::Normal(Bytes::from_static(b"PID|secret").into()),
    };
    assert!(!format!("{secret} {secret:?}").contains("secret"));
    log.append(vec![secret], IOFlushed::signal(told))
        .await
        .unwrap();
    let error = hears.await.unwrap().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot write log file 00000000000000000001.segment"),
        "{error}"
    );
    let vote = ordo_storage::Vote {
        leader_id: LeaderId::new(8, 5),
        committed: true,
    };
    assert!(log.save_vote(&vote).await.is_err());
    assert!(matches!(log.log().failure(), Some(LogError::Io { .. })));
}
