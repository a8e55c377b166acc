//! What the demonstration prints while it runs.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// Lines with the time since the start, in colour on a terminal.
pub struct Screen {
    start: Instant,
    colour: bool,
    /// Nothing is told but the end.
    silent: bool,
    /// No line for each delivery; a bar instead.
    quiet: bool,
    /// The width of the column of control ids.
    control_id_width: usize,
    bar: ProgressBar,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// It waits.
    Faint,
    /// Something was left out on purpose.
    Notable,
    /// It went wrong.
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Faint => "2",
            Self::Notable => "33",
            Self::Bad => "1;31",
        }
    }
}

impl Screen {
    /// The clock starts now.
    pub fn new(silent: bool, quiet: bool, control_id_width: usize) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let shows_bar = quiet && !silent && std::io::stderr().is_terminal();
        let bar = if shows_bar {
            ProgressBar::no_length()
        } else {
            ProgressBar::hidden()
        };
        let style =
            ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} delivered or skipped")
                .expect("the template is well formed");
        Self {
            start: Instant::now(),
            colour,
            silent,
            quiet,
            control_id_width,
            bar: bar.with_style(style),
        }
    }

    /// Something that happened, between the deliveries.
    pub fn note(&self, text: &str) {
        if !self.silent {
            self.print(&format!("{}  ── {text}", self.clock()));
        }
    }

    /// What became of a message.
    pub fn message(&self, line: &Line<'_>) {
        if self.silent || self.quiet {
            return;
        }
        let Line {
            interface,
            sequence,
            message_type,
            control_id,
            word,
            tone,
            text,
        } = line;
        let word = self.paint(*tone, &format!("{word:<9}"));
        let sequence = sequence
            .map(|sequence| format!("#{sequence}"))
            .unwrap_or_default();
        let (clock, width) = (self.clock(), self.control_id_width);
        self.print(&format!("{clock}  {interface:<10} {sequence:>5}  {message_type:<8} {control_id:<width$} {word}  {text}"));
    }

    /// How far it is, for those who see no lines.
    pub fn progress(&self, done: u64, of: u64) {
        self.bar.set_length(of);
        self.bar.set_position(done);
    }

    /// The bar goes.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colour {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }

    fn clock(&self) -> String {
        format!("{:7.3}", self.start.elapsed().as_secs_f64())
    }

    fn print(&self, text: &str) {
        self.bar.suspend(|| {
            // Where nobody reads any more the demonstration still comes to its end, and says so by its exit status.
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        });
    }
}

/// One message's line.
pub struct Line<'a> {
    /// The interface's name.
    pub interface: &'a str,
    /// Its sequence, where it has one.
    pub sequence: Option<u64>,
    /// MSH-9.
    pub message_type: &'a str,
    /// MSH-10.
    pub control_id: &'a str,
    /// What became of it.
    pub word: &'a str,
    /// How that is.
    pub tone: Tone,
    /// More about it.
    pub text: &'a str,
}
