//! A network that can be broken: every connection of a cluster's nodes and clients goes through a proxy.
//!
//! The nodes' configuration names the proxies' addresses. Who connects is found in `/proc`, so that the link from one
//! node to another can be broken, each way on its own, while others hold. What a broken link swallows it holds back,
//! as TCP does with what it has to send again: it arrives when the link heals, late, unless the link was cut.

use crate::{Nodes, free_addresses};
use anyhow::{Context, Result};
use ordo_client::Cluster;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes moved at once.
const CHUNK_BYTES: usize = 64 << 10;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The node at a place.
    Node(usize),
    /// The clients: the test itself.
    Clients,
}

/// How bytes get from one end to another. Nothing said: as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// As they come.
    #[default]
    Open,
    /// This much later.
    Slow(Duration),
    /// So many bytes a second, on each connection.
    Narrow(u64),
    /// Not at all, and nobody is told: no byte, no end of a connection.
    Hole,
    /// Connections end at once, and new ones are reset.
    Cut,
}

type Ways = BTreeMap<(End, End), Way>;

/// Bytes that got through, by way.
type Carried = Arc<Mutex<BTreeMap<(End, End), u64>>>;

/// The network of one cluster.
#[derive(Debug)]
pub struct Net {
    ways: watch::Sender<Ways>,
    carried: Carried,
    public: Vec<SocketAddr>,
    proxies: JoinSet<()>,
}

impl Net {
    /// Puts itself between the nodes, which must not have been started.
    ///
    /// # Errors
    /// When a configuration can't be written, or there is no address for a proxy.
    pub async fn between(nodes: &Nodes) -> Result<Self> {
        let mut net = Self {
            ways: watch::Sender::default(),
            carried: Carried::default(),
            public: Vec::new(),
            proxies: JoinSet::new(),
        };
        let mut instead = Vec::new();
        let configs: Vec<PathBuf> = nodes.nodes.iter().map(|node| node.config.clone()).collect();
        for (place, node) in nodes.nodes.iter().enumerate() {
            for behind in [node.public, node.peer] {
                let listener = TcpListener::bind(free_addresses(1)[0]).await?;
                let address = listener.local_addr()?;
                instead.push((behind.to_string(), address.to_string()));
                if behind == node.public {
                    net.public.push(address);
                }
                let proxy = Proxy {
                    to: End::Node(place),
                    behind,
                    ways: net.ways.subscribe(),
                    carried: Arc::clone(&net.carried),
                    configs: configs.clone().into(),
                };
                net.proxies.spawn(proxy.run(listener));
            }
        }
        for config in &configs {
            let text = fs::read_to_string(config)?;
            let peers = text
                .find("[[peers]]")
                .context("a configuration names its peers")?;
            let (own, mut peers) = (&text[..peers], text[peers..].to_owned());
            for (address, proxy) in &instead {
                peers = peers.replace(address, proxy);
            }
            fs::write(config, format!("{own}{peers}"))?;
        }
        Ok(net)
    }

    /// A client whose connections go through the proxies.
    ///
    /// # Errors
    /// Never for addresses that are addresses.
    pub fn cluster(&self) -> Result<Cluster> {
        Ok(Cluster::connect(
            self.public.iter().map(ToString::to_string),
        )?)
    }

    /// Changes one way; the other one of the link stays as it is.
    pub fn set(&self, from: End, to: End, way: Way) {
        self.ways.send_modify(|ways| {
            ways.insert((from, to), way);
        });
    }

    /// Changes both ways between a node and other nodes; those of the clients stay as they are.
    pub fn set_peers(&self, place: usize, others: &[usize], to: Way, from: Way) {
        for other in others {
            self.set(End::Node(place), End::Node(*other), to);
            self.set(End::Node(*other), End::Node(place), from);
        }
    }

    /// How many bytes got from one end to another so far.
    #[must_use]
    pub fn carried(&self, from: End, to: End) -> u64 {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Everything is as it was in the beginning.
    pub fn heal(&self) {
        self.ways.send_modify(BTreeMap::clear);
    }
}

/// One address of a node.
struct Proxy {
    to: End,
    behind: SocketAddr,
    ways: watch::Receiver<Ways>,
    carried: Carried,
    configs: Arc<[PathBuf]>,
}

impl Proxy {
    async fn run(self, listener: TcpListener) {
        // Dropped with the proxy, which ends them.
        let mut connections = JoinSet::new();
        let Ok(own) = listener.local_addr() else {
            return;
        };
        while let Ok((stream, from)) = listener.accept().await {
            let configs = Arc::clone(&self.configs);
            let found = tokio::task::spawn_blocking(move || caller(from, own, &configs));
            let (to, behind, ways) = (self.to, self.behind, self.ways.clone());
            let carried = Arc::clone(&self.carried);
            connections.spawn(async move {
                // A process that is gone has nothing to say.
                if let Ok(Some(from)) = found.await {
                    let _ = connection(stream, behind, (from, to), (ways, carried)).await;
                }
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn connection(
    near: TcpStream,
    behind: SocketAddr,
    (from, to): (End, End),
    (ways, carried): (watch::Receiver<Ways>, Carried),
) -> std::io::Result<()> {
    let (mut there, mut back) = (
        Direction::new(from, to, &ways, &carried),
        Direction::new(to, from, &ways, &carried),
    );
    // A reset, as from a machine that knows nothing of the connection.
    near.set_zero_linger()?;
    if !there.passes().await {
        return Ok(());
    }
    let far = TcpStream::connect(behind).await?;
    far.set_zero_linger()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    // Whichever ends first ends both: the halves are dropped, and so reset.
    tokio::select! {
        _ = there.pump(near_read, far_write) => {}
        _ = back.pump(far_read, near_write) => {}
    }
    Ok(())
}

struct Direction {
    key: (End, End),
    ways: watch::Receiver<Ways>,
    carried: Carried,
}

impl Direction {
    fn new(from: End, to: End, ways: &watch::Receiver<Ways>, carried: &Carried) -> Self {
        Self {
            key: (from, to),
            ways: ways.clone(),
            carried: Arc::clone(carried),
        }
    }

    fn now(&mut self) -> Way {
        self.ways
            .borrow_and_update()
            .get(&self.key)
            .copied()
            .unwrap_or_default()
    }

    /// Waits until a byte gets through; false when the way is cut.
    async fn passes(&mut self) -> bool {
        loop {
            match self.now() {
                Way::Open | Way::Narrow(_) => return true,
                Way::Cut => return false,
                Way::Slow(late) => {
                    tokio::time::sleep(late).await;
                    return true;
                }
                Way::Hole => {
                    if self.ways.changed().await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    async fn cut(&mut self) {
        while self.now() != Way::Cut {
            if self.ways.changed().await.is_err() {
                return;
            }
        }
    }

    async fn pump(
        &mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
    ) -> std::io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = tokio::select! {
                biased;
                () = self.cut() => return Ok(()),
                read = from.read(&mut chunk) => read,
            };
            // An end gets through as bytes do.
            if !self.passes().await {
                return Ok(());
            }
            match read? {
                0 => return Ok(()),
                read => {
                    if let Way::Narrow(bytes_a_second) = self.now() {
                        let seconds = read as f64 / bytes_a_second.max(1) as f64;
                        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                    }
                    to.write_all(&chunk[..read]).await?;
                    let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
                    *carried.entry(self.key).or_default() += read as u64;
                }
            }
        }
    }
}

/// Who connects from an address to a proxy's: this process, or the one that was started with a node's configuration.
fn caller(from: SocketAddr, to: SocketAddr, configs: &[PathBuf]) -> Option<End> {
    let socket = format!("socket:[{}]", inode_of(from, to)?);
    if holds(Path::new("/proc/self"), &socket) {
        return Some(End::Clients);
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let said = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let place = configs
            .iter()
            .position(|config| said.contains(&config.display().to_string()));
        if let Some(place) = place
            && holds(&process.path(), &socket)
        {
            return Some(End::Node(place));
        }
    }
    None
}

/// The socket of a local address, by the kernel's table of connections.
fn inode_of(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    // Both ports: a connection that is over may still stand there with one of them.
    let [local, remote] = [from, to].map(|address| format!(":{:04X}", address.port()));
    let row = table.lines().skip(1).find(|row| {
        let fields: Vec<_> = row.split_whitespace().skip(1).take(2).collect();
        fields.len() == 2 && fields[0].ends_with(&local) && fields[1].ends_with(&remote)
    })?;
    Some(row.split_whitespace().nth(9)?.to_owned())
}

fn holds(process: &Path, socket: &str) -> bool {
    let open = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    open.map(|file| fs::read_link(file.path()))
        .any(|link| link.is_ok_and(|link| link.as_os_str() == socket))
}
