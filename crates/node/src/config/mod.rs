//! A node's configuration: a TOML file, then the environment (`ORDO_SECTION__KEY`), then flags.
//!
//! Every value has a range, and every wrong one is reported, with where it came from and what is allowed.

mod read;

pub use read::{ConfigErrors, Problem};

use read::Reader;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// What `ordo serve` runs with. Checked: a value of this type comes from [`Config::load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's number in the cluster, from 1.
    pub node_id: u64,
    /// The folder of IDENTITY, LOCK, log/, state/ and snapshots/.
    pub data_dir: PathBuf,
    /// Where clients connect (gRPC).
    pub public: SocketAddr,
    /// Where the other nodes connect (gRPC).
    pub peer: SocketAddr,
    /// Where health and metrics are served (HTTP/1).
    pub http: SocketAddr,
    /// Says that plaintext off loopback is meant.
    pub allow_plaintext: bool,
    /// The first members, this node included; `ordo cluster init` takes them from here.
    pub peers: Vec<PeerConfig>,
    /// What a node may use.
    pub limits: Limits,
    /// Consensus timing and log compaction.
    pub raft: RaftTiming,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its number.
    pub node_id: u64,
    /// Where the other nodes reach it, `host:port`.
    pub peer: String,
    /// Where clients reach it, `host:port`.
    pub public: String,
}

/// What a node may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at once; fewer where the limit of file descriptors leaves no room for so many. Twice as many
    /// calls and streams are served in all. One connection holds 2 MiB at most that nobody has read, and a stream 1.5
    /// MiB, or three payloads, that its client does not read.
    pub connections: u32,
    /// gRPC streams and calls at once on one connection.
    pub streams_per_connection: u32,
    /// Memory of the process above which ingest is refused, in bytes.
    pub memory_bytes: u64,
    /// Free disk space below which ingest is refused, in bytes.
    pub disk_free_bytes: u64,
    /// Commands proposed and not yet applied, in bytes.
    pub proposal_bytes: u64,
    /// Recent payloads kept in memory, in bytes.
    pub cache_bytes: u64,
}

/// Consensus timing and log compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// Between two heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest election time-out, in milliseconds.
    pub election_ms_min: u64,
    /// The longest election time-out and the leader's lease, in milliseconds: after a leader's death another one is
    /// chosen once this and then an election time-out have passed.
    pub election_ms_max: u64,
    /// A snapshot is taken after so many log entries.
    pub snapshot_entries: u64,
    /// A snapshot is taken, too, when the log's files have so many bytes, and the log ends behind it then.
    pub log_bytes: u64,
    /// Entries kept behind a snapshot, for followers that are a little late.
    pub keep_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            streams_per_connection: 1_024,
            memory_bytes: 2_048 * MIB,
            disk_free_bytes: 256 * MIB,
            proposal_bytes: 32 * MIB,
            cache_bytes: 64 * MIB,
        }
    }
}

impl Default for RaftTiming {
    fn default() -> Self {
        // openraft's own 150 to 300 ms are too tight for three busy nodes on two cores. With these a killed leader is
        // replaced after 1.3 to 1.6 s.
        Self {
            heartbeat_ms: 150,
            election_ms_min: 500,
            election_ms_max: 800,
            snapshot_entries: 50_000,
            log_bytes: 1_024 * MIB,
            keep_entries: 5_000,
        }
    }
}

/// Values from the command line; they win over the file and the environment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Overrides {
    /// See [`Config::node_id`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
    /// See [`Config::data_dir`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// See [`Config::public`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
    /// See [`Config::peer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// See [`Config::http`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// See [`Config::allow_plaintext`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_plaintext: Option<bool>,
}

impl Config {
    /// Reads the file (if one is named), the process's environment and the flags.
    ///
    /// Of the environment only known names count, and names with a double underscore, which can't be meant for
    /// somebody else.
    ///
    /// # Errors
    /// Every wrong value, with where it came from and what is allowed.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        // Variables that are no text can't be ours.
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::load_with(file, env, overrides)
    }

    /// [`Config::load`] with an environment of the caller's.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn load_with(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(file, env, overrides)?;
        let config = Self::read(&mut reader);
        let problems = reader.finish();
        match config {
            Some(config) if problems.is_empty() => config.check().map(|()| config),
            _ => Err(ConfigErrors(problems)),
        }
    }

    /// One node on loopback with free ports and the defaults, for tests and demonstrations.
    #[must_use]
    pub fn local(node_id: u64, data_dir: PathBuf) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            node_id,
            data_dir,
            public: free,
            peer: free,
            http: free,
            allow_plaintext: false,
            peers: Vec::new(),
            limits: Limits::default(),
            raft: RaftTiming::default(),
        }
    }

    fn read(reader: &mut Reader) -> Option<Self> {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let node_id = reader.number("node_id", None, 1, u64::MAX);
        let data_dir = reader.text("data_dir", None, "a folder", |text| !text.is_empty());
        let public = reader.address("public", loopback(7400));
        let peer = reader.address("peer", loopback(7401));
        let http = reader.address("http", loopback(7402));
        let allow_plaintext = reader.boolean("allow_plaintext", false);
        let peers = reader.peers("peers");
        let limits = Self::read_limits(reader);
        let raft = Self::read_raft(reader);
        Some(Self {
            node_id: node_id?,
            data_dir: data_dir?.into(),
            public: public?,
            peer: peer?,
            http: http?,
            allow_plaintext: allow_plaintext?,
            peers: peers?,
            limits: limits?,
            raft: raft?,
        })
    }

    fn read_limits(reader: &mut Reader) -> Option<Limits> {
        let default = Limits::default();
        let connections = reader.number(
            "limits.connections",
            Some(default.connections.into()),
            1,
            1_000_000,
        );
        let streams = reader.number(
            "limits.streams_per_connection",
            Some(default.streams_per_connection.into()),
            1,
            100_000,
        );
        let memory_bytes = reader.number(
            "limits.memory_bytes",
            Some(default.memory_bytes),
            64 * MIB,
            u64::MAX,
        );
        let disk_free_bytes = reader.number(
            "limits.disk_free_bytes",
            Some(default.disk_free_bytes),
            MIB,
            u64::MAX,
        );
        let proposal_bytes = reader.number(
            "limits.proposal_bytes",
            Some(default.proposal_bytes),
            17 * MIB,
            4_096 * MIB,
        );
        let cache_bytes = reader.number(
            "limits.cache_bytes",
            Some(default.cache_bytes),
            MIB,
            u64::MAX,
        );
        Some(Limits {
            connections: u32::try_from(connections?).expect("at most 1,000,000"),
            streams_per_connection: u32::try_from(streams?).expect("at most 100,000"),
            memory_bytes: memory_bytes?,
            disk_free_bytes: disk_free_bytes?,
            proposal_bytes: proposal_bytes?,
            cache_bytes: cache_bytes?,
        })
    }

    fn read_raft(reader: &mut Reader) -> Option<RaftTiming> {
        let default = RaftTiming::default();
        let heartbeat_ms =
            reader.number("raft.heartbeat_ms", Some(default.heartbeat_ms), 10, 10_000);
        let election_ms_min = reader.number(
            "raft.election_ms_min",
            Some(default.election_ms_min),
            20,
            60_000,
        );
        let election_ms_max = reader.number(
            "raft.election_ms_max",
            Some(default.election_ms_max),
            30,
            120_000,
        );
        let snapshot_entries = reader.number(
            "raft.snapshot_entries",
            Some(default.snapshot_entries),
            100,
            100_000_000,
        );
        let log_bytes = reader.number(
            "raft.log_bytes",
            Some(default.log_bytes),
            512 * MIB,
            u64::MAX,
        );
        let keep_entries = reader.number(
            "raft.keep_entries",
            Some(default.keep_entries),
            0,
            100_000_000,
        );
        Some(RaftTiming {
            heartbeat_ms: heartbeat_ms?,
            election_ms_min: election_ms_min?,
            election_ms_max: election_ms_max?,
            snapshot_entries: snapshot_entries?,
            log_bytes: log_bytes?,
            keep_entries: keep_entries?,
        })
    }

    /// Checks what concerns several values at once; [`Config::load`] has done so already.
    ///
    /// # Errors
    /// Every wrong combination, with what is allowed.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, value: String, allowed: String| {
            problems.push(Problem {
                key: key.to_owned(),
                value,
                allowed,
                place: None,
            });
        };
        for (key, address) in [
            ("public", self.public),
            ("peer", self.peer),
            ("http", self.http),
        ] {
            if !address.ip().is_loopback() && !self.allow_plaintext {
                let allowed = "a loopback address, or allow_plaintext = true inside a network that is trusted: \
                               nothing here is encrypted";
                wrong(key, address.to_string(), allowed.to_owned());
            }
        }
        let listeners = [self.public, self.peer, self.http];
        for (i, address) in listeners.iter().enumerate() {
            if address.port() != 0 && listeners[..i].contains(address) {
                wrong(
                    ["public", "peer", "http"][i],
                    address.to_string(),
                    "an address of its own".to_owned(),
                );
            }
        }
        let mut seen = (BTreeSet::new(), BTreeSet::new());
        for (i, peer) in self.peers.iter().enumerate() {
            if !seen.0.insert(peer.node_id) {
                wrong(
                    &format!("peers[{i}].node_id"),
                    format!("{} twice", peer.node_id),
                    "distinct numbers".to_owned(),
                );
            }
            if !seen.1.insert(peer.peer.as_str()) {
                wrong(
                    &format!("peers[{i}].peer"),
                    format!("{:?} twice", peer.peer),
                    "distinct addresses".to_owned(),
                );
            }
        }
        if !self.peers.is_empty() && !seen.0.contains(&self.node_id) {
            let allowed = format!("a list that has this node too (node_id = {})", self.node_id);
            wrong("peers", format!("nodes {:?}", seen.0), allowed);
        }
        let raft = &self.raft;
        if raft.election_ms_min < 3 * raft.heartbeat_ms {
            let allowed = format!("at least 3 times raft.heartbeat_ms ({})", raft.heartbeat_ms);
            wrong(
                "raft.election_ms_min",
                raft.election_ms_min.to_string(),
                allowed,
            );
        }
        if raft.election_ms_max <= raft.election_ms_min {
            let allowed = format!("more than raft.election_ms_min ({})", raft.election_ms_min);
            wrong(
                "raft.election_ms_max",
                raft.election_ms_max.to_string(),
                allowed,
            );
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(problems))
        }
    }

    /// Where clients reach this node: its entry among the peers, else where it listens.
    #[must_use]
    pub fn public_address(&self) -> String {
        let own = self.peers.iter().find(|peer| peer.node_id == self.node_id);
        own.map_or_else(|| self.public.to_string(), |peer| peer.public.clone())
    }
}

impl RaftTiming {
    /// The longest time a follower may take to notice that its leader is gone.
    #[must_use]
    pub fn takeover_max(&self) -> Duration {
        Duration::from_millis(2 * self.election_ms_max)
    }
}

#[cfg(test)]
mod tests;
