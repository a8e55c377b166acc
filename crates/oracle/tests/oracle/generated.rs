//! Right histories, and how they are written down.

use ordo_oracle::{Completeness, History, What, check};
use proptest::prelude::*;

use crate::sequential;

/// Fails with what was found, and where.
pub fn expect_none(history: &History, completeness: Completeness, seed: u64) {
    let violations = check(history, completeness);
    if let Some(first) = violations.first() {
        panic!("seed {seed}: {}", first.show(history, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_right_history_passes_every_check_and_so_does_each_of_its_beginnings(
        seed: u64,
        steps in 10_usize..1500,
        cut in 0.0_f64..1.0,
    ) {
        let mut history = sequential::history(seed, steps);
        expect_none(&history, Completeness::Healed, seed);
        let length = history.events.len() as f64 * cut;
        history.events.truncate(length as usize);
        expect_none(&history, Completeness::Cut, seed);
    }

    #[test]
    fn a_history_is_read_as_it_was_written(seed: u64, steps in 10_usize..300) {
        let history = sequential::history(seed, steps);
        let mut bytes = Vec::new();
        history.write(&mut bytes).unwrap();
        prop_assert_eq!(History::read(bytes.as_slice()).unwrap(), history);
    }
}

#[test]
fn the_generator_makes_every_kind_of_event() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..40 {
        for event in sequential::history(seed, 1500).events {
            let json = serde_json::to_value(&event).unwrap();
            kinds.insert(json["what"].as_str().unwrap().to_owned());
            for key in ["content", "kind", "result", "verdict"] {
                let inner = json[key].as_str().or(json[key][key].as_str());
                kinds.extend(inner.map(|inner| format!("{key} {inner}")));
            }
            if let What::Delivered { content, .. } = &event.what {
                let cause = serde_json::to_value(content).unwrap()["cause"].clone();
                kinds.extend(cause.as_str().map(|cause| format!("cause {cause}")));
            }
        }
    }
    let expected = [
        "interface",
        "send",
        "sent",
        "assigned",
        "report",
        "reported",
        "granted",
        "delivered",
        "answer",
        "answered",
        "reading",
        "read",
        "operate",
        "operated",
        "final",
        "final_message",
        "final_dead_letter",
        "cause rejected",
        "cause attempts",
        "cause losses",
        "cause filtered",
        "result redriven",
        "result discarded",
        "result accepted",
        "result refused",
        "result unknown",
        "kind complete",
        "kind retry",
        "kind reject",
        "kind filter",
        "kind ack",
        "kind unavailable",
    ];
    for kind in expected {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
}

#[test]
fn what_is_not_a_history_of_this_version_is_not_read() {
    assert!(History::read(&b""[..]).is_err());
    assert!(History::read(&b"{\"ordo_history\":2}\n"[..]).is_err());
    assert!(History::read(&b"{\"ordo_history\":1}\n{}\n"[..]).is_err());
    assert_eq!(
        History::read(&b"{\"ordo_history\":1}\n"[..]).unwrap(),
        History::default()
    );
}
