//! Acknowledgements of others, read.

use std::borrow::Cow;
use std::fmt;

use encoding_rs::{Encoding, ISO_2022_JP};

use super::{AckCode, REASON_CHARACTERS_MAX};
use crate::charset::{Charset, Reading};
use crate::hl7::Message;
use crate::msh::{EncodingCharacters, Msh, MshError, is_blank};

/// Why a reply is not an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// Its header can't be read.
    #[error("the reply is not an acknowledgement: {0}")]
    Msh(#[from] MshError),
    /// It has no MSA segment.
    #[error("the reply is not an acknowledgement: it has no MSA segment")]
    NoMsa,
    /// MSA-1 is not one of the six codes.
    #[error("the reply has an unknown acknowledgement code in MSA-1")]
    UnknownCode,
    /// MSA-1 is one of the six codes, but not in capitals.
    #[error("MSA-1 of the reply is in lower case")]
    CodeInLowerCase,
}

/// An acknowledgement that was received.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedAck {
    /// MSA-1.
    pub code: AckCode,
    /// MSA-2, raw: the control id of the message it answers. Empty where it is missing.
    pub control_id: Vec<u8>,
    /// The receiver's reason: MSA-3, else the user message or code text of the first ERR; empty where it gave none.
    /// Read in the character set that MSH-18 of the reply names, without control characters, 250 characters at most. It
    /// is the receiver's own wording, so keep it with the message (its dead letter) and out of logs.
    pub text: String,
}

impl fmt::Debug for ReceivedAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedAck")
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

impl ReceivedAck {
    /// Reads a reply whose MSA-1 is in capitals, as HL7 asks.
    ///
    /// # Errors
    /// Where it is not an acknowledgement; nothing can be concluded from it then.
    pub fn read(reply: &[u8]) -> Result<Self, AckError> {
        let ack = Self::read_in_any_case(reply)?;
        match Message::read(reply)?.first("MSA") {
            Some(msa) if msa.field(1).raw().trim_ascii() != ack.code.as_str().as_bytes() => {
                Err(AckError::CodeInLowerCase)
            }
            _ => Ok(ack),
        }
    }

    /// Reads a reply whose MSA-1 is in capitals or not.
    ///
    /// # Errors
    /// As [`ReceivedAck::read`], but never [`AckError::CodeInLowerCase`].
    pub fn read_in_any_case(reply: &[u8]) -> Result<Self, AckError> {
        let message = Message::read(reply)?;
        let msa = message.first("MSA").ok_or(AckError::NoMsa)?;
        let code = msa.field(1).raw().trim_ascii().to_ascii_uppercase();
        let code = AckCode::from_bytes(&code).ok_or(AckError::UnknownCode)?;
        let err = message.first("ERR");
        // ERR-8 user message, ERR-7 diagnostics, ERR-3.2 (from 2.5 on) and ERR-1.5 (before): first that says something.
        let candidates = [
            msa.field(3).raw(),
            err.map(|err| err.field(8).raw()).unwrap_or_default(),
            err.map(|err| err.field(7).raw()).unwrap_or_default(),
            err.map(|err| err.field(3).component(2)).unwrap_or_default(),
            err.map(|err| err.field(1).raw()).unwrap_or_default(),
        ];
        let reason = candidates
            .into_iter()
            .find(|text| !is_blank(text))
            .unwrap_or_default();
        Ok(Self {
            code,
            control_id: msa.field(2).raw().to_vec(),
            text: readable(reason, &message.msh()),
        })
    }

    /// Whether it answers the message with this header: MSA-2 is its MSH-10, byte for byte.
    pub fn answers(&self, msh: &Msh<'_>) -> bool {
        self.control_id == msh.field(10)
    }
}

/// A reason for people: decoded, unescaped, on one line, bounded.
fn readable(reason: &[u8], msh: &Msh<'_>) -> String {
    let encoding = msh.encoding_characters();
    let text = decoded(reason, msh.character_set(), encoding.repetition);
    let text = unescaped(&text, msh.field_separator(), encoding);
    let shown = |character: char| match is_shown(character) {
        true => character,
        false => '?',
    };
    text.chars()
        .take(REASON_CHARACTERS_MAX)
        .map(shown)
        .collect()
}

/// Whether a character shows as itself: control characters and those that turn or hide what follows do not.
fn is_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        && !matches!(character, '\u{feff}' | char::REPLACEMENT_CHARACTER)
}

/// `text` in the character set that MSH-18 names. Where it names none that is known, ASCII is: what is not ASCII is
/// read as UTF-8 where all of it is.
fn decoded<'a>(text: &'a [u8], msh_18: &[u8], repetition: u8) -> Cow<'a, str> {
    match named(msh_18, repetition) {
        Some(encoding) => encoding.decode_without_bom_handling(text).0,
        None => match std::str::from_utf8(text) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => {
                let ascii = |byte: &u8| match byte.is_ascii() {
                    true => char::from(*byte),
                    false => char::REPLACEMENT_CHARACTER,
                };
                text.iter().map(ascii).collect()
            }
        },
    }
}

/// The encoding that a list of HL7 table 0211 needs: with ISO 2022 escapes where one of them is reached by those, else
/// the first that says more than ASCII.
fn named(msh_18: &[u8], repetition: u8) -> Option<&'static Encoding> {
    let encoding = |set: Charset| match (set.encoding, set.reading) {
        (None, Reading::Iso2022) => Some(ISO_2022_JP),
        (known, _) => known,
    };
    let names = msh_18.split(|byte| *byte == repetition);
    let known: Vec<_> = names
        .filter_map(Charset::named)
        .filter_map(encoding)
        .collect();
    let switches = known.iter().find(|encoding| **encoding == ISO_2022_JP);
    switches.or(known.first()).copied()
}

/// Undoes [`escaped`](super::escaped); sequences it does not know stay as they are.
fn unescaped(text: &str, separator: u8, encoding: EncodingCharacters) -> String {
    let escape = char::from(encoding.escape);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let mut after = rest.clone();
        if character == escape
            && let (Some(letter), Some(end)) = (after.next(), after.next())
            && end == escape
        {
            let meant = match letter {
                'F' => Some(separator),
                'S' => Some(encoding.component),
                'R' => Some(encoding.repetition),
                'E' => Some(encoding.escape),
                'T' => Some(encoding.subcomponent),
                _ => None,
            };
            if let Some(meant) = meant {
                out.push(char::from(meant));
                rest = after;
                continue;
            }
        }
        out.push(character);
    }
    out
}
