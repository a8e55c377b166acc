//! MLLP in: one listening address is one interface, or each message says for which it is (see [`route`]).
//!
//! # One message at a time
//! A connection has one message in flight: its next frame is taken up only after the reply to the last was written.
//! Many connections may send at once; their messages get sequences in the order in which they were handed over.
//!
//! # When a reply is sent
//! An accept (AA, CA) is written only when the message is on disk on a quorum. A duplicate (same MSH-3, MSH-4, MSH-10
//! and same bytes) is accepted again. While ingest is refused for the moment (window or backlog full, interface paused,
//! no leader, a node near its limits) the reply is *delayed*, not an error: the producer tries again by itself, in
//! order.
//!
//! When the sender goes away meanwhile: a message already handed to the producer goes on and may well be accepted, one
//! that still waited for room in the producer's queue is dropped. Either way the sender has had no accept and sends it
//! again; it then joins the first try where that is still on its way (see [`intake`]), and is a duplicate otherwise. A
//! sender that only ended its side of the connection gets its reply if that comes within the time limit of a frame.
//!
//! # What is refused
//! What is framed well and is no HL7 message, or several where that was not asked for, is rejected and the connection
//! goes on. So is a frame that broke, as long as it can be told where the next one begins: one reply for each frame, so
//! that a sender who counts them is not led astray. Every refusal leaves a row in the list of [`crate::refusals`],
//! whether its sender wants to hear of it or not.
//!
//! # What ends a connection
//! Framing errors after which nothing can be understood (after one error reply, where the broken frame's header is
//! whole), a frame that does not end in time, idleness (an hour, or a second where another connection needs the place, see
//! [`crowd`]), a peer that does not take its reply. One connection more than allowed is closed at once where none of the
//! others is idle.

mod answer;
mod batch;
mod crowd;
mod identity;
mod intake;
mod replies;
mod route;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::crowd::Crowd;
pub(crate) use self::intake::{Intake, Lane, SHARE_BYTES, Sink};
pub(crate) use self::replies::ReplyIds;
pub(crate) use self::route::{ClusterDirectory, Lanes, Route, Target};

use self::crowd::Place;

use self::answer::Peer;
use crate::config::{InboundConfig, MessageConfig};
use crate::connection::{Connection, ReadError, WriteError};
use crate::metrics::{Direction, Metrics};
use crate::refusals::Refusals;

/// The pause after `accept` failed. Descriptors come back as connections end, not by asking at once.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Warnings about what peers do that are logged in a [`WARNINGS_PERIOD`], of each listener. A flood is told by its
/// beginning and its number.
const WARNINGS_MAX: u32 = 20;
const WARNINGS_PERIOD: Duration = Duration::from_secs(10);

/// Everything the connections of one listening address share.
pub(crate) struct Inbound<K> {
    /// What people know the address by: its interface, or the template of those of its messages.
    pub(crate) interface: String,
    pub(crate) limits: InboundConfig,
    pub(crate) messages: MessageConfig,
    pub(crate) refusals: Refusals,
    pub(crate) lanes: Lanes<K>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) metrics: Metrics,
    pub(crate) reply_ids: Arc<ReplyIds>,
    pub(crate) warnings: Warnings,
    /// No new connection, no new frame.
    pub(crate) stop: CancellationToken,
    /// Waits no longer for anything.
    pub(crate) abort: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Keeps floods out of the logs.
#[derive(Default)]
pub(crate) struct Warnings(Mutex<Told>);

#[derive(Default)]
struct Told {
    since: Option<Instant>,
    told: u32,
    left_out: u64,
}

impl Warnings {
    /// Whether one more may be logged; says how many were not, when a period is over.
    fn may_warn(&self, interface: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told
            .since
            .is_none_or(|since| since.elapsed() >= WARNINGS_PERIOD)
        {
            let left_out = told.left_out;
            *told = Told {
                since: Some(Instant::now()),
                ..Told::default()
            };
            if left_out > 0 {
                tracing::warn!(
                    interface,
                    left_out,
                    "warnings about MLLP peers were left out"
                );
            }
        }
        let may = told.told < WARNINGS_MAX;
        match may {
            true => told.told += 1,
            false => told.left_out += 1,
        }
        may
    }
}

impl<K: Sink> Inbound<K> {
    /// Accepts connections until it is stopped.
    pub(crate) async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(interface = self.interface, %error, "an MLLP connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = self.crowd.enter() else {
                self.metrics.refused(&self.interface, "CONNECTIONS");
                if self.warnings.may_warn(&self.interface) {
                    let limit = self.limits.connections;
                    tracing::warn!(interface = self.interface, %peer, limit, "MLLP connections are at their limit: another was closed at once");
                }
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(interface = self.interface, %peer, %error, "TCP_NODELAY could not be set");
            }
            let inbound = Arc::clone(&self);
            self.tasks.spawn(async move {
                let _open = inbound
                    .metrics
                    .connection(Direction::In, &inbound.interface);
                let stream = place.watch(stream);
                let connection = Connection::new(stream, inbound.limits.payload_bytes)
                    .with_frame_end(inbound.limits.frame_end);
                tokio::select! {
                    () = inbound.abort.cancelled() => {}
                    () = inbound.serve(connection, &peer, &place) => {}
                }
            });
        }
    }

    /// Answers one connection until it ends.
    pub(crate) async fn serve<S>(
        &self,
        mut connection: Connection<S>,
        peer: Peer<'_>,
        place: &Place,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let interface = self.interface.as_str();
        tracing::debug!(interface, %peer, "MLLP connection begins");
        loop {
            let read = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                read = connection.read(place.idle(self.limits.idle), self.limits.frame) => read,
            };
            let replies = match read {
                Ok(Some(payload)) => {
                    place.busy();
                    tokio::select! {
                        biased;
                        replies = self.answer(&payload, peer) => replies,
                        () = connection.gone(self.limits.frame) => {
                            tracing::debug!(interface, %peer, "the sender left before its reply");
                            return;
                        }
                    }
                }
                Ok(None) => break,
                Err(error @ ReadError::Frame(_)) if connection.is_understood() => {
                    self.answer_broken(connection.broken_frame(), peer, &error)
                }
                Err(error) => {
                    self.end_broken(connection, peer, &error).await;
                    return;
                }
            };
            for reply in replies {
                if let Err(error) = connection.write(&reply, self.limits.frame).await {
                    self.log_unwritten(peer, &error);
                    return;
                }
            }
        }
        tracing::debug!(interface, %peer, "MLLP connection ends");
        connection.close().await;
    }

    /// Replies to a frame that broke, where it says whom to reply to, and closes the connection.
    async fn end_broken<S>(&self, mut connection: Connection<S>, peer: Peer<'_>, error: &ReadError)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let interface = self.interface.as_str();
        match error {
            ReadError::Idle | ReadError::Io(_) => {
                tracing::debug!(interface, %peer, %error, "MLLP connection ends");
                connection.close().await;
            }
            ReadError::Slow(_) | ReadError::Frame(_) => {
                self.metrics.refused(interface, "FRAMING");
                if self.warnings.may_warn(interface) {
                    tracing::warn!(interface, %peer, %error, "MLLP connection is closed");
                }
                let reply = connection
                    .broken_frame()
                    .and_then(|broken| self.answer_lost(&broken, peer, error));
                if let Some(reply) = reply
                    && let Err(error) = connection.write(&reply, self.limits.frame).await
                {
                    self.log_unwritten(peer, &error);
                    return;
                }
                connection.close_early().await;
            }
        }
    }

    fn log_unwritten(&self, peer: Peer<'_>, error: &WriteError) {
        // The sender has no reply and sends again.
        tracing::debug!(interface = self.interface, %peer, %error, "a reply was not taken");
    }
}

#[cfg(test)]
mod tests;
