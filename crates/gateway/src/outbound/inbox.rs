//! One open connection, and what was heard on it and is not told yet.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use ordo_client::{Position, Uuid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::memory::{Memory, Note, Reply, Said};
use crate::config::{Match, SendConfig};
use crate::connection::{Connection, ReadError};
use crate::mllp::{FrameError, PAYLOAD_BYTES_MAX};

/// The wait for an unasked reply between messages, in effect none.
pub(super) const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How soon after a reply a connection is closed by receivers that want one for each message.
const SHORTLY: Duration = Duration::from_secs(1);

/// One open connection.
pub(super) struct Line<S> {
    pub(super) connection: Connection<S>,
    pub(super) memory: Memory,
    /// No further message goes out on it.
    pub(super) spent: bool,
    /// It can't be read any more.
    pub(super) ended: bool,
    /// When it is closed though nothing else is to be sent.
    pub(super) close_at: Option<Instant>,
    /// When a reply came last.
    pub(super) replied: Option<Instant>,
    /// Replies that settled nothing.
    pub(super) surplus: u64,
}

/// What was read of a connection.
pub(super) enum Read {
    Frame(Bytes),
    /// What is no frame, behind which frames may follow.
    Broken(String),
    /// Nothing more comes, since the receiver ended it or for this reason.
    End(Option<String>),
}

/// What was heard and not told yet.
pub(super) struct Inbox {
    pub(super) to: SendConfig,
    /// By interface, the message that was sent last and is not settled.
    pub(super) heads: HashMap<Uuid, Head>,
    /// What followed on replies that had settled their messages.
    pub(super) notes: Vec<Note>,
    /// Replies that settled nothing, over all connections.
    pub(super) surplus: u64,
    /// The receiver sends replies that name no message.
    pub(super) nameless: bool,
    /// The receiver has closed a connection shortly after a reply.
    pub(super) closes: bool,
}

/// The message of an interface that was sent last.
pub(super) struct Head {
    pub(super) position: Position,
    /// Of the payload: a message may have been edited since.
    pub(super) digest: u64,
    pub(super) state: HeadState,
}

/// What was heard of it.
pub(super) enum HeadState {
    /// Nothing.
    Out,
    /// CA, where an application reply is awaited.
    Committed,
    /// All, while nobody waited.
    Settled(Said),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) fn new(stream: S, matching: Match) -> Self {
        Self {
            connection: Connection::new(stream, PAYLOAD_BYTES_MAX),
            memory: Memory::new(matching),
            spent: false,
            ended: false,
            close_at: None,
            replied: None,
            surplus: 0,
        }
    }

    /// Loses nothing when dropped. Its callers bound it.
    pub(super) async fn read(&mut self) -> Read {
        let read = self.connection.read(std::future::pending(), UNBOUNDED);
        match read.await {
            Ok(Some(frame)) => Read::Frame(frame),
            Ok(None) => Read::End(None),
            Err(error @ ReadError::Frame(_)) if self.connection.is_understood() => {
                Read::Broken(failed(&error))
            }
            Err(error) => Read::End(Some(failed(&error))),
        }
    }
}

impl Inbox {
    pub(super) fn new(to: SendConfig) -> Self {
        Self {
            to,
            heads: HashMap::new(),
            notes: Vec::new(),
            surplus: 0,
            nameless: false,
            closes: false,
        }
    }

    pub(super) fn sent(&mut self, position: Position, digest: u64) {
        let state = HeadState::Out;
        let head = Head {
            position,
            digest,
            state,
        };
        self.heads.insert(position.interface_id, head);
    }

    /// Takes in what was read; `None` where the connection has ended.
    pub(super) fn take<S>(&mut self, line: &mut Line<S>, read: Read) -> Option<Reply> {
        let reply = match read {
            Read::Frame(frame) => {
                line.replied = Some(Instant::now());
                line.memory.hear(&frame)
            }
            Read::Broken(why) => Reply::Puzzling(why),
            Read::End(_) => {
                self.closes |= line.replied.is_some_and(|at| at.elapsed() < SHORTLY);
                return None;
            }
        };
        self.nameless |= line.memory.is_nameless();
        match &reply {
            Reply::Settles(position, said) => {
                self.set(*position, HeadState::Settled(said.clone()));
            }
            Reply::Commits(position) => self.set(*position, HeadState::Committed),
            Reply::Follows(note) => self.notes.push(note.clone()),
            Reply::Repeated => self.surplus(line, "it repeats what was heard already"),
            Reply::Puzzling(why) => self.surplus(line, why),
        }
        Some(reply)
    }

    fn surplus<S>(&mut self, line: &mut Line<S>, why: &str) {
        self.surplus += 1;
        line.surplus += 1;
        line.spent |= self.to.matching == Match::Any;
        if line.surplus == 1 {
            let SendConfig {
                interface,
                destination,
                address,
                ..
            } = &self.to;
            tracing::warn!(
                interface,
                destination,
                address,
                why,
                "a reply that settles no message is ignored; further ones on this connection are counted only"
            );
        }
    }

    fn set(&mut self, position: Position, state: HeadState) {
        if let Some(head) = self.heads.get_mut(&position.interface_id)
            && head.position == position
        {
            head.state = state;
        }
    }

    pub(super) fn state(&self, position: Position, digest: u64) -> Option<&HeadState> {
        let head = self.heads.get(&position.interface_id)?;
        (head.position == position && head.digest == digest).then_some(&head.state)
    }

    /// Whether nothing was heard of the message that is being delivered.
    pub(super) fn is_out(&self, position: Position) -> bool {
        let head = self.heads.get(&position.interface_id);
        head.is_some_and(|head| matches!(head.state, HeadState::Out))
    }

    /// Nothing more is waited for on behalf of its interface.
    pub(super) fn forget(&mut self, position: Position) {
        self.heads.remove(&position.interface_id);
    }

    /// What settled it, once.
    pub(super) fn take_settled(&mut self, position: Position) -> Option<Said> {
        let head = self.heads.remove(&position.interface_id)?;
        match head.state {
            HeadState::Settled(said) => Some(said),
            HeadState::Out | HeadState::Committed => {
                self.heads.insert(position.interface_id, head);
                None
            }
        }
    }
}

fn failed(error: &ReadError) -> String {
    match error {
        ReadError::Frame(FrameError::StartExpected { .. }) => {
            format!("the receiver answered without an MLLP frame: {error}")
        }
        ReadError::Frame(_) => format!("the reply is not framed as MLLP asks: {error}"),
        ReadError::Idle | ReadError::Slow(_) | ReadError::Io(_) => {
            format!("no acknowledgement: {error}")
        }
    }
}
