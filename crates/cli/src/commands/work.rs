//! `ordo work`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use ordo_client::{Assignment, Outcome, WorkerBuilder};
use ordo_gateway::stages::{DEMO_STAGES, StageResult, demo_stage};
use tokio::time::{MissedTickBehavior, interval_at};

use super::exec::{Exec, Verdict};
use super::shutdown::Signals;
use crate::args::Global;
use crate::exit::UsageError;

/// How long a program may run for one message, unless it is said otherwise, in seconds.
const EXEC_TIMEOUT_S: u64 = 600;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A program gets the payload on standard input and answers by its exit status: 0 done (what it \
                        wrote to standard output is the new payload; nothing: unchanged), 65 reject, 77 filter, 75 \
                        and any other again later; the last line on standard error is the reason. It finds \
                        ORDO_INTERFACE, ORDO_INTERFACE_ID, ORDO_SEQUENCE, ORDO_STAGE, ORDO_ATTEMPTS and \
                        ORDO_MESSAGE_ID in its environment."
)]
pub struct Args {
    /// The stages worked on; without --exec: validate, enrich or route, for HL7 orders.
    #[arg(long = "stage", short, required = true, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    stages: Vec<String>,
    /// Run this command (by sh -c) for each message.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// How long that command may run for one message, in seconds; then it is killed with what it has started, and
    /// the message is tried again. 0: for ever.
    #[arg(long, value_name = "SECONDS", default_value_t = EXEC_TIMEOUT_S, requires = "exec")]
    exec_timeout: u64,
    /// Only interfaces whose names begin so.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    interface_prefix: String,
    /// How many messages are worked on at once.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: Option<u32>,
    /// What people see the worker as.
    #[arg(long, default_value = "ordo-work")]
    name: String,
}

pub async fn run(global: &Global, args: Args) -> Result<()> {
    let mut signals = Signals::new()?;
    // A program for each message at once is more than most machines like.
    let concurrency = args
        .concurrency
        .unwrap_or(if args.exec.is_some() { 4 } else { 64 });
    let time_max = (args.exec_timeout > 0).then(|| Duration::from_secs(args.exec_timeout));
    let mut worker = global
        .connect()?
        .worker()
        .name(args.name)
        .interface_prefix(args.interface_prefix)
        .concurrency(concurrency);
    worker = match args.exec {
        Some(command) => with_exec(worker, &args.stages, Exec::new(command, time_max)),
        None => with_demo_stages(worker, &args.stages)?,
    };
    let mut worker = worker.start()?;
    tracing::info!(stages = ?args.stages, "working");
    tokio::select! {
        ended = worker.ended() => return Ok(ended?),
        () = signals.arrived() => {}
    }
    let stats = worker.stats();
    tracing::info!(recorded = stats.recorded, stale = stats.stale, "draining");
    tokio::select! {
        drained = worker.drain() => Ok(drained?),
        () = signals.arrived() => bail!("interrupted while draining: what was held goes to another worker"),
    }
}

fn with_demo_stages(mut worker: WorkerBuilder, stages: &[String]) -> Result<WorkerBuilder> {
    for name in stages {
        let Some(stage) = demo_stage(name) else {
            bail!(UsageError(format!(
                "--stage {name}: without --exec there are {}; give a program with --exec for others",
                DEMO_STAGES.join(", ")
            )));
        };
        worker = worker.stage_sync(name, move |assignment: Assignment| {
            outcome_of(stage(assignment.payload()))
        });
    }
    Ok(worker)
}

/// A stage's result as a report.
pub fn outcome_of(result: StageResult) -> Outcome {
    match result {
        StageResult::Complete { payload, headers } => {
            let outcome = payload.map_or_else(Outcome::complete, Outcome::complete_with);
            headers.into_iter().fold(outcome, |outcome, (name, value)| {
                outcome.with_header(name, value)
            })
        }
        StageResult::Reject { reason } => Outcome::reject(reason),
        StageResult::Filter { reason } => Outcome::filter(reason),
    }
}

fn with_exec(mut worker: WorkerBuilder, stages: &[String], exec: Exec) -> WorkerBuilder {
    let exec = Arc::new(exec);
    for name in stages {
        let exec = Arc::clone(&exec);
        worker = worker.stage(name, move |assignment: Assignment| {
            let exec = Arc::clone(&exec);
            async move { report_of(run_extended(&exec, &assignment).await) }
        });
    }
    worker
}

/// Runs the program and holds on to the lease while it does.
async fn run_extended(exec: &Exec, assignment: &Assignment) -> Verdict {
    let variables = [
        ("ORDO_INTERFACE", assignment.interface().to_owned()),
        ("ORDO_INTERFACE_ID", assignment.interface_id().to_string()),
        ("ORDO_SEQUENCE", assignment.sequence().to_string()),
        ("ORDO_STAGE", assignment.stage().to_owned()),
        ("ORDO_ATTEMPTS", assignment.attempts().to_string()),
        ("ORDO_MESSAGE_ID", assignment.message_id().to_string()),
    ];
    let running = exec.run(assignment.payload(), &variables);
    tokio::pin!(running);
    let third = (assignment.lease() / 3).max(Duration::from_millis(10));
    let mut extend = interval_at(tokio::time::Instant::now() + third, third);
    extend.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            verdict = &mut running => return verdict,
            _ = extend.tick() => assignment.extend(),
        }
    }
}

fn report_of(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Done(output) if Bytes::is_empty(&output) => Outcome::complete(),
        Verdict::Done(output) => Outcome::complete_with(output),
        Verdict::Retry(reason) | Verdict::Unavailable(reason) => Outcome::retry(reason),
        Verdict::Reject(reason) => Outcome::reject(reason),
        Verdict::Filter(reason) => Outcome::filter(reason),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn stages_can_be_given_in_any_of_the_usual_ways() {
        for line in [
            &["ordo", "work", "--stage", "a", "--stage", "b"][..],
            &["ordo", "work", "--stage", "a", "b"],
            &["ordo", "work", "-s", "a,b"],
        ] {
            let Command::Work(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!("not work")
            };
            assert_eq!(args.stages, ["a", "b"]);
        }
        assert!(Cli::try_parse_from(["ordo", "work"]).is_err());
    }

    #[test]
    fn a_program_has_ten_minutes_unless_it_is_said_otherwise() {
        let timeout = |more: &[&str]| {
            let line = ["ordo", "work", "-s", "a", "--exec", "cat"];
            let line = line.iter().chain(more);
            match Cli::try_parse_from(line).unwrap().command {
                Command::Work(args) => args.exec_timeout,
                _ => panic!("not work"),
            }
        };
        assert_eq!(timeout(&[]), 600);
        assert_eq!(timeout(&["--exec-timeout", "5"]), 5);
        let without = ["ordo", "work", "-s", "a", "--exec-timeout", "5"];
        assert!(Cli::try_parse_from(without).is_err());
    }

    #[test]
    fn an_unchanged_payload_is_not_sent_back() {
        let unchanged = format!("{:?}", report_of(Verdict::Done(Bytes::new())));
        assert!(unchanged.contains("payload_bytes: None"), "{unchanged}");
        let changed = format!("{:?}", report_of(Verdict::Done("ab".into())));
        assert!(changed.contains("payload_bytes: Some(2)"), "{changed}");
    }

    #[test]
    fn a_stage_result_keeps_its_headers() {
        let result = StageResult::Complete {
            payload: None,
            headers: vec![("lab".into(), "x".into())],
        };
        assert!(format!("{:?}", outcome_of(result)).contains("headers: 1"));
    }
}
