//! The connection to one receiver, and what is heard on it.
//!
//! One message is out at a time. What a reply means is for [`memory`](super::memory) to say and what settles a message
//! for [`expect`](super::expect); here is where and for how long replies are listened to:
//!
//! - What has arrived is read before a message is written, so that a reply that settles it began after its last byte,
//!   and a connection that the receiver has closed, or is about to, is noticed.
//! - A receiver that is slow is given `ack_ms_max`, on the same connection. One that sent something which can't be taken
//!   is given `ack_ms`: it has answered.
//! - The connection is kept after that, and listened to: a reply that comes until the message would be sent again
//!   settles it in place of that. What is sent again goes out on a new connection, since nobody could tell the
//!   replies to the one from those to the other.
//! - A connection is given up only where it ended or broke the framing.
//!
//! A message to which the receiver need not reply ([`Expect::consents`]) is listened to for a short while: a reply counts,
//! since many receivers acknowledge everything; an end of the connection means unavailable.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use ordo_client::{Position, Uuid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use super::expect::{Commit, Expect};
use super::memory::{Memory, Message, Note, Reply, Said};
use crate::config::{ConnectionUse, Match, OutboundConfig, SendConfig};
use crate::connection::{Connection, ReadError, WriteError};
use crate::mllp::{FrameError, PAYLOAD_BYTES_MAX};
use crate::msh::{Msh, MshError};

/// The wait for an unasked reply between messages, in effect none.
const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How soon after a reply a connection is closed by receivers that want one for each message.
const SHORTLY: Duration = Duration::from_secs(1);
/// Replies read at once before a message is sent; a receiver that has sent more of them talks to itself.
const AHEAD_MAX: usize = 256;

/// What became of a message at the receiver.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It settled the message, or its silence did.
    Said(Said),
    /// The message can't be sent at all.
    Unsendable { reason: String },
    /// Nothing that settles the message. `sent`: it may have reached the receiver.
    Nothing { reason: String, sent: bool },
    /// It took the message (CA) and owes the application's reply. It is not sent again.
    Unanswered { reason: String },
}

/// How connections to the receiver are made.
pub(super) trait Dial {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;
    /// Connects; fails with a reason for people.
    fn dial(&self) -> impl Future<Output = Result<Self::Stream, String>> + Send;
}

/// A receiver's address.
pub(super) struct Tcp {
    address: String,
    limit: Duration,
}

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self) -> Result<TcpStream, String> {
        let (address, limit) = (&self.address, self.limit);
        let stream = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("no connection to {address}: {error}")),
            Err(_) => return Err(format!("no connection to {address} within {limit:?}")),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(address, %error, "TCP_NODELAY could not be set");
        }
        Ok(stream)
    }
}

/// The connection to one receiver.
pub(super) struct Link<D: Dial = Tcp> {
    dial: D,
    to: SendConfig,
    limits: OutboundConfig,
    line: Option<Line<D::Stream>>,
    inbox: Inbox,
    hasher: RandomState,
    /// A message is being written, or was, since the last delivery began.
    written: bool,
}

/// One open connection.
struct Line<S> {
    connection: Connection<S>,
    memory: Memory,
    /// No further message goes out on it.
    spent: bool,
    /// It can't be read any more.
    ended: bool,
    /// When it is closed though nothing else is to be sent.
    close_at: Option<Instant>,
    /// When a reply came last.
    replied: Option<Instant>,
    /// Replies that settled nothing.
    surplus: u64,
}

/// What was read of a connection.
enum Read {
    Frame(Bytes),
    /// What is no frame, behind which frames may follow.
    Broken(String),
    /// Nothing more comes, since the receiver ended it or for this reason.
    End(Option<String>),
}

/// What was heard and not told yet.
struct Inbox {
    to: SendConfig,
    /// By interface, the message that was sent last and is not settled.
    heads: HashMap<Uuid, Head>,
    /// What followed on replies that had settled their messages.
    notes: Vec<Note>,
    /// Replies that settled nothing, over all connections.
    surplus: u64,
    /// The receiver sends replies that name no message.
    nameless: bool,
    /// The receiver has closed a connection shortly after a reply.
    closes: bool,
}

struct Head {
    position: Position,
    /// Of the payload: a message may have been edited since.
    digest: u64,
    state: HeadState,
}

enum HeadState {
    Out,
    Committed,
    Settled(Said),
}

/// How long a reply is waited for.
struct Patience {
    begin: Instant,
    deadline: Instant,
    /// The deadline moves up to here while nothing comes.
    last: Instant,
}

impl Link<Tcp> {
    pub(super) fn to(to: &SendConfig, limits: OutboundConfig) -> Self {
        let dial = Tcp {
            address: to.address.clone(),
            limit: limits.connect,
        };
        Self::new(dial, to, limits)
    }
}

impl<D: Dial> Link<D> {
    fn new(dial: D, to: &SendConfig, limits: OutboundConfig) -> Self {
        Self {
            dial,
            to: to.clone(),
            limits,
            line: None,
            inbox: Inbox::new(to.clone()),
            hasher: RandomState::new(),
            written: false,
        }
    }

    /// Sends a message, unless it is out already, and says what was heard. The connection is closed where the future is
    /// dropped in the midst of it. The receiver hears nothing before `begin` is over: connecting may take so long that
    /// the grant is another's meanwhile.
    pub(super) async fn deliver(
        &mut self,
        message: Message,
        payload: &Bytes,
        begin: impl Future<Output = ()>,
    ) -> Heard {
        self.written = false;
        let position = message.position;
        let msh = match readable(payload, self.to.matching) {
            Ok(msh) => msh,
            Err(error) => {
                let reason = format!("the message can't be sent over MLLP: {error}");
                return Heard::Unsendable { reason };
            }
        };
        let expect = Expect::of(&msh, self.to.awaits);
        let digest = self.hasher.hash_one(payload);
        self.catch_up().await;
        match self.inbox.state(position, digest) {
            Some(HeadState::Settled(said)) => {
                let said = said.clone();
                self.inbox.heads.remove(&position.interface_id);
                return Heard::Said(said);
            }
            Some(HeadState::Committed) => return self.wait_on(position, expect).await,
            Some(HeadState::Out) | None => {}
        }
        let mut line = match self.line_for(msh.field(10)).await {
            Ok(line) => line,
            Err(reason) => {
                let sent = false;
                return Heard::Nothing { reason, sent };
            }
        };
        begin.await;
        if let Err(reason) = self.listen_first(&mut line).await {
            let sent = false;
            return Heard::Nothing { reason, sent };
        }
        let begun = Instant::now();
        self.written = true;
        match line.connection.write(payload, self.limits.ack).await {
            Ok(()) => {}
            Err(error @ WriteError::Unframable { .. }) => {
                self.line = Some(line);
                let reason = error.to_string();
                return Heard::Unsendable { reason };
            }
            Err(error) => {
                // A frame without its end is no message, for any receiver.
                let (reason, sent) = (error.to_string(), false);
                return Heard::Nothing { reason, sent };
            }
        }
        line.memory.sent(message, msh.field(10), expect);
        self.inbox.sent(position, digest);
        let patience = match expect.consents {
            true => Patience::of(Instant::now(), self.limits.silence, self.limits.silence),
            false => Patience::of(begun, self.limits.ack, self.limits.ack_max),
        };
        let heard = self.listen(&mut line, position, expect, patience).await;
        self.keep(line, &heard).await;
        heard
    }

    /// Whether a connection is open and listened to.
    pub(super) fn is_open(&self) -> bool {
        self.line.is_some()
    }

    /// Whether the message may have reached the receiver, where its delivery was dropped.
    pub(super) fn may_have_sent(&self) -> bool {
        self.written
    }

    /// What followed on replies that had settled their messages, since this was asked last.
    pub(super) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.inbox.notes)
    }

    /// Listens between messages; returns where the connection ended, or there is a note to take. Never returns where
    /// there is no connection. Loses nothing when dropped.
    pub(super) async fn watch(&mut self) {
        loop {
            let Some(line) = &mut self.line else {
                return std::future::pending().await;
            };
            let far = Instant::now() + UNBOUNDED;
            let read = timeout_at(line.close_at.unwrap_or(far), line.read()).await;
            match read.ok().and_then(|read| self.inbox.take(line, read)) {
                Some(Reply::Follows(_)) => return,
                Some(_) => {}
                None => {
                    tracing::debug!("the idle connection to the receiver is over");
                    self.line = None;
                    return;
                }
            }
        }
    }

    /// Reads what has arrived since, and notices where the connection has ended. A receiver that closed the last one
    /// shortly after its reply is given a moment to do so again: what is written meanwhile it would never read.
    async fn catch_up(&mut self) {
        // So that what has arrived is known to have.
        yield_now().await;
        for _ in 0..AHEAD_MAX {
            let Some(line) = &mut self.line else { return };
            let read = match line.read().now_or_never() {
                Some(read) => read,
                None if !line.connection.has_begun() && !self.inbox.closes => return,
                None => match timeout(self.limits.silence, line.read()).await {
                    Ok(read) => read,
                    // A reply that has begun and does not end.
                    Err(_) if line.connection.has_begun() => break,
                    Err(_) => {
                        self.inbox.closes = false;
                        return;
                    }
                },
            };
            if self.inbox.take(line, read).is_none() {
                self.line = None;
            }
        }
        if let Some(line) = &mut self.line {
            line.spent = true;
        }
    }

    /// The connection that is there, where replies to a message with this MSH-10 could be told from all others on it,
    /// else a new one.
    async fn line_for(&mut self, id: &[u8]) -> Result<Line<D::Stream>, String> {
        if let Some(line) = self.line.take() {
            let alone = self.inbox.nameless || self.to.connection == ConnectionUse::PerMessage;
            let is_used = line.memory.count() > 0;
            if !line.spent && line.memory.can_tell(id) && !(alone && is_used) {
                return Ok(line);
            }
            self.part_with(line).await;
        }
        Ok(Line::new(self.dial.dial().await?, self.to.matching))
    }

    /// Takes in what a receiver says unasked, so that it is not taken for the reply to what is sent now.
    async fn listen_first(&mut self, line: &mut Line<D::Stream>) -> Result<(), String> {
        yield_now().await;
        for _ in 0..AHEAD_MAX {
            let Some(read) = line.read().now_or_never() else {
                return Ok(());
            };
            if let Read::End(reason) = read {
                return Err(
                    reason.unwrap_or_else(|| "the receiver closed the connection".to_owned())
                );
            }
            self.inbox.take(line, read);
        }
        Err("the receiver does not stop talking unasked".to_owned())
    }

    /// Closes a connection, after a short while where an application reply to what went out on it may still come.
    async fn part_with(&mut self, mut line: Line<D::Stream>) {
        let until = Instant::now() + self.limits.silence;
        while line.memory.is_followed()
            && Instant::now() < until
            && let Ok(read) = timeout_at(until, line.read()).await
            && self.inbox.take(&mut line, read).is_some()
        {}
        line.connection.close().await;
    }

    /// What happens to the connection after a message.
    async fn keep(&mut self, mut line: Line<D::Stream>, heard: &Heard) {
        if line.ended {
            return;
        }
        if self.to.connection == ConnectionUse::PerMessage && matches!(heard, Heard::Said(_)) {
            if !line.memory.is_followed() {
                return line.connection.close().await;
            }
            line.close_at = Some(Instant::now() + self.limits.ack);
        }
        self.line = Some(line);
    }

    /// Waits for the application's reply to a message that was sent in an earlier try.
    async fn wait_on(&mut self, position: Position, expect: Expect) -> Heard {
        let Some(mut line) = self.line.take() else {
            return unanswered("and has ended the connection since");
        };
        let patience = Patience::of(Instant::now(), self.limits.ack_max, self.limits.ack_max);
        let heard = self.listen(&mut line, position, expect, patience).await;
        self.keep(line, &heard).await;
        heard
    }

    /// Listens until the message is settled, or long enough.
    async fn listen(
        &mut self,
        line: &mut Line<D::Stream>,
        position: Position,
        expect: Expect,
        mut patience: Patience,
    ) -> Heard {
        let mut puzzle: Option<String> = None;
        loop {
            // Looked at each time: a receiver that never stops talking would be listened to for ever.
            let read = match Instant::now() < patience.deadline {
                true => timeout_at(patience.deadline, line.read()).await.ok(),
                false => None,
            };
            let reply = match read {
                Some(Read::End(reason)) => {
                    line.ended = true;
                    self.inbox.take(line, Read::End(None));
                    let reason = reason.unwrap_or_else(|| closed(puzzle));
                    return self.ended(line, position, expect, reason);
                }
                Some(read) => self.inbox.take(line, read),
                None => {
                    let is_slow = puzzle.is_none() && self.inbox.is_out(position);
                    if is_slow && !expect.consents && patience.extend() {
                        self.log_patience(position, &patience);
                        continue;
                    }
                    return self.overdue(line, position, expect, puzzle, &patience);
                }
            };
            if let Some(said) = self.inbox.take_settled(position) {
                return Heard::Said(said);
            }
            match reply {
                Some(Reply::Commits(of)) if of == position => {
                    let wait = match expect.commit {
                        Commit::Settles | Commit::SettlesAlone => self.limits.silence,
                        Commit::Waits => self.limits.ack,
                    };
                    patience = Patience::of(Instant::now(), wait, wait);
                }
                Some(Reply::Puzzling(why)) => puzzle = Some(why),
                _ => {}
            }
        }
    }

    fn log_patience(&self, position: Position, patience: &Patience) {
        let SendConfig {
            interface,
            destination,
            address,
            ..
        } = &self.to;
        let (sequence, until) = (position.sequence, patience.deadline - patience.begin);
        tracing::warn!(
            interface,
            destination,
            address,
            sequence,
            ?until,
            "no acknowledgement yet; it is waited for"
        );
    }

    /// The connection ended while the message waited.
    fn ended(
        &mut self,
        line: &mut Line<D::Stream>,
        position: Position,
        expect: Expect,
        reason: String,
    ) -> Heard {
        match self.inbox.is_out(position) {
            true => Heard::Nothing { reason, sent: true },
            false if expect.commit == Commit::Waits => unanswered("and has ended the connection"),
            false => self.taken(line, position),
        }
    }

    /// Nothing that settles the message came in time.
    fn overdue(
        &mut self,
        line: &mut Line<D::Stream>,
        position: Position,
        expect: Expect,
        puzzle: Option<String>,
        patience: &Patience,
    ) -> Heard {
        let waited = patience.deadline - patience.begin;
        match self.inbox.is_out(position) {
            true if expect.consents => self.taken(line, position),
            true => {
                line.spent |= self.to.matching != Match::Strict;
                let reason = match puzzle {
                    Some(puzzle) => format!("{puzzle}; nothing else came within {waited:?}"),
                    None => format!("no acknowledgement within {waited:?}"),
                };
                Heard::Nothing { reason, sent: true }
            }
            false if expect.commit == Commit::Waits => {
                unanswered(&format!("and has not answered within {waited:?}"))
            }
            false => self.taken(line, position),
        }
    }

    /// The message counts as accepted, though no application said so.
    fn taken(&mut self, line: &mut Line<D::Stream>, position: Position) -> Heard {
        line.memory.take_for_accepted(position);
        self.inbox.heads.remove(&position.interface_id);
        Heard::Said(Said::Accepted)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    fn new(stream: S, matching: Match) -> Self {
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
    async fn read(&mut self) -> Read {
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
    fn new(to: SendConfig) -> Self {
        Self {
            to,
            heads: HashMap::new(),
            notes: Vec::new(),
            surplus: 0,
            nameless: false,
            closes: false,
        }
    }

    fn sent(&mut self, position: Position, digest: u64) {
        let state = HeadState::Out;
        let head = Head {
            position,
            digest,
            state,
        };
        self.heads.insert(position.interface_id, head);
    }

    /// Takes in what was read; `None` where the connection has ended.
    fn take<S>(&mut self, line: &mut Line<S>, read: Read) -> Option<Reply> {
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

    fn state(&self, position: Position, digest: u64) -> Option<&HeadState> {
        let head = self.heads.get(&position.interface_id)?;
        (head.position == position && head.digest == digest).then_some(&head.state)
    }

    /// Whether nothing was heard of the message that is being delivered.
    fn is_out(&self, position: Position) -> bool {
        let head = self.heads.get(&position.interface_id);
        head.is_some_and(|head| matches!(head.state, HeadState::Out))
    }

    fn take_settled(&mut self, position: Position) -> Option<Said> {
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

impl Patience {
    fn of(begin: Instant, wait: Duration, longest: Duration) -> Self {
        Self {
            begin,
            deadline: begin + wait,
            last: begin + longest.max(wait),
        }
    }

    /// Twice as long as before, up to the longest; whether there is more of it.
    fn extend(&mut self) -> bool {
        let waited = self.deadline - self.begin;
        if self.deadline >= self.last {
            return false;
        }
        self.deadline = (self.deadline + waited).min(self.last);
        true
    }
}

fn unanswered(what: &str) -> Heard {
    let reason = format!(
        "committed, unanswered: the receiver took the message (CA) {what}; it is not sent again by itself"
    );
    Heard::Unanswered { reason }
}

fn closed(puzzle: Option<String>) -> String {
    match puzzle {
        Some(puzzle) => format!("{puzzle}; then the receiver closed the connection"),
        None => "the receiver closed the connection without an acknowledgement".to_owned(),
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

/// The header of a message whose reply could be matched: by its MSH-10, or without one where the setting allows that.
fn readable(payload: &[u8], matching: Match) -> Result<Msh<'_>, MshError> {
    let msh = Msh::scan(payload)?;
    match matching {
        Match::Strict => msh.control_id().map(|_| msh),
        Match::Lenient | Match::Any => Ok(msh),
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
