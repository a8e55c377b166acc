//! `ordo completions`.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &Args) -> Result<()> {
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "ordo",
        &mut std::io::stdout(),
    );
    Ok(())
}
