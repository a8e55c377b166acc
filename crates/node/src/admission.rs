//! Back-pressure: whether a message may be proposed at all (guarantee 13).
//!
//! Decided here, before proposing, from counters that the loops keep up to date after every lump: never in `apply`,
//! where a refusal could reorder what is behind it. Counts may be too careful for the moment it takes until a reply
//! is handed on, never too generous.

use crate::leader::FixedMap;
use ordo_core::{Interface, InterfaceConfig, InterfaceId};
use ordo_wire::status::Failure;
use ordo_wire::v1::Reason;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Subscriptions of all consumers at once: some 50 MB of memory, and ten times the interfaces of a large cluster.
const SUBSCRIPTIONS_MAX: usize = 100_000;

/// Views of the interfaces that clients use, and the node's own limits.
pub struct Admission {
    views: RwLock<Views>,
    /// Bytes of ingest proposed or waiting, and not yet applied.
    bytes: AtomicU64,
    bytes_max: u64,
    /// Why the node takes nothing more, when memory or disk run out.
    full: Mutex<Option<String>>,
    /// Messages that an interface may hold; near a limit fewer than the one that holds most.
    held_max: AtomicU64,
    subscriptions: AtomicUsize,
}

#[derive(Default)]
struct Views {
    by_name: FixedMap<Arc<str>, Arc<InterfaceView>>,
    by_id: FixedMap<InterfaceId, Arc<InterfaceView>>,
}

/// What has to be known of an interface to take a message.
pub struct InterfaceView {
    /// Its identity.
    pub id: InterfaceId,
    /// Its name.
    pub name: Arc<str>,
    config: RwLock<Arc<InterfaceConfig>>,
    /// Why nothing is taken, while the interface is quarantined.
    set_aside: RwLock<Option<Arc<str>>>,
    last: AtomicU64,
    watermark: AtomicU64,
    finished: AtomicU64,
    /// Messages proposed and not yet answered.
    in_flight: AtomicU64,
    in_flight_bytes: AtomicU64,
}

/// Why messages are refused for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transient {
    /// The reason.
    pub reason: Reason,
    /// For people.
    pub text: String,
    /// When a new try makes sense, in milliseconds.
    pub retry_after_ms: u64,
}

/// Room that was taken for messages; given back when it is dropped.
pub struct Room {
    admission: Arc<Admission>,
    view: Arc<InterfaceView>,
    messages: u64,
    bytes: u64,
}

impl Admission {
    /// With room for so many bytes of ingest on their way.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            views: RwLock::default(),
            bytes: AtomicU64::new(0),
            bytes_max,
            full: Mutex::new(None),
            held_max: AtomicU64::new(u64::MAX),
            subscriptions: AtomicUsize::new(0),
        })
    }

    /// Says that the node is near its memory or disk limit, and which; or that it no longer is.
    pub fn set_full(&self, why: Option<String>) {
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Says how near the node is to its memory or disk limit: how many thousandths are `left` before nothing is taken
    /// any more, or that it is near none. What an interface may hold falls with that, from what the one that holds most
    /// has down to nothing: those that hold most are refused first (guarantee 13).
    pub(crate) fn set_scarce(&self, left: Option<u64>) {
        let held_max = left.map_or(u64::MAX, |left| {
            let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
            let most = views.by_id.values().map(|view| view.held()).max();
            most.unwrap_or(0).saturating_mul(left) / 1_000
        });
        self.held_max.store(held_max, Ordering::Relaxed);
    }

    /// The view of the interface called `name`, if there is one yet.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<InterfaceView>> {
        self.views
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_name
            .get(name)
            .cloned()
    }

    /// The view of an interface, if there is one yet.
    #[must_use]
    pub fn of(&self, id: InterfaceId) -> Option<Arc<InterfaceView>> {
        self.views
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .get(&id)
            .cloned()
    }

    /// Makes the view of an interface. On the machine's thread, so that no later change is missed.
    pub fn learn(&self, interface: &Interface) -> Arc<InterfaceView> {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.by_id.get(&interface.id) {
            return Arc::clone(view);
        }
        let view = Arc::new(InterfaceView {
            id: interface.id,
            name: Arc::clone(&interface.name),
            config: RwLock::new(Arc::clone(&interface.config)),
            set_aside: RwLock::new(interface.set_aside_text().map(Arc::from)),
            last: AtomicU64::new(interface.last_sequence.0),
            watermark: AtomicU64::new(interface.watermark.0),
            finished: AtomicU64::new(interface.finished_through().0),
            in_flight: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
        });
        views
            .by_name
            .insert(Arc::clone(&view.name), Arc::clone(&view));
        views.by_id.insert(view.id, Arc::clone(&view));
        view
    }

    /// An interface changed. On the machine's thread.
    pub(crate) fn update(&self, interface: &Interface) {
        let Some(view) = self.of(interface.id) else {
            return;
        };
        view.last
            .store(interface.last_sequence.0, Ordering::Release);
        view.watermark
            .store(interface.watermark.0, Ordering::Release);
        view.finished
            .store(interface.finished_through().0, Ordering::Release);
        let set_aside = interface.set_aside().is_some();
        if set_aside || view.set_aside().is_some() {
            *view
                .set_aside
                .write()
                .unwrap_or_else(PoisonError::into_inner) =
                interface.set_aside_text().map(Arc::from);
        }
        if !Arc::ptr_eq(&view.config(), &interface.config) {
            *view.config.write().unwrap_or_else(PoisonError::into_inner) =
                Arc::clone(&interface.config);
        }
    }

    /// Forgets every view: another state, or another leader.
    pub(crate) fn clear(&self) {
        *self.views.write().unwrap_or_else(PoisonError::into_inner) = Views::default();
    }

    /// Takes room for as many messages of `bytes` as there is, from the first on. Answers how many that are, and why
    /// not more.
    pub fn take_room(
        self: &Arc<Self>,
        view: &Arc<InterfaceView>,
        config: &InterfaceConfig,
        bytes: &[u64],
    ) -> (Room, usize, Option<Transient>) {
        let mut room = Room {
            admission: Arc::clone(self),
            view: Arc::clone(view),
            messages: 0,
            bytes: 0,
        };
        let wanted = bytes.len() as u64;
        let refusal = if config.paused {
            Some(view.paused())
        } else {
            let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
            let full = full.as_ref().map(|why| node_full(why.clone()));
            full.or_else(|| self.holds_most(view))
        };
        if refusal.is_some() {
            return (room, 0, refusal);
        }
        let before = view.in_flight.fetch_add(wanted, Ordering::AcqRel);
        let (free, why) = view.free(config, before);
        let fits = wanted.min(free);
        view.in_flight.fetch_sub(wanted - fits, Ordering::AcqRel);
        room.messages = fits;
        let mut refusal = (fits < wanted).then_some(why);
        let mut taken = usize::try_from(fits).unwrap_or(usize::MAX);
        let sum: u64 = bytes.iter().take(taken).sum();
        room.bytes = sum;
        let used = self.bytes.fetch_add(sum, Ordering::AcqRel);
        let held = view.in_flight_bytes.fetch_add(sum, Ordering::AcqRel);
        // An interface may hold as much as is still free, so that near the limit those that hold most are refused
        // first. A lone large frame passes where nothing else is on its way.
        if used > 0 && held + sum > self.bytes_max.saturating_sub(used) {
            refusal = Some(node_full(format!(
                "{used} of {} bytes of ingest are on their way",
                self.bytes_max
            )));
            taken = 0;
            drop(std::mem::replace(
                &mut room,
                Room {
                    admission: Arc::clone(self),
                    view: Arc::clone(view),
                    messages: 0,
                    bytes: 0,
                },
            ));
        }
        (room, taken, refusal)
    }

    /// Near the node's limit: why an interface is refused before others.
    fn holds_most(&self, view: &InterfaceView) -> Option<Transient> {
        let (held, held_max) = (view.held(), self.held_max.load(Ordering::Relaxed));
        (held > held_max).then(|| {
            node_full(format!(
                "interface {:?} holds {held} messages that are not delivered; while the node is near its memory or disk \
                 limit, those that hold more than {held_max} are refused first",
                view.name
            ))
        })
    }

    /// Bytes of ingest on their way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl InterfaceView {
    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> Arc<InterfaceConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Messages that some destination is not done with, those on their way included.
    fn held(&self) -> u64 {
        let (last, finished) = (&self.last, &self.finished);
        let undelivered = last.load(Ordering::Acquire);
        let undelivered = undelivered.saturating_sub(finished.load(Ordering::Acquire));
        undelivered + self.in_flight.load(Ordering::Acquire)
    }

    /// Why nothing is taken for now, be it known already, while the interface is quarantined.
    pub(crate) fn set_aside(&self) -> Option<Transient> {
        let set_aside = self.set_aside.read();
        let text = set_aside.unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Transient {
            reason: Reason::Quarantined,
            text: text.to_string(),
            retry_after_ms: 5_000,
        })
    }

    fn paused(&self) -> Transient {
        let text = format!("interface {:?} is paused", self.name);
        Transient {
            reason: Reason::Paused,
            text,
            retry_after_ms: 1_000,
        }
    }

    /// How many messages fit, and what hinders more.
    fn free(&self, config: &InterfaceConfig, in_flight: u64) -> (u64, Transient) {
        let last = self.last.load(Ordering::Acquire);
        let watermark = self.watermark.load(Ordering::Acquire);
        let finished = self.finished.load(Ordering::Acquire);
        let unreleased = last.saturating_sub(watermark) + in_flight;
        let window = u64::from(config.window).saturating_sub(unreleased);
        let released = watermark.saturating_sub(finished);
        if released >= config.backlog {
            let text = format!(
                "the slowest destination of interface {:?} has {released} released messages before it; its backlog \
                 is {}",
                self.name, config.backlog
            );
            return (
                0,
                Transient {
                    reason: Reason::BacklogFull,
                    text,
                    retry_after_ms: 500,
                },
            );
        }
        let text = format!(
            "interface {:?} has {unreleased} unreleased messages; its window is {}",
            self.name, config.window
        );
        (
            window,
            Transient {
                reason: Reason::WindowFull,
                text,
                retry_after_ms: 50,
            },
        )
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.view
            .in_flight
            .fetch_sub(self.messages, Ordering::AcqRel);
        self.view
            .in_flight_bytes
            .fetch_sub(self.bytes, Ordering::AcqRel);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// One stream's part of the subscriptions that a node has room for; given back when it is dropped.
pub(crate) struct SubscriptionRoom {
    admission: Arc<Admission>,
    taken: usize,
}

impl SubscriptionRoom {
    pub(crate) fn new(admission: &Arc<Admission>) -> Self {
        Self {
            admission: Arc::clone(admission),
            taken: 0,
        }
    }

    /// Takes room for one more. A stream may have as many as are still free, so that the others have some left.
    pub(crate) fn take(&mut self) -> Result<(), Failure> {
        let before = self.admission.subscriptions.fetch_add(1, Ordering::AcqRel);
        if self.taken < SUBSCRIPTIONS_MAX.saturating_sub(before) {
            self.taken += 1;
            return Ok(());
        }
        self.admission.subscriptions.fetch_sub(1, Ordering::AcqRel);
        let text = format!(
            "the node has {before} of {SUBSCRIPTIONS_MAX} subscriptions, {} of them on this stream",
            self.taken
        );
        Err(Failure::new(Reason::NodeFull, text))
    }

    /// One is over.
    pub(crate) fn give_back(&mut self) {
        self.taken -= 1;
        self.admission.subscriptions.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for SubscriptionRoom {
    fn drop(&mut self) {
        self.admission
            .subscriptions
            .fetch_sub(self.taken, Ordering::AcqRel);
    }
}

fn node_full(text: String) -> Transient {
    Transient {
        reason: Reason::NodeFull,
        text,
        retry_after_ms: 200,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

    use super::*;
    use ordo_core::{ClusterTime, Command, CreateInterface, Entry, RunPosition, State, WallTime};
    use uuid::Uuid;

    /// Room for one message of as many bytes.
    pub(crate) fn room(admission: &Arc<Admission>, bytes: u64) -> Room {
        let (state, id) = state_with(InterfaceConfig::default());
        let view = admission.learn(state.interface(id).unwrap());
        let (room, taken, _) = admission.take_room(&view, &view.config(), &[bytes]);
        assert_eq!(taken, 1);
        room
    }

    fn state_with(config: InterfaceConfig) -> (State, InterfaceId) {
        let mut state = State::default();
        let interface = InterfaceId(Uuid::from_u128(1));
        let create = CreateInterface {
            interface,
            name: "a".into(),
            config,
        };
        let entry = Entry {
            cluster_time: ClusterTime(0),
            wall_time: WallTime(0),
            position: RunPosition {
                term: 1,
                run: 1,
                n: 1,
            },
            commands: vec![Command::CreateInterface(create)],
        };
        state.apply(1, entry, &mut Vec::new());
        (state, interface)
    }

    #[test]
    fn a_window_is_never_exceeded_by_what_is_on_its_way() {
        let (state, id) = state_with(InterfaceConfig {
            window: 3,
            ..InterfaceConfig::default()
        });
        let admission = Admission::new(1_000);
        let view = admission.learn(state.interface(id).unwrap());
        let config = view.config();
        let (first, taken, refusal) = admission.take_room(&view, &config, &[10, 10]);
        assert_eq!((taken, refusal), (2, None));
        let (_second, taken, refusal) = admission.take_room(&view, &config, &[10, 10]);
        assert_eq!((taken, refusal.unwrap().reason), (1, Reason::WindowFull));
        drop(first);
        let (_third, taken, _) = admission.take_room(&view, &config, &[10, 10]);
        assert_eq!(taken, 2);
    }

    #[test]
    fn near_the_nodes_limit_the_interface_that_holds_most_is_refused_first() {
        let (state, id) = state_with(InterfaceConfig::default());
        let admission = Admission::new(1_000);
        let loud = admission.learn(state.interface(id).unwrap());
        let mut other = state.interface(id).unwrap().clone();
        other.id = InterfaceId(Uuid::from_u128(2));
        other.name = "b".into();
        let quiet = admission.learn(&other);
        let config = loud.config();
        let (_room, taken, _) = admission.take_room(&loud, &config, &[600]);
        assert_eq!(taken, 1);
        let (_none, taken, refusal) = admission.take_room(&loud, &config, &[100]);
        assert_eq!((taken, refusal.unwrap().reason), (0, Reason::NodeFull));
        let (_room, taken, refusal) = admission.take_room(&quiet, &config, &[100]);
        assert_eq!((taken, refusal), (1, None));
    }

    #[test]
    fn near_memory_or_disk_limit_the_interfaces_that_hold_most_are_refused_first() {
        let (state, id) = state_with(InterfaceConfig::default());
        let admission = Admission::new(1_000_000);
        let views: Vec<_> = (1..=3)
            .map(|n| {
                let mut interface = state.interface(id).unwrap().clone();
                interface.id = InterfaceId(Uuid::from_u128(n));
                interface.name = n.to_string().into();
                admission.learn(&interface)
            })
            .collect();
        let take = |n: usize, messages: usize| {
            let sizes = vec![1; messages];
            let (room, taken, refusal) = admission.take_room(&views[n], &views[n].config(), &sizes);
            (room, taken, refusal.map(|refusal| refusal.reason))
        };
        let _held = (take(0, 100), take(1, 40));
        let takes = |n| take(n, 1).1 == 1;
        admission.set_scarce(None);
        assert!(takes(0) && takes(1) && takes(2));
        admission.set_scarce(Some(900));
        assert!(!takes(0) && takes(1) && takes(2));
        admission.set_scarce(Some(300));
        assert!(!takes(0) && !takes(1) && takes(2));
        assert_eq!(take(1, 1).2, Some(Reason::NodeFull));
        // Who holds nothing is refused last of all.
        admission.set_scarce(Some(0));
        assert!(!takes(0) && !takes(1) && takes(2));
        admission.set_scarce(None);
        assert!(takes(0) && takes(1) && takes(2));
    }

    #[test]
    fn room_is_given_back() {
        let (state, id) = state_with(InterfaceConfig::default());
        let admission = Admission::new(1_000);
        let view = admission.learn(state.interface(id).unwrap());
        let (room, ..) = admission.take_room(&view, &view.config(), &[100, 200]);
        assert_eq!(admission.bytes(), 300);
        drop(room);
        assert_eq!(admission.bytes(), 0);
        assert_eq!(view.in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_stream_cannot_take_all_subscriptions() {
        let admission = Admission::new(1_000);
        let mut loud = SubscriptionRoom::new(&admission);
        while loud.take().is_ok() {}
        assert_eq!(loud.taken, SUBSCRIPTIONS_MAX / 2);
        let mut quiet = SubscriptionRoom::new(&admission);
        quiet.take().unwrap();
        assert_eq!(
            loud.take().map_err(|failure| failure.reason),
            Err(Reason::NodeFull)
        );
        quiet.give_back();
        drop((loud, quiet));
        assert_eq!(admission.subscriptions.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_paused_interface_takes_nothing() {
        let (state, id) = state_with(InterfaceConfig {
            paused: true,
            ..InterfaceConfig::default()
        });
        let admission = Admission::new(1_000);
        let view = admission.learn(state.interface(id).unwrap());
        let (_room, taken, refusal) = admission.take_room(&view, &view.config(), &[1]);
        assert_eq!((taken, refusal.unwrap().reason), (0, Reason::Paused));
    }
}
