//! `ordo consume`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ordo_client::{Answer, ConsumeError, Delivery, GrantState, SubscribeTo, Subscription};
use serde::Serialize;

use super::exec::{Exec, Verdict};
use super::shutdown::Signals;
use crate::args::Global;
use crate::output::Output;
use crate::views::{self, Payload};

/// The pause before a delivery is tried again when a program asked for it.
const PAUSE: Duration = Duration::from_secs(1);
/// How long nothing comes before a person is told that there is no grant yet.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each message is acknowledged when it has been printed, written or handled. A program gets the \
                        payload on standard input and answers by its exit status: 0 done, 69 the receiver can't be \
                        reached (no attempt is counted), 65 and 77 never, 75 and any other again later (an attempt is \
                        counted); the last line on standard error is the reason. It finds ORDO_INTERFACE, \
                        ORDO_INTERFACE_ID, ORDO_INCARNATION, ORDO_SEQUENCE, ORDO_EPOCH and ORDO_MESSAGE_ID \
                        in its environment."
)]
pub struct Args {
    /// The interface's name.
    interface: String,
    /// Which of its destinations.
    #[arg(long, value_name = "NAME", default_value = "")]
    destination: String,
    /// Write each payload to a file of this folder, named by its sequence, rather than print it.
    #[arg(long, value_name = "FOLDER", conflicts_with = "exec")]
    dir: Option<PathBuf>,
    /// Run this command (by sh -c) for each message rather than print it.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// End after so many deliveries, skip markers included.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing has come for so long, in seconds.
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
    /// What people see the consumer as.
    #[arg(long, default_value = "ordo-consume")]
    name: String,
}

/// What is done with a message.
enum Receiver {
    Print(Output),
    Folder(PathBuf, Output),
    Program(Exec, Output),
}

pub async fn run(global: &Global, args: Args) -> Result<()> {
    let mut signals = Signals::new()?;
    let output = Output::new(global.output);
    let receiver = match (args.dir, args.exec) {
        (Some(folder), _) => {
            std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
            Receiver::Folder(folder, output)
        }
        (None, Some(command)) => Receiver::Program(Exec::new(command, None), output),
        (None, None) => Receiver::Print(output),
    };
    let consumer = global.connect()?.consumer().name(args.name).start()?;
    let mut to = SubscribeTo::interface(args.interface);
    if !args.destination.is_empty() {
        to = to.destination(args.destination);
    }
    let mut subscription = consumer.subscribe(to);
    let idle = args.idle.map_or(Duration::MAX, Duration::from_secs);
    let (mut done, mut told) = (0, None);
    while args.count.is_none_or(|count| done < count) {
        let delivery = tokio::select! {
            biased;
            () = signals.arrived() => break,
            next = tokio::time::timeout(idle, next(&mut subscription, &mut told)) => match next {
                Ok(Some(delivery)) => delivery?,
                Ok(None) | Err(_) => break,
            },
        };
        let answer = tokio::select! {
            answer = receiver.receive(&delivery) => answer?,
            // Whatever was begun ends here, before another consumer can begin it.
            () = delivery.revoked() => Answer::unavailable(PAUSE, "the grant may be another's by now"),
            // What was begun is not acknowledged, and comes again.
            () = signals.arrived() => break,
        };
        done += u64::from(answer == Answer::Ack);
        give(delivery, answer);
    }
    drop(subscription);
    consumer.close().await;
    Ok(())
}

/// The next delivery. While there is no grant, a person is told so, once for each reason.
async fn next(
    subscription: &mut Subscription,
    told: &mut Option<String>,
) -> Option<Result<Delivery, ConsumeError>> {
    loop {
        if let Ok(next) = tokio::time::timeout(PATIENCE, subscription.next()).await {
            return next;
        }
        let waits = waits(&subscription.state());
        if waits.is_some() && *told != waits {
            eprintln!("{}", waits.as_deref().unwrap_or_default());
            *told = waits;
        }
    }
}

/// Why nothing can come.
fn waits(state: &GrantState) -> Option<String> {
    match state {
        GrantState::Connecting => Some("waits: no leader has answered yet".to_owned()),
        GrantState::Waiting { holder } => {
            Some(format!("waits in line: consumer {holder} receives now"))
        }
        GrantState::Granted { .. } | GrantState::Ended => None,
    }
}

fn give(delivery: Delivery, answer: Answer) {
    let given = match answer {
        Answer::Ack => {
            delivery.ack();
            return;
        }
        Answer::Retry { after, reason } => delivery.retry(after, reason),
        Answer::Reject { reason } => delivery.reject(reason),
        answer @ Answer::Unavailable { .. } => delivery.answer(answer),
    };
    if let Err(error) = given {
        // It comes again under the next grant.
        tracing::debug!(%error, "answer not given");
    }
}

#[derive(Serialize)]
struct Received<'a> {
    interface: &'a str,
    destination: &'a str,
    sequence: u64,
    message_id: String,
    epoch: u64,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(flatten)]
    payload: Option<Payload>,
}

impl<'a> Received<'a> {
    fn new(delivery: &'a Delivery, with_payload: bool) -> Self {
        let skip = match delivery.content() {
            ordo_client::Content::Skip(skip) => Some(skip),
            ordo_client::Content::Message(_) => None,
        };
        let payload = || Payload::of(delivery.payload());
        Self {
            interface: delivery.interface(),
            destination: delivery.destination(),
            sequence: delivery.sequence(),
            message_id: delivery.message_id().to_string(),
            epoch: delivery.epoch(),
            attempts: delivery.attempts(),
            skipped: skip.map(|skip| views::word(skip.reason().as_str_name(), "SKIP_REASON_")),
            dead_letter: skip.map(|skip| skip.dead_letter),
            headers: views::headers(delivery.headers()),
            payload: (with_payload && skip.is_none()).then(payload),
        }
    }
}

impl Receiver {
    async fn receive(&self, delivery: &Delivery) -> Result<Answer> {
        match self {
            Self::Print(output) if output.is_json() => {
                output.json_line(&Received::new(delivery, true))?
            }
            Self::Print(_) => print(delivery)?,
            Self::Folder(folder, output) => {
                write(folder, delivery)?;
                note(*output, delivery)?;
            }
            Self::Program(exec, output) => {
                let answer = run_program(exec, delivery).await;
                if answer == Answer::Ack {
                    note(*output, delivery)?;
                }
                return Ok(answer);
            }
        }
        Ok(Answer::Ack)
    }
}

/// The payload as it is, and a line's end where it has none; a skip marker goes to standard error.
fn print(delivery: &Delivery) -> Result<()> {
    if let Some(reason) = delivery.skip_reason() {
        let reason = views::word(reason.as_str_name(), "SKIP_REASON_");
        eprintln!("#{} skipped: {reason}", delivery.sequence());
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(delivery.payload())?;
    if delivery.payload().last() != Some(&b'\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// The file appears whole or not at all, and is on disk before the message is acknowledged.
fn write(folder: &Path, delivery: &Delivery) -> Result<()> {
    if delivery.skip_reason().is_some() {
        return Ok(());
    }
    let name = format!("{:012}", delivery.sequence());
    let (path, unfinished) = (folder.join(&name), folder.join(format!(".{name}.part")));
    let store = || -> io::Result<()> {
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(delivery.payload())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    store().with_context(|| format!("writing {}", path.display()))
}

/// Says that a delivery was handled, without its payload.
fn note(output: Output, delivery: &Delivery) -> Result<()> {
    if output.is_json() {
        return output.json_line(&Received::new(delivery, false));
    }
    match delivery.skip_reason() {
        Some(reason) => {
            let reason = views::word(reason.as_str_name(), "SKIP_REASON_");
            crate::output::line(&format!("#{} skipped: {reason}", delivery.sequence()))
        }
        None => crate::output::line(&format!(
            "#{} {} {}",
            delivery.sequence(),
            delivery.message_id(),
            views::bytes(delivery.payload().len() as u64)
        )),
    }
}

async fn run_program(exec: &Exec, delivery: &Delivery) -> Answer {
    if delivery.skip_reason().is_some() {
        return Answer::Ack;
    }
    let position = delivery.position();
    let variables = [
        ("ORDO_INTERFACE", delivery.interface().to_owned()),
        ("ORDO_INTERFACE_ID", position.interface_id.to_string()),
        ("ORDO_INCARNATION", position.incarnation.to_string()),
        ("ORDO_SEQUENCE", position.sequence.to_string()),
        ("ORDO_EPOCH", delivery.epoch().to_string()),
        ("ORDO_MESSAGE_ID", delivery.message_id().to_string()),
    ];
    answer_of(exec.run(delivery.payload(), &variables).await)
}

fn answer_of(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Done(_) => Answer::Ack,
        Verdict::Retry(reason) => Answer::retry(PAUSE, reason),
        Verdict::Unavailable(reason) => Answer::unavailable(PAUSE, reason),
        Verdict::Reject(reason) | Verdict::Filter(reason) => Answer::reject(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_without_the_grant_says_who_has_it() {
        let holder = "lab-1".to_owned();
        let text = waits(&GrantState::Waiting { holder });
        assert!(text.is_some_and(|text| text.contains("lab-1")));
        let granted = GrantState::Granted {
            epoch: 1,
            checkpoint: 0,
        };
        assert_eq!(waits(&granted), None);
    }

    #[test]
    fn a_programs_verdict_becomes_an_answer() {
        assert_eq!(answer_of(Verdict::Done("x".into())), Answer::Ack);
        assert_eq!(answer_of(Verdict::Reject("r".into())), Answer::reject("r"));
        assert_eq!(
            answer_of(Verdict::Unavailable("u".into())),
            Answer::unavailable(PAUSE, "u")
        );
        assert_eq!(
            answer_of(Verdict::Retry("t".into())),
            Answer::retry(PAUSE, "t")
        );
    }
}
