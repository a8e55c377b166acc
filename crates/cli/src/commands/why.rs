//! `ordo why`.

use anyhow::Result;

use crate::args::Global;
use crate::output::Output;
use crate::views::Explanation;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The interface's name.
    interface: String,
}

pub async fn run(global: &Global, args: Args) -> Result<()> {
    let answer = global.admin()?.explain_interface(&args.interface).await?;
    Output::new(global.output).card(&Explanation::from(answer))
}
