//! A worker that reads late gets what entered the stage, or nothing.

use super::*;
use std::collections::BTreeMap;

const MESSAGES: u8 = 40;
const BYTES: usize = 100 * 1024;

fn input(n: u8) -> bytes::Bytes {
    vec![n; BYTES].into()
}

/// A worker whose connection takes a kilobyte: until it reads, what is for it waits at the node.
async fn slow_reader(node: &Node) -> Calls<v1::WorkRequest, v1::WorkResponse> {
    let channel = Channel::from_shared(format!("http://{}", node.handle.public)).unwrap();
    let channel = channel.initial_stream_window_size(1_024);
    let (requests, receiver) = mpsc::channel(16);
    let hello = v1::WorkHello {
        worker_id: uuid(201),
        name: "slow".to_owned(),
        stages: vec!["parse".to_owned()],
        credits: u32::from(MESSAGES),
        ..Default::default()
    };
    let hello = v1::WorkRequest {
        hello: Some(hello),
        ..Default::default()
    };
    requests.send(hello).await.unwrap();
    let mut client = WorkServiceClient::new(channel.connect().await.unwrap());
    let answers = client.work(ReceiverStream::new(receiver)).await.unwrap();
    Calls {
        requests,
        answers: answers.into_inner(),
    }
}

fn done(assignment: &v1::WorkAssignment) -> v1::WorkReport {
    let complete = v1::WorkComplete {
        payload: Some("output".into()),
        ..Default::default()
    };
    v1::WorkReport {
        interface_id: assignment.interface_id.clone(),
        sequence: assignment.sequence,
        stage: assignment.stage.clone(),
        turn: assignment.turn,
        outcome: Some(v1::work_report::Outcome::Complete(complete)),
    }
}

#[tokio::test]
async fn a_worker_that_reads_late_is_given_no_later_stages_output() {
    let mut node = node().await;
    let mut config = stages(&["parse", "route"]);
    config.stages[0].lease_ms = 500;
    node.create("orders", config).await;
    let mut slow = slow_reader(&node).await;
    let mut ingest = node.ingest().await;
    for n in 1..=MESSAGES {
        let message = v1::IngestMessage {
            message_id: uuid(n),
            payload: input(n),
            ..Default::default()
        };
        ingest.send(batch("orders", vec![message])).await;
    }
    ingest.results(MESSAGES.into()).await;

    // Its leases end, and another one does it all.
    let mut other = node.work(&["parse"], 1).await;
    let mut by_other = 0;
    while by_other < MESSAGES {
        let response = other.next().await;
        for assignment in &response.assignments {
            assert_eq!(assignment.payload[0], assignment.payload[BYTES - 1]);
            by_other += 1;
        }
        let reports = response.assignments.iter().map(done).collect();
        other
            .send(v1::WorkRequest {
                reports,
                ..Default::default()
            })
            .await;
    }
    let response = other.next().await;
    assert!(!response.results.is_empty(), "the last one is recorded");
    other
        .send(v1::WorkRequest {
            drain: true,
            ..Default::default()
        })
        .await;
    drop(other);

    // It reads at last: what it is sent before the next message is all that waited for it.
    let last = MESSAGES + 1;
    ingest
        .send(batch("orders", vec![message(last, b"the last one")]))
        .await;
    let mut given = BTreeMap::new();
    while !given.contains_key(&u64::from(last)) {
        let assignments = slow.next().await.assignments;
        // What was given to it is over, and it says so by asking for more.
        let credits = v1::WorkRequest {
            credits: 2 * u32::from(MESSAGES),
            ..Default::default()
        };
        slow.send(credits).await;
        given.extend(assignments.into_iter().map(|a| (a.sequence, a)));
    }
    let late = given.remove(&u64::from(last)).unwrap();
    assert_eq!((&late.payload[..], late.turn), (&b"the last one"[..], 1));
    for (sequence, assignment) in &given {
        assert_eq!(assignment.stage, "parse");
        assert!(
            assignment.payload == input(u8::try_from(*sequence).unwrap()),
            "sequence {sequence} comes with {} bytes that are not its own",
            assignment.payload.len()
        );
    }
    assert!(given.len() < MESSAGES.into(), "some waited at the node");
    node.stop().await;
}
