//! The Ingest service: frames in, one proposal per frame, results in order.

mod accept;
#[cfg(test)]
mod tests;

use super::outstanding::Outstanding;
use super::{
    ENDS_WITHIN, FRAMES_WAITING, READ_WITHIN, RESULTS, Stream, broken, end, failed, others_turn,
    run_ended, stopped, unread,
};
use crate::context::Context;
use crate::proposer::{Proposed, RunId, Standing};
use accept::{Acceptor, Frame};
use futures_util::{Stream as Frames, StreamExt};
use ordo_core::Rules;
use ordo_wire::status::Failure;
use ordo_wire::v1;
use ordo_wire::v1::ingest_service_server::IngestService;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Frames of one stream that are on their way.
const STREAM_FRAMES: usize = 256;

/// See [`IngestService`].
pub(super) struct Ingest<R> {
    context: Arc<Context>,
    rules: PhantomData<R>,
}

impl<R> Ingest<R> {
    pub(super) const fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            rules: PhantomData,
        }
    }
}

type Responses = mpsc::Sender<Result<v1::IngestResponse, Status>>;

#[tonic::async_trait]
impl<R: Rules> IngestService for Ingest<R> {
    type IngestStream = ReceiverStream<Result<v1::IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let stream = Stream::open(&self.context).await?;
        let (responses, receiver) = mpsc::channel(FRAMES_WAITING);
        let pump = Pump::<R>::new(stream, READ_WITHIN);
        tokio::spawn(pump.run(request.into_inner(), responses));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream's task.
struct Pump<R> {
    stream: Stream,
    acceptor: Acceptor<R>,
    /// Frames whose results are not there.
    pending: Outstanding<Frame>,
    /// Results that are not written. They hold none of their interface's room any more.
    results: VecDeque<v1::IngestResult>,
    /// When the client has to have read some of them, and how long it is given.
    read_by: Instant,
    patience: Duration,
    /// Why the stream ends once its results are written, and when it does so without them.
    ends: Option<(Failure, Instant)>,
}

impl<R: Rules> Pump<R> {
    fn new(stream: Stream, patience: Duration) -> Self {
        let acceptor = Acceptor::new(Arc::clone(&stream.context), stream.run);
        Self {
            stream,
            acceptor,
            pending: Outstanding::new(STREAM_FRAMES),
            results: VecDeque::new(),
            read_by: Instant::now(),
            patience,
            ends: None,
        }
    }

    async fn run<F>(mut self, mut incoming: F, responses: Responses)
    where
        F: Frames<Item = Result<v1::IngestRequest, Status>> + Unpin,
    {
        let context = Arc::clone(&self.stream.context);
        let _open = context.metrics.stream("ingest");
        let mut closed = false;
        loop {
            if self.pending.is_empty() && self.results.is_empty() {
                match &self.ends {
                    Some((failure, _)) => return end(&responses, failure).await,
                    None if closed => return,
                    None => {}
                }
            }
            let ends_by = self.ends.as_ref().map(|(_, deadline)| *deadline);
            let (ending, writes) = (ends_by.is_some(), !self.results.is_empty());
            let deadline = ends_by.unwrap_or(self.read_by);
            let run = self.stream.run;
            let reads =
                !closed && !ending && self.pending.has_room() && self.results.len() < RESULTS;
            tokio::select! {
                biased;
                () = context.stop.cancelled(), if !ending => self.end(stopped(&context)),
                () = run_over(&mut self.stream.standing, run), if !ending => self.lose(),
                proposed = first(&mut self.pending), if !self.pending.is_empty() => self.answered(proposed),
                permit = responses.reserve(), if writes => {
                    let Ok(permit) = permit else {
                        tracing::debug!("an ingest client left before it had its results");
                        return;
                    };
                    let results = self.next_results();
                    permit.send(Ok(v1::IngestResponse { results }));
                }
                frame = incoming.next(), if reads => match frame {
                    Some(Ok(frame)) => {
                        if let Err(failure) = self.accept(frame).await {
                            self.end(failure);
                        }
                        others_turn().await;
                    }
                    None => closed = true,
                    Some(Err(status)) => return broken(&responses, status).await,
                },
                () = tokio::time::sleep_until(deadline), if ending || writes => {
                    if !ending {
                        self.end(unread(self.patience));
                    }
                    self.pending.clear();
                    self.results.clear();
                }
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
        let bytes = frame.bytes();
        self.pending.push(frame, bytes);
        Ok(())
    }

    /// The replies to the first frame are there.
    fn answered(&mut self, proposed: Proposed) {
        let Some(frame) = self.pending.pop() else {
            return;
        };
        let context = &self.stream.context;
        let results = proposed
            .map_err(|error| failed(context, error))
            .and_then(|replies| frame.results(context, replies));
        match results {
            Ok(results) => {
                if self.results.is_empty() {
                    self.read_by = Instant::now() + self.patience;
                }
                self.results.extend(results);
            }
            // What was sent later is not answered before it.
            Err(failure) => {
                self.pending.clear();
                self.end(failure);
            }
        }
    }

    /// What goes into one response.
    fn next_results(&mut self) -> Vec<v1::IngestResult> {
        self.read_by = Instant::now() + self.patience;
        let count = self.results.len().min(RESULTS);
        self.results.drain(..count).collect()
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
async fn first(pending: &mut Outstanding<Frame>) -> Proposed {
    match pending.first_mut().and_then(Frame::pending) {
        Some(proposed) => proposed.await,
        None => Ok(Vec::new()),
    }
}
