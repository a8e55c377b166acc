//! Programs that work on messages: payload on standard input, answer by exit status.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// EX_TEMPFAIL of sysexits.h: again later.
const RETRY: i32 = 75;
/// EX_DATAERR: never.
const REJECT: i32 = 65;
/// EX_NOPERM: not wanted.
const FILTER: i32 = 77;
/// EX_UNAVAILABLE: the receiver can't be reached.
const UNAVAILABLE: i32 = 69;

/// The largest standard output taken over as a payload, in bytes: what the client sends in one message.
const OUTPUT_BYTES_MAX: u64 = 32 << 20;
/// How much of the end of standard error is kept for the reason, in bytes.
const ERROR_BYTES_MAX: usize = 4096;

/// A command line for the shell.
#[derive(Clone, Debug)]
pub struct Exec {
    command: String,
    time_max: Option<Duration>,
}

/// What a program said of a message.
#[derive(Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Exit status 0, with what it wrote to standard output.
    Done(Bytes),
    /// Exit status 75, and everything that has no other meaning.
    Retry(String),
    /// Exit status 65.
    Reject(String),
    /// Exit status 77.
    Filter(String),
    /// Exit status 69.
    Unavailable(String),
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(output) => f
                .debug_struct("Done")
                .field("bytes", &output.len())
                .finish(),
            Self::Retry(reason) => f.debug_tuple("Retry").field(reason).finish(),
            Self::Reject(reason) => f.debug_tuple("Reject").field(reason).finish(),
            Self::Filter(reason) => f.debug_tuple("Filter").field(reason).finish(),
            Self::Unavailable(reason) => f.debug_tuple("Unavailable").field(reason).finish(),
        }
    }
}

impl Exec {
    /// `command` is given to `sh -c`, and may run for `time_max`.
    pub fn new(command: String, time_max: Option<Duration>) -> Self {
        Self { command, time_max }
    }

    /// Runs it for one message. The variables are added to the environment. Dropping the future kills the program and
    /// what it has started.
    pub async fn run(&self, payload: &Bytes, variables: &[(&str, String)]) -> Verdict {
        let running = self.try_run(payload, variables);
        let ended = match self.time_max {
            None => running.await,
            Some(time_max) => match tokio::time::timeout(time_max, running).await {
                Ok(ended) => ended,
                Err(_) => {
                    return Verdict::Retry(format!(
                        "the program was killed: it ran for longer than {} s",
                        time_max.as_secs_f64()
                    ));
                }
            },
        };
        ended.unwrap_or_else(|error| {
            Verdict::Retry(format!("the program could not be run: {error}"))
        })
    }

    async fn try_run(&self, payload: &Bytes, variables: &[(&str, String)]) -> io::Result<Verdict> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.command).kill_on_drop(true);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let group = Group::of(&child);
        let (output, errors) = talk(&mut child, payload).await?;
        let status = child.wait().await?;
        group.has_ended();
        Ok(match output {
            Some(output) => verdict(status, output, &last_line(&errors)),
            None => Verdict::Reject(format!(
                "the program wrote more than {OUTPUT_BYTES_MAX} bytes"
            )),
        })
    }
}

/// A program and what it has started; killed when it is dropped.
struct Group(Option<Pid>);

impl Group {
    /// `child` leads a group of its own.
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// The program is done, and its number may be another's from now on.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nobody is left in it: then there is nothing to do.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Writes and reads at once, as a program may do in any order. No output where it is too much.
async fn talk(child: &mut Child, payload: &Bytes) -> io::Result<(Option<Bytes>, Vec<u8>)> {
    let mut input = child.stdin.take().expect("piped");
    let output = child.stdout.take().expect("piped");
    let errors = child.stderr.take().expect("piped");
    let write = async move {
        match input.write_all(payload).await {
            // A program need not read what it does not want.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    };
    let read = async move {
        let mut bytes = Vec::new();
        output
            .take(OUTPUT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .await?;
        io::Result::Ok((bytes.len() as u64 <= OUTPUT_BYTES_MAX).then(|| Bytes::from(bytes)))
    };
    let ((), output, errors) = tokio::try_join!(write, read, tail(errors))?;
    Ok((output, errors))
}

/// The end of a stream, bounded.
async fn tail(mut stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut kept = VecDeque::new();
    let mut buffer = [0; ERROR_BYTES_MAX];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(kept.into());
        }
        kept.extend(&buffer[..count]);
        kept.drain(..kept.len().saturating_sub(ERROR_BYTES_MAX));
    }
}

/// The last line that says something.
fn last_line(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    text.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}

fn verdict(status: ExitStatus, output: Bytes, last_line: &str) -> Verdict {
    let reason = |what: &str| match last_line {
        "" => what.to_owned(),
        line => line.to_owned(),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Verdict::Done(output),
        (Some(RETRY), _) => {
            Verdict::Retry(reason("the program asked for another try (exit status 75)"))
        }
        (Some(REJECT), _) => Verdict::Reject(reason("the program rejected it (exit status 65)")),
        (Some(FILTER), _) => Verdict::Filter(reason("the program filtered it (exit status 77)")),
        (Some(UNAVAILABLE), _) => Verdict::Unavailable(reason("unavailable (exit status 69)")),
        (Some(code), _) => {
            Verdict::Retry(format!("exit status {code}: {}", reason("no reason given")))
        }
        (None, signal) => Verdict::Retry(format!(
            "the program was ended by signal {}",
            signal.unwrap_or(0)
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    async fn run(command: &str, payload: &str) -> Verdict {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        Exec::new(command.to_owned(), None)
            .run(&payload, &[("ORDO_SEQUENCE", "17".to_owned())])
            .await
    }

    #[tokio::test]
    async fn exit_status_0_is_done_with_what_was_written() {
        assert_eq!(
            run("tr a-z A-Z", "hello").await,
            Verdict::Done("HELLO".into())
        );
        assert_eq!(
            run("cat >/dev/null", "hello").await,
            Verdict::Done(Bytes::new())
        );
        assert_eq!(
            run("printf %s $ORDO_SEQUENCE", "").await,
            Verdict::Done("17".into())
        );
    }

    #[tokio::test]
    async fn other_exit_statuses_mean_what_sysexits_says_and_the_last_line_is_the_reason() {
        let say = "echo one >&2; echo two >&2; echo >&2; exit";
        assert_eq!(
            run(&format!("{say} 75"), "").await,
            Verdict::Retry("two".into())
        );
        assert_eq!(
            run(&format!("{say} 65"), "").await,
            Verdict::Reject("two".into())
        );
        assert_eq!(
            run(&format!("{say} 77"), "").await,
            Verdict::Filter("two".into())
        );
        assert_eq!(
            run(&format!("{say} 69"), "").await,
            Verdict::Unavailable("two".into())
        );
        assert_eq!(
            run(&format!("{say} 3"), "").await,
            Verdict::Retry("exit status 3: two".into())
        );
        let silent = run("exit 65", "").await;
        assert_eq!(
            silent,
            Verdict::Reject("the program rejected it (exit status 65)".into())
        );
    }

    #[tokio::test]
    async fn a_program_that_is_killed_or_missing_is_tried_again() {
        assert_eq!(
            run("kill -9 $$", "").await,
            Verdict::Retry("the program was ended by signal 9".into())
        );
        let missing = run("exec /nonexistent/program", "").await;
        assert!(
            matches!(&missing, Verdict::Retry(reason) if reason.starts_with("exit status")),
            "{missing:?}"
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_what_it_has_started_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        // The second one holds on to standard output, too.
        let command = format!("sleep 1000 & echo $$ $! > {}; sleep 1000", pids.display());
        let exec = Exec::new(command, Some(Duration::from_millis(300)));
        let verdict = exec.run(&Bytes::new(), &[]).await;
        assert_eq!(
            verdict,
            Verdict::Retry("the program was killed: it ran for longer than 0.3 s".into())
        );
        let pids = std::fs::read_to_string(pids).unwrap();
        let is_gone = |pid: &str| {
            // A zombie that nobody has asked about yet is gone, too.
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.map_or(true, |status| status.contains("State:\tZ"))
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !pids.split_whitespace().all(is_gone) {
            assert!(tokio::time::Instant::now() < deadline, "{pids} live on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_program_may_ignore_a_large_input_and_write_a_large_output() {
        let payload = "x".repeat(1 << 20);
        assert_eq!(run("exit 0", &payload).await, Verdict::Done(Bytes::new()));
        assert_eq!(run("cat", &payload).await, Verdict::Done(payload.into()));
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_complaint_is_kept() {
        let verdict = run(
            "for i in $(seq 5000); do echo line $i >&2; done; exit 75",
            "",
        )
        .await;
        assert_eq!(verdict, Verdict::Retry("line 5000".into()));
    }
}
