//! What a gateway runs with, and the TOML file it may come from.
//!
//! ```toml
//! cluster = ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]
//!
//! [[listen]]                       # MLLP in: one address is one interface
//! address = "127.0.0.1:2575"
//! interface = "RAD"
//! batch = "refuse"                 # several messages in one frame: "refuse" or "split"
//! identity = "control_id"          # what a repetition has in common with the first
//! ignored = []                     # fields that may differ in a repetition, as "MSH-7"
//!
//! [[send]]                         # MLLP out: one (interface, destination) is one address
//! interface = "RAD"
//! destination = "default"
//! address = "127.0.0.1:2576"
//! match = "strict"                 # MSA-2 is MSH-10; "lenient": cut to 20 characters, blanks around it, empty where
//!                                  # nothing else can be meant, MSA-1 in lower case; "any": MSA-1 alone counts
//! # await = "commit"               # CA settles a message; "application": AA, AE or AR does. Else as MSH-15 and MSH-16 ask
//! connection = "keep"              # between messages; or "per_message"
//!
//! [inbound]                        # these and the following are the defaults
//! connections = 100                # on each address
//! payload_bytes = 1048576
//! idle_ms = 3600000                # a connection on which no frame begins is closed
//! frame_ms = 30000                 # a frame that began must have ended
//! frame_end_ms = 250               # silence that ends a frame whose FS no CR follows
//!
//! [outbound]
//! connect_ms = 5000
//! ack_ms = 30000                   # for the message to be taken and for its acknowledgement to come
//! ack_ms_max = 300000              # while nothing comes, on the same connection, before the message is sent again
//! silence_ms = 1000                # how long a receiver that need not answer (MSH-15) is listened to
//! pause_ms_min = 1000              # after a try that failed, doubled with each further one
//! pause_ms_max = 300000
//! repeats_max = 5                  # a message that was sent again so often without an answer is told as an error
//! ```
//!
//! Beside these: `allow_plaintext = true`, without which every MLLP address must be on loopback, and `shutdown_ms`
//! (10,000), how long messages in flight may take to finish when the gateway stops; `state`, a folder of this gateway's
//! own in which its list of refused messages survives a restart; without one the list ends with the process.
//!
//! # What a `[[listen]]` may say of its messages
//! - `charset`: their character set where MSH-18 does not say, by a name of HL7's table 0211 (`"ISO IR87"`, `"BIG-5"`) or
//!   one that is usual on the web (`"Shift_JIS"`). Default: none; every byte below 0x80 is ASCII.
//! - `batch`: whether a frame that holds several messages, or a batch (BHS, FHS), is refused or split into messages, each
//!   with a sequence of its own and in order.
//! - `identity`: by what a message is known when it is sent again: `"control_id"` (MSH-3, MSH-4 and MSH-10),
//!   `"control_id_and_time"` (MSH-7, too), `"content"` (all of it, but for what is ignored) or `"none"` (each is a new one).
//!   A message without MSH-10 is refused in any case: it could not be answered.
//! - `ignored`: fields in which a repetition may differ from the first without being a conflict.

mod check;
mod read;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::charset::Charset;
use crate::connection::FRAME_END;
use crate::mllp::PAYLOAD_BYTES_MAX;

/// What a gateway runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Addresses of any of the cluster's nodes. [`Gateway::start`](crate::gateway::Gateway::start) is handed its
    /// cluster and does not look here.
    pub cluster: Vec<String>,
    /// Says that MLLP off loopback, which is always plaintext, is meant.
    pub allow_plaintext: bool,
    /// Where messages come in.
    pub listen: Vec<ListenConfig>,
    /// Where messages go out.
    pub send: Vec<SendConfig>,
    /// How senders are treated.
    pub inbound: InboundConfig,
    /// How receivers are treated.
    pub outbound: OutboundConfig,
    /// How long what is in flight may take to finish when the gateway stops.
    pub shutdown: Duration,
    /// The folder of what survives a restart: the list of refused messages. None: nothing does.
    pub state: Option<PathBuf>,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The interface that everything received there belongs to.
    pub interface: String,
    /// How its messages are read.
    pub messages: MessageConfig,
}

impl ListenConfig {
    /// A listening address whose messages are read as usual.
    #[must_use]
    pub fn new(address: SocketAddr, interface: impl Into<String>) -> Self {
        Self {
            address,
            interface: interface.into(),
            messages: MessageConfig::default(),
        }
    }
}

/// How the messages of a listening address are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageConfig {
    /// Their character set where MSH-18 does not say.
    pub charset: Option<Charset>,
    /// What becomes of several messages in one frame.
    pub batch: Batch,
    /// By what a repetition is known.
    pub identity: Identity,
    /// Fields in which a repetition may differ.
    pub ignored: Vec<FieldName>,
}

/// What becomes of several messages in one frame, in a batch (BHS, FHS) or one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batch {
    /// They are refused.
    #[default]
    Refuse,
    /// Each becomes a message of its own, in order.
    Split,
}

/// By what a message is known when it is sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// MSH-3, MSH-4 and MSH-10.
    #[default]
    ControlId,
    /// MSH-3, MSH-4, MSH-10 and MSH-7.
    ControlIdAndTime,
    /// All of it, but for ignored fields.
    Content,
    /// Nothing: every message is a new one.
    None,
}

/// The name of a field, as `MSH-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName {
    /// Three capital letters or digits.
    pub segment: String,
    /// From 1.
    pub number: u16,
}

impl FieldName {
    /// Reads a name; `None` where it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (segment, number) = text.split_once('-')?;
        let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
        let number = number.parse().ok().filter(|number| *number > 0)?;
        (segment.len() == 3 && segment.bytes().all(is_name)).then(|| Self {
            segment: segment.to_owned(),
            number,
        })
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.segment, self.number)
    }
}

/// One receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendConfig {
    /// The interface whose messages it gets.
    pub interface: String,
    /// The destination it is on that interface.
    pub destination: String,
    /// Where it listens, `host:port`.
    pub address: String,
    /// When a reply is taken for one to a message.
    pub matching: Match,
    /// Which reply settles a message; `None`: the one that its MSH-15 and MSH-16 ask for.
    pub awaits: Option<Await>,
    /// How long a connection is kept.
    pub connection: ConnectionUse,
}

/// When a reply is taken for one to a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// MSA-2 is MSH-10, byte for byte.
    #[default]
    Strict,
    /// MSA-2 is MSH-10, or that cut to 20 characters or with other blanks around it, or empty where only one message
    /// can be meant. MSA-1 may be in lower case.
    Lenient,
    /// MSA-1 alone counts, where only one message can be meant.
    Any,
}

/// Which reply settles a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Await {
    /// CA: the receiver has it. What its application says later is told, and changes nothing.
    Commit,
    /// AA, AE or AR: its application has it. After CA it is not sent again.
    Application,
}

/// How long a connection is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionUse {
    /// For the next message.
    #[default]
    Keep,
    /// Until its message is settled.
    PerMessage,
}

/// How senders are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundConfig {
    /// Connections at once on one address; one more is closed at once.
    pub connections: usize,
    /// Largest message, in bytes.
    pub payload_bytes: usize,
    /// How long a connection may be idle.
    pub idle: Duration,
    /// How long a frame may take from its first byte to its last.
    pub frame: Duration,
    /// How long a silence ends a frame whose FS no CR follows.
    pub frame_end: Duration,
}

/// How receivers are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundConfig {
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a message may take to be taken and acknowledged.
    pub ack: Duration,
    /// How long a receiver from which nothing comes is waited for, on the same connection, before the message is sent
    /// again.
    pub ack_max: Duration,
    /// How long a receiver that may stay silent when all is well (MSH-15 `NE` or `ER`) is listened to.
    pub silence: Duration,
    /// The pause after a first try that failed; it doubles with each further one.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// How often a message is sent again without an answer before a person is told.
    pub repeats_max: u32,
}

impl Default for SendConfig {
    /// The destination called "default", and neither an interface nor an address.
    fn default() -> Self {
        Self {
            interface: String::new(),
            destination: "default".to_owned(),
            address: String::new(),
            matching: Match::default(),
            awaits: None,
            connection: ConnectionUse::default(),
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            cluster: Vec::new(),
            allow_plaintext: false,
            listen: Vec::new(),
            send: Vec::new(),
            inbound: InboundConfig::default(),
            outbound: OutboundConfig::default(),
            shutdown: Duration::from_secs(10),
            state: None,
        }
    }
}

impl Default for InboundConfig {
    fn default() -> Self {
        Self {
            connections: 100,
            payload_bytes: PAYLOAD_BYTES_MAX,
            idle: Duration::from_secs(60 * 60),
            frame: Duration::from_secs(30),
            frame_end: FRAME_END,
        }
    }
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            ack: Duration::from_secs(30),
            ack_max: Duration::from_secs(5 * 60),
            silence: Duration::from_secs(1),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(5 * 60),
            repeats_max: 5,
        }
    }
}

/// One value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in the file: `listen[0].address`.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
}

impl Problem {
    fn new(key: impl Into<String>, found: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            found: found.into(),
            allowed: allowed.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {}; allowed: {}",
            self.key, self.found, self.allowed
        )
    }
}

/// Everything that is wrong with a configuration, one line each; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl GatewayConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file can't be read, or holds wrong values: all of them, each with what is allowed.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigErrors(vec![Problem::new(
                path.display().to_string(),
                error.to_string(),
                "a readable TOML file",
            )])
        })?;
        Self::parse(&text)
    }

    /// Reads and checks the text of a file.
    ///
    /// # Errors
    /// It holds wrong values: all of them, each with what is allowed.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let (config, mut problems) = read::read(text)?;
        problems.extend(config.problems());
        if config.cluster.is_empty() && !problems.iter().any(|problem| problem.key == "cluster") {
            let allowed = "addresses of the cluster's nodes, as [\"127.0.0.1:7400\"]";
            problems.push(Problem::new("cluster", "empty", allowed));
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(problems))
        }
    }

    /// Checks a configuration that was put together in a program.
    ///
    /// # Errors
    /// It holds wrong values: all of them, each with what is allowed.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(problems))
        }
    }
}

#[cfg(test)]
mod tests;
