//! `ordo dlq`.

use std::io::{self, Write};

use anyhow::Result;
use ordo_client::{Admin, proto};
use serde_json::json;

use crate::args::Global;
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
    /// The destination that refused it; none for one that failed in a stage.
    #[arg(long, value_name = "NAME", default_value = "")]
    destination: String,
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
            let Name {
                interface,
                sequence,
                destination,
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
            let Name {
                interface,
                sequence,
                destination,
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
            let Name {
                interface,
                sequence,
                destination,
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
