//! A simulated laboratory: receives over MLLP, answers, and judges what reached it.
//!
//! It behaves as laboratory systems do: it files a message before it acknowledges it, discards a message whose MSH-10
//! it has filed already (and acknowledges it again), and knows nothing of Ordo. That makes its [`LabSummary`] a witness
//! from outside. It can be taken [down](Lab::down) and [up](Lab::up) on the same port, and told to answer anything at
//! all ([`LabAnswer`]).
//!
//! It keeps the control id of every message it filed, and every message where told to, for as long as it lives: it is
//! made for demonstrations and tests, not for service.

mod records;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::records::{LabInterface, LabJudgement, LabSummary, UNNUMBERED};

use self::records::Records;
use crate::ack::{AckCode, ErrorCondition, Outcome, Refusal, acknowledge, reject_unreadable};
use crate::mllp::{MllpCodec, MllpError, PAYLOAD_BYTES_MAX};
use crate::msh::Msh;
use crate::time::Hl7Time;

/// How a laboratory behaves.
#[derive(Debug, Clone)]
pub struct LabConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The interface everything it receives is booked under. `None` books by the prefix of MSH-10: `RAD-000017` under
    /// `RAD`, and what has no number under [`UNNUMBERED`].
    pub interface: Option<String>,
    /// Largest payload taken, in bytes.
    pub payload_bytes_max: usize,
    /// Whether a repeated MSH-10 is discarded. A laboratory that does not shows what deduplication is good for.
    pub discard_repeats: bool,
    /// Whether every received message is kept for [`Lab::messages`].
    pub keep_messages: bool,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            interface: None,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            discard_repeats: true,
            keep_messages: false,
        }
    }
}

/// How a laboratory treats one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabAnswer {
    /// Files it and accepts it (AA or CA, as MSH-15 asks).
    Accept,
    /// Does not file it and answers AE or CE with this text.
    Error(String),
    /// Does not file it and answers AR or CR with this text.
    Reject(String),
    /// Neither files nor answers it.
    Silence,
    /// Files it and does not answer.
    FileSilently,
    /// Files it and closes the connection without an answer: the acknowledgement was lost.
    FileAndClose,
    /// Does not file it and accepts a control id that was never sent.
    Mismatch,
    /// Neither files nor answers it, and closes the connection.
    Drop,
    /// Files it, accepts it, and closes the connection.
    AcceptAndClose,
    /// Files it and accepts it twice.
    AcceptTwice,
    /// Files it and accepts it this much later. The connection takes nothing else meanwhile.
    AcceptLate(Duration),
    /// Files it, answers CA and then, as its application, this.
    CommitThen(AckCode),
    /// Files it and sends these bytes as they are, unframed. See [`reply`].
    Bytes(Bytes),
}

impl LabAnswer {
    fn files(&self) -> bool {
        !matches!(
            self,
            Self::Error(_) | Self::Reject(_) | Self::Silence | Self::Mismatch | Self::Drop
        )
    }
}

/// A reply of the kind that many laboratories send, whatever the message was: MSH and MSA with this code and this
/// control id.
#[must_use]
pub fn reply(code: AckCode, control_id: &[u8]) -> Bytes {
    let head = format!("MSH|^~\\&|LIS|LAB|HIS|WARD|20240101120001||ACK|ACK-1|P|2.3\rMSA|{code}|");
    [head.as_bytes(), control_id, b"\r"].concat().into()
}

/// One thing that is done in answer to a message.
enum Step {
    Frame(Bytes),
    Bytes(Bytes),
    Wait(Duration),
    Close,
}

/// What an answer hook gets to see.
#[derive(Clone, Copy)]
pub struct LabMessage<'a> {
    /// The interface it is booked under.
    pub interface: &'a str,
    /// MSH-10.
    pub control_id: &'a str,
    /// How many messages with this control id arrived before it.
    pub earlier: u64,
    /// The message.
    pub payload: &'a [u8],
}

type AnswerHook = Arc<dyn Fn(&LabMessage<'_>) -> LabAnswer + Send + Sync>;

/// A running laboratory. Dropping it takes it down.
pub struct Lab {
    shared: Arc<Shared>,
    address: SocketAddr,
    running: Option<Running>,
}

struct Shared {
    config: LabConfig,
    records: Mutex<Records>,
    answer: Mutex<AnswerHook>,
    changed: watch::Sender<()>,
    acknowledgements: AtomicU64,
}

struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Lab {
    /// Opens a laboratory that accepts everything.
    ///
    /// # Errors
    /// Where the address can't be listened on.
    pub async fn start(config: LabConfig) -> io::Result<Self> {
        let address = config.listen;
        let shared = Arc::new(Shared {
            config,
            records: Mutex::default(),
            answer: Mutex::new(Arc::new(|_| LabAnswer::Accept)),
            changed: watch::Sender::new(()),
            acknowledgements: AtomicU64::new(0),
        });
        let mut lab = Self {
            shared,
            address,
            running: None,
        };
        lab.up().await?;
        Ok(lab)
    }

    /// Where it listens, or did before it was taken down.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Opens it, on the port it had before. Does nothing where it is up.
    ///
    /// # Errors
    /// Where the address can't be listened on.
    pub async fn up(&mut self) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await?;
        self.address = listener.local_addr()?;
        let running = Running {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let accepting = accept(
            Arc::clone(&self.shared),
            listener,
            running.stop.clone(),
            running.tasks.clone(),
        );
        running.tasks.spawn(accepting);
        self.running = Some(running);
        Ok(())
    }

    /// Closes its listener and every connection; returns when all are closed. What it filed stays filed.
    pub async fn down(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.tasks.close();
            running.tasks.wait().await;
        }
    }

    /// From now on asks `hook` how to treat a message.
    pub fn answer_with(&self, hook: impl Fn(&LabMessage<'_>) -> LabAnswer + Send + Sync + 'static) {
        *self
            .shared
            .answer
            .lock()
            .expect("no hook is called under this lock") = Arc::new(hook);
    }

    /// What it saw so far.
    pub fn summary(&self) -> LabSummary {
        self.shared.records().summary()
    }

    /// The control ids it filed for an interface, in the order in which it filed them.
    pub fn filed(&self, interface: &str) -> Vec<String> {
        self.shared.records().filed(interface)
    }

    /// Every message received for an interface, repeats included, in order; none unless [`LabConfig::keep_messages`].
    pub fn messages(&self, interface: &str) -> Vec<Bytes> {
        self.shared.records().messages(interface)
    }

    /// Holds what it filed for an interface against what it should have got: the control ids sent and not skipped, in
    /// order. Only against those can anything be called lost.
    pub fn judge(&self, interface: &str, expected: &[String]) -> LabJudgement {
        self.shared.records().judge(interface, expected)
    }

    /// Waits until its summary satisfies `condition`, `limit` at most; whether it does.
    pub async fn wait_until(
        &self,
        limit: Duration,
        condition: impl Fn(&LabSummary) -> bool,
    ) -> bool {
        let mut changed = self.shared.changed.subscribe();
        let met = async {
            loop {
                changed.borrow_and_update();
                if condition(&self.summary()) {
                    return;
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        // The last look covers a condition that time, not a message, made true.
        tokio::time::timeout(limit, met).await.is_ok() || condition(&self.summary())
    }
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records
            .lock()
            .expect("nothing panics while it holds the records")
    }

    fn record(&self, change: impl FnOnce(&mut Records)) {
        change(&mut self.records());
        self.changed.send_replace(());
    }

    fn acknowledgement_id(&self) -> String {
        format!(
            "LAB{:09}",
            self.acknowledgements.fetch_add(1, Ordering::Relaxed) + 1
        )
    }

    /// Books a message; what to do then.
    fn receive(&self, payload: &Bytes) -> Vec<Step> {
        let header = Msh::scan(payload).and_then(|msh| Ok((msh, msh.control_id()?)));
        let (msh, control_id) = match header {
            Ok(header) => header,
            Err(error) => {
                self.record(|records| records.unreadable += 1);
                let reply =
                    reject_unreadable(&error.into(), Hl7Time::now(), &self.acknowledgement_id());
                return vec![Step::Frame(reply)];
            }
        };
        let raw_control_id = control_id;
        let control_id = String::from_utf8_lossy(control_id);
        let (interface, number) =
            records::book_under(self.config.interface.as_deref(), &control_id);
        let earlier = self.records().arrived(interface, &control_id);
        let hook = Arc::clone(
            &self
                .answer
                .lock()
                .expect("no hook is called under this lock"),
        );
        let answer = hook(&LabMessage {
            interface,
            control_id: &control_id,
            earlier,
            payload,
        });
        self.record(|records| {
            let arrival = records::Arrival {
                control_id: &control_id,
                number,
                msh: &msh,
                payload,
            };
            records.receive(interface, &arrival, &answer, &self.config);
        });
        let acknowledged =
            |outcome| acknowledge(&msh, &outcome, Hl7Time::now(), &self.acknowledgement_id());
        let refusal = |text: &str| Refusal::new(ErrorCondition::Internal, text);
        let framed = |ack: Option<Bytes>| ack.map(Step::Frame).into_iter();
        let accepted = || framed(acknowledged(Outcome::Accepted));
        match answer {
            LabAnswer::Accept => accepted().collect(),
            LabAnswer::Error(text) => {
                framed(acknowledged(Outcome::Failed(refusal(&text)))).collect()
            }
            LabAnswer::Reject(text) => {
                framed(acknowledged(Outcome::Rejected(refusal(&text)))).collect()
            }
            LabAnswer::Silence | LabAnswer::FileSilently => Vec::new(),
            LabAnswer::FileAndClose | LabAnswer::Drop => vec![Step::Close],
            LabAnswer::Mismatch => {
                let ack = acknowledged(Outcome::Accepted);
                framed(ack.map(|ack| with_other_control_id(&ack))).collect()
            }
            LabAnswer::AcceptAndClose => accepted().chain([Step::Close]).collect(),
            LabAnswer::AcceptTwice => accepted().chain(accepted()).collect(),
            LabAnswer::AcceptLate(pause) => {
                [Step::Wait(pause)].into_iter().chain(accepted()).collect()
            }
            LabAnswer::CommitThen(code) => [AckCode::CommitAccept, code]
                .map(|code| Step::Frame(reply(code, raw_control_id)))
                .into(),
            LabAnswer::Bytes(bytes) => vec![Step::Bytes(bytes)],
        }
    }
}

/// The acknowledgement with another MSA-2.
fn with_other_control_id(ack: &Bytes) -> Bytes {
    // MSA is the last segment of an accept: CR, `MSA|AA|`, then the control id.
    let msa = ack
        .windows(4)
        .rposition(|bytes| bytes == b"\rMSA")
        .map_or(ack.len(), |at| at + 8);
    let mut other = BytesMut::from(&ack[..msa]);
    other.extend_from_slice(b"X");
    other.extend_from_slice(&ack[msa..]);
    other.freeze()
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                shared.record(|records| records.connections += 1);
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = serve(&shared, stream) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the simulated laboratory could not accept a connection");
                // Out of descriptors, most likely: they come back as connections end, not by asking at once.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(shared: &Shared, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the simulated laboratory could not set TCP_NODELAY");
    }
    let mut framed = Framed::new(stream, MllpCodec::new(shared.config.payload_bytes_max));
    while let Some(frame) = framed.next().await {
        let steps = match frame {
            Ok(payload) => shared.receive(&payload),
            Err(MllpError::Io(_)) => return,
            Err(error) => {
                shared.record(|records| records.framing_errors += 1);
                let refusal = Refusal::new(ErrorCondition::SegmentSequence, error.to_string());
                let id = shared.acknowledgement_id();
                let reply = reject_unreadable(&refusal, Hl7Time::now(), &id);
                vec![Step::Frame(reply), Step::Close]
            }
        };
        for step in steps {
            let done = match step {
                Step::Frame(reply) => framed.send(reply).await.is_ok(),
                Step::Bytes(bytes) => framed.get_mut().write_all(&bytes).await.is_ok(),
                Step::Wait(pause) => {
                    tokio::time::sleep(pause).await;
                    true
                }
                Step::Close => false,
            };
            if !done {
                return;
            }
        }
    }
}
