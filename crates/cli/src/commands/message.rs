//! `ordo message`.

use anyhow::Result;
use ordo_client::{MessageKey, Uuid};

use crate::args::Global;
use crate::output::Output;
use crate::views::Message;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show a message's whole history: stages, attempts, reasons, times.
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub struct Show {
    /// The interface's name.
    interface: String,
    /// The message's sequence, or its id (a UUID).
    #[arg(value_name = "SEQUENCE|ID", value_parser = key)]
    message: MessageKey,
}

fn key(text: &str) -> Result<MessageKey, String> {
    if let Ok(sequence) = text.parse() {
        return if sequence > 0 {
            Ok(MessageKey::Sequence(sequence))
        } else {
            Err("sequences begin at 1".to_owned())
        };
    }
    let id = Uuid::parse_str(text).map_err(|_| "neither a sequence nor a UUID".to_owned())?;
    Ok(MessageKey::Id(id))
}

pub async fn run(global: &Global, command: Command) -> Result<()> {
    let Command::Show(show) = command;
    let message = global
        .admin()?
        .get_message(&show.interface, show.message)
        .await?;
    Output::new(global.output).card(&Message::from(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_sequence_or_id() {
        assert_eq!(key("17"), Ok(MessageKey::Sequence(17)));
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert!(matches!(key(id), Ok(MessageKey::Id(found)) if found.to_string() == id));
        assert!(key("0").is_err() && key("x").is_err());
    }
}
