#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;

fn outbound() -> Outbound {
    let to = SendConfig {
        interface: "RAD".to_owned(),
        destination: "default".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        ..SendConfig::default()
    };
    let limits = OutboundConfig {
        pause_min: Duration::from_secs(1),
        pause_max: Duration::from_secs(5),
        ..OutboundConfig::default()
    };
    Outbound::new(to, limits, Metrics::new(), CancellationToken::new())
}

/// Whether so many were counted.
fn counts(outbound: &Outbound, what: &str, count: u64) -> bool {
    let line = format!("ordo_gateway_{what}_total{{interface=\"RAD\"}} {count}");
    outbound.metrics.text().lines().any(|found| found == line)
}

fn error() -> Heard {
    Heard::Said(Said::Error {
        code: AckCode::ApplicationError,
        text: "busy".to_owned(),
    })
}

fn nothing(reason: &str) -> Heard {
    Heard::Nothing {
        reason: reason.to_owned(),
        sent: true,
    }
}

fn at(sequence: u64) -> Position {
    Position {
        interface_id: ordo_client::Uuid::nil(),
        incarnation: 1,
        sequence,
    }
}

#[test]
fn what_is_heard_decides_the_answer() {
    let mut outbound = outbound();
    assert_eq!(
        outbound.judge(Heard::Said(Said::Accepted), at(1), 0, 0),
        Answer::Ack
    );
    let after = Duration::from_secs(1);
    assert_eq!(
        outbound.judge(error(), at(1), 0, 0),
        Answer::retry(after, "the receiver answered AE: busy")
    );
    let rejected = Heard::Said(Said::Rejected {
        code: AckCode::CommitReject,
        text: String::new(),
    });
    assert_eq!(
        outbound.judge(rejected, at(1), 0, 0),
        Answer::reject("the receiver answered CR without a reason")
    );
    let unsendable = Heard::Unsendable {
        reason: "not HL7".to_owned(),
    };
    assert_eq!(
        outbound.judge(unsendable, at(1), 0, 0),
        Answer::reject("not HL7")
    );
    assert_eq!(
        outbound.judge(nothing("no connection"), at(1), 0, 0),
        Answer::unavailable_sent(after, "no connection")
    );
    let unanswered = Heard::Unanswered {
        reason: "committed, unanswered".to_owned(),
    };
    let after = Duration::from_secs(2);
    assert_eq!(
        outbound.judge(unanswered, at(1), 0, 0),
        Answer::unavailable(after, "committed, unanswered")
    );
    assert!(counts(&outbound, "unanswered", 1));
}

#[test]
fn pauses_grow_until_the_receiver_speaks_and_with_each_attempt() {
    let mut outbound = outbound();
    let mut pause = |heard, attempts| match outbound.judge(heard, at(1), attempts, 0) {
        Answer::Unavailable { after, .. } | Answer::Retry { after, .. } => after.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!([(); 4].map(|()| pause(nothing(""), 0)), [1, 2, 4, 5]);
    // It counts attempts, which no failure to reach it does.
    assert_eq!(
        [0, 1, 2, 3].map(|attempts| pause(error(), attempts)),
        [1, 2, 4, 5]
    );
    assert_eq!(pause(nothing(""), 3), 1);
}

#[test]
fn a_message_that_is_sent_again_and_again_is_told_once() {
    let mut outbound = outbound();
    for earlier in 0..4 {
        outbound.judge(nothing(""), at(1), 0, earlier);
        assert_eq!(outbound.repeated, None);
    }
    let unsent = Heard::Nothing {
        reason: String::new(),
        sent: false,
    };
    outbound.judge(unsent, at(1), 0, 4);
    assert_eq!(outbound.repeated, None);
    outbound.judge(nothing(""), at(1), 0, 4);
    assert_eq!(outbound.repeated, Some(at(1)));
    // Another gateway had it before.
    outbound.judge(nothing(""), at(2), 0, 9);
    assert_eq!(outbound.repeated, Some(at(2)));
    assert!(counts(&outbound, "repeat_alarms", 2));
}
