//! Nodes as processes: started, killed, restarted, and gone when the test is.

use crate::{PATIENCE, eventually, eventually_within, within};
use anyhow::{Context, Result, ensure};
use ordo_client::{Cluster, proto};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The `ordo` program, beside the test's own.
///
/// # Panics
/// When it has not been built: `cargo build --release --bin ordo`.
#[must_use]
pub fn ordo() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().expect("a program is in a folder");
    // Tests run in target/<profile>/deps, programs one up.
    let folder = match folder.ends_with("deps") {
        true => folder.parent().expect("deps is in a folder"),
        false => folder,
    };
    let program = folder.join("ordo");
    assert!(
        program.exists(),
        "{} is missing: cargo build --release --bin ordo",
        program.display()
    );
    program
}

/// Loopback addresses that nobody listens on, all different: asked from the system together and let go together.
///
/// # Panics
/// When the system has none.
#[must_use]
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports"))
        .collect();
    listeners
        .iter()
        .map(|listener| {
            listener
                .local_addr()
                .expect("a bound listener has an address")
        })
        .collect()
}

/// One node's place: its configuration and, while it runs, its process.
#[derive(Debug)]
pub struct Node {
    /// Its number in the cluster.
    pub id: u64,
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where the other nodes connect.
    pub peer: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
    /// Its data folder.
    pub data: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// What it wrote, over all its starts.
    pub log: PathBuf,
    /// What its environment has beside the test's own, from its next start on.
    pub environment: Vec<(String, String)>,
    /// What its program is started by, with arguments; nothing: by itself.
    pub inside: Vec<String>,
    process: Option<Child>,
    /// How long its log was when it was started last.
    said_before: u64,
}

/// The nodes of a cluster, in a temporary folder. Dropping them kills the processes and removes the folder.
#[derive(Debug)]
pub struct Nodes {
    /// By place, which is not their number.
    pub nodes: Vec<Node>,
    folder: TempDir,
}

impl Node {
    /// Starts the process.
    ///
    /// # Errors
    /// When it can't be started at all; whether it stays up is another matter.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "node {} runs already", self.id);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)?;
        self.said_before = log.metadata()?.len();
        let mut words = self.inside.iter().map(OsString::from).collect::<Vec<_>>();
        words.push(ordo().into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("serve")
            .arg("--config")
            .arg(&self.config);
        command.envs(self.environment.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(command.spawn().context("ordo serve")?);
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the node does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Sends a signal by its name and leaves the process to it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, name: &str) -> Result<()> {
        let process = self.process.as_ref().context("the node does not run")?;
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(process.id().to_string())
            .status()?;
        ensure!(status.success(), "kill -{name}");
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        Ok(self.ended().await)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) -> ExitStatus {
        // Left in its place until it has ended, so that a node that does not is killed with the others.
        let process = self.process.as_mut().expect("the node was started");
        let status = eventually("the node to end", async || {
            process.try_wait().expect("it is our child")
        })
        .await;
        self.process = None;
        status
    }

    /// Whether the process runs.
    pub fn runs(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// What it wrote since it was started last.
    #[must_use]
    pub fn said(&self) -> String {
        let output = std::fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.said_before).map_or(0, |from| from.min(output.len()));
        String::from_utf8_lossy(&output[from..]).into_owned()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Nodes {
    /// Writes the configuration of `count` nodes and starts none. `extra` is added to each configuration.
    ///
    /// # Errors
    /// When the temporary folder can't be written.
    pub fn configure(count: usize, extra: &str) -> Result<Self> {
        Self::configure_some(count, count, extra)
    }

    /// The same, with only the first `members` in the configurations' list of peers, beside each node itself.
    ///
    /// # Errors
    /// When the temporary folder can't be written.
    pub fn configure_some(count: usize, members: usize, extra: &str) -> Result<Self> {
        Self::configure_in(tempfile::tempdir()?, count, members, extra)
    }

    /// The same, in a folder of the caller's choice.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn configure_in(
        folder: TempDir,
        count: usize,
        members: usize,
        extra: &str,
    ) -> Result<Self> {
        let addresses = free_addresses(count * 3);
        let mut nodes = Vec::new();
        for (i, addresses) in addresses.chunks(3).enumerate() {
            let id = i as u64 + 1;
            nodes.push(Node {
                id,
                public: addresses[0],
                peer: addresses[1],
                http: addresses[2],
                data: folder.path().join(format!("node{id}")),
                config: folder.path().join(format!("node{id}.toml")),
                log: folder.path().join(format!("node{id}.log")),
                environment: Vec::new(),
                inside: Vec::new(),
                process: None,
                said_before: 0,
            });
        }
        let nodes = Self { nodes, folder };
        for node in &nodes.nodes {
            std::fs::write(&node.config, nodes.toml(node, members, extra)?)?;
        }
        Ok(nodes)
    }

    fn toml(&self, node: &Node, members: usize, extra: &str) -> Result<String> {
        let mut toml = format!("node_id = {}\ndata_dir = {:?}\n", node.id, node.data);
        writeln!(
            toml,
            "public = \"{}\"\npeer = \"{}\"\nhttp = \"{}\"",
            node.public, node.peer, node.http
        )?;
        let peers = self.nodes.iter().enumerate();
        for (_, member) in peers.filter(|(place, member)| *place < members || member.id == node.id)
        {
            let (id, peer, public) = (member.id, member.peer, member.public);
            writeln!(
                toml,
                "[[peers]]\nnode_id = {id}\npeer = \"{peer}\"\npublic = \"{public}\""
            )?;
        }
        toml.push_str(extra);
        Ok(toml)
    }

    /// Three nodes that run and form a cluster.
    ///
    /// # Errors
    /// When they can't be started or do not become one.
    pub async fn three() -> Result<Self> {
        Self::running(3, "").await
    }

    /// `count` nodes that run and form a cluster.
    ///
    /// # Errors
    /// When they can't be started or do not become one.
    pub async fn running(count: usize, extra: &str) -> Result<Self> {
        let mut nodes = Self::configure(count, extra)?;
        for node in &mut nodes.nodes {
            node.start()?;
        }
        nodes.init().await?;
        Ok(nodes)
    }

    /// `ordo cluster init` on the first node, once every node answers, and waits for a leader.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn init(&mut self) -> Result<()> {
        for place in 0..self.nodes.len() {
            if self.nodes[place].runs() {
                self.wait_up(place).await;
            }
        }
        let address = self.nodes[0].public.to_string();
        self.cluster()?.admin().init_cluster(&address).await?;
        self.leader().await;
        Ok(())
    }

    /// A client of the cluster, which knows every node's address.
    ///
    /// # Errors
    /// Never for addresses that are addresses.
    pub fn cluster(&self) -> Result<Cluster> {
        Ok(Cluster::connect(
            self.nodes.iter().map(|node| node.public.to_string()),
        )?)
    }

    /// The addresses as the command line takes them.
    #[must_use]
    pub fn addresses(&self) -> String {
        self.nodes
            .iter()
            .map(|node| node.public.to_string())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Runs `ordo` against this cluster and waits for its end.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn ordo(&self, args: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(ordo());
        command
            .env("ORDO_CLUSTER", self.addresses())
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(tokio::time::timeout(PATIENCE, command.output())
            .await
            .context("ordo did not end")??)
    }

    /// What a node says of the cluster, when it answers.
    pub async fn status(&self, place: usize) -> Option<proto::GetClusterStatusResponse> {
        let address = self.nodes[place].public.to_string();
        self.cluster()
            .ok()?
            .admin()
            .cluster_status_of(&address)
            .await
            .ok()
    }

    /// The same, with the hash of its state, which takes a node as long as to read all of it.
    pub async fn status_with_hash(
        &self,
        place: usize,
        limit: Duration,
    ) -> Option<proto::GetClusterStatusResponse> {
        let address = self.nodes[place].public.to_string();
        let admin = self.cluster().ok()?.admin().timeout(limit);
        let status = admin.cluster_status_with_hash(&address).await.ok()?;
        (!status.state_hash.is_empty()).then_some(status)
    }

    /// Waits until a node answers.
    ///
    /// # Panics
    /// When it does not; names what it wrote.
    pub async fn wait_up(&self, place: usize) {
        let up = within(PATIENCE, async || self.status(place).await).await;
        let node = &self.nodes[place];
        assert!(
            up.is_some(),
            "waited {PATIENCE:?} for node {} to answer; it wrote: {}",
            node.id,
            node.output()
        );
    }

    /// Waits until some running node leads, and gives its place.
    pub async fn leader(&mut self) -> usize {
        eventually("a leader", async || self.leader_now().await).await
    }

    async fn leader_now(&mut self) -> Option<usize> {
        for place in 0..self.nodes.len() {
            if !self.nodes[place].runs() {
                continue;
            }
            let Some(status) = self.status(place).await else {
                continue;
            };
            // One that was cut off may take itself for the leader yet.
            if status.leader_confirmed && status.committed_index > 0 {
                return Some(place);
            }
        }
        None
    }

    /// Waits for a leader, and gives the place of a node that is not it.
    pub async fn follower(&mut self) -> usize {
        let leader = self.leader().await;
        (leader + 1) % self.nodes.len()
    }

    /// Waits until every running node has applied the same index, and checks that their state hashes are equal.
    ///
    /// # Panics
    /// When replicas that applied the same index differ.
    pub async fn agree(&mut self) {
        self.agree_within(PATIENCE).await;
    }

    /// [`Nodes::agree`], where the states are so large that hashing them takes long.
    ///
    /// # Panics
    /// See [`Nodes::agree`].
    pub async fn agree_within(&mut self, patience: Duration) {
        eventually_within(patience, "replicas at the same applied index", async || {
            let mut seen: Option<(u64, bytes::Bytes)> = None;
            for place in 0..self.nodes.len() {
                if !self.nodes[place].runs() {
                    continue;
                }
                let status = self.status_with_hash(place, patience / 6).await?;
                let this = (status.applied_index, status.state_hash);
                match &seen {
                    Some(other) if other.0 != this.0 => return None,
                    Some(other) => assert_eq!(other.1, this.1, "state hashes at index {}", this.0),
                    None => seen = Some(this),
                }
            }
            Some(())
        })
        .await;
    }

    /// The folder that holds everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
