//! Acknowledgements: built for what was received, read for what was sent.
//!
//! # Which one is sent
//! MSH-15 decides. Empty: *original mode*, one AA, AE or AR for every message. Otherwise *enhanced mode*, one accept
//! acknowledgement CA, CE or CR under the condition MSH-15 names:
//!
//! | MSH-15 | sent |
//! | --- | --- |
//! | `AL` | always |
//! | `NE` | never |
//! | `ER` | CE and CR only |
//! | `SU` | CA only |
//!
//! A value that HL7 does not know counts as `AL`: an acknowledgement too many does less harm than a sender that waits
//! for one that never comes.
//!
//! Where MSH-15 asks for silence, MSH-16 may ask for more: an application acknowledgement AA, AE or AR under the same
//! conditions (`NE` with `AL` hears one about every message). A second, deferred acknowledgement of a message is never
//! sent.
//!
//! A message that is itself a reply (MSH-9.1 is ACK, or an MSA follows its header) is [not
//! acknowledged](is_reply): two systems would acknowledge each other's acknowledgements for ever.
//!
//! # What it holds
//! `MSH`, `MSA` and, where the message was not accepted and is of version 2.5 or later, `ERR`. Separators, encoding
//! characters, processing id, version and character set are the sender's own, so that fields copied from its message
//! mean the same there. Sending and receiving application and facility change places. MSA-2 is MSH-10 byte for byte.
//! The reason stands in MSA-3 (which all versions read) and in ERR, escaped, in the sender's character set where that is
//! known and has its characters. MSH-9 names the structure (`ACK^O01^ACK`) from version 2.4 on.
//!
//! Building is a function of its arguments: time and control id are handed in.

mod received;

use std::fmt;

use bytes::Bytes;

pub use self::received::{AckError, ReceivedAck};

use crate::charset::Charset;
use crate::hl7::Message;
use crate::msh::{EncodingCharacters, Msh, MshError, is_blank};
use crate::time::Hl7Time;

/// Longest reason written or read, in characters; MSA-3 and ERR-8 allow no more than 80 and 250, receivers cut.
const REASON_CHARACTERS_MAX: usize = 250;

/// MSA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckCode {
    /// AA: application accept.
    ApplicationAccept,
    /// AE: application error.
    ApplicationError,
    /// AR: application reject.
    ApplicationReject,
    /// CA: commit accept, enhanced mode.
    CommitAccept,
    /// CE: commit error, enhanced mode.
    CommitError,
    /// CR: commit reject, enhanced mode.
    CommitReject,
}

impl AckCode {
    const ALL: [Self; 6] = [
        Self::ApplicationAccept,
        Self::ApplicationError,
        Self::ApplicationReject,
        Self::CommitAccept,
        Self::CommitError,
        Self::CommitReject,
    ];

    /// As it is written: `AA`, `AE`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApplicationAccept => "AA",
            Self::ApplicationError => "AE",
            Self::ApplicationReject => "AR",
            Self::CommitAccept => "CA",
            Self::CommitError => "CE",
            Self::CommitReject => "CR",
        }
    }

    fn from_bytes(code: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.as_str().as_bytes() == code)
    }

    /// What it says, in either mode.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::ApplicationAccept | Self::CommitAccept => Verdict::Accept,
            Self::ApplicationError | Self::CommitError => Verdict::Error,
            Self::ApplicationReject | Self::CommitReject => Verdict::Reject,
        }
    }
}

impl fmt::Display for AckCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a receiver makes of a message, in either mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Taken: it is the receiver's now.
    Accept,
    /// Not taken this time; the same message may be taken later.
    Error,
    /// Not taken, and it won't be: its sender must change it.
    Reject,
}

/// What MSH-15 asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckMode {
    /// MSH-15 empty: AA, AE, AR.
    Original,
    /// `AL`: CA, CE, CR.
    Always,
    /// `NE`: nothing.
    Never,
    /// `ER`: CE, CR.
    OnError,
    /// `SU`: CA.
    OnSuccess,
}

impl AckMode {
    /// Of the message with this header.
    pub fn of(msh: &Msh<'_>) -> Self {
        let asked = msh.accept_acknowledgement_type().trim_ascii();
        match asked {
            _ if is_blank(asked) => Self::Original,
            b"NE" => Self::Never,
            b"ER" => Self::OnError,
            b"SU" => Self::OnSuccess,
            _ => Self::Always,
        }
    }

    /// The code that tells `verdict`, `None` where the sender wants to hear nothing in this case.
    pub fn code(self, verdict: Verdict) -> Option<AckCode> {
        let accepted = verdict == Verdict::Accept;
        match (self, verdict) {
            (Self::Original, Verdict::Accept) => Some(AckCode::ApplicationAccept),
            (Self::Original, Verdict::Error) => Some(AckCode::ApplicationError),
            (Self::Original, Verdict::Reject) => Some(AckCode::ApplicationReject),
            (Self::Never, _) => None,
            (Self::OnError, _) if accepted => None,
            (Self::OnSuccess, _) if !accepted => None,
            (_, Verdict::Accept) => Some(AckCode::CommitAccept),
            (_, Verdict::Error) => Some(AckCode::CommitError),
            (_, Verdict::Reject) => Some(AckCode::CommitReject),
        }
    }
}

/// HL7 table 0357: what kind of fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCondition {
    /// 100: the message's structure is at fault.
    SegmentSequence,
    /// 101: a required field is missing.
    RequiredFieldMissing,
    /// 205: the key exists already.
    DuplicateKey,
    /// 102: what is there has no place there.
    DataType,
    /// 207: anything else.
    Internal,
}

impl ErrorCondition {
    fn code_and_text(self) -> (&'static str, &'static str) {
        match self {
            Self::SegmentSequence => ("100", "Segment sequence error"),
            Self::RequiredFieldMissing => ("101", "Required field missing"),
            Self::DataType => ("102", "Data type error"),
            Self::DuplicateKey => ("205", "Duplicate key identifier"),
            Self::Internal => ("207", "Application internal error"),
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub condition: ErrorCondition,
    /// The MSH field at fault, where one is.
    pub msh_field: Option<usize>,
    /// For a person: what is wrong and what is allowed. Must hold no content of the message.
    pub text: String,
}

impl Refusal {
    /// A refusal that names no field.
    pub fn new(condition: ErrorCondition, text: impl Into<String>) -> Self {
        Self {
            condition,
            msh_field: None,
            text: text.into(),
        }
    }
}

impl From<MshError> for Refusal {
    fn from(error: MshError) -> Self {
        let condition = match error {
            MshError::EncodingCharactersMissing
            | MshError::HeaderCutShort { .. }
            | MshError::ControlIdMissing => ErrorCondition::RequiredFieldMissing,
            MshError::Empty
            | MshError::NotHl7 { .. }
            | MshError::Utf16
            | MshError::Batch
            | MshError::TooShort { .. }
            | MshError::FieldSeparator { .. } => ErrorCondition::SegmentSequence,
        };
        Self {
            condition,
            msh_field: error.field(),
            text: error.to_string(),
        }
    }
}

/// What became of a received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// AA or CA.
    Accepted,
    /// AE or CE: may be sent again as it is.
    Failed(Refusal),
    /// AR or CR: must be changed before it is sent again.
    Rejected(Refusal),
}

impl Outcome {
    /// The outcome without its reason.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Accepted => Verdict::Accept,
            Self::Failed(_) => Verdict::Error,
            Self::Rejected(_) => Verdict::Reject,
        }
    }

    /// Why it was not accepted.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Accepted => None,
            Self::Failed(refusal) | Self::Rejected(refusal) => Some(refusal),
        }
    }
}

/// Whether a message is itself a reply, and so not to be acknowledged: MSH-9.1 is ACK, or an MSA follows its header.
pub fn is_reply(message: &Message<'_>) -> bool {
    let follows = message.segments().nth(1);
    message.msh().message_type().code == b"ACK"
        || follows.is_some_and(|segment| segment.name() == b"MSA")
}

/// What the sender of the message with header `msh` hears about it: as MSH-15 asks, and where that asks for silence, as
/// MSH-16 does.
pub fn reply_code(msh: &Msh<'_>, verdict: Verdict) -> Option<AckCode> {
    let application = || {
        let asked = match msh.application_acknowledgement_type().trim_ascii() {
            b"AL" => true,
            b"ER" => verdict != Verdict::Accept,
            b"SU" => verdict == Verdict::Accept,
            _ => false,
        };
        asked.then(|| AckMode::Original.code(verdict)).flatten()
    };
    AckMode::of(msh).code(verdict).or_else(application)
}

/// The acknowledgement of the message with header `msh`, `None` where it asks for silence in this case.
///
/// `control_id` becomes its MSH-10; it should be 20 characters at most, as versions before 2.7 allow no more.
pub fn acknowledge(
    msh: &Msh<'_>,
    outcome: &Outcome,
    time: Hl7Time,
    control_id: &str,
) -> Option<Bytes> {
    let code = reply_code(msh, outcome.verdict())?;
    Some(build(msh, code, outcome.refusal(), time, control_id))
}

/// The reply to bytes that have no readable header: an AR with an empty MSA-2, since whoever sent them waits for
/// something. Its separators are the usual ones and it is addressed to nobody.
pub fn reject_unreadable(refusal: &Refusal, time: Hl7Time, control_id: &str) -> Bytes {
    let msh =
        Msh::scan(b"MSH|^~\\&|||||||ACK||P|2.5.1").expect("a constant that is an MSH segment");
    build(
        &msh,
        AckCode::ApplicationReject,
        Some(refusal),
        time,
        control_id,
    )
}

fn build(
    msh: &Msh<'_>,
    code: AckCode,
    refusal: Option<&Refusal>,
    time: Hl7Time,
    control_id: &str,
) -> Bytes {
    let mut out = Segments {
        bytes: Vec::with_capacity(512),
        separator: msh.field_separator(),
    };
    let encoding = msh.encoding_characters();
    let joined = |parts: &[&[u8]]| parts.join(&encoding.component);

    let declared = if msh.field(2).is_empty() {
        &b"^~\\&"[..]
    } else {
        msh.field(2)
    };
    let message_type = match msh.message_type().event {
        b"" => b"ACK".to_vec(),
        event
            if msh
                .version_number()
                .is_some_and(|version| version >= (2, 4)) =>
        {
            joined(&[b"ACK", event, b"ACK"])
        }
        event => joined(&[b"ACK", event]),
    };
    // A sender may separate its fields by `+` or `.`.
    let escaped = |text: &str| escaped(text, out.separator, encoding, msh.charset());
    let time = escaped(&time.to_string());
    let mut header: [&[u8]; 18] = [b""; 18];
    header[2 - 1] = declared;
    header[3 - 1] = msh.receiving_application();
    header[4 - 1] = msh.receiving_facility();
    header[5 - 1] = msh.sending_application();
    header[6 - 1] = msh.sending_facility();
    header[7 - 1] = &time;
    header[9 - 1] = &message_type;
    header[10 - 1] = control_id.as_bytes();
    header[11 - 1] = msh.processing_id();
    header[12 - 1] = msh.version();
    header[18 - 1] = msh.character_set();
    let text = refusal
        .map(|refusal| escaped(&refusal.text))
        .unwrap_or_default();
    // MSH-1 is the separator that `segment` writes anyway.
    out.segment(b"MSH", &header[1..]);
    // MSH-10 is echoed as it stands, even where it is blank: the sender finds its own bytes again.
    out.segment(b"MSA", &[code.as_str().as_bytes(), msh.field(10), &text]);

    if let Some(refusal) = refusal
        && msh.version_number().is_none_or(|version| version >= (2, 5))
    {
        let location = match refusal.msh_field {
            Some(field) => joined(&[b"MSH", b"1", field.to_string().as_bytes()]),
            None => Vec::new(),
        };
        let (number, name) = refusal.condition.code_and_text();
        let condition = joined(&[number.as_bytes(), name.as_bytes(), b"HL70357"]);
        out.segment(
            b"ERR",
            &[b"", &location, &condition, b"E", b"", b"", b"", &text],
        );
    }
    out.bytes.into()
}

struct Segments {
    bytes: Vec<u8>,
    separator: u8,
}

impl Segments {
    /// Writes a segment, without the empty fields at its end.
    fn segment(&mut self, name: &[u8], fields: &[&[u8]]) {
        self.bytes.extend_from_slice(name);
        let used = fields
            .iter()
            .rposition(|field| !field.is_empty())
            .map_or(0, |last| last + 1);
        for field in &fields[..used] {
            self.bytes.push(self.separator);
            self.bytes.extend_from_slice(field);
        }
        self.bytes.push(b'\r');
    }
}

/// `text` in the sender's character set, with the message's separators escaped and `?` for what the set does not have.
fn escaped(text: &str, separator: u8, encoding: EncodingCharacters, charset: Charset) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for character in text.chars().take(REASON_CHARACTERS_MAX) {
        let written = charset.encode(character).unwrap_or_else(|| vec![b'?']);
        let letter = match written[..] {
            [byte] if byte == separator => b'F',
            [byte] if byte == encoding.component => b'S',
            [byte] if byte == encoding.repetition => b'R',
            [byte] if byte == encoding.escape => b'E',
            [byte] if byte == encoding.subcomponent => b'T',
            _ => {
                out.extend_from_slice(&written);
                continue;
            }
        };
        out.extend_from_slice(&[encoding.escape, letter, encoding.escape]);
    }
    out
}

#[cfg(test)]
#[path = "ack_tests.rs"]
mod tests;
