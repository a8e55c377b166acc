//! Finding the leader: follow a hint at once, otherwise try the nodes in turn, with a bounded back-off.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::cluster::Cluster;
use crate::error::Refusal;
use ordo_wire::v1::Reason;

/// The first pause, once every node has been tried.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause in the time in which an election ends.
const PAUSE_SHORT_MAX: Duration = Duration::from_millis(100);
/// The longest pause after that.
const PAUSE_LONG_MAX: Duration = Duration::from_secs(2);
/// How long the short pauses last.
const SHORT_PAUSES: Duration = Duration::from_secs(10);
/// How long a stream may take to open, or a single call to be answered.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// A stream that lived at least so long before it ended starts the back-off anew.
const LIVED: Duration = Duration::from_secs(1);

/// One client's search for the leader. What it finds is shared through the [`Cluster`].
pub(crate) struct Seek {
    cluster: Cluster,
    /// Tries since the last that went well.
    failures: usize,
    failing_since: Option<Instant>,
    retry_after: Duration,
    /// Where to go at once.
    hint: Option<String>,
    /// Hints already followed since the last pause, so that two nodes that name each other end in a pause.
    followed: Vec<String>,
    cursor: usize,
    succeeded_at: Option<Instant>,
}

impl Seek {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let cursor = cluster.random_below(cluster.addresses().len());
        Self {
            cluster,
            failures: 0,
            failing_since: None,
            retry_after: Duration::ZERO,
            hint: None,
            followed: Vec::new(),
            cursor,
            succeeded_at: None,
        }
    }

    /// Where to try next, after the pause that is due.
    pub(crate) async fn next(&mut self) -> String {
        if let Some(hint) = self.hint.take() {
            return hint;
        }
        let pause = self.pause();
        if !pause.is_zero() {
            sleep(pause).await;
            self.followed.clear();
        }
        if let Some(leader) = self.cluster.leader() {
            return leader;
        }
        let addresses = self.cluster.addresses();
        self.cursor = (self.cursor + 1) % addresses.len();
        addresses[self.cursor].clone()
    }

    /// How long nothing has gone well.
    pub(crate) fn failing_for(&self) -> Duration {
        self.failing_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The node at `address` answered as a leader does.
    pub(crate) fn succeeded(&mut self, address: &str) {
        if self.succeeded_at.is_none() {
            self.succeeded_at = Some(Instant::now());
            self.failing_since = None;
            self.cluster.set_leader(address);
            self.cluster.learn_members(address);
        }
    }

    /// A try at `address`, or a stream to it, ended.
    pub(crate) fn failed(&mut self, address: &str, refusal: &Refusal) {
        tracing::debug!(address, %refusal, "no leader there");
        let lived = self.succeeded_at.take();
        if lived.is_some_and(|at| at.elapsed() >= LIVED) {
            self.failures = 0;
        }
        self.failures += 1;
        self.failing_since.get_or_insert_with(Instant::now);
        self.retry_after = refusal.retry_after.unwrap_or_default();
        // A leader that ended a stream and still leads (it began a new run) is where the next try belongs.
        if lived.is_none() || refusal.reason == Reason::NotLeader {
            self.cluster.forget_leader(address);
        }
        if let Some(leader) = &refusal.leader
            && leader != address
            && !self.followed.contains(leader)
        {
            self.followed.push(leader.clone());
            self.cluster.set_leader(leader);
            self.hint = Some(leader.clone());
        }
    }

    fn pause(&self) -> Duration {
        let nodes = self.cluster.addresses().len();
        if self.failures < nodes {
            return Duration::ZERO;
        }
        let max = if self.failing_for() < SHORT_PAUSES {
            PAUSE_SHORT_MAX
        } else {
            PAUSE_LONG_MAX
        };
        let doublings = u32::try_from((self.failures - nodes).min(10)).unwrap_or(10);
        let pause = (PAUSE_MIN * 2_u32.pow(doublings))
            .max(self.retry_after)
            .min(max);
        self.cluster.jittered(pause)
    }
}

/// Opens a stream on a connection of its own, in bounded time.
pub(crate) async fn open<T, F>(
    cluster: &Cluster,
    address: &str,
    call: impl FnOnce(Channel) -> F,
) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, Status>>,
{
    let channel = cluster
        .channel(address)
        .map_err(|error| Refusal::local(Code::Unavailable, error.to_string()))?;
    match timeout(OPEN_MAX, call(channel)).await {
        Ok(result) => result.map_err(Refusal::from),
        Err(_) => Err(Refusal::local(
            Code::DeadlineExceeded,
            format!("{address} did not answer in {OPEN_MAX:?}"),
        )),
    }
}

/// What the end of a stream without a status means.
pub(crate) fn stream_end() -> Refusal {
    Refusal::local(Code::Unavailable, "the node ended the stream")
}

/// A stream that takes no more frames is over; why, it says where it is read.
pub(crate) async fn reason_of_end<T>(incoming: &mut Streaming<T>) -> Refusal {
    let read = async {
        loop {
            match incoming.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return stream_end(),
                Err(status) => return status.into(),
            }
        }
    };
    timeout(OPEN_MAX, read)
        .await
        .unwrap_or_else(|_| stream_end())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn not_leader(leader: Option<&str>) -> Refusal {
        let mut refusal = Refusal::local(Code::Unavailable, "not the leader");
        refusal.reason = Reason::NotLeader;
        refusal.leader = leader.map(str::to_owned);
        refusal
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_followed_at_once_and_two_nodes_naming_each_other_end_in_a_pause() {
        let cluster = Cluster::builder()
            .addresses(["a:1", "b:1"])
            .seed(1)
            .build()
            .unwrap();
        let mut seek = Seek::new(cluster);
        let begin = Instant::now();
        seek.failed("a:1", &not_leader(Some("b:1")));
        assert_eq!(seek.next().await, "b:1");
        seek.failed("b:1", &not_leader(Some("a:1")));
        assert_eq!(seek.next().await, "a:1");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        seek.failed("a:1", &not_leader(Some("b:1")));
        seek.next().await;
        assert!(begin.elapsed() >= PAUSE_MIN / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn every_node_is_tried_before_the_first_pause_and_pauses_are_bounded() {
        let cluster = Cluster::builder()
            .addresses(["a:1", "b:1", "c:1"])
            .seed(1)
            .build()
            .unwrap();
        let mut seek = Seek::new(cluster);
        let begin = Instant::now();
        let mut tried = Vec::new();
        for _ in 0..3 {
            let address = seek.next().await;
            seek.failed(&address, &Refusal::local(Code::Unavailable, "down"));
            tried.push(address);
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        tried.sort();
        assert_eq!(tried, ["a:1", "b:1", "c:1"]);
        for _ in 0..300 {
            let before = Instant::now();
            let address = seek.next().await;
            let pause = before.elapsed();
            assert!(
                pause > Duration::ZERO && pause <= PAUSE_LONG_MAX,
                "{pause:?}"
            );
            seek.failed(&address, &Refusal::local(Code::Unavailable, "down"));
        }
        assert!(seek.failing_for() > SHORT_PAUSES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_ends_a_stream_is_tried_first_and_then_forgotten() {
        let cluster = Cluster::builder()
            .addresses(["a:1", "b:1", "c:1"])
            .seed(1)
            .build()
            .unwrap();
        let mut seek = Seek::new(cluster);
        seek.succeeded("c:1");
        seek.failed("c:1", &stream_end());
        assert_eq!(seek.next().await, "c:1");
        seek.failed("c:1", &stream_end());
        assert_eq!(seek.cluster.leader(), None);
    }
}
