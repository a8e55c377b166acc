//! What clients send, checked against the limits and the interface's configuration, and made into what is proposed. A
//! refusal names the field, what it holds and what is allowed, never a payload, and has a bounded length.

use crate::convert::{digest, header_from_proto};
use crate::status::Failure;
use crate::v1::{self, Reason, answer, work_report};
pub use ordo_core::limits::HEADERS_MAX;
use ordo_core::limits::{
    HEADER_BYTES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, POSTPONE_MS_MAX, REASON_BYTES_MAX,
    STAGES_MAX,
};
use ordo_core::{
    AnswerKind, ConsumerId, DestinationNumber, Digest, Incarnation, Ingest, InterfaceConfig,
    InterfaceId, MessageId, Outcome, ProducerSession, Report, Sequence, Turn,
};
use std::num::NonZeroU64;
use uuid::Uuid;

/// Stages that a worker may name.
const HELLO_STAGES_MAX: usize = 32 * STAGES_MAX;

/// A message on its way in.
pub struct CheckedIngest {
    /// What to propose.
    pub ingest: Ingest,
    /// Why it is too large; it is taken only if its id is known already.
    pub too_large: Option<Failure>,
    /// It is past a limit of the state machine itself: it is not taken even then.
    pub impossible: bool,
}

/// What a consumer subscribes to.
pub struct Subscription {
    /// The interface's name.
    pub interface: String,
    /// The destination's name.
    pub destination: String,
    /// Who subscribes.
    pub consumer: ConsumerId,
    /// Its name, for people.
    pub name: String,
    /// What its receiver has stored.
    pub position: Option<(InterfaceId, Incarnation, Sequence)>,
}

/// A UUID, of 16 bytes.
///
/// # Errors
/// When there are more or fewer.
pub fn uuid_of(field: &str, bytes: &[u8]) -> Result<Uuid, Failure> {
    Uuid::from_slice(bytes).map_err(|_| {
        Failure::field(
            field,
            format!("{field} has {} bytes; a UUID has 16", bytes.len()),
        )
    })
}

/// A name as a client gave it, for a text: not longer than a name may be, since texts are copied and logged.
#[must_use]
pub fn quoted(name: &str) -> String {
    let end = name.floor_char_boundary(NAME_BYTES_MAX);
    format!("{:?}", &name[..end])
}

/// A name of a worker, a consumer or a producer, or one that only has to be looked up.
///
/// # Errors
/// When it is longer than any name may be.
pub fn name_of(field: &str, name: String) -> Result<String, Failure> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    Err(Failure::field(
        field,
        format!(
            "{field} has {} bytes; at most {NAME_BYTES_MAX} are allowed",
            name.len()
        ),
    ))
}

/// What a worker or a consumer gave as a reason.
fn reason_of(reason: String) -> Result<String, Failure> {
    check_bytes("reason", &reason, REASON_BYTES_MAX)?;
    Ok(reason)
}

/// Checks the length of a text.
///
/// # Errors
/// When it has more than `bytes_max` bytes; names the `field`.
pub fn check_bytes(field: &str, value: &str, bytes_max: usize) -> Result<(), Failure> {
    if value.len() <= bytes_max {
        return Ok(());
    }
    let text = format!(
        "{field} has {} bytes; at most {bytes_max} are allowed",
        value.len()
    );
    Err(Failure::new(Reason::TooLarge, text))
}

/// No destination named is the one called `default`.
#[must_use]
pub fn destination_or_default(name: &str) -> &str {
    match name {
        "" => "default",
        name => name,
    }
}

fn check_headers(headers: &[v1::Header]) -> Result<(), Failure> {
    if headers.len() > HEADERS_MAX {
        let text = format!(
            "there are {} headers; at most {HEADERS_MAX} are allowed",
            headers.len()
        );
        return Err(Failure::new(Reason::TooLarge, text));
    }
    let bytes: usize = headers
        .iter()
        .map(|header| header.name.len() + header.value.len())
        .sum();
    if bytes > HEADER_BYTES_MAX {
        let text =
            format!("the headers have {bytes} bytes; at most {HEADER_BYTES_MAX} are allowed");
        return Err(Failure::new(Reason::TooLarge, text));
    }
    if headers.iter().any(|header| header.name.is_empty()) {
        return Err(Failure::field(
            "headers.name",
            "headers.name is empty; a header has a name",
        ));
    }
    Ok(())
}

fn check_payload(config: &InterfaceConfig, payload: &[u8]) -> Result<(), Failure> {
    let (bytes, limit) = (payload.len(), config.payload_bytes_max as usize);
    if bytes <= limit {
        return Ok(());
    }
    let text = format!("payload has {bytes} bytes; payload_bytes_max of the interface is {limit}");
    Err(Failure::new(Reason::TooLarge, text))
}

/// A message for the interface with this id and configuration. A producer's name is empty where it does not number its
/// messages; its session is 0 where it names none.
///
/// # Errors
/// When it has no identity: then no number of the producer's can be used up by it either.
pub fn ingest_of(
    interface: InterfaceId,
    config: &InterfaceConfig,
    producer: &str,
    (session, heard): (u64, u64),
    message: v1::IngestMessage,
) -> Result<CheckedIngest, Failure> {
    let message_id = MessageId(identity_of(producer, &message)?);
    let supplied = digest_of(&message)?;
    let headers = check_headers(&message.headers);
    let impossible = headers.is_err() || message.payload.len() > PAYLOAD_BYTES_MAX as usize;
    let too_large = headers
        .and_then(|()| check_payload(config, &message.payload))
        .err();
    let headers: Vec<_> = message.headers.into_iter().map(header_from_proto).collect();
    let ingest = Ingest {
        interface,
        message_id,
        digest: supplied.unwrap_or_else(|| digest(&message.payload, &headers)),
        payload: message.payload,
        headers,
        numbered: (!producer.is_empty()).then(|| (producer.to_owned(), message.producer_sequence)),
        session: NonZeroU64::new(session)
            .map(|session| (ProducerSession(session), Sequence(heard))),
    };
    Ok(CheckedIngest {
        ingest,
        too_large,
        impossible,
    })
}

/// The digest that the producer supplies.
fn digest_of(message: &v1::IngestMessage) -> Result<Option<Digest>, Failure> {
    match <[u8; 16]>::try_from(&message.digest[..]) {
        Ok(digest) => Ok(Some(Digest(digest))),
        Err(_) if message.digest.is_empty() => Ok(None),
        Err(_) => {
            let bytes = message.digest.len();
            let text = format!("digest has {bytes} bytes; allowed are none, or 16");
            Err(Failure::field("digest", text))
        }
    }
}

fn identity_of(producer: &str, message: &v1::IngestMessage) -> Result<Uuid, Failure> {
    let message_id = uuid_of("message_id", &message.message_id)?;
    if producer.len() > NAME_BYTES_MAX {
        let text = format!(
            "producer has {} bytes; at most {NAME_BYTES_MAX} are allowed",
            producer.len()
        );
        return Err(Failure::new(Reason::TooLarge, text));
    }
    match (producer.is_empty(), message.producer_sequence) {
        (true, 0) | (false, 1..) => Ok(message_id),
        (true, given) => Err(Failure::field(
            "producer_sequence",
            format!("producer_sequence is {given}, but producer is empty"),
        )),
        (false, 0) => Err(Failure::field(
            "producer_sequence",
            "producer_sequence is 0; a producer that is named numbers its messages from 1",
        )),
    }
}

/// The stages that a worker names.
///
/// # Errors
/// When there are none or too many, or one is longer than any name.
pub fn stages_of(stages: Vec<String>) -> Result<Vec<String>, Failure> {
    if stages.is_empty() || stages.len() > HELLO_STAGES_MAX {
        let text = format!(
            "hello.stages names {} stages; 1 to {HELLO_STAGES_MAX} are allowed",
            stages.len()
        );
        return Err(Failure::field("hello.stages", text));
    }
    stages
        .into_iter()
        .map(|stage| name_of("hello.stages", stage))
        .collect()
}

/// A worker's report on a message of the interface with this name, id and configuration. `jitter` is drawn where it
/// is needed.
///
/// # Errors
/// When it names what the interface does not have, or holds too much.
pub fn report_of(
    (interface, name): (InterfaceId, &str),
    config: &InterfaceConfig,
    report: v1::WorkReport,
    jitter: impl FnOnce() -> u16,
) -> Result<Report, Failure> {
    let Some(stage) = config.stage_number(&report.stage) else {
        let text = format!("interface {name:?} has no stage {}", quoted(&report.stage));
        return Err(Failure::new(Reason::UnknownStage, text));
    };
    let outcome = match report.outcome {
        Some(work_report::Outcome::Complete(complete)) => complete_of(name, config, complete)?,
        Some(work_report::Outcome::Retry(retry)) => Outcome::Retry {
            reason: reason_of(retry.reason)?,
            jitter: jitter(),
        },
        Some(work_report::Outcome::Reject(reject)) => Outcome::Reject {
            reason: reason_of(reject.reason)?,
        },
        Some(work_report::Outcome::Filter(filter)) => Outcome::Filter {
            reason: reason_of(filter.reason)?,
        },
        None => return Err(Failure::field("outcome", "the report has no outcome")),
    };
    Ok(Report {
        interface,
        sequence: Sequence(report.sequence),
        stage,
        turn: Turn(report.turn),
        outcome,
    })
}

fn complete_of(
    name: &str,
    config: &InterfaceConfig,
    complete: v1::WorkComplete,
) -> Result<Outcome, Failure> {
    if let Some(payload) = &complete.payload {
        check_payload(config, payload)?;
    }
    check_headers(&complete.headers)?;
    let number = |destination: &String| -> Result<DestinationNumber, Failure> {
        config.destination_number(destination).ok_or_else(|| {
            let text = format!(
                "interface {name:?} has no destination {}",
                quoted(destination)
            );
            Failure::new(Reason::UnknownDestination, text)
        })
    };
    Ok(Outcome::Complete {
        payload: complete.payload,
        headers: complete
            .headers
            .into_iter()
            .map(header_from_proto)
            .collect(),
        destinations: complete
            .destinations
            .iter()
            .map(number)
            .collect::<Result<_, _>>()?,
    })
}

/// What a consumer asks for.
///
/// # Errors
/// When an id is none, or a name is longer than any name may be.
pub fn subscription_of(subscribe: v1::Subscribe) -> Result<Subscription, Failure> {
    let consumer = ConsumerId(uuid_of("consumer_id", &subscribe.consumer_id)?);
    let interface = name_of("interface", subscribe.interface)?;
    let destination = name_of("destination", subscribe.destination)?;
    let destination = destination_or_default(&destination).to_owned();
    let name = name_of("name", subscribe.name)?;
    let position = subscribe.position.map(|position| -> Result<_, Failure> {
        let interface = InterfaceId(uuid_of("position.interface_id", &position.interface_id)?);
        Ok((
            interface,
            Incarnation(position.incarnation),
            Sequence(position.sequence),
        ))
    });
    Ok(Subscription {
        interface,
        destination,
        consumer,
        name,
        position: position.transpose()?,
    })
}

/// What a consumer answers.
///
/// # Errors
/// When it answers nothing, asks for too long a pause or gives too long a reason.
pub fn answer_of(answer: Option<answer::Answer>) -> Result<AnswerKind, Failure> {
    Ok(match answer {
        Some(answer::Answer::Ack(_)) => AnswerKind::Ack,
        Some(answer::Answer::Retry(retry)) => AnswerKind::Retry {
            after_ms: pause_of(retry.after_ms)?,
            reason: reason_of(retry.reason)?,
        },
        Some(answer::Answer::Reject(reject)) => AnswerKind::Reject {
            reason: reason_of(reject.reason)?,
        },
        Some(answer::Answer::Unavailable(unavailable)) => AnswerKind::Unavailable {
            after_ms: pause_of(unavailable.after_ms)?,
            sent: unavailable.sent,
            reason: reason_of(unavailable.reason)?,
        },
        None => {
            return Err(Failure::field(
                "answer",
                "the answer is none of ack, retry, reject and unavailable",
            ));
        }
    })
}

fn pause_of(after_ms: u64) -> Result<u64, Failure> {
    if after_ms <= POSTPONE_MS_MAX {
        return Ok(after_ms);
    }
    Err(Failure::field(
        "after_ms",
        format!("after_ms is {after_ms}; at most {POSTPONE_MS_MAX} is allowed"),
    ))
}
