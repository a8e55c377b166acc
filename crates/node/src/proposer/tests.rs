#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use super::*;
use crate::admission::{Admission, tests::room};
use crate::leader::Tag;
use bytes::Bytes;
use futures_util::FutureExt;
use ordo_core::{ClusterTime, Entry, GrantEnd, InterfaceId, RunPosition};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

type Outcomes = Result<Vec<Reply>, SubmitError>;

/// A consensus that does what the test says.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Inner>>);

struct Inner {
    /// How old a quorum's acknowledgement is.
    acknowledged: Option<Duration>,
    leader: Option<LeaderId>,
    changed: Arc<tokio::sync::Notify>,
    /// Entries on their way, oldest first, with who waits for them.
    entries: VecDeque<(Entry, oneshot::Sender<Outcomes>)>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            acknowledged: Some(Duration::ZERO),
            leader: None,
            changed: Arc::default(),
            entries: VecDeque::new(),
        }
    }
}

impl Replicate for Fake {
    async fn submit(&self, data: Bytes, leader: LeaderId) -> Submitted {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.0.lock().unwrap();
        assert_eq!(inner.leader, Some(leader));
        inner
            .entries
            .push_back((ordo_wire::entry::decode(data).unwrap(), sender));
        receiver
            .map(|there| there.unwrap_or(Err(SubmitError::Unknown)))
            .boxed()
    }

    fn leading(&self) -> Option<LeaderId> {
        self.0.lock().unwrap().leader
    }

    async fn changed(&mut self, _quorum: bool) {
        let changed = Arc::clone(&self.0.lock().unwrap().changed);
        changed.notified().await;
    }

    fn quorum_lease(&self) -> (Duration, QuorumAge) {
        let inner = Arc::clone(&self.0);
        let age = move || inner.lock().unwrap().acknowledged;
        (Duration::from_secs(1), Box::new(age))
    }
}

impl LoopsLink for Fake {
    async fn lead(&self, _: u64) -> Option<ClusterTime> {
        Some(ClusterTime(5_000))
    }

    fn follow(&self) {}

    fn proposed(&self, _: Tag, _: Proposed) {}
}

impl Fake {
    fn elect(&self, leader: Option<LeaderId>) {
        let mut inner = self.0.lock().unwrap();
        inner.leader = leader;
        inner.changed.notify_one();
    }

    fn acknowledge(&self, age: Option<Duration>) {
        let mut inner = self.0.lock().unwrap();
        inner.acknowledged = age;
        inner.changed.notify_one();
    }

    fn submitted(&self) -> usize {
        self.0.lock().unwrap().entries.len()
    }

    /// The oldest entry, once there is one.
    async fn next(&self) -> (Entry, oneshot::Sender<Outcomes>) {
        loop {
            if let Some(next) = self.0.lock().unwrap().entries.pop_front() {
                return next;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Applies the oldest entry.
    async fn apply(&self) -> Entry {
        let (entry, sender) = self.next().await;
        sender
            .send(Ok(entry.commands.iter().map(|_| Reply::Done).collect()))
            .unwrap();
        entry
    }
}

fn command(n: u128) -> Command {
    let interface = InterfaceId(Uuid::from_u128(n));
    Command::GrantEnd(GrantEnd {
        interface,
        destination: ordo_core::DestinationNumber(0),
        epoch: ordo_core::Epoch(1),
    })
}

fn interface_of(command: &Command) -> u128 {
    match command {
        Command::GrantEnd(end) => end.interface.0.as_u128(),
        other => panic!("{other:?}"),
    }
}

struct Node {
    proposer: Proposer,
    raft: Fake,
    leader: LeaderId,
    stop: CancellationToken,
}

async fn started() -> Node {
    let (proposer, task) = Proposer::new(
        10_000,
        Arc::new(|| 77),
        ordo_wire::lease::BootClock::default(),
        Arc::default(),
    );
    let (raft, stop) = (Fake::default(), CancellationToken::new());
    tokio::spawn(task.run(raft.clone(), raft.clone(), stop.clone()));
    let leader = openraft::vote::RaftLeaderId::new(3, 1);
    Node {
        proposer,
        raft,
        leader,
        stop,
    }
}

async fn leading() -> (Node, RunId) {
    let node = started().await;
    let run = lead(&node, node.leader).await;
    (node, run)
}

async fn lead(node: &Node, leader: LeaderId) -> RunId {
    node.raft.elect(Some(leader));
    let (first, sender) = node.raft.next().await;
    assert_eq!(first.cluster_time, ClusterTime(0), "it brings no time");
    // The loops take over before the clock runs, and must not see an earlier term's time.
    assert_eq!(node.proposer.clock().now(), ClusterTime(0));
    sender.send(Ok(Vec::new())).unwrap();
    let mut standing = node.proposer.standing();
    standing
        .wait_for(|standing| standing.run().is_some())
        .await
        .unwrap()
        .run()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_terms_first_entry_has_no_commands_and_nothing_opens_before_it_is_applied() {
    let node = started().await;
    node.raft.elect(Some(node.leader));
    let (entry, sender) = node.raft.next().await;
    assert!(entry.commands.is_empty());
    assert_eq!((entry.position.term, entry.position.n), (3, 1));
    let waiting = node.proposer.propose(vec![command(1)]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((node.proposer.run(), node.raft.submitted()), (None, 0));
    sender.send(Ok(Vec::new())).unwrap();
    let entry = node.raft.apply().await;
    assert_eq!(entry.position.n, 2);
    assert!(
        entry.cluster_time >= ClusterTime(5_000),
        "time goes on from the state's"
    );
    assert_eq!(waiting.await, Ok(vec![Reply::Done]));
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_at_once() {
    let node = started().await;
    let refused = node.proposer.propose(vec![command(1)]).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
}

#[tokio::test(start_paused = true)]
async fn what_gathers_goes_out_together_reports_before_ingest() {
    let (node, run) = leading().await;
    let ingests: Vec<_> = (0..10)
        .map(|n| {
            node.proposer
                .propose_ingest(vec![command(n)], Vec::new(), run)
                .unwrap()
        })
        .collect();
    let urgent = node.proposer.propose(vec![command(100), command(101)]);
    let entry = node.raft.apply().await;
    let order: Vec<u128> = entry.commands.iter().map(interface_of).collect();
    assert_eq!(order, [100, 101, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(urgent.await.unwrap().len(), 2);
    for ingest in ingests {
        assert_eq!(ingest.await.unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_takes_room_whether_or_not_anybody_waits_for_it() {
    let (node, run) = leading().await;
    let admission = Admission::new(1_000);
    let propose = |n| {
        let rooms = vec![room(&admission, 10)];
        node.proposer
            .propose_ingest(vec![command(n)], rooms, run)
            .unwrap()
    };
    let (left, stays) = (propose(1), propose(2));
    drop(left);
    assert_eq!(admission.bytes(), 20, "while it waits");
    let (entry, sender) = node.raft.next().await;
    assert_eq!(entry.commands.len(), 2);
    assert_eq!(admission.bytes(), 20, "while consensus has it");
    sender.send(Ok(vec![Reply::Done; 2])).unwrap();
    stays.await.unwrap();
    assert_eq!(admission.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_proposal_ends_the_run_and_what_waits_in_it_is_not_sent() {
    let (node, run) = leading().await;
    let lost = node
        .proposer
        .propose_ingest(vec![command(1)], Vec::new(), run)
        .unwrap();
    let (entry, sender) = node.raft.next().await;
    assert_eq!(
        entry.position,
        RunPosition {
            term: run.term,
            run: run.run,
            n: 2
        }
    );
    sender.send(Err(SubmitError::Unknown)).unwrap();
    assert_eq!(lost.await, Err(ProposeError::OutcomeUnknown));
    let mut standing = node.proposer.standing();
    let next = standing
        .wait_for(|standing| standing.run() != Some(run))
        .await
        .unwrap()
        .run()
        .unwrap();
    assert_eq!((next.term, next.run), (run.term, run.run + 1));
    let late = node
        .proposer
        .propose_ingest(vec![command(2)], Vec::new(), run)
        .unwrap()
        .await;
    assert_eq!(late, Err(ProposeError::RunEnded));
    let fresh = node
        .proposer
        .propose_ingest(vec![command(3)], Vec::new(), next)
        .unwrap();
    let entry = node.raft.apply().await;
    assert_eq!(
        entry.position,
        RunPosition {
            term: next.term,
            run: next.run,
            n: 1
        }
    );
    assert!(fresh.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn losing_an_election_refuses_what_waits_and_ends_the_standing() {
    let (node, _) = leading().await;
    node.raft.elect(None);
    let mut standing = node.proposer.standing();
    standing
        .wait_for(|standing| *standing == Standing::Following)
        .await
        .unwrap();
    let refused = node.proposer.propose(vec![command(1)]).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
}

#[tokio::test(start_paused = true)]
async fn entries_go_out_every_second_while_a_period_runs_and_not_otherwise() {
    let (node, _) = leading().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(node.raft.submitted(), 0);
    node.proposer.set_period_runs(true);
    let mut last = node.proposer.clock().now();
    for _ in 0..5 {
        let entry = node.raft.apply().await;
        assert!(entry.commands.is_empty());
        assert!(
            entry.cluster_time.0 - last.0 <= 1_000,
            "{:?} after {last:?}",
            entry.cluster_time
        );
        last = entry.cluster_time;
    }
}

#[tokio::test(start_paused = true)]
async fn the_terms_first_entry_waits_for_a_quorums_acknowledgement_but_not_for_ever() {
    let node = started().await;
    node.raft.acknowledge(None);
    node.raft.elect(Some(node.leader));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.raft.submitted(), 0);
    let before = tokio::time::Instant::now();
    node.raft.acknowledge(Some(Duration::ZERO));
    let (_, sender) = node.raft.next().await;
    assert!(before.elapsed() < Duration::from_millis(20), "at once");
    sender.send(Ok(Vec::new())).unwrap();

    let node = started().await;
    node.raft.acknowledge(None);
    node.raft.elect(Some(node.leader));
    node.raft.apply().await;
}

#[tokio::test(start_paused = true)]
async fn time_stands_still_without_a_quorum_and_a_new_term_counts_from_the_states() {
    let (node, _) = leading().await;
    let clock = node.proposer.clock();
    node.raft.acknowledge(Some(Duration::from_secs(2)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stood = clock.now();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(clock.now(), stood);
    node.raft.acknowledge(Some(Duration::ZERO));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ran = clock.now().0 - stood.0;
    assert!((9_000..=10_000).contains(&ran), "{ran} ms");

    node.raft.elect(None);
    let mut standing = node.proposer.standing();
    standing
        .wait_for(|standing| *standing == Standing::Following)
        .await
        .unwrap();
    lead(&node, openraft::vote::RaftLeaderId::new(4, 1)).await;
    let now = clock.now();
    assert!((5_000..5_500).contains(&now.0), "{now:?}");
}

#[tokio::test(start_paused = true)]
async fn too_much_waiting_ingest_is_refused_and_reports_have_room() {
    let (node, run) = leading().await;
    let ingest = |_| {
        node.proposer
            .propose_ingest((0..20).map(command).collect(), Vec::new(), run)
    };
    // Said at once: whoever asked must not send more before it knows.
    let taken: Vec<_> = (0..100).map(ingest).take_while(Result::is_ok).collect();
    assert!((1..100).contains(&taken.len()), "{}", taken.len());
    assert!(matches!(ingest(0), Err(ProposeError::Full { .. })));
    let report = node.proposer.propose(vec![command(1)]);
    assert_eq!(report.now_or_never(), None, "it waits for its turn");
}

#[tokio::test(start_paused = true)]
async fn a_stopping_node_waits_for_what_is_on_its_way_and_takes_nothing_more() {
    let (node, _) = leading().await;
    let sent = node.proposer.propose(vec![command(1)]);
    let (entry, sender) = node.raft.next().await;
    node.stop.cancel();
    let mut standing = node.proposer.standing();
    standing
        .wait_for(|standing| *standing == Standing::Stopping)
        .await
        .unwrap();
    let late = node.proposer.propose(vec![command(2)]).await;
    assert_eq!(late, Err(ProposeError::ShuttingDown));
    sender
        .send(Ok(vec![Reply::Done; entry.commands.len()]))
        .unwrap();
    assert_eq!(sent.await, Ok(vec![Reply::Done]));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_no_quorum_hears_lets_go_of_its_streams_and_leads_again_in_a_later_run() {
    let (node, run) = leading().await;
    let mut standing = node.proposer.standing();
    node.raft.acknowledge(Some(Duration::from_secs(3)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*standing.borrow(), Standing::Leading(run), "three leases");
    node.raft.acknowledge(Some(Duration::from_secs(4)));
    let following = standing.wait_for(|standing| *standing == Standing::Following);
    following.await.unwrap();
    let refused = node.proposer.propose(vec![command(1)]).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));

    node.raft.acknowledge(Some(Duration::ZERO));
    let first = node.raft.apply().await;
    assert!(first.commands.is_empty());
    let later = RunId {
        run: run.run + 1,
        ..run
    };
    let leads = standing.wait_for(|standing| *standing == Standing::Leading(later));
    leads.await.unwrap();
}
