//! The Work service: assignments out as the dispatcher gives them, reports in, one proposal per frame of them.

mod report;

use super::outstanding::Outstanding;
use super::{
    FRAME_BYTES, FRAME_ITEMS, FRAMES_WAITING, HOLDS_PER_EVENT, READ_WITHIN, RESULTS, Stream,
    body_bytes, broken, bytes_of, end, failed, others_turn, unread,
};
use crate::context::Context;
use crate::leader::{Assignment, Event, Freed, Hold, Place, WorkPush, WorkerHello, WorkerId};
use crate::proposer::Proposed;
use ordo_core::{InterfaceId, Rules, Sequence, Turn};
use ordo_storage::BodyPlace;
use ordo_wire::convert::headers_to_proto;
use ordo_wire::request::{name_of, stages_of, uuid_of};
use ordo_wire::status::Failure;
use ordo_wire::v1::work_service_server::WorkService;
use ordo_wire::v1::{self, Reason};
use prost::Message as _;
use report::Reports;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Frames of reports of one stream that are on their way.
const REPORT_FRAMES: usize = 64;
/// How long a stream may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// See [`WorkService`].
pub(super) struct Work<R> {
    context: Arc<Context>,
    rules: PhantomData<R>,
}

impl<R> Work<R> {
    pub(super) const fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            rules: PhantomData,
        }
    }
}

type Responses = mpsc::Sender<Result<v1::WorkResponse, Status>>;

#[tonic::async_trait]
impl<R: Rules> WorkService for Work<R> {
    type WorkStream = ReceiverStream<Result<v1::WorkResponse, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<v1::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let stream = Stream::open(&self.context).await?;
        let (responses, receiver) = mpsc::channel(FRAMES_WAITING);
        let pump = Pump::<R> {
            rules: PhantomData,
            stream,
            silent: Arc::default(),
            assignments: VecDeque::new(),
            pending: Outstanding::new(REPORT_FRAMES),
            next: v1::WorkResponse::default(),
            waiting: false,
        };
        tokio::spawn(pump.run(request.into_inner(), responses));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream's task.
struct Pump<R> {
    rules: PhantomData<R>,
    stream: Stream,
    /// Set by the dispatcher when this worker loses a lease; it is given nothing until it says something.
    silent: Arc<AtomicBool>,
    /// Given by the dispatcher and not written.
    assignments: VecDeque<Assignment>,
    /// Reports that are proposed, oldest first.
    pending: Outstanding<Reports>,
    /// What goes out beside assignments.
    next: v1::WorkResponse,
    /// `next` holds something.
    waiting: bool,
}

impl<R: Rules> Pump<R> {
    async fn run(mut self, mut incoming: Streaming<v1::WorkRequest>, responses: Responses) {
        let context = Arc::clone(&self.stream.context);
        let _open = context.metrics.stream("work");
        let ended = self.serve(&mut incoming, &responses).await;
        context.machine.send(Event::WorkerLeft {
            session: self.stream.session,
        });
        if let Err(failure) = ended {
            end(&responses, &failure).await;
        }
    }

    /// Until the worker leaves, or the stream has to end.
    async fn serve(
        &mut self,
        incoming: &mut Streaming<v1::WorkRequest>,
        responses: &Responses,
    ) -> Result<(), Failure> {
        let (push, mut pushes) = mpsc::unbounded_channel();
        self.greet(incoming, push).await?;
        loop {
            // Results that the client does not read would have no bound if its reports were.
            let reads = self.pending.has_room() && self.next.results.len() < RESULTS;
            let writes = self.waiting || !self.assignments.is_empty();
            let read_by = self.stream.read_by(writes);
            tokio::select! {
                biased;
                failure = self.stream.lost() => return Err(failure),
                proposed = first(&mut self.pending), if !self.pending.is_empty() => self.reported(proposed)?,
                push = pushes.recv() => match push {
                    Some(WorkPush::Welcome { unknown_stages }) => {
                        self.next.welcome = Some(v1::WorkWelcome { unknown_stages });
                        self.waiting = true;
                    }
                    Some(WorkPush::Assignments(mut assignments)) => self.assignments.extend(assignments.drain(..)),
                    Some(WorkPush::Replaced) => {
                        let text = "a newer stream of the same worker took this one's place";
                        return Err(Failure::new(Reason::Replaced, text));
                    }
                    // The loops let go of their streams when they no longer lead.
                    None => return Err(super::not_leader(&self.stream.context)),
                },
                permit = responses.reserve(), if writes => {
                    let Ok(permit) = permit else { return Ok(()) };
                    self.stream.unread_since = None;
                    self.read_ahead().await;
                    let response = self.response()?;
                    permit.send(Ok(response));
                }
                frame = incoming.message(), if reads => match frame {
                    Ok(Some(frame)) => {
                        self.frame(frame).await?;
                        others_turn().await;
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        broken(responses, status).await;
                        return Ok(());
                    }
                },
                () = tokio::time::sleep_until(read_by), if writes => return Err(unread(READ_WITHIN)),
            }
        }
    }

    async fn greet(
        &mut self,
        incoming: &mut Streaming<v1::WorkRequest>,
        push: mpsc::UnboundedSender<WorkPush>,
    ) -> Result<(), Failure> {
        let first = tokio::time::timeout(HELLO_WITHIN, incoming.message()).await;
        let no_hello =
            || Failure::field("hello", "the first request of a Work stream carries hello");
        let mut frame = match first {
            Ok(Ok(Some(frame))) => frame,
            Ok(Err(status)) => return Err(Failure::from_status(&status)),
            _ => return Err(no_hello()),
        };
        let hello = frame.hello.take().ok_or_else(no_hello)?;
        let hello = WorkerHello {
            session: self.stream.session,
            worker: WorkerId(uuid_of("hello.worker_id", &hello.worker_id)?),
            name: name_of("hello.name", hello.name)?,
            stages: stages_of(hello.stages)?,
            interface_prefix: name_of("hello.interface_prefix", hello.interface_prefix)?,
            holds: hello
                .holds
                .into_iter()
                .map(hold_of)
                .collect::<Result<_, _>>()?,
            credits: hello.credits,
            silent: Arc::clone(&self.silent),
            push,
        };
        self.stream.context.machine.send(Event::WorkerJoined(hello));
        self.frame(frame).await
    }

    /// Does what a request says.
    async fn frame(&mut self, frame: v1::WorkRequest) -> Result<(), Failure> {
        let bytes = frame.encoded_len();
        let session = self.stream.session;
        if frame.hello.is_some() {
            return Err(Failure::field("hello", "hello came twice on one stream"));
        }
        if self.silent.swap(false, Ordering::Relaxed) {
            self.stream.tell(Event::WorkerSpoke { session }, 1).await?;
        }
        if frame.credits > 0 {
            let credits = frame.credits;
            let event = Event::WorkerCredits { session, credits };
            self.stream.tell(event, 1).await?;
        }
        if !frame.extends.is_empty() {
            let size = 1 + frame.extends.len() / HOLDS_PER_EVENT;
            let holds = frame
                .extends
                .into_iter()
                .map(hold_of)
                .collect::<Result<_, _>>()?;
            let event = Event::WorkerExtends { session, holds };
            self.stream.tell(event, size).await?;
        }
        if frame.drain {
            self.stream.tell(Event::WorkerDrains { session }, 1).await?;
        }
        // A leader that may have been replaced must not keep workers waiting for it.
        if frame.heartbeat != 0 && self.stream.context.proposer.has_quorum() {
            self.next.heartbeat = frame.heartbeat;
            self.waiting = true;
        }
        if !frame.reports.is_empty() {
            let (mut reports, commands) =
                Reports::check(&self.stream.context, frame.reports).await?;
            if !commands.is_empty() {
                reports.proposed = Some(self.stream.context.proposer.propose(commands));
            }
            self.pending.push(reports, bytes);
        }
        Ok(())
    }

    /// The oldest frame of reports is applied.
    fn reported(&mut self, proposed: Proposed) -> Result<(), Failure> {
        let Some(reports) = self.pending.pop() else {
            return Ok(());
        };
        let context = &self.stream.context;
        let replies = proposed.map_err(|error| failed(context, error))?;
        let (mut results, freed) = reports.results(context, replies);
        if !freed.is_empty() {
            context.machine.send(Event::WorkerFreed {
                session: self.stream.session,
                freed,
            });
        }
        self.next.results.append(&mut results);
        self.waiting = true;
        Ok(())
    }

    /// Has the bodies of the next frame in memory.
    async fn read_ahead(&self) {
        let places = self.assignments.iter().take(FRAME_ITEMS);
        let places = places.map(|assignment| BodyPlace {
            interface: assignment.place.interface,
            body_of: assignment.body_of,
            header_rows: assignment.header_rows,
        });
        let places: Vec<_> = places.collect();
        super::read_ahead(&self.stream.context, &places).await;
    }

    /// What there is to send, up to a frame's bytes. Bodies are read here, which may be long after the assignment was
    /// made: one that its stage has replaced since then is not sent.
    fn response(&mut self) -> Result<v1::WorkResponse, Failure> {
        let context = Arc::clone(&self.stream.context);
        let mut response = std::mem::take(&mut self.next);
        self.waiting = false;
        let (mut bytes, mut gone) = (0, Vec::new());
        while bytes < FRAME_BYTES && response.assignments.len() < FRAME_ITEMS {
            let Some(assignment) = self.assignments.pop_front() else {
                break;
            };
            let place = assignment.place;
            let body =
                context
                    .store
                    .body(place.interface, assignment.body_of, assignment.header_rows);
            let body =
                body.map_err(|error| Failure::new(Reason::Unspecified, error.to_string()))?;
            let entered = |row| R::entered(row, assignment.stage_number);
            match body {
                Some(body) if entered(body.payload_row) => {
                    bytes += body_bytes(&body);
                    response.assignments.push(assignment_of(assignment, body));
                }
                // Done by somebody else in the meantime.
                _ => gone.push(Freed {
                    place,
                    turn: assignment.turn,
                }),
            }
        }
        context
            .metrics
            .assigned
            .inc_by(response.assignments.len() as u64);
        if !gone.is_empty() {
            context.machine.send(Event::WorkerFreed {
                session: self.stream.session,
                freed: gone,
            });
        }
        Ok(response)
    }
}

/// The replies to the oldest frame of reports.
async fn first(pending: &mut Outstanding<Reports>) -> Proposed {
    match pending
        .first_mut()
        .and_then(|reports| reports.proposed.as_mut())
    {
        Some(proposed) => proposed.await,
        None => Ok(Vec::new()),
    }
}

fn assignment_of(assignment: Assignment, body: ordo_storage::Body) -> v1::WorkAssignment {
    v1::WorkAssignment {
        interface_id: bytes_of(assignment.place.interface.0),
        interface: assignment.interface.to_string(),
        incarnation: assignment.incarnation.0,
        sequence: assignment.place.sequence.0,
        stage: assignment.stage.to_string(),
        turn: assignment.turn.0,
        attempts: assignment.attempts,
        message_id: bytes_of(assignment.message_id.0),
        headers: headers_to_proto(&body.headers),
        payload: body.payload,
        lease_ms: assignment.lease_ms,
    }
}

fn hold_of(extend: v1::WorkExtend) -> Result<Hold, Failure> {
    let interface = InterfaceId(uuid_of("interface_id", &extend.interface_id)?);
    let place = Place {
        interface,
        sequence: Sequence(extend.sequence),
    };
    Ok(Hold {
        place,
        stage: extend.stage,
        turn: Turn(extend.turn),
    })
}
