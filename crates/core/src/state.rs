//! The whole state.

use crate::apply::{Context, Totals};
use crate::command::{Entry, RunPosition};
use crate::effect::Effect;
use crate::hours::Hours;
use crate::ids::{ClusterTime, DestinationNumber, InterfaceId, Sequence, WallTime};
use crate::interface::{Dirty, Interface};
use crate::limits::RECORD_HOURS;
use crate::load::LoadError;
use crate::mutation::{ClockRow, ConfigRow, Key, LaneRow, Mutation, Row};
use crate::remembered::Remembered;
use crate::reply::Reply;
use crate::rules::{Rules, Sound};
use crate::session::Session;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Everything the cluster has agreed on, in memory.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) clock: ClockRow,
    pub(crate) interfaces: BTreeMap<InterfaceId, Interface>,
    pub(crate) names: BTreeMap<Arc<str>, InterfaceId>,
    pub(crate) totals: Totals,
    pub(crate) mutations: Vec<Mutation>,
    /// Interfaces whose counters, slots or destinations changed since the mutations were taken.
    pub(crate) dirty: Vec<InterfaceId>,
}

impl Default for ClockRow {
    fn default() -> Self {
        Self {
            cluster_time: ClusterTime(0),
            wall_time: WallTime(0),
            position: RunPosition::default(),
        }
    }
}

impl State {
    /// Applies one entry: one reply per command, in order; effects are appended to `effects`.
    ///
    /// `index` is the entry's place in the log.
    pub fn apply(&mut self, index: u64, entry: Entry, effects: &mut Vec<Effect>) -> Vec<Reply> {
        self.apply_by::<Sound>(index, entry, effects)
    }

    /// [`State::apply`] by other rules: for simulations that break one to see whether they notice.
    pub fn apply_by<R: Rules>(
        &mut self,
        index: u64,
        entry: Entry,
        effects: &mut Vec<Effect>,
    ) -> Vec<Reply> {
        let follows = self.step::<R>(&entry);
        let mut replies = Vec::with_capacity(entry.commands.len());
        for (n, command) in (0u32..).zip(entry.commands) {
            let mut context = Context::<R>::new(self, effects, index, n, follows);
            replies.push(context.run(command));
        }
        replies
    }

    /// Moves time and run. Returns whether the entry's ingests may be executed: see [`RunPosition`].
    fn step<R: Rules>(&mut self, entry: &Entry) -> bool {
        self.clock.cluster_time = R::time(self.clock.cluster_time, entry.cluster_time);
        self.clock.wall_time = self.clock.wall_time.max(entry.wall_time);
        let new = entry.position;
        let last = &mut self.clock.position;
        if (new.term, new.run) > (last.term, last.run) {
            // Voids the lower ones even when its own first proposals were lost.
            *last = RunPosition { n: 0, ..new };
        }
        let follows = R::follows(*last, new);
        if follows {
            *last = new;
        }
        follows
    }

    /// The state's time.
    #[must_use]
    pub const fn cluster_time(&self) -> ClusterTime {
        self.clock.cluster_time
    }

    /// The latest wall clock of any leader, for people.
    #[must_use]
    pub const fn wall_time(&self) -> WallTime {
        self.clock.wall_time
    }

    /// The last proposal whose ingests were executed; n = 0 when the first of its run was lost.
    #[must_use]
    pub const fn position(&self) -> RunPosition {
        self.clock.position
    }

    /// An interface.
    #[must_use]
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(&id)
    }

    /// The interface called `name`.
    #[must_use]
    pub fn interface_named(&self, name: &str) -> Option<&Interface> {
        self.interfaces.get(self.names.get(name)?)
    }

    /// Every interface, by id.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values()
    }

    /// Interfaces by name, from the first one after `after`.
    pub fn interfaces_by_name(&self, after: &str) -> impl Iterator<Item = &Interface> {
        use std::ops::Bound::{Excluded, Unbounded};
        let names = self.names.range::<str, _>((Excluded(after), Unbounded));
        names.filter_map(|(_, id)| self.interfaces.get(id))
    }

    /// What a [`ForgetFinished`](crate::ForgetFinished) of an interface would name at this time, when there is something
    /// that it would forget: read from memory alone.
    #[must_use]
    pub fn forgettable(&self, interface: &Interface, now: ClusterTime) -> Option<Sequence> {
        let last = interface.finished_through();
        let through = interface.hours.over_through(RECORD_HOURS, now, last);
        let share = self.totals.share(self.interfaces.len());
        let forgets = through > interface.forgotten_through || interface.knows_too_much(share, now);
        forgets.then_some(through)
    }

    /// Every effect that a new leader has to act on.
    #[must_use]
    pub fn resume(&self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for interface in self.interfaces.values() {
            effects.push(Effect::Interface {
                interface: interface.id,
            });
            if interface.set_aside().is_none() {
                interface.resume(&mut effects);
            }
        }
        effects
    }

    /// The interfaces in which this replica found an invariant that does not hold when it loaded its state, and which
    /// the log does not call quarantined yet, with the invariant's name.
    pub fn suspects(&self) -> impl Iterator<Item = (&Interface, &'static str)> {
        let interfaces = self.interfaces.values();
        interfaces.filter_map(|there| Some((there, there.suspect?)))
    }

    /// What has changed since the last call, to be stored in one batch with the applied index. A row appears at
    /// most once, however many entries changed it.
    pub fn take_mutations(&mut self) -> Vec<Mutation> {
        let mut mutations = std::mem::take(&mut self.mutations);
        mutations.push(Mutation::Put(Key::Clock, Row::Clock(self.clock)));
        for id in std::mem::take(&mut self.dirty) {
            if let Some(interface) = self.interfaces.get_mut(&id) {
                interface.take_mutations(&mut mutations);
            }
        }
        mutations
    }

    /// Rebuilds the state from its stored rows, which come in key order.
    ///
    /// # Errors
    /// When the rows are not what [`State::take_mutations`] wrote: the store is damaged.
    pub fn load(rows: impl Iterator<Item = (Key, Row)>) -> Result<Self, LoadError> {
        crate::load::load(rows)
    }
}

impl Interface {
    pub(crate) fn new(id: InterfaceId, row: ConfigRow) -> Self {
        let destinations = vec![crate::Destination::default(); row.config.destinations.len()];
        Self {
            id,
            name: row.name.into(),
            incarnation: row.incarnation,
            config_version: row.config_version,
            config: Arc::new(row.config),
            last_sequence: Sequence::ZERO,
            watermark: Sequence::ZERO,
            failed: 0,
            filtered: 0,
            forgotten_through: Sequence::ZERO,
            destinations,
            dead_letters: BTreeMap::new(),
            dead_letter_bytes: 0,
            producers: BTreeMap::new(),
            slots: VecDeque::new(),
            remembered: Remembered::default(),
            known: BTreeMap::new(),
            sessions: Vec::new(),
            hours: Hours::default(),
            bodies: BTreeMap::new(),
            redrives: 0,
            quarantine: None,
            suspect: None,
            dirty: Dirty::default(),
        }
    }

    /// Every effect of what this interface has to do.
    pub(crate) fn resume(&self, effects: &mut Vec<Effect>) {
        let interface = self.id;
        let unreleased = self
            .slots()
            .skip(usize::try_from(self.backlog()).unwrap_or(usize::MAX));
        let pending = unreleased.filter(|(_, slot)| !slot.status.is_final());
        effects.extend(pending.map(|(sequence, _)| Effect::Work {
            interface,
            sequence,
        }));
        for number in 0..self.destinations.len() {
            let destination = destination_number(number);
            effects.push(Effect::Destination {
                interface,
                destination,
            });
        }
    }

    fn lane_row(&self) -> LaneRow {
        LaneRow {
            last_sequence: self.last_sequence,
            watermark: self.watermark,
            failed: self.failed,
            filtered: self.filtered,
            known_from: self.known_from(),
            forgotten_through: self.forgotten_through,
            redrives: self.redrives,
            sessions: self.sessions.iter().map(Session::row).collect(),
        }
    }

    fn take_mutations(&mut self, mutations: &mut Vec<Mutation>) {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.config {
            let row = ConfigRow {
                name: self.name.to_string(),
                incarnation: self.incarnation,
                config_version: self.config_version,
                config: (*self.config).clone(),
            };
            mutations.push(Mutation::Put(Key::Config(self.id), Row::Config(row)));
        }
        mutations.push(Mutation::Put(
            Key::Lane(self.id),
            Row::Lane(self.lane_row()),
        ));
        if dirty.hours {
            let row = Row::Hours(self.hours.to_vec());
            mutations.push(Mutation::Put(Key::Hours(self.id), row));
        }
        for (number, destination) in self.destinations.iter().enumerate() {
            if dirty.destinations & (1 << number) != 0 {
                let key = Key::Destination(self.id, destination_number(number));
                mutations.push(Mutation::Put(key, Row::Destination(destination.clone())));
            }
        }
        for sequence in dirty.slots {
            // Those finished in the meantime have left the ring, and a record in their place.
            let id = self.id;
            if let Some(slot) = self.slot_mut(sequence) {
                slot.dirty = false;
                mutations.push(Mutation::Put(
                    Key::Slot(id, sequence),
                    Row::Slot(slot.clone()),
                ));
            }
        }
    }
}

impl Key {
    /// The interface a row belongs to.
    #[must_use]
    pub const fn interface(&self) -> Option<InterfaceId> {
        match self {
            Self::Clock => None,
            Self::Config(id)
            | Self::Quarantine(id)
            | Self::Lane(id)
            | Self::Hours(id)
            | Self::Destination(id, _)
            | Self::Producer(id, _)
            | Self::DeadLetter(id, _)
            | Self::Slot(id, _)
            | Self::Unheard(id, _)
            | Self::Payload(id, _)
            | Self::Headers(id, _, _)
            | Self::Record(id, _)
            | Self::Event(id, _, _, _) => Some(*id),
        }
    }
}

/// The number of the destination at `index`, of which there are at most 16.
pub(crate) fn destination_number(index: usize) -> DestinationNumber {
    DestinationNumber(u8::try_from(index).expect("an interface has at most 16 destinations"))
}
