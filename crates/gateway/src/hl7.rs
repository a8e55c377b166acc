//! A read-only view of an HL7 message: segments, fields, components, all borrowed from its bytes.
//!
//! Our own and small rather than the `hl7-parser` crate, for four reasons: that one wants the whole message as UTF-8
//! (MSH-18 may say otherwise), refuses headers without MSH-2 (such messages must be read far enough to say what they
//! lack), allocates a tree of every component to answer one question, and its errors may quote the message. What is
//! needed here is to look a few fields up and to leave every byte alone.
//!
//! Segments end in CR, LF or CRLF, mixed or not. A line that is no segment (free text with a line break in it) is
//! skipped over by name like any segment nobody asks for.

use crate::charset::{Charset, Pieces, Reading};
use crate::msh::{EncodingCharacters, Msh, MshError, from_header, is_blank, is_segment_end};

/// A message and what separates its parts. What stands before its header (a byte order mark, blanks) is not shown.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    msh: Msh<'a>,
}

/// One segment, without what ends it.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    bytes: &'a [u8],
    separator: u8,
    encoding: EncodingCharacters,
    reading: Reading,
}

/// One field, raw.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    bytes: &'a [u8],
    encoding: EncodingCharacters,
    reading: Reading,
}

impl<'a> Message<'a> {
    /// Reads the header and nothing more.
    ///
    /// # Errors
    /// As [`Msh::scan`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, MshError> {
        Self::read_in(bytes, None)
    }

    /// As [`Message::read`], in `charset` where MSH-18 does not say otherwise.
    ///
    /// # Errors
    /// As [`Msh::scan`].
    pub fn read_in(bytes: &'a [u8], charset: Option<Charset>) -> Result<Self, MshError> {
        Ok(Self {
            bytes: from_header(bytes),
            msh: Msh::scan_in(bytes, charset)?,
        })
    }

    /// The header.
    pub fn msh(&self) -> Msh<'a> {
        self.msh
    }

    /// All segments in order, MSH first; empty lines left out.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> + use<'a> {
        let (separator, encoding) = (self.msh.field_separator(), self.msh.encoding_characters());
        let reading = self.msh.reading();
        self.bytes
            .split(|byte| is_segment_end(*byte))
            .filter(|bytes| !bytes.is_empty())
            .map(move |bytes| Segment {
                bytes,
                separator,
                encoding,
                reading,
            })
    }

    /// The segments of that name, in order.
    pub fn named(&self, name: &'static str) -> impl Iterator<Item = Segment<'a>> + use<'a> {
        self.segments()
            .filter(move |segment| segment.name() == name.as_bytes())
    }

    /// The first segment of that name.
    pub fn first(&self, name: &'static str) -> Option<Segment<'a>> {
        self.named(name).next()
    }

    /// What ends the first segment: CR, LF or CRLF; CR where nothing does.
    pub fn segment_end(&self) -> &'static [u8] {
        let mut ends = self.bytes.iter().skip_while(|byte| !is_segment_end(**byte));
        match (ends.next(), ends.next()) {
            (Some(b'\n'), _) => b"\n",
            (Some(_), Some(b'\n')) => b"\r\n",
            _ => b"\r",
        }
    }

    /// Whether the last segment is ended as well; senders differ.
    pub fn is_ended(&self) -> bool {
        self.bytes.last().is_some_and(|byte| is_segment_end(*byte))
    }
}

impl<'a> Segment<'a> {
    /// Its name: what stands before the first separator.
    pub fn name(&self) -> &'a [u8] {
        self.pieces().next().unwrap_or_default()
    }

    fn pieces(&self) -> Pieces<'a> {
        self.reading.split(self.bytes, self.separator)
    }

    /// Field `number`, empty where the segment ends before it. Not for MSH, whose numbers are shifted by one: see
    /// [`Msh::field`].
    pub fn field(&self, number: usize) -> Field<'a> {
        Field {
            bytes: self.pieces().nth(number).unwrap_or_default(),
            encoding: self.encoding,
            reading: self.reading,
        }
    }
}

impl<'a> Field<'a> {
    /// The field as it stands.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it says nothing: empty, blank, or the HL7 null.
    pub fn is_blank(&self) -> bool {
        is_blank(self.bytes)
    }

    /// Its repetitions; one, maybe empty, where it does not repeat.
    pub fn repetitions(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let (encoding, reading) = (self.encoding, self.reading);
        reading
            .split(self.bytes, encoding.repetition)
            .map(move |bytes| Field {
                bytes,
                encoding,
                reading,
            })
    }

    /// Component `number`, from 1, of the first repetition; empty where there is none.
    pub fn component(&self, number: usize) -> &'a [u8] {
        let mut repetitions = self.reading.split(self.bytes, self.encoding.repetition);
        let first = repetitions.next().unwrap_or_default();
        let mut components = self.reading.split(first, self.encoding.component);
        number
            .checked_sub(1)
            .and_then(|index| components.nth(index))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments_fields_and_components_are_found_with_every_segment_end() {
        for end in ["\r", "\n", "\r\n"] {
            let text = format!(
                "MSH|^~\\&|A{end}PID|1||77^^^MR~88^^^XX||DOE^JANE{end}free text{end}OBR|1{end}OBR|2"
            );
            let message = Message::read(text.as_bytes()).unwrap();
            let names: Vec<_> = message.segments().map(|segment| segment.name()).collect();
            assert_eq!(names, [&b"MSH"[..], b"PID", b"free text", b"OBR", b"OBR"]);
            let identifier = message.first("PID").unwrap().field(3);
            assert_eq!(identifier.repetitions().count(), 2);
            assert_eq!(identifier.component(1), b"77");
            assert_eq!(identifier.component(4), b"MR");
            assert_eq!(identifier.component(9), b"");
            assert_eq!(identifier.component(0), b"");
            assert_eq!(identifier.repetitions().nth(1).unwrap().component(1), b"88");
            assert!(message.first("PID").unwrap().field(30).is_blank());
            assert_eq!(message.named("OBR").count(), 2);
            assert_eq!(message.segment_end(), end.as_bytes());
            assert!(!message.is_ended());
        }
    }

    #[test]
    fn a_header_alone_counts_as_ended_by_a_carriage_return() {
        let message = Message::read(b"MSH|^~\\&|A").unwrap();
        assert_eq!(message.segment_end(), b"\r");
        assert!(!message.is_ended());
        assert!(Message::read(b"MSH|^~\\&|A\r").unwrap().is_ended());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_view_panic(tail in "[A-Z0-9|^~\r\n\\\\&\u{0}-\u{ff}]{0,200}") {
            let text = format!("MSH|^~\\&|{tail}");
            let message = Message::read(text.as_bytes()).unwrap();
            for segment in message.segments() {
                for number in 0..12 {
                    let field = segment.field(number);
                    prop_assert!(field.repetitions().count() >= 1);
                    prop_assert!(field.component(number).len() <= text.len());
                }
            }
        }
    }
}
