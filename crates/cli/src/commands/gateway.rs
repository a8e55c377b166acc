//! `ordo gateway`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ordo_client::Cluster;
use ordo_gateway::config::{GatewayConfig, ListenConfig, SendConfig};
use ordo_gateway::gateway::Gateway;

use super::shutdown::Signals;
use crate::args::Global;
use crate::exit::UsageError;

#[derive(Debug, clap::Args)]
#[command(after_help = "With --config the cluster is the file's; --cluster counts without one.")]
pub struct Args {
    /// The gateway's configuration (TOML).
    #[arg(long, short, value_name = "FILE", required_unless_present_any = ["listen", "send"])]
    config: Option<PathBuf>,
    /// Listen for MLLP; what comes in belongs to the interface, or to that which its header names where this is a
    /// template, as {MSH-4}.{MSH-6}. Added to those of the file.
    #[arg(long, value_name = "INTERFACE=ADDR", value_parser = listen)]
    listen: Vec<ListenConfig>,
    /// Deliver the interface's messages over MLLP, or those of all whose names begin so where it ends in *. Added to those of the file.
    #[arg(long, value_name = "INTERFACE[@DESTINATION]=ADDR", value_parser = send)]
    send: Vec<SendConfig>,
    /// Show /healthz, /readyz and /metrics there. Takes the place of the file's.
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Allow MLLP, which is never encrypted, off loopback.
    #[arg(long)]
    allow_plaintext: bool,
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
    let mut signals = Signals::new()?;
    let mut config = match &args.config {
        Some(path) => GatewayConfig::load(path)
            .map_err(|errors| UsageError(format!("{}:\n{errors}", path.display())))?,
        None => GatewayConfig {
            cluster: global.cluster.clone(),
            ..GatewayConfig::default()
        },
    };
    config.listen.extend(args.listen);
    config.send.extend(args.send);
    config.http = args.http.or(config.http);
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

    use super::*;

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
