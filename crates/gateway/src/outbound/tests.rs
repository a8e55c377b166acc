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

fn error() -> Heard {
    Heard::Error {
        code: AckCode::ApplicationError,
        text: "busy".to_owned(),
    }
}

#[test]
fn what_is_heard_decides_the_answer() {
    let mut outbound = outbound();
    assert_eq!(outbound.judge(Heard::Accepted, 1, 0), Answer::Ack);
    let after = Duration::from_secs(1);
    assert_eq!(
        outbound.judge(error(), 1, 0),
        Answer::retry(after, "the receiver answered AE: busy")
    );
    let rejected = Heard::Rejected {
        code: AckCode::CommitReject,
        text: String::new(),
    };
    assert_eq!(
        outbound.judge(rejected, 1, 0),
        Answer::reject("the receiver answered CR without a reason")
    );
    let unsendable = Heard::Unsendable {
        reason: "not HL7".to_owned(),
    };
    assert_eq!(outbound.judge(unsendable, 1, 0), Answer::reject("not HL7"));
    let nothing = Heard::Nothing {
        reason: "no connection".to_owned(),
    };
    assert_eq!(
        outbound.judge(nothing, 1, 0),
        Answer::unavailable(after, "no connection")
    );
}

#[test]
fn pauses_grow_until_the_receiver_speaks_and_with_each_attempt() {
    let mut outbound = outbound();
    let nothing = || Heard::Nothing {
        reason: String::new(),
    };
    let mut pause = |heard, attempts| match outbound.judge(heard, 1, attempts) {
        Answer::Unavailable { after, .. } | Answer::Retry { after, .. } => after.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!([(); 4].map(|()| pause(nothing(), 0)), [1, 2, 4, 5]);
    // It counts attempts, which no failure to reach it does.
    assert_eq!(
        [0, 1, 2, 3].map(|attempts| pause(error(), attempts)),
        [1, 2, 4, 5]
    );
    assert_eq!(pause(nothing(), 3), 1);
}
