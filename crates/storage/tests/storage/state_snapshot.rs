//! Snapshots: made while entries are applied, sent, received, installed, and what a crash or damage on the way leaves.

use crate::state_support::{Running, Script, assert_same, log_id};
use bytes::Bytes;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use ordo_storage::{
    MemoryState, Snapshot, SnapshotChunk, SnapshotHeld, SnapshotReader, SnapshotReceiver,
    StateStore, StoreError,
};
use std::fs;
use std::path::Path;

/// Bytes of a chunk here.
const CHUNK: usize = 10_000;

async fn build(running: &mut Running<()>) -> Snapshot {
    let mut builder = running
        .machine
        .try_create_snapshot_builder(true)
        .await
        .unwrap();
    builder.build_snapshot().await.unwrap()
}

async fn install(running: &mut Running<()>, snapshot: Snapshot) {
    let installed = running
        .machine
        .install_snapshot(&snapshot.meta, snapshot.snapshot);
    installed.await.unwrap();
}

/// A node that has applied the first `count` entries of a script, and its snapshot of them.
async fn applied(folder: &Path, seed: u64, count: usize) -> (Script, Running<()>, Snapshot) {
    let mut script = Script::new(seed);
    let mut running = Running::open(folder).unwrap();
    running.apply(script.take(count)).await.unwrap();
    let snapshot = build(&mut running).await;
    (script, running, snapshot)
}

fn chunks(snapshot: &Snapshot) -> (Vec<SnapshotChunk>, u64, u64) {
    let mut reader = SnapshotReader::open(&snapshot.snapshot).unwrap();
    assert_eq!(*reader.meta(), snapshot.meta);
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk(CHUNK).unwrap() {
        assert!(chunk.data.len() <= CHUNK);
        chunks.push(chunk);
    }
    (chunks, reader.files(), reader.bytes())
}

async fn send(snapshot: &Snapshot, to: &StateStore) -> Result<Snapshot, StoreError> {
    let (chunks, files, bytes) = chunks(snapshot);
    let mut receiver = SnapshotReceiver::begin(to)?;
    chunks.iter().try_for_each(|chunk| receiver.chunk(chunk))?;
    Ok(receiver.finish(files, bytes).await?.snapshot)
}

/// Sends what is not there yet, at most `chunks_max` chunks of it. Returns what was held, what was sent, and the
/// snapshot where it is whole.
async fn resume(
    snapshot: &Snapshot,
    to: &StateStore,
    chunks_max: usize,
) -> Result<(Vec<SnapshotHeld>, u64, Option<Snapshot>), StoreError> {
    let mut reader = SnapshotReader::open(&snapshot.snapshot)?;
    let mut receiver = SnapshotReceiver::begin(to)?;
    while !reader.is_behind_manifest() {
        receiver.chunk(&reader.next_chunk(CHUNK)?.unwrap())?;
    }
    let held = receiver.held()?;
    reader.leave_out(&held)?;
    let mut sent = 0;
    for _ in 0..chunks_max {
        let Some(chunk) = reader.next_chunk(CHUNK)? else {
            let received = receiver.finish(reader.files(), reader.bytes()).await?;
            return Ok((held, sent, Some(received.snapshot)));
        };
        sent += chunk.data.len() as u64;
        receiver.chunk(&chunk)?;
    }
    Ok((held, sent, None))
}

fn names(folder: &Path) -> Vec<String> {
    let all = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = all
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_snapshot_sent_to_another_node_is_the_same_state_and_goes_on() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut script, mut leader, snapshot) = applied(here.path(), 21, 300).await;
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(300)));
    assert_eq!(*snapshot.meta.last_membership.log_id(), Some(log_id(1)));
    assert_eq!(leader.store.flushed_index(), 300);
    assert_eq!(
        leader
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .unwrap()
            .meta,
        snapshot.meta
    );

    let mut follower = Running::open(there.path()).unwrap();
    follower.apply(Script::new(21).take(40)).await.unwrap();
    let received = send(&snapshot, &follower.store).await.unwrap();
    assert_eq!(received.meta, snapshot.meta);
    install(&mut follower, received).await;
    assert_same(&follower, &script).await;
    assert_eq!(follower.store.applied(), leader.store.applied());
    assert_eq!(
        follower
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .unwrap()
            .meta,
        snapshot.meta
    );

    let more = script.take(100);
    leader.apply(more.clone()).await.unwrap();
    follower.apply(more).await.unwrap();
    assert_same(&leader, &script).await;
    assert_same(&follower, &script).await;
    follower.stop().await;
    // The old table files are gone, and what comes back is the new state.
    assert_eq!(names(&there.path().join("state")), ["00000002"]);
    let follower = Running::open(there.path()).unwrap();
    assert_same(&follower, &script).await;
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn snapshots_are_made_while_entries_are_applied_and_only_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(22);
    let mut running = Running::open(folder.path()).unwrap();
    let mut newest = 0;
    for _ in 0..6 {
        let mut builder = running
            .machine
            .try_create_snapshot_builder(true)
            .await
            .unwrap();
        let building = tokio::spawn(async move { builder.build_snapshot().await.unwrap() });
        for _ in 0..10 {
            running.apply(script.take(10)).await.unwrap();
        }
        let snapshot = building.await.unwrap();
        let index = snapshot.meta.last_log_id.map_or(0, |log_id| log_id.index);
        assert!(newest <= index && index <= script.index);
        assert!(
            running.store.flushed_index() >= index,
            "a snapshot is never ahead of what is durable"
        );
        newest = index;
        // It is exactly the state of the index it says: a node that installs it is that replica.
        let other = tempfile::tempdir().unwrap();
        let mut installed = Running::open(other.path()).unwrap();
        install(&mut installed, snapshot).await;
        if index > 0 {
            assert_same(&installed, &Script::at(22, index)).await;
        }
        installed.stop().await;
    }
    assert!(names(&folder.path().join("snapshots")).len() <= 2);
    // At the same index there is nothing new to make.
    let one = build(&mut running).await;
    let same = build(&mut running).await;
    assert_eq!((same.meta, same.snapshot), (one.meta, one.snapshot));
    assert_same(&running, &script).await;
    running.stop().await;
}

#[tokio::test]
async fn a_store_in_memory_makes_and_installs_snapshots_too() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut script = Script::new(23);
    let mut leader = Running::in_memory(&MemoryState::default(), here.path());
    leader.apply(script.take(200)).await.unwrap();
    let snapshot = build(&mut leader).await;
    let memory = MemoryState::default();
    let mut follower = Running::in_memory(&memory, there.path());
    let received = send(&snapshot, &follower.store).await.unwrap();
    install(&mut follower, received).await;
    assert_same(&follower, &script).await;
    drop(follower);
    let follower = Running::in_memory(&memory, there.path());
    assert_same(&follower, &script).await;
    follower.stop().await;
    leader.stop().await;
}

/// One thing wrong with a transfer, and what is said about it.
type Wrong = (&'static str, fn(&mut Vec<SnapshotChunk>));

fn again(chunk: &mut SnapshotChunk, data: Vec<u8>) {
    chunk.data = Bytes::from(data);
    chunk.crc32c = crc32c::crc32c(&chunk.data);
}

const WRONGS: &[Wrong] = &[
    ("checksum of", |chunks| chunks[2].crc32c ^= 1),
    ("checksum of", |chunks| {
        // A flip on the sender's disk: the chunk's own checksum is right.
        let mut data = chunks[3].data.to_vec();
        data[5] ^= 1;
        again(&mut chunks[3], data);
    }),
    ("manifest", |chunks| {
        let mut data = chunks[0].data.to_vec();
        data[20] ^= 1;
        again(&mut chunks[0], data);
    }),
    ("manifest", |chunks| drop(chunks.remove(0))),
    ("did not come", |chunks| {
        let last = chunks.last().unwrap().file.clone();
        chunks.retain(|chunk| chunk.file != last);
    }),
    ("is not what comes next", |chunks| {
        chunks[1].file = "../../IDENTITY".to_owned()
    }),
    ("is not what comes next", |chunks| {
        let again = chunks[1].clone();
        chunks.push(again);
    }),
    ("belongs", |chunks| chunks[1].offset += 1),
    ("longer than", |chunks| {
        let last = chunks.len() - 1;
        let data = [&chunks[last].data[..], b"more"].concat();
        again(&mut chunks[last], data);
    }),
    ("instead of", |chunks| {
        let last = chunks.len() - 1;
        let data = chunks[last].data[1..].to_vec();
        again(&mut chunks[last], data);
    }),
];

#[tokio::test]
async fn a_transfer_with_anything_wrong_is_refused_and_leaves_no_snapshot() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (script, leader, snapshot) = applied(here.path(), 24, 300).await;
    let follower = Running::open(there.path()).unwrap();
    for (says, wrong) in WRONGS {
        let (mut chunks, files, bytes) = chunks(&snapshot);
        wrong(&mut chunks);
        let mut receiver = SnapshotReceiver::begin(&follower.store).unwrap();
        let taken = chunks.iter().try_for_each(|chunk| receiver.chunk(chunk));
        let error = match taken {
            Err(error) => {
                drop(receiver);
                error
            }
            Ok(()) => receiver.finish(files, bytes).await.unwrap_err(),
        };
        assert!(
            matches!(&error, StoreError::Transfer(what) if what.contains(says)),
            "{says}: {error}"
        );
        assert_eq!(
            names(&there.path().join("snapshots")),
            ["receiving"],
            "{says}"
        );
    }
    // Counts that differ: something was lost on the way that nothing else tells.
    let (chunks, files, bytes) = chunks(&snapshot);
    let mut receiver = SnapshotReceiver::begin(&follower.store).unwrap();
    let another = SnapshotReceiver::begin(&follower.store).unwrap_err();
    assert!(another.to_string().contains("another"), "{another}");
    chunks
        .iter()
        .try_for_each(|chunk| receiver.chunk(chunk))
        .unwrap();
    assert!(receiver.finish(files, bytes + 1).await.is_err());
    // The node is none the worse for it.
    let received = send(&snapshot, &follower.store).await.unwrap();
    let mut follower = follower;
    install(&mut follower, received).await;
    assert_same(&follower, &script).await;
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn a_snapshot_damaged_after_it_was_received_is_not_installed() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, leader, snapshot) = applied(here.path(), 25, 100).await;
    let mut follower = Running::open(there.path()).unwrap();
    let old = follower.hash().await;
    let received = send(&snapshot, &follower.store).await.unwrap();
    let table = names(&received.snapshot.path)
        .into_iter()
        .find(|name| name.ends_with(".sst"))
        .unwrap();
    let path = received.snapshot.path.join(&table);
    let mut bytes = fs::read(&path).unwrap();
    bytes[33] ^= 4;
    fs::write(&path, bytes).unwrap();
    let error = follower
        .machine
        .install_snapshot(&received.meta, received.snapshot.clone())
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&table), "{error}");
    assert_eq!(follower.hash().await, old);
    assert_eq!(names(&there.path().join("state")), ["00000001"]);
    follower.stop().await;
    leader.stop().await;
}

/// Copies a data folder as a crash would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(&from, &to).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_crash_while_a_snapshot_is_installed_leaves_the_old_state_or_the_new_one() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (script, leader, snapshot) = applied(here.path(), 26, 250).await;
    leader.stop().await;
    let mut follower = Running::open(there.path()).unwrap();
    let old = Script::at(26, 30);
    follower.apply(Script::new(26).take(30)).await.unwrap();
    follower.store.flush().unwrap();
    let received = send(&snapshot, &follower.store).await.unwrap();
    let before = tempfile::tempdir().unwrap();
    copy(there.path(), before.path());
    follower
        .machine
        .install_snapshot(&received.meta, received.snapshot.clone())
        .await
        .unwrap();
    follower.stop().await;
    let kept = names(&there.path().join("snapshots")).remove(0);
    let installed = there.path().join("state/00000002");

    // Received, nothing renamed yet.
    let running = Running::open(before.path()).unwrap();
    assert_same(&running, &old).await;
    running.stop().await;
    assert_eq!(
        names(&before.path().join("snapshots")),
        ["receiving"],
        "the next transfer need not send it again"
    );

    // In its place among the snapshots; half of the new state made.
    copy(
        &there.path().join("snapshots"),
        &before.path().join("snapshots"),
    );
    copy(&installed, &before.path().join("state/making"));
    fs::remove_file(before.path().join("state/making/CURRENT")).unwrap();
    let mut running = Running::open(before.path()).unwrap();
    assert_same(&running, &old).await;
    assert_eq!(names(&before.path().join("state")), ["00000001"]);
    // openraft sees that the snapshot is ahead, and has it installed again. The log may be purged through it.
    running.store.check_purged(Some(log_id(250))).unwrap();
    let current = running
        .machine
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(current.meta.last_log_id, Some(log_id(250)));
    install(&mut running, current).await;
    assert_same(&running, &script).await;
    running.stop().await;
    assert_eq!(
        names(&before.path().join("snapshots")),
        [kept.as_str(), "receiving"]
    );

    // The new state in its place, the old one not yet removed.
    let after = tempfile::tempdir().unwrap();
    copy(there.path(), after.path());
    copy(&installed, &after.path().join("state/00000001"));
    let running = Running::open(after.path()).unwrap();
    assert_same(&running, &script).await;
    running.stop().await;
    assert_eq!(names(&after.path().join("state")), ["00000002"]);
}

#[tokio::test]
async fn a_snapshot_whose_manifest_is_damaged_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (_, running, snapshot) = applied(folder.path(), 27, 50).await;
    running.stop().await;
    let manifest = snapshot.snapshot.path.join("MANIFEST.ordo");
    let bytes = fs::read(&manifest).unwrap();
    fs::write(&manifest, &bytes[..bytes.len() - 1]).unwrap();
    let error = Running::open(folder.path()).err().unwrap();
    let place = snapshot.snapshot.path.display().to_string();
    assert!(
        matches!(&error, StoreError::SnapshotDamage { folder, .. } if *folder == place),
        "{error}"
    );
    fs::remove_file(&manifest).unwrap();
    let error = Running::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("MANIFEST.ordo is missing"), "{error}");
}

#[tokio::test]
async fn a_transfer_that_broke_off_goes_on_where_it_was() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (script, leader, snapshot) = applied(here.path(), 28, 600).await;
    let whole = SnapshotReader::open(&snapshot.snapshot).unwrap().bytes();
    let mut follower = Running::open(there.path()).unwrap();
    let (mut sent, mut tries) = (0, 0);
    let received = loop {
        let (held, again, received) = resume(&snapshot, &follower.store, 3).await.unwrap();
        let bytes: u64 = held.iter().map(|held| held.bytes).sum();
        assert_eq!(bytes, sent, "what came is not sent again");
        sent += again;
        tries += 1;
        if let Some(received) = received {
            break received;
        }
        // A restart forgets nothing of it.
        if tries % 2 == 0 {
            follower.stop().await;
            follower = Running::open(there.path()).unwrap();
        }
    };
    assert!(tries > 3 && sent < whole, "{tries} tries sent {sent} bytes");
    install(&mut follower, received).await;
    assert_same(&follower, &script).await;
    assert_eq!(names(&there.path().join("snapshots")).len(), 1);
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn what_is_damaged_in_a_transfer_that_broke_off_is_sent_again() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (script, leader, snapshot) = applied(here.path(), 29, 600).await;
    let mut follower = Running::open(there.path()).unwrap();
    let receiving = there.path().join("snapshots/receiving");
    let flip = |name: &str| {
        let path = receiving.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    // A whole file: it is read before it is believed.
    let (_, _, received) = resume(&snapshot, &follower.store, usize::MAX)
        .await
        .unwrap();
    assert_eq!(received.unwrap().snapshot.path, receiving);
    let table = |names: Vec<String>| names.into_iter().find(|name| name.ends_with(".sst"));
    let table = table(names(&receiving)).unwrap();
    flip(&table);
    fs::write(receiving.join("other.sst"), b"of another snapshot").unwrap();
    fs::create_dir(receiving.join("folder")).unwrap();
    let (held, _, _) = resume(&snapshot, &follower.store, 2).await.unwrap();
    assert!(held.len() > 1 && held.iter().all(|held| held.file != table));
    assert!(!receiving.join("other.sst").exists() && !receiving.join("folder").exists());
    // A part: its end tells, and then it comes from the beginning.
    assert!(fs::metadata(receiving.join(&table)).unwrap().len() > 0);
    flip(&table);
    let error = resume(&snapshot, &follower.store, usize::MAX).await;
    assert!(error.unwrap_err().to_string().contains("checksum"));
    // A part of a file of the same name that another manifest described is none of this one.
    fs::write(receiving.join(&table), b"short").unwrap();
    fs::remove_file(receiving.join("MANIFEST.ordo")).unwrap();
    let (held, _, received) = resume(&snapshot, &follower.store, usize::MAX)
        .await
        .unwrap();
    assert!(held.iter().all(|held| held.file != table));
    let received = received.unwrap();
    install(&mut follower, received).await;
    assert_same(&follower, &script).await;
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn a_newer_snapshot_sends_only_what_the_installed_one_lacks() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut script, mut leader, snapshot) = applied(here.path(), 30, 300).await;
    let mut follower = Running::open(there.path()).unwrap();
    let received = send(&snapshot, &follower.store).await.unwrap();
    install(&mut follower, received).await;
    leader.apply(script.take(300)).await.unwrap();
    let newer = build(&mut leader).await;
    let (held, _, received) = resume(&newer, &follower.store, usize::MAX).await.unwrap();
    assert!(
        held.iter().any(|held| held.file.ends_with(".sst")),
        "{held:?}"
    );
    let received = received.unwrap();
    install(&mut follower, received).await;
    assert_same(&follower, &script).await;
    // What broke off goes once the node has a snapshot of its own.
    resume(&snapshot, &follower.store, 1).await.unwrap();
    assert!(there.path().join("snapshots/receiving").exists());
    follower.apply(script.take(10)).await.unwrap();
    build(&mut follower).await;
    assert!(!there.path().join("snapshots/receiving").exists());
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn the_same_snapshot_may_come_again() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut script, leader, snapshot) = applied(here.path(), 32, 300).await;
    let mut follower = Running::open(there.path()).unwrap();
    for _ in 0..3 {
        let received = send(&snapshot, &follower.store).await.unwrap();
        install(&mut follower, received).await;
        assert_same(&follower, &script).await;
    }
    follower.apply(script.take(10)).await.unwrap();
    assert_same(&follower, &script).await;
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_compared_and_loaded_while_the_machine_answers_others() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (script, leader, snapshot) = applied(here.path(), 31, 300).await;
    let mut follower = Running::open(there.path()).unwrap();
    let received = send(&snapshot, &follower.store).await.unwrap();
    // The machine's thread is busy with somebody else's question.
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let handle = follower.machine.handle();
    let asking = tokio::spawn(async move { handle.query(move |_| may_go.recv().is_ok()).await });
    let loaded = there.path().join("state/00000002");
    let release = tokio::spawn(async move {
        for _ in 0..6_000 {
            if loaded.exists() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let there = loaded.exists();
        go.send(()).unwrap();
        there
    });
    install(&mut follower, received).await;
    assert!(release.await.unwrap(), "it waited for the machine's thread");
    assert!(asking.await.unwrap().unwrap());
    assert_same(&follower, &script).await;
    follower.stop().await;
    leader.stop().await;
}
