//! Snapshots between nodes: the files of a folder, in checksummed chunks.
//!
//! Files are read and written by threads of their own, so that a big snapshot doesn't hold up the log.

use ordo_storage::{
    Driver, Snapshot, SnapshotChunk, SnapshotFolder, SnapshotReader, SnapshotReceiver, StateStore,
    StoreError,
};
use ordo_wire::internal::v1 as proto;
use proto::InstallSnapshotRequest;
use proto::install_snapshot_request::Part;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks read ahead, or received and not yet written.
const CHUNKS_AHEAD: usize = 4;
/// How long a transfer may stand still; installing what was received is its longest pause.
const STALL: Duration = Duration::from_secs(120);

/// How far a transfer is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Ends, with what to tell, when nothing more was sent for [`STALL`].
    pub(crate) async fn stalled(&self) -> Status {
        loop {
            let before = self.0.load(Ordering::Acquire);
            tokio::time::sleep(STALL).await;
            if self.0.load(Ordering::Acquire) == before {
                return Status::deadline_exceeded(format!(
                    "the snapshot stood still for {} s",
                    STALL.as_secs()
                ));
            }
        }
    }
}

/// The parts of a snapshot of `store`. When a file can't be read they end early, and the receiver refuses them.
pub(crate) fn send(
    store: StateStore,
    folder: SnapshotFolder,
    head: proto::SnapshotHead,
    driver: Driver,
) -> (ReceiverStream<InstallSnapshotRequest>, Progress) {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let progress = Progress::default();
    let sending = Sending {
        sender,
        progress: progress.clone(),
    };
    driver.spawn("snapshot-send", async move {
        if let Err(error) = sending.run(&folder, head).await {
            if let SendError::Store(error) = &error {
                store.snapshot_unreadable(error);
            }
            // A newer snapshot may have taken its place; openraft tries again.
            tracing::warn!(%error, folder = %folder.path.display(), "the snapshot was not sent to its end");
        }
    });
    (ReceiverStream::new(receiver), progress)
}

struct Sending {
    sender: mpsc::Sender<InstallSnapshotRequest>,
    progress: Progress,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the transfer was given up")]
    GivenUp,
}

impl Sending {
    async fn run(
        self,
        folder: &SnapshotFolder,
        head: proto::SnapshotHead,
    ) -> Result<(), SendError> {
        let mut reader = SnapshotReader::open(folder)?;
        self.part(Part::Head(head)).await?;
        while let Some(chunk) = reader.next_chunk(CHUNK_BYTES)? {
            let SnapshotChunk {
                file,
                offset,
                data,
                crc32c,
            } = chunk;
            self.part(Part::Chunk(proto::SnapshotChunk {
                file,
                offset,
                data,
                crc32c,
            }))
            .await?;
        }
        self.part(Part::End(proto::SnapshotEnd {
            files: reader.files(),
            bytes: reader.bytes(),
        }))
        .await
    }

    async fn part(&self, part: Part) -> Result<(), SendError> {
        let sent = self
            .sender
            .send(InstallSnapshotRequest { part: Some(part) })
            .await;
        self.progress.0.fetch_add(1, Ordering::AcqRel);
        sent.map_err(|_| SendError::GivenUp)
    }
}

/// Writes a snapshot as it comes in.
pub(crate) struct Receiving {
    parts: mpsc::Sender<Part>,
    done: oneshot::Receiver<Result<Received, Status>>,
}

/// Everything that was sent.
struct Received {
    receiver: SnapshotReceiver,
    files: u64,
    bytes: u64,
    alone: OwnedMutexGuard<()>,
}

impl Receiving {
    /// Begins to write. `alone` is held as long as something is written.
    pub(crate) fn begin(store: StateStore, alone: OwnedMutexGuard<()>) -> Self {
        let (parts, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let (finished, done) = oneshot::channel();
        store.driver().spawn("snapshot-receive", async move {
            // Nobody waits any more when the sender went away.
            let _ = finished.send(write(&store, receiver, alone).await);
        });
        Self { parts, done }
    }

    /// Takes one part; false when no more is wanted, and [`Receiving::finish`] says why.
    pub(crate) async fn part(&self, part: Part) -> bool {
        self.parts.send(part).await.is_ok()
    }

    /// The snapshot, with all its files on disk.
    pub(crate) async fn finish(self) -> Result<(Snapshot, OwnedMutexGuard<()>), Status> {
        drop(self.parts);
        let gone = |_| {
            Err(Status::internal(
                "the thread that wrote the snapshot is gone",
            ))
        };
        let Received {
            receiver,
            files,
            bytes,
            alone,
        } = self.done.await.unwrap_or_else(gone)?;
        let snapshot = receiver.finish(files, bytes).await.map_err(status_of)?;
        Ok((snapshot, alone))
    }
}

fn status_of(error: StoreError) -> Status {
    match error {
        StoreError::Transfer(what) => Status::data_loss(what),
        error => Status::internal(error.to_string()),
    }
}

async fn write(
    store: &StateStore,
    mut parts: mpsc::Receiver<Part>,
    alone: OwnedMutexGuard<()>,
) -> Result<Received, Status> {
    let mut receiver = SnapshotReceiver::begin(store).map_err(status_of)?;
    while let Some(part) = parts.recv().await {
        match part {
            Part::Head(_) => return Err(Status::invalid_argument("a second head in one snapshot")),
            Part::Chunk(proto::SnapshotChunk {
                file,
                offset,
                data,
                crc32c,
            }) => {
                receiver
                    .chunk(&SnapshotChunk {
                        file,
                        offset,
                        data,
                        crc32c,
                    })
                    .map_err(status_of)?;
            }
            Part::End(proto::SnapshotEnd { files, bytes }) => {
                return Ok(Received {
                    receiver,
                    files,
                    bytes,
                    alone,
                });
            }
        }
    }
    Err(Status::aborted("the snapshot ended before its end"))
}
