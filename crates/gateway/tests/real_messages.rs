//! The public HL7 orders, where their folder is at hand.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::BytesMut;
use ordo_gateway::ack::{AckMode, Outcome, ReceivedAck, acknowledge};
use ordo_gateway::mllp::MllpCodec;
use ordo_gateway::msh::{Msh, MshError};
use ordo_gateway::stages::{StageResult, enrich, route, validate};
use ordo_gateway::time::Hl7Time;
use tokio_util::codec::{Decoder, Encoder};

/// File name and content, sorted; `None`, with a message, where the folder is missing.
fn messages() -> Option<BTreeMap<String, Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/hl7-orders");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: the public HL7 orders are not in ../shared/data/hl7-orders");
        return None;
    };
    let paths = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "hl7"));
    let read = |path: std::path::PathBuf| {
        (
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            std::fs::read(&path).unwrap(),
        )
    };
    let messages: BTreeMap<_, _> = paths.map(read).collect();
    assert_eq!(messages.len(), 62);
    Some(messages)
}

#[test]
fn every_header_is_read_and_21_messages_are_new() {
    let Some(messages) = messages() else { return };
    let (mut ids, mut conflicts, mut refused) = (BTreeSet::new(), 0, Vec::new());
    for (name, bytes) in &messages {
        let msh = Msh::scan(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let message_type = msh.message_type().to_string();
        assert!(
            ["ORM^O01", "OML^O21"].contains(&message_type.as_str()),
            "{name}: {message_type}"
        );
        assert!(msh.version_number().is_some(), "{name}");
        match msh.message_id() {
            Ok(id) if ids.insert(id) => {}
            Ok(_) => conflicts += 1,
            Err(error) => refused.push((name.as_str(), error)),
        }
    }
    assert_eq!((ids.len(), conflicts), (21, 40));
    assert_eq!(
        refused,
        [(
            "Test_Message_msh_present_but_missing_msh-10.hl7",
            MshError::ControlIdMissing
        )]
    );
}

#[test]
fn every_message_goes_through_a_frame_unchanged() {
    let Some(messages) = messages() else { return };
    let (mut codec, mut wire) = (MllpCodec::default(), BytesMut::new());
    for bytes in messages.values() {
        codec.encode(bytes, &mut wire).unwrap();
    }
    for (name, bytes) in &messages {
        assert_eq!(
            &codec.decode(&mut wire).unwrap().unwrap()[..],
            &bytes[..],
            "{name}"
        );
    }
    assert!(wire.is_empty());
}

#[test]
fn every_message_can_be_answered_in_the_mode_it_asks_for() {
    let Some(messages) = messages() else { return };
    let mut enhanced = 0;
    for (name, bytes) in &messages {
        let msh = Msh::scan(bytes).unwrap();
        enhanced += usize::from(AckMode::of(&msh) == AckMode::Always);
        let ack = acknowledge(&msh, &Outcome::Accepted, Hl7Time::from_unix_ms(0), "1").unwrap();
        let read = ReceivedAck::read(&ack).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read.answers(&msh), "{name}");
        let header = Msh::scan(&ack).unwrap();
        assert_eq!(
            header.sending_application(),
            msh.receiving_application(),
            "{name}"
        );
        assert_eq!(
            header.receiving_facility(),
            msh.sending_facility(),
            "{name}"
        );
    }
    assert_eq!(enhanced, 13);
}

#[test]
fn validate_rejects_the_broken_ones_naming_what_is_missing() {
    let Some(messages) = messages() else { return };
    let mut rejected = Vec::new();
    for (name, bytes) in &messages {
        match validate(bytes) {
            StageResult::Complete { payload, .. } => assert!(payload.is_none(), "{name}"),
            StageResult::Reject { reason } => rejected.push((name.as_str(), reason)),
            StageResult::Filter { reason } => panic!("{name}: {reason}"),
        }
    }
    let rejected: Vec<_> = rejected
        .iter()
        .map(|(name, reason)| (*name, reason.as_str()))
        .collect();
    let no_patient = "PID segment is missing: the order names no patient";
    assert_eq!(
        rejected,
        [
            (
                "Epic_001_Epic_ORM_O01.hl7",
                "PID-3 patient identifier is missing"
            ),
            ("Test_Message_msh-12_has_value_2_3.hl7", no_patient),
            (
                "Test_Message_msh_present_but_missing_msh-10.hl7",
                "MSH-10 message control id is missing"
            ),
            (
                "Test_Message_msh_present_but_missing_msh-2.hl7",
                "MSH-2 encoding characters are missing"
            ),
            ("Test_Message_msh_present_but_missing_msh-6.hl7", no_patient),
            (
                "Test_Message_orm_obx-5_is_not_a_numeric_value.hl7",
                no_patient
            ),
        ]
    );
}

#[test]
fn enrich_leaves_every_byte_as_it_was_and_keeps_the_segment_ends() {
    let Some(messages) = messages() else { return };
    for (name, bytes) in &messages {
        let StageResult::Complete {
            payload: Some(enriched),
            ..
        } = enrich(bytes)
        else {
            panic!("{name}: not enriched")
        };
        let added = enriched
            .strip_prefix(&bytes[..])
            .unwrap_or_else(|| panic!("{name}: bytes changed"));
        let added = std::str::from_utf8(added).unwrap();
        let first_end = bytes
            .iter()
            .find(|byte| matches!(byte, b'\r' | b'\n'))
            .copied()
            .map(char::from)
            .unwrap();
        // Each of them ends its last segment, so the new one begins at once and is ended as MSH is.
        assert!(
            added.starts_with("ZOR|1|") && added.ends_with(first_end),
            "{name}: {added:?}"
        );
        assert_eq!(added.matches(['\r', '\n']).count(), 1, "{name}: {added:?}");
        assert!(
            matches!(
                enrich(&enriched),
                StageResult::Complete { payload: None, .. }
            ),
            "{name}"
        );
        assert_eq!(
            Msh::scan(&enriched).unwrap().message_id(),
            Msh::scan(bytes).unwrap().message_id(),
            "{name}"
        );
    }
}

#[test]
fn route_finds_a_laboratory_and_a_priority_for_every_message() {
    let Some(messages) = messages() else { return };
    let mut labs = BTreeSet::new();
    for (name, bytes) in &messages {
        let StageResult::Complete {
            payload: None,
            headers,
        } = route(bytes)
        else {
            panic!("{name}: not routed")
        };
        let keys: Vec<_> = headers.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["lab", "priority"]);
        labs.insert(headers[0].1.clone());
    }
    assert_eq!(
        labs.into_iter().collect::<Vec<_>>(),
        ["general", "newborn-screening"]
    );
}
