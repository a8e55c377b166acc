//! What a message is the same as.

use std::borrow::Cow;

use uuid::Uuid;

use crate::config::{FieldName, Identity};
use crate::hl7::Message;
use crate::msh::{MESSAGE_ID_NAMESPACE, Msh, MshError, is_segment_end};

/// The id of a message; `canonical` is what [`canonical`] makes of it.
pub(super) fn message_id(
    identity: Identity,
    msh: &Msh<'_>,
    canonical: &[u8],
) -> Result<Uuid, MshError> {
    let id = msh.message_id()?;
    Ok(match identity {
        Identity::ControlId => id,
        Identity::ControlIdAndTime => Uuid::new_v5(&id, msh.date_time()),
        Identity::Content => Uuid::new_v5(&MESSAGE_ID_NAMESPACE, canonical),
        Identity::None => Uuid::new_v4(),
    })
}

/// The bytes by which a repetition is known as one: without the fields that may differ, its last segment ended.
pub(super) fn canonical<'a>(
    payload: &'a [u8],
    message: &Message<'a>,
    ignored: &[FieldName],
) -> Cow<'a, [u8]> {
    let is_ended = payload.last().is_some_and(|byte| is_segment_end(*byte));
    if ignored.is_empty() && is_ended {
        return Cow::Borrowed(payload);
    }
    let mut out = Vec::with_capacity(payload.len() + 1);
    let mut kept = 0;
    for segment in message.segments() {
        let mut left_out: Vec<_> = ignored
            .iter()
            .filter(|field| field.segment.as_bytes() == segment.name())
            .map(|field| match field.segment == "MSH" {
                // What is ignored of a header has its place there: the separator is field 1.
                true => message.msh().field(usize::from(field.number)),
                false => segment.field(usize::from(field.number)).raw(),
            })
            .filter(|value| !value.is_empty())
            .map(|value| {
                let begin = value.as_ptr() as usize - payload.as_ptr() as usize;
                begin..begin + value.len()
            })
            .collect();
        left_out.sort_by_key(|range| range.start);
        left_out.dedup();
        for range in left_out {
            out.extend_from_slice(&payload[kept..range.start]);
            kept = range.end;
        }
    }
    out.extend_from_slice(&payload[kept..]);
    if !is_ended {
        out.push(b'\r');
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn order(time: &str, comment: &str) -> String {
        format!(
            "MSH|^~\\&|HIS|WARD|LIS|LAB|{time}||ORM^O01|7|P|2.5\rPID|1||9\rNTE|1||{comment}\rNTE|2||{comment}\r"
        )
    }

    fn known_by(text: &str, ignored: &[&str]) -> Vec<u8> {
        let ignored: Vec<_> = ignored
            .iter()
            .map(|name| FieldName::parse(name).unwrap())
            .collect();
        let message = Message::read(text.as_bytes()).unwrap();
        canonical(text.as_bytes(), &message, &ignored).into_owned()
    }

    #[test]
    fn fields_that_may_differ_are_left_out_and_nothing_else() {
        let (one, two) = (order("1", "x"), order("2345", "y"));
        assert_eq!(known_by(&one, &[]), one.as_bytes());
        assert_ne!(known_by(&one, &["MSH-7"]), known_by(&two, &["MSH-7"]));
        let both = ["NTE-3", "MSH-7"];
        assert_eq!(known_by(&one, &both), known_by(&two, &both));
        assert_eq!(
            known_by(&one, &both),
            order("", "").as_bytes(),
            "only the values go"
        );
        assert_ne!(
            known_by(&one, &both),
            known_by(&one.replace("|9", "|8"), &both)
        );
        // With a mark before the header places are still right.
        let marked = format!("\u{feff}{one}");
        let expected = format!("\u{feff}{}", order("", "x"));
        assert_eq!(known_by(&marked, &["MSH-7"]), expected.as_bytes());
    }

    #[test]
    fn a_missing_last_carriage_return_is_no_difference() {
        let text = order("1", "x");
        let open = text.trim_end_matches('\r');
        assert_eq!(known_by(open, &[]), text.as_bytes());
        assert_eq!(known_by(open, &["MSH-7"]), known_by(&text, &["MSH-7"]));
    }

    #[test]
    fn an_identity_is_what_the_listener_says() {
        let id = |identity, text: &str| {
            let message = Message::read(text.as_bytes()).unwrap();
            let known_by = canonical(text.as_bytes(), &message, &[]);
            message_id(identity, &message.msh(), &known_by).unwrap()
        };
        let (one, later, other) = (order("1", "x"), order("2", "x"), order("1", "y"));
        let of = Msh::scan(one.as_bytes()).unwrap().message_id().unwrap();
        assert_eq!(id(Identity::ControlId, &one), of);
        assert_eq!(id(Identity::ControlId, &later), of);
        let timed = id(Identity::ControlIdAndTime, &one);
        assert_eq!(timed, id(Identity::ControlIdAndTime, &other));
        assert_ne!(timed, id(Identity::ControlIdAndTime, &later));
        let content = id(Identity::Content, &one);
        assert_eq!(
            content,
            id(Identity::Content, one.trim_end_matches('\r')),
            "a missing last CR is no difference"
        );
        assert_ne!(content, id(Identity::Content, &other));
        assert_ne!(id(Identity::None, &one), id(Identity::None, &one));
    }
}
