//! Senders over real connections, with the test in the place of the cluster.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod broken;
mod cases;
mod cluster;
mod limits;
mod many;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use ordo_client::{Accepted, Reason, SendError};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::codec::Framed;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use uuid::Uuid;

use super::*;
use crate::ack::{AckCode, ReceivedAck, Verdict};
use crate::mllp::MllpCodec;
use crate::msh::Msh;

const LIMIT: Duration = Duration::from_secs(10);
/// How long silence is listened to before it counts as silence.
const SILENCE: Duration = Duration::from_millis(100);

type Answer = Result<Accepted, SendError>;

/// A message as the cluster gets it, and where its answer goes.
struct Request {
    id: Uuid,
    payload: Bytes,
    /// By which it is known, where not by its payload.
    digest: Option<[u8; 16]>,
    answer: oneshot::Sender<Answer>,
}

impl Request {
    fn accept(self, sequence: u64) {
        self.answer(Ok(Accepted {
            sequence,
            duplicate: false,
        }));
    }

    fn answer(self, answer: Answer) {
        self.answer
            .send(answer)
            .expect("the message is followed to its answer");
    }
}

/// In the place of a producer: hands every message to the test.
struct TestSink {
    requests: mpsc::UnboundedSender<Request>,
    room: Arc<Semaphore>,
}

impl Sink for TestSink {
    type Receipt = Pin<Box<dyn Future<Output = Answer> + Send>>;

    async fn enqueue(&self, message: ordo_client::Message) -> Result<Self::Receipt, SendError> {
        self.room
            .acquire()
            .await
            .map_err(|_| SendError::Closed)?
            .forget();
        let (answer, receipt) = oneshot::channel();
        let request = Request {
            id: message.message_id.unwrap(),
            payload: message.payload,
            digest: message.digest,
            answer,
        };
        self.requests.send(request).map_err(|_| SendError::Closed)?;
        Ok(Box::pin(async move {
            receipt.await.unwrap_or(Err(SendError::Closed))
        }))
    }
}

/// A listening address and the cluster behind it.
struct Bench {
    inbound: Arc<Inbound<TestSink>>,
    requests: mpsc::UnboundedReceiver<Request>,
    room: Arc<Semaphore>,
}

impl Bench {
    fn new(limits: InboundConfig) -> Self {
        Self::reading(limits, MessageConfig::default())
    }

    fn reading(limits: InboundConfig, messages: MessageConfig) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(1_000));
        let sink = TestSink {
            requests: sender,
            room: Arc::clone(&room),
        };
        let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
        let inbound = Inbound {
            interface: "RAD".to_owned(),
            lanes: Lanes::One(Arc::new(Target {
                interface: "RAD".to_owned(),
                intake: Intake::new(sink, tasks.clone(), abort.clone()),
            })),
            crowd: Crowd::new(limits.connections),
            metrics: Metrics::new(),
            limits,
            messages,
            refusals: Refusals::in_memory(),
            reply_ids: Arc::new(ReplyIds::new()),
            warnings: Warnings::default(),
            stop: CancellationToken::new(),
            abort,
            tasks,
        };
        Self {
            inbound: Arc::new(inbound),
            requests,
            room,
        }
    }

    /// Listens on loopback.
    async fn listen(limits: InboundConfig) -> (Self, SocketAddr) {
        Self::new(limits).open().await
    }

    async fn open(self) -> (Self, SocketAddr) {
        let bench = self;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&bench.inbound).listen(listener));
        (bench, address)
    }

    /// Serves a connection in memory, for tests in which time is simulated.
    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let inbound = Arc::clone(&self.inbound);
        let place = inbound.crowd.enter().expect("a place");
        self.inbound.tasks.spawn(async move {
            let connection = Connection::new(place.watch(theirs), inbound.limits.payload_bytes)
                .with_frame_end(inbound.limits.frame_end);
            inbound.serve(connection, &"a test", &place).await;
        });
        ours
    }

    async fn request(&mut self) -> Request {
        timeout(LIMIT, self.requests.recv())
            .await
            .expect("a message in time")
            .unwrap()
    }

    /// Nothing is handed over for a while.
    async fn is_quiet(&mut self) -> bool {
        timeout(SILENCE, self.requests.recv()).await.is_err()
    }
}

type Sender<S> = Framed<S, MllpCodec>;

async fn connect(address: SocketAddr) -> Sender<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    Framed::new(stream, MllpCodec::default())
}

/// The next reply; `None` where the connection ends instead.
async fn reply<S: AsyncRead + Unpin>(sender: &mut Sender<S>) -> Option<ReceivedAck> {
    let frame = timeout(LIMIT, sender.next())
        .await
        .expect("a reply or an end in time")?;
    frame.ok().map(|frame| ReceivedAck::read(&frame).unwrap())
}

/// The code and MSA-2 of the next reply.
async fn code<S: AsyncRead + Unpin>(sender: &mut Sender<S>) -> (AckCode, String) {
    let ack = reply(sender).await.expect("a reply");
    (ack.code, String::from_utf8(ack.control_id).unwrap())
}

async fn is_silent<S: AsyncRead + Unpin>(sender: &mut Sender<S>) -> bool {
    timeout(SILENCE, sender.next()).await.is_err()
}

fn message_in_mode(control_id: &str, mode: &str) -> Bytes {
    let padding = "|".repeat(1_000);
    format!("MSH|^~\\&|HIS|WARD|LIS|LAB|20240101||ORM^O01|{control_id}|P|2.5|||{mode}\rPID|1||{padding}\r").into()
}

fn message(control_id: &str) -> Bytes {
    message_in_mode(control_id, "")
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [b"\x0b", payload, b"\x1c\r"].concat()
}

/// A refusal as the client library gives it.
fn refused(reason: Reason, text: &str) -> Answer {
    let details = ErrorDetails::with_error_info(reason.as_str_name(), "ordo", []);
    let status = tonic::Status::with_error_details(Code::FailedPrecondition, text, details);
    let refusal = ordo_client::Refusal::from(status);
    assert_eq!(refusal.reason, reason);
    Err(SendError::Refused(Box::new(refusal)))
}
