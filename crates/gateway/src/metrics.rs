//! What a gateway counts, for Prometheus.
//!
//! Interfaces are a label, and there may be 25,000 of them: the first [`INTERFACES_MAX`] that something is counted for
//! have a value of their own, the others share [`OTHERS`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ordo_client::SendError;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// Interfaces that are told apart.
const INTERFACES_MAX: usize = 200;
/// The label of all others. No interface can have this name.
const OTHERS: &str = "(others)";

type OfInterface = [(&'static str, Arc<str>); 1];
type OfTwo = [(&'static str, Arc<str>); 2];
type Histograms = Family<OfInterface, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// Which way messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// From a sender to the cluster.
    In,
    /// From the cluster to a receiver.
    Out,
}

impl Direction {
    fn label(self) -> (&'static str, Arc<str>) {
        let value = match self {
            Self::In => "in",
            Self::Out => "out",
        };
        ("direction", value.into())
    }
}

/// Everything that is counted. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Registry,
    names: Mutex<HashMap<String, Arc<str>>>,
    waiting: Mutex<Waits>,
    connections: Family<OfTwo, Gauge>,
    frames: Family<OfInterface, Counter>,
    refusals: Family<OfTwo, Counter>,
    duplicates: Family<OfInterface, Counter>,
    accept_seconds: Histograms,
    ack_seconds: Histograms,
    repeats: Family<OfInterface, Counter>,
    unavailable: Family<OfInterface, Counter>,
    surplus_replies: Family<OfInterface, Counter>,
    late_replies: Family<OfTwo, Counter>,
    unanswered: Family<OfInterface, Counter>,
    repeat_alarms: Family<OfInterface, Counter>,
    waiting_seconds: Family<OfTwo, Seconds>,
    cluster_reached: Gauge,
}

#[derive(Debug, Default)]
struct Waits {
    next: u64,
    since: BTreeMap<u64, Wait>,
}

#[derive(Debug)]
struct Wait {
    labels: OfTwo,
    since: Instant,
    /// When it is not counted any more.
    until: Option<Instant>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let mut shared = Shared {
            registry: Registry::default(),
            names: Mutex::default(),
            waiting: Mutex::default(),
            connections: Family::default(),
            frames: Family::default(),
            refusals: Family::default(),
            duplicates: Family::default(),
            accept_seconds: Family::new_with_constructor(seconds),
            ack_seconds: Family::new_with_constructor(seconds),
            repeats: Family::default(),
            unavailable: Family::default(),
            surplus_replies: Family::default(),
            late_replies: Family::default(),
            unanswered: Family::default(),
            repeat_alarms: Family::default(),
            waiting_seconds: Family::default(),
            cluster_reached: Gauge::default(),
        };
        shared.register();
        Self(Arc::new(shared))
    }

    /// A connection that is open until what is returned is dropped.
    pub(crate) fn connection(&self, direction: Direction, interface: &str) -> Open {
        let labels = [direction.label(), self.interface(interface)];
        let gauge = self.0.connections.get_or_create_owned(&labels);
        gauge.inc();
        Open(gauge)
    }

    /// A frame came in, whatever is in it.
    pub(crate) fn frame(&self, interface: &str) {
        self.0
            .frames
            .get_or_create(&[self.interface(interface)])
            .inc();
    }

    /// A message was not taken. `reason` is one of a few.
    pub(crate) fn refused(&self, interface: &str, reason: &'static str) {
        let labels = [self.interface(interface), ("reason", reason.into())];
        self.0.refusals.get_or_create(&labels).inc();
    }

    /// The cluster has a message on disk on a quorum, so long after its frame was read.
    pub(crate) fn accepted(&self, interface: &str, took: Duration, duplicate: bool) {
        let labels = [self.interface(interface)];
        self.0
            .accept_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        if duplicate {
            self.0.duplicates.get_or_create(&labels).inc();
        }
    }

    /// A receiver answered a message, so long after its sending began.
    pub(crate) fn acknowledged(&self, interface: &str, took: Duration) {
        self.0
            .ack_seconds
            .get_or_create(&[self.interface(interface)])
            .observe(took.as_secs_f64());
    }

    /// A message is sent again that its receiver did not answer before.
    pub(crate) fn repeated(&self, interface: &str) {
        self.0
            .repeats
            .get_or_create(&[self.interface(interface)])
            .inc();
    }

    /// A receiver could not be reached, or gave no answer.
    pub(crate) fn unavailable(&self, interface: &str) {
        self.0
            .unavailable
            .get_or_create(&[self.interface(interface)])
            .inc();
    }

    /// Replies of a receiver settled nothing.
    pub(crate) fn surplus_replies(&self, interface: &str, count: u64) {
        if count > 0 {
            self.0
                .surplus_replies
                .get_or_create(&[self.interface(interface)])
                .inc_by(count);
        }
    }

    /// A receiver's application answered a message that was settled before.
    pub(crate) fn late_reply(&self, interface: &str, code: &'static str) {
        let labels = [self.interface(interface), ("code", code.into())];
        self.0.late_replies.get_or_create(&labels).inc();
    }

    /// A receiver took a message (CA), and its application did not answer in time.
    pub(crate) fn unanswered(&self, interface: &str) {
        self.0
            .unanswered
            .get_or_create(&[self.interface(interface)])
            .inc();
    }

    /// A message was sent `repeats_max` times without an answer.
    pub(crate) fn repeat_alarm(&self, interface: &str) {
        self.0
            .repeat_alarms
            .get_or_create(&[self.interface(interface)])
            .inc();
    }

    /// Something waits until what is returned is dropped: a sender for its reply, a message for its receiver.
    pub(crate) fn waiting(&self, direction: Direction, interface: &str) -> Waiting {
        let labels = [direction.label(), self.interface(interface)];
        let mut waits = lock(&self.0.waiting);
        let number = waits.next;
        waits.next += 1;
        let wait = Wait {
            labels,
            since: Instant::now(),
            until: None,
        };
        waits.since.insert(number, wait);
        drop(waits);
        Waiting {
            metrics: self.clone(),
            number,
        }
    }

    /// Whether a leader that a quorum confirms has answered lately.
    pub(crate) fn cluster_reached(&self, reached: bool) {
        self.0.cluster_reached.set(i64::from(reached));
    }

    /// All of it, in OpenMetrics' text format.
    pub(crate) fn text(&self) -> String {
        self.look();
        let mut text = String::new();
        encode(&mut text, &self.0.registry).expect("a String takes any text");
        text
    }

    /// Sets how long what waits has waited.
    fn look(&self) {
        let mut oldest: BTreeMap<&OfTwo, Instant> = BTreeMap::new();
        let waits = lock(&self.0.waiting);
        let now = Instant::now();
        let counts = |wait: &&Wait| wait.until.is_none_or(|until| now < until);
        for wait in waits.since.values().filter(counts) {
            let earliest = oldest.entry(&wait.labels).or_insert(wait.since);
            *earliest = wait.since.min(*earliest);
        }
        self.0.waiting_seconds.clear();
        for (labels, since) in oldest {
            self.0
                .waiting_seconds
                .get_or_create(labels)
                .set(since.elapsed().as_secs_f64());
        }
    }

    fn interface(&self, name: &str) -> (&'static str, Arc<str>) {
        let mut names = lock(&self.0.names);
        let value = match names.get(name) {
            Some(value) => Arc::clone(value),
            None if names.len() >= INTERFACES_MAX => OTHERS.into(),
            None => {
                let value: Arc<str> = name.into();
                names.insert(name.to_owned(), Arc::clone(&value));
                value
            }
        };
        ("interface", value)
    }
}

impl Shared {
    fn register(&mut self) {
        let mut registry = Registry::with_prefix("ordo_gateway");
        let r = &mut registry;
        r.register(
            "connections",
            "MLLP connections open, by direction; one to a receiver counts from its first answer",
            self.connections.clone(),
        );
        r.register("frames", "Frames received", self.frames.clone());
        r.register(
            "refusals",
            "Messages that were not taken, by reason",
            self.refusals.clone(),
        );
        r.register(
            "duplicates",
            "Messages that the cluster had already",
            self.duplicates.clone(),
        );
        r.register_with_unit(
            "accept",
            "From a frame's end to its message being on disk on a quorum",
            Unit::Seconds,
            self.accept_seconds.clone(),
        );
        r.register_with_unit(
            "ack",
            "From the beginning of a sending to the receiver's answer",
            Unit::Seconds,
            self.ack_seconds.clone(),
        );
        r.register(
            "repeats",
            "Messages sent again after a try without an answer",
            self.repeats.clone(),
        );
        r.register(
            "unavailable",
            "Tries in which a receiver could not be reached or gave no answer",
            self.unavailable.clone(),
        );
        r.register(
            "surplus_replies",
            "Replies of receivers that settled nothing",
            self.surplus_replies.clone(),
        );
        r.register(
            "late_replies",
            "Replies of receivers to messages that were settled before, by MSA-1",
            self.late_replies.clone(),
        );
        r.register(
            "unanswered",
            "Messages that receivers took (CA) and their applications did not answer in time",
            self.unanswered.clone(),
        );
        r.register(
            "repeat_alarms",
            "Messages sent repeats_max times without an answer",
            self.repeat_alarms.clone(),
        );
        r.register_with_unit(
            "waiting",
            "How long the longest-waiting sender (in) or message in hand (out) has waited",
            Unit::Seconds,
            self.waiting_seconds.clone(),
        );
        r.register(
            "cluster_reached",
            "1 where a leader that a quorum confirms has answered lately",
            self.cluster_reached.clone(),
        );
        self.registry = registry;
    }
}

/// What a message that was not accepted is counted under.
pub(crate) fn reason(error: &SendError) -> &'static str {
    match error {
        SendError::Refused(refusal) => refusal.reason.as_str_name(),
        SendError::Invalid { .. } => "INVALID",
        SendError::OutcomeUnknown(_) => "OUTCOME_UNKNOWN",
        SendError::Closed => "STOPPING",
        _ => "UNSENT",
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Something that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    metrics: Metrics,
    number: u64,
}

impl Waiting {
    /// It is not counted for longer than this, but where it [goes on](Self::goes_on).
    pub(crate) fn ends_after(&self, time: Duration) {
        self.set_until(Some(Instant::now() + time));
    }

    /// It is counted until it is dropped.
    pub(crate) fn goes_on(&self) {
        self.set_until(None);
    }

    fn set_until(&self, until: Option<Instant>) {
        if let Some(wait) = lock(&self.metrics.0.waiting).since.get_mut(&self.number) {
            wait.until = until;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.metrics.0.waiting).since.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in there can be left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_past_a_number_share_a_label() {
        let metrics = Metrics::new();
        for n in 0..INTERFACES_MAX + 3 {
            metrics.frame(&format!("SITE-{n}"));
        }
        metrics.frame("SITE-0");
        let text = metrics.text();
        let said = |line: &str| assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        said("ordo_gateway_frames_total{interface=\"SITE-0\"} 2");
        said("ordo_gateway_frames_total{interface=\"(others)\"} 3");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_longest_is_told_until_it_waits_no_more() {
        let metrics = Metrics::new();
        let first = metrics.waiting(Direction::In, "RAD");
        tokio::time::advance(Duration::from_secs(2)).await;
        let second = metrics.waiting(Direction::In, "RAD");
        tokio::time::advance(Duration::from_secs(1)).await;
        let told = || {
            let text = metrics.text();
            let line = "ordo_gateway_waiting_seconds{direction=\"in\",interface=\"RAD\"} ";
            let value = text.lines().find_map(|found| found.strip_prefix(line));
            value.map(str::to_owned)
        };
        assert_eq!(told().as_deref(), Some("3.0"));
        drop(first);
        assert_eq!(told().as_deref(), Some("1.0"));
        second.ends_after(Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(told(), None);
        second.goes_on();
        assert_eq!(told().as_deref(), Some("2.0"));
        drop(second);
        assert_eq!(told(), None);
    }

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let metrics = Metrics::new();
        let line = |count| {
            format!("ordo_gateway_connections{{direction=\"in\",interface=\"RAD\"}} {count}\n")
        };
        let open = metrics.connection(Direction::In, "RAD");
        assert!(metrics.text().contains(&line(1)));
        drop(open);
        assert!(metrics.text().contains(&line(0)));
    }
}
