//! One file per command.

pub mod cluster;
pub mod completions;
pub mod config;
pub mod consume;
pub mod delivery;
pub mod dlq;
pub mod exec;
pub mod gateway;
pub mod interface;
pub mod message;
pub mod produce;
pub mod serve;
pub mod shutdown;
pub mod why;
pub mod work;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{Cli, Command};
use crate::demo;

/// Carries the command out.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Demo(args) => return demo::run(global, args).await,
        Command::Serve(args) => serve::run(args).await?,
        Command::Interface(command) => interface::run(global, command).await?,
        Command::Produce(args) => produce::run(global, args).await?,
        Command::Work(args) => work::run(global, args).await?,
        Command::Consume(args) => consume::run(global, args).await?,
        Command::Message(command) => message::run(global, command).await?,
        Command::Why(args) => why::run(global, args).await?,
        Command::Dlq(command) => dlq::run(global, command).await?,
        Command::Delivery(command) => delivery::run(global, command).await?,
        Command::Cluster(command) => cluster::run(global, command).await?,
        Command::Gateway(args) => gateway::run(global, args).await?,
        Command::Config(command) => config::run(global, command)?,
        Command::Completions(args) => completions::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
