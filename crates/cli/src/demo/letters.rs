//! What is sent: generated orders, or the user's files.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use ordo_client::Uuid;
use ordo_gateway::msh::{Msh, printable};
use ordo_gateway::orders::OrderGenerator;

use super::{Args, INTERFACES};
use crate::commands::produce::files_of;

/// Every so many generated orders one names no patient, so that there is something to skip.
const BROKEN_EVERY: u64 = 25;

/// One message to be sent.
#[derive(Clone)]
pub struct Letter {
    /// What it is called where it has no control id: a file's name.
    pub label: String,
    /// Its identity; none where its header can't be read.
    pub id: Option<Uuid>,
    /// MSH-10, as the laboratory knows it.
    pub control_id: String,
    /// The same for people: printable, and not longer than a column.
    pub shown: String,
    /// MSH-9.
    pub message_type: String,
    /// The message.
    pub payload: Bytes,
}

impl Letter {
    fn new(label: String, payload: Bytes) -> Self {
        let msh = Msh::scan(&payload).ok();
        let control_id = msh
            .and_then(|msh| msh.control_id().ok())
            .unwrap_or_default();
        Self {
            shown: printable(control_id, 20),
            control_id: String::from_utf8_lossy(control_id).into_owned(),
            id: msh.and_then(|msh| msh.message_id().ok()),
            message_type: msh
                .map(|msh| msh.message_type().to_string())
                .unwrap_or_default(),
            label,
            payload,
        }
    }
}

/// By interface, in the order they are sent.
pub type Letters = [Vec<Letter>; INTERFACES.len()];

/// What the arguments ask for.
pub fn of(args: &Args) -> Result<Letters> {
    let mut letters = Letters::default();
    let files = match &args.dir {
        Some(folder) => files_of(folder)?.into(),
        None => args.file.clone(),
    };
    if files.is_empty() {
        generate(args, &mut letters);
        return Ok(letters);
    }
    for (place, path) in files.iter().enumerate() {
        letters[place % INTERFACES.len()].push(read(path)?);
    }
    Ok(letters)
}

fn generate(args: &Args, letters: &mut Letters) {
    let mut generators: Vec<_> = INTERFACES
        .iter()
        .zip(args.seed..)
        .map(|((_, prefix), seed)| OrderGenerator::new(*prefix, seed).broken_every(BROKEN_EVERY))
        .collect();
    let places = (0..INTERFACES.len()).cycle();
    for (_, place) in (0..args.messages).zip(places) {
        let order = generators[place].next_order();
        letters[place].push(Letter::new(order.control_id, order.payload));
    }
}

fn read(path: &Path) -> Result<Letter> {
    let payload = std::fs::read(path).with_context(|| path.display().to_string())?;
    let label = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned();
    Ok(Letter::new(label, payload.into()))
}

/// How many of these messages do the same as one before them: the same bytes but for MSH-7 and MSH-10. A laboratory
/// can't tell them from a duplicate made on the way.
pub fn same_effects<'a>(letters: impl Iterator<Item = &'a Letter>) -> u64 {
    let mut seen = HashSet::new();
    let repeated = letters.filter(|letter| !seen.insert(effect(&letter.payload)));
    repeated.count() as u64
}

fn effect(payload: &[u8]) -> Vec<Vec<u8>> {
    let Ok(msh) = Msh::scan(payload) else {
        return vec![payload.to_vec()];
    };
    let fields = (2..=25)
        .filter(|number| !matches!(number, 7 | 10))
        .map(|number| msh.field(number).to_vec());
    let body = payload
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n'));
    let body = body.map_or(&[][..], |end| &payload[end..]);
    fields.chain([body.to_vec()]).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn letter(text: &str) -> Letter {
        Letter::new("x".to_owned(), Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn the_same_order_under_another_control_id_has_the_same_effect() {
        let one = letter("MSH|^~\\&|A|B|C|D|2026||ORM^O01|1|P|2.3\rPID|1||7\r");
        let again = letter("MSH|^~\\&|A|B|C|D|2027||ORM^O01|2|P|2.3\rPID|1||7\r");
        let other = letter("MSH|^~\\&|A|B|C|D|2027||ORM^O01|3|P|2.3\rPID|1||8\r");
        assert_eq!(same_effects([&one, &again, &other].into_iter()), 1);
        assert_eq!(
            (one.control_id.as_str(), one.message_type.as_str()),
            ("1", "ORM^O01")
        );
    }

    #[test]
    fn a_message_without_a_control_id_has_no_identity() {
        assert!(
            letter("MSH|^~\\&|A|B|C|D|2026||ORM^O01||P|2.3\r")
                .id
                .is_none()
        );
        assert!(letter("hello").id.is_none());
    }
}
