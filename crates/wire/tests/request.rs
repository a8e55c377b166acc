//! What clients send is refused in few words, however much they send.
#![allow(clippy::unwrap_used, reason = "tests")]

use ordo_core::{InterfaceConfig, InterfaceId, StageConfig};
use ordo_wire::convert::{digest, interface_config_from_proto};
use ordo_wire::request::{ingest_of, report_of};
use ordo_wire::status::Failure;
use ordo_wire::v1::{self, Reason};
use uuid::Uuid;

/// The headers of a response have 16 KiB in all.
const TEXT_BYTES_MAX: usize = 4 * 1024;

fn report(stage: &str, destination: &str) -> Failure {
    let config = InterfaceConfig {
        stages: vec![StageConfig::named("check")],
        ..InterfaceConfig::default()
    };
    let complete = v1::WorkComplete {
        destinations: vec![destination.to_owned()],
        ..v1::WorkComplete::default()
    };
    let report = v1::WorkReport {
        stage: stage.to_owned(),
        outcome: Some(v1::work_report::Outcome::Complete(complete)),
        ..v1::WorkReport::default()
    };
    let interface = InterfaceId(Uuid::from_u128(1));
    report_of((interface, "lab"), &config, report, || 0).unwrap_err()
}

#[test]
fn a_long_name_that_nobody_knows_is_not_told_in_full() {
    let long = "\u{1}".repeat(1 << 20);
    let stage = report(&long, "default");
    assert_eq!(stage.reason, Reason::UnknownStage);
    assert!(stage.text.len() <= TEXT_BYTES_MAX, "{}", stage.text.len());
    let destination = report("check", &long);
    assert_eq!(destination.reason, Reason::UnknownDestination);
    assert!(destination.text.len() <= TEXT_BYTES_MAX);
}

#[test]
fn a_long_name_given_twice_is_found_to_be_long() {
    let stage = v1::StageConfig {
        name: "x".repeat(1 << 20),
        ..v1::StageConfig::default()
    };
    let config = v1::InterfaceConfig {
        stages: vec![stage.clone(), stage],
        ..v1::InterfaceConfig::default()
    };
    let error = interface_config_from_proto(config).unwrap_err();
    assert_eq!(error.field, "stages[0].name");
    assert!(error.to_string().len() <= TEXT_BYTES_MAX);
}

#[test]
fn a_producer_may_say_by_what_a_repetition_is_known() {
    let ingest = |supplied: &'static [u8]| {
        let message = v1::IngestMessage {
            message_id: vec![7; 16].into(),
            payload: "order".into(),
            digest: supplied.into(),
            ..v1::IngestMessage::default()
        };
        let config = InterfaceConfig::default();
        let checked = ingest_of(
            InterfaceId(Uuid::from_u128(1)),
            &config,
            "",
            (0, 0),
            message,
        );
        checked.map(|checked| checked.ingest.digest)
    };
    assert_eq!(ingest(&[]).unwrap(), digest(b"order", &[]));
    assert_eq!(ingest(&[9; 16]).unwrap().0, [9; 16]);
    let error = ingest(&[9; 15]).unwrap_err();
    assert_eq!(error.reason, Reason::InvalidField);
    assert_eq!(error.text, "digest has 15 bytes; allowed are none, or 16");
}
