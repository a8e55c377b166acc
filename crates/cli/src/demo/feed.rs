//! The hospital: sends the orders over MLLP, one at a time on each interface, and sends again what was not answered.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use ordo_client::Uuid;
use ordo_gateway::ack::{AckMode, ReceivedAck, Verdict};
use ordo_gateway::mllp::{MllpCodec, PAYLOAD_BYTES_MAX};
use ordo_gateway::msh::Msh;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::codec::Framed;

use super::letters::{Letter, Letters};
use super::watch::Event;

/// How long a reply may take before the message is sent again on a new connection.
const REPLY_MAX: Duration = Duration::from_secs(15);
/// How long a receiver that need not answer is listened to.
const SILENCE: Duration = Duration::from_millis(500);
/// How long one message is tried.
const TRY_MAX: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

/// What was sent on one interface, and how it was answered.
#[derive(Clone, Debug, Default)]
pub struct Fed {
    /// Places of the letters accepted, in order, without those that repeat an earlier one.
    pub accepted: Vec<usize>,
    /// Letters accepted that repeat an earlier one.
    pub repeated: u64,
    /// Letters answered with an error.
    pub refused: u64,
}

/// The answer to a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// AA or CA.
    Accepted,
    /// Anything else.
    Refused {
        /// MSA-1.
        code: String,
        /// Why.
        text: String,
    },
}

/// Sends everything at `rate` a second over all interfaces, and counts in `tally` what is answered.
pub async fn run(
    letters: &Letters,
    doors: &[SocketAddr],
    rate: f64,
    tally: &watch::Sender<u64>,
    events: &UnboundedSender<Event>,
) -> Result<Vec<Fed>> {
    let period = Duration::from_secs_f64(doors.len() as f64 / rate);
    let lanes = doors.iter().enumerate().map(|(lane, address)| {
        // The interfaces take turns.
        let first = tokio::time::Instant::now() + period.mul_f64(lane as f64 / doors.len() as f64);
        let mut pace = interval_at(first, period);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut line = PhoneLine {
            address: *address,
            connection: None,
        };
        async move {
            let (mut fed, mut known) = (Fed::default(), HashSet::new());
            for (place, letter) in letters[lane].iter().enumerate() {
                pace.tick().await;
                tell(
                    events,
                    Event::Sent {
                        lane,
                        place,
                        at: Instant::now(),
                    },
                );
                let reply = line.send(letter).await?;
                tell(
                    events,
                    Event::Answered {
                        lane,
                        place,
                        at: Instant::now(),
                        reply: reply.clone(),
                    },
                );
                fed.book(place, letter.id, &reply, &mut known);
                tally.send_modify(|answered| *answered += 1);
            }
            anyhow::Ok(fed)
        }
    });
    try_join_all(lanes).await
}

fn tell(events: &UnboundedSender<Event>, event: Event) {
    // Nobody listens once the demonstration is over.
    let _ = events.send(event);
}

impl Fed {
    fn book(
        &mut self,
        place: usize,
        id: Option<Uuid>,
        reply: &Reply,
        known: &mut HashSet<Option<Uuid>>,
    ) {
        match reply {
            Reply::Accepted if known.insert(id) => self.accepted.push(place),
            Reply::Accepted => self.repeated += 1,
            Reply::Refused { .. } => self.refused += 1,
        }
    }

    /// How many letters were sent.
    pub fn sent(&self) -> u64 {
        self.accepted.len() as u64 + self.repeated + self.refused
    }
}

/// One MLLP connection, made anew when it breaks.
struct PhoneLine {
    address: SocketAddr,
    connection: Option<Framed<TcpStream, MllpCodec>>,
}

impl PhoneLine {
    async fn send(&mut self, letter: &Letter) -> Result<Reply> {
        let tries = async {
            loop {
                if let Some(reply) = self.try_send(letter).await {
                    return reply;
                }
                self.connection = None;
                sleep(PAUSE).await;
            }
        };
        match timeout(TRY_MAX, tries).await {
            Ok(reply) => Ok(reply),
            Err(_) => bail!(
                "{} had no answer at {} for {} s",
                letter.label,
                self.address,
                TRY_MAX.as_secs()
            ),
        }
    }

    /// None where nothing is known of the message: it has to be sent again.
    async fn try_send(&mut self, letter: &Letter) -> Option<Reply> {
        if self.connection.is_none() {
            let stream = TcpStream::connect(self.address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            self.connection = Some(Framed::new(stream, MllpCodec::new(PAYLOAD_BYTES_MAX)));
        }
        let connection = self.connection.as_mut()?;
        connection.send(letter.payload.clone()).await.ok()?;
        let mode = Msh::scan(&letter.payload).map_or(AckMode::Original, |msh| AckMode::of(&msh));
        let is_answered = mode.code(Verdict::Accept).is_some();
        let limit = if is_answered { REPLY_MAX } else { SILENCE };
        let reply = match timeout(limit, connection.next()).await {
            Ok(reply) => reply?.ok()?,
            Err(_) if is_answered => return None,
            Err(_) => return Some(Reply::Accepted),
        };
        let ack = ReceivedAck::read(&reply).ok()?;
        Some(match ack.code.verdict() {
            Verdict::Accept => Reply::Accepted,
            Verdict::Error | Verdict::Reject => Reply::Refused {
                code: ack.code.as_str().to_owned(),
                text: ack.text,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn a_repeated_letter_is_not_accepted_twice() {
        let (mut fed, mut known) = (Fed::default(), HashSet::new());
        let refused = Reply::Refused {
            code: "AE".into(),
            text: String::new(),
        };
        fed.book(0, Some(Uuid::from_u128(1)), &Reply::Accepted, &mut known);
        fed.book(1, Some(Uuid::from_u128(1)), &Reply::Accepted, &mut known);
        fed.book(2, Some(Uuid::from_u128(2)), &refused, &mut known);
        fed.book(3, Some(Uuid::from_u128(2)), &Reply::Accepted, &mut known);
        assert_eq!(
            (fed.accepted.as_slice(), fed.repeated, fed.refused),
            (&[0, 3][..], 1, 1)
        );
        assert_eq!(fed.sent(), 4);
    }
}
