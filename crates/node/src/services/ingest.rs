//! The Ingest service: frames in, one proposal per frame, results in order.

mod accept;

use super::{ENDS_WITHIN, FRAMES_WAITING, Stream, end, failed, run_ended, stopped};
use crate::context::Context;
use crate::proposer::{Proposed, RunId, Standing};
use accept::{Acceptor, Frame};
use futures_util::FutureExt;
use ordo_wire::status::Failure;
use ordo_wire::v1;
use ordo_wire::v1::ingest_service_server::IngestService;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Bytes of one stream that are on their way before its next frame is read; one frame may be larger.
const STREAM_BYTES: usize = 4 * 1024 * 1024;
/// Frames of one stream that are on their way.
const STREAM_FRAMES: usize = 256;
/// Results put into one response.
const RESULTS: usize = 8_192;

/// See [`IngestService`].
pub(super) struct Ingest {
    context: Arc<Context>,
}

impl Ingest {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

type Responses = mpsc::Sender<Result<v1::IngestResponse, Status>>;

#[tonic::async_trait]
impl IngestService for Ingest {
    type IngestStream = ReceiverStream<Result<v1::IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let stream = Stream::open(&self.context).await?;
        let (responses, receiver) = mpsc::channel(FRAMES_WAITING);
        let acceptor = Acceptor::new(Arc::clone(&self.context), stream.run);
        let pump = Pump {
            stream,
            acceptor,
            pending: VecDeque::new(),
            bytes: 0,
            ends: None,
        };
        tokio::spawn(pump.run(request.into_inner(), responses));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream's task.
struct Pump {
    stream: Stream,
    acceptor: Acceptor,
    /// Frames whose results have not been written, oldest first.
    pending: VecDeque<Frame>,
    bytes: usize,
    /// Why the stream ends once its results are written, and when it does so without them.
    ends: Option<(Failure, Instant)>,
}

impl Pump {
    async fn run(mut self, mut incoming: Streaming<v1::IngestRequest>, responses: Responses) {
        let context = Arc::clone(&self.stream.context);
        let _open = context.metrics.stream("ingest");
        let mut closed = false;
        loop {
            if self.pending.is_empty() {
                match &self.ends {
                    Some((failure, _)) => return end(&responses, failure).await,
                    None if closed => return,
                    None => {}
                }
            }
            let ending = self.ends.is_some();
            let deadline = self
                .ends
                .as_ref()
                .map_or_else(Instant::now, |(_, deadline)| *deadline);
            let run = self.stream.run;
            let reads = !closed
                && !ending
                && self.bytes < STREAM_BYTES
                && self.pending.len() < STREAM_FRAMES;
            tokio::select! {
                biased;
                () = context.stop.cancelled(), if !ending => self.end(stopped(&context)),
                () = run_over(&mut self.stream.standing, run), if !ending => self.lose(),
                proposed = first(&mut self.pending), if !self.pending.is_empty() => {
                    if let Err(failure) = self.answer(proposed, &responses).await {
                        return end(&responses, &failure).await;
                    }
                }
                frame = incoming.message(), if reads => match frame {
                    Ok(Some(frame)) => {
                        if let Err(failure) = self.accept(frame).await {
                            self.end(failure);
                        }
                    }
                    Ok(None) => closed = true,
                    // The client is gone, or sent what is no frame: it hears of that by the transport.
                    Err(status) => {
                        tracing::debug!(code = ?status.code(), "an ingest stream broke");
                        return;
                    }
                },
                () = tokio::time::sleep_until(deadline), if ending => self.pending.clear(),
            }
        }
    }

    fn end(&mut self, failure: Failure) {
        self.ends = Some((failure, Instant::now() + ENDS_WITHIN));
    }

    /// The run is over: what was decided in it is still told, nothing more is read.
    fn lose(&mut self) {
        let leads = matches!(*self.stream.standing.borrow(), Standing::Leading(_));
        self.end(if leads {
            run_ended()
        } else {
            super::not_leader(&self.stream.context)
        });
    }

    async fn accept(&mut self, frame: v1::IngestRequest) -> Result<(), Failure> {
        let frame = self.acceptor.accept(frame).await?;
        self.bytes += frame.bytes();
        self.pending.push_back(frame);
        Ok(())
    }

    /// Writes the first frame's results, and those of the following ones that are there as well.
    async fn answer(&mut self, proposed: Proposed, responses: &Responses) -> Result<(), Failure> {
        let mut results = Vec::new();
        let mut next = Some(proposed);
        let mut ended = None;
        while let Some(proposed) = next.take() {
            let Some(frame) = self.pending.pop_front() else {
                break;
            };
            self.bytes -= frame.bytes();
            let context = &self.stream.context;
            match proposed
                .map_err(|error| failed(context, error))
                .and_then(|replies| frame.results(context, replies))
            {
                Ok(mut there) => results.append(&mut there),
                Err(failure) => {
                    ended = Some(failure);
                    break;
                }
            }
            if results.len() < RESULTS && !self.pending.is_empty() {
                next = first(&mut self.pending).now_or_never();
            }
        }
        if results.is_empty() {
            return ended.map_or(Ok(()), Err);
        }
        let sent = responses.send(Ok(v1::IngestResponse { results }));
        // A client that does not read must not keep the node from stopping.
        let sent = tokio::select! {
            biased;
            sent = sent => sent.is_ok(),
            () = self.stream.context.stop.cancelled() => false,
        };
        if !sent {
            tracing::debug!("an ingest client left before it had its results");
            return Err(run_ended());
        }
        ended.map_or(Ok(()), Err)
    }
}

/// Waits until `run` is no longer the leader's.
async fn run_over(standing: &mut watch::Receiver<Standing>, run: RunId) {
    // The proposer goes with the node: then it is over, too.
    let _ = standing
        .wait_for(|standing| standing.run() != Some(run))
        .await;
}

/// The replies to the oldest frame.
async fn first(pending: &mut VecDeque<Frame>) -> Proposed {
    match pending.front_mut().and_then(Frame::pending) {
        Some(proposed) => proposed.await,
        None => Ok(Vec::new()),
    }
}
