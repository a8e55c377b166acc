//! `ordo interface`.

use anyhow::{Result, bail};
use ordo_client::proto;

use crate::args::{self, Global};
use crate::exit::UsageError;
use crate::output::Output;
use crate::views::{Interface, InterfaceRow};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create an interface.
    Create(Create),
    /// List interfaces.
    List(List),
    /// Show an interface: its configuration and where it stands.
    Show(Show),
    /// Change an interface; what is not named stays.
    Update(Update),
    /// Lift an interface's quarantine where every invariant holds after what can be derived was derived afresh.
    Repair(Repair),
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name: 1 to 255 bytes of [A-Za-z0-9._/-].
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// Refuse ingest until it is resumed.
    #[arg(long)]
    paused: bool,
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// Only names that begin so.
    #[arg(default_value = "")]
    prefix: String,
}

#[derive(Debug, clap::Args)]
pub struct Show {
    /// The interface's name.
    name: String,
}

#[derive(Debug, clap::Args)]
pub struct Repair {
    /// The interface's name.
    name: String,
}

#[derive(Debug, clap::Args)]
pub struct Update {
    /// The interface's name.
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// No stages: a message is ready on ingest.
    #[arg(long, conflicts_with = "stages")]
    no_stages: bool,
    /// Refuse ingest and assign nothing; what is released still goes out.
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// End the pause.
    #[arg(long)]
    resume: bool,
    /// Only if the configuration has this version; otherwise the current one is changed.
    #[arg(long, value_name = "VERSION")]
    config_version: Option<u64>,
}

/// What can be set. What is not named takes its default, or stays.
#[derive(Debug, Default, clap::Args)]
pub struct Settings {
    /// A stage, in order; settings: max_attempts, max_losses, lease_ms, backoff_ms, backoff_ms_max, work_ms_max.
    #[arg(long = "stage", value_name = "NAME[,KEY=VALUE…]", value_parser = args::stage)]
    stages: Vec<proto::StageConfig>,
    /// A destination; settings: max_attempts, max_in_flight. None: one called `default`.
    #[arg(long = "destination", value_name = "NAME[,KEY=VALUE…]", value_parser = args::destination)]
    destinations: Vec<proto::DestinationConfig>,
    /// Unreleased sequences at most.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
    /// Released messages that the slowest destination has not acknowledged, at most.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    backlog: Option<u64>,
    /// How many finished messages are known for deduplication.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    dedup_messages: Option<u32>,
    /// The largest payload, as 1M.
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    payload_max: Option<u64>,
    /// Dead letters kept at most.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    dead_letters_max: Option<u32>,
    /// Bytes of dead letters kept at most, as 1G.
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    dead_letter_bytes_max: Option<u64>,
}

impl Settings {
    /// Changes what was named.
    fn apply(self, config: &mut proto::InterfaceConfig) -> Result<()> {
        if !self.stages.is_empty() {
            config.stages = self.stages;
        }
        if !self.destinations.is_empty() {
            config.destinations = self.destinations;
        }
        set(&mut config.window, self.window);
        set(&mut config.backlog, self.backlog);
        set(&mut config.dedup_messages, self.dedup_messages);
        set(&mut config.dead_letters_max, self.dead_letters_max);
        set(
            &mut config.dead_letter_bytes_max,
            self.dead_letter_bytes_max,
        );
        if let Some(bytes) = self.payload_max {
            let Ok(bytes) = u32::try_from(bytes) else {
                bail!(UsageError(format!(
                    "--payload-max is {bytes}; allowed: at most {}",
                    u32::MAX
                )));
            };
            config.payload_bytes_max = bytes;
        }
        Ok(())
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub async fn run(global: &Global, command: Command) -> Result<()> {
    let admin = global.admin()?;
    let output = Output::new(global.output);
    match command {
        Command::Create(create) => {
            let mut config = proto::InterfaceConfig {
                paused: create.paused,
                ..Default::default()
            };
            create.settings.apply(&mut config)?;
            let interface = admin.create_interface(&create.name, config).await?;
            output.card(&Interface::from(interface))
        }
        Command::List(list) => {
            let interfaces = admin.all_interfaces(&list.prefix).await?;
            let rows: Vec<_> = interfaces
                .into_iter()
                .map(|wire| InterfaceRow(wire.into()))
                .collect();
            output.rows(&rows, "no interfaces")
        }
        Command::Show(show) => {
            let interface = admin.get_interface(&show.name).await?;
            output.card(&Interface::from(interface))
        }
        Command::Repair(repair) => {
            let interface = admin.repair_interface(&repair.name).await?;
            output.card(&Interface::from(interface))
        }
        Command::Update(update) => {
            let current = admin.get_interface(&update.name).await?;
            let mut config = current.config.unwrap_or_default();
            if update.no_stages {
                config.stages.clear();
            }
            if update.pause || update.resume {
                config.paused = update.pause;
            }
            update.settings.apply(&mut config)?;
            let version = update.config_version.unwrap_or(current.config_version);
            let interface = admin
                .update_interface(&update.name, version, config)
                .await?;
            output.card(&Interface::from(interface))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let mut config = proto::InterfaceConfig {
            window: 5,
            backlog: 6,
            stages: vec![proto::StageConfig {
                name: "a".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let settings = Settings {
            backlog: Some(9),
            ..Default::default()
        };
        settings.apply(&mut config).unwrap();
        assert_eq!(
            (config.window, config.backlog, config.stages.len()),
            (5, 9, 1)
        );
    }

    #[test]
    fn a_payload_limit_past_the_protocol_is_refused() {
        let settings = Settings {
            payload_max: Some(1 << 40),
            ..Default::default()
        };
        let error = settings
            .apply(&mut proto::InterfaceConfig::default())
            .unwrap_err();
        assert!(error.to_string().contains("--payload-max"));
    }
}
