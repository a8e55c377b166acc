//! `ordo demo`: what Ordo is for, on one machine and in half a minute.
//!
//! Three real node processes, an MLLP gateway, two workers for each stage and a simulated laboratory. Orders go in, the
//! leader is killed, the laboratory goes away for a while, and at the end what the laboratory saw is held against what
//! the cluster says.

mod cast;
mod faults;
mod feed;
mod letters;
mod nodes;
mod report;
mod screen;
mod story;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::args::Global;
use crate::commands::shutdown::Signals;
use crate::output::Output;
use nodes::Nodes;
use report::Report;
use screen::Screen;

/// The demonstration's interfaces: the name, and what the generated orders' control ids begin with.
pub const INTERFACES: [(&str, &str); 2] = [("radiology", "RAD"), ("laboratory", "LAB")];

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many orders are generated, over both interfaces.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    messages: u64,
    /// Orders a second, over both interfaces.
    #[arg(long, value_name = "COUNT", default_value_t = 12.0, value_parser = rate)]
    rate: f64,
    /// Send these HL7 files instead, one message each, in turn to both interfaces.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "messages")]
    file: Vec<PathBuf>,
    /// Send the .hl7 files of this folder instead.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["messages", "file"])]
    dir: Option<PathBuf>,
    /// Kill nothing and take nothing down: run quietly and print how long deliveries took.
    #[arg(long)]
    no_faults: bool,
    /// Leave the cluster running and say what to try with it.
    #[arg(long)]
    keep: bool,
    /// The generated orders and the workers' pace come from this number.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted; everything is ended and removed")]
struct Interrupted;

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("allowed: a number from 0.1 to 10000".to_owned()),
    }
}

/// Plays the demonstration. The exit status is 0 only if nothing was out of order, lost or duplicated in effect.
pub async fn run(global: &Global, args: Args) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let output = Output::new(global.output);
    let letters = letters::of(&args)?;
    let widths = letters.iter().flatten().map(|letter| letter.shown.len());
    let screen = Screen::new(output.is_json(), args.no_faults, widths.max().unwrap_or(0));
    let mut nodes = Nodes::configure(args.keep).context("preparing three nodes")?;
    let played = tokio::select! {
        played = story::play(&args, letters, &screen, &mut nodes) => played,
        () = signals.arrived() => Err(Interrupted.into()),
    };
    screen.finish();
    match played {
        Ok(report) => {
            show(&report, output, &args)?;
            if args.keep {
                nodes.leave(output)?;
            } else {
                nodes.end().await;
            }
            Ok(if report.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Err(error) => {
            let last_words = if error.is::<Interrupted>() {
                String::new()
            } else {
                nodes.last_words()
            };
            nodes.end().await;
            if !last_words.is_empty() {
                eprintln!("{last_words}");
            }
            Err(error)
        }
    }
}

fn show(report: &Report, output: Output, args: &Args) -> Result<()> {
    if output.is_json() {
        return output.json_line(report);
    }
    crate::output::line(&report.text(args.no_faults))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &[&str]) -> Result<Args, clap::Error> {
        match Cli::try_parse_from([&["ordo", "demo"], line].concat())?.command {
            Command::Demo(args) => Ok(args),
            other => panic!("not demo: {other:?}"),
        }
    }

    #[test]
    fn the_demonstration_has_defaults() {
        let args = args(&[]).unwrap();
        assert_eq!(
            (args.messages, args.rate, args.no_faults, args.keep),
            (200, 12.0, false, false)
        );
    }

    #[test]
    fn wrong_figures_are_refused() {
        assert!(args(&["--rate", "0"]).is_err());
        assert!(args(&["--messages", "0"]).is_err());
        assert!(args(&["--dir", "x", "--messages", "5"]).is_err());
        assert!(args(&["--rate", "12", "--messages", "600", "--no-faults"]).is_ok());
    }
}
