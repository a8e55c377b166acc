//! What the tests of the state share: a log of pseudo-random commands, and the replica in memory that applied it.

use bytes::Bytes;
use futures_util::stream;
use openraft::storage::RaftStateMachine;
use openraft::vote::RaftLeaderId;
use ordo_core::{
    Answer, AnswerKind, ClusterTime, Command, ConsumerId, CreateInterface, DestinationNumber,
    Digest, DiscardDeadLetter, Entry, ForgetFinished, Grant, Header, Ingest, Interface,
    InterfaceConfig, InterfaceId, Loss, MessageId, Outcome, ProducerSession, RedriveDeadLetter,
    Report, RunPosition, Sequence, StageConfig, State, Status, WallTime, invariants,
};
use ordo_storage::log::{Log, LogOptions, LogThread};
use ordo_storage::{
    EntryPayload, FileDisk, LeaderId, LogId, Machine, MachineHandle, MachineLoop, MachineOptions,
    Member, Membership, MemoryRows, MemoryState, Observer, RaftLog, StateStore, StoreError,
    StoreOptions,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use uuid::Uuid;

/// SplitMix64: enough for tests, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, length: u64) -> Bytes {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

pub const LANES: u64 = 4;

pub fn lane(n: u64) -> InterfaceId {
    InterfaceId(Uuid::from_u128(u128::from(n) << 64 | 7))
}

pub fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(1, 1), index)
}

pub fn member(n: u64) -> Member {
    Member {
        peer: format!("127.0.0.1:{n}"),
        ..Member::default()
    }
}

/// A log whose entries follow from a seed and the state they are applied to, and the replica that applied them.
///
/// Entry 1 is a membership, entry 2 makes the interfaces, every tenth after that is blank.
pub struct Script {
    seed: u64,
    pub state: State,
    pub rows: MemoryRows,
    pub index: u64,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            state: State::default(),
            rows: MemoryRows::default(),
            index: 0,
        }
    }

    /// The next entry, applied here.
    pub fn next(&mut self) -> ordo_storage::Entry {
        self.index += 1;
        let payload = match self.index {
            1 => EntryPayload::Membership(self.membership()),
            index if index > 2 && index.is_multiple_of(10) => EntryPayload::Blank,
            _ => {
                let encoded = ordo_wire::entry::encode(&self.entry());
                // The replica applies what a log would give it.
                let entry = ordo_wire::entry::decode(encoded.clone()).unwrap();
                self.state.apply(self.index, entry, &mut Vec::new());
                EntryPayload::Normal(encoded.into())
            }
        };
        self.rows.apply(&self.state.take_mutations());
        ordo_storage::Entry {
            log_id: log_id(self.index),
            payload,
        }
    }

    pub fn take(&mut self, count: usize) -> Vec<ordo_storage::Entry> {
        (0..count).map(|_| self.next()).collect()
    }

    /// The replica as it is after `index`, from the beginning.
    pub fn at(seed: u64, index: u64) -> Self {
        let mut script = Self::new(seed);
        while script.index < index {
            script.next();
        }
        invariants::check(&script.state).unwrap();
        script
    }

    fn membership(&self) -> Membership {
        let nodes = BTreeMap::from([(1, member(1)), (2, member(2))]);
        Membership::new(vec![BTreeSet::from([1])], nodes).unwrap()
    }

    fn entry(&self) -> Entry {
        let mut random = Random(self.seed ^ self.index.wrapping_mul(0xd134_2543_de82_ef95));
        let commands = match self.index {
            2 => (0..LANES).map(create).collect(),
            _ => (0..1 + random.below(12))
                .flat_map(|_| self.command(&mut random))
                .collect(),
        };
        // Entries without commands take no number of the run.
        let n = self.state.position().n + 1;
        Entry {
            cluster_time: ClusterTime(self.index * 100),
            wall_time: WallTime(1_000_000 + self.index * 100),
            position: RunPosition { term: 1, run: 1, n },
            commands,
        }
    }

    fn command(&self, random: &mut Random) -> Option<Command> {
        let id = lane(random.below(LANES));
        let interface = self.state.interface(id)?;
        match random.below(24) {
            0..8 => Some(self.ingest(random, id)),
            8..15 => report(random, interface),
            15..20 => self.answer(random, interface),
            20 => loss(random, interface),
            21 => self.resolve(random, interface),
            _ => Some(Command::ForgetFinished(ForgetFinished {
                interface: id,
                through: Sequence(
                    interface
                        .finished_through()
                        .0
                        .saturating_sub(random.below(40)),
                ),
            })),
        }
    }

    fn ingest(&self, random: &mut Random, interface: InterfaceId) -> Command {
        // Sometimes an id that was there, with the same or with another payload.
        let number = match random.below(10) {
            0 => random.below(self.index * 4),
            _ => self.index << 16 | random.below(1 << 16),
        };
        let length = match random.below(20) {
            0 => 20_000,
            _ => random.below(700),
        };
        let payload = random.bytes(length);
        let header = |n: u64| Header {
            name: format!("h{n}"),
            value: format!("v{}", random.below(100)),
        };
        Command::Ingest(Ingest {
            interface,
            message_id: MessageId(Uuid::from_u128(u128::from(number))),
            digest: Digest([payload.first().copied().unwrap_or_default(); 16]),
            headers: (0..number % 3).map(header).collect(),
            numbered: number
                .is_multiple_of(7)
                .then(|| (format!("p{}", number % 2), number)),
            session: NonZeroU64::new(random.below(4)).map(|session| {
                let heard = random.below(2) * self.index;
                (ProducerSession(session), Sequence(heard))
            }),
            payload,
        })
    }

    fn answer(&self, random: &mut Random, interface: &Interface) -> Option<Command> {
        let destination = DestinationNumber(0);
        let there = interface.destination(destination)?;
        if there.holder.is_none() || random.below(20) == 0 {
            let consumer = ConsumerId(Uuid::from_u128(u128::from(random.below(3))));
            return Some(Command::Grant(Grant {
                interface: interface.id,
                destination,
                consumer,
                name: "consumer".to_owned(),
                position: None,
            }));
        }
        let waiting = interface.watermark.0 - there.checkpoint.0;
        let head = there.checkpoint.next();
        let (sequence, kind) = match random.below(10) {
            0 => (
                head,
                AnswerKind::Retry {
                    after_ms: 5,
                    reason: "busy".to_owned(),
                },
            ),
            1 => (
                head,
                AnswerKind::Reject {
                    reason: "no".to_owned(),
                },
            ),
            2 => (
                head,
                AnswerKind::Unavailable {
                    after_ms: 5,
                    sent: true,
                    reason: "down".to_owned(),
                },
            ),
            _ => (
                Sequence(there.checkpoint.0 + random.below(waiting + 1)),
                AnswerKind::Ack,
            ),
        };
        Some(Command::Answer(Answer {
            interface: interface.id,
            destination,
            epoch: there.epoch,
            sequence,
            kind,
        }))
    }

    fn resolve(&self, random: &mut Random, interface: &Interface) -> Option<Command> {
        let at = random.below(interface.dead_letters.len().max(1) as u64);
        let (key, _) = interface.dead_letters.iter().nth(at as usize)?;
        let (interface, key) = (interface.id, *key);
        Some(match random.below(3) {
            0 => Command::DiscardDeadLetter(DiscardDeadLetter { interface, key }),
            _ => Command::RedriveDeadLetter(RedriveDeadLetter {
                interface,
                key,
                in_place_only: false,
            }),
        })
    }
}

/// Interfaces with 0, 1, 2 and 3 stages, all but the first forgetful.
fn create(n: u64) -> Command {
    let mut config = InterfaceConfig {
        stages: (0..n)
            .map(|stage| StageConfig::named(&format!("s{stage}")))
            .collect(),
        ..InterfaceConfig::default()
    };
    if n > 0 {
        config.dedup_messages = 10;
    }
    config.validate().unwrap();
    Command::CreateInterface(CreateInterface {
        interface: lane(n),
        name: format!("lane-{n}"),
        config,
    })
}

fn report(random: &mut Random, interface: &Interface) -> Option<Command> {
    let pending: Vec<_> = interface
        .slots()
        .filter(|(_, slot)| slot.status == Status::Pending)
        .take(20)
        .collect();
    let (sequence, slot) = pending.get(random.below(pending.len().max(1) as u64) as usize)?;
    let outcome = match random.below(12) {
        0 => Outcome::Retry {
            reason: "later".to_owned(),
            jitter: random.below(60_000) as u16,
        },
        1 => Outcome::Reject {
            reason: "bad".to_owned(),
        },
        2 => Outcome::Filter {
            reason: "unwanted".to_owned(),
        },
        n => {
            let length = random.below(900);
            Outcome::Complete {
                payload: (n > 8).then(|| random.bytes(length)),
                headers: match n {
                    6.. => vec![Header {
                        name: "h1".to_owned(),
                        value: format!("s{}", slot.stage),
                    }],
                    _ => Vec::new(),
                },
                destinations: Vec::new(),
            }
        }
    };
    Some(Command::Report(Report {
        interface: interface.id,
        sequence: *sequence,
        stage: slot.stage,
        turn: slot.turn,
        outcome,
    }))
}

fn loss(random: &mut Random, interface: &Interface) -> Option<Command> {
    let (sequence, slot) = interface
        .slots()
        .filter(|(_, slot)| slot.status == Status::Pending)
        .nth(random.below(3) as usize)?;
    Some(Command::Loss(Loss {
        interface: interface.id,
        sequence,
        stage: slot.stage,
        turn: slot.turn,
        reason: "gone".to_owned(),
    }))
}

/// A machine with its thread, over a store in a folder or in memory.
pub struct Running<O: Observer> {
    pub machine: Machine<O::Event>,
    pub handle: MachineHandle<O::Event>,
    pub store: StateStore,
    thread: Option<JoinHandle<()>>,
}

pub fn options() -> MachineOptions {
    MachineOptions {
        lump_entries_max: 7,
        check_invariants: true,
        ..MachineOptions::default()
    }
}

impl Running<()> {
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::over(StateStore::open(folder, StoreOptions::default())?, ())
    }

    pub fn in_memory(memory: &MemoryState, folder: &Path) -> Self {
        let store = StateStore::open_in_memory(memory.clone(), folder, StoreOptions::default());
        Self::over(store.unwrap(), ()).unwrap()
    }
}

impl<O: Observer> Running<O> {
    pub fn over(store: StateStore, observer: O) -> Result<Self, StoreError> {
        let (machine, machine_loop) = Machine::new(store.clone(), observer, options())?;
        let handle = machine.handle();
        let thread = Some(MachineLoop::spawn(machine_loop).unwrap());
        Ok(Self {
            machine,
            handle,
            store,
            thread,
        })
    }

    pub async fn apply(&mut self, entries: Vec<ordo_storage::Entry>) -> Result<(), io::Error> {
        let entries = entries.into_iter().map(|entry| Ok((entry, None)));
        self.machine.apply(stream::iter(entries)).await
    }

    pub async fn hash(&self) -> u128 {
        self.handle.state_hash().await.unwrap().hash
    }

    /// Lets go of it and waits until the thread has, too.
    pub fn leave(self) {
        let Self {
            machine,
            handle,
            store,
            thread,
        } = self;
        drop((machine, handle, store));
        thread.unwrap().join().unwrap();
    }

    /// Ends it as a clean shutdown does.
    pub async fn stop(mut self) {
        self.handle.stop().await.unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Fails where the replica and the store differ, naming where they are.
pub async fn assert_same<O: Observer>(running: &Running<O>, script: &Script) {
    let hash = running.handle.state_hash().await.unwrap();
    assert_eq!(hash.index, script.index);
    assert_eq!(
        hash.hash,
        script.rows.hash(),
        "the replicas differ at {}",
        script.index
    );
}

/// The log in a node's folder, and its thread.
pub fn open_log(folder: &Path) -> (RaftLog, LogThread) {
    let disk = Arc::new(FileDisk::open(folder.join("log")).unwrap());
    let options = LogOptions {
        segment_bytes: 1 << 20,
        ..LogOptions::default()
    };
    let (log, writer) = Log::open(disk, options).unwrap();
    let thread = writer.spawn().unwrap();
    (RaftLog::open(log).unwrap(), thread)
}
