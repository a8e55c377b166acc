//! The beginning and the end of a run: interfaces are made and declared, and what came of everything is read.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use ordo_client::{CallError, Cluster, MessageKey, proto};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::history::{InterfaceShape, MessageEvent, Standing, What};
use crate::name::{Digest, Name};
use crate::recorder::Scribe;

/// Interfaces that are looked at together.
const AT_ONCE: usize = 64;
/// How long between two looks at whether everything is done.
const LOOK: Duration = Duration::from_millis(50);

/// The final state could not be read, or is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Not everything was done in the time given. What there is was recorded.
    #[error("after {waited:?} {interface} is not done: {standing:?}")]
    NotDone {
        /// The first such interface.
        interface: Name,
        /// Where it stands.
        standing: Box<Standing>,
        /// The time given.
        waited: Duration,
    },
}

/// Creates an interface and declares it in the history; its shape, defaults filled in. One that exists already, since
/// an earlier try's answer was lost, is declared as it is.
///
/// # Errors
/// The call failed.
pub async fn declare(
    cluster: &Cluster,
    scribe: &Scribe,
    name: &str,
    config: proto::InterfaceConfig,
) -> Result<InterfaceShape, CallError> {
    let admin = cluster.admin();
    let created = match admin.create_interface(name, config).await {
        Err(CallError::Refused(refusal)) if refusal.reason == proto::Reason::InterfaceExists => {
            admin.get_interface(name).await
        }
        Err(CallError::OutcomeUnknown(_)) => admin.get_interface(name).await,
        created => created,
    };
    let shape = InterfaceShape::of(&created?);
    scribe.record(What::Interface(shape.clone()));
    Ok(shape)
}

/// Waits until every destination of these interfaces has had everything, for `patience` at most, and records where
/// they stand, their messages and their dead letters. Nobody may send or operate any more; workers and consumers must
/// still be there.
///
/// # Errors
/// See [`FinishError`].
pub async fn finish(
    cluster: &Cluster,
    scribe: &Scribe,
    interfaces: &[Name],
    patience: Duration,
) -> Result<(), FinishError> {
    let deadline = Instant::now() + patience;
    let standings = interfaces
        .iter()
        .map(|interface| drained(cluster, interface, deadline));
    let standings: Vec<Standing> = stream::iter(standings)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let undone = interfaces
        .iter()
        .zip(standings)
        .find(|(_, standing)| !is_done(standing));
    let takings = interfaces
        .iter()
        .map(|interface| take_down(cluster, scribe, interface));
    stream::iter(takings)
        .buffered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    match undone {
        None => Ok(()),
        Some((interface, standing)) => Err(FinishError::NotDone {
            interface: interface.clone(),
            standing: Box::new(standing),
            waited: patience,
        }),
    }
}

fn is_done(standing: &Standing) -> bool {
    let last = standing.last_sequence;
    standing.destinations.values().all(|d| d.checkpoint == last)
}

async fn drained(
    cluster: &Cluster,
    interface: &Name,
    deadline: Instant,
) -> Result<Standing, CallError> {
    loop {
        let standing = cluster.admin().get_interface(interface).await;
        let late = Instant::now() >= deadline;
        match standing.as_ref().map(Standing::of) {
            Ok(standing) if is_done(&standing) || late => return Ok(standing),
            Err(_) if late => return standing.map(|interface| Standing::of(&interface)),
            _ => sleep(LOOK).await,
        }
    }
}

async fn take_down(cluster: &Cluster, scribe: &Scribe, interface: &Name) -> Result<(), CallError> {
    let admin = cluster.admin();
    let standing = Standing::of(&admin.get_interface(interface).await?);
    let last = standing.last_sequence;
    scribe.record(What::Final {
        interface: interface.clone(),
        standing,
    });
    for sequence in 1..=last {
        let key = MessageKey::Sequence(sequence);
        let message = admin.get_message(interface, key).await?;
        let events = message.events.iter().map(|event| MessageEvent {
            kind: event.kind().into(),
            place: event.place.as_str().into(),
        });
        scribe.record(What::FinalMessage {
            interface: interface.clone(),
            sequence,
            message_id: uuid_of(&message.message_id),
            status: message.status().into(),
            redrive_of: message.redrive_of,
            events: events.collect(),
        });
    }
    let mut after = 0;
    loop {
        let page = admin.list_dead_letters(interface, after, 0).await?;
        for letter in &page.dead_letters {
            let (sequence, destination) = (letter.sequence, letter.destination.as_str());
            let whole = admin.get_dead_letter(interface, sequence, destination);
            let name = |text: &str| (!text.is_empty()).then(|| Name::from(text));
            scribe.record(What::FinalDeadLetter {
                interface: interface.clone(),
                sequence,
                destination: name(destination),
                message_id: uuid_of(&letter.message_id),
                stage: name(&letter.stage),
                cause: letter.cause().into(),
                digest: Digest::of(&whole.await?.payload),
                redriven_as: letter.redriven_as,
            });
        }
        match page.dead_letters.last().filter(|_| page.more) {
            Some(letter) => after = letter.sequence,
            None => return Ok(()),
        }
    }
}

/// The UUID in `bytes`; nil, which no check takes for a message's, where a node sent something else.
pub(super) fn uuid_of(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}
