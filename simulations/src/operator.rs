//! The operator's host: what a person would do with `ordo cluster …`.

use crate::run::Notes;
use crate::wire::{self, PEER, PUBLIC};
use ordo_client::{CallError, Cluster, proto};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};

/// How long the operator tries before leaving a job.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long one call of its may take.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// How long it waits before it tries again.
const AGAIN: Duration = Duration::from_millis(200);

/// Something for the operator to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Begin the cluster, on node 1.
    Init,
    /// Hand leadership to another node.
    Transfer,
    /// Take a node in as a learner, and make it a voter.
    Join(u64),
    /// Take a node out.
    Remove(u64),
    /// Take a node that lost its disk out, and in again.
    Rejoin(u64),
}

/// Sends jobs to the operator, who does one at a time.
#[derive(Clone)]
pub struct Operator {
    jobs: UnboundedSender<Job>,
    queue: Arc<Mutex<Option<UnboundedReceiver<Job>>>>,
    changing: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
    left: Arc<Mutex<Vec<Job>>>,
    notes: Notes,
    nodes: Vec<String>,
    seed: u64,
}

impl Operator {
    /// An operator who knows `nodes`' names.
    #[must_use]
    pub fn new(nodes: &[String], seed: u64, notes: Notes) -> Self {
        let (jobs, queue) = unbounded_channel();
        Self {
            jobs,
            queue: Arc::new(Mutex::new(Some(queue))),
            changing: Arc::default(),
            idle: Arc::new(AtomicBool::new(true)),
            left: Arc::default(),
            notes,
            nodes: nodes.to_vec(),
            seed,
        }
    }

    /// Gives the operator a job.
    pub fn send(&self, job: Job) {
        self.idle.store(false, Ordering::Release);
        // The operator's host never crashes.
        let _ = self.jobs.send(job);
    }

    /// Whether there is nothing to do, nor anything given up that was not taken up again.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_idle() && self.left.lock().expect("no panic holds it").is_empty()
    }

    /// Takes up again what was given up while everything failed.
    pub fn try_again(&self) {
        let left = std::mem::take(&mut *self.left.lock().expect("no panic holds it"));
        for job in left {
            self.send(job);
        }
    }

    /// Whether the membership is being changed.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.changing.load(Ordering::Acquire)
    }

    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    /// The operator's host.
    pub async fn run(self) -> turmoil::Result {
        let queue = self.queue.lock().expect("no panic holds it").take();
        let mut queue = queue.expect("the operator's host never crashes");
        let addresses: Vec<String> = self
            .nodes
            .iter()
            .map(|name| format!("{name}:{PUBLIC}"))
            .collect();
        let cluster = wire::cluster(&addresses, self.seed);
        while let Some(job) = queue.recv().await {
            self.changing
                .store(!matches!(job, Job::Init | Job::Transfer), Ordering::Release);
            self.notes.line(format_args!("operator begins: {job:?}"));
            let done = self.job(&cluster, job).await;
            self.notes
                .line(format_args!("operator ends: {job:?}: {done}"));
            if !done && job != Job::Transfer {
                self.left.lock().expect("no panic holds it").push(job);
            }
            self.changing.store(false, Ordering::Release);
            self.idle.store(queue.is_empty(), Ordering::Release);
        }
        Ok(())
    }

    async fn job(&self, cluster: &Cluster, job: Job) -> bool {
        let admin = cluster.admin().timeout(CALL_WITHIN);
        let first = format!("n1:{PUBLIC}");
        let until = Instant::now() + PATIENCE;
        match job {
            Job::Init => {
                // Until it is there, nothing else can happen.
                while admin.init_cluster(&first).await.is_err() {
                    sleep(AGAIN).await;
                }
                true
            }
            Job::Transfer => admin.transfer_leadership(None).await.is_ok(),
            Job::Remove(id) => self.remove(&admin, id, until).await,
            Job::Join(id) | Job::Rejoin(id) => self.join(&admin, id, until).await,
        }
    }

    async fn remove(&self, admin: &ordo_client::Admin, node_id: u64, until: Instant) -> bool {
        loop {
            match admin.remove_node(node_id).await {
                Ok(()) => return true,
                // An earlier try was late, and came to its end after all.
                Err(error) if short(&error).contains("not a member") => return true,
                Err(error) => self.notes.line(format_args!("operator: {}", short(&error))),
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(AGAIN).await;
        }
    }

    async fn join(&self, admin: &ordo_client::Admin, node_id: u64, until: Instant) -> bool {
        let mut added = false;
        loop {
            let result = match added {
                false => {
                    let node = proto::AddNodeRequest {
                        node_id,
                        peer_address: format!("n{node_id}:{PEER}"),
                        public_address: format!("n{node_id}:{PUBLIC}"),
                        replace: true,
                    };
                    admin.add_node(node).await
                }
                true => admin.promote_node(node_id).await,
            };
            match result {
                Ok(()) if added => return true,
                Ok(()) => added = true,
                // An earlier try was late, and came to its end after all.
                Err(error) if added && short(&error).contains("votes already") => return true,
                Err(error) => {
                    self.notes.line(format_args!("operator: {}", short(&error)));
                    // It may have been taken out again by a leader that knew no better.
                    added &= !short(&error).contains("not a member");
                }
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(AGAIN).await;
        }
    }
}

fn short(error: &CallError) -> String {
    let mut text = error.to_string();
    text.truncate(160);
    text
}
