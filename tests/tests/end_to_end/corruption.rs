//! Bytes of one node's folder flipped, cut off and deleted: it refuses to start and names the file, or it goes on with
//! the same state as the others, and never with another. The cluster does without it meanwhile.

use ordo_tests::harm::{Harm, files, flip, fullest_segment, harm};
use ordo_tests::load::{consume, send_singly, staged};
use ordo_tests::{Nodes, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Snapshots every few entries and a log that begins behind them, so that there is a file of every kind.
const SMALL_SNAPSHOTS: &str = "[raft]\nsnapshot_entries = 100\nkeep_entries = 0\n";
const SEED: u64 = 7;
const HASHED_WITHIN: Duration = Duration::from_secs(10);

/// A file of a node's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Segment,
    Meta,
    Identity,
    Table,
    Manifest,
    Current,
    SnapshotManifest,
    SnapshotTable,
}

/// What may come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It does not start, and says which file.
    Refuses,
    /// It has what it needs elsewhere: the other slot, the state beside the snapshot.
    GoesOn,
    /// Where the file's bytes are read late or never: it stops when they are, and says which file.
    RefusesWhenRead,
}

use Harm::{Delete, Flip, Truncate};
use Place::{Current, Identity, Manifest, Meta, Segment, SnapshotManifest, SnapshotTable, Table};
use Then::{GoesOn, Refuses, RefusesWhenRead};

const CASES: [(Place, Harm, Then); 26] = [
    (Segment, Flip, Refuses),
    (Segment, Flip, Refuses),
    (Segment, Flip, Refuses),
    (Segment, Truncate, Refuses),
    (Segment, Delete, Refuses),
    // One of two slots.
    (Meta, Flip, GoesOn),
    (Meta, Truncate, Refuses),
    (Meta, Delete, Refuses),
    (Identity, Flip, Refuses),
    (Identity, Truncate, Refuses),
    (Identity, Delete, Refuses),
    (Table, Flip, RefusesWhenRead),
    (Table, Flip, RefusesWhenRead),
    (Table, Flip, RefusesWhenRead),
    (Table, Flip, RefusesWhenRead),
    (Table, Truncate, Refuses),
    (Table, Delete, Refuses),
    (Manifest, Flip, Refuses),
    (Manifest, Truncate, RefusesWhenRead),
    (Manifest, Delete, Refuses),
    (Current, Flip, Refuses),
    (Current, Truncate, Refuses),
    (Current, Delete, Refuses),
    (SnapshotManifest, Flip, Refuses),
    (SnapshotManifest, Delete, Refuses),
    // The node itself needs it no more: whoever it is sent to checks it.
    (SnapshotTable, Delete, GoesOn),
];

impl Place {
    /// The file, and how many bytes of it are in use where that is not all.
    fn find(self, data: &Path, rng: &mut StdRng) -> (PathBuf, Option<u64>) {
        let newest = |folder: &str| {
            let folders = fs::read_dir(data.join(folder)).unwrap();
            folders.map(|entry| entry.unwrap().path()).max().unwrap()
        };
        let one = |folder: &Path, wanted: fn(&str) -> bool, rng: &mut StdRng| {
            let found = files(folder, wanted).unwrap();
            assert!(!found.is_empty(), "{self:?} in {}", folder.display());
            found[rng.random_range(0..found.len())].clone()
        };
        let file = match self {
            Segment => {
                let (segment, used) = fullest_segment(&data.join("log")).unwrap();
                // The edge of the fault model: the last batch, when no marker covers it. An idle writer's marker does
                // cover all but itself, one block.
                return (segment, Some(used - 4096));
            }
            Meta => data.join("log/META"),
            Identity => data.join("IDENTITY"),
            Table => one(&newest("state"), |name| name.ends_with(".sst"), rng),
            Manifest => one(&newest("state"), |name| name.starts_with("MANIFEST-"), rng),
            Current => one(&newest("state"), |name| name == "CURRENT", rng),
            SnapshotManifest => newest("snapshots").join("MANIFEST.ordo"),
            SnapshotTable => one(&newest("snapshots"), |name| name.ends_with(".sst"), rng),
        };
        (file, None)
    }
}

struct Broken {
    nodes: Nodes,
    place: usize,
    sent: u64,
    rng: StdRng,
}

impl Broken {
    async fn more(&mut self) {
        let cluster = self.nodes.cluster().unwrap();
        send_singly(&cluster, self.sent + 1, self.sent + 30)
            .await
            .unwrap();
        self.sent += 30;
    }

    /// Stops the node so that its files are at rest: killed, but with the log's idle marker written.
    async fn stop(&mut self) {
        self.nodes.agree().await;
        match self.rng.random() {
            true => assert!(self.nodes.nodes[self.place].stop().await.unwrap().success()),
            false => {
                idle(&self.nodes.nodes[self.place].data.join("log")).await;
                self.nodes.nodes[self.place].kill().unwrap();
            }
        }
    }

    /// Starts the harmed node and says whether it went on; when it did not, what it said.
    async fn start(&mut self) -> Result<(), String> {
        let place = self.place;
        self.nodes.nodes[place].start().unwrap();
        eventually("the harmed node to serve or to end", async || {
            match self.nodes.nodes[place].runs() {
                false => Some(false),
                true => self.nodes.status(place).await.map(|_| true),
            }
        })
        .await;
        // Reads every row there is; and what it applies from now on must be what the others have.
        let leader = self.nodes.leader().await;
        let ended = eventually("the harmed node to agree or to end", async || {
            if !self.nodes.nodes[place].runs() {
                return Some(true);
            }
            let (Some(theirs), Some(ours)) = (
                self.nodes.status_with_hash(leader, HASHED_WITHIN).await,
                self.nodes.status_with_hash(place, HASHED_WITHIN).await,
            ) else {
                return None;
            };
            if ours.applied_index != theirs.applied_index {
                return None;
            }
            assert_eq!(
                ours.state_hash, theirs.state_hash,
                "another state than the others'"
            );
            Some(false)
        })
        .await;
        if !ended {
            return Ok(());
        }
        let status = self.nodes.nodes[place].ended().await;
        let said = self.nodes.nodes[place].said();
        assert_eq!(
            status.code(),
            Some(10),
            "the status of damaged storage: {said}"
        );
        assert_ne!(leader, place, "it never led");
        Err(said)
    }
}

/// Waits until the log's files have stopped changing: the idle writer's marker is the last write.
async fn idle(log: &Path) {
    let mut before = Vec::new();
    eventually("an idle log", async || {
        let now: Vec<_> = files(log, |name| name.ends_with(".segment"))
            .unwrap()
            .iter()
            .map(|file| fs::metadata(file).unwrap().modified().unwrap())
            .collect();
        let idle = now == before
            && now
                .iter()
                .all(|at| at.elapsed().is_ok_and(|since| since.as_millis() > 300));
        before = now;
        idle.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harmed_file_is_named_or_made_good_and_never_believed() {
    let nodes = Nodes::running(3, SMALL_SNAPSHOTS).await.unwrap();
    let admin = nodes.cluster().unwrap().admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    let mut broken = Broken {
        nodes,
        place: 0,
        sent: 0,
        rng: StdRng::seed_from_u64(SEED),
    };
    for _ in 0..8 {
        broken.more().await;
    }
    broken.place = broken.nodes.follower().await;
    eventually("snapshots on the node to be harmed", async || {
        let status = broken.nodes.status(broken.place).await?;
        (status.snapshot_index > 100).then_some(())
    })
    .await;
    broken.stop().await;
    for (place, kind, then) in CASES {
        let data = broken.nodes.nodes[broken.place].data.clone();
        let (file, used) = place.find(&data, &mut broken.rng);
        let whole = fs::read(&file).unwrap();
        let done = harm(&file, kind, used, &mut broken.rng).unwrap();
        broken.more().await;
        let started = broken.start().await;
        println!(
            "{done}: {}",
            started.as_ref().map_or("refused", |()| "goes on")
        );
        match started {
            Ok(()) => assert_ne!(then, Refuses, "{done}: and it went on"),
            Err(said) => {
                assert_ne!(then, GoesOn, "{done}: {said}");
                let name = file.file_name().unwrap().to_string_lossy();
                let named = match place {
                    // It is one name, without a checksum: what is missing may be the file it seems to name.
                    Current => said.contains(&*name) || said.contains("MANIFEST-"),
                    // A snapshot's folder has one manifest.
                    SnapshotManifest => said.contains(&*name) || said.contains("the manifest"),
                    _ => said.contains(&*name),
                };
                assert!(named, "{done}: {said}");
            }
        }
        // With the file as it was it goes on in any case, and so nothing else was touched.
        if broken.nodes.nodes[broken.place].runs() {
            broken.stop().await;
        }
        if then != GoesOn && file.parent().is_some_and(Path::exists) {
            fs::write(&file, whole).unwrap();
        }
        broken
            .start()
            .await
            .unwrap_or_else(|said| panic!("after {done}: {said}"));
        broken.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_harmed_under_a_running_leader_stops_it_at_the_first_read() {
    // No body stays in memory, and a snapshot puts them all into tables.
    let extra = "[limits]\ncache_bytes = 1048576\n[raft]\nsnapshot_entries = 100\n";
    let mut nodes = Nodes::running(3, extra).await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let admin = cluster.admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    let producer = cluster.producer().start().unwrap();
    for n in 1..=120u64 {
        let mut message = ordo_tests::load::message("lab", n);
        message.payload = vec![b'x'; 100_000].into();
        producer.send("lab", message).await.unwrap();
    }
    let leader = nodes.leader().await;
    eventually("the first bodies to be in tables only", async || {
        (nodes.status(leader).await?.snapshot_index >= 100).then_some(())
    })
    .await;
    let state = nodes.nodes[leader].data.join("state");
    let mut harmed = Vec::new();
    for table in files(&state, |name| name.ends_with(".sst")).unwrap() {
        for at in (0..fs::metadata(&table).unwrap().len()).step_by(4_000) {
            flip(&table, at, 3).unwrap();
        }
        harmed.push(table.file_name().unwrap().to_string_lossy().into_owned());
    }
    assert!(!harmed.is_empty());
    let (_consumer, arrivals) = consume(&cluster, &["lab"]).unwrap();
    eventually("every message to arrive", async || {
        (arrivals.count("lab") == 120).then_some(())
    })
    .await;
    assert!(
        arrivals.of("lab").unwrap().iter().all(|arrival| {
            !arrival.skipped && arrival.payload.iter().all(|byte| *byte == b'x')
        })
    );
    let status = nodes.nodes[leader].ended().await;
    let said = nodes.nodes[leader].said();
    assert_eq!(status.code(), Some(10), "{said}");
    assert!(
        harmed.iter().any(|name| said.contains(name)),
        "{harmed:?}: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_harmed_on_the_leader_reaches_nobody_and_stops_it() {
    let mut nodes = Nodes::running(3, SMALL_SNAPSHOTS).await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let admin = cluster.admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    send_singly(&cluster, 1, 30).await.unwrap();
    let leader = nodes.leader().await;
    let away = nodes.follower().await;
    nodes.nodes[away].kill().unwrap();
    let mut sent = 30u64;
    eventually("a log that begins behind a snapshot", async || {
        send_singly(&cluster, sent + 1, sent + 50).await.unwrap();
        sent += 50;
        // It is purged by the 256 entries.
        (nodes.status(leader).await?.snapshot_index > 350).then_some(())
    })
    .await;
    // Until then the node that is away could have what it lacks from the log.
    let data = nodes.nodes[leader].data.clone();
    eventually(
        "a log that is purged, and no snapshot in the making",
        async || (purged(&data) > 100 && !data.join("snapshots/building").exists()).then_some(()),
    )
    .await;
    // Every snapshot there is: the state's own tables are the same files.
    let mut names = Vec::new();
    let snapshots = nodes.nodes[leader].data.join("snapshots");
    for table in files(&snapshots, |name| name.ends_with(".sst")).unwrap() {
        flip(&table, fs::metadata(&table).unwrap().len() / 2, 1).unwrap();
        names.push(table.file_name().unwrap().to_string_lossy().into_owned());
    }
    nodes.nodes[away].start().unwrap();
    let status = nodes.nodes[leader].ended().await;
    let said = nodes.nodes[leader].said();
    assert_eq!(status.code(), Some(10), "{said}");
    assert!(
        names.iter().any(|name| said.contains(name)),
        "{names:?}: {said}"
    );
    // The other two have everything.
    send_singly(&cluster, sent + 1, sent + 10).await.unwrap();
    nodes.agree().await;
}

/// The index through which a log is purged: see FORMAT.md.
fn purged(data: &Path) -> u64 {
    let meta = fs::read(data.join("log/META")).unwrap();
    u64::from_le_bytes(meta[64..72].try_into().unwrap())
}
