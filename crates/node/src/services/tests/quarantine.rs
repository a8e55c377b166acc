//! A quarantined interface as clients and operators meet it.

use super::*;
use ordo_core::{Command, MessageId, QuarantineInterface, Reply};
use uuid::Uuid;

async fn quarantine(node: &Node, name: &'static str) {
    let context = node.context();
    let id = context
        .machine
        .query(move |view| view.state.interface_named(name).unwrap().id);
    let command = QuarantineInterface {
        interface: id.await.unwrap(),
        invariant: "ids_are_known".to_owned(),
    };
    let command = Command::QuarantineInterface(command);
    let reply = context.proposer.propose_one(command).await.unwrap();
    assert_eq!(reply, Reply::Done);
}

fn complete(assignment: &v1::WorkAssignment) -> v1::WorkRequest {
    let report = v1::WorkReport {
        interface_id: assignment.interface_id.clone(),
        sequence: assignment.sequence,
        stage: assignment.stage.clone(),
        turn: assignment.turn,
        outcome: Some(v1::work_report::Outcome::Complete(
            v1::WorkComplete::default(),
        )),
    };
    v1::WorkRequest {
        reports: vec![report],
        ..Default::default()
    }
}

fn reject(assignment: &v1::WorkAssignment) -> v1::WorkRequest {
    let mut request = complete(assignment);
    let reason = "no".to_owned();
    request.reports[0].outcome = Some(v1::work_report::Outcome::Reject(v1::WorkReject { reason }));
    request
}

/// A worker, and what it has got and not looked at.
struct Worker {
    calls: Calls<v1::WorkRequest, v1::WorkResponse>,
    got: v1::WorkResponse,
}

impl Worker {
    async fn of(node: &Node) -> Self {
        Self {
            calls: node.work(&["parse"], 1).await,
            got: v1::WorkResponse::default(),
        }
    }

    async fn more(&mut self) {
        let next = self.calls.next().await;
        self.got.assignments.extend(next.assignments);
        self.got.results.extend(next.results);
    }

    async fn assignment(&mut self) -> v1::WorkAssignment {
        while self.got.assignments.is_empty() {
            self.more().await;
        }
        self.got.assignments.remove(0)
    }

    /// Reports, and hears why that is refused.
    async fn report(&mut self, request: v1::WorkRequest) -> Reason {
        self.calls.send(request).await;
        while self.got.results.is_empty() {
            self.more().await;
        }
        self.got.results.remove(0).reason()
    }
}

fn after(refusal: u64, mut request: v1::IngestRequest) -> v1::IngestRequest {
    request.batches[0].after_refusal = refusal;
    request
}

#[tokio::test]
async fn a_quarantined_interface_refuses_everything_and_the_others_go_on_until_a_repair_lifts_it() {
    let mut node = start_in(tempfile::tempdir().unwrap(), false).await;
    let init = v1::InitClusterRequest {};
    node.admin.init_cluster(init).await.unwrap();
    node.create("a", stages(&["parse"])).await;
    node.create("b", stages(&["parse"])).await;
    let mut lab = node.deliver("a").await;
    let granted = |r: &v1::DeliverResponse| {
        let granted = |s: &v1::SubscriptionState| {
            matches!(s.state, Some(subscription_state::State::Granted(_)))
        };
        r.states.iter().any(granted)
    };
    lab.until(granted).await;
    let mut ingest = node.ingest().await;
    ingest.send(batch("a", vec![message(1, b"one")])).await;
    assert_eq!(accepted(&ingest.results(1).await[0]), (1, false));
    let mut work = Worker::of(&node).await;
    let in_hand = work.assignment().await;

    quarantine(&node, "a").await;
    let shown = node.get("a").await.quarantine.unwrap();
    assert_eq!(shown.invariant, "ids_are_known");
    assert!(shown.log_index > 0 && shown.at_ms > 0 && !shown.sentence.is_empty());
    let waiting = |r: &v1::DeliverResponse| {
        let waiting = |s: &v1::SubscriptionState| match &s.state {
            Some(subscription_state::State::Waiting(waiting)) => {
                waiting.holder.contains("quarantined")
            }
            _ => false,
        };
        r.states.iter().any(waiting)
    };
    lab.until(waiting).await;
    // A known one is refused, too, and the other interface of the stream goes on.
    ingest.send(batch("a", vec![message(1, b"one")])).await;
    ingest.send(batch("b", vec![message(3, b"three")])).await;
    let results = ingest.results(2).await;
    let refusal = refused(&results[0]).clone();
    assert_eq!(refusal.reason(), Reason::Quarantined);
    assert!(refusal.refusal > 0 && refusal.retry_after_ms > 0);
    assert!(
        refusal.text.contains("ordo interface repair"),
        "{}",
        refusal.text
    );
    assert_eq!(accepted(&results[1]), (1, false));
    assert_eq!(work.report(complete(&in_hand)).await, Reason::Quarantined);
    let other = work.assignment().await;
    assert_eq!(other.interface, "b");
    assert_eq!(work.report(complete(&other)).await, Reason::Unspecified);
    let explain = v1::ExplainInterfaceRequest {
        interface: "a".to_owned(),
    };
    let why = node.admin.explain_interface(explain).await.unwrap();
    let why = why.into_inner().sentences;
    assert!(why[0].contains("is quarantined since log entry"), "{why:?}");
    let metrics = node.context().metrics.text();
    assert!(metrics.contains("ordo_quarantined_interfaces 1"));

    let name = "a".to_owned();
    let repaired = node
        .admin
        .repair_interface(v1::RepairInterfaceRequest { name })
        .await;
    let repaired = repaired.unwrap().into_inner().interface.unwrap();
    assert_eq!(repaired.quarantine, None);
    let metrics = node.context().metrics.text();
    assert!(metrics.contains("ordo_quarantined_interfaces 0"));
    let next = after(refusal.refusal, batch("a", vec![message(2, b"two")]));
    ingest.send(next).await;
    assert_eq!(accepted(&ingest.results(1).await[0]), (2, false));
    for _ in 0..2 {
        let again = work.assignment().await;
        assert_eq!(again.interface, "a");
        assert_eq!(work.report(complete(&again)).await, Reason::Unspecified);
    }
    let delivered = lab.until(|r| deliveries(r).len() == 2).await;
    assert!(granted(&delivered), "under an epoch of its own");
    node.stop().await;
}

#[tokio::test]
async fn a_node_starts_again_after_a_redrive_whose_ids_a_producer_has_sent_before() {
    let mut node = node().await;
    node.create("a", stages(&["parse"])).await;
    let (mut ingest, mut work) = (node.ingest().await, Worker::of(&node).await);
    ingest.send(batch("a", vec![message(1, b"one")])).await;
    assert_eq!(accepted(&ingest.results(1).await[0]), (1, false));
    let first = work.assignment().await;
    assert_eq!(work.report(reject(&first)).await, Reason::Unspecified);
    let old = MessageId(Uuid::from_bytes([1; 16]));
    let small = |count: u32| Uuid::new_v5(&old.0, &count.to_be_bytes());
    let ids = (1..=9u32).flat_map(|count| [small(count), old.derived(count.into()).0]);
    let messages = ids.map(|id| v1::IngestMessage {
        message_id: bytes::Bytes::copy_from_slice(id.as_bytes()),
        payload: bytes::Bytes::from_static(b"another"),
        ..Default::default()
    });
    ingest.send(batch("a", messages.collect())).await;
    let results = ingest.results(18).await;
    assert_eq!(accepted(&results[17]), (19, false));
    let redrive = v1::RedriveDeadLetterRequest {
        interface: "a".to_owned(),
        sequence: 1,
        ..Default::default()
    };
    let redriven = node.admin.redrive_dead_letter(redrive).await.unwrap();
    assert_eq!(redriven.into_inner().sequence, 20);
    drop((ingest, work));
    let mut node = node.restart().await;
    let there = node.get("a").await;
    assert_eq!((there.last_sequence, there.quarantine), (20, None));
    node.stop().await;
}
