//! The `ordo` command.

mod args;
mod commands;
mod demo;
mod exit;
mod logs;
mod output;
mod views;

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ordo_client::Reason;
use tokio::runtime::{Builder, Runtime};

use args::{Cli, Command, OutputFormat};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.global.output;
    let cluster = cli.global.cluster.join(",");
    match run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let status = exit::status(&error);
            match output {
                OutputFormat::Table => eprintln!("ordo: {error:#}{}", hint(&error, &cluster)),
                OutputFormat::Json => eprintln!("{}", views::error(&error, status)),
            }
            ExitCode::from(status)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let serves = matches!(cli.command, Command::Serve(_));
    let default = match cli.command {
        // What consensus does in detail is for its developers; a node that can't be reached is ours to say, once.
        // h2 warns of every connection that it closes for a flood of resets.
        Command::Serve(_) | Command::Gateway(_) => "info,openraft=error,h2=error",
        _ => "error",
    };
    logs::init(&cli.global, default)?;
    let runtime = runtime(serves).context("starting the runtime")?;
    let result = runtime.block_on(commands::run(cli));
    if serves {
        ordo_node::serve::leave(runtime);
    }
    result
}

/// A node's sockets and consensus share one thread where there are few cores: the log writer and the state have
/// threads of their own, and hopping between more of them was measured to cost more than it gains.
fn runtime(serves: bool) -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if serves && cores <= 2 {
        Builder::new_current_thread().enable_all().build()
    } else {
        Builder::new_multi_thread().enable_all().build()
    }
}

/// Where nobody was reached, where they were looked for.
fn hint(error: &anyhow::Error, cluster: &str) -> String {
    let refusal = error.chain().find_map(views::refusal_of);
    if refusal.is_some_and(|refusal| refusal.reason == Reason::Unspecified) {
        format!("\n      the cluster was looked for at {cluster} (--cluster, ORDO_CLUSTER)")
    } else {
        String::new()
    }
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(pipe)
}
