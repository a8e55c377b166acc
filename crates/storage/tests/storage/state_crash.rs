//! Processes that are killed at any moment, and one whose disk is full.
//!
//! Each test starts itself again as a child process that works until it is killed.

use crate::state_support::{Random, Running, Script, assert_same, open_log};
use openraft::storage::{
    IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::type_config::TypeConfigExt;
use ordo_storage::log::LogThread;
use ordo_storage::{Entry, RaftLog, TypeConfig};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

const FOLDER: &str = "ORDO_TEST_CHILD_FOLDER";
const SEED: &str = "ORDO_TEST_CHILD_SEED";
const ROUNDS: u64 = 10;
const ENTRIES_A_ROUND: u64 = 1_500;

fn child_folder() -> Option<PathBuf> {
    env::var_os(FOLDER).map(PathBuf::from)
}

/// A log and a machine in one folder, brought up to the log's end as openraft does it.
struct Both {
    log: RaftLog,
    running: Running<()>,
    script: Script,
    /// What was on the disk at the start.
    applied_at_start: u64,
    hash_at_start: u128,
    _thread: LogThread,
}

impl Both {
    async fn open(folder: &Path, seed: u64) -> Self {
        let (mut log, thread) = open_log(folder);
        let mut running = Running::open(folder).unwrap();
        let state = log.get_log_state().await.unwrap();
        running
            .store
            .check_purged(state.last_purged_log_id)
            .unwrap();
        let (applied_at_start, hash_at_start) =
            (running.store.applied().index(), running.hash().await);
        let last = state.last_log_id.map_or(0, |log_id| log_id.index);
        if last < applied_at_start {
            // Applied, and flushed, before the log's own sync: the quorum had it.
            log.purge(running.store.applied().last_log_id.unwrap())
                .await
                .unwrap();
        } else {
            let entries = log
                .get_log_reader()
                .await
                .try_get_log_entries(applied_at_start + 1..=last)
                .await
                .unwrap();
            assert_eq!(entries.len() as u64, last - applied_at_start);
            running.apply(entries).await.unwrap();
        }
        let script = Script::at(seed, last.max(applied_at_start));
        Self {
            log,
            running,
            script,
            applied_at_start,
            hash_at_start,
            _thread: thread,
        }
    }

    async fn append(&mut self, entries: Vec<Entry>) -> impl Future<Output = ()> + use<> {
        let (told, hears) = TypeConfig::oneshot();
        self.log
            .append(entries, IOFlushed::signal(told))
            .await
            .unwrap();
        async move { hears.await.unwrap().unwrap() }
    }

    async fn snapshot_and_purge(&mut self) {
        let mut builder = self
            .running
            .machine
            .try_create_snapshot_builder(true)
            .await
            .unwrap();
        let snapshot = builder.build_snapshot().await.unwrap();
        let covered = snapshot.meta.last_log_id.unwrap();
        assert!(covered.index <= self.running.store.flushed_index());
        self.log.purge(covered).await.unwrap();
    }
}

/// Works until it is killed.
async fn child(folder: &Path) {
    let seed: u64 = env::var(SEED).unwrap().parse().unwrap();
    let mut both = Both::open(folder, seed).await;
    let mut random = Random(seed ^ both.script.index);
    let end = both.script.index + ENTRIES_A_ROUND;
    println!("acknowledged {}", both.script.index);
    while both.script.index < end {
        let entries = both.script.take(1 + random.below(20) as usize);
        let flushed = both.append(entries.clone()).await;
        // A leader may apply what its own disk does not have yet.
        if random.below(4) == 0 {
            both.running.apply(entries).await.unwrap();
            if random.below(4) == 0 {
                both.running.store.flush().unwrap();
            }
            flushed.await;
        } else {
            flushed.await;
            println!("acknowledged {}", both.script.index);
            both.running.apply(entries).await.unwrap();
        }
        println!("acknowledged {}", both.script.index);
        match random.below(30) {
            0 => both.running.store.flush().unwrap(),
            1 => both.snapshot_and_purge().await,
            _ => {}
        }
    }
    println!("done");
    // Nobody writes here: only being killed ends it.
    let _ = std::io::stdin().lines().next();
}

/// The name by which a test of this file is asked for.
fn this(test: &str) -> String {
    format!("state_crash::{test}")
}

fn start(test: &str, folder: &Path, seed: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", &this(test), "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what the child acknowledges until it has said `lines` times so, then kills it. The last index it said.
fn kill_after(mut child: Child, lines: u64) -> u64 {
    let said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut last = None;
    let mut count = 0;
    let mut killed = false;
    for line in said {
        if let Some((_, index)) = line.split_once("acknowledged ") {
            last = Some(index.parse().unwrap());
            count += 1;
        }
        if !killed && (count > lines || line == "done") {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    last.expect("it says where it begins")
}

#[tokio::test]
async fn a_process_killed_at_any_moment_comes_back_as_a_replica_that_was_not() {
    if let Some(folder) = child_folder() {
        return child(&folder).await;
    }
    let test = "a_process_killed_at_any_moment_comes_back_as_a_replica_that_was_not";
    let folder = tempfile::tempdir().unwrap();
    let seed = 31;
    let mut random = Random(seed);
    let (mut replayed, mut begun_late) = (0, 0);
    for round in 0..ROUNDS {
        let acknowledged = kill_after(start(test, folder.path(), seed), random.below(200));
        let both = Both::open(folder.path(), seed).await;
        let flushed = Script::at(seed, both.applied_at_start);
        assert_eq!(
            both.hash_at_start,
            flushed.rows.hash(),
            "round {round}: a flush at {}",
            both.applied_at_start
        );
        assert!(
            both.script.index >= acknowledged,
            "round {round}: {acknowledged} was acknowledged"
        );
        assert_same(&both.running, &both.script).await;
        replayed += both.script.index - both.applied_at_start;
        begun_late += u64::from(both.applied_at_start > 0);
        // Leaving without `stop` would be a crash that closes its files: half of the rounds end cleanly.
        match round % 2 {
            0 => both.running.stop().await,
            _ => both.running.leave(),
        }
    }
    assert!(
        replayed > 0 && begun_late > 0,
        "the kills came at dull moments: {replayed}, {begun_late}"
    );
}

/// Applies and flushes until the disk refuses.
async fn fill(folder: &Path) {
    let mut running = Running::open(folder).unwrap();
    let (told, hears) = std::sync::mpsc::channel();
    running
        .store
        .on_failure(move |error| told.send(error.to_string()).unwrap());
    let mut script = Script::new(32);
    let error = loop {
        running.apply(script.take(200)).await.unwrap();
        if let Err(error) = running.store.flush() {
            break error.to_string();
        }
        assert!(script.index < 50_000, "the disk takes everything");
    };
    assert_eq!(hears.try_recv().unwrap(), error);
    let later = running.apply(script.take(1)).await.unwrap_err().to_string();
    assert!(later.contains("earlier failure"), "{later}");
    assert!(running.store.flush().is_err());
    assert!(hears.try_recv().is_err(), "a failure is reported once");
    println!("refused: {error}");
    // A process that ends while RocksDB still tries to recover aborts on a lock that is gone.
    running.leave();
}

#[tokio::test]
async fn a_disk_that_takes_no_more_ends_the_store_with_its_own_words() {
    if let Some(folder) = child_folder() {
        return fill(&folder).await;
    }
    let test = "a_disk_that_takes_no_more_ends_the_store_with_its_own_words";
    let folder = tempfile::tempdir().unwrap();
    // A file that may not grow any more is refused by the kernel as a full disk is, with another word.
    let limited = format!(
        "trap '' XFSZ; ulimit -f 400; exec {} --exact {} --nocapture",
        env::current_exe().unwrap().display(),
        this(test)
    );
    let child = Command::new("sh")
        .args(["-c", &limited])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&child.stderr)
    );
    let refused = said
        .lines()
        .find_map(|line| line.split_once("refused: "))
        .expect("it was refused")
        .1;
    assert!(
        refused.contains("File too large") && refused.contains(".sst"),
        "{refused}"
    );
    // With room again, the state is as at its last flush.
    let running = Running::open(folder.path()).unwrap();
    let script = Script::at(32, running.store.applied().index());
    assert_same(&running, &script).await;
    running.stop().await;
    assert!(fs::read_dir(folder.path().join("state")).unwrap().count() == 1);
}
