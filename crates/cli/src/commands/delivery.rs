//! `ordo delivery`.

use anyhow::Result;
use serde_json::json;

use crate::args::Global;
use crate::output::Output;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Give up the message that a destination waits for: a dead letter for that destination, which goes on behind it.
    Skip(Skip),
    /// End a destination's pause: the message that it waits for is sent now.
    Resume(Resume),
}

#[derive(Debug, clap::Args)]
pub struct Skip {
    /// The interface's name.
    interface: String,
    /// The destination's name.
    #[arg(long, value_name = "NAME", default_value = "default")]
    destination: String,
    /// The message's sequence: the one behind the destination's checkpoint.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    sequence: u64,
    /// The destination's turn, as `ordo message show` said it: where another answer or decision came first, nothing
    /// changes.
    #[arg(long)]
    turn: u32,
}

#[derive(Debug, clap::Args)]
pub struct Resume {
    /// The interface's name.
    interface: String,
    /// The destination's name.
    #[arg(long, value_name = "NAME", default_value = "default")]
    destination: String,
    /// Only if the destination's turn is still this one.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    turn: Option<u32>,
}

pub async fn run(global: &Global, command: Command) -> Result<()> {
    let admin = global.admin()?;
    let output = Output::new(global.output);
    match command {
        Command::Skip(skip) => {
            let Skip {
                interface,
                destination,
                sequence,
                turn,
            } = skip;
            let turn = admin
                .skip_delivery(&interface, &destination, sequence, turn)
                .await?;
            output.done(
                &format!("{interface} #{sequence} is a dead letter for {destination}, which goes on"),
                &json!({ "interface": interface, "destination": destination, "sequence": sequence, "turn": turn }),
            )
        }
        Command::Resume(resume) => {
            let Resume {
                interface,
                destination,
                turn,
            } = resume;
            let turn = admin
                .resume_delivery(&interface, &destination, turn)
                .await?;
            output.done(
                &format!("{interface}: {destination} is not paused"),
                &json!({ "interface": interface, "destination": destination, "turn": turn }),
            )
        }
    }
}
