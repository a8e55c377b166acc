//! Log entries: the state machine's commands as protobuf behind a version byte.

use crate::convert::{
    header_from_proto, headers_to_proto, interface_config_from_entry, interface_config_to_proto,
};
use crate::internal::v1 as proto;
use bytes::{BufMut, Bytes, BytesMut};
use ordo_core::{
    Answer, AnswerKind, ClusterTime, Command, ConsumerId, CreateInterface, DeadLetterKey,
    DestinationNumber, Digest, DiscardDeadLetter, Entry, Epoch, ForgetFinished, Grant, GrantEnd,
    Header, Incarnation, Ingest, InterfaceId, Loss, MessageId, NoteDelivery, Outcome,
    ProducerSession, QuarantineInterface, RedriveDeadLetter, RefuseIngest, RepairInterface, Report,
    ResumeDelivery, RunPosition, Sequence, SkipDelivery, StageNumber, Turn, UpdateInterface,
    WallTime,
};
use prost::Message;
use std::num::NonZeroU64;
use uuid::Uuid;

/// The version every entry begins with.
pub const ENTRY_VERSION: u8 = 1;

/// Bytes that are not an entry of a version known here: the log is damaged, or written by a newer version.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The version byte.
    #[error("log entry of version {0}; this program knows version {ENTRY_VERSION}")]
    Version(u8),
    /// Not protobuf.
    #[error("log entry: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A field that is missing or has an impossible value.
    #[error("log entry: {0} is missing or impossible")]
    Field(&'static str),
}

/// Encodes an entry.
#[must_use]
pub fn encode(entry: &Entry) -> Bytes {
    let entry = proto::Entry {
        cluster_time_ms: entry.cluster_time.0,
        wall_time_ms: entry.wall_time.0,
        term: entry.position.term,
        run: entry.position.run,
        n: entry.position.n,
        commands: entry.commands.iter().map(command_to_proto).collect(),
    };
    let mut bytes = BytesMut::with_capacity(1 + entry.encoded_len());
    bytes.put_u8(ENTRY_VERSION);
    entry
        .encode(&mut bytes)
        .expect("the buffer grows as needed");
    bytes.freeze()
}

/// Decodes an entry. Payloads are slices of `bytes`, not copies.
///
/// # Errors
/// When `bytes` are not what [`encode`] made.
pub fn decode(mut bytes: Bytes) -> Result<Entry, DecodeError> {
    match bytes.first() {
        Some(&ENTRY_VERSION) => {}
        Some(&version) => return Err(DecodeError::Version(version)),
        None => return Err(DecodeError::Field("version")),
    }
    let entry = proto::Entry::decode(bytes.split_off(1))?;
    let commands = entry
        .commands
        .into_iter()
        .map(command_from_proto)
        .collect::<Result<_, _>>()?;
    Ok(Entry {
        cluster_time: ClusterTime(entry.cluster_time_ms),
        wall_time: WallTime(entry.wall_time_ms),
        position: RunPosition {
            term: entry.term,
            run: entry.run,
            n: entry.n,
        },
        commands,
    })
}

fn id(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn uuid(bytes: &Bytes, field: &'static str) -> Result<Uuid, DecodeError> {
    Uuid::from_slice(bytes).map_err(|_| DecodeError::Field(field))
}

fn interface(bytes: &Bytes) -> Result<InterfaceId, DecodeError> {
    uuid(bytes, "interface_id").map(InterfaceId)
}

fn small(number: u32, field: &'static str) -> Result<u8, DecodeError> {
    u8::try_from(number).map_err(|_| DecodeError::Field(field))
}

fn destination(number: u32) -> Result<DestinationNumber, DecodeError> {
    let number = small(number, "destination")?;
    match usize::from(number) < ordo_core::limits::DESTINATIONS_MAX {
        true => Ok(DestinationNumber(number)),
        false => Err(DecodeError::Field("destination")),
    }
}

fn dead_letter_key(sequence: u64, number: u32) -> Result<DeadLetterKey, DecodeError> {
    let destination = number.checked_sub(1).map(destination).transpose()?;
    Ok(DeadLetterKey {
        sequence: Sequence(sequence),
        destination,
    })
}

fn dead_letter_number(key: DeadLetterKey) -> u32 {
    key.destination
        .map_or(0, |destination| u32::from(destination.0) + 1)
}

fn headers(headers: Vec<crate::v1::Header>) -> Vec<Header> {
    headers.into_iter().map(header_from_proto).collect()
}

fn command_to_proto(command: &Command) -> proto::Command {
    use proto::command::Command as To;
    let command = match command {
        Command::Ingest(c) => To::Ingest(ingest_to_proto(c)),
        Command::RefuseIngest(c) => To::RefuseIngest(proto::RefuseIngest {
            interface_id: id(c.interface.0),
            message_id: id(c.message_id.0),
            producer: c.numbered.0.clone(),
            producer_sequence: c.numbered.1,
        }),
        Command::Report(c) => To::Report(report_to_proto(c)),
        Command::Loss(c) => To::Loss(proto::Loss {
            interface_id: id(c.interface.0),
            sequence: c.sequence.0,
            stage: c.stage.0.into(),
            turn: c.turn.0,
            worker: c.reason.clone(),
        }),
        Command::Grant(c) => To::Grant(proto::Grant {
            interface_id: id(c.interface.0),
            destination: c.destination.0.into(),
            consumer_id: id(c.consumer.0),
            name: c.name.clone(),
            has_position: c.position.is_some(),
            incarnation: c.position.map_or(0, |(incarnation, _)| incarnation.0),
            sequence: c.position.map_or(0, |(_, sequence)| sequence.0),
        }),
        Command::GrantEnd(c) => To::GrantEnd(proto::GrantEnd {
            interface_id: id(c.interface.0),
            destination: c.destination.0.into(),
            epoch: c.epoch.0,
        }),
        Command::Answer(c) => To::Answer(answer_to_proto(c)),
        Command::CreateInterface(c) => To::CreateInterface(proto::CreateInterface {
            interface_id: id(c.interface.0),
            name: c.name.clone(),
            config: Some(interface_config_to_proto(&c.config)),
        }),
        Command::UpdateInterface(c) => To::UpdateInterface(proto::UpdateInterface {
            interface_id: id(c.interface.0),
            config_version: c.config_version,
            config: Some(interface_config_to_proto(&c.config)),
        }),
        Command::DiscardDeadLetter(c) => To::DiscardDeadLetter(proto::DiscardDeadLetter {
            interface_id: id(c.interface.0),
            sequence: c.key.sequence.0,
            destination: dead_letter_number(c.key),
        }),
        Command::RedriveDeadLetter(c) => To::RedriveDeadLetter(proto::RedriveDeadLetter {
            interface_id: id(c.interface.0),
            sequence: c.key.sequence.0,
            destination: dead_letter_number(c.key),
            in_place_only: c.in_place_only,
        }),
        Command::ForgetFinished(c) => To::ForgetFinished(proto::ForgetFinished {
            interface_id: id(c.interface.0),
            through: c.through.0,
        }),
        Command::QuarantineInterface(c) => To::QuarantineInterface(proto::QuarantineInterface {
            interface_id: id(c.interface.0),
            invariant: c.invariant.clone(),
        }),
        Command::RepairInterface(c) => To::RepairInterface(proto::RepairInterface {
            interface_id: id(c.interface.0),
        }),
        Command::SkipDelivery(c) => To::SkipDelivery(proto::SkipDelivery {
            interface_id: id(c.interface.0),
            destination: c.destination.0.into(),
            sequence: c.sequence.0,
            turn: c.turn.0,
        }),
        Command::ResumeDelivery(c) => To::ResumeDelivery(proto::ResumeDelivery {
            interface_id: id(c.interface.0),
            destination: c.destination.0.into(),
            turn: c.turn.map_or(0, |turn| turn.0),
        }),
        Command::NoteDelivery(c) => To::NoteDelivery(proto::NoteDelivery {
            interface_id: id(c.interface.0),
            destination: c.destination.0.into(),
            sequence: c.sequence.0,
            epoch: c.epoch.0,
            code: c.code.clone(),
            text: c.text.clone(),
        }),
    };
    proto::Command {
        command: Some(command),
    }
}

fn ingest_to_proto(c: &Ingest) -> proto::Ingest {
    let (producer, producer_sequence) = c.numbered.clone().unwrap_or_default();
    let (session, heard) = c
        .session
        .map_or((0, 0), |(session, heard)| (session.0.get(), heard.0));
    proto::Ingest {
        interface_id: id(c.interface.0),
        message_id: id(c.message_id.0),
        digest: Bytes::copy_from_slice(&c.digest.0),
        payload: c.payload.clone(),
        headers: headers_to_proto(&c.headers),
        producer,
        producer_sequence,
        session,
        heard_sequence: heard,
    }
}

fn report_to_proto(c: &Report) -> proto::Report {
    use proto::report::Outcome as To;
    let outcome = match &c.outcome {
        Outcome::Complete {
            payload,
            headers,
            destinations,
        } => To::Complete(proto::Complete {
            payload: payload.clone(),
            headers: headers_to_proto(headers),
            destinations: destinations
                .iter()
                .map(|destination| destination.0.into())
                .collect(),
        }),
        Outcome::Retry { reason, jitter } => To::Retry(proto::Retry {
            reason: reason.clone(),
            jitter: u32::from(*jitter),
        }),
        Outcome::Reject { reason } => To::Reject(reason.clone()),
        Outcome::Filter { reason } => To::Filter(reason.clone()),
    };
    proto::Report {
        interface_id: id(c.interface.0),
        sequence: c.sequence.0,
        stage: c.stage.0.into(),
        turn: c.turn.0,
        outcome: Some(outcome),
    }
}

fn answer_to_proto(c: &Answer) -> proto::Answer {
    use proto::answer::Answer as To;
    let postpone = |after_ms: u64, sent: bool, reason: &String| proto::Postpone {
        after_ms,
        reason: reason.clone(),
        sent,
    };
    let answer = match &c.kind {
        AnswerKind::Ack => To::Ack(proto::Ack {}),
        AnswerKind::Retry { after_ms, reason } => To::Retry(postpone(*after_ms, false, reason)),
        AnswerKind::Reject { reason } => To::Reject(reason.clone()),
        AnswerKind::Unavailable {
            after_ms,
            sent,
            reason,
        } => To::Unavailable(postpone(*after_ms, *sent, reason)),
    };
    proto::Answer {
        interface_id: id(c.interface.0),
        destination: c.destination.0.into(),
        epoch: c.epoch.0,
        sequence: c.sequence.0,
        answer: Some(answer),
    }
}

fn command_from_proto(command: proto::Command) -> Result<Command, DecodeError> {
    use proto::command::Command as From;
    Ok(
        match command.command.ok_or(DecodeError::Field("command"))? {
            From::Ingest(c) => Command::Ingest(ingest_from_proto(c)?),
            From::RefuseIngest(c) => Command::RefuseIngest(RefuseIngest {
                interface: interface(&c.interface_id)?,
                message_id: MessageId(uuid(&c.message_id, "message_id")?),
                numbered: (c.producer, c.producer_sequence),
            }),
            From::Report(c) => Command::Report(report_from_proto(c)?),
            From::Loss(c) => Command::Loss(Loss {
                interface: interface(&c.interface_id)?,
                sequence: Sequence(c.sequence),
                stage: StageNumber(small(c.stage, "stage")?),
                turn: Turn(c.turn),
                reason: c.worker,
            }),
            From::Grant(c) => Command::Grant(Grant {
                interface: interface(&c.interface_id)?,
                destination: destination(c.destination)?,
                consumer: ConsumerId(uuid(&c.consumer_id, "consumer_id")?),
                name: c.name,
                position: c
                    .has_position
                    .then_some((Incarnation(c.incarnation), Sequence(c.sequence))),
            }),
            From::GrantEnd(c) => Command::GrantEnd(GrantEnd {
                interface: interface(&c.interface_id)?,
                destination: destination(c.destination)?,
                epoch: Epoch(c.epoch),
            }),
            From::Answer(c) => Command::Answer(answer_from_proto(c)?),
            From::CreateInterface(c) => Command::CreateInterface(CreateInterface {
                interface: interface(&c.interface_id)?,
                name: c.name,
                config: interface_config_from_entry(c.config.ok_or(DecodeError::Field("config"))?)?,
            }),
            From::UpdateInterface(c) => Command::UpdateInterface(UpdateInterface {
                interface: interface(&c.interface_id)?,
                config_version: c.config_version,
                config: interface_config_from_entry(c.config.ok_or(DecodeError::Field("config"))?)?,
            }),
            From::DiscardDeadLetter(c) => Command::DiscardDeadLetter(DiscardDeadLetter {
                interface: interface(&c.interface_id)?,
                key: dead_letter_key(c.sequence, c.destination)?,
            }),
            From::RedriveDeadLetter(c) => Command::RedriveDeadLetter(RedriveDeadLetter {
                interface: interface(&c.interface_id)?,
                key: dead_letter_key(c.sequence, c.destination)?,
                in_place_only: c.in_place_only,
            }),
            From::ForgetFinished(c) => Command::ForgetFinished(ForgetFinished {
                interface: interface(&c.interface_id)?,
                through: Sequence(c.through),
            }),
            From::QuarantineInterface(c) => Command::QuarantineInterface(QuarantineInterface {
                interface: interface(&c.interface_id)?,
                invariant: c.invariant,
            }),
            From::RepairInterface(c) => Command::RepairInterface(RepairInterface {
                interface: interface(&c.interface_id)?,
            }),
            From::SkipDelivery(c) => Command::SkipDelivery(SkipDelivery {
                interface: interface(&c.interface_id)?,
                destination: destination(c.destination)?,
                sequence: Sequence(c.sequence),
                turn: Turn(c.turn),
            }),
            From::ResumeDelivery(c) => Command::ResumeDelivery(ResumeDelivery {
                interface: interface(&c.interface_id)?,
                destination: destination(c.destination)?,
                turn: (c.turn != 0).then_some(Turn(c.turn)),
            }),
            From::NoteDelivery(c) => Command::NoteDelivery(NoteDelivery {
                interface: interface(&c.interface_id)?,
                destination: destination(c.destination)?,
                sequence: Sequence(c.sequence),
                epoch: Epoch(c.epoch),
                code: c.code,
                text: c.text,
            }),
        },
    )
}

fn ingest_from_proto(c: proto::Ingest) -> Result<Ingest, DecodeError> {
    Ok(Ingest {
        interface: interface(&c.interface_id)?,
        message_id: MessageId(uuid(&c.message_id, "message_id")?),
        digest: Digest(
            c.digest
                .as_ref()
                .try_into()
                .map_err(|_| DecodeError::Field("digest"))?,
        ),
        payload: c.payload,
        headers: headers(c.headers),
        numbered: (c.producer_sequence != 0).then_some((c.producer, c.producer_sequence)),
        session: NonZeroU64::new(c.session)
            .map(|session| (ProducerSession(session), Sequence(c.heard_sequence))),
    })
}

fn report_from_proto(c: proto::Report) -> Result<Report, DecodeError> {
    use proto::report::Outcome as From;
    let outcome = match c.outcome.ok_or(DecodeError::Field("outcome"))? {
        From::Complete(complete) => Outcome::Complete {
            payload: complete.payload,
            headers: headers(complete.headers),
            destinations: complete
                .destinations
                .into_iter()
                .map(destination)
                .collect::<Result<_, _>>()?,
        },
        From::Retry(retry) => Outcome::Retry {
            reason: retry.reason,
            jitter: u16::try_from(retry.jitter).map_err(|_| DecodeError::Field("jitter"))?,
        },
        From::Reject(reason) => Outcome::Reject { reason },
        From::Filter(reason) => Outcome::Filter { reason },
    };
    Ok(Report {
        interface: interface(&c.interface_id)?,
        sequence: Sequence(c.sequence),
        stage: StageNumber(small(c.stage, "stage")?),
        turn: Turn(c.turn),
        outcome,
    })
}

fn answer_from_proto(c: proto::Answer) -> Result<Answer, DecodeError> {
    use proto::answer::Answer as From;
    let kind = match c.answer.ok_or(DecodeError::Field("answer"))? {
        From::Ack(proto::Ack {}) => AnswerKind::Ack,
        From::Retry(p) => AnswerKind::Retry {
            after_ms: p.after_ms,
            reason: p.reason,
        },
        From::Reject(reason) => AnswerKind::Reject { reason },
        From::Unavailable(p) => AnswerKind::Unavailable {
            after_ms: p.after_ms,
            sent: p.sent,
            reason: p.reason,
        },
    };
    Ok(Answer {
        interface: interface(&c.interface_id)?,
        destination: destination(c.destination)?,
        epoch: Epoch(c.epoch),
        sequence: Sequence(c.sequence),
        kind,
    })
}
