//! `Ingest`: the next sequence of an interface.

use super::{Context, Lane};
use crate::command::{Ingest, RefuseIngest};
use crate::ids::{ClusterTime, DestinationSet, MessageId, Sequence, StageNumber, Turn};
use crate::interface::{Producer, Slot, Status, header_bytes};
use crate::invariants::KNOWN;
use crate::limits::PRODUCERS_MAX;
use crate::mutation::{Key, PayloadRow, Row};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;
use smallvec::SmallVec;
use std::collections::btree_map::Entry;

/// What a producer's own number says of a message.
enum Numbered {
    /// It is the next one.
    Next,
    /// It is the last one, again: the same answer.
    Again(Reply),
}

impl<R: Rules> Context<'_, R> {
    pub(super) fn ingest(&mut self, command: Ingest) -> Result<Reply, Refusal> {
        if !self.follows {
            return Err(Refusal::Superseded);
        }
        let mut lane = self.lane(command.interface)?;
        if let Some(sequence) = R::known(lane.interface.sequence_of(command.message_id)) {
            return lane.known(&command, sequence);
        }
        if let Some((producer, number)) = &command.numbered
            && let Numbered::Again(reply) = lane.numbered(producer, *number, command.message_id)?
        {
            return Ok(reply);
        }
        Ok(lane.accept(command))
    }

    pub(super) fn refuse_ingest(&mut self, command: RefuseIngest) -> Result<Reply, Refusal> {
        if !self.follows {
            return Err(Refusal::Superseded);
        }
        let mut lane = self.lane(command.interface)?;
        let (producer, number) = command.numbered;
        if let Numbered::Again(reply) = lane.numbered(&producer, number, command.message_id)? {
            return Ok(reply);
        }
        lane.consume(producer, number, command.message_id, None);
        Err(Refusal::ProducerRefused(number))
    }
}

impl<R: Rules> Lane<'_, R> {
    /// A known id gets its first answer; a number that comes with it is used up all the same, and must not have
    /// been used for another message.
    fn known(&mut self, command: &Ingest, sequence: Sequence) -> Result<Reply, Refusal> {
        let same = R::same_payload(self.interface.digest_of(sequence), command.digest);
        if let Some((producer, number)) = &command.numbered {
            let known = self.interface.producers.get(producer);
            let expected = known.map_or(1, |known| known.last + 1);
            let given = *number;
            if given > expected {
                return Err(Refusal::ProducerGap { given, expected });
            }
            // Only the last number's message is remembered; an earlier one's may be a replay.
            if known
                .is_some_and(|known| known.last == given && known.message_id != command.message_id)
            {
                return Err(Refusal::ProducerSequenceUsed { given, expected });
            }
            if given == expected && self.has_room_for(producer)? {
                self.consume(
                    producer.clone(),
                    given,
                    command.message_id,
                    same.then_some(sequence),
                );
            }
        }
        match same {
            true => Ok(Reply::Ingested {
                sequence,
                duplicate: true,
            }),
            false => Err(Refusal::ConflictingPayload(sequence)),
        }
    }

    fn numbered(
        &self,
        producer: &str,
        number: u64,
        message_id: MessageId,
    ) -> Result<Numbered, Refusal> {
        self.has_room_for(producer)?;
        let known = self.interface.producers.get(producer);
        let expected = known.map_or(1, |producer| producer.last + 1);
        if number == expected {
            return Ok(Numbered::Next);
        }
        if number > expected {
            return Err(Refusal::ProducerGap {
                given: number,
                expected,
            });
        }
        match known.filter(|known| known.last == number && known.message_id == message_id) {
            Some(Producer {
                sequence: Some(sequence),
                ..
            }) => Ok(Numbered::Again(Reply::Ingested {
                sequence: *sequence,
                duplicate: true,
            })),
            Some(_) => Err(Refusal::ProducerRefused(number)),
            None => Err(Refusal::ProducerSequenceUsed {
                given: number,
                expected,
            }),
        }
    }

    fn has_room_for(&self, producer: &str) -> Result<bool, Refusal> {
        let producers = &self.interface.producers;
        match producers.len() < PRODUCERS_MAX || producers.contains_key(producer) {
            true => Ok(true),
            false => Err(Refusal::ProducersFull(producers.len())),
        }
    }

    fn consume(
        &mut self,
        name: String,
        number: u64,
        message_id: MessageId,
        sequence: Option<Sequence>,
    ) {
        let producer = Producer {
            last: number,
            message_id,
            sequence,
        };
        self.put(
            Key::Producer(self.interface.id, name.clone()),
            Row::Producer(producer.clone()),
        );
        self.interface.producers.insert(name, producer);
    }

    fn accept(&mut self, command: Ingest) -> Reply {
        let sequence = R::next_sequence(self.interface.last_sequence);
        let id = self.interface.id;
        let (count, bytes) = (command.headers.len(), header_bytes(&command.headers));
        let payload_bytes = command.payload.len();
        let payload = PayloadRow {
            row: 0,
            payload: command.payload,
        };
        self.put(Key::Payload(id, sequence), Row::Payload(payload));
        if count > 0 {
            self.put(Key::Headers(id, sequence, 0), Row::Headers(command.headers));
        }
        if let Some((producer, number)) = command.numbered {
            self.consume(producer, number, command.message_id, Some(sequence));
        }
        if let Some((session, heard)) = command.session {
            self.hear(session, heard, sequence);
        }
        self.append(Slot {
            message_id: command.message_id,
            digest: command.digest,
            accepted_at: self.clock.wall_time,
            not_before: ClusterTime(0),
            body_of: sequence,
            redrive_of: None,
            stage_times: SmallVec::new(),
            turn: Turn(1),
            turn_entered: Turn(1),
            payload_bytes: u32::try_from(payload_bytes)
                .expect("a payload is within its limit when proposed"),
            header_rows: u64::from(count > 0),
            header_bytes: u16::try_from(bytes)
                .expect("headers are within their limit when proposed"),
            header_count: u8::try_from(count)
                .expect("headers are within their limit when proposed"),
            stage: StageNumber(0),
            status: Status::Pending,
            attempts: 0,
            losses: 0,
            destinations: DestinationSet::ALL,
            rejected: DestinationSet::NONE,
            session: command.session.map(|(session, _)| session),
            dirty: false,
        });
        Reply::Ingested {
            sequence,
            duplicate: false,
        }
    }

    /// A new message at the tail. One that has no stage before it is READY.
    pub(super) fn append(&mut self, mut slot: Slot) {
        let interface = &mut *self.interface;
        let sequence = R::next_sequence(interface.last_sequence);
        let pending = usize::from(slot.stage.0) < interface.config.stages.len();
        slot.status = if pending {
            Status::Pending
        } else {
            Status::Ready
        };
        // An id that is known stays whose it is.
        match interface.known.entry(slot.message_id) {
            Entry::Vacant(free) => drop(free.insert(sequence)),
            Entry::Occupied(_) => drop(interface.dirty.broken.get_or_insert(KNOWN)),
        }
        if slot.body_of != sequence {
            interface.need_body(slot.body_of);
        }
        interface.slots.push_back(slot);
        interface.last_sequence = sequence;
        interface.touch_slot(sequence);
        match pending {
            true => self.work(sequence),
            false => self.release(),
        }
    }
}
