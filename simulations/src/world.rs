//! One run: hosts, faults and phases, from one seed.

use crate::faults::{Fault, Mix, Way, Who};
use crate::node;
use crate::operator::{Job, Operator};
use crate::place::Place;
use crate::points::Down;
use crate::rules;
use crate::run::{Notes, Violation};
use crate::shape::Shape;
use crate::watch::{Said, Watch};
use crate::wire::{PEER, PUBLIC};
use crate::workload::Workload;
use openraft::async_runtime::WatchReceiver;
use ordo_node::config::{PeerConfig, RaftTiming};
use ordo_node::proposer::Standing;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use turmoil::Sim;

/// How long simulated time moves at once.
const TICK_MS: u64 = 5;
/// When the first fault may come: the cluster has begun by then.
const FAULTS_FROM_MS: u64 = 2_500;
/// When all faults end.
const HEAL_AT_MS: u64 = 40_000;
/// How long everything may take to be well again.
const WELL_WITHIN_MS: u64 = 30_000;
/// How long everything may take to end, after that.
const DRAINED_WITHIN_MS: u64 = 1_200_000;
/// How often consensus is looked at.
const LOOK_MS: u64 = 25;
/// How long a message takes between two hosts, at least.
const LATENCY_MIN: Duration = Duration::from_millis(1);

/// How a run ended.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// What happened, how often.
    pub counts: BTreeMap<String, u64>,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// From the end of all faults until everybody agreed, in simulated milliseconds.
    pub healed_ms: Option<u64>,
    /// One number for the whole trace.
    pub trace: String,
    /// The last lines of the trace, where something did not hold.
    pub tail: Vec<String>,
}

impl Outcome {
    /// Of a run whose process died: its panic could not be caught.
    #[must_use]
    pub fn died(seed: u64, said: &str) -> Self {
        let violation = Violation {
            check: "nothing_panics".into(),
            at_ms: 0,
            what: said.lines().take(2).collect::<Vec<_>>().join(": "),
        };
        Self {
            seed,
            violations: vec![violation],
            counts: BTreeMap::new(),
            simulated_ms: 0,
            healed_ms: None,
            trace: String::new(),
            tail: Vec::new(),
        }
    }
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes panics of any task: tokio would keep them to itself.
pub fn watch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{panic}\n{}", std::backtrace::Backtrace::capture());
        panics.push(panic.to_string());
    }));
}

fn note_panics(notes: &Notes) {
    let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    for panic in panics {
        notes.violation("nothing_panics", panic);
    }
}

enum Action {
    Up(String),
    Uncut(u64),
    Links(Vec<(String, String)>),
    Lossless,
    DiskQuick(usize),
    ProposalsRight(usize),
}

struct World<'a> {
    sim: Sim<'a>,
    notes: Notes,
    watch: Watch,
    rng: StdRng,
    places: Vec<Arc<Place>>,
    /// Places of nodes that are not in the cluster yet.
    spare: BTreeSet<usize>,
    /// Machines that were taken away.
    gone: BTreeSet<usize>,
    workload: Workload,
    operator: Operator,
    actions: BTreeMap<(u64, u64), Action>,
    numbered: u64,
    /// Pairs (from, to) that each cut covers.
    cuts: BTreeMap<u64, Vec<(String, String)>>,
    cut_now: BTreeSet<(String, String)>,
    /// Hosts whose software does not run.
    down: BTreeSet<String>,
    /// Hosts without power: nobody hears that they went.
    dark: BTreeSet<String>,
    /// How long a message may take between two hosts, while nothing makes it slower.
    latency_max: Duration,
    /// Where the history goes.
    history: Option<PathBuf>,
}

/// What to show of a run.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// Prints the trace as it comes.
    pub trace: bool,
    /// Writes the history there.
    pub history: Option<PathBuf>,
}

/// Runs `seed`, with so many interfaces where a number is given.
///
/// # Panics
/// When the temporary folder can't be made.
#[must_use]
pub fn run(seed: u64, interfaces: Option<u32>, show: &Show) -> Outcome {
    let notes = Notes::new(show.trace);
    // In memory where the machine has such a folder: snapshots are files.
    let shm = std::path::Path::new("/dev/shm");
    let root = match shm.is_dir() {
        true => tempfile::tempdir_in(shm),
        false => tempfile::tempdir(),
    };
    let root = root.expect("a temporary folder can be made");
    let mut world = World::new(seed, interfaces, root.path(), notes.clone());
    world.history = show.history.clone();
    // A panic in a host's own task comes through to here.
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    let simulated_ms = world.now_ms();
    let healed_ms = lived.unwrap_or_else(|_| {
        note_panics(&notes);
        None
    });
    drop(world);
    let violations = notes.violations();
    Outcome {
        seed,
        tail: match violations.is_empty() {
            true => Vec::new(),
            false => notes.last_lines(60),
        },
        violations,
        counts: notes.counts(),
        simulated_ms,
        healed_ms,
        trace: format!("{:032x}", notes.trace_hash()),
    }
}

fn timing(rng: &mut StdRng) -> RaftTiming {
    let election_ms_min = rng.random_range(300..700);
    RaftTiming {
        heartbeat_ms: rng.random_range(50..150),
        election_ms_min,
        election_ms_max: election_ms_min + rng.random_range(100..500),
        snapshot_entries: rng.random_range(20..400),
        log_bytes: 512 << 20,
        keep_entries: rng.random_range(0..30),
    }
}

impl<'a> World<'a> {
    fn new(seed: u64, interfaces: Option<u32>, root: &std::path::Path, notes: Notes) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let members = if rng.random_range(0..4) == 0 { 5 } else { 3 };
        let spares = 2;
        let peers: Vec<PeerConfig> = (1..=members + spares)
            .map(|node_id| PeerConfig {
                node_id,
                peer: format!("n{node_id}:{PEER}"),
                public: format!("n{node_id}:{PUBLIC}"),
            })
            .collect();
        let mut builder = turmoil::Builder::new();
        let latency_max = Duration::from_millis(rng.random_range(1..20));
        builder
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_millis(crate::place::WALL_START_MS))
            .simulation_duration(Duration::from_secs(3_600))
            .tick_duration(Duration::from_millis(TICK_MS))
            .tcp_capacity(65_536)
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(latency_max)
            .enable_random_order();
        let mut sim = builder.build();
        let (watch, timing) = (Watch::new(notes.clone()), timing(&mut rng));
        let mut places = Vec::new();
        for node_id in 1..=members + spares {
            // A spare's own list has itself in it, as an operator would write it.
            let known = peers
                .iter()
                .filter(|peer| peer.node_id <= members || peer.node_id == node_id);
            let place = Place::new(
                node_id,
                root,
                timing.clone(),
                known.cloned().collect(),
                rng.random(),
                notes.clone(),
            );
            let (on, watched) = (Arc::clone(&place), watch.clone());
            sim.host(place.name.as_str(), move || {
                node::run(Arc::clone(&on), watched.clone())
            });
            places.push(place);
        }
        let names: Vec<String> = places[..members as usize]
            .iter()
            .map(|place| place.name.clone())
            .collect();
        let operator = Operator::new(&names, rng.random(), notes.clone());
        let op = operator.clone();
        sim.host("operator", move || op.clone().run());
        let addresses: Vec<String> = names
            .iter()
            .map(|name| format!("{name}:{PUBLIC}"))
            .collect();
        let shape = Shape::draw(&mut rng, interfaces);
        notes.line(format_args!("{members} members, {timing:?}, {shape:?}"));
        let workload = Workload::begin(&mut sim, &addresses, shape, rng.random(), &notes);
        let spare = (members as usize..places.len()).collect();
        Self {
            sim,
            notes,
            watch,
            rng,
            places,
            spare,
            gone: BTreeSet::new(),
            workload,
            operator,
            actions: BTreeMap::new(),
            numbered: 0,
            cuts: BTreeMap::new(),
            cut_now: BTreeSet::new(),
            down: BTreeSet::new(),
            dark: BTreeSet::new(),
            latency_max,
            history: None,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// All phases. Answers how long the cluster took to be well.
    fn live(&mut self) -> Option<u64> {
        self.operator.send(Job::Init);
        let mix = Mix::draw(&mut self.rng);
        let mut next_fault_ms = FAULTS_FROM_MS + self.rng.random_range(0..2_000);
        while self.now_ms() < HEAL_AT_MS {
            if self.now_ms() >= next_fault_ms {
                let fault = mix.next(&mut self.rng);
                self.strike(fault);
                next_fault_ms = self.now_ms() + self.rng.random_range(0..2 * mix.every_ms);
            }
            if !self.step() {
                return None;
            }
        }
        self.heal();
        let healed_at = self.now_ms();
        let mut well_at = None;
        let healed_ms = loop {
            if self.is_well() {
                // What the operator has begun is not the cluster's to end.
                let well_at = *well_at.get_or_insert(self.now_ms());
                if self.operator.is_done() {
                    break well_at - healed_at;
                }
            }
            if self.operator.is_idle() {
                self.operator.try_again();
            }
            if self.now_ms() > healed_at + WELL_WITHIN_MS {
                self.notes.violation("everything_heals", self.ailing());
                return None;
            }
            if !self.step() {
                return None;
            }
        };
        self.notes.line(format_args!("well after {healed_ms} ms"));
        self.workload.wind_down();
        let begun = self.now_ms();
        while !self.workload.is_done() {
            if self.now_ms() > begun + DRAINED_WITHIN_MS {
                self.notes.violation("everything_ends", self.ailing());
                break;
            }
            if !self.step() {
                return None;
            }
        }
        // What was finished last may still be on its way to the followers.
        let begun = self.now_ms();
        while !self.is_well() {
            if self.now_ms() > begun + WELL_WITHIN_MS {
                self.notes.violation("everything_heals", self.ailing());
                break;
            }
            if !self.step() {
                return None;
            }
        }
        (0..rules::fenced()).for_each(|_| self.notes.count("old epochs refused"));
        self.workload.judge(&self.notes, self.history.as_deref());
        Some(healed_ms)
    }

    /// One tick. False when the run is over, because a promise was broken.
    fn step(&mut self) -> bool {
        let now = self.now_ms();
        self.notes.set_now(now * 1_000);
        while let Some(entry) = self.actions.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let action = entry.remove();
            self.act(action);
        }
        if let Err(error) = self.sim.step() {
            self.notes.violation("hosts_run", error);
        }
        self.look_at_nodes();
        if now.is_multiple_of(LOOK_MS) {
            for place in &self.places {
                if let Some(said) = Said::by(place) {
                    self.watch.look(place, said);
                }
            }
        }
        note_panics(&self.notes);
        !self.notes.is_broken()
    }

    fn later(&mut self, after_ms: u64, action: Action) {
        self.numbered += 1;
        let at = self.now_ms() + after_ms;
        self.actions.insert((at, self.numbered), action);
    }

    /// Takes nodes down that died of a trap, and brings those back that stopped by themselves.
    fn look_at_nodes(&mut self) {
        for place in self.places.clone() {
            if self.down.contains(&place.name) {
                continue;
            }
            if let Some(trap) = place.sprung() {
                self.take_down(&place, trap.down, trap.down_ms);
            } else if place.why_stopped().is_some() {
                let ms = self.rng.random_range(500..4_000);
                self.take_down(&place, Down::PowerLost, ms);
            }
        }
    }

    /// False when it was down.
    fn take_down(&mut self, place: &Arc<Place>, down: Down, ms: u64) -> bool {
        if !self.down.insert(place.name.clone()) {
            return false;
        }
        if self.operator.is_changing() {
            self.notes.count("crashes inside membership changes");
        }
        self.notes
            .line(format_args!("{} goes down: {down:?}, {ms} ms", place.name));
        if down == Down::PowerLost {
            self.dark.insert(place.name.clone());
            self.connect();
        }
        place.crash(down);
        self.sim.crash(place.name.as_str());
        self.later(ms, Action::Up(place.name.clone()));
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Up(name) => self.bring_up(&name),
            Action::Uncut(cut) => {
                self.cuts.remove(&cut);
                self.connect();
            }
            Action::Links(pairs) => {
                for (a, b) in pairs {
                    let (a, b) = (a.as_str(), b.as_str());
                    self.sim.set_link_latency(a, b, LATENCY_MIN);
                    self.sim
                        .set_link_max_message_latency(a, b, self.latency_max);
                }
            }
            Action::Lossless => self.sim.set_fail_rate(0.0),
            Action::ProposalsRight(at) => self.places[at].set_wrong_proposals(false),
            Action::DiskQuick(at) => self.places[at].set_disk_busy(2),
        }
    }

    fn bring_up(&mut self, name: &str) {
        if !self.down.remove(name) {
            return;
        }
        self.notes.line(format_args!("{name} comes up"));
        if let Some(place) = self.places.iter().find(|place| place.name == name)
            && place.disk_fault().is_some()
        {
            place.heal();
        }
        self.dark.remove(name);
        self.connect();
        self.sim.bounce(name);
    }

    /// Makes the network what the cuts say.
    fn connect(&mut self) {
        let mut wanted: BTreeSet<(String, String)> =
            self.cuts.values().flatten().cloned().collect();
        for dark in &self.dark {
            for other in self.everyone() {
                if other != *dark {
                    wanted.insert((dark.clone(), other.clone()));
                    wanted.insert((other, dark.clone()));
                }
            }
        }
        for (from, to) in wanted.difference(&self.cut_now) {
            self.sim.partition_oneway(from.as_str(), to.as_str());
        }
        for (from, to) in self.cut_now.difference(&wanted) {
            self.sim.repair_oneway(from.as_str(), to.as_str());
        }
        self.cut_now = wanted;
    }

    fn everyone(&self) -> Vec<String> {
        let nodes = self.places.iter().map(|place| place.name.clone());
        let clients = self.workload.all_hosts();
        nodes
            .chain(clients)
            .chain(["operator".to_owned()])
            .collect()
    }

    fn node_names(&self) -> Vec<String> {
        self.places.iter().map(|place| place.name.clone()).collect()
    }

    /// Who leads, as far as it is known.
    fn leader(&self) -> Option<usize> {
        let leaders = self.places.iter().enumerate().filter_map(|(at, place)| {
            let context = place.running()?;
            let metrics = context.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics
                .state
                .is_leader()
                .then_some((metrics.current_term, at))
        });
        leaders.max().map(|(_, at)| at)
    }

    /// The places of nodes that were started as members, and not taken away.
    fn members(&self) -> Vec<usize> {
        let all = 0..self.places.len();
        all.filter(|at| !self.spare.contains(at) && !self.gone.contains(at))
            .collect()
    }

    fn pick(&mut self, who: Who) -> usize {
        let (members, leader) = (self.members(), self.leader());
        let any = members[self.rng.random_range(0..members.len())];
        match (who, leader) {
            (Who::Leader, Some(leader)) => leader,
            (Who::Follower, Some(leader)) if any == leader => {
                let others: Vec<usize> = members.into_iter().filter(|at| *at != leader).collect();
                others[self.rng.random_range(0..others.len())]
            }
            _ => any,
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.notes.line(format_args!("FAULT {fault:?}"));
        self.workload.tell_fault(&fault);
        if self.inflict(fault) {
            self.notes.count(fault.kind());
        }
    }

    /// False when there was nothing to do: a node that is down does not crash, and there may be no spare to add.
    fn inflict(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Crash { who, down, down_ms } => {
                let at = self.pick(who);
                let place = Arc::clone(&self.places[at]);
                return self.take_down(&place, down, down_ms);
            }
            Fault::Trap { who, trap } => {
                let at = self.pick(who);
                self.places[at].set_trap(trap);
            }
            Fault::Blackout { down_ms } => {
                for at in self.members() {
                    let place = Arc::clone(&self.places[at]);
                    let ms = down_ms + self.rng.random_range(0..1_500);
                    self.take_down(&place, Down::PowerLost, ms);
                }
            }
            Fault::Cut {
                who,
                way,
                clients,
                ms,
            } => self.cut_node(who, way, clients, ms),
            Fault::CutPair { ms } => {
                let (a, b) = (self.pick(Who::Any), self.pick(Who::Any));
                if a == b {
                    return false;
                }
                let (a, b) = (self.places[a].name.clone(), self.places[b].name.clone());
                self.cut(vec![(a.clone(), b.clone()), (b, a)], ms);
            }
            Fault::Loss { permille, ms } => {
                self.sim.set_fail_rate(f64::from(permille) / 1_000.0);
                self.later(ms, Action::Lossless);
            }
            Fault::Slow {
                who,
                latency_ms,
                ms,
            } => {
                let at = self.pick(who);
                let name = self.places[at].name.clone();
                let others = self.everyone().into_iter().filter(|other| *other != name);
                let pairs: Vec<_> = others.map(|other| (name.clone(), other)).collect();
                for (a, b) in &pairs {
                    let latency = Duration::from_millis(latency_ms);
                    self.sim.set_link_latency(a.as_str(), b.as_str(), latency);
                }
                self.later(ms, Action::Links(pairs));
            }
            Fault::DiskBusy { who, busy_ms, ms } => {
                let at = self.pick(who);
                self.places[at].set_disk_busy(busy_ms);
                self.later(ms, Action::DiskQuick(at));
            }
            Fault::Disk { who, fault } => {
                let at = self.pick(who);
                if self.places[at].running().is_none() {
                    return false;
                }
                self.places[at].break_disk(fault);
            }
            Fault::Clock {
                who,
                offset_ms,
                drift,
            } => {
                let at = self.pick(who);
                self.places[at].set_clock(offset_ms, drift);
            }
            Fault::Proposals { ms } => {
                let at = self.pick(Who::Leader);
                self.places[at].set_wrong_proposals(true);
                self.later(ms, Action::ProposalsRight(at));
            }
            Fault::Transfer => self.operator.send(Job::Transfer),
            Fault::Snapshot { who } => {
                let at = self.pick(who);
                let Some(context) = self.places[at].running() else {
                    return false;
                };
                // A message into consensus' own queue: nothing to wait for.
                let raft = context.raft.clone();
                let asked = async move { drop(raft.trigger().snapshot().await) };
                futures_util::FutureExt::now_or_never(asked);
            }
            Fault::Grow => return self.grow(),
            Fault::Shrink => return self.shrink(),
            Fault::Replace => return self.replace(),
            Fault::ClientCrash { down_ms } => return self.crash_client(down_ms),
            Fault::ClientCut { ms } => {
                let hosts = self.workload.hosts();
                let host = hosts[self.rng.random_range(0..hosts.len())].clone();
                let nodes = self.node_names();
                let pairs = nodes
                    .into_iter()
                    .flat_map(|node| [(node.clone(), host.clone()), (host.clone(), node)]);
                self.cut(pairs.collect(), ms);
            }
        }
        true
    }

    fn cut(&mut self, pairs: Vec<(String, String)>, ms: u64) {
        self.numbered += 1;
        let cut = self.numbered;
        self.cuts.insert(cut, pairs);
        self.connect();
        self.later(ms, Action::Uncut(cut));
    }

    fn cut_node(&mut self, who: Who, way: Way, clients: bool, ms: u64) {
        let at = self.pick(who);
        let name = self.places[at].name.clone();
        let others = match clients {
            true => self.everyone(),
            false => self.node_names(),
        };
        let mut pairs = Vec::new();
        for other in others.into_iter().filter(|other| *other != name) {
            if way != Way::In {
                pairs.push((name.clone(), other.clone()));
            }
            if way != Way::Out {
                pairs.push((other, name.clone()));
            }
        }
        self.cut(pairs, ms);
    }

    fn grow(&mut self) -> bool {
        let spare = self.spare.pop_first();
        if let Some(at) = spare {
            self.operator.send(Job::Join(self.places[at].id));
        }
        spare.is_some()
    }

    /// Takes a voter out, where three are left.
    fn shrink(&mut self) -> bool {
        let members = self.members();
        let may = members.len() > 3 && self.operator.is_done();
        if may {
            let at = members[self.rng.random_range(0..members.len())];
            self.gone.insert(at);
            self.operator.send(Job::Remove(self.places[at].id));
        }
        may
    }

    /// One disk at a time: two of three lost disks are outside of what a quorum can bear.
    fn replace(&mut self) -> bool {
        if !self.operator.is_done() {
            return false;
        }
        let at = self.pick(Who::Any);
        let place = Arc::clone(&self.places[at]);
        if self.down.contains(&place.name) {
            return false;
        }
        let ms = self.rng.random_range(100..3_000);
        self.take_down(&place, Down::PowerLost, ms);
        place.wipe();
        self.watch.wiped(&place);
        self.operator.send(Job::Rejoin(place.id));
        true
    }

    fn crash_client(&mut self, ms: u64) -> bool {
        let hosts = self.workload.hosts();
        let host = hosts[self.rng.random_range(0..hosts.len())].clone();
        let was_up = self.down.insert(host.clone());
        if was_up {
            self.sim.crash(host.as_str());
            self.later(ms, Action::Up(host));
        }
        was_up
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.notes.line("all faults end");
        for place in &self.places {
            place.heal();
            place.set_clock(0, 0);
        }
        self.cuts.clear();
        for action in std::mem::take(&mut self.actions).into_values() {
            self.act(action);
        }
        self.sim.set_fail_rate(0.0);
        self.connect();
        for name in self.down.clone() {
            self.bring_up(&name);
        }
    }

    /// Why the cluster is not well.
    fn ailing(&self) -> String {
        let state = |place: &Arc<Place>| match place.running() {
            None => format!("{} does not run", place.name),
            Some(context) => {
                let metrics = context.raft.metrics();
                let metrics = metrics.borrow_watched();
                format!(
                    "{} {:?} of term {}, {:?}, quorum {}, leader {:?}, applied {:?}, members {:?}",
                    place.name,
                    metrics.state,
                    metrics.current_term,
                    *context.proposer.standing().borrow(),
                    place.has_quorum(),
                    metrics.current_leader,
                    metrics.last_applied.map(|id| id.index),
                    metrics.membership_config.membership().get_joint_config()
                )
            }
        };
        let states: Vec<_> = self.places.iter().map(state).collect();
        format!(
            "operator idle {}; {}",
            self.operator.is_idle(),
            states.join("; ")
        )
    }

    /// Whether there is one leader that serves, everybody follows it, and all have applied the same.
    fn is_well(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let Some(context) = self.places[leader].running() else {
            return false;
        };
        let serves = matches!(*context.proposer.standing().borrow(), Standing::Leading(_));
        if !serves || !self.places[leader].has_quorum() {
            return false;
        }
        let (applied, members) = {
            let metrics = context.raft.metrics();
            let metrics = metrics.borrow_watched();
            let config = metrics.membership_config.membership();
            if config.get_joint_config().len() != 1 {
                return false;
            }
            let voters: BTreeSet<u64> = config.voter_ids().collect();
            (metrics.last_applied, voters)
        };
        let leader_id = self.places[leader].id;
        members.contains(&leader_id)
            && members.iter().all(|id| {
                let place = self.places.iter().find(|place| place.id == *id);
                let context = place.and_then(|place| place.running());
                context.is_some_and(|context| {
                    let metrics = context.raft.metrics();
                    let metrics = metrics.borrow_watched();
                    metrics.current_leader == Some(leader_id) && metrics.last_applied >= applied
                })
            })
    }
}
