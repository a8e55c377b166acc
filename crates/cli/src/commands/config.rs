//! `ordo config`.

use std::path::PathBuf;

use anyhow::Result;
use ordo_node::config::{Config, Overrides};
use serde::Serialize;

use crate::args::Global;
use crate::exit::UsageError;
use crate::output::{Card, Output};
use crate::views::bytes;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a node's configuration as `ordo serve` would read it, and print what comes of it.
    Check(Check),
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// The configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(global: &Global, command: Command) -> Result<()> {
    let Command::Check(check) = command;
    let config = Config::load(Some(&check.config), &Overrides::default())
        .map_err(|errors| UsageError(format!("{}:\n{errors}", check.config.display())))?;
    Output::new(global.output).card(&Checked::from(config))
}

/// A configuration in force.
#[derive(Serialize)]
struct Checked {
    node_id: u64,
    data_dir: PathBuf,
    public: String,
    peer: String,
    http: String,
    allow_plaintext: bool,
    peers: Vec<Peer>,
    limits: Limits,
    raft: Raft,
}

#[derive(Serialize)]
struct Peer {
    node_id: u64,
    peer: String,
    public: String,
}

#[derive(Serialize)]
struct Limits {
    connections: u32,
    streams_per_connection: u32,
    memory_bytes: u64,
    disk_free_bytes: u64,
    proposal_bytes: u64,
    cache_bytes: u64,
}

#[derive(Serialize)]
struct Raft {
    heartbeat_ms: u64,
    election_ms_min: u64,
    election_ms_max: u64,
    snapshot_entries: u64,
    keep_entries: u64,
}

impl From<Config> for Checked {
    fn from(config: Config) -> Self {
        let (limits, raft) = (config.limits, config.raft);
        let peers = config.peers.into_iter();
        Self {
            node_id: config.node_id,
            data_dir: config.data_dir,
            public: config.public.to_string(),
            peer: config.peer.to_string(),
            http: config.http.to_string(),
            allow_plaintext: config.allow_plaintext,
            peers: peers
                .map(|peer| Peer {
                    node_id: peer.node_id,
                    peer: peer.peer,
                    public: peer.public,
                })
                .collect(),
            limits: Limits {
                connections: limits.connections,
                streams_per_connection: limits.streams_per_connection,
                memory_bytes: limits.memory_bytes,
                disk_free_bytes: limits.disk_free_bytes,
                proposal_bytes: limits.proposal_bytes,
                cache_bytes: limits.cache_bytes,
            },
            raft: Raft {
                heartbeat_ms: raft.heartbeat_ms,
                election_ms_min: raft.election_ms_min,
                election_ms_max: raft.election_ms_max,
                snapshot_entries: raft.snapshot_entries,
                keep_entries: raft.keep_entries,
            },
        }
    }
}

impl Card for Checked {
    fn properties(&self) -> Vec<(&'static str, String)> {
        let peer = |peer: &Peer| {
            format!(
                "node {}: peer {}, public {}",
                peer.node_id, peer.peer, peer.public
            )
        };
        let (limits, raft) = (&self.limits, &self.raft);
        vec![
            ("node_id", self.node_id.to_string()),
            ("data_dir", self.data_dir.display().to_string()),
            ("public", self.public.clone()),
            ("peer", self.peer.clone()),
            ("http", self.http.clone()),
            (
                "plaintext",
                if self.allow_plaintext {
                    "allowed off loopback".to_owned()
                } else {
                    String::new()
                },
            ),
            (
                "peers",
                self.peers.iter().map(peer).collect::<Vec<_>>().join("\n"),
            ),
            (
                "limits",
                format!(
                    "{} connections of {} streams, memory {}, free disk {}, proposals {}, cache {}",
                    limits.connections,
                    limits.streams_per_connection,
                    bytes(limits.memory_bytes),
                    bytes(limits.disk_free_bytes),
                    bytes(limits.proposal_bytes),
                    bytes(limits.cache_bytes),
                ),
            ),
            (
                "raft",
                format!(
                    "heartbeat {} ms, election {} to {} ms, snapshot every {} entries, {} kept behind it",
                    raft.heartbeat_ms,
                    raft.election_ms_min,
                    raft.election_ms_max,
                    raft.snapshot_entries,
                    raft.keep_entries
                ),
            ),
        ]
    }
}
