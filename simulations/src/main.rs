//! `simulations`: runs seeds, and judges them.

use anyhow::{Context, Result};
use clap::{ArgGroup, Parser};
use simulations::bugs::{self, Bug};
use simulations::world::Show;
use simulations::{fleet, world};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the real nodes and clients on a simulated network, clock and disk, and checks every promise.
#[derive(Parser)]
#[command(group = ArgGroup::new("what").args(["seeds", "seed", "replay", "mutants", "recorded"]).multiple(true).required(true))]
struct Args {
    /// Run so many seeds; exit status 1 when one breaks a promise.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed of --seeds and --replay.
    #[arg(long, value_name = "N", default_value_t = 1)]
    from: u64,
    /// Run this seed only.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "replay", "mutants", "recorded"])]
    seed: Option<u64>,
    /// Give every run so many interfaces, in place of the number that its seed draws.
    #[arg(long, value_name = "N", conflicts_with_all = ["replay", "mutants", "recorded"])]
    interfaces: Option<u32>,
    /// Print the whole trace of the seed as it comes.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Write the history of the seed there, a line of JSON for each event.
    #[arg(long, value_name = "FILE", requires = "seed")]
    history: Option<PathBuf>,
    /// Print what came of the seed as JSON.
    #[arg(long, requires = "seed", hide = true)]
    json: bool,
    /// Print the product's own log lines of the seed, filtered as RUST_LOG is.
    #[arg(long, value_name = "FILTER", requires = "seed")]
    log: Option<String>,
    /// Run so many seeds twice and compare their traces byte for byte.
    #[arg(long, value_name = "N")]
    replay: Option<u64>,
    /// Plant every bug, one at a time, and find each within so many seeds.
    #[arg(long, value_name = "SEEDS", num_args = 0..=1, default_missing_value = "200")]
    mutants: Option<u64>,
    /// Plant ten of the bugs at the seeds that are known to find them.
    #[arg(long)]
    recorded: bool,
    /// Plant this bug (in the seed, or as the only one of --mutants).
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seeds", "replay", "recorded"])]
    bug: Option<String>,
    /// Run so many seeds at once, of --seeds and --mutants.
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let bug = args.bug.as_deref().map(|name| {
        Bug::named(name).with_context(|| {
            let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            format!("there is no bug {name}; there are {}", names.join(", "))
        })
    });
    let bug = bug.transpose()?;
    if let Some(seed) = args.seed {
        return one(args, seed, bug);
    }
    if let Some(count) = args.replay {
        for seed in args.from..args.from + count {
            fleet::replay(seed)?;
        }
        println!("{count} seeds ran twice, with the same traces");
    }
    if args.recorded {
        fleet::recorded()?;
    }
    if let Some(seeds) = args.mutants {
        let chosen = bug.map(|bug| vec![bug]);
        fleet::mutants(chosen.as_deref().unwrap_or(Bug::ALL), seeds, args.jobs)?;
    }
    if let Some(count) = args.seeds {
        fleet::many(args.from, count, args.interfaces, args.jobs)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn one(args: &Args, seed: u64, bug: Option<Bug>) -> Result<ExitCode> {
    if let Some(filter) = &args.log {
        tracing_subscriber::fmt()
            .with_env_filter(filter.as_str())
            .with_writer(std::io::stdout)
            .without_time()
            .init();
    }
    bugs::choose(bug);
    world::watch_panics();
    let show = Show {
        trace: args.trace,
        history: args.history.clone(),
    };
    let outcome = simulations::run(seed, args.interfaces, &show);
    if args.json {
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(ExitCode::SUCCESS);
    }
    if !outcome.violations.is_empty() {
        fleet::report(&outcome, args.interfaces);
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "seed {seed}: every promise held in {} simulated s, well again {} ms after the last fault",
        outcome.simulated_ms / 1_000,
        outcome.healed_ms.unwrap_or(0)
    );
    Ok(ExitCode::SUCCESS)
}
