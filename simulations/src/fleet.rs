//! Many seeds, one process each: what a run leaves behind in its process must not reach the next one.

use crate::bugs::{self, Bug};
use crate::faults::Fault;
use crate::world::Outcome;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

/// What a fleet of runs came to.
#[derive(Default)]
pub struct Total {
    /// Seeds done.
    pub seeds: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// What happened, how often.
    pub counts: BTreeMap<String, u64>,
    /// The longest time from the end of all faults until everybody agreed, in simulated milliseconds, and its seed.
    pub healed_ms_max: (u64, u64),
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_ms += outcome.simulated_ms;
        for (what, n) in &outcome.counts {
            *self.counts.entry(what.clone()).or_default() += n;
        }
        if let Some(healed_ms) = outcome.healed_ms {
            self.healed_ms_max = self.healed_ms_max.max((healed_ms, outcome.seed));
        }
    }
}

/// Runs one seed in a process of its own.
///
/// # Errors
/// When the process can't be run, or ends without an outcome.
pub fn run_apart(seed: u64, interfaces: Option<u32>, bug: Option<Bug>) -> Result<Outcome> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string(), "--json"]);
    if let Some(interfaces) = interfaces {
        command.args(["--interfaces", &interfaces.to_string()]);
    }
    if let Some(bug) = bug {
        command.args(["--bug", bug.name()]);
    }
    let child: Child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = child.wait_with_output()?;
    if output.status.signal().is_some() {
        return Ok(Outcome::died(
            seed,
            &String::from_utf8_lossy(&output.stderr),
        ));
    }
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "seed {seed} ended without an outcome ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Runs seeds until there are no more, or `wanted` says that it has seen enough. Outcomes come as they are ready.
fn run_many(
    seeds: impl Iterator<Item = u64>,
    interfaces: Option<u32>,
    bug: Option<Bug>,
    jobs: usize,
    mut wanted: impl FnMut(Outcome) -> Result<bool>,
) -> Result<()> {
    let (done, outcomes): (Sender<Result<Outcome>>, Receiver<_>) = channel();
    let mut seeds = seeds;
    let mut running = 0;
    loop {
        while running < jobs
            && let Some(seed) = seeds.next()
        {
            let done = done.clone();
            thread::spawn(move || drop(done.send(run_apart(seed, interfaces, bug))));
            running += 1;
        }
        if running == 0 {
            return Ok(());
        }
        let outcome = outcomes.recv().expect("a sender is kept here");
        running -= 1;
        if !wanted(outcome?)? {
            // Those that still run end by themselves.
            return Ok(());
        }
    }
}

/// Says what did not hold, and how to see it again.
pub fn report(outcome: &Outcome, interfaces: Option<u32>) {
    println!("\nseed {} broke a promise:", outcome.seed);
    for violation in &outcome.violations {
        println!(
            "  {} at {} ms: {}",
            violation.check, violation.at_ms, violation.what
        );
    }
    println!("\nthe last events:");
    for line in &outcome.tail {
        println!("  {line}");
    }
    let interfaces = interfaces.map_or(String::new(), |count| format!(" --interfaces {count}"));
    println!(
        "\nagain: cargo run --release -p simulations -- --seed {}{interfaces} --trace",
        outcome.seed
    );
}

/// Runs `count` seeds from `from` on, each with so many interfaces where a number is given; ends at the first that
/// breaks a promise.
///
/// # Errors
/// When one does, or when the whole was too kind to mean anything.
pub fn many(from: u64, count: u64, interfaces: Option<u32>, jobs: usize) -> Result<Total> {
    let (mut total, mut broken, started) = (Total::default(), None, Instant::now());
    run_many(from..from + count, interfaces, None, jobs, |outcome| {
        total.add(&outcome);
        if !outcome.violations.is_empty() {
            broken = Some(outcome);
            return Ok(false);
        }
        progress(&total, count, started);
        Ok(true)
    })?;
    println!();
    if let Some(outcome) = broken {
        report(&outcome, interfaces);
        bail!("seed {} broke a promise", outcome.seed);
    }
    summary(&total, started);
    too_kind(&total)?;
    Ok(total)
}

/// Seeds between two lines about what was injected.
const PROGRESS_EVERY: u64 = 50;

fn progress(total: &Total, count: u64, started: Instant) {
    let simulated = total.simulated_ms as f64 / 1_000.0;
    let rate = simulated / started.elapsed().as_secs_f64().max(0.001);
    let so_far = format!(
        "{} of {count} seeds, {simulated:.0} simulated s, {rate:.0} a second",
        total.seeds
    );
    if total.seeds.is_multiple_of(PROGRESS_EVERY) {
        let counts = total.counts.iter().filter_map(|(what, n)| {
            let kind = what.strip_prefix(Fault::LABEL)?;
            Some(format!("{n} {kind}"))
        });
        println!("\r{so_far}: {}", counts.collect::<Vec<_>>().join(", "));
    } else if std::io::stdout().is_terminal() {
        print!("\r{so_far}");
        let _ = std::io::stdout().flush();
    }
}

fn summary(total: &Total, started: Instant) {
    let simulated = total.simulated_ms as f64 / 1_000.0;
    let took = started.elapsed().as_secs_f64();
    println!(
        "{} seeds, {:.1} simulated hours in {took:.0} s: {:.0} simulated seconds a second",
        total.seeds,
        simulated / 3_600.0,
        simulated / took.max(0.001)
    );
    let (healed_ms, seed) = total.healed_ms_max;
    println!(
        "well again within {healed_ms} ms of the last fault in every seed (seed {seed} took longest)"
    );
    for (what, n) in &total.counts {
        println!("{n:>10}  {what}");
    }
}

/// What a fleet must have met to mean anything.
const MUST_HAPPEN: [&str; 6] = [
    "unsynced writes lost",
    "torn tails",
    "snapshots installed",
    "old epochs refused",
    "crashes inside membership changes",
    "truncations",
];

/// Fewer seeds than this may miss something.
const ENOUGH_SEEDS: u64 = 100;

fn too_kind(total: &Total) -> Result<()> {
    let missed: Vec<&str> = MUST_HAPPEN
        .into_iter()
        .filter(|what| !total.counts.contains_key(*what))
        .collect();
    ensure!(
        missed.is_empty() || total.seeds < ENOUGH_SEEDS,
        "too kind: in {} seeds there were no {}",
        total.seeds,
        missed.join(", no ")
    );
    Ok(())
}

/// Runs `seed` twice and compares the traces.
///
/// # Errors
/// When they differ.
pub fn replay(seed: u64) -> Result<()> {
    let (first, second) = (run_apart(seed, None, None)?, run_apart(seed, None, None)?);
    ensure!(
        first.trace == second.trace,
        "seed {seed} does not repeat: {} and {}",
        first.trace,
        second.trace
    );
    Ok(())
}

/// Plants the recorded bugs at the seeds that found them.
///
/// # Errors
/// When one is no longer found: the simulation has changed, and `--mutants` finds its new seed.
pub fn recorded() -> Result<()> {
    for (bug, seed) in bugs::RECORDED {
        let outcome = run_apart(*seed, None, Some(*bug))?;
        ensure!(
            !outcome.violations.is_empty(),
            "seed {seed} no longer finds {}: look for another one with --mutants --bug {}",
            bug.name(),
            bug.name()
        );
    }
    println!("{} planted bugs found at their seeds", bugs::RECORDED.len());
    Ok(())
}

/// Plants every bug, one at a time, and looks for a seed that finds it.
///
/// # Errors
/// When one is not found within `seeds`.
pub fn mutants(planted: &[Bug], seeds: u64, jobs: usize) -> Result<()> {
    let mut missed = Vec::new();
    println!("| planted bug | seed | found by | after |\n| --- | --- | --- | --- |");
    for bug in planted {
        let mut found: Option<Outcome> = None;
        run_many(1..=seeds, None, Some(*bug), jobs, |outcome| {
            if outcome.violations.is_empty() {
                return Ok(true);
            }
            found = Some(outcome);
            Ok(false)
        })?;
        match found {
            Some(outcome) => {
                let first = &outcome.violations[0];
                println!(
                    "| {} | {} | `{}` | {:.1} s |",
                    bug.sentence().trim(),
                    outcome.seed,
                    first.check,
                    first.at_ms as f64 / 1_000.0
                );
            }
            None => {
                println!("| {} | – | **not found** | |", bug.sentence().trim());
                missed.push(bug.name());
            }
        }
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    println!("{} of {} found", planted.len(), planted.len());
    Ok(())
}
