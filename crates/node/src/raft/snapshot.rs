//! Snapshots between nodes: the files of a folder, in checksummed chunks.
//!
//! ```text
//! sender    head, manifest, resume ──►          receiver reads what it has of the manifest's files
//!                                  ◄── held
//!           what is missing, end   ──►
//!                                  ◄── progress, …, vote: installed
//! ```
//! There is no limit to how long it takes, only to how long nothing happens: the receiver tells its progress as long as
//! it makes any, through the last step of the installation. What broke off goes on where it was.
//!
//! Files are read and written by threads of their own, so that a big snapshot doesn't hold up the log.

#[cfg(test)]
mod tests;

use futures_util::{Stream, StreamExt};
use ordo_storage::{
    Driver, ReceivedSnapshot, Snapshot, SnapshotChunk, SnapshotFolder, SnapshotHeld,
    SnapshotReader, SnapshotReceiver, StateStore, StoreError,
};
use ordo_wire::internal::v1 as proto;
use proto::install_snapshot_request::Part;
use proto::{InstallSnapshotRequest, InstallSnapshotResponse};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of one chunk: on a slow line, too, one comes before the connection is tried (`KEEP_ALIVE`).
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks read ahead, or received and not yet written.
const CHUNKS_AHEAD: usize = 16;
/// How often the receiver tells its progress. More often than a silent connection is tried: a question of whether it
/// still holds would wait behind the chunks that are on their way.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Answers that wait to be sent at most.
pub(crate) const ANSWERS_WAITING: usize = 4;

/// Where a receiver's answers go.
pub(crate) type Answers = mpsc::Sender<Result<InstallSnapshotResponse, Status>>;

/// The parts of a snapshot of `store`, and who is to be told what the receiver has. When a file can't be read they end
/// early, and the receiver refuses them.
pub(crate) fn send(
    store: StateStore,
    folder: SnapshotFolder,
    head: proto::SnapshotHead,
    driver: Driver,
) -> (
    ReceiverStream<InstallSnapshotRequest>,
    oneshot::Sender<Vec<SnapshotHeld>>,
) {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let (tell_held, held) = oneshot::channel();
    let sending = Sending { sender, held };
    driver.spawn("snapshot-send", async move {
        let folder_name = folder.path.display();
        match sending.run(&folder, head).await {
            Ok(()) => {}
            // A newer snapshot may have taken its place; openraft tries again.
            Err(SendError::Store(error)) => {
                tracing::warn!(%error, folder = %folder_name, "the snapshot was not sent to its end");
                store.snapshot_unreadable(&error);
            }
            // Whoever waits for the answer says why, and openraft tries again every few seconds.
            Err(error @ SendError::GivenUp) => {
                tracing::debug!(%error, folder = %folder_name, "the snapshot was not sent to its end");
            }
        }
    });
    (ReceiverStream::new(receiver), tell_held)
}

/// Reads the receiver's answers until the snapshot is installed there. `silence` is how long none may come.
pub(crate) async fn follow(
    mut answers: impl Stream<Item = Result<InstallSnapshotResponse, Status>> + Unpin,
    held: oneshot::Sender<Vec<SnapshotHeld>>,
    silence: Duration,
) -> Result<proto::Vote, Status> {
    let mut held = Some(held);
    loop {
        let Ok(answer) = timeout(silence, answers.next()).await else {
            return Err(silent("receiver", silence));
        };
        let answer =
            answer.unwrap_or_else(|| Err(Status::aborted("it ended without an answer")))?;
        if let Some(files) = answer.held
            && let Some(held) = held.take()
        {
            let files = files.files.into_iter();
            let files =
                files.map(|proto::SnapshotHeldFile { file, bytes }| SnapshotHeld { file, bytes });
            // Gone when a file could not be read; the receiver hears of it, and we of that.
            let _ = held.send(files.collect());
        }
        if let Some(vote) = answer.vote {
            return Ok(vote);
        }
    }
}

/// What is told when nothing happens for too long.
pub(crate) fn silent(who: &str, silence: Duration) -> Status {
    let seconds = silence.as_secs_f64();
    Status::deadline_exceeded(format!(
        "the {who} of the snapshot made no progress for {seconds} s"
    ))
}

struct Sending {
    sender: mpsc::Sender<InstallSnapshotRequest>,
    held: oneshot::Receiver<Vec<SnapshotHeld>>,
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
        mut self,
        folder: &SnapshotFolder,
        head: proto::SnapshotHead,
    ) -> Result<(), SendError> {
        let mut reader = SnapshotReader::open(folder)?;
        self.part(Part::Head(head)).await?;
        let mut asked = false;
        loop {
            if reader.is_behind_manifest() && !asked {
                asked = true;
                self.part(Part::Resume(proto::SnapshotResume {})).await?;
                let held = (&mut self.held).await.map_err(|_| SendError::GivenUp)?;
                reader.leave_out(&held)?;
            }
            let Some(chunk) = reader.next_chunk(CHUNK_BYTES)? else {
                break;
            };
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
        let request = InstallSnapshotRequest { part: Some(part) };
        let sent = self.sender.send(request).await;
        sent.map_err(|_| SendError::GivenUp)
    }
}

/// Receives a snapshot behind its head, and has it installed. Tells in `answers` how far it is, and at the end what came
/// of it. `silence` is how long the sender may say nothing while there is nothing to do.
pub(crate) async fn receive<P, I>(
    store: StateStore,
    parts: P,
    answers: Answers,
    silence: Duration,
    install: impl FnOnce(Snapshot) -> I,
) where
    P: Stream<Item = Result<InstallSnapshotRequest, Status>> + Unpin,
    I: Future<Output = Result<proto::Vote, Status>>,
{
    let told = answers.clone();
    let work = async {
        let received = take(&store, parts, answers.clone(), silence).await?;
        install(received.snapshot.clone()).await
    };
    tokio::pin!(work);
    let mut ticks = interval(TELL_EVERY.min(silence / 4));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = store.snapshot_progress();
    loop {
        tokio::select! {
            biased;
            result = &mut work => {
                let answer = result.map(|vote| InstallSnapshotResponse {
                    vote: Some(vote),
                    ..InstallSnapshotResponse::default()
                });
                // A sender that went away sends again, or another one does.
                let _ = told.send(answer).await;
                return;
            }
            _ = ticks.tick() => {}
        }
        let progress = store.snapshot_progress();
        if progress != std::mem::replace(&mut last, progress) {
            // A full channel tells as much.
            let _ = told.try_send(Ok(InstallSnapshotResponse {
                progress,
                ..InstallSnapshotResponse::default()
            }));
        }
    }
}

/// Takes parts until the snapshot is whole, and on the disk.
async fn take<P>(
    store: &StateStore,
    mut parts: P,
    answers: Answers,
    silence: Duration,
) -> Result<ReceivedSnapshot, Status>
where
    P: Stream<Item = Result<InstallSnapshotRequest, Status>> + Unpin,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let (finished, done) = oneshot::channel();
    let writing = store.clone();
    store.driver().spawn("snapshot-receive", async move {
        // Nobody waits any more when the sender went away.
        let _ = finished.send(write(&writing, receiver, answers).await);
    });
    loop {
        let part = tokio::select! {
            biased;
            // No more is wanted, and what is done says why.
            () = sender.closed() => break,
            part = next_part(store, &mut parts, silence) => part?,
        };
        let Some(part) = part else { break };
        let is_end = matches!(part, Part::End(_));
        if sender.send(part).await.is_err() || is_end {
            break;
        }
    }
    drop(sender);
    let gone = |_| {
        Err(Status::internal(
            "the thread that wrote the snapshot is gone",
        ))
    };
    let Written {
        receiver,
        files,
        bytes,
    } = done.await.unwrap_or_else(gone)?;
    receiver.finish(files, bytes).await.map_err(status_of)
}

async fn next_part<P>(
    store: &StateStore,
    parts: &mut P,
    silence: Duration,
) -> Result<Option<Part>, Status>
where
    P: Stream<Item = Result<InstallSnapshotRequest, Status>> + Unpin,
{
    loop {
        let before = store.snapshot_progress();
        match timeout(silence, parts.next()).await {
            Ok(message) => return Ok(message.transpose()?.and_then(|message| message.part)),
            // It waits for what is done here.
            Err(_) if store.snapshot_progress() != before => {}
            Err(_) => return Err(silent("sender", silence)),
        }
    }
}

/// Everything that was sent.
struct Written {
    receiver: SnapshotReceiver,
    files: u64,
    bytes: u64,
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
    answers: Answers,
) -> Result<Written, Status> {
    let mut receiver = SnapshotReceiver::begin(store).map_err(|error| match error {
        StoreError::Transfer(what) => Status::aborted(what),
        error => status_of(error),
    })?;
    while let Some(part) = parts.recv().await {
        match part {
            Part::Head(_) => return Err(Status::invalid_argument("a second head in one snapshot")),
            Part::Resume(_) => {
                let files = receiver.held().map_err(status_of)?.into_iter();
                let files = files
                    .map(|SnapshotHeld { file, bytes }| proto::SnapshotHeldFile { file, bytes });
                let held = Some(proto::SnapshotHeld {
                    files: files.collect(),
                });
                let answer = InstallSnapshotResponse {
                    held,
                    ..InstallSnapshotResponse::default()
                };
                // A sender that went away is noticed where its parts are read.
                let _ = answers.send(Ok(answer)).await;
            }
            Part::Chunk(proto::SnapshotChunk {
                file,
                offset,
                data,
                crc32c,
            }) => {
                let chunk = SnapshotChunk {
                    file,
                    offset,
                    data,
                    crc32c,
                };
                receiver.chunk(&chunk).map_err(status_of)?;
            }
            Part::End(proto::SnapshotEnd { files, bytes }) => {
                return Ok(Written {
                    receiver,
                    files,
                    bytes,
                });
            }
        }
    }
    Err(Status::aborted("the snapshot ended before its end"))
}
