//! The state, rebuilt from its stored rows.

use crate::hours::Hours;
use crate::ids::{InterfaceId, Sequence};
use crate::interface::Interface;
use crate::invariants;
use crate::mutation::{ConfigRow, Key, Record, Row, SessionRow};
use crate::session::{Session, Unheard};
use crate::state::State;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The stored rows are not a state.
#[derive(Debug, thiserror::Error)]
#[error("the stored state is damaged: {0}")]
pub struct LoadError(String);

/// A state in the making, and per interface where its known records begin.
#[derive(Default)]
struct Loader {
    state: State,
    known_from: BTreeMap<InterfaceId, Sequence>,
}

pub(crate) fn load(rows: impl Iterator<Item = (Key, Row)>) -> Result<State, LoadError> {
    let mut loader = Loader::default();
    for (key, row) in rows {
        loader.row(key, row)?;
    }
    let now = loader.state.clock.cluster_time;
    for interface in loader.state.interfaces.values_mut() {
        if interface.quarantine.is_some() {
            // It is loaded as it stands.
            continue;
        }
        let first = interface.forgotten_through.next();
        if interface.hours.from().is_none() && first <= interface.finished_through() {
            // Rows of a version that did not note the hours: as if all had finished now.
            interface.hours.finished(first, now);
        }
        check(interface, loader.known_from.get(&interface.id).copied())?;
        let checked = invariants::check_interface(interface);
        interface.suspect = checked.err().map(|violation| violation.name);
    }
    Ok(loader.state)
}

impl Loader {
    fn row(&mut self, key: Key, row: Row) -> Result<(), LoadError> {
        match (key, row) {
            (Key::Clock, Row::Clock(clock)) => self.state.clock = clock,
            (Key::Config(id), Row::Config(row)) => self.interface(id, row)?,
            (Key::Lane(id), Row::Lane(row)) => {
                self.known_from.insert(id, row.known_from);
                let interface = self.get(id)?;
                interface.last_sequence = row.last_sequence;
                interface.watermark = row.watermark;
                interface.failed = row.failed;
                interface.filtered = row.filtered;
                interface.forgotten_through = row.forgotten_through;
                interface.redrives = row.redrives;
                interface.sessions = sessions(&row.sessions);
            }
            (Key::Hours(id), Row::Hours(row)) => self.get(id)?.hours = Hours::new(row),
            (Key::Unheard(id, sequence), Row::Unheard(row)) => self.unheard(id, sequence, row)?,
            (Key::Quarantine(id), Row::Quarantine(row)) => {
                self.get(id)?.quarantine = Some(Box::new(row));
            }
            (Key::Destination(id, number), Row::Destination(row)) => {
                let interface = self.get(id)?;
                let there = interface.destinations.get_mut(usize::from(number.0));
                *there.ok_or_else(|| {
                    LoadError(format!("interface {id} has no destination {number}"))
                })? = row;
            }
            (Key::Producer(id, name), Row::Producer(row)) => {
                self.get(id)?.producers.insert(name, row);
            }
            (Key::DeadLetter(id, key), Row::DeadLetter(row)) => {
                let interface = self.get(id)?;
                interface.known.insert(row.message_id, key.sequence);
                interface.dead_letter_bytes += u64::from(row.payload_bytes);
                interface.need_body(row.body_of);
                interface.dead_letters.insert(key, row);
            }
            (Key::Slot(id, sequence), Row::Slot(slot)) => {
                let interface = self.get(id)?;
                let expected = interface.slowest_checkpoint().0 + 1 + interface.slots.len() as u64;
                if sequence.0 != expected && interface.quarantine.is_none() {
                    return Err(LoadError(format!(
                        "interface {id} has slot {sequence} where {expected} belongs"
                    )));
                }
                interface.known.insert(slot.message_id, sequence);
                if slot.body_of != sequence {
                    interface.need_body(slot.body_of);
                }
                interface.slots.push_back(slot);
            }
            (Key::Record(id, sequence), Row::Record(row)) => self.record(id, sequence, &row)?,
            // Payloads, headers and events stay in the store.
            (Key::Payload(..), Row::Payload(_))
            | (Key::Headers(..), Row::Headers(_))
            | (Key::Event(..), Row::Event(_)) => {}
            (key, _) => return Err(LoadError(format!("{key:?} holds another kind of row"))),
        }
        Ok(())
    }

    fn get(&mut self, id: InterfaceId) -> Result<&mut Interface, LoadError> {
        let interface = self.state.interfaces.get_mut(&id);
        interface.ok_or_else(|| LoadError(format!("interface {id} has rows, but no configuration")))
    }

    fn interface(&mut self, id: InterfaceId, row: ConfigRow) -> Result<(), LoadError> {
        let interface = Interface::new(id, row);
        if self
            .state
            .names
            .insert(Arc::clone(&interface.name), id)
            .is_some()
        {
            return Err(LoadError(format!(
                "two interfaces are called {:?}",
                interface.name
            )));
        }
        self.state.totals.dedup_messages += u64::from(interface.config.dedup_messages);
        self.state.interfaces.insert(id, interface);
        Ok(())
    }

    /// Records come in sequence order; those before `known_from` are only shown to people.
    fn record(
        &mut self,
        id: InterfaceId,
        sequence: Sequence,
        row: &Record,
    ) -> Result<(), LoadError> {
        let known = self
            .known_from
            .get(&id)
            .is_some_and(|from| sequence >= *from);
        let interface = self.get(id)?;
        if known {
            let from = (row.session, row.derived);
            let finished = interface.finished_as(sequence, row.message_id, row.digest, from);
            let expected = interface.config.dedup_messages as usize;
            interface.remembered.push(sequence, finished, expected);
        }
        Ok(())
    }

    fn unheard(
        &mut self,
        id: InterfaceId,
        sequence: Sequence,
        row: Unheard,
    ) -> Result<(), LoadError> {
        self.state.totals.unheard += 1;
        let interface = self.get(id)?;
        let mut sessions = interface.sessions.iter_mut();
        let session = sessions.find(|there| there.id == row.session);
        let lacks = || LoadError(format!("interface {id} lacks the session of {sequence}"));
        session
            .ok_or_else(lacks)?
            .unheard
            .push_back((sequence, row));
        interface.known.insert(row.message_id, sequence);
        Ok(())
    }
}

fn sessions(rows: &[SessionRow]) -> Vec<Session> {
    let session = |(number, row): (u8, &SessionRow)| Session {
        id: row.session,
        number,
        since: row.since,
        heard: row.heard,
        unheard: VecDeque::new(),
    };
    (1..).zip(rows).map(session).collect()
}

fn check(interface: &Interface, known_from: Option<Sequence>) -> Result<(), LoadError> {
    let name = &interface.name;
    let known_from = known_from.ok_or_else(|| LoadError(format!("{name} lacks its counters")))?;
    let (through, slots) = (interface.slowest_checkpoint(), interface.slots.len() as u64);
    if through.0 + slots != interface.last_sequence.0 {
        let last = interface.last_sequence;
        return Err(LoadError(format!(
            "{name} has {slots} slots for the sequences after {through} through {last}"
        )));
    }
    match known_from.0 + interface.remembered.len() as u64 == through.0 + 1 {
        true => Ok(()),
        false => Err(LoadError(format!(
            "{name} lacks records from {known_from} to {through}"
        ))),
    }
}
