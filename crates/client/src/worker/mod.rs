//! Processing messages in stages: assignments come pushed, a handler per stage works on them, reports go back.

mod desk;
mod outcome;
mod run;

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ordo_wire::v1::{Header, WorkAssignment};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::error::{ConfigError, WorkError};
use crate::uuid_of;

pub use outcome::Outcome;

/// The most a worker may hold at once.
const CONCURRENCY_MAX: u32 = 100_000;
/// The longest name.
const NAME_BYTES_MAX: usize = 255;

/// A message handed to this worker for one stage.
pub struct Assignment {
    wire: WorkAssignment,
    extender: Extender,
}

impl Assignment {
    /// The interface's name.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.wire.interface
    }

    /// The interface's UUID. With incarnation, sequence and stage it is the idempotency key toward the outside: a
    /// stage may run twice, even at once.
    #[must_use]
    pub fn interface_id(&self) -> Uuid {
        uuid_of(&self.wire.interface_id)
    }

    /// Raised by a restore from a backup.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.wire.incarnation
    }

    /// The message's place on its interface.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.wire.sequence
    }

    /// The stage to be worked on.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.wire.stage
    }

    /// The message's turn; raised by everything that was decided about it.
    #[must_use]
    pub fn turn(&self) -> u32 {
        self.wire.turn
    }

    /// Failed tries of this stage so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.wire.attempts
    }

    /// The message's identity, as its producer chose it.
    #[must_use]
    pub fn message_id(&self) -> Uuid {
        uuid_of(&self.wire.message_id)
    }

    /// The message's headers.
    #[must_use]
    pub fn headers(&self) -> &[Header] {
        &self.wire.headers
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.wire
            .headers
            .iter()
            .find(|header| header.name == name)
            .map(|header| header.value.as_str())
    }

    /// What the message carries.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.wire.payload
    }

    /// How long the worker has to report, from the assignment's sending or its last extension.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.wire.lease_ms.into())
    }

    /// Begins the lease anew, for work that takes longer.
    pub fn extend(&self) {
        self.extender.extend();
    }

    /// Extends the lease from elsewhere.
    #[must_use]
    pub fn extender(&self) -> Extender {
        self.extender.clone()
    }
}

impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment")
            .field("interface", &self.wire.interface)
            .field("sequence", &self.wire.sequence)
            .field("stage", &self.wire.stage)
            .field("turn", &self.wire.turn)
            .field("attempts", &self.wire.attempts)
            .field("payload_bytes", &self.wire.payload.len())
            .finish_non_exhaustive()
    }
}

/// Begins one assignment's lease anew. Does nothing once the assignment is reported.
#[derive(Clone)]
pub struct Extender {
    token: u64,
    extensions: Arc<Extensions>,
}

impl Extender {
    /// Begins the lease anew.
    pub fn extend(&self) {
        let mut wanted = self
            .extensions
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !wanted.contains(&self.token) {
            wanted.push(self.token);
        }
        drop(wanted);
        self.extensions.arrived.notify_one();
    }
}

impl fmt::Debug for Extender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extender")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// Assignments whose lease is to begin anew.
#[derive(Default)]
struct Extensions {
    wanted: Mutex<Vec<u64>>,
    arrived: Notify,
}

/// Work in progress.
type Working = BoxFuture<'static, Outcome>;

/// A stage's handler.
enum Handler {
    /// Polled by the worker's task.
    Future(Box<dyn Fn(Assignment) -> Working + Send + Sync>),
    /// Called on the worker's task.
    Call(Box<dyn Fn(Assignment) -> Outcome + Send + Sync>),
}

struct Stage {
    name: String,
    handler: Handler,
}

/// Settings of a [`Worker`].
pub struct WorkerBuilder {
    cluster: Cluster,
    name: String,
    interface_prefix: String,
    stages: Vec<Stage>,
    concurrency: u32,
    drain_max: Duration,
}

impl WorkerBuilder {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            name: "worker".to_owned(),
            interface_prefix: String::new(),
            stages: Vec::new(),
            concurrency: 64,
            drain_max: Duration::from_secs(30),
        }
    }

    /// What people see the worker as.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Only interfaces whose names begin so.
    #[must_use]
    pub fn interface_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.interface_prefix = prefix.into();
        self
    }

    /// Works on a stage. The handler's futures run on the worker's own task, many at once; one that computes for long
    /// belongs into [`WorkerBuilder::stage_spawned`]. A handler that panics is a retry.
    #[must_use]
    pub fn stage<H, F>(mut self, name: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Assignment) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let work = move |assignment| -> Working {
            let handler = Arc::clone(&handler);
            // The call is inside too: it may panic before there is a future.
            let work = AssertUnwindSafe(async move { handler(assignment).await }).catch_unwind();
            Box::pin(work.map(|result| result.unwrap_or_else(|_| Outcome::panicked())))
        };
        self.stages.push(Stage {
            name: name.into(),
            handler: Handler::Future(Box::new(work)),
        });
        self
    }

    /// As [`WorkerBuilder::stage`], with a task of its own for each assignment, on whatever threads the runtime has.
    #[must_use]
    pub fn stage_spawned<H, F>(mut self, name: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Assignment) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let work = move |assignment| -> Working {
            let handler = Arc::clone(&handler);
            let mut task = AbortOnDrop(tokio::spawn(async move { handler(assignment).await }));
            Box::pin(async move {
                let result = poll_fn(|context| Pin::new(&mut task.0).poll(context)).await;
                result.unwrap_or_else(|_| Outcome::panicked())
            })
        };
        self.stages.push(Stage {
            name: name.into(),
            handler: Handler::Future(Box::new(work)),
        });
        self
    }

    /// Works on a stage with a plain function, called on the worker's task: the cheapest, for what neither waits nor
    /// computes for long.
    #[must_use]
    pub fn stage_sync<H>(mut self, name: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Assignment) -> Outcome + Send + Sync + 'static,
    {
        let work = move |assignment| {
            catch_unwind(AssertUnwindSafe(|| handler(assignment)))
                .unwrap_or_else(|_| Outcome::panicked())
        };
        self.stages.push(Stage {
            name: name.into(),
            handler: Handler::Call(Box::new(work)),
        });
        self
    }

    /// How many assignments it holds at once: its credits. Default 64; some thousands suit handlers that take
    /// microseconds.
    #[must_use]
    pub fn concurrency(mut self, concurrency: u32) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How long the last reports may look for a leader when the worker leaves. Default 30 s.
    #[must_use]
    pub fn drain_max(mut self, time: Duration) -> Self {
        self.drain_max = time;
        self
    }

    /// Starts it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A setting has a value that is not allowed.
    pub fn start(self) -> Result<Worker, ConfigError> {
        self.check()?;
        let (drain, drained) = watch::channel(false);
        let stats = Arc::new(Counters::default());
        let task = tokio::spawn(run::Run::new(self, Arc::clone(&stats)).run(drained));
        Ok(Worker {
            drainer: Drainer {
                drain: Arc::new(drain),
            },
            task,
            result: None,
            stats,
        })
    }

    /// Works until `shutdown` resolves, then drains.
    ///
    /// # Errors
    /// A setting is not allowed, the cluster refuses the worker, or its last reports found no leader.
    pub async fn run_until(self, shutdown: impl Future) -> Result<(), WorkError> {
        let mut worker = self.start()?;
        tokio::select! {
            biased;
            ended = worker.ended() => return ended,
            _ = shutdown => {}
        }
        worker.drain().await
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fail = |field, text: String| Err(ConfigError::Field { field, text });
        if self.stages.is_empty() {
            return fail("stages", "a worker needs at least one".to_owned());
        }
        for (index, stage) in self.stages.iter().enumerate() {
            if stage.name.is_empty() || stage.name.len() > NAME_BYTES_MAX {
                return fail(
                    "stages",
                    format!("{:?}: a name has 1 to {NAME_BYTES_MAX} bytes", stage.name),
                );
            }
            if self.stages[..index]
                .iter()
                .any(|other| other.name == stage.name)
            {
                return fail("stages", format!("{:?} is named twice", stage.name));
            }
        }
        if self.name.len() > NAME_BYTES_MAX {
            return fail(
                "name",
                format!("has {} bytes, past the {NAME_BYTES_MAX}", self.name.len()),
            );
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return fail(
                "concurrency",
                format!("{} is not within 1 to {CONCURRENCY_MAX}", self.concurrency),
            );
        }
        Ok(())
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages: Vec<_> = self.stages.iter().map(|stage| &stage.name).collect();
        f.debug_struct("WorkerBuilder")
            .field("name", &self.name)
            .field("interface_prefix", &self.interface_prefix)
            .field("stages", &stages)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

struct AbortOnDrop(JoinHandle<Outcome>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A running worker. Dropping it ends its work at once; what it holds then counts as lost.
#[derive(Debug)]
pub struct Worker {
    drainer: Drainer,
    task: JoinHandle<Result<(), WorkError>>,
    /// The task's, once it has ended.
    result: Option<Result<(), WorkError>>,
    stats: Arc<Counters>,
}

impl Worker {
    /// Takes no more work, finishes what it has, reports it and leaves.
    ///
    /// # Errors
    /// The cluster refused the worker, or its last reports found no leader.
    pub async fn drain(mut self) -> Result<(), WorkError> {
        self.drainer.drain();
        self.ended().await
    }

    /// Waits until the worker has stopped: it was drained through its [`Drainer`], or refused.
    ///
    /// # Errors
    /// As [`Worker::drain`].
    pub async fn ended(&mut self) -> Result<(), WorkError> {
        if self.result.is_none() {
            self.result = Some((&mut self.task).await.unwrap_or(Err(WorkError::Aborted)));
        }
        self.result.clone().unwrap_or(Ok(()))
    }

    /// Something that can begin the drain from elsewhere.
    #[must_use]
    pub fn drainer(&self) -> Drainer {
        self.drainer.clone()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> WorkerStats {
        self.stats.read()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Begins a worker's drain.
#[derive(Clone, Debug)]
pub struct Drainer {
    drain: Arc<watch::Sender<bool>>,
}

impl Drainer {
    /// The worker takes no more work, finishes what it has, reports it and leaves.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Assignments taken.
    pub assigned: u64,
    /// Reports recorded.
    pub recorded: u64,
    /// Reports that came too late and changed nothing.
    pub stale: u64,
    /// Reports refused otherwise.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    assigned: AtomicU64,
    recorded: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    fn read(&self) -> WorkerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerStats {
            assigned: read(&self.assigned),
            recorded: read(&self.recorded),
            stale: read(&self.stale),
            refused: read(&self.refused),
        }
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
