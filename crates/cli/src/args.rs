//! What the command line takes.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ordo_client::{Admin, Cluster, proto};

use crate::commands::{
    cluster, completions, config, consume, delivery, dlq, gateway, interface, message, produce,
    serve, why, work,
};
use crate::demo;
use crate::exit::UsageError;

/// Ordo: a clustered sequencer. Messages are worked on in any order and delivered in order.
#[derive(Debug, Parser)]
#[command(name = "ordo", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 success, 1 failure, 2 usage, 3 not found, 4 conflict, \
                        5 unavailable."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Addresses of nodes; one finds the cluster, several find it also while one of them is down.
    #[arg(
        long,
        global = true,
        env = "ORDO_CLUSTER",
        value_name = "ADDR,ADDR",
        value_delimiter = ',',
        default_values = ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]
    )]
    pub cluster: Vec<String>,
    /// Tables for people or JSON for programs.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// How long one call to the cluster may take, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// What is logged to standard error, as `info` or `warn,ordo_node=debug`.
    #[arg(long, global = true, env = "ORDO_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How it is logged.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node.
    Serve(serve::Args),
    /// Three nodes, HL7 orders, workers and a laboratory on this machine, with a killed leader.
    Demo(demo::Args),
    /// Create, list, show and change interfaces.
    #[command(subcommand)]
    Interface(interface::Command),
    /// Hand messages to an interface.
    Produce(produce::Args),
    /// Work on messages in stages.
    Work(work::Args),
    /// Receive an interface's messages in order.
    Consume(consume::Args),
    /// Look at one message.
    #[command(subcommand)]
    Message(message::Command),
    /// Say what an interface waits for.
    Why(why::Args),
    /// Dead letters: list, show, put back to work, discard.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Decide about the message that a destination waits for: give it up, or try it now.
    #[command(subcommand)]
    Delivery(delivery::Command),
    /// Run the cluster: its members and its leader.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Carry HL7 over MLLP in and out of the cluster.
    Gateway(gateway::Args),
    /// A node's configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Print completions for a shell.
    Completions(completions::Args),
}

impl Global {
    /// The cluster named.
    pub fn connect(&self) -> Result<Cluster> {
        Cluster::connect(&self.cluster)
            .map_err(|error| UsageError(format!("--cluster: {error}")).into())
    }

    /// Administrative calls to it.
    pub fn admin(&self) -> Result<Admin> {
        Ok(self.connect()?.admin().timeout(self.call_timeout()))
    }

    /// How long a call may take.
    pub fn call_timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// A stage as it is named on the command line: `NAME[,KEY=VALUE…]`.
pub fn stage(text: &str) -> Result<proto::StageConfig, String> {
    let (name, settings) = named(text)?;
    let mut stage = proto::StageConfig {
        name,
        ..Default::default()
    };
    for (key, value) in settings {
        let field = match key {
            "max_attempts" => &mut stage.max_attempts,
            "max_losses" => &mut stage.max_losses,
            "lease_ms" => &mut stage.lease_ms,
            "backoff_ms" => &mut stage.backoff_ms,
            "backoff_ms_max" => &mut stage.backoff_ms_max,
            "work_ms_max" => &mut stage.work_ms_max,
            _ => {
                return Err(unknown_key(
                    key,
                    "max_attempts, max_losses, lease_ms, backoff_ms, backoff_ms_max, work_ms_max",
                ));
            }
        };
        *field = number(key, value)?;
    }
    Ok(stage)
}

/// A destination as it is named on the command line: `NAME[,KEY=VALUE…]`.
pub fn destination(text: &str) -> Result<proto::DestinationConfig, String> {
    let (name, settings) = named(text)?;
    let mut destination = proto::DestinationConfig {
        name,
        ..Default::default()
    };
    for (key, value) in settings {
        let field = match key {
            "max_attempts" => &mut destination.max_attempts,
            "max_in_flight" => &mut destination.max_in_flight,
            _ => return Err(unknown_key(key, "max_attempts, max_in_flight")),
        };
        *field = number(key, value)?;
    }
    Ok(destination)
}

/// A header as it is given on the command line: `NAME=VALUE`.
pub fn header(text: &str) -> Result<proto::Header, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(proto::Header {
            name: name.to_owned(),
            value: value.to_owned(),
        }),
        _ => Err("a header is NAME=VALUE".to_owned()),
    }
}

/// A number with a sign for its unit: `512`, `64k`, `16M`, `1G` (of 1,024).
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (&text[..end], 10),
        Some((end, 'm' | 'M')) => (&text[..end], 20),
        Some((end, 'g' | 'G')) => (&text[..end], 30),
        _ => (text, 0),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is no size; allowed: a number, as 512, 64k, 16M or 1G"))
}

/// Keys and values as they stand on the command line.
type Pairs<'a> = Vec<(&'a str, &'a str)>;

fn named(text: &str) -> Result<(String, Pairs<'_>), String> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default().trim();
    if name.is_empty() || name.contains('=') {
        return Err("begins with a name: NAME[,KEY=VALUE…]".to_owned());
    }
    let settings = parts.map(|part| {
        part.split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()))
            .ok_or_else(|| format!("{part:?} is not KEY=VALUE"))
    });
    Ok((name.to_owned(), settings.collect::<Result<_, _>>()?))
}

fn number(key: &str, value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!(
            "{key} is {value:?}; allowed: a number from 1 to {}",
            u32::MAX
        )),
    }
}

fn unknown_key(key: &str, allowed: &str) -> String {
    format!("{key:?} is not known here; allowed: {allowed}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_stage_is_a_name_with_settings() {
        let plain = stage("validate").unwrap();
        assert_eq!(
            plain,
            proto::StageConfig {
                name: "validate".into(),
                ..Default::default()
            }
        );
        let set = stage("enrich,max_attempts=5, lease_ms=60000").unwrap();
        assert_eq!(
            (set.max_attempts, set.lease_ms, set.max_losses),
            (5, 60_000, 0)
        );
        for (wrong, part) in [
            ("", "a name"),
            ("lease_ms=1", "a name"),
            ("a,lease", "KEY=VALUE"),
            ("a,lease_ms=0", "from 1"),
            ("a,lease_ms=x", "\"x\""),
            ("a,colour=2", "allowed: max_attempts"),
        ] {
            let error = stage(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_destination_is_a_name_with_settings() {
        let set = destination("lab,max_in_flight=1").unwrap();
        assert_eq!(
            (set.name.as_str(), set.max_in_flight, set.max_attempts),
            ("lab", 1, 0)
        );
        assert!(
            destination("lab,lease_ms=1")
                .unwrap_err()
                .contains("max_in_flight")
        );
    }

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(size("512").unwrap(), 512);
        assert_eq!(size("64k").unwrap(), 65_536);
        assert_eq!(size("16M").unwrap(), 16 << 20);
        assert_eq!(size("1G").unwrap(), 1 << 30);
        assert!(size("99999999999999G").is_err());
        assert!(size("k").is_err() && size("").is_err() && size("5T").is_err());
    }

    #[test]
    fn a_header_keeps_equals_signs_in_its_value() {
        let header = header("query=a=b").unwrap();
        assert_eq!(
            (header.name.as_str(), header.value.as_str()),
            ("query", "a=b")
        );
        assert!(super::header("=x").is_err() && super::header("x").is_err());
    }

    #[test]
    fn the_cluster_is_a_list_of_addresses() {
        let cli = Cli::try_parse_from(["ordo", "why", "x", "--cluster", "a:1,b:2"]).unwrap();
        assert_eq!(cli.global.cluster, ["a:1", "b:2"]);
        let default = Cli::command().render_long_help().to_string();
        assert!(default.contains("127.0.0.1:7420"), "{default}");
        let cli = Cli::try_parse_from(["ordo", "-o", "json", "why", "x"]).unwrap();
        assert_eq!(cli.global.output, OutputFormat::Json);
    }
}
