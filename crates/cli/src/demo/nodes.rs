//! Three `ordo serve` processes in a temporary folder.
//!
//! They end with this process however it ends: their standard input is a pipe of ours, and `serve --exit-with-parent`
//! ends where it does. With `--keep` there is no such pipe.

use std::fmt::Write as _;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ordo_client::Cluster;
use rand::Rng;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::INTERFACES;
use crate::output::{self, Output};

const COUNT: u64 = 3;
/// How long a node may take to start. Far longer than it does.
const START_MAX: Duration = Duration::from_secs(60);
/// For so long, and a little less, a new leader lets workers come back before it hands work out.
const NEW_LEADER: Duration = Duration::from_millis(250);
/// Below the range from which systems take the ports of outgoing connections: a node that is down for a while would
/// otherwise sometimes find its port taken, by a peer that tries to reach it even.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The nodes of the demonstration.
pub struct Nodes {
    folder: TempDir,
    nodes: Vec<Node>,
    keep: bool,
}

struct Node {
    id: u64,
    public: String,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Nodes {
    /// Writes their configuration. Nothing runs yet.
    pub fn configure(keep: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ordo-demo-").tempdir()?;
        let ports = free_ports(3 * COUNT as usize)?;
        let address = |node: u64, place: usize| {
            format!("127.0.0.1:{}", ports[3 * (node as usize - 1) + place])
        };
        let mut peers = String::new();
        for id in 1..=COUNT {
            let (public, peer) = (address(id, 0), address(id, 1));
            write!(
                peers,
                "\n[[peers]]\nnode_id = {id}\npeer = \"{peer}\"\npublic = \"{public}\"\n"
            )?;
        }
        let mut nodes = Vec::new();
        for id in 1..=COUNT {
            let config = folder.path().join(format!("node{id}.toml"));
            let data = folder.path().join(format!("node{id}"));
            let (public, peer, http) = (address(id, 0), address(id, 1), address(id, 2));
            let text = format!(
                "node_id = {id}\ndata_dir = {:?}\npublic = \"{public}\"\npeer = \"{peer}\"\nhttp = \"{http}\"\n{peers}",
                data.display().to_string()
            );
            std::fs::write(&config, text)?;
            let log = folder.path().join(format!("node{id}.log"));
            nodes.push(Node {
                id,
                public,
                config,
                log,
                process: None,
            });
        }
        Ok(Self {
            folder,
            nodes,
            keep,
        })
    }

    /// Where clients reach them.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.public.clone()).collect()
    }

    /// Where clients reach one of them.
    pub fn address(&self, id: u64) -> &str {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .map_or("", |node| &node.public)
    }

    /// Starts all, makes them a cluster and waits for a leader: its number.
    pub async fn start_all(&mut self, cluster: &Cluster) -> Result<u64> {
        for id in 1..=COUNT {
            self.start(id)?;
        }
        for id in 1..=COUNT {
            self.wait_up(id, cluster).await?;
        }
        let first = self.nodes[0].public.clone();
        cluster
            .admin()
            .timeout(START_MAX)
            .init_cluster(&first)
            .await
            .context("making them a cluster")?;
        let leader = self.leader_other_than(0, cluster).await?;
        // What is measured here is deliveries, not elections.
        sleep(NEW_LEADER).await;
        Ok(leader)
    }

    /// Starts one.
    pub fn start(&mut self, id: u64) -> Result<()> {
        let keep = self.keep;
        let node = self.node(id);
        let log = File::options().create(true).append(true).open(&node.log)?;
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.arg("serve").arg("--config").arg(&node.config);
        // A group of its own, so that an interrupt at the terminal reaches us alone, and we end them.
        command
            .process_group(0)
            .stdout(log.try_clone()?)
            .stderr(log);
        if keep {
            command.stdin(Stdio::null());
        } else {
            command
                .arg("--exit-with-parent")
                .stdin(Stdio::piped())
                .kill_on_drop(true);
        }
        node.process = Some(command.spawn().context("starting a node")?);
        Ok(())
    }

    /// Waits until it answers.
    pub async fn wait_up(&mut self, id: u64, cluster: &Cluster) -> Result<()> {
        let admin = cluster.admin();
        let deadline = Instant::now() + START_MAX;
        let node = self.node(id);
        while admin.cluster_status_of(&node.public).await.is_err() {
            if let Some(process) = &mut node.process
                && let Some(status) = process.try_wait()?
            {
                bail!("node {id} ended at its start: {status}");
            }
            if Instant::now() > deadline {
                bail!("node {id} did not answer within {} s", START_MAX.as_secs());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until a node other than `old` says that it leads.
    pub async fn leader_other_than(&self, old: u64, cluster: &Cluster) -> Result<u64> {
        let admin = cluster.admin().timeout(Duration::from_millis(500));
        let deadline = Instant::now() + START_MAX;
        loop {
            for node in self.nodes.iter().filter(|node| node.id != old) {
                if let Ok(status) = admin.cluster_status_of(&node.public).await
                    && status.leader_id == node.id
                {
                    return Ok(node.id);
                }
            }
            if Instant::now() > deadline {
                bail!("no node led within {} s", START_MAX.as_secs());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL; its process id.
    pub async fn kill(&mut self, id: u64) -> Result<u32> {
        let mut process = self
            .node(id)
            .process
            .take()
            .context("the node does not run")?;
        let pid = process.id().unwrap_or(0);
        process.kill().await.context("killing a node")?;
        Ok(pid)
    }

    /// Ends all and removes everything.
    pub async fn end(mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take()
                && let Err(error) = process.kill().await
            {
                tracing::error!(node = node.id, %error, "a node could not be ended");
            }
        }
        if let Err(error) = self.folder.close() {
            tracing::warn!(%error, "the temporary folder could not be removed");
        }
    }

    /// Leaves them running, and says what to do with them.
    pub fn leave(self, output: Output) -> Result<()> {
        let addresses = self.addresses().join(",");
        let pids: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|node| node.process.as_ref()?.id())
            .collect();
        let folder = self.folder.keep();
        if output.is_json() {
            return output
                .json_line(&json!({ "cluster": addresses, "pids": pids, "folder": folder }));
        }
        let ordo = program();
        let pids = pids
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(" ");
        let (one, two) = (INTERFACES[0].0, INTERFACES[1].0);
        let folder = folder.display();
        output::line(&format!(
            "\nThe cluster runs on. To try:\n\n  \
             export ORDO_CLUSTER={addresses}\n  \
             {ordo} cluster status\n  \
             {ordo} interface list\n  \
             {ordo} dlq list {one}\n  \
             {ordo} message show {one} 1\n  \
             {ordo} why {two}\n  \
             {ordo} interface create mine && echo hello | {ordo} produce mine && {ordo} consume mine --count 1\n  \
             {ordo} work --stage validate enrich route\n  \
             {ordo} gateway --listen {one}=127.0.0.1:2575\n\n\
             To end it:\n\n  kill {pids}; rm -r {folder}"
        ))
    }

    /// The last lines of every node that complained.
    pub fn last_words(&self) -> String {
        let words = self.nodes.iter().filter_map(|node| {
            let lines = complaints(&node.log);
            (!lines.is_empty()).then(|| format!("node {} wrote:\n{}", node.id, lines.join("\n")))
        });
        words.collect::<Vec<_>>().join("\n")
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes
            .iter_mut()
            .find(|node| node.id == id)
            .expect("callers name nodes 1 to 3")
    }
}

/// This program as it was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "ordo".to_owned())
}

fn complaints(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| {
            [" WARN ", " ERROR ", "panicked", "ordo: "]
                .iter()
                .any(|mark| line.contains(mark))
        })
        .map(|line| format!("  {line}"))
        .collect();
    lines.drain(..lines.len().saturating_sub(8));
    lines
}

/// Ports that nobody listens on, all different: tried out together and let go together.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let (mut random, mut listeners) = (rand::rng(), Vec::new());
    for _ in 0..100 * count {
        if listeners.len() == count {
            break;
        }
        listeners.extend(TcpListener::bind(("127.0.0.1", random.random_range(PORTS))).ok());
    }
    if listeners.len() < count {
        bail!(
            "no free ports on loopback from {} to {}",
            PORTS.start,
            PORTS.end
        );
    }
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::collections::BTreeSet;

    use ordo_node::config::{Config, Overrides};

    use super::*;

    #[test]
    fn the_configuration_is_one_that_serve_takes() {
        let nodes = Nodes::configure(false).unwrap();
        let mut addresses = BTreeSet::new();
        for node in &nodes.nodes {
            let environment = std::iter::empty();
            let config =
                Config::load_with(Some(&node.config), environment, &Overrides::default()).unwrap();
            assert_eq!((config.node_id, config.peers.len()), (node.id, 3));
            addresses.extend([config.public, config.peer, config.http]);
        }
        assert_eq!(addresses.len(), 9);
    }
}
