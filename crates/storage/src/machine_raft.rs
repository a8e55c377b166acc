//! The state machine as openraft drives it.

use crate::machine::Machine;
use crate::machine_loop::{Committed, Job};
use crate::store::StateStore;
use crate::store_error::StoreError;
use crate::types::{
    Entry, EntryPayload, LogId, Snapshot, SnapshotFolder, SnapshotMeta, StoredMembership,
    TypeConfig,
};
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::collections::VecDeque;
use std::io;
use tokio::sync::oneshot;

/// Lumps on their way to the machine's thread at most: one being applied, and one more so that it needs not wait.
const LUMPS_IN_FLIGHT_MAX: usize = 2;

impl<E: Send + 'static> Machine<E> {
    async fn run<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job<E>,
    ) -> Result<T, StoreError> {
        let (done, result) = oneshot::channel();
        self.jobs.send(job(done)).map_err(|_| StoreError::Stopped)?;
        result.await.unwrap_or(Err(StoreError::Stopped))
    }
}

impl<E: Send + 'static> RaftStateMachine<TypeConfig> for Machine<E> {
    type SnapshotData = SnapshotFolder;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.store.applied();
        Ok((applied.last_log_id, applied.membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        let mut in_flight: VecDeque<oneshot::Receiver<Result<(), StoreError>>> = VecDeque::new();
        while let Some(first) = entries.next().await {
            let lump = self.gather(first?, &mut entries)?;
            while in_flight.len() >= LUMPS_IN_FLIGHT_MAX
                && let Some(oldest) = in_flight.pop_front()
            {
                oldest.await.unwrap_or(Err(StoreError::Stopped))?;
            }
            let (done, result) = oneshot::channel();
            self.jobs
                .send(Job::Apply(lump, done))
                .map_err(|_| StoreError::Stopped)?;
            in_flight.push_back(result);
        }
        for lump in in_flight {
            lump.await.unwrap_or(Err(StoreError::Stopped))?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            store: self.store.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFolder,
    ) -> Result<(), io::Error> {
        // No entry is applied meanwhile, but the machine's thread has questions to answer: it gets a loaded state.
        let (store, meta) = (self.store.clone(), meta.clone());
        let prepare = move || store.prepare(&meta, &snapshot);
        let prepared = self.store.home().aside("ordo-install", prepare).await?;
        let prepared = Box::new(prepared);
        let replaced = self.run(|done| Job::Install(prepared, done)).await?;
        let let_go = move || {
            drop(replaced);
            Ok(())
        };
        Ok(self.store.home().aside("ordo-let-go", let_go).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.store.shelf().newest())
    }
}

impl<E: Send + 'static> Machine<E> {
    /// Makes a snapshot where the state is ahead of the log that ends at `last`, before consensus starts.
    ///
    /// A leader applies what a quorum has, which its own disk may not have yet; when it loses power then, the state's
    /// last flush may be ahead of the log. openraft purges such a log up to the state. Without a snapshot as new as
    /// that, a follower that needs an entry between could be sent neither the entry nor a snapshot that has it.
    ///
    /// # Errors
    /// When the snapshot can't be made.
    pub async fn cover(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let last = last.map_or(0, |last| last.index);
        if self.store.applied().index() > last {
            self.get_snapshot_builder().await.build_snapshot().await?;
        }
        Ok(())
    }

    /// A lump: what the stream has at hand, without waiting for more.
    fn gather<Strm>(
        &self,
        first: Committed,
        entries: &mut Strm,
    ) -> Result<Vec<Committed>, io::Error>
    where
        Strm: Stream<Item = Result<Committed, io::Error>> + Unpin,
    {
        let mut bytes = entry_bytes(&first.0);
        let mut lump = vec![first];
        while lump.len() < self.options.lump_entries_max
            && bytes < self.options.lump_bytes_max
            && let Some(Some(next)) = entries.next().now_or_never()
        {
            let next = next?;
            bytes += entry_bytes(&next.0);
            lump.push(next);
        }
        Ok(lump)
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

/// Makes a snapshot, on a thread of its own, while lumps go on being applied.
#[derive(Debug)]
pub struct Builder {
    store: StateStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFolder;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let store = self.store.clone();
        let build = move || store.shelf().build(&store);
        Ok(self.store.home().aside("ordo-snapshot", build).await?)
    }
}
