//! The three demonstration stages: validate, enrich, route.
//!
//! Each is a pure function of the message, as a stage should be that may run twice: no clock, no randomness, nothing
//! looked up. They never render a message anew. What they do:
//!
//! | stage | does |
//! | --- | --- |
//! | `validate` | rejects what no laboratory could work with, naming segment and field; filters acknowledgements that strayed into the interface; sets `message_type` and `control_id` |
//! | `enrich` | appends one `ZOR` segment, see [`enrich`] |
//! | `route` | sets `lab` and `priority` |
//!
//! Orders (`ORM`, `OML`, `OMG`, `OMI`, `OMP`) need a patient and an order; any other message needs a readable header
//! and, where it has a PID segment, an identifier in it.

use bytes::Bytes;

use crate::hl7::{Message, Segment};
use crate::msh::{MshError, is_blank, printable};

/// The names of the demonstration stages, in the order an interface should have them.
pub const DEMO_STAGES: [&str; 3] = ["validate", "enrich", "route"];

/// A stage: a pure function of the message.
pub type StageFn = fn(&[u8]) -> StageResult;

/// The demonstration stage of that name.
pub fn demo_stage(name: &str) -> Option<StageFn> {
    match name {
        "validate" => Some(validate),
        "enrich" => Some(enrich),
        "route" => Some(route),
        _ => None,
    }
}

/// What a stage made of a message.
#[derive(Clone, PartialEq, Eq)]
pub enum StageResult {
    /// Done.
    Complete {
        /// The changed message, `None` where it stays as it is.
        payload: Option<Bytes>,
        /// Headers to set.
        headers: Vec<(String, String)>,
    },
    /// This message can't be worked with; a person must look at it.
    Reject {
        /// What is wrong, naming the field and holding no content.
        reason: String,
    },
    /// In order, but not wanted downstream.
    Filter {
        /// Why not.
        reason: String,
    },
}

impl StageResult {
    fn unchanged(headers: Vec<(String, String)>) -> Self {
        Self::Complete {
            payload: None,
            headers,
        }
    }
}

impl std::fmt::Debug for StageResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Complete { payload, headers } => f
                .debug_struct("Complete")
                .field("payload_bytes", &payload.as_ref().map(Bytes::len))
                .field("headers", headers)
                .finish(),
            Self::Reject { reason } => f.debug_struct("Reject").field("reason", reason).finish(),
            Self::Filter { reason } => f.debug_struct("Filter").field("reason", reason).finish(),
        }
    }
}

/// Why validate rejects a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The header is at fault.
    #[error(transparent)]
    Header(#[from] MshError),
    /// MSH-9 is missing.
    #[error("MSH-9 message type is missing")]
    MessageTypeMissing,
    /// MSH-12 is missing.
    #[error("MSH-12 version id is missing")]
    VersionMissing,
    /// An order without PID.
    #[error("PID segment is missing: the order names no patient")]
    PatientMissing,
    /// A PID that identifies nobody.
    #[error("PID-3 patient identifier is missing")]
    PatientIdentifierMissing,
    /// An order without ORC.
    #[error("ORC common order segment is missing")]
    CommonOrderMissing,
    /// An ORC without order control.
    #[error("ORC-1 order control is missing in ORC segment {ordinal}")]
    OrderControlMissing {
        /// Which ORC, from 1.
        ordinal: usize,
    },
    /// An order without OBR.
    #[error("OBR observation request segment is missing: nothing is ordered")]
    ObservationRequestMissing,
}

/// Whether a laboratory could work with it.
pub fn validate(message: &[u8]) -> StageResult {
    let message = match Message::read(message) {
        Ok(message) => message,
        Err(error) => {
            return StageResult::Reject {
                reason: Fault::from(error).to_string(),
            };
        }
    };
    if message.msh().message_type().code == b"ACK" {
        return StageResult::Filter {
            reason: "MSH-9 says ACK: an acknowledgement, not an order".to_owned(),
        };
    }
    match check(&message) {
        Ok(control_id) => StageResult::unchanged(vec![
            (
                "message_type".to_owned(),
                message.msh().message_type().to_string(),
            ),
            ("control_id".to_owned(), printable(control_id, 64)),
        ]),
        Err(fault) => StageResult::Reject {
            reason: fault.to_string(),
        },
    }
}

fn check<'a>(message: &Message<'a>) -> Result<&'a [u8], Fault> {
    let msh = message.msh();
    if is_blank(msh.field(2)) {
        return Err(MshError::EncodingCharactersMissing.into());
    }
    if is_blank(msh.message_type().code) {
        return Err(Fault::MessageTypeMissing);
    }
    let control_id = msh.control_id()?;
    if is_blank(msh.version()) {
        return Err(Fault::VersionMissing);
    }
    let is_order = matches!(
        msh.message_type().code,
        b"ORM" | b"OML" | b"OMG" | b"OMI" | b"OMP"
    );
    match message.first("PID") {
        Some(pid) if !has_identifier(pid) => return Err(Fault::PatientIdentifierMissing),
        None if is_order => return Err(Fault::PatientMissing),
        Some(_) | None => {}
    }
    if !is_order {
        return Ok(control_id);
    }
    let mut orders = 0;
    for orc in message.named("ORC") {
        orders += 1;
        if orc.field(1).is_blank() {
            return Err(Fault::OrderControlMissing { ordinal: orders });
        }
    }
    if orders == 0 {
        return Err(Fault::CommonOrderMissing);
    }
    if message.first("OBR").is_none() {
        return Err(Fault::ObservationRequestMissing);
    }
    Ok(control_id)
}

/// Any repetition of PID-3 with something in its first component.
fn has_identifier(pid: Segment<'_>) -> bool {
    pid.field(3)
        .repetitions()
        .any(|identifier| !is_blank(identifier.component(1)))
}

/// Appends a `ZOR` segment that says what the order comes to:
///
/// | field | holds |
/// | --- | --- |
/// | ZOR-1 | `1` |
/// | ZOR-2 | number of OBR segments |
/// | ZOR-3 | `STAT`, `URGENT` or `ROUTINE`: the most urgent of TQ1-9, ORC-7.6, OBR-5 and OBR-27.6 |
/// | ZOR-4 | the laboratory, as the header `lab` of [`route`] |
///
/// Every byte of the message stays and stands where it stood: the result is the message, a segment end if its last
/// segment had none, the new segment with the message's own field separator, and a segment end if its last segment had
/// one, of the kind that ends MSH. A message that has a ZOR segment stays as it is, so that doing it twice is doing it
/// once.
pub fn enrich(message: &[u8]) -> StageResult {
    let view = match Message::read(message) {
        Ok(view) => view,
        Err(error) => {
            return StageResult::Reject {
                reason: Fault::from(error).to_string(),
            };
        }
    };
    if view.first("ZOR").is_some() {
        return StageResult::unchanged(Vec::new());
    }
    let requests = view.named("OBR").count().to_string();
    let fields = [
        "ZOR",
        "1",
        &requests,
        Priority::of(&view).hl7_name(),
        laboratory(&view),
    ];
    let segment_end = view.segment_end();
    let mut out = Vec::with_capacity(message.len() + 64);
    out.extend_from_slice(message);
    if !view.is_ended() {
        out.extend_from_slice(segment_end);
    }
    out.extend_from_slice(
        fields
            .map(str::as_bytes)
            .join(&view.msh().field_separator())
            .as_slice(),
    );
    if view.is_ended() {
        out.extend_from_slice(segment_end);
    }
    StageResult::Complete {
        payload: Some(out.into()),
        headers: Vec::new(),
    }
}

/// Sets the headers `lab` (where the order goes) and `priority` (`stat`, `urgent`, `routine`), changing no byte.
pub fn route(message: &[u8]) -> StageResult {
    match Message::read(message) {
        Ok(view) => StageResult::unchanged(vec![
            ("lab".to_owned(), laboratory(&view).to_owned()),
            (
                "priority".to_owned(),
                Priority::of(&view).header_value().to_owned(),
            ),
        ]),
        Err(error) => StageResult::Reject {
            reason: Fault::from(error).to_string(),
        },
    }
}

/// How soon an order is wanted; the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Routine,
    Urgent,
    Stat,
}

impl Priority {
    fn of(message: &Message<'_>) -> Self {
        let timing = message.named("TQ1").map(|tq1| tq1.field(9).component(1));
        let common = message.named("ORC").map(|orc| orc.field(7).component(6));
        let request = message
            .named("OBR")
            .flat_map(|obr| [obr.field(5).component(1), obr.field(27).component(6)]);
        timing
            .chain(common)
            .chain(request)
            .map(Self::of_code)
            .max()
            .unwrap_or(Self::Routine)
    }

    /// HL7 table 0027: S stat, A as soon as possible, T timing critical, P preoperative; all else can wait.
    fn of_code(code: &[u8]) -> Self {
        match code {
            b"S" | b"STAT" => Self::Stat,
            b"A" | b"ASAP" | b"T" | b"P" => Self::Urgent,
            _ => Self::Routine,
        }
    }

    fn hl7_name(self) -> &'static str {
        match self {
            Self::Stat => "STAT",
            Self::Urgent => "URGENT",
            Self::Routine => "ROUTINE",
        }
    }

    fn header_value(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Urgent => "urgent",
            Self::Routine => "routine",
        }
    }
}

/// By the first OBR that tells: OBR-24 diagnostic service section (HL7 table 0074), else newborn screening by its
/// LOINC panel code in OBR-4, else `general`.
fn laboratory(message: &Message<'_>) -> &'static str {
    let of_request = |obr: Segment<'_>| match obr.field(24).raw() {
        b"RAD" | b"CT" | b"NMR" | b"RUS" => Some("radiology"),
        b"CH" => Some("chemistry"),
        b"HM" => Some("hematology"),
        b"MB" | b"MCB" | b"VR" | b"PAR" => Some("microbiology"),
        b"BLB" => Some("blood-bank"),
        b"CP" | b"SP" | b"PAT" => Some("pathology"),
        _ if obr.field(4).component(1) == b"54089-8" => Some("newborn-screening"),
        _ => None,
    };
    message
        .named("OBR")
        .find_map(of_request)
        .unwrap_or("general")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    const ORDER: &str = "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101||ORM^O01^ORM_O01|RAD-17|P|2.5.1\rPID|1||SECRET^^^MR||DOE^JANE\rORC|NW|4711\rOBR|1|4711||X^Chest|S|||||||||||||||||||RAD\rOBR|2\r";

    fn reason(message: &str) -> String {
        match validate(message.as_bytes()) {
            StageResult::Reject { reason } => reason,
            other => panic!("not rejected: {other:?}"),
        }
    }

    fn header(result: &StageResult, name: &str) -> Option<String> {
        let StageResult::Complete { headers, .. } = result else {
            panic!("not complete: {result:?}")
        };
        headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    }

    fn enriched(message: &str) -> String {
        match enrich(message.as_bytes()) {
            StageResult::Complete {
                payload: Some(payload),
                ..
            } => String::from_utf8(payload.to_vec()).unwrap(),
            other => panic!("not changed: {other:?}"),
        }
    }

    #[test]
    fn a_good_order_passes_unchanged_and_is_named() {
        let result = validate(ORDER.as_bytes());
        assert!(matches!(
            result,
            StageResult::Complete { payload: None, .. }
        ));
        assert_eq!(header(&result, "message_type").unwrap(), "ORM^O01");
        assert_eq!(header(&result, "control_id").unwrap(), "RAD-17");
    }

    #[test]
    fn each_fault_is_rejected_with_its_field_and_without_content() {
        let table = [
            (
                ORDER.replace("^~\\&", ""),
                "MSH-2 encoding characters are missing",
            ),
            (
                ORDER.replace("ORM^O01^ORM_O01", ""),
                "MSH-9 message type is missing",
            ),
            (
                ORDER.replace("RAD-17", ""),
                "MSH-10 message control id is missing",
            ),
            (ORDER.replace("|2.5.1", ""), "MSH-12 version id is missing"),
            (
                ORDER.replace("PID|", "PIX|"),
                "PID segment is missing: the order names no patient",
            ),
            (
                ORDER.replace("SECRET", ""),
                "PID-3 patient identifier is missing",
            ),
            (
                ORDER.replace("SECRET^^^MR", ""),
                "PID-3 patient identifier is missing",
            ),
            (
                ORDER.replace("SECRET", "\"\""),
                "PID-3 patient identifier is missing",
            ),
            (
                ORDER.replace("ORC|", "ORX|"),
                "ORC common order segment is missing",
            ),
            (
                ORDER.replace("ORC|NW", "ORC|"),
                "ORC-1 order control is missing in ORC segment 1",
            ),
            (
                ORDER.replace("OBR|", "OBX|"),
                "OBR observation request segment is missing: nothing is ordered",
            ),
            (
                "hello".to_owned(),
                "not HL7: the message begins with 0x68, not with an MSH segment",
            ),
        ];
        for (message, expected) in table {
            assert_eq!(reason(&message), expected);
            assert!(!format!("{:?}", validate(message.as_bytes())).contains("SECRET"));
        }
    }

    #[test]
    fn a_second_identifier_is_enough() {
        assert!(matches!(
            validate(ORDER.replace("SECRET", "~88").as_bytes()),
            StageResult::Complete { .. }
        ));
    }

    #[test]
    fn messages_that_are_no_orders_need_no_order_and_acknowledgements_are_filtered() {
        let other = "MSH|^~\\&|A|B|C|D|||ADT^A01|1|P|2.3\r";
        assert!(matches!(
            validate(other.as_bytes()),
            StageResult::Complete { .. }
        ));
        assert_eq!(
            reason(&format!("{other}PID|1\r")),
            "PID-3 patient identifier is missing"
        );
        let ack = other.replace("ADT^A01", "ACK");
        assert!(matches!(
            validate(ack.as_bytes()),
            StageResult::Filter { .. }
        ));
    }

    #[test]
    fn enrich_appends_a_segment_and_leaves_every_other_byte() {
        assert_eq!(enriched(ORDER), format!("{ORDER}ZOR|1|2|STAT|radiology\r"));
        let open = ORDER.trim_end_matches('\r');
        assert_eq!(enriched(open), format!("{open}\rZOR|1|2|STAT|radiology"));
        for end in ["\n", "\r\n"] {
            let message = ORDER.replace('\r', end);
            assert_eq!(
                enriched(&message),
                format!("{message}ZOR|1|2|STAT|radiology{end}")
            );
        }
        let other = ORDER.replace('|', "#");
        assert_eq!(enriched(&other), format!("{other}ZOR#1#2#STAT#radiology\r"));
    }

    #[test]
    fn enriching_twice_is_enriching_once() {
        let once = enriched(ORDER);
        assert!(matches!(
            enrich(once.as_bytes()),
            StageResult::Complete { payload: None, .. }
        ));
    }

    #[test]
    fn route_reads_laboratory_and_priority_from_the_order() {
        let result = route(ORDER.as_bytes());
        assert!(matches!(
            result,
            StageResult::Complete { payload: None, .. }
        ));
        assert_eq!(header(&result, "lab").unwrap(), "radiology");
        assert_eq!(header(&result, "priority").unwrap(), "stat");
        let timed = ORDER
            .replace("|S|", "||")
            .replace("ORC|NW|4711", "ORC|NW|4711|||||^^^^^A");
        assert_eq!(
            header(&route(timed.as_bytes()), "priority").unwrap(),
            "urgent"
        );
        let plain = ORDER.replace("|S|", "|R|").replace("|RAD\r", "|\r");
        assert_eq!(
            header(&route(plain.as_bytes()), "priority").unwrap(),
            "routine"
        );
        assert_eq!(header(&route(plain.as_bytes()), "lab").unwrap(), "general");
    }

    #[test]
    fn the_stages_are_found_by_name() {
        assert!(DEMO_STAGES.iter().all(|name| demo_stage(name).is_some()));
        assert!(demo_stage("invent").is_none());
    }
}
