//! Names of interfaces made from a message's header: `{MSH-4}.{MSH-6}`.
//!
//! Two senders must never come to one interface because their fields were pressed into one name. So nothing is
//! rewritten, shortened or left out: a field that can't stand in a name as it is makes no name, and nor does one that
//! holds a character of the text between two fields (`A.B` and `C` would be `A` and `B.C`).

use crate::ack::{ErrorCondition, Refusal};
use crate::msh::Msh;

/// Bytes of an interface's name.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Fields of MSH that may be named: the last of HL7 2.9 is MSH-25.
const FIELDS: std::ops::RangeInclusive<usize> = 3..=25;
const ALLOWED: &str = "fields of MSH from {MSH-3} to {MSH-25} or their components, as {MSH-4.1}, and text of \
                       A-Z a-z 0-9 . _ / - around them, some between any two of them";

/// Whether a name may hold this byte.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._/-".contains(&byte)
}

/// How names are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    /// The bytes that stand between two fields.
    separators: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A field of MSH, or one of its components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    number: usize,
    component: Option<usize>,
}

impl Field {
    fn parse(text: &str) -> Option<Self> {
        let numbers = text.strip_prefix("MSH-")?;
        let (number, component) = match numbers.split_once('.') {
            Some((number, component)) => (number, Some(component)),
            None => (numbers, None),
        };
        let parse = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits
                .parse::<usize>()
                .ok()
                .filter(|number| plain && *number > 0)
        };
        let number = parse(number).filter(|number| FIELDS.contains(number))?;
        let component = match component {
            Some(digits) => Some(parse(digits)?),
            None => None,
        };
        Some(Self { number, component })
    }

    fn value<'a>(self, msh: &Msh<'a>) -> &'a [u8] {
        let whole = msh.field(self.number);
        let Some(component) = self.component else {
            return whole;
        };
        let separator = msh.encoding_characters().component;
        let mut components = whole.split(|byte| *byte == separator);
        components.nth(component - 1).unwrap_or_default()
    }

    fn refusal(self, condition: ErrorCondition, why: &str) -> Refusal {
        Refusal {
            condition,
            msh_field: Some(self.number),
            text: format!("{self} can't name an interface: it {why}"),
        }
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MSH-{}", self.number)?;
        match self.component {
            Some(component) => write!(f, ".{component}"),
            None => Ok(()),
        }
    }
}

impl Template {
    /// Whether a name is meant as a template.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.contains(['{', '}'])
    }

    /// Reads a template; an error says what is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, after) = match rest.split_once('{') {
                Some((before, after)) => (before, Some(after)),
                None => (rest, None),
            };
            if !before.bytes().all(is_name_byte) {
                return Err(ALLOWED);
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some(after) = after else { break };
            let (field, behind) = after.split_once('}').ok_or(ALLOWED)?;
            if let Some(Part::Field(_)) = parts.last() {
                return Err(ALLOWED);
            }
            parts.push(Part::Field(Field::parse(field).ok_or(ALLOWED)?));
            rest = behind;
        }
        let is_field = |part: &Part| matches!(part, Part::Field(_));
        let (Some(first), Some(last)) = (
            parts.iter().position(is_field),
            parts.iter().rposition(is_field),
        ) else {
            return Err(ALLOWED);
        };
        let between = parts[first..last].iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.bytes()),
            Part::Field(_) => None,
        });
        let separators = between.flatten().collect();
        Ok(Self { parts, separators })
    }

    /// What every name begins with.
    pub(crate) fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The fields by which names are made, for people: `MSH-4 and MSH-6`.
    pub(crate) fn fields(&self) -> String {
        let names: Vec<_> = self
            .values()
            .into_iter()
            .map(|field| field.to_string())
            .collect();
        names.join(" and ")
    }

    /// The number of the first field.
    pub(crate) fn first_field(&self) -> Option<usize> {
        self.values().first().map(|field| field.number)
    }

    fn values(&self) -> Vec<Field> {
        let field = |part: &Part| match part {
            Part::Field(field) => Some(*field),
            Part::Text(_) => None,
        };
        self.parts.iter().filter_map(field).collect()
    }

    /// What a header's fields make, byte by byte. It can be taken apart again in one way only, and need not be a name.
    pub(crate) fn fill(&self, msh: &Msh<'_>) -> Result<Vec<u8>, Refusal> {
        let mut made = Vec::new();
        for part in &self.parts {
            let field = match part {
                Part::Text(text) => {
                    made.extend_from_slice(text.as_bytes());
                    continue;
                }
                Part::Field(field) => *field,
            };
            let value = field.value(msh);
            if value.is_empty() {
                return Err(field.refusal(ErrorCondition::RequiredFieldMissing, "is empty"));
            }
            if value.iter().any(|byte| self.separators.contains(byte)) {
                let why = "holds a character that separates it from another field there";
                return Err(field.refusal(ErrorCondition::Internal, why));
            }
            made.extend_from_slice(value);
        }
        Ok(made)
    }

    /// Why what was made of a header is no name.
    pub(crate) fn check(&self, msh: &Msh<'_>, made: &[u8]) -> Result<(), Refusal> {
        for field in self.values() {
            if !field.value(msh).iter().copied().all(is_name_byte) {
                let why = "holds a character that is none of A-Z a-z 0-9 . _ / -";
                return Err(field.refusal(ErrorCondition::Internal, why));
            }
        }
        if made.len() > NAME_BYTES_MAX {
            let text = format!(
                "{} make an interface's name of {} bytes, past the {NAME_BYTES_MAX}",
                self.fields(),
                made.len()
            );
            return Err(Refusal {
                msh_field: self.first_field(),
                ..Refusal::new(ErrorCondition::Internal, text)
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn name(template: &str, header: &str) -> Result<String, String> {
        let template = Template::parse(template).unwrap();
        let msh = Msh::scan(header.as_bytes()).unwrap();
        let made = template.fill(&msh).and_then(|made| {
            template.check(&msh, &made)?;
            Ok(made)
        });
        match made {
            Ok(made) => Ok(String::from_utf8(made).unwrap()),
            Err(refusal) => Err(refusal.text),
        }
    }

    #[test]
    fn fields_and_components_make_a_name() {
        let header = "MSH|^~\\&|HIS|SITE^1.2.3^ISO|LIS|LAB-7|20240101||ORM^O01|1|P|2.5\r";
        assert_eq!(name("{MSH-4.1}.{MSH-6}", header).unwrap(), "SITE.LAB-7");
        assert_eq!(name("in/{MSH-3}-hl7", header).unwrap(), "in/HIS-hl7");
        assert_eq!(
            name("{MSH-4.2}_{MSH-9.2}", header).unwrap(),
            "1.2.3_O01",
            "only what separates is not allowed"
        );
    }

    #[test]
    fn what_is_no_part_of_a_name_is_refused_and_named() {
        let refused = [
            ("||LAB", "MSH-4 can't name an interface: it is empty"),
            (
                "|A.B|LAB",
                "MSH-4 can't name an interface: it holds a character that separates it from another field there",
            ),
            (
                "|A B|LAB",
                "MSH-4 can't name an interface: it holds a character that is none of A-Z a-z 0-9 . _ / -",
            ),
            (
                "|A^B|LAB",
                "MSH-4 can't name an interface: it holds a character that is none of A-Z a-z 0-9 . _ / -",
            ),
            (
                "|A|LÄB",
                "MSH-6 can't name an interface: it holds a character that is none of A-Z a-z 0-9 . _ / -",
            ),
            (
                "|A|\"\"",
                "MSH-6 can't name an interface: it holds a character that is none of A-Z a-z 0-9 . _ / -",
            ),
        ];
        for (fields, expected) in refused {
            let fields = fields.replacen("|LAB", "|LIS|LAB", 1);
            let fields = match fields.contains("LIS") {
                true => fields,
                false => fields.replacen("|A|", "|A|LIS|", 1),
            };
            let header = format!("MSH|^~\\&|HIS{fields}|20240101||ORM^O01|1|P|2.5\r");
            assert_eq!(name("{MSH-4}.{MSH-6}", &header).unwrap_err(), expected);
        }
        let long = format!("MSH|^~\\&|HIS|{}|LIS|LAB||\r", "A".repeat(252));
        assert_eq!(
            name("{MSH-4}.{MSH-6}", &long).unwrap_err(),
            "MSH-4 and MSH-6 make an interface's name of 256 bytes, past the 255"
        );
    }

    #[test]
    fn a_template_that_is_none_is_refused() {
        let wrong = [
            "{MSH-4}{MSH-6}",
            "{MSH-2}",
            "{MSH-26}",
            "{PID-3}",
            "{MSH-4.0}",
            "{MSH-+4}",
            "{MSH-4",
            "MSH-4}",
            "a b{MSH-4}",
            "{}",
            "RAD",
        ];
        for text in wrong {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn two_senders_never_make_one_name(
            fields in prop::collection::vec("[AB.-]{1,4}", 4),
            separator in "[.-]{1,3}",
        ) {
            let template = format!("x{{MSH-4}}{separator}{{MSH-6}}-y");
            let made = |site: &str, lab: &str| {
                name(&template, &format!("MSH|^~\\&|HIS|{site}|LIS|{lab}|\r"))
            };
            let one = made(&fields[0], &fields[1]);
            let other = made(&fields[2], &fields[3]);
            if let (Ok(one), Ok(other)) = (one, other) {
                prop_assert_eq!(one == other, fields[0] == fields[2] && fields[1] == fields[3]);
            }
        }
    }
}
