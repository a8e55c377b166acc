//! `ordo dlq`.

use std::io::{self, Write};

use anyhow::Result;
use ordo_client::{Admin, proto};
use serde_json::json;

use crate::args::Global;
use crate::exit::UsageError;
use crate::output::Output;
use crate::views::{DeadLetter, DeadLetterRow};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List an interface's dead letters.
    List(List),
    /// Show a dead letter and its history.
    Show(Show),
    /// Put a dead letter back to work: in place where its sequence is not released yet, else at the tail.
    Redrive(Redrive),
    /// Throw a dead letter away.
    Discard(Discard),
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// The interface's name.
    interface: String,
    /// Only sequences after this one.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// At most so many.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Names a dead letter.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// The interface's name.
    interface: String,
    /// The message's sequence.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    sequence: u64,
    /// The destination that refused it: needed only where several did.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
}

impl Name {
    /// The destination whose dead letter is meant, empty for one of a stage: the only one that the sequence has.
    async fn destination(&self, admin: &Admin) -> Result<String> {
        if let Some(destination) = &self.destination {
            return Ok(destination.clone());
        }
        let after = self.sequence - 1;
        let page = admin.list_dead_letters(&self.interface, after, 0).await?;
        Ok(only_destination(&page.dead_letters, self.sequence)?)
    }
}

/// Where there is none at all, the call itself says so.
fn only_destination(letters: &[proto::DeadLetter], sequence: u64) -> Result<String, UsageError> {
    let of_it = letters.iter().filter(|letter| letter.sequence == sequence);
    let names: Vec<&str> = of_it.map(|letter| letter.destination.as_str()).collect();
    match names[..] {
        [] => Ok(String::new()),
        [name] => Ok(name.to_owned()),
        _ => Err(UsageError(format!(
            "several destinations refused #{sequence}: name one of {} with --destination",
            names.join(", ")
        ))),
    }
}

#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    name: Name,
    /// The payload too: for people, nothing but the payload, byte for byte.
    #[arg(long)]
    payload: bool,
}

#[derive(Debug, clap::Args)]
pub struct Redrive {
    #[command(flatten)]
    name: Name,
    /// Refuse rather than redrive at the tail.
    #[arg(long)]
    in_place_only: bool,
}

#[derive(Debug, clap::Args)]
pub struct Discard {
    #[command(flatten)]
    name: Name,
}

pub async fn run(global: &Global, command: Command) -> Result<()> {
    let admin = global.admin()?;
    let output = Output::new(global.output);
    match command {
        Command::List(list) => {
            let letters = all(&admin, &list).await?;
            let rows: Vec<_> = letters.into_iter().map(DeadLetterRow::from).collect();
            output.rows(&rows, "no dead letters")
        }
        Command::Show(show) => {
            let destination = show.name.destination(&admin).await?;
            let Name {
                interface,
                sequence,
                ..
            } = show.name;
            let letter = admin
                .get_dead_letter(&interface, sequence, &destination)
                .await?;
            if show.payload && !output.is_json() {
                io::stdout().lock().write_all(&letter.payload)?;
                return Ok(());
            }
            output.card(&DeadLetter::new(letter, show.payload))
        }
        Command::Redrive(redrive) => {
            let destination = redrive.name.destination(&admin).await?;
            let Name {
                interface,
                sequence,
                ..
            } = redrive.name;
            let answer = admin
                .redrive_dead_letter(&interface, sequence, &destination, redrive.in_place_only)
                .await?;
            let sentence = if answer.in_place {
                format!("{interface} #{sequence} is back at work in its own place")
            } else {
                format!(
                    "{interface} #{sequence} is at work again at the tail, as #{}",
                    answer.sequence
                )
            };
            output.done(
                &sentence,
                &json!({ "in_place": answer.in_place, "sequence": answer.sequence }),
            )
        }
        Command::Discard(discard) => {
            let destination = discard.name.destination(&admin).await?;
            let Name {
                interface,
                sequence,
                ..
            } = discard.name;
            admin
                .discard_dead_letter(&interface, sequence, &destination)
                .await?;
            let object = json!({ "interface": interface, "sequence": sequence, "discarded": true });
            output.done(
                &format!("the dead letter of {interface} #{sequence} is gone"),
                &object,
            )
        }
    }
}

/// Page by page until the limit.
async fn all(admin: &Admin, list: &List) -> Result<Vec<proto::DeadLetter>> {
    let limit = list.limit.map_or(usize::MAX, |limit| limit as usize);
    let (mut letters, mut after) = (Vec::new(), list.after);
    loop {
        let page = admin.list_dead_letters(&list.interface, after, 0).await?;
        let Some(last) = page.dead_letters.last() else {
            break;
        };
        after = last.sequence;
        letters.extend(page.dead_letters);
        if !page.more || letters.len() >= limit {
            break;
        }
    }
    letters.truncate(limit);
    Ok(letters)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{only_destination, proto};

    fn letter(sequence: u64, destination: &str) -> proto::DeadLetter {
        proto::DeadLetter {
            sequence,
            destination: destination.to_owned(),
            ..proto::DeadLetter::default()
        }
    }

    #[test]
    fn the_only_dead_letter_of_a_sequence_is_meant_and_of_several_one_is_asked_for() {
        let letters = [
            letter(7, ""),
            letter(8, "lab"),
            letter(9, "billing"),
            letter(9, "lab"),
        ];
        assert_eq!(only_destination(&letters, 7).unwrap(), "");
        assert_eq!(only_destination(&letters, 8).unwrap(), "lab");
        assert_eq!(only_destination(&letters, 10).unwrap(), "");
        let several = only_destination(&letters, 9).unwrap_err().to_string();
        assert!(
            several.contains("#9") && several.contains("billing, lab"),
            "{several}"
        );
    }
}
