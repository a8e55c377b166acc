//! The message header, read in place.
//!
//! A gateway must know who sent a message, its control id and which acknowledgement is wanted, and nothing else. So the
//! MSH segment is read at byte level, without parsing what follows and without rendering anything anew: MSH-3 of a message
//! is the very bytes between its separators. Which bytes are separators depends on the character set where one of its
//! characters may hold a byte that looks like one: MSH-18 says, or the listener's `charset`.
//!
//! A byte order mark, line ends and blanks before `MSH` are skipped by reading, and by nothing else.
//!
//! What is *not* required here: MSH-2, MSH-9 or anything after the header. A message that lacks them is accepted,
//! stored and then judged by the interface's stages, where a person sees it and can redrive it. Only what makes it
//! impossible to identify or to answer the message is refused at the door: no MSH, or no MSH-10.

use std::fmt;

use uuid::Uuid;

use crate::charset::{Charset, Pieces, Reading};
use crate::mllp::{BYTE_ORDER_MARK, is_utf16};

/// Name space of the message ids derived from HL7 headers: UUIDv5 of the DNS name `hl7.ordo.invalid`.
///
/// Permanent: another value would make every message of a sender that repeats itself look new.
pub const MESSAGE_ID_NAMESPACE: Uuid = Uuid::from_u128(0x5bce54cb_29585479_8213d43a_14b3c63a);

/// Why bytes can't be taken as an HL7 message. Each names what is wrong and where, and none holds content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MshError {
    /// No bytes at all.
    #[error("not HL7: the message is empty")]
    Empty,
    /// It begins with something else than `MSH`.
    #[error("not HL7: the message begins with 0x{first:02x}, not with an MSH segment")]
    NotHl7 {
        /// The first byte found.
        first: u8,
    },
    /// Text in UTF-16.
    #[error(
        "the message is in UTF-16, which is not read; send UTF-8 or a character set of single bytes"
    )]
    Utf16,
    /// A batch or file envelope.
    #[error(
        "the message is an HL7 batch or file (FHS or BHS segment); send its messages one by one"
    )]
    Batch,
    /// It ends before MSH-2 can begin.
    #[error("not HL7: the message ends within its first {length} bytes, before MSH-2")]
    TooShort {
        /// Length of the message in bytes.
        length: usize,
    },
    /// A letter, digit, blank, control or non-ASCII byte in the place of the field separator, or one that separates
    /// what is inside a field.
    #[error("MSH-1 field separator is 0x{found:02x}, which can't separate fields")]
    FieldSeparator {
        /// The byte found.
        found: u8,
    },
    /// MSH-2 is empty.
    #[error("MSH-2 encoding characters are missing")]
    EncodingCharactersMissing,
    /// The segment ends before MSH-10.
    #[error("MSH-10 message control id is missing: the MSH segment ends at MSH-{last}")]
    HeaderCutShort {
        /// Number of the last field present.
        last: usize,
    },
    /// MSH-10 is there but holds nothing.
    #[error("MSH-10 message control id is missing")]
    ControlIdMissing,
}

impl MshError {
    /// Number of the MSH field at fault, where one is.
    pub fn field(&self) -> Option<usize> {
        match self {
            Self::Empty
            | Self::NotHl7 { .. }
            | Self::Utf16
            | Self::Batch
            | Self::TooShort { .. } => None,
            Self::FieldSeparator { .. } => Some(1),
            Self::EncodingCharactersMissing => Some(2),
            Self::HeaderCutShort { .. } | Self::ControlIdMissing => Some(10),
        }
    }
}

/// MSH-2: the bytes that separate what is inside a field. Those not declared have their usual values, and so have those
/// that are no ASCII: in no character set would every such byte be a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodingCharacters {
    /// Between components, usually `^`.
    pub component: u8,
    /// Between repetitions, usually `~`.
    pub repetition: u8,
    /// Before and after an escape sequence, usually `\`.
    pub escape: u8,
    /// Between subcomponents, usually `&`.
    pub subcomponent: u8,
}

impl EncodingCharacters {
    /// `^~\&`
    pub const USUAL: Self = Self {
        component: b'^',
        repetition: b'~',
        escape: b'\\',
        subcomponent: b'&',
    };

    fn from_msh2(declared: &[u8]) -> Self {
        let at = |index: usize, usual: u8| {
            let declared = declared.get(index).copied();
            declared.filter(u8::is_ascii).unwrap_or(usual)
        };
        Self {
            component: at(0, Self::USUAL.component),
            repetition: at(1, Self::USUAL.repetition),
            escape: at(2, Self::USUAL.escape),
            subcomponent: at(3, Self::USUAL.subcomponent),
        }
    }

    fn contains(self, byte: u8) -> bool {
        [
            self.component,
            self.repetition,
            self.escape,
            self.subcomponent,
        ]
        .contains(&byte)
    }
}

/// MSH-9, raw: for example `ORM`, `O01`, `ORM_O01`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MessageType<'a> {
    /// MSH-9.1
    pub code: &'a [u8],
    /// MSH-9.2
    pub event: &'a [u8],
    /// MSH-9.3, often absent.
    pub structure: &'a [u8],
}

impl fmt::Display for MessageType<'_> {
    /// `ORM^O01`, for people; see [`printable`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(self.code, 16))?;
        if !self.event.is_empty() {
            write!(f, "^{}", printable(self.event, 16))?;
        }
        Ok(())
    }
}

/// The header of a message, borrowed from its bytes.
#[derive(Clone, Copy)]
pub struct Msh<'a> {
    /// From `MSH` to just before the segment's end.
    segment: &'a [u8],
    separator: u8,
    encoding: EncodingCharacters,
    charset: Charset,
}

impl fmt::Debug for Msh<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msh")
            .field("length", &self.segment.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Msh<'a> {
    /// Finds the header. The segment ends at the first CR or LF, or with the message.
    ///
    /// # Errors
    /// Where the message does not begin with an MSH segment that has a usable field separator.
    pub fn scan(message: &'a [u8]) -> Result<Self, MshError> {
        Self::scan_in(message, None)
    }

    /// As [`Msh::scan`], for a sender whose messages are in `charset` where MSH-18 does not say otherwise.
    ///
    /// # Errors
    /// As [`Msh::scan`].
    pub fn scan_in(message: &'a [u8], charset: Option<Charset>) -> Result<Self, MshError> {
        if is_utf16(message) {
            return Err(MshError::Utf16);
        }
        let message = from_header(message);
        let Some(&first) = message.first() else {
            return Err(MshError::Empty);
        };
        if message.starts_with(b"FHS") || message.starts_with(b"BHS") {
            return Err(MshError::Batch);
        }
        if !message.starts_with(b"MSH") {
            return Err(match is_utf16(message) {
                true => MshError::Utf16,
                false => MshError::NotHl7 { first },
            });
        }
        let end = message
            .iter()
            .position(|byte| is_segment_end(*byte))
            .unwrap_or(message.len());
        let segment = &message[..end];
        let Some(&separator) = segment.get(3) else {
            return Err(MshError::TooShort { length: end });
        };
        if !separator.is_ascii_punctuation() {
            return Err(MshError::FieldSeparator { found: separator });
        }
        let mut msh = Self {
            segment,
            separator,
            encoding: EncodingCharacters::USUAL,
            charset: Charset::ASCII,
        };
        msh.encoding = EncodingCharacters::from_msh2(msh.field(2));
        msh.charset = msh.find_charset(charset);
        match msh.encoding.contains(separator) {
            // Where MSH-2 says less than all of them: a reply's components would read as fields.
            true => Err(MshError::FieldSeparator { found: separator }),
            false => Ok(msh),
        }
    }

    /// The character set: what MSH-18 says where it is found by reading as it says, else what the listener says.
    fn find_charset(&self, otherwise: Option<Charset>) -> Charset {
        let declared = |reading| {
            let as_read = Self {
                charset: Charset {
                    reading,
                    ..Charset::ASCII
                },
                ..*self
            };
            Charset::declared(as_read.character_set(), self.encoding.repetition)
                .filter(|declared| declared.reading == reading)
        };
        let is_ascii = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let said = Charset::declared(self.character_set(), self.encoding.repetition);
        let found = match self.segment.iter().all(is_ascii) {
            // It reads the same in all of them.
            true => said,
            false => {
                let multibyte = Reading::MULTIPLE_BYTES.into_iter().find_map(declared);
                // A set by which MSH-18 is not where it was found is not the one that the header is in.
                let reading = Reading::Bytes;
                multibyte.or(said.map(|said| Charset { reading, ..said }))
            }
        };
        found.or(otherwise).unwrap_or(Charset::ASCII)
    }

    /// The character set of the message, as far as it is known.
    pub fn charset(&self) -> Charset {
        self.charset
    }

    /// MSH-1
    pub fn field_separator(&self) -> u8 {
        self.separator
    }

    /// MSH-2, completed with the usual characters.
    pub fn encoding_characters(&self) -> EncodingCharacters {
        self.encoding
    }

    /// Field `number` as it stands, empty where the segment ends before it. MSH-1 is the separator itself.
    pub fn field(&self, number: usize) -> &'a [u8] {
        match number {
            0 => &[],
            1 => &self.segment[3..4],
            _ => self.fields_from_2().nth(number - 2).unwrap_or_default(),
        }
    }

    fn fields_from_2(&self) -> Pieces<'a> {
        self.reading().split(&self.segment[4..], self.separator)
    }

    pub(crate) fn reading(&self) -> Reading {
        self.charset.reading
    }

    /// MSH-3 sending application.
    pub fn sending_application(&self) -> &'a [u8] {
        self.field(3)
    }

    /// MSH-4 sending facility.
    pub fn sending_facility(&self) -> &'a [u8] {
        self.field(4)
    }

    /// MSH-5 receiving application.
    pub fn receiving_application(&self) -> &'a [u8] {
        self.field(5)
    }

    /// MSH-6 receiving facility.
    pub fn receiving_facility(&self) -> &'a [u8] {
        self.field(6)
    }

    /// MSH-7 date and time of the message, as its sender wrote it.
    pub fn date_time(&self) -> &'a [u8] {
        self.field(7)
    }

    /// MSH-9 message type.
    pub fn message_type(&self) -> MessageType<'a> {
        let mut parts = self.reading().split(self.field(9), self.encoding.component);
        let mut next = || parts.next().unwrap_or_default();
        MessageType {
            code: next(),
            event: next(),
            structure: next(),
        }
    }

    /// MSH-10 message control id.
    ///
    /// # Errors
    /// Where the segment ends before it or the field is empty, blank or the HL7 null (`""`).
    pub fn control_id(&self) -> Result<&'a [u8], MshError> {
        let last = self.fields_from_2().count() + 1;
        if last < 10 {
            return Err(MshError::HeaderCutShort { last });
        }
        let id = self.field(10);
        if is_blank(id) {
            Err(MshError::ControlIdMissing)
        } else {
            Ok(id)
        }
    }

    /// MSH-11 processing id.
    pub fn processing_id(&self) -> &'a [u8] {
        self.field(11)
    }

    /// MSH-12 version id.
    pub fn version(&self) -> &'a [u8] {
        self.field(12)
    }

    /// MSH-12 as (major, minor), `None` where it is not a version: `2.5.1` is (2, 5).
    pub fn version_number(&self) -> Option<(u32, u32)> {
        let id = self
            .version()
            .split(|byte| *byte == self.encoding.component)
            .next()?;
        let mut parts = std::str::from_utf8(id)
            .ok()?
            .split('.')
            .map(|part| part.trim().parse().ok());
        Some((parts.next()??, parts.next().flatten().unwrap_or(0)))
    }

    /// MSH-13 sequence number.
    pub fn sequence_number(&self) -> &'a [u8] {
        self.field(13)
    }

    /// MSH-15 accept acknowledgement type.
    pub fn accept_acknowledgement_type(&self) -> &'a [u8] {
        self.field(15)
    }

    /// MSH-16 application acknowledgement type.
    pub fn application_acknowledgement_type(&self) -> &'a [u8] {
        self.field(16)
    }

    /// MSH-18 character sets.
    pub fn character_set(&self) -> &'a [u8] {
        self.field(18)
    }

    /// The identity of the message: UUIDv5 in [`MESSAGE_ID_NAMESPACE`] of MSH-3, MSH-4 and MSH-10.
    ///
    /// The hashed name is, for each of the three in this order, its length in bytes as a big-endian `u32` followed by
    /// its raw bytes. The lengths keep `AB`, `C` apart from `A`, `BC` without any byte that a field couldn't hold. The
    /// bytes are taken as they stand: no trimming, no unescaping, no case folding, components and all.
    ///
    /// # Errors
    /// As [`Msh::control_id`]: without MSH-10 a message has no identity.
    pub fn message_id(&self) -> Result<Uuid, MshError> {
        let parts = [
            self.sending_application(),
            self.sending_facility(),
            self.control_id()?,
        ];
        let mut name = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
        for part in parts {
            // A field lies within one frame, which is far below 4 GiB; the low 32 bits are its length.
            name.extend_from_slice(&(part.len() as u32).to_be_bytes());
            name.extend_from_slice(part);
        }
        Ok(Uuid::new_v5(&MESSAGE_ID_NAMESPACE, &name))
    }
}

/// The message from its header on: without a byte order mark, line ends and blanks before it.
pub(crate) fn from_header(message: &[u8]) -> &[u8] {
    let mut rest = message;
    loop {
        rest = match rest {
            [b'\r' | b'\n' | b' ' | b'\t', rest @ ..] => rest,
            _ => match rest.strip_prefix(BYTE_ORDER_MARK) {
                Some(rest) => rest,
                None => return rest,
            },
        };
    }
}

/// Whether `byte` ends a segment.
pub(crate) fn is_segment_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Whether a field says nothing: empty, blanks only, or the HL7 null `""`.
pub(crate) fn is_blank(field: &[u8]) -> bool {
    let field = field.trim_ascii();
    field.is_empty() || field == b"\"\""
}

/// The printable ASCII of an identifier, anything else as `?`, cut after `length_max` characters. For headers, tables
/// and log lines; only ever used on MSH fields and codes, never on what follows the header.
pub fn printable(identifier: &[u8], length_max: usize) -> String {
    let shown = |byte: &u8| {
        if byte.is_ascii_graphic() || *byte == b' ' {
            char::from(*byte)
        } else {
            '?'
        }
    };
    identifier.iter().take(length_max).map(shown).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use proptest::prelude::*;

    use super::*;

    const ORDER: &[u8] = b"MSH|^~\\&|HIS|WARD^1.2^ISO|LIS|LAB|20240101||ORM^O01^ORM_O01|RAD-1|P|2.5.1|7||AL|NE||UNICODE UTF-8\rPID|1||9";

    #[test]
    fn the_namespace_is_derived_as_documented() {
        assert_eq!(
            MESSAGE_ID_NAMESPACE,
            Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"hl7.ordo.invalid")
        );
    }

    #[test]
    fn every_field_is_found_whatever_ends_the_segment() {
        for end in ["\r", "\n", "\r\n", ""] {
            let text = String::from_utf8(ORDER.to_vec()).unwrap();
            let message = if end.is_empty() {
                text[..text.find('\r').unwrap()].into()
            } else {
                text.replace('\r', end)
            };
            let msh = Msh::scan(message.as_bytes()).unwrap();
            assert_eq!(msh.field_separator(), b'|');
            assert_eq!(msh.field(1), b"|");
            assert_eq!(msh.encoding_characters(), EncodingCharacters::USUAL);
            assert_eq!(msh.sending_application(), b"HIS");
            assert_eq!(msh.sending_facility(), b"WARD^1.2^ISO");
            assert_eq!(msh.receiving_application(), b"LIS");
            assert_eq!(msh.receiving_facility(), b"LAB");
            assert_eq!(msh.date_time(), b"20240101");
            assert_eq!(msh.message_type().code, b"ORM");
            assert_eq!(msh.message_type().event, b"O01");
            assert_eq!(msh.message_type().structure, b"ORM_O01");
            assert_eq!(msh.message_type().to_string(), "ORM^O01");
            assert_eq!(msh.control_id(), Ok(&b"RAD-1"[..]));
            assert_eq!(msh.processing_id(), b"P");
            assert_eq!(msh.version_number(), Some((2, 5)));
            assert_eq!(msh.sequence_number(), b"7");
            assert_eq!(msh.accept_acknowledgement_type(), b"AL");
            assert_eq!(msh.application_acknowledgement_type(), b"NE");
            assert_eq!(msh.character_set(), b"UNICODE UTF-8");
            assert_eq!(msh.field(19), b"");
            assert_eq!(msh.field(0), b"");
        }
    }

    #[test]
    fn other_separators_are_read_from_the_header() {
        let msh = Msh::scan(b"MSH#*~\\&#A#B#C#D###ORM*O01#7").unwrap();
        assert_eq!(msh.field_separator(), b'#');
        assert_eq!(msh.message_type().event, b"O01");
        assert_eq!(msh.control_id(), Ok(&b"7"[..]));
    }

    #[test]
    fn a_separator_of_fields_separates_nothing_inside_them() {
        let found = |message: &[u8]| Msh::scan(message).unwrap_err();
        assert_eq!(found(b"MSH^"), MshError::FieldSeparator { found: b'^' });
        assert_eq!(
            found(b"MSH&|~^&A"),
            MshError::FieldSeparator { found: b'&' }
        );
        let declared = Msh::scan(b"MSH^|~\\&^A^B").unwrap();
        assert_eq!(declared.sending_application(), b"A");
    }

    #[test]
    fn a_mark_line_ends_and_blanks_before_the_header_are_skipped_by_reading() {
        for before in ["\u{feff}", "\r\n", " \t", "\u{feff}\r\n ", "\n\u{feff}"] {
            let message = [before.as_bytes(), ORDER].concat();
            let msh = Msh::scan(&message).unwrap();
            assert_eq!(msh.control_id(), Ok(&b"RAD-1"[..]));
            assert_eq!(msh.message_id(), Msh::scan(ORDER).unwrap().message_id());
        }
    }

    #[test]
    fn a_byte_of_a_longer_character_is_no_separator_where_msh_18_or_the_listener_says_so() {
        let message = |facility: &[u8], msh_18: &str| {
            let tail = format!("|LIS|LAB|20240101||ORM^O01|V1|P|2.5||||||{msh_18}\rPID|1");
            [b"MSH|^~\\&|HIS|", facility, tail.as_bytes()].concat()
        };
        let cases: [(&[u8], &str, &str); 6] = [
            (b"\x1b$BK|IB1!\x1b(B", "~ISO IR87", ""),
            (b"\x1b$BK|IB1!\x1b(B", "", "ISO IR87"),
            (b"\x83\x7c\x83\x5e", "", "Shift_JIS"),
            (b"\xa4\x7c\xa4\x5c", "BIG-5", ""),
            (b"\x81\x7c", "GB 18030-2000", ""),
            // MSH-18 is believed, not the listener.
            (b"\xc3\xa4", "UNICODE UTF-8", "BIG-5"),
        ];
        for (facility, msh_18, listener) in cases {
            let message = message(facility, msh_18);
            let charset = Charset::named(listener.as_bytes());
            let msh = Msh::scan_in(&message, charset).unwrap();
            assert_eq!(msh.sending_facility(), facility);
            assert_eq!(msh.message_type().event, b"O01");
            assert_eq!(msh.control_id(), Ok(&b"V1"[..]), "{msh_18} {listener}");
            assert_eq!(msh.character_set(), msh_18.as_bytes());
        }
    }

    #[test]
    fn an_encoding_character_is_ascii() {
        let msh = Msh::scan(b"MSH|:~\xc9&|A").unwrap();
        let expected = EncodingCharacters {
            component: b':',
            ..EncodingCharacters::USUAL
        };
        assert_eq!(msh.encoding_characters(), expected);
        assert_eq!(msh.field(2), b":~\xc9&");
    }

    #[test]
    fn an_empty_msh_2_reads_with_the_usual_characters() {
        let msh = Msh::scan(b"MSH||A|B|C|D|||ORM^O01|111").unwrap();
        assert_eq!(msh.field(2), b"");
        assert_eq!(msh.message_type().event, b"O01");
        assert_eq!(msh.control_id(), Ok(&b"111"[..]));
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let fault = |message: &[u8]| {
            Msh::scan(message)
                .and_then(|msh| msh.control_id().map(drop))
                .unwrap_err()
        };
        assert_eq!(fault(b""), MshError::Empty);
        assert_eq!(fault(b"GET / HTTP/1.1"), MshError::NotHl7 { first: b'G' });
        assert_eq!(fault(b"M\0S\0H\0|\0"), MshError::Utf16);
        assert_eq!(fault(b"\xff\xfeM\0S\0H\0|\0"), MshError::Utf16);
        assert_eq!(fault(b"\0M\0S\0H\0|"), MshError::Utf16);
        assert_eq!(fault(b"BHS|^~\\&|"), MshError::Batch);
        assert_eq!(fault(b"MSH"), MshError::TooShort { length: 3 });
        assert_eq!(fault(b"MSH\rPID|"), MshError::TooShort { length: 3 });
        assert_eq!(fault(b"MSH A"), MshError::FieldSeparator { found: b' ' });
        assert_eq!(fault(b"MSHA"), MshError::FieldSeparator { found: b'A' });
        assert_eq!(
            fault(b"MSH|^~\\&|A|B"),
            MshError::HeaderCutShort { last: 4 }
        );
        assert_eq!(fault(b"MSH|"), MshError::HeaderCutShort { last: 2 });
        for empty in ["", "  ", "\"\""] {
            let message = format!("MSH|^~\\&|A|B|C|D|||ORM^O01|{empty}|P\rPID|1");
            assert_eq!(fault(message.as_bytes()), MshError::ControlIdMissing);
        }
        assert_eq!(MshError::ControlIdMissing.field(), Some(10));
    }

    #[test]
    fn a_message_id_depends_on_sender_and_control_id_only_and_joins_them_unambiguously() {
        let id = |text: &str| Msh::scan(text.as_bytes()).unwrap().message_id().unwrap();
        let first = id("MSH|^~\\&|AB|C|x|y|1||ORM^O01|7|P|2.3\rPID|1");
        assert_eq!(first, id("MSH|^~\\&|AB|C|z|z|2||OML^O21|7|T|2.5\nPID|2"));
        assert_ne!(first, id("MSH|^~\\&|A|BC|x|y|1||ORM^O01|7|P|2.3\rPID|1"));
        assert_ne!(first, id("MSH|^~\\&|AB||x|y|1||ORM^O01|C7|P|2.3\rPID|1"));
        assert_ne!(first, id("MSH|^~\\&|AB|C|x|y|1||ORM^O01|8|P|2.3\rPID|1"));
        // Pinned: it stands in logs and dead letters for as long as those are kept.
        let expected = Uuid::new_v5(&MESSAGE_ID_NAMESPACE, b"\0\0\0\x02AB\0\0\0\x01C\0\0\0\x017");
        assert_eq!(first, expected);
        assert_eq!(first.get_version_num(), 5);
    }

    #[test]
    fn printable_text_is_bounded_ascii() {
        assert_eq!(printable(b"RAD-1\x00\xff|x", 8), "RAD-1??|");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_scanner_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
            let mut message = if header { b"MSH|".to_vec() } else { Vec::new() };
            message.extend_from_slice(&tail);
            if let Ok(msh) = Msh::scan(&message) {
                let _ = (msh.message_id(), msh.version_number(), msh.message_type().to_string());
                for number in 0..25 {
                    prop_assert!(!msh.field(number).iter().any(|byte| is_segment_end(*byte)));
                }
            }
        }
    }
}
