//! `ordo produce`.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use ordo_client::{Accepted, Admin, Message, OnRefusal, Producer, Receipt, SendError, Uuid, proto};
use ordo_gateway::msh::Msh;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::shutdown::Signals;
use crate::args::{self, Global};
use crate::exit::Exit;
use crate::output::{self, Output};

/// Unanswered messages at once: at most half of what an interface knows for deduplication by default.
const UNANSWERED_MAX: usize = 500;
/// How long a message may be unanswered before a person is told why.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest line taken as a message, in bytes.
const LINE_BYTES_MAX: usize = 32 << 20;

/// The name space of ids made from a producer's name and its numbers, so that the same input has the same ids again.
const NUMBERED: Uuid = Uuid::from_u128(0x9d0c_27a1_5a52_4c0e_9f3e_6b1d_0f4a_77c2);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --file, --whole or --hl7-dir the messages are the lines of standard input."
)]
pub struct Args {
    /// The interface's name.
    interface: String,
    /// Each line of this file is a message.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["whole", "hl7_dir"])]
    file: Option<PathBuf>,
    /// Each of these files is a message.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "hl7_dir")]
    whole: Vec<PathBuf>,
    /// Each file of this folder is an HL7 message, in the order of their names; its id comes from its header.
    #[arg(long, value_name = "FOLDER")]
    hl7_dir: Option<PathBuf>,
    /// A header of every message.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = args::header)]
    headers: Vec<proto::Header>,
    /// Number the messages under this name, so that a repeated run of the same input is recognized without bound.
    #[arg(long, value_name = "NAME", default_value = "")]
    producer: String,
    /// Fail where the interface can't take a message now (paused, window full) rather than wait; one is sent at a time.
    #[arg(long)]
    no_wait: bool,
}

/// Where messages come from.
enum Source {
    Lines(Box<dyn BufRead + Send>),
    Files(VecDeque<PathBuf>),
    Hl7(VecDeque<PathBuf>),
}

/// One message, or why it is none.
struct Item {
    /// A line's number or a file's name.
    label: String,
    message: Result<(Option<Uuid>, Bytes), String>,
}

pub async fn run(global: &Global, args: Args) -> Result<()> {
    let mut signals = Signals::new()?;
    let source = Source::open(&args)?;
    let total = source.count();
    let cluster = global.connect()?;
    let on_refusal = if args.no_wait {
        OnRefusal::GiveUp
    } else {
        OnRefusal::Retry
    };
    let producer = cluster
        .producer()
        .name(&args.producer)
        .give_up_after(global.call_timeout())
        .on_refusal(on_refusal)
        .start()?;
    let mut run = Run {
        output: Output::new(global.output),
        bar: bar(total),
        admin: cluster.admin().timeout(PATIENCE),
        interface: args.interface.clone(),
        // Nothing may pass a message that is given up.
        unanswered_max: if args.no_wait { 0 } else { UNANSWERED_MAX },
        waiting: VecDeque::new(),
        unanswered: 0,
        summary: Summary::default(),
        worst: None,
    };
    tokio::select! {
        pumped = run.pump(source.read(), &producer, &args) => pumped?,
        () = signals.arrived() => {
            let unanswered = run.unanswered;
            run.bar.finish_and_clear();
            bail!("interrupted: {unanswered} messages have no answer; some may have been accepted");
        }
    }
    producer.close().await;
    run.finish()
}

struct Run {
    output: Output,
    bar: ProgressBar,
    admin: Admin,
    interface: String,
    unanswered_max: usize,
    waiting: VecDeque<Waiting>,
    /// How many had no answer when one was last waited for.
    unanswered: usize,
    summary: Summary,
    /// The first failure, whose exit status is ours.
    worst: Option<anyhow::Error>,
}

struct Waiting {
    label: String,
    message_id: Uuid,
    receipt: Receipt,
}

#[derive(Default, Serialize)]
struct Summary {
    accepted: u64,
    duplicates: u64,
    refused: u64,
    first_sequence: u64,
    last_sequence: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    input: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Run {
    /// Sends everything and waits for the answers.
    async fn pump(
        &mut self,
        mut items: mpsc::Receiver<Result<Item>>,
        producer: &Producer,
        args: &Args,
    ) -> Result<()> {
        let (mut number, is_numbered) = (0, !args.producer.is_empty());
        while let Some(item) = items.recv().await {
            let Item { label, message } = item?;
            let (message_id, payload) = match message {
                Ok(message) => message,
                Err(text) => {
                    self.refused(&label, None, &text)?;
                    continue;
                }
            };
            number += 1;
            let new_id = || {
                let name = format!("{}/{}/{number}", self.interface, args.producer);
                if is_numbered {
                    Uuid::new_v5(&NUMBERED, name.as_bytes())
                } else {
                    Uuid::new_v4()
                }
            };
            let message = Message {
                message_id: Some(message_id.unwrap_or_else(new_id)),
                payload,
                headers: args.headers.clone(),
                producer_sequence: is_numbered.then_some(number),
                digest: None,
            };
            self.send(producer, label, message).await?;
        }
        self.settle(0).await
    }

    async fn send(&mut self, producer: &Producer, label: String, message: Message) -> Result<()> {
        let message_id = message.message_id.expect("given by the caller");
        match producer.enqueue(&self.interface, message).await {
            Ok(receipt) => self.waiting.push_back(Waiting {
                label,
                message_id,
                receipt,
            }),
            Err(error) => self.failed(&label, Some(message_id), error)?,
        }
        self.settle(self.unanswered_max).await
    }

    /// Waits until at most so many are unanswered.
    async fn settle(&mut self, unanswered: usize) -> Result<()> {
        while self.waiting.len() > unanswered {
            self.unanswered = self.waiting.len();
            let mut waiting = self.waiting.pop_front().expect("there are more than none");
            let answer = match timeout(PATIENCE, &mut waiting.receipt).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.explain_wait(&waiting.label).await;
                    waiting.receipt.await
                }
            };
            match answer {
                Ok(accepted) => self.accepted(&waiting.label, waiting.message_id, accepted)?,
                Err(error) => self.failed(&waiting.label, Some(waiting.message_id), error)?,
            }
        }
        Ok(())
    }

    /// Tells a person why nothing seems to happen.
    async fn explain_wait(&self, label: &str) {
        let why = match self.admin.get_interface(&self.interface).await {
            Ok(interface)
                if interface
                    .config
                    .as_ref()
                    .is_some_and(|config| config.paused) =>
            {
                "the interface is paused".to_owned()
            }
            Ok(interface) => {
                let unreleased = interface.last_sequence.saturating_sub(interface.watermark);
                format!("{unreleased} messages before it are not released yet")
            }
            Err(error) => error.to_string(),
        };
        let name = &self.interface;
        self.bar
            .suspend(|| eprintln!("{label} waits: {why} (`ordo why {name}` says more)"));
    }

    fn accepted(&mut self, label: &str, message_id: Uuid, accepted: Accepted) -> Result<()> {
        let Accepted {
            sequence,
            duplicate,
        } = accepted;
        let summary = &mut self.summary;
        if duplicate {
            summary.duplicates += 1;
        } else {
            summary.accepted += 1;
            summary.last_sequence = sequence;
            if summary.first_sequence == 0 {
                summary.first_sequence = sequence;
            }
        }
        self.bar.inc(1);
        if !self.output.is_json() {
            return Ok(());
        }
        self.output.json_line(&Line {
            input: label,
            message_id: Some(message_id.to_string()),
            sequence: Some(sequence),
            duplicate: Some(duplicate),
            error: None,
        })
    }

    fn failed(&mut self, label: &str, message_id: Option<Uuid>, error: SendError) -> Result<()> {
        self.refused(label, message_id, &error.to_string())?;
        let error = anyhow::Error::from(error);
        let worse = self
            .worst
            .as_ref()
            .is_none_or(|worst| Exit::of(&error) > Exit::of(worst));
        // When nobody can be reached, the rest of the input is not tried either.
        let hopeless = Exit::of(&error) == Exit::Unavailable;
        if hopeless {
            return Err(error.context(format!("{label} of {}", self.interface)));
        }
        if worse {
            self.worst = Some(error);
        }
        Ok(())
    }

    fn refused(&mut self, label: &str, message_id: Option<Uuid>, text: &str) -> Result<()> {
        self.summary.refused += 1;
        self.bar.inc(1);
        if self.output.is_json() {
            let message_id = message_id.map(|id| id.to_string());
            return self.output.json_line(&Line {
                input: label,
                message_id,
                sequence: None,
                duplicate: None,
                error: Some(text),
            });
        }
        self.bar.suspend(|| eprintln!("{label}: {text}"));
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.bar.finish_and_clear();
        let Summary {
            accepted,
            duplicates,
            refused,
            first_sequence,
            last_sequence,
        } = self.summary;
        if !self.output.is_json() {
            let mut text = format!("{accepted} accepted");
            if accepted > 0 {
                text.push_str(&format!(", #{first_sequence} to #{last_sequence}"));
            }
            if duplicates > 0 {
                text.push_str(&format!(", {duplicates} known already"));
            }
            if refused > 0 {
                text.push_str(&format!(", {refused} refused"));
            }
            output::line(&text)?;
        }
        let what = format!("{refused} not accepted, the first that counts");
        match self.worst {
            Some(error) => Err(error.context(what)),
            None if refused > 0 => bail!("{refused} not accepted: no messages that can be sent"),
            None => Ok(()),
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{wide_bar} {human_pos}/{human_len}  {per_sec}  {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos}  {per_sec}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well formed"))
}

impl Source {
    fn open(args: &Args) -> Result<Self> {
        if let Some(folder) = &args.hl7_dir {
            return Ok(Self::Hl7(files_of(folder)?));
        }
        if !args.whole.is_empty() {
            return Ok(Self::Files(args.whole.iter().cloned().collect()));
        }
        match &args.file {
            Some(path) => {
                let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
                Ok(Self::Lines(Box::new(BufReader::new(file))))
            }
            None => Ok(Self::Lines(Box::new(BufReader::new(io::stdin())))),
        }
    }

    /// How many messages there will be, where that is known.
    fn count(&self) -> Option<u64> {
        match self {
            Self::Lines(_) => None,
            Self::Files(files) | Self::Hl7(files) => Some(files.len() as u64),
        }
    }

    /// Reads on a thread of its own, a little ahead: standard input may never come to an end.
    fn read(self) -> mpsc::Receiver<Result<Item>> {
        let (found, items) = mpsc::channel(64);
        std::thread::spawn(move || {
            let give = |item| found.blocking_send(item).is_ok();
            match self {
                Self::Lines(mut lines) => {
                    let mut number = 0;
                    while let Some(item) = next_line(&mut lines, &mut number).transpose() {
                        let failed = item.is_err();
                        if !give(item) || failed {
                            return;
                        }
                    }
                }
                Self::Files(files) => {
                    let read = |path| read_file(path, |_| Ok(None));
                    files.iter().map(|path| read(path)).all(give);
                }
                Self::Hl7(files) => {
                    let id = |payload: &[u8]| {
                        let message_id = Msh::scan(payload).and_then(|msh| msh.message_id());
                        message_id.map(Some).map_err(|error| error.to_string())
                    };
                    files.iter().map(|path| read_file(path, id)).all(give);
                }
            }
        });
        items
    }
}

fn next_line(lines: &mut impl BufRead, number: &mut u64) -> Result<Option<Item>> {
    let mut line = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    io::Read::take(&mut *lines, limit).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    *number += 1;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    ensure!(
        line.len() <= LINE_BYTES_MAX,
        "line {number} is longer than {LINE_BYTES_MAX} bytes"
    );
    Ok(Some(Item {
        label: format!("line {number}"),
        message: Ok((None, line.into())),
    }))
}

fn read_file(path: &Path, id: impl Fn(&[u8]) -> Result<Option<Uuid>, String>) -> Result<Item> {
    let payload = std::fs::read(path).with_context(|| path.display().to_string())?;
    let label = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned();
    let message = id(&payload).map(|id| (id, Bytes::from(payload)));
    Ok(Item { label, message })
}

/// The files of a folder by name. Hidden ones and folders are left out.
pub fn files_of(folder: &Path) -> Result<VecDeque<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let is_hl7 = entry
            .path()
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("hl7"));
        if !is_hidden && is_hl7 && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    ensure!(
        !files.is_empty(),
        "{} holds no .hl7 files",
        folder.display()
    );
    files.sort();
    Ok(files.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn lines_are_messages_without_their_ends() {
        let (mut text, mut number) = (&b"one\ntwo\r\n\nlast"[..], 0);
        let mut lines = Vec::new();
        while let Some(item) = next_line(&mut text, &mut number).unwrap() {
            lines.push((item.label, item.message.unwrap().1));
        }
        let expected = [
            ("line 1", "one"),
            ("line 2", "two\r"),
            ("line 3", ""),
            ("line 4", "last"),
        ];
        let expected = expected.map(|(label, line)| (label.to_owned(), Bytes::from(line)));
        assert_eq!(lines, expected);
    }

    #[test]
    fn hl7_files_are_taken_by_name_and_identified_by_their_header() {
        let folder = tempfile::tempdir().unwrap();
        let message = |id: &str| format!("MSH|^~\\&|A|B|C|D|2026||ORM^O01|{id}|P|2.3\r");
        for (name, text) in [
            ("b.hl7", message("2")),
            ("a.hl7", message("")),
            ("README.md", String::new()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut items = Source::Hl7(files_of(folder.path()).unwrap()).read();
        let first = items.blocking_recv().unwrap().unwrap();
        assert_eq!(first.label, "a.hl7");
        assert!(first.message.unwrap_err().contains("MSH-10"));
        let second = items.blocking_recv().unwrap().unwrap();
        assert_eq!(second.label, "b.hl7");
        assert!(second.message.unwrap().0.is_some());
        assert!(items.blocking_recv().is_none());
    }

    #[test]
    fn a_folder_without_messages_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            files_of(folder.path())
                .unwrap_err()
                .to_string()
                .contains("no .hl7 files")
        );
    }
}
