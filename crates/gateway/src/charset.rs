//! Character sets, as far as a gateway needs them: where a byte is a character of its own, and so may separate fields,
//! and how a reason for a person is written and read.
//!
//! In most sets every byte below 0x80 is ASCII. In some, such a byte may be the second one of a character: 0x7c in a
//! Japanese name is no field separator. Which set it is says MSH-18, or the listener's `charset`.
//!
//! Sets of two bytes are decoded by `encoding_rs`. ISO 2022 (escape sequences that say what the following bytes are:
//! ISO IR87, ISO IR159, KS X 1001, CNS 11643) is followed here: the library has only one of its sets, since the web has no
//! other, and only the escape sequences matter, not the characters.

use encoding_rs::{BIG5, DecoderResult, EUC_KR, Encoding, GB18030, GBK, ISO_2022_JP, SHIFT_JIS};
use encoding_rs::{REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE};

const ESCAPE: u8 = 0x1b;
const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;

/// A character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charset {
    pub(crate) reading: Reading,
    /// How its text is decoded and encoded; `None`: only its ASCII is known.
    pub(crate) encoding: Option<&'static Encoding>,
}

/// Which bytes are characters of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All below 0x80.
    Bytes,
    /// As escape sequences say.
    Iso2022,
    /// As a decoder says: the second byte of a character may be below 0x80.
    Decoded(&'static Encoding),
}

impl Charset {
    /// What is assumed where nothing is said.
    pub const ASCII: Self = Self {
        reading: Reading::Bytes,
        encoding: None,
    };

    /// The set of that name: one of HL7's table 0211, as in MSH-18, or a name that is usual on the web.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        let name = name.trim_ascii().to_ascii_uppercase();
        let iso_8859 = name
            .strip_prefix(b"8859/")
            .map(|part| [b"ISO-8859-", part].concat());
        let (reading, encoding) = match &name[..] {
            b"ASCII" | b"ISO IR6" => return Some(Self::ASCII),
            b"ISO IR13" | b"ISO IR14" | b"ISO IR87" | b"ISO IR159" | b"CNS 11643-1992" => {
                (Some(Reading::Iso2022), None)
            }
            b"KS X 1001" => (Some(Reading::Iso2022), Some(EUC_KR)),
            b"GB 18030-2000" => (None, Some(GB18030)),
            b"BIG-5" => (None, Some(BIG5)),
            b"UNICODE" | b"UNICODE UTF-8" => (None, Some(UTF_8)),
            label => {
                let label = iso_8859.as_deref().unwrap_or(label);
                (None, Some(Encoding::for_label(label)?))
            }
        };
        let of = |encoding: &'static Encoding| match encoding {
            _ if [SHIFT_JIS, GB18030, GBK, BIG5].contains(&encoding) => Reading::Decoded(encoding),
            // `REPLACEMENT` stands for those that the library refuses to decode: all of them switch by escapes.
            _ if [ISO_2022_JP, REPLACEMENT].contains(&encoding) => Reading::Iso2022,
            _ => Reading::Bytes,
        };
        let utf_16 = encoding.is_some_and(|encoding| [UTF_16LE, UTF_16BE].contains(&encoding));
        (!utf_16).then(|| Self {
            reading: reading.or(encoding.map(of)).unwrap_or(Reading::Bytes),
            encoding: encoding.filter(|known| ![ISO_2022_JP, REPLACEMENT].contains(known)),
        })
    }

    /// Whether a byte below 0x80 may be a part of another character.
    #[must_use]
    pub fn is_multibyte(self) -> bool {
        self.reading != Reading::Bytes
    }

    /// What MSH-18 says: the first of its sets is the one in which text begins, the others are switched to by escape
    /// sequences. `None` where it says nothing that is known.
    pub(crate) fn declared(field: &[u8], repetition: u8) -> Option<Self> {
        let mut names = field.split(|byte| *byte == repetition);
        let first = names.next().and_then(Self::named);
        let others = names.filter_map(Self::named);
        let switched = first
            .into_iter()
            .chain(others)
            .find(|set| set.is_multibyte());
        let encoding = first.and_then(|set| set.encoding);
        let reading = match (switched, first) {
            (Some(set), _) => set.reading,
            (None, Some(_)) => Reading::Bytes,
            (None, None) => return None,
        };
        Some(Self { reading, encoding })
    }

    /// A character in this set; `None` where the set can't hold it. Never empty, and never a control byte.
    pub(crate) fn encode(self, character: char) -> Option<Vec<u8>> {
        if character.is_ascii() {
            let printable = character.is_ascii_graphic() || character == ' ';
            return printable.then(|| vec![character as u8]);
        }
        if character.is_control() {
            return None;
        }
        let mut utf_8 = [0; 4];
        let text = character.encode_utf8(&mut utf_8);
        let (bytes, _, unmappable) = self.encoding?.encode(text);
        // What the library calls ISO 8859-1 has characters in the place of ISO's control bytes.
        let printable = bytes.len() > 1 || bytes.first().is_some_and(|byte| *byte >= 0xa0);
        (!unmappable && printable).then(|| bytes.into_owned())
    }
}

impl Reading {
    /// All readings in which a separator may be a part of a character.
    pub(crate) const MULTIPLE_BYTES: [Self; 5] = [
        Self::Iso2022,
        Self::Decoded(SHIFT_JIS),
        Self::Decoded(GB18030),
        Self::Decoded(GBK),
        Self::Decoded(BIG5),
    ];

    /// The first place where `separator`, which is ASCII, stands as a character.
    fn position(self, text: &[u8], separator: u8) -> Option<usize> {
        match self {
            Self::Bytes => text.iter().position(|byte| *byte == separator),
            Self::Iso2022 => position_iso_2022(text, separator),
            Self::Decoded(encoding) => position_decoded(text, separator, encoding),
        }
    }

    /// What `separator` separates: at least one piece, maybe empty.
    pub(crate) fn split(self, text: &[u8], separator: u8) -> Pieces<'_> {
        Pieces {
            rest: Some(text),
            separator,
            reading: self,
        }
    }
}

/// The pieces of a text between separators.
#[derive(Clone, Debug)]
pub(crate) struct Pieces<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
    reading: Reading,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        match self.reading.position(rest, self.separator) {
            Some(at) => {
                self.rest = Some(&rest[at + 1..]);
                Some(&rest[..at])
            }
            None => self.rest.take(),
        }
    }
}

fn position_iso_2022(text: &[u8], separator: u8) -> Option<usize> {
    let (mut two_bytes, mut shifted) = (false, false);
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            ESCAPE => {
                let rest = &text[at..];
                let is_intermediate = |byte: &&u8| (0x20..=0x2f).contains(*byte);
                let intermediates = rest.iter().take_while(is_intermediate).count();
                match &rest[..intermediates] {
                    b"$" | b"$(" => two_bytes = true,
                    b"(" => two_bytes = false,
                    // Other sets are called by shifts, or by bytes from 0x80 on.
                    _ => {}
                }
                // The last byte of the sequence, which names the set.
                let names = intermediates > 0
                    && rest
                        .get(intermediates)
                        .is_some_and(|last| (0x30..=0x7e).contains(last));
                at += intermediates + usize::from(names);
            }
            SHIFT_OUT => shifted = true,
            SHIFT_IN => shifted = false,
            _ if byte == separator && !two_bytes && !shifted => return Some(at - 1),
            _ => {}
        }
    }
    None
}

fn position_decoded(text: &[u8], separator: u8, encoding: &'static Encoding) -> Option<usize> {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    // Room for whatever one byte can complete.
    let mut decoded = [0; 32];
    for at in 0..text.len() {
        loop {
            let (result, read, written) =
                decoder.decode_to_utf8_without_replacement(&text[at..=at], &mut decoded, false);
            if read == 0 && matches!(result, DecoderResult::Malformed(..)) {
                // What came before was no character, and this byte begins anew.
                continue;
            }
            // A byte that ends a longer character shows as that character.
            if text[at] == separator && decoded[..written].last() == Some(&separator) {
                return Some(at);
            }
            break;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> Charset {
        Charset::named(name.as_bytes()).unwrap()
    }

    fn split(name: &str, text: &[u8]) -> usize {
        named(name).reading.split(text, b'|').count()
    }

    #[test]
    fn the_second_byte_of_a_character_separates_nothing() {
        let texts: [(&str, &[u8]); 8] = [
            // 0x7c is half of a character in each.
            ("ISO IR87", b"A|\x1b$BK|IB1!\x1b(B|C"),
            ("ISO IR159", b"A|\x1b$(DK|IB\x1b(J|C"),
            ("KS X 1001", b"A|\x1b$)C\x0eK|IB\x0f|C"),
            ("iso-2022-jp", b"A|\x1b$BK|IB1!\x1b(B|C"),
            ("Shift_JIS", b"A|\x83\x7c|C"),
            ("BIG-5", b"A|\xa4\x7c|C"),
            ("GB 18030-2000", b"A|\x81\x7c|C"),
            ("gbk", b"A|\x81\x7c|C"),
        ];
        for (name, text) in texts {
            assert_eq!(split(name, text), 3, "{name}");
        }
    }

    #[test]
    fn what_is_no_character_of_the_set_hides_no_separator() {
        for name in ["Shift_JIS", "BIG-5", "GB 18030-2000"] {
            // A byte that begins a character and stands before ASCII or at the end.
            assert_eq!(split(name, b"A|B\xff|C|D\x81"), 4, "{name}");
        }
        assert_eq!(split("ISO IR87", b"A\x1b|B|\x1b(C|D"), 4);
    }

    #[test]
    fn other_sets_are_read_byte_by_byte() {
        for name in [
            "ASCII",
            "8859/1",
            "8859/15",
            "UNICODE UTF-8",
            "ISO IR6",
            "EUC-JP",
        ] {
            assert_eq!(named(name).reading, Reading::Bytes, "{name}");
            assert_eq!(split(name, b"A|\xc3\x7c|C"), 4, "{name}");
        }
        for name in ["", "nonsense", "UTF-16", "8859/99"] {
            assert_eq!(Charset::named(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn msh_18_may_name_several_sets() {
        let declared = |field: &str| Charset::declared(field.as_bytes(), b'~');
        assert_eq!(declared("~ISO IR87").unwrap().reading, Reading::Iso2022);
        assert_eq!(
            declared("ISO IR6~ISO IR87").unwrap().reading,
            Reading::Iso2022
        );
        assert_eq!(declared("8859/1~"), Some(named("8859/1")));
        assert_eq!(declared(""), None);
        assert_eq!(declared("~"), None);
    }

    #[test]
    fn characters_are_written_where_the_set_has_them() {
        assert_eq!(named("8859/1").encode('ü'), Some(vec![0xfc]));
        assert_eq!(named("8859/1").encode('€'), None);
        assert_eq!(named("UNICODE UTF-8").encode('€'), Some("€".into()));
        assert_eq!(Charset::ASCII.encode('ü'), None);
        assert_eq!(Charset::ASCII.encode('u'), Some(vec![b'u']));
        assert_eq!(named("UNICODE UTF-8").encode('\u{85}'), None);
        assert_eq!(named("ISO IR87").encode('ü'), None);
    }

    proptest! {
        #[test]
        fn pieces_and_separators_are_the_text(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            for reading in Reading::MULTIPLE_BYTES.into_iter().chain([Reading::Bytes]) {
                let pieces: Vec<_> = reading.split(&text, b'|').collect();
                prop_assert_eq!(pieces.join(&b'|'), text.clone());
            }
        }
    }
}
