//! Several messages in one frame: an envelope (FHS, BHS), or one message after the other without any.

use bytes::Bytes;

use crate::msh::{from_header, is_segment_end};

/// Most messages that are taken out of one frame.
pub(crate) const MESSAGES_MAX: usize = 10_000;

/// A frame's messages.
#[derive(Debug)]
pub(super) struct Frame {
    /// Each as it stands in the frame, up to the next or to what ends the batch.
    pub(super) messages: Vec<Bytes>,
    /// The segments of the envelope, where it has one.
    pub(super) file: Option<Bytes>,
    pub(super) batch: Option<Bytes>,
}

/// What a segment that matters here is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    File,
    Batch,
    End,
}

impl Kind {
    /// Of a line; `None` where it belongs to the message before it.
    fn of(line: &[u8]) -> Option<Self> {
        if !line.get(3).is_none_or(u8::is_ascii_punctuation) {
            return None;
        }
        match line.get(..3)? {
            b"MSH" => Some(Self::Message),
            b"FHS" => Some(Self::File),
            b"BHS" => Some(Self::Batch),
            b"BTS" | b"FTS" => Some(Self::End),
            _ => None,
        }
    }
}

impl Frame {
    /// Finds the messages of a frame without copying them; `None` where it holds one message, or nothing that is any.
    pub(super) fn open(payload: &Bytes) -> Option<Self> {
        let begin = payload.len() - from_header(payload).len();
        let first = Kind::of(&payload[begin..])?;
        let mut frame = Self {
            messages: Vec::new(),
            file: None,
            batch: None,
        };
        // Where the message that is being read begins.
        let mut message = None;
        let mut at = begin;
        while at < payload.len() {
            let rest = &payload[at..];
            let length = rest
                .iter()
                .position(|byte| is_segment_end(*byte))
                .unwrap_or(rest.len());
            if let Some(kind) = Kind::of(&rest[..length]) {
                if let Some(begin) = message.take() {
                    frame.messages.push(payload.slice(begin..at));
                }
                let line = || payload.slice(at..at + length);
                match kind {
                    Kind::Message => message = Some(at),
                    Kind::File => frame.file = Some(line()),
                    Kind::Batch => frame.batch = Some(line()),
                    Kind::End => {}
                }
            }
            at += length + 1;
        }
        if let Some(begin) = message {
            frame.messages.push(payload.slice(begin..));
        }
        (first != Kind::Message || frame.messages.len() > 1).then_some(frame)
    }

    /// Its form, for people.
    pub(super) fn refusal(&self) -> String {
        let count = self.messages.len();
        match (&self.file, &self.batch) {
            (None, None) => format!(
                "the frame holds {count} messages (MSH segments); send each in a frame of its own, or let this listener \
                 split them (batch = \"split\")"
            ),
            _ => format!(
                "the message is an HL7 batch or file (FHS or BHS segment) of {count} messages; send them one by one, or \
                 let this listener split it (batch = \"split\")"
            ),
        }
    }

    /// The reply to an envelope: its replies in an envelope of the same kind, in the other direction. `None` where it
    /// came without one.
    pub(super) fn reply(&self, replies: &[Bytes], time: &str, control_id: &str) -> Option<Bytes> {
        if self.batch.is_none() && self.file.is_none() {
            return None;
        }
        let separator = |line: &Bytes| line.get(3).copied().unwrap_or(b'|');
        let mut out = Vec::new();
        if let Some(file) = &self.file {
            out.extend(header(b"FHS", file, time, control_id));
        }
        if let Some(batch) = &self.batch {
            out.extend(header(b"BHS", batch, time, control_id));
        }
        out.extend(replies.concat());
        let mut end = |name: &[u8], line: &Bytes, count: usize| {
            out.extend_from_slice(name);
            out.push(separator(line));
            out.extend_from_slice(count.to_string().as_bytes());
            out.push(b'\r');
        };
        if let Some(batch) = &self.batch {
            end(b"BTS", batch, replies.len());
        }
        if let Some(file) = &self.file {
            end(b"FTS", file, usize::from(self.batch.is_some()));
        }
        Some(out.into())
    }
}

/// A header in answer to `line`: sender and receiver change places, and field 12 names the control id it had.
fn header(name: &[u8], line: &[u8], time: &str, control_id: &str) -> Vec<u8> {
    let separator = line.get(3).copied().unwrap_or(b'|');
    let fields: Vec<_> = line.split(|byte| *byte == separator).collect();
    // The first is the name; field 1 is the separator itself, as in MSH.
    let field = |number: usize| fields.get(number - 1).copied().unwrap_or_default();
    let declared = match field(2) {
        b"" => b"^~\\&",
        declared => declared,
    };
    let mut answer: [&[u8]; 11] = [b""; 11];
    answer[0] = declared;
    (answer[1], answer[2]) = (field(5), field(6));
    (answer[3], answer[4]) = (field(3), field(4));
    answer[5] = time.as_bytes();
    answer[9] = control_id.as_bytes();
    answer[10] = field(11);
    let mut out = name.to_vec();
    for value in answer {
        out.push(separator);
        out.extend_from_slice(value);
    }
    out.push(b'\r');
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    const ONE: &str = "MSH|^~\\&|A|B|C|D|||ORM^O01|1|P|2.5\rPID|1\r";
    const TWO: &str = "MSH|^~\\&|A|B|C|D|||ORM^O01|2|P|2.5\rNTE|1||MSHORT\r";

    fn open(text: &str) -> Option<Frame> {
        Frame::open(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn one_message_is_no_batch() {
        for text in [ONE, TWO, "", "hello", "MSH", "\u{feff}MSH|^~\\&|A\r\r\r"] {
            assert!(open(text).is_none(), "{text}");
        }
    }

    #[test]
    fn messages_are_found_as_they_stand_whatever_ends_their_segments() {
        for end in ["\r", "\n", "\r\n"] {
            let (one, two) = (ONE.replace('\r', end), TWO.replace('\r', end));
            let bare = open(&[&one[..], &two].concat()).unwrap();
            assert_eq!(bare.messages, [one.clone(), two.clone()]);
            assert!(bare.reply(&[], "T", "C").is_none());
            let text = format!(
                "\u{feff}FHS|^~\\&|F{end}BHS|^~\\&|S|SF|R|RF|||||B7{end}{one}{two}BTS|2{end}FTS|1{end}"
            );
            let enveloped = open(&text).unwrap();
            assert_eq!(enveloped.messages, [one, two]);
            assert!(enveloped.refusal().contains("2 messages"));
            let reply = enveloped.reply(&["MSA|1\r".into(), "MSA|2\r".into()], "T", "C");
            assert_eq!(
                String::from_utf8(reply.unwrap().to_vec()).unwrap(),
                "FHS|^~\\&|||F||T||||C|\rBHS|^~\\&|R|RF|S|SF|T||||C|B7\rMSA|1\rMSA|2\rBTS|2\rFTS|1\r"
            );
        }
    }

    #[test]
    fn an_envelope_of_nothing_is_one() {
        let frame = open("BHS|^~\\&|A\rBTS|0").unwrap();
        assert!(frame.messages.is_empty());
        assert!(frame.refusal().contains("of 0 messages"));
    }
}
