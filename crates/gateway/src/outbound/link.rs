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

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use ordo_client::Position;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use super::expect::{Commit, Expect};
use super::inbox::{HeadState, Inbox, Line, Read, UNBOUNDED};
use super::memory::{Message, Note, Reply, Said};
use crate::config::{ConnectionUse, Match, OutboundConfig, SendConfig};
use crate::connection::WriteError;
use crate::msh::{Msh, MshError};

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
            None => self.inbox.forget(position),
            Some(HeadState::Out) => {}
            Some(HeadState::Committed) => return self.wait_on(position, expect).await,
            Some(HeadState::Settled(_)) => {}
        }
        if let Some(said) = self.inbox.take_settled(position) {
            return Heard::Said(said);
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
        // The last moment before it is sent again.
        if let Some(said) = self.inbox.take_settled(position) {
            self.line = Some(line);
            return Heard::Said(said);
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

    /// Replies that settled nothing, since this was asked last.
    pub(super) fn take_surplus(&mut self) -> u64 {
        std::mem::take(&mut self.inbox.surplus)
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
        let (waits, longest) = match expect.commit {
            Commit::Waits => (true, self.limits.ack_max),
            Commit::Settles | Commit::SettlesAlone => (false, self.limits.silence),
        };
        let Some(mut line) = self.line.take() else {
            if waits {
                return unanswered("and has ended the connection since");
            }
            self.inbox.forget(position);
            return Heard::Said(Said::Accepted);
        };
        let patience = Patience::of(Instant::now(), longest, longest);
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
        self.inbox.forget(position);
        Heard::Said(Said::Accepted)
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
