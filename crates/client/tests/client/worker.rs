use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ordo_client::{Assignment, ConfigError, Outcome, Reason, WorkError, Worker, WorkerBuilder};
use ordo_wire::status::Failure;
use ordo_wire::v1::work_report::Outcome as Reported;
use ordo_wire::v1::{
    Header, WorkAssignment, WorkReport, WorkRequest, WorkResponse, WorkResult, WorkWelcome,
};
use tokio::sync::Notify;

use crate::support::{Node, Work, until, within};

fn assignment(sequence: u64) -> WorkAssignment {
    WorkAssignment {
        interface_id: vec![7; 16].into(),
        interface: "orders".to_owned(),
        incarnation: 1,
        sequence,
        stage: "check".to_owned(),
        turn: 3,
        message_id: vec![9; 16].into(),
        headers: vec![Header {
            name: "kind".to_owned(),
            value: "lab".to_owned(),
        }],
        payload: sequence.to_string().into_bytes().into(),
        lease_ms: 30_000,
        ..WorkAssignment::default()
    }
}

fn assign(stream: &Work, sequences: impl IntoIterator<Item = u64>) {
    let assignments = sequences.into_iter().map(assignment).collect();
    stream.send(WorkResponse {
        assignments,
        ..WorkResponse::default()
    });
}

fn record(stream: &Work, reasons: impl IntoIterator<Item = Reason>) {
    let results = reasons.into_iter().map(|reason| WorkResult {
        reason: reason.into(),
        text: String::new(),
    });
    stream.send(WorkResponse {
        results: results.collect(),
        ..WorkResponse::default()
    });
}

/// A worker with that handler, and its stream after the greeting.
async fn greeted(node: &mut Node, builder: WorkerBuilder) -> (Worker, Work, WorkRequest) {
    let worker = builder.start().unwrap();
    let (stream, hello) = greet(node).await;
    (worker, stream, hello)
}

async fn greet(node: &mut Node) -> (Work, WorkRequest) {
    let mut stream = node.work().await;
    let hello = stream.next().await;
    stream.send(WorkResponse {
        welcome: Some(WorkWelcome::default()),
        ..WorkResponse::default()
    });
    (stream, hello)
}

/// The next `count` reports; answers heartbeats on the way.
async fn reports(stream: &mut Work, count: usize) -> Vec<WorkReport> {
    let mut reports = Vec::new();
    while reports.len() < count {
        let request = stream.next().await;
        reports.extend(request.reports);
        if request.heartbeat > 0 {
            stream.send(WorkResponse {
                heartbeat: request.heartbeat,
                ..WorkResponse::default()
            });
        }
    }
    assert_eq!(reports.len(), count);
    reports
}

#[tokio::test]
async fn every_outcome_is_reported_as_the_handler_said() {
    let mut node = Node::start().await;
    let builder = node
        .cluster()
        .worker()
        .name("tester")
        .concurrency(17)
        .interface_prefix("ord");
    let builder = builder.stage("check", |assignment: Assignment| async move {
        assert_eq!(
            (assignment.interface(), assignment.header("kind")),
            ("orders", Some("lab"))
        );
        match assignment.sequence() {
            1 => Outcome::complete(),
            2 => Outcome::complete_with("new")
                .with_header("a", "b")
                .for_destinations(["lab"]),
            3 => Outcome::retry("later"),
            4 => Outcome::reject("never"),
            5 => Outcome::filter("unwanted"),
            _ => panic!("as the test wants"),
        }
    });
    let (worker, mut stream, hello) = greeted(&mut node, builder).await;
    let hello = hello.hello.unwrap();
    assert_eq!(
        (
            hello.name.as_str(),
            hello.credits,
            hello.interface_prefix.as_str()
        ),
        ("tester", 17, "ord")
    );
    assert_eq!(
        (hello.stages, hello.worker_id.len()),
        (vec!["check".to_owned()], 16)
    );
    assign(&stream, 1..=6);
    let reports = reports(&mut stream, 6).await;
    let kinds: Vec<_> = reports
        .iter()
        .map(|report| (report.sequence, report.turn, kind(report)))
        .collect();
    let expected = [
        (1, 3, "complete".to_owned()),
        (2, 3, "complete new a=b lab".to_owned()),
        (3, 3, "retry later".to_owned()),
        (4, 3, "reject never".to_owned()),
        (5, 3, "filter unwanted".to_owned()),
        (6, 3, "retry handler panicked".to_owned()),
    ];
    assert_eq!(kinds, expected);
    record(
        &stream,
        [Reason::Unspecified; 5].into_iter().chain([Reason::Stale]),
    );
    until(|| worker.stats().recorded == 5 && worker.stats().stale == 1).await;
}

fn kind(report: &WorkReport) -> String {
    match report.outcome.as_ref().unwrap() {
        Reported::Complete(complete) => {
            let mut kind = "complete".to_owned();
            if let Some(payload) = &complete.payload {
                kind += &format!(" {}", std::str::from_utf8(payload).unwrap());
            }
            for header in &complete.headers {
                kind += &format!(" {}={}", header.name, header.value);
            }
            for destination in &complete.destinations {
                kind += &format!(" {destination}");
            }
            kind
        }
        Reported::Retry(retry) => format!("retry {}", retry.reason),
        Reported::Reject(reject) => format!("reject {}", reject.reason),
        Reported::Filter(filter) => format!("filter {}", filter.reason),
    }
}

#[tokio::test]
async fn synchronous_and_spawned_handlers_work_alike() {
    let mut node = Node::start().await;
    let sync = |assignment: Assignment| match assignment.sequence() {
        1 => Outcome::complete(),
        _ => panic!("as the test wants"),
    };
    for builder in [
        node.cluster().worker().stage_sync("check", sync),
        node.cluster()
            .worker()
            .stage_spawned("check", move |assignment| async move { sync(assignment) }),
    ] {
        let (_worker, mut stream, _) = greeted(&mut node, builder).await;
        assign(&stream, [1, 2]);
        let mut kinds: Vec<_> = reports(&mut stream, 2).await.iter().map(kind).collect();
        kinds.sort();
        assert_eq!(kinds, ["complete", "retry handler panicked"]);
    }
}

#[tokio::test]
async fn after_a_leader_change_it_names_what_it_holds_and_reports_again_what_was_not_recorded() {
    let (mut old, mut new) = (Node::start().await, Node::start().await);
    let go_on = Arc::new(Notify::new());
    let waiting = Arc::clone(&go_on);
    let builder = old
        .cluster()
        .worker()
        .stage("check", move |assignment: Assignment| {
            let waiting = Arc::clone(&waiting);
            async move {
                if assignment.sequence() == 2 {
                    waiting.notified().await;
                }
                Outcome::complete()
            }
        });
    let (worker, mut stream, first) = greeted(&mut old, builder).await;
    assert!(first.hello.as_ref().unwrap().holds.is_empty());
    assign(&stream, 1..=3);
    reports(&mut stream, 2).await;
    let failure = Failure::not_leader(Some(new.address.clone()));
    old.script(|script| script.refuses = Some(failure.clone()));
    stream.fail(failure);
    let (mut stream, hello) = greet(&mut new).await;
    let hello = hello.hello.unwrap();
    assert_eq!(hello.worker_id, first.hello.unwrap().worker_id);
    let mut holds: Vec<_> = hello
        .holds
        .iter()
        .map(|hold| (hold.sequence, hold.turn))
        .collect();
    holds.sort_unstable();
    assert_eq!(holds, [(1, 3), (2, 3), (3, 3)]);
    let again: Vec<_> = reports(&mut stream, 2)
        .await
        .iter()
        .map(|report| report.sequence)
        .collect();
    assert_eq!(again, [1, 3]);
    record(&stream, [Reason::Stale, Reason::Unspecified]);
    go_on.notify_one();
    assert_eq!(reports(&mut stream, 1).await[0].sequence, 2);
    record(&stream, [Reason::Unspecified]);
    until(|| worker.stats().recorded == 2 && worker.stats().stale == 1).await;
}

#[tokio::test]
async fn a_drained_worker_finishes_what_it_holds_and_leaves() {
    let mut node = Node::start().await;
    let go_on = Arc::new(Notify::new());
    let waiting = Arc::clone(&go_on);
    let builder = node.cluster().worker().stage("check", move |_| {
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.notified().await;
            Outcome::complete()
        }
    });
    let (worker, mut stream, _) = greeted(&mut node, builder).await;
    assign(&stream, [1]);
    until(|| worker.stats().assigned == 1).await;
    let drained = tokio::spawn(worker.drain());
    let mut last_word = stream.next().await;
    while !last_word.drain {
        last_word = stream.next().await;
    }
    assert!(last_word.heartbeat > 0);
    // One more was on its way.
    assign(&stream, [2]);
    stream.send(WorkResponse {
        heartbeat: last_word.heartbeat,
        ..WorkResponse::default()
    });
    go_on.notify_one();
    assert_eq!(reports(&mut stream, 1).await[0].sequence, 1);
    record(&stream, [Reason::Unspecified]);
    assert!(!drained.is_finished());
    go_on.notify_one();
    assert_eq!(reports(&mut stream, 1).await[0].sequence, 2);
    record(&stream, [Reason::Unspecified]);
    within(drained).await.unwrap().unwrap();
    while stream.next_or_end().await.is_some() {}
}

#[tokio::test]
async fn a_completion_that_is_refused_becomes_a_retry_and_one_refused_for_the_moment_goes_again() {
    let mut node = Node::start().await;
    let builder = node
        .cluster()
        .worker()
        .stage("check", |_| async { Outcome::complete_with(vec![0; 10]) });
    let (worker, mut stream, _) = greeted(&mut node, builder).await;
    assign(&stream, [1]);
    reports(&mut stream, 1).await;
    record(&stream, [Reason::Superseded]);
    assert!(kind(&reports(&mut stream, 1).await[0]).starts_with("complete"));
    let text = "payload has 10 bytes, past the limit of 5".to_owned();
    let result = WorkResult {
        reason: Reason::TooLarge.into(),
        text,
    };
    stream.send(WorkResponse {
        results: vec![result],
        ..WorkResponse::default()
    });
    let kind = kind(&reports(&mut stream, 1).await[0]);
    assert!(
        kind.starts_with("retry completion refused: payload has 10 bytes"),
        "{kind}"
    );
    record(&stream, [Reason::Unspecified]);
    until(|| worker.stats().recorded == 1 && worker.stats().refused == 1).await;
}

#[tokio::test]
async fn a_payload_that_no_frame_takes_becomes_a_retry() {
    let mut node = Node::start().await;
    let builder = node.cluster().worker().stage("check", |_| async {
        Outcome::complete_with(vec![0; 31 << 20])
    });
    let (_worker, mut stream, _) = greeted(&mut node, builder).await;
    assign(&stream, [1]);
    let kind = kind(&reports(&mut stream, 1).await[0]);
    assert!(
        kind.starts_with("retry completion refused: its payload has 32505856 bytes"),
        "{kind}"
    );
}

#[tokio::test]
async fn long_work_extends_its_lease() {
    let mut node = Node::start().await;
    let builder = node
        .cluster()
        .worker()
        .stage("check", |assignment: Assignment| async move {
            assignment.extend();
            std::future::pending().await
        });
    let (_worker, mut stream, _) = greeted(&mut node, builder).await;
    assign(&stream, [5]);
    let extends = stream.next().await.extends;
    assert_eq!(
        extends
            .iter()
            .map(|extend| (extend.sequence, extend.turn))
            .collect::<Vec<_>>(),
        [(5, 3)]
    );
}

#[tokio::test]
async fn handlers_go_on_at_once_up_to_the_credits() {
    let mut node = Node::start().await;
    let (busy, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let all = Arc::new(tokio::sync::Barrier::new(8));
    let seen = Arc::clone(&peak);
    let builder = node
        .cluster()
        .worker()
        .concurrency(8)
        .stage("check", move |_| {
            let (busy, peak, all) = (Arc::clone(&busy), Arc::clone(&peak), Arc::clone(&all));
            async move {
                peak.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                all.wait().await;
                busy.fetch_sub(1, Ordering::SeqCst);
                Outcome::complete()
            }
        });
    let (_worker, mut stream, _) = greeted(&mut node, builder).await;
    assign(&stream, 1..=8);
    reports(&mut stream, 8).await;
    assert_eq!(seen.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn a_worker_refused_for_good_stops_with_the_reason() {
    let node = Node::start().await;
    node.script(|script| script.refuses = Some(Failure::field("hello.stages", "no such name")));
    let mut worker = node
        .cluster()
        .worker()
        .stage("check", |_| async { Outcome::complete() })
        .start()
        .unwrap();
    let error = within(worker.ended()).await.unwrap_err();
    assert!(
        matches!(&error, WorkError::Refused(refusal) if refusal.reason == Reason::InvalidField),
        "{error}"
    );
    assert!(within(worker.drain()).await.is_err());
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let node = Node::start().await;
    let complete = |_: Assignment| Outcome::complete();
    for (builder, wrong) in [
        (node.cluster().worker(), "stages"),
        (
            node.cluster()
                .worker()
                .stage_sync("a", complete)
                .stage_sync("a", complete),
            "stages",
        ),
        (
            node.cluster()
                .worker()
                .stage_sync("a", complete)
                .concurrency(0),
            "concurrency",
        ),
    ] {
        let ConfigError::Field { field, .. } = builder.start().unwrap_err() else {
            panic!("another error")
        };
        assert_eq!(field, wrong);
    }
}
