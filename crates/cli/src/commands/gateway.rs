//! `ordo gateway`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ordo_client::Cluster;
use ordo_gateway::config::{GatewayConfig, ListenConfig, SendConfig};
use ordo_gateway::gateway::Gateway;
use ordo_gateway::refusals;

use super::shutdown::Signals;
use crate::args::Global;
use crate::exit::UsageError;
use crate::output::Output;
use crate::views::RefusalRow;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --config the cluster is the file's; --cluster counts without one.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The gateway's configuration (TOML).
    #[arg(long, short, value_name = "FILE", required_unless_present_any = ["listen", "send"])]
    config: Option<PathBuf>,
    /// Listen for MLLP; what comes in belongs to the interface. Added to those of the file.
    #[arg(long, value_name = "INTERFACE=ADDR", value_parser = listen)]
    listen: Vec<ListenConfig>,
    /// Deliver the interface's messages over MLLP. Added to those of the file.
    #[arg(long, value_name = "INTERFACE[@DESTINATION]=ADDR", value_parser = send)]
    send: Vec<SendConfig>,
    /// Allow MLLP, which is never encrypted, off loopback.
    #[arg(long)]
    allow_plaintext: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the messages that a gateway refused, the oldest first.
    ///
    /// Reads the file in which the gateway keeps them (its setting `state`); it may be running.
    Refusals(RefusalsArgs),
}

#[derive(Debug, clap::Args)]
struct RefusalsArgs {
    /// The gateway's configuration (TOML), which names the folder.
    #[arg(long, short, value_name = "FILE", required_unless_present = "state")]
    config: Option<PathBuf>,
    /// The folder itself.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    state: Option<PathBuf>,
    /// Only those of this interface.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

fn refusals(global: &Global, args: RefusalsArgs) -> Result<()> {
    let folder = match (args.state, &args.config) {
        (Some(folder), _) => folder,
        (None, Some(path)) => load(path)?.state.ok_or_else(|| {
            UsageError(format!(
                "{} names no folder (state): the gateway keeps its refusals in memory alone",
                path.display()
            ))
        })?,
        (None, None) => return Err(UsageError("name --config or --state".to_owned()).into()),
    };
    let mut rows = refusals::read(&folder)
        .with_context(|| format!("reading the refusals in {}", folder.display()))?;
    if let Some(interface) = &args.interface {
        rows.retain(|row| row.interface == *interface);
    }
    let rows: Vec<_> = rows.into_iter().map(RefusalRow::from).collect();
    Output::new(global.output).rows(&rows, "no refusals")
}

fn load(path: &Path) -> Result<GatewayConfig, UsageError> {
    GatewayConfig::load(path).map_err(|errors| UsageError(format!("{}:\n{errors}", path.display())))
}

fn listen(text: &str) -> Result<ListenConfig, String> {
    let (interface, address) = text.split_once('=').ok_or("not INTERFACE=ADDR")?;
    let address: Result<SocketAddr, _> = address.parse();
    match address {
        Ok(address) => Ok(ListenConfig::new(address, interface)),
        Err(_) => {
            Err("the address to listen on is an IP address and port, as 127.0.0.1:2575".to_owned())
        }
    }
}

fn send(text: &str) -> Result<SendConfig, String> {
    let (from, address) = text
        .split_once('=')
        .ok_or("not INTERFACE[@DESTINATION]=ADDR")?;
    let (interface, destination) = from.split_once('@').unwrap_or((from, "default"));
    Ok(SendConfig {
        interface: interface.to_owned(),
        destination: destination.to_owned(),
        address: address.to_owned(),
        ..SendConfig::default()
    })
}

pub async fn run(global: &Global, args: Args) -> Result<()> {
    if let Some(Command::Refusals(args)) = args.command {
        return refusals(global, args);
    }
    let mut signals = Signals::new()?;
    let mut config = match &args.config {
        Some(path) => load(path)?,
        None => GatewayConfig {
            cluster: global.cluster.clone(),
            ..GatewayConfig::default()
        },
    };
    config.listen.extend(args.listen);
    config.send.extend(args.send);
    config.allow_plaintext |= args.allow_plaintext;
    config
        .check()
        .map_err(|errors| UsageError(errors.to_string()))?;
    let cluster = Cluster::connect(&config.cluster)
        .map_err(|error| UsageError(format!("cluster: {error}")))?;
    let gateway = Gateway::start(config, &cluster)
        .await
        .context("starting the gateway")?;
    signals.arrived().await;
    tracing::info!("ending: messages in flight are finished first");
    tokio::select! {
        () = gateway.shutdown() => {}
        () = signals.arrived() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn refusals_are_asked_for_by_folder_or_by_configuration_and_a_gateway_as_before() {
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
        let asked = |line: &str| parse(line).unwrap().command.is_some();
        assert!(asked("gateway refusals --state folder"));
        assert!(asked(
            "gateway refusals --config gateway.toml --interface RAD"
        ));
        assert!(!asked("gateway --config gateway.toml"));
        assert!(!asked("gateway --listen RAD=127.0.0.1:2575"));
        for wrong in [
            "gateway",
            "gateway refusals",
            "gateway refusals --config a --state b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_named_with_their_interfaces() {
        let listen = listen("lab/RAD=127.0.0.1:2575").unwrap();
        assert_eq!(
            (listen.interface.as_str(), listen.address.port()),
            ("lab/RAD", 2575)
        );
        let send_to = send("RAD@archive=lab.example:2576").unwrap();
        assert_eq!(
            (
                send_to.interface.as_str(),
                send_to.destination.as_str(),
                send_to.address.as_str()
            ),
            ("RAD", "archive", "lab.example:2576")
        );
        assert_eq!(send("RAD=[::1]:2576").unwrap().destination, "default");
        assert!(super::listen("RAD").is_err() && super::listen("RAD=lab:1").is_err());
        assert!(send("RAD").is_err());
    }
}
