//! What a gateway runs with, and the TOML file it may come from.
//!
//! ```toml
//! cluster = ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]
//!
//! [[listen]]                       # MLLP in: one address is one interface
//! address = "127.0.0.1:2575"
//! interface = "RAD"
//!
//! [[send]]                         # MLLP out: one (interface, destination) is one address
//! interface = "RAD"
//! destination = "default"
//! address = "127.0.0.1:2576"
//!
//! [inbound]                        # these and the following are the defaults
//! connections = 100                # on each address
//! payload_bytes = 1048576
//! idle_ms = 3600000                # a connection on which no frame begins is closed
//! frame_ms = 30000                 # a frame that began must have ended
//!
//! [outbound]
//! connect_ms = 5000
//! ack_ms = 30000                   # for the message to be taken and for its acknowledgement to come
//! silence_ms = 1000                # how long a receiver that need not answer (MSH-15) is listened to
//! pause_ms_min = 1000              # after a try that failed, doubled with each further one
//! pause_ms_max = 60000
//! ```
//!
//! Beside these: `allow_plaintext = true`, without which every MLLP address must be on loopback, and `shutdown_ms`
//! (10,000), how long messages in flight may take to finish when the gateway stops.

mod check;
mod read;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

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
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The interface that everything received there belongs to.
    pub interface: String,
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
}

/// How receivers are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundConfig {
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a message may take to be taken and acknowledged.
    pub ack: Duration,
    /// How long a receiver that may stay silent when all is well (MSH-15 `NE` or `ER`) is listened to.
    pub silence: Duration,
    /// The pause after a first try that failed; it doubles with each further one.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
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
        }
    }
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            ack: Duration::from_secs(30),
            silence: Duration::from_secs(1),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
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
