//! What is counted, for Prometheus. No label has more values than the protocol has names.

use ordo_wire::v1::Reason;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// One label and its value, both from a fixed list.
pub type Label = [(&'static str, &'static str); 1];

/// Everything that is counted. Counters count what this node did, so over a leader change they must be summed.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Messages accepted.
    pub ingested: Counter,
    /// Their payloads' bytes.
    pub ingested_bytes: Counter,
    /// What was refused, by `reason`; see [`Metrics::refused`].
    pub refusals: Family<Label, Counter>,
    /// Messages handed to workers.
    pub assigned: Counter,
    /// Messages that workers have now.
    pub assignments_outstanding: Gauge,
    /// Reports that were applied, by `outcome`.
    pub reports: Family<Label, Counter>,
    /// Workers lost with a message in hand.
    pub losses: Counter,
    /// Messages sent to consumers.
    pub sent: Counter,
    /// Deliveries acknowledged: messages.
    pub delivered: Counter,
    /// Deliveries acknowledged: skip markers.
    pub skipped: Counter,
    /// What consumers answered, by `answer`.
    pub answers: Family<Label, Counter>,
    /// Interfaces that are quarantined.
    pub quarantined_interfaces: Gauge,
    /// Streams open now, by `service`.
    pub streams: Family<Label, Gauge>,
    /// Entries proposed.
    pub proposals: Counter,
    /// Commands in them.
    pub commands: Counter,
    /// Entries proposed and not applied yet.
    pub proposals_in_flight: Gauge,
    /// Bytes proposed or waiting to be, and not applied yet.
    pub proposal_bytes: Gauge,
    /// From proposal to applied.
    pub proposal_seconds: Histogram,
    /// Where consensus stands.
    pub raft: RaftMetrics,
    /// What is on the disk and in memory.
    pub storage: StorageMetrics,
}

/// Where consensus stands; set when somebody looks.
#[derive(Debug, Default)]
pub struct RaftMetrics {
    /// The term.
    pub term: Gauge,
    /// The leader's node id; 0 when unknown.
    pub leader: Gauge,
    /// 1 where this node leads.
    pub is_leader: Gauge,
    /// The log's last index.
    pub last_log_index: Gauge,
    /// The last index known to be committed.
    pub committed_index: Gauge,
    /// The last index applied.
    pub applied_index: Gauge,
    /// The last index in a snapshot.
    pub snapshot_index: Gauge,
}

/// What is on the disk and in memory; set when somebody looks.
#[derive(Debug, Default)]
pub struct StorageMetrics {
    /// The log's files.
    pub log_bytes: Gauge,
    /// The log's tail in memory.
    pub log_memory_bytes: Gauge,
    /// The state's tables.
    pub state_bytes: Gauge,
    /// What of the state waits in memory to be flushed.
    pub state_memory_bytes: Gauge,
    /// Recent payloads in memory.
    pub cache_bytes: Gauge,
    /// The last index that a crash does not undo.
    pub flushed_index: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            ingested: Counter::default(),
            ingested_bytes: Counter::default(),
            refusals: Family::default(),
            assigned: Counter::default(),
            assignments_outstanding: Gauge::default(),
            reports: Family::default(),
            losses: Counter::default(),
            sent: Counter::default(),
            delivered: Counter::default(),
            skipped: Counter::default(),
            answers: Family::default(),
            quarantined_interfaces: Gauge::default(),
            streams: Family::default(),
            proposals: Counter::default(),
            commands: Counter::default(),
            proposals_in_flight: Gauge::default(),
            proposal_bytes: Gauge::default(),
            proposal_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            raft: RaftMetrics::default(),
            storage: StorageMetrics::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let mut registry = Registry::with_prefix("ordo");
        let r = &mut registry;
        r.register("ingested", "Messages accepted", self.ingested.clone());
        r.register(
            "ingested_bytes",
            "Bytes of the payloads accepted",
            self.ingested_bytes.clone(),
        );
        r.register(
            "refusals",
            "What was refused, by reason",
            self.refusals.clone(),
        );
        r.register(
            "assigned",
            "Messages handed to workers",
            self.assigned.clone(),
        );
        r.register(
            "assignments_outstanding",
            "Messages that workers have",
            self.assignments_outstanding.clone(),
        );
        r.register(
            "reports",
            "Reports applied, by outcome",
            self.reports.clone(),
        );
        r.register(
            "losses",
            "Workers lost with a message in hand",
            self.losses.clone(),
        );
        r.register("sent", "Deliveries sent to consumers", self.sent.clone());
        r.register(
            "delivered",
            "Messages that consumers acknowledged",
            self.delivered.clone(),
        );
        r.register(
            "skipped",
            "Skip markers that consumers acknowledged",
            self.skipped.clone(),
        );
        r.register(
            "answers",
            "What consumers answered, by answer",
            self.answers.clone(),
        );
        r.register(
            "quarantined_interfaces",
            "Interfaces in which an invariant does not hold: a person must look",
            self.quarantined_interfaces.clone(),
        );
        r.register("streams", "Streams open, by service", self.streams.clone());
        r.register("proposals", "Log entries proposed", self.proposals.clone());
        r.register(
            "commands",
            "Commands in the entries proposed",
            self.commands.clone(),
        );
        r.register(
            "proposals_in_flight",
            "Entries proposed and not applied",
            self.proposals_in_flight.clone(),
        );
        r.register(
            "proposal_bytes",
            "Bytes proposed or about to be, not applied",
            self.proposal_bytes.clone(),
        );
        r.register(
            "proposal_seconds",
            "From proposal to applied",
            self.proposal_seconds.clone(),
        );
        r.register("raft_term", "Raft term", self.raft.term.clone());
        r.register(
            "raft_leader",
            "Node id of the leader, 0 when unknown",
            self.raft.leader.clone(),
        );
        r.register(
            "raft_is_leader",
            "1 where this node leads",
            self.raft.is_leader.clone(),
        );
        r.register(
            "raft_last_log_index",
            "Last index of the log",
            self.raft.last_log_index.clone(),
        );
        r.register(
            "raft_committed_index",
            "Last index known to be committed",
            self.raft.committed_index.clone(),
        );
        r.register(
            "raft_applied_index",
            "Last index applied",
            self.raft.applied_index.clone(),
        );
        r.register(
            "raft_snapshot_index",
            "Last index in a snapshot",
            self.raft.snapshot_index.clone(),
        );
        r.register(
            "log_bytes",
            "Bytes of the log's files",
            self.storage.log_bytes.clone(),
        );
        r.register(
            "log_memory_bytes",
            "Bytes of the log's tail in memory",
            self.storage.log_memory_bytes.clone(),
        );
        r.register(
            "state_bytes",
            "Bytes of the state's tables",
            self.storage.state_bytes.clone(),
        );
        r.register(
            "state_memory_bytes",
            "Bytes of the state not flushed",
            self.storage.state_memory_bytes.clone(),
        );
        r.register(
            "cache_bytes",
            "Bytes of recent payloads in memory",
            self.storage.cache_bytes.clone(),
        );
        r.register(
            "flushed_index",
            "Last index whose state is on disk as such; what follows is replayed from the log",
            self.storage.flushed_index.clone(),
        );
        self.registry = registry;
    }

    /// Counts one refusal.
    pub fn refused(&self, reason: Reason) {
        let reason = reason
            .as_str_name()
            .strip_prefix("REASON_")
            .unwrap_or("UNSPECIFIED");
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts one report that was applied.
    pub fn reported(&self, outcome: &'static str) {
        self.reports.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts one answer of a consumer.
    pub fn answered(&self, answer: &'static str) {
        self.answers.get_or_create(&[("answer", answer)]).inc();
    }

    /// Counts a stream of `service` as open until what is returned is dropped.
    #[must_use]
    pub fn stream(&self, service: &'static str) -> OpenStream {
        let gauge = self.streams.get_or_create_owned(&[("service", service)]);
        gauge.inc();
        OpenStream(gauge)
    }

    /// Everything, in OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

/// A stream that counts as open.
#[derive(Debug)]
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `number` as gauges have them.
#[must_use]
pub fn gauge_of(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Metrics;
    use ordo_wire::v1::Reason;

    #[test]
    fn counters_have_their_names_and_labels() {
        let metrics = Metrics::default();
        metrics.ingested.inc_by(3);
        metrics.refused(Reason::WindowFull);
        metrics.reported("retry");
        let stream = metrics.stream("work");
        metrics.raft.term.set(7);
        let text = metrics.text();
        for line in [
            "ordo_ingested_total 3",
            "ordo_refusals_total{reason=\"WINDOW_FULL\"} 1",
            "ordo_reports_total{outcome=\"retry\"} 1",
            "ordo_streams{service=\"work\"} 1",
            "ordo_raft_term 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        drop(stream);
        assert!(metrics.text().contains("ordo_streams{service=\"work\"} 0"));
    }
}
