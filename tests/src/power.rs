//! Power losses: all nodes die at once, and of what was written since the last sync any part is lost.

use crate::journal::{Journal, lengths};
use crate::load::{message, send, staged};
use crate::shim::{compile, preload};
use crate::{Nodes, PATIENCE, eventually};
use anyhow::{Context, Result, ensure};
use futures_util::stream;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use ordo_storage::log::{Log, LogOptions};
use ordo_storage::{FileDisk, Machine, MachineOptions, RaftLog, StateStore, StoreOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Images of each node that one power loss is followed by; the last of them are started as processes.
const IMAGES_OF_EACH: u32 = 7;
const SMALL_SNAPSHOTS: &str = "[raft]\nsnapshot_entries = 100\nkeep_entries = 50\n";
/// Where a simulated disk fits, and a real one need not be worn.
const MEMORY: &str = "/dev/shm";

/// What was done.
#[derive(Debug, Default)]
pub struct Lost {
    /// Power losses of the whole cluster.
    pub losses: u32,
    /// Images that were opened.
    pub images: u32,
    /// Sectors of the log undone, in all images.
    pub sectors: u64,
    /// Bytes of other files cut off, in all images.
    pub bytes: u64,
    /// Images whose state was compared with another node's at the same index.
    pub compared: u32,
    /// Messages acknowledged before the last loss, all of which are there.
    pub messages: u64,
}

struct Power {
    nodes: Nodes,
    library: PathBuf,
    disk: Disk,
    rng: StdRng,
    sent: u64,
    lost: Lost,
}

/// A node's folder at the loss: what it holds, and what must be found in every image of it.
struct Dead {
    data: PathBuf,
    journal: Journal,
    /// What it told the leader that it has on its disk; `None` of the leader.
    acknowledged: Option<u64>,
}

/// An image, opened: how far its log goes, and the hash of its state at the index asked for, where it has that.
struct Found {
    last: u64,
    hash: Option<u128>,
}

/// What the disks under the nodes are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// What was synced stays.
    Honest,
    /// A sync makes nothing durable. No promise can hold on it, so that whoever finds none broken looks at nothing.
    Lying,
}

/// Cuts the power under load until `images` images were opened; `progress` is told after each loss.
///
/// # Errors
/// What was lost, or what can't be opened.
pub async fn lose(images: u32, seed: u64, disk: Disk, progress: impl Fn(&Lost)) -> Result<Lost> {
    let folder = match Path::new(MEMORY).is_dir() {
        true => tempfile::tempdir_in(MEMORY)?,
        false => tempfile::tempdir()?,
    };
    let nodes = Nodes::configure_in(folder, 3, 3, SMALL_SNAPSHOTS)?;
    let library = compile(nodes.folder())?;
    let mut power = Power {
        nodes,
        library,
        disk,
        rng: StdRng::seed_from_u64(seed),
        sent: 0,
        lost: Lost::default(),
    };
    while power.lost.images < images {
        power.once().await?;
        progress(&power.lost);
    }
    Ok(power.lost)
}

impl Power {
    async fn once(&mut self) -> Result<()> {
        let before = self.start().await?;
        let dead = self.work_until_dead(before).await?;
        // What all followers have is committed, and so the same in every image that goes as far.
        let common = dead
            .iter()
            .filter_map(|dead| dead.acknowledged)
            .min()
            .unwrap_or(0);
        let mut whole = Vec::new();
        for number in 0..IMAGES_OF_EACH {
            for (place, dead) in dead.iter().enumerate() {
                let image = self.nodes.folder().join(format!("image{place}"));
                if image.exists() {
                    fs::remove_dir_all(&image)?;
                }
                let (sectors, bytes) = dead.journal.image(&image, &mut self.rng)?;
                self.lost.sectors += sectors;
                self.lost.bytes += bytes;
                if number + 1 == IMAGES_OF_EACH {
                    self.lost.images += 1;
                    continue;
                }
                let said = || format!("image {number} of node {}", place + 1);
                let found = open(&image, common).await.with_context(said)?;
                ensure!(
                    Some(found.last) >= dead.acknowledged,
                    "{}: its log ends at {}, and it acknowledged {:?}",
                    said(),
                    found.last,
                    dead.acknowledged
                );
                self.lost.images += 1;
                if let Some(hash) = found.hash {
                    whole.push((hash, said()));
                }
            }
        }
        // Opened at the same index, all images of all nodes hold the same.
        for pair in whole.windows(2) {
            ensure!(
                pair[0].0 == pair[1].0,
                "at index {common}: {} and {}",
                pair[0].1,
                pair[1].1
            );
        }
        self.lost.compared += u32::try_from(whole.len())?;
        self.lost.losses += 1;
        for (place, dead) in dead.iter().enumerate() {
            fs::remove_dir_all(&dead.data)?;
            fs::rename(
                self.nodes.folder().join(format!("image{place}")),
                &dead.data,
            )?;
        }
        Ok(())
    }

    /// Starts all nodes on what the last loss left them, and checks that nothing acknowledged is gone.
    async fn start(&mut self) -> Result<Vec<BTreeMap<u64, u64>>> {
        let mut before = Vec::new();
        for place in 0..3 {
            let journal = self.journal(place);
            let _ = fs::remove_file(&journal);
            before.push(lengths(&self.nodes.nodes[place].data)?);
            let node = &mut self.nodes.nodes[place];
            node.environment = preload(&self.library, "ORDO_SHIM_JOURNAL", &journal);
            node.start()?;
        }
        if self.lost.losses == 0 {
            self.nodes.init().await?;
            let admin = self.nodes.cluster()?.admin();
            admin.create_interface("lab", staged(&[])).await?;
            return Ok(before);
        }
        for place in 0..3 {
            ensure!(
                self.nodes.nodes[place].runs(),
                "{}",
                self.nodes.nodes[place].said()
            );
        }
        // A known message gets its first answer; each of those acknowledged is known, or would get a new sequence.
        let known = self.sent.saturating_sub(400).max(1);
        send(&self.nodes.cluster()?, known, self.sent).await?;
        self.nodes.agree().await;
        Ok(before)
    }

    fn journal(&self, place: usize) -> PathBuf {
        self.nodes.folder().join(format!("journal{place}"))
    }

    /// Sends messages, and kills all nodes at once in the middle.
    async fn work_until_dead(&mut self, before: Vec<BTreeMap<u64, u64>>) -> Result<Vec<Dead>> {
        let leader = self.nodes.leader().await;
        let cluster = self.nodes.cluster()?;
        let answered = Arc::new(AtomicU64::new(self.sent));
        let (sending, from) = (Arc::clone(&answered), self.sent);
        let sender = tokio::spawn(async move {
            let producer = cluster.producer().start()?;
            for first in (from + 1..).step_by(16) {
                let mut receipts = Vec::new();
                for n in first..first + 16 {
                    receipts.push((n, producer.enqueue("lab", message("lab", n)).await?));
                }
                for (n, receipt) in receipts {
                    ensure!(
                        receipt.await?.sequence == n,
                        "message {n} has another sequence"
                    );
                    sending.store(n, Ordering::SeqCst);
                }
            }
            anyhow::Ok(())
        });
        let wanted = from + self.rng.random_range(50..400);
        eventually("messages to be accepted", async || {
            (answered.load(Ordering::SeqCst) >= wanted).then_some(())
        })
        .await;
        let status = self
            .nodes
            .status(leader)
            .await
            .context("the leader answers")?;
        let pause = Duration::from_micros(self.rng.random_range(0..5_000));
        tokio::time::sleep(pause).await;
        // Read first: what is acknowledged by then must outlive what comes.
        self.sent = answered.load(Ordering::SeqCst);
        for node in &mut self.nodes.nodes {
            node.kill()?;
        }
        sender.abort();
        self.lost.messages = self.sent;
        let mut dead = Vec::new();
        for (place, before) in before.into_iter().enumerate() {
            let id = self.nodes.nodes[place].id;
            let known = status.nodes.iter().find(|node| node.node_id == id);
            dead.push(Dead {
                data: self.nodes.nodes[place].data.clone(),
                journal: Journal::read(
                    &self.nodes.nodes[place].data,
                    &self.journal(place),
                    &before,
                    self.disk,
                )?,
                // A leader's own disk may be behind what it has replicated and committed.
                acknowledged: known
                    .filter(|_| place != leader)
                    .map(|node| node.matched_index),
            });
        }
        Ok(dead)
    }
}

/// Opens a node's folder as the node would, applies its log through `through`, and closes it.
async fn open(data: &Path, through: u64) -> Result<Found> {
    let disk = FileDisk::open(data.join("log"))?;
    let (log, writer) = Log::open(Arc::new(disk), LogOptions::default())?;
    let thread = writer.spawn()?;
    let store = StateStore::open(data, StoreOptions::default())?;
    let mut raft_log = RaftLog::open(log.clone())?;
    let state = raft_log.get_log_state().await?;
    store.check_purged(state.last_purged_log_id)?;
    let (last, applied) = (
        state.last_log_id.map_or(0, |last| last.index),
        store.applied().index(),
    );
    let (mut machine, machine_loop) = Machine::new(store, (), MachineOptions::default())?;
    let (handle, machine_thread) = (machine.handle(), machine_loop.spawn()?);
    let mut hash = None;
    if applied <= through && through <= last {
        let mut reader = raft_log.get_log_reader().await;
        let entries = reader.try_get_log_entries(applied + 1..=through).await?;
        ensure!(
            entries.len() as u64 == through - applied,
            "the state is at {applied}, and the log has {} entries from there through {through}",
            entries.len()
        );
        let entries = entries.into_iter().map(|entry| Ok((entry, None)));
        machine.apply(stream::iter(entries)).await?;
        hash = Some(
            tokio::time::timeout(PATIENCE, handle.state_hash())
                .await??
                .hash,
        );
    }
    handle.stop().await?;
    drop((machine, raft_log));
    machine_thread
        .join()
        .map_err(|_| anyhow::anyhow!("the machine panicked"))?;
    thread.join();
    Ok(Found { last, hash })
}
