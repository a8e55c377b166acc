//! How a node ends.

use super::home::Threads;
use super::servers::{SERVICES, Servers};
use super::{ServeHandle, storage_failed};
use crate::error::ServeError;
use openraft::async_runtime::WatchReceiver;
use ordo_storage::wait_until_closed;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic_health::ServingStatus;

/// How long another node may take to become leader in this one's place.
const TRANSFER_WITHIN: Duration = Duration::from_secs(3);
/// How long streams and calls may take to end.
const DRAIN_WITHIN: Duration = Duration::from_secs(6);
/// How long consensus may take to end.
const RAFT_WITHIN: Duration = Duration::from_secs(5);
/// How long whoever serves a connection may take to notice that it is closed.
const CUT_WITHIN: Duration = Duration::from_secs(1);
/// How long blocking work may take to end, after all else has.
const RUNTIME_WITHIN: Duration = Duration::from_secs(5);
/// How long threads that read or send the state may take to notice that nobody waits for them.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// Ends a process's `runtime` after [`serve`](super::serve), whatever came of that, and waits until the state is
/// closed: to be called before `main` returns (see [`wait_until_closed`]).
pub fn leave(runtime: Runtime) {
    runtime.shutdown_timeout(RUNTIME_WITHIN);
    if !wait_until_closed(CLOSED_WITHIN) {
        tracing::warn!("the state is still being read; the process ends without closing it");
    }
}

impl ServeHandle {
    /// Waits for what the node can't survive: a disk that refuses, damage, a server or consensus that stopped.
    pub async fn failed(&mut self) -> ServeError {
        let Servers {
            tasks, peer_task, ..
        } = &mut self.servers;
        let mut tasks_failed = pin!(async {
            tokio::select! {
                biased;
                error = Self::next_failure(tasks) => error,
                error = Self::next_failure(peer_task) => error,
            }
        });
        tokio::select! {
            biased;
            // The store can also go away without a failure; what else went away shows in the tasks.
            Ok(error) = &mut self.failure => error,
            error = &mut tasks_failed => match error {
                // What made consensus stop says it in better words, where it was the disk.
                error @ (ServeError::Raft(_) | ServeError::Storage(_)) => {
                    let log = self.log.failure().map(storage_failed);
                    log.or_else(|| self.failure.try_recv().ok()).unwrap_or(error)
                }
                error => error,
            },
        }
    }

    async fn next_failure(tasks: &mut tokio::task::JoinSet<Result<(), ServeError>>) -> ServeError {
        loop {
            match tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => {
                    return ServeError::Server {
                        server: "node's own",
                        error: error.to_string(),
                    };
                }
                None => return pending().await,
            }
        }
    }

    /// Takes leave of the cluster and stops: leadership goes to another node, streams end, what is in hand reaches
    /// the disk.
    ///
    /// # Errors
    /// When the disk refuses at the end; nothing acknowledged is lost then.
    pub async fn shutdown(mut self) -> Result<(), ServeError> {
        tracing::info!("this node stops");
        for service in SERVICES.into_iter().chain([""]) {
            self.servers
                .health
                .set_service_status(service, ServingStatus::NotServing)
                .await;
        }
        if self.context.raft.is_leader() {
            match timeout(TRANSFER_WITHIN, self.context.cluster.transfer(None)).await {
                Ok(Ok(leader)) => tracing::info!(node_id = leader, "leadership was handed over"),
                Ok(Err(failure)) => {
                    tracing::info!("leadership was not handed over: {}", failure.text)
                }
                Err(_) => {
                    tracing::warn!("leadership was not handed over in time: the others will elect")
                }
            }
        }
        self.context.stop.cancel();
        self.closing.cancel();
        let tasks = &mut self.servers.tasks;
        let drained = async { while tasks.join_next().await.is_some() {} };
        if timeout(DRAIN_WITHIN, drained).await.is_err() {
            tracing::info!("some connections did not end in time and are closed");
        }
        self.end().await
    }

    /// Stops at once, as after a failure: nothing is handed over and nothing waited for.
    pub async fn abandon(self) {
        self.context.stop.cancel();
        self.closing.cancel();
        if let Err(error) = self.end().await {
            tracing::debug!(%error, "after the failure");
        }
    }

    async fn end(mut self) -> Result<(), ServeError> {
        self.servers.tasks.shutdown().await;
        // A failure here is one of those that ended the node, or of no interest any more.
        let _ = timeout(RAFT_WITHIN, self.context.raft.shutdown()).await;
        self.servers.peers_closing.cancel();
        self.servers.peer_task.shutdown().await;
        for open in self.servers.open {
            open.cut(CUT_WITHIN).await;
        }
        let flushed = self.context.machine.stop().await.map_err(storage_failed);
        let failure = self.log.failure();
        drop(self.context);
        self.log.close();
        let ended = self.threads.map_or(Ok(()), Threads::join);
        flushed.and(ended)?;
        failure.map_or(Ok(()), |error| Err(storage_failed(error)))
    }

    /// Whether this node leads; for tests.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.context.raft.is_leader()
    }

    /// What the services share; for tests.
    #[must_use]
    pub fn context(&self) -> &std::sync::Arc<crate::context::Context> {
        &self.context
    }

    /// The term this node is in; for tests.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.context.raft.metrics().borrow_watched().current_term
    }
}
