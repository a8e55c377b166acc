//! The connection to one receiver, and what is heard on it.
//!
//! # Receivers that may stay silent
//! A gateway sends the bytes as they are, so MSH-15 decides what their receiver replies:
//!
//! | MSH-15 | must reply | silence means |
//! | --- | --- | --- |
//! | empty, `AL`, unknown | always | unavailable |
//! | `SU` | when it accepts | unavailable: refused and unreachable can't be told apart, and an attempt is counted only for what a receiver said |
//! | `ER` | when it does not accept | accepted |
//! | `NE` | never | accepted |
//!
//! For the last two the receiver is listened to for a short while: a reply counts, whatever MSH-15 says, since many
//! receivers acknowledge everything; an end of the connection means unavailable. A reply to such a message that comes
//! later still is recognized and dropped.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::ack::{AckCode, AckMode, ReceivedAck, Verdict};
use crate::config::OutboundConfig;
use crate::connection::{Connection, ReadError, WriteError};
use crate::mllp::PAYLOAD_BYTES_MAX;
use crate::msh::{Msh, MshError};

/// Messages whose silence was taken for consent and to which a reply may still come.
const SILENT_MAX: usize = 64;
/// The wait for an unasked reply between messages, in effect none.
const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What became of a message at the receiver.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// AA, CA, or a silence that says the same.
    Accepted,
    /// AE or CE.
    Error { code: AckCode, text: String },
    /// AR or CR.
    Rejected { code: AckCode, text: String },
    /// It can't be sent at all.
    Unsendable { reason: String },
    /// Nothing that could be understood.
    Nothing { reason: String },
}

/// The connection to one receiver.
pub(super) struct Link {
    address: String,
    limits: OutboundConfig,
    line: Option<Line<TcpStream>>,
}

impl Link {
    pub(super) fn new(address: String, limits: OutboundConfig) -> Self {
        Self {
            address,
            limits,
            line: None,
        }
    }

    /// Sends a message and says what was heard. After anything but a proper reply the connection is closed; so it is
    /// where the future is dropped in the midst of it. The receiver hears nothing before `begin` is over: connecting may
    /// take so long that the grant is another's meanwhile.
    pub(super) async fn deliver(
        &mut self,
        payload: &Bytes,
        begin: impl Future<Output = ()>,
    ) -> Heard {
        let msh = match readable(payload) {
            Ok(msh) => msh,
            Err(error) => {
                let reason = format!("the message can't be sent over MLLP: {error}");
                return Heard::Unsendable { reason };
            }
        };
        let mut line = match self.line.take() {
            Some(line) => line,
            None => match self.connect().await {
                Ok(line) => line,
                Err(reason) => return Heard::Nothing { reason },
            },
        };
        begin.await;
        let heard = line.exchange(payload, &msh, &self.limits).await;
        if !matches!(heard, Heard::Nothing { .. }) {
            self.line = Some(line);
        }
        heard
    }

    /// Whether there is a connection.
    pub(super) fn is_open(&self) -> bool {
        self.line.is_some()
    }

    /// Waits until the idle connection ends, and lets go of it. Never returns where there is none.
    pub(super) async fn watch(&mut self) {
        let Some(line) = &mut self.line else {
            return std::future::pending().await;
        };
        let end = line.idle().await;
        tracing::debug!(
            address = self.address,
            end,
            "the idle connection to the receiver is over"
        );
        self.line = None;
    }

    async fn connect(&self) -> Result<Line<TcpStream>, String> {
        let address = &self.address;
        let limit = self.limits.connect;
        let stream = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("no connection to {address}: {error}")),
            Err(_) => return Err(format!("no connection to {address} within {limit:?}")),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(address, %error, "TCP_NODELAY could not be set");
        }
        Ok(Line::new(stream))
    }
}

/// The header of a message whose reply could be matched.
fn readable(payload: &[u8]) -> Result<Msh<'_>, MshError> {
    let msh = Msh::scan(payload)?;
    msh.control_id()?;
    Ok(msh)
}

/// One open connection.
struct Line<S> {
    connection: Connection<S>,
    /// MSH-10 of those whose silence was taken for consent, the oldest first.
    silent: VecDeque<Vec<u8>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    fn new(stream: S) -> Self {
        Self {
            connection: Connection::new(stream, PAYLOAD_BYTES_MAX),
            silent: VecDeque::new(),
        }
    }

    async fn exchange(&mut self, payload: &[u8], msh: &Msh<'_>, limits: &OutboundConfig) -> Heard {
        let begin = Instant::now();
        match self.connection.write(payload, limits.ack).await {
            Ok(()) => {}
            Err(error @ WriteError::Unframable { .. }) => {
                return Heard::Unsendable {
                    reason: error.to_string(),
                };
            }
            Err(error) => {
                return Heard::Nothing {
                    reason: error.to_string(),
                };
            }
        }
        let may_be_silent = matches!(AckMode::of(msh), AckMode::Never | AckMode::OnError);
        let limit = if may_be_silent {
            limits.silence
        } else {
            limits.ack.saturating_sub(begin.elapsed())
        };
        match timeout(limit, self.reply_to(msh)).await {
            Ok(heard) => heard,
            Err(_) if may_be_silent => {
                if self.silent.len() == SILENT_MAX {
                    self.silent.pop_front();
                }
                self.silent.push_back(msh.field(10).to_vec());
                Heard::Accepted
            }
            Err(_) => Heard::Nothing {
                reason: format!("no acknowledgement within {:?}", limits.ack),
            },
        }
    }

    async fn reply_to(&mut self, msh: &Msh<'_>) -> Heard {
        let nothing = |reason: String| Heard::Nothing { reason };
        loop {
            let reply = match self.read().await {
                Ok(Some(reply)) => reply,
                Ok(None) => {
                    return nothing(
                        "the receiver closed the connection without an acknowledgement".to_owned(),
                    );
                }
                Err(error) => return nothing(format!("no acknowledgement: {error}")),
            };
            let ack = match ReceivedAck::read(&reply) {
                Ok(ack) => ack,
                Err(error) => return nothing(error.to_string()),
            };
            if ack.answers(msh) {
                let (code, text) = (ack.code, ack.text);
                return match code.verdict() {
                    Verdict::Accept => Heard::Accepted,
                    Verdict::Error => Heard::Error { code, text },
                    Verdict::Reject => Heard::Rejected { code, text },
                };
            }
            if !self.is_late(&ack) {
                return nothing(
                    "the reply acknowledges another message (MSA-2 is not MSH-10)".to_owned(),
                );
            }
        }
    }

    /// Waits between messages; returns why the connection can't be used any more.
    async fn idle(&mut self) -> &'static str {
        loop {
            match self.read().await {
                Ok(Some(reply)) => {
                    let late = ReceivedAck::read(&reply).is_ok_and(|ack| self.is_late(&ack));
                    if !late {
                        return "the receiver sent something it was not asked for";
                    }
                }
                Ok(None) => return "the receiver closed it",
                Err(_) => return "it failed",
            }
        }
    }

    /// Loses nothing when dropped. Its callers bound it.
    async fn read(&mut self) -> Result<Option<Bytes>, ReadError> {
        self.connection
            .read(std::future::pending(), UNBOUNDED)
            .await
    }

    /// Whether it is the reply to a message whose silence was taken for consent. Then it is not waited for any more.
    fn is_late(&mut self, ack: &ReceivedAck) -> bool {
        let Some(at) = self.silent.iter().position(|id| *id == ack.control_id) else {
            return false;
        };
        self.silent.remove(at);
        if ack.code.verdict() != Verdict::Accept {
            // It was acknowledged to the cluster already: a person has to look.
            tracing::error!(code = %ack.code, "a receiver that need not answer refused a message after its silence was taken for consent");
        }
        true
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
