#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rooms;

use super::{Measure, Seams, ServeHandle, start};
use crate::config::{Config, PeerConfig};
use crate::error::ServeError;
use crate::net::{Dial, Io, Listening, TcpDial};
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use ordo_wire::v1::{GetClusterStatusResponse, NodeRole, Reason};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// Some nodes on loopback, each of which can be stopped, cleared and started again.
struct Cluster {
    folder: TempDir,
    peers: Vec<PeerConfig>,
    nodes: BTreeMap<u64, ServeHandle>,
    snapshot_entries: u64,
}

impl Cluster {
    async fn start(count: u64) -> Self {
        Self::start_with(count, 50_000).await
    }

    async fn start_with(count: u64, snapshot_entries: u64) -> Self {
        Self::start_measured(count, snapshot_entries, |_| None).await
    }

    /// With rooms as `measure` says, node by node.
    async fn start_measured(
        count: u64,
        snapshot_entries: u64,
        measure: impl Fn(u64) -> Option<Measure>,
    ) -> Self {
        let (mut peers, mut listeners) = (Vec::new(), Vec::new());
        for node_id in 1..=count {
            let (peer, public) = (listener().await, listener().await);
            let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
            peers.push(PeerConfig {
                node_id,
                peer: address(&peer),
                public: address(&public),
            });
            listeners.push((peer, public));
        }
        let mut cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            peers,
            nodes: BTreeMap::new(),
            snapshot_entries,
        };
        for (node_id, (peer, public)) in (1..).zip(listeners) {
            let listening = |listener| Some(Listening::on(listener).unwrap());
            let seams = Seams {
                peer: listening(peer),
                public: listening(public),
                room: measure(node_id),
                ..Seams::default()
            };
            cluster.start_node(node_id, seams).await;
        }
        cluster
    }

    fn data_dir(&self, node_id: u64) -> PathBuf {
        self.folder.path().join(node_id.to_string())
    }

    fn config(&self, node_id: u64) -> Config {
        let mut config = Config::local(node_id, self.data_dir(node_id));
        let own = &self.peers[node_id as usize - 1];
        config.peer = own.peer.parse().unwrap();
        config.public = own.public.parse().unwrap();
        config.peers.clone_from(&self.peers);
        config.raft.snapshot_entries = self.snapshot_entries;
        config.raft.keep_entries = 0;
        config
    }

    async fn start_node(&mut self, node_id: u64, mut seams: Seams) {
        seams.check_invariants = true;
        let mut started = start(self.config(node_id), seams).await;
        // In one process a task of the node that was stopped may hold its database for a moment longer.
        let until = Instant::now() + PATIENCE;
        while let Err(ServeError::Storage(error)) = &started {
            assert!(
                error.contains("by current process") && Instant::now() < until,
                "{error}"
            );
            sleep(Duration::from_millis(5)).await;
            started = start(
                self.config(node_id),
                Seams {
                    check_invariants: true,
                    ..Seams::default()
                },
            )
            .await;
        }
        self.nodes.insert(node_id, started.unwrap());
    }

    async fn status(&self, node_id: u64) -> GetClusterStatusResponse {
        self.nodes[&node_id]
            .context()
            .cluster
            .status(true)
            .await
            .unwrap()
    }

    /// The node that leads, once all that run agree.
    async fn leader(&self) -> u64 {
        let leaders = || {
            let metrics = self
                .nodes
                .values()
                .map(|node| node.context().raft.metrics());
            metrics
                .map(|metrics| metrics.borrow_watched().current_leader)
                .collect::<Vec<_>>()
        };
        eventually("all nodes follow one leader", || {
            let leaders = leaders();
            leaders.iter().all(|leader| *leader == leaders[0])
                && leaders[0].is_some_and(|id| self.nodes.contains_key(&id))
        })
        .await;
        leaders()[0].unwrap()
    }

    fn applied(&self, node_id: u64) -> u64 {
        let metrics = self.nodes[&node_id].context().raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.last_applied.map_or(0, |id| id.index)
    }

    /// Writes an entry without commands; answers its index.
    async fn write(&self, leader: u64) -> u64 {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.nodes[&leader].context().raft.write_blank().await {
                Ok(written) => return written.log_id.index,
                // Elected a moment ago, it has not heard from its quorum yet.
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(&mut self, node_id: u64) {
        self.nodes
            .remove(&node_id)
            .unwrap()
            .shutdown()
            .await
            .unwrap();
    }

    async fn shutdown(mut self) {
        while let Some((_, node)) = self.nodes.pop_first() {
            node.shutdown().await.unwrap();
        }
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn three_nodes_begin_a_cluster_agree_and_hand_over_leadership() {
    let mut cluster = Cluster::start(3).await;
    let http = cluster.nodes[&2].http;
    assert!(get(http, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(
        get(http, "/readyz")
            .await
            .contains("run `ordo cluster init`")
    );

    let cluster_id = cluster.nodes[&2].context().cluster.init().await.unwrap();
    let leader = cluster.leader().await;
    for node_id in 1..=3 {
        let again = cluster.nodes[&node_id]
            .context()
            .cluster
            .init()
            .await
            .unwrap_err();
        assert_eq!(again.reason, Reason::AlreadyInitialized, "{again:?}");
        assert_eq!(
            cluster.nodes[&node_id].context().identity.cluster_id(),
            Some(cluster_id)
        );
    }
    assert!(get(http, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(
        get(http, "/metrics")
            .await
            .contains(&format!("ordo_raft_leader {leader}\n"))
    );

    let to = leader % 3 + 1;
    let refusal = cluster.nodes[&to]
        .context()
        .cluster
        .transfer(Some(to))
        .await
        .unwrap_err();
    let public = cluster.peers[leader as usize - 1].public.clone();
    assert_eq!(
        (refusal.reason, refusal.leader),
        (Reason::NotLeader, Some(public))
    );
    assert_eq!(
        cluster.nodes[&leader]
            .context()
            .cluster
            .transfer(Some(to))
            .await
            .unwrap(),
        to
    );
    assert_eq!(cluster.leader().await, to);

    // What the new leader wrote is everywhere, and everywhere the same.
    let written = cluster.write(to).await;
    eventually("all nodes applied it", || {
        (1..=3).all(|node_id| cluster.applied(node_id) >= written)
    })
    .await;
    let mut hashes = BTreeMap::new();
    for node_id in 1..=3 {
        let status = cluster.status(node_id).await;
        assert_eq!((status.leader_id, status.nodes.len()), (to, 3));
        assert_eq!(
            status
                .nodes
                .iter()
                .filter(|node| node.role() == NodeRole::Leader)
                .count(),
            1
        );
        let hash = hashes
            .entry(status.applied_index)
            .or_insert_with(|| status.state_hash.clone());
        assert_eq!(*hash, status.state_hash);
    }

    // A leader that stops in good order is replaced before it is gone.
    cluster.stop(to).await;
    let next = cluster.leader().await;
    assert_ne!(next, to);
    cluster.start_node(to, Seams::default()).await;
    assert_eq!(cluster.leader().await, next);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_leader_that_dies_is_replaced_soon() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[&1].context().cluster.init().await.unwrap();
    let leader = cluster.leader().await;
    cluster.write(leader).await;
    let died = Instant::now();
    cluster.nodes.remove(&leader).unwrap().abandon().await;
    let next = cluster.leader().await;
    cluster.write(next).await;
    // 1.3 to 1.6 s when nothing else runs; the machine that tests run on is busy.
    assert!(
        died.elapsed() < Duration::from_secs(5),
        "{:?}",
        died.elapsed()
    );
    cluster.start_node(leader, Seams::default()).await;
    let written = cluster.write(next).await;
    eventually("it has what it missed", || {
        cluster.applied(leader) >= written
    })
    .await;
    cluster.shutdown().await;
}

/// Dials TCP and counts.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Dial for Arc<Counting> {
    fn dial(&self, address: &str) -> BoxFuture<'static, std::io::Result<Box<dyn Io>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        TcpDial.dial(address)
    }
}

#[tokio::test]
async fn a_node_that_is_away_is_not_called_all_the_time() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[&1].context().cluster.init().await.unwrap();
    let counting = Arc::new(Counting::default());
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let dial = Arc::new(Arc::clone(&counting));
    cluster
        .start_node(
            leader,
            Seams {
                dial,
                ..Seams::default()
            },
        )
        .await;
    let admin = cluster.nodes[&cluster.leader().await]
        .context()
        .cluster
        .clone();
    eventually("it has caught up", || cluster.applied(leader) > 0).await;
    admin.transfer(Some(leader)).await.unwrap();
    cluster.stop(leader % 3 + 1).await;
    cluster.write(leader).await;
    // How often it dials in a second is the very question here.
    let before = counting.0.load(Ordering::Relaxed);
    sleep(Duration::from_secs(1)).await;
    let dialled = counting.0.load(Ordering::Relaxed) - before;
    assert!(dialled < 50, "{dialled} times in a second");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_missed_what_is_purged_gets_a_snapshot() {
    let mut cluster = Cluster::start_with(3, 100).await;
    cluster.nodes[&1].context().cluster.init().await.unwrap();
    let leader = cluster.leader().await;
    let late = leader % 3 + 1;
    cluster.stop(late).await;
    let mut written = 0;
    while written < 400 {
        written = cluster.write(leader).await;
    }
    eventually("the log is purged beyond what the late node has", || {
        let metrics = cluster.nodes[&leader].context().raft.metrics();
        let purged = metrics.borrow_watched().purged;
        purged.is_some_and(|id| id.index > 200)
    })
    .await;
    cluster.start_node(late, Seams::default()).await;
    eventually("the late node has everything", || {
        cluster.applied(late) >= written
    })
    .await;
    let status = cluster.status(late).await;
    assert!(status.snapshot_index > 200, "{}", status.snapshot_index);
    cluster.write(leader).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_lost_its_folder_has_no_say_until_it_is_added_anew() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[&1].context().cluster.init().await.unwrap();
    let leader = cluster.leader().await;
    let wiped = leader % 3 + 1;
    cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster.start_node(wiped, Seams::default()).await;

    let admin = cluster.nodes[&leader].context().cluster.clone();
    let written = cluster.write(leader).await;
    let refusal = admin
        .add(cluster.peers[wiped as usize - 1].clone(), false)
        .await
        .unwrap_err();
    assert!(refusal.text.contains("is a member already"), "{refusal:?}");
    let refusal = admin.promote(wiped).await.unwrap_err();
    let heals = format!("cluster add {wiped} --peer");
    assert!(
        refusal.text.contains(&heals) && refusal.text.contains("--replace"),
        "{refusal:?}"
    );
    assert_eq!(cluster.applied(wiped), 0, "nothing is replicated to it");
    assert_eq!(
        cluster.nodes[&wiped].term(),
        0,
        "and it takes part in no election"
    );

    // The third node gone too, the cluster stands still rather than count on the wiped one.
    let third = 6 - leader - wiped;
    cluster.stop(third).await;
    let refusal = admin.remove(third).await.unwrap_err();
    assert!(refusal.text.contains("would stand still"), "{refusal:?}");
    cluster.start_node(third, Seams::default()).await;
    eventually("the third node answers again", || {
        cluster.applied(third) >= written
    })
    .await;

    let leader = cluster
        .nodes
        .iter()
        .find(|(_, node)| node.is_leader())
        .map(|(node_id, _)| *node_id)
        .unwrap();
    let admin = cluster.nodes[&leader].context().cluster.clone();
    admin.remove(wiped).await.unwrap();
    let node = PeerConfig {
        public: String::new(),
        ..cluster.peers[wiped as usize - 1].clone()
    };
    admin.add(node.clone(), false).await.unwrap();
    admin.add(node, false).await.unwrap();
    assert_eq!(
        admin.transfer(Some(wiped)).await.unwrap_err().reason,
        Reason::Membership,
        "it is a learner"
    );
    eventually("the new learner has everything", || {
        cluster.applied(wiped) >= written
    })
    .await;
    // Without a quorum it is no voter, however often one asks: what is written of it may come to nothing.
    cluster.stop(third).await;
    for _ in 0..2 {
        let asked = timeout(Duration::from_millis(500), admin.promote(wiped)).await;
        assert!(!matches!(asked, Ok(Ok(()))));
    }
    cluster.start_node(third, Seams::default()).await;
    let leader = cluster.leader().await;
    let admin = cluster.nodes[&leader].context().cluster.clone();
    // One of the two may have been written, and is agreed upon by now.
    match admin.promote(wiped).await {
        Ok(()) => {}
        Err(refusal) => assert!(refusal.text.contains("votes already"), "{refusal:?}"),
    }
    assert!(
        admin
            .promote(wiped)
            .await
            .unwrap_err()
            .text
            .contains("votes already")
    );
    assert_eq!(
        admin.promote(9).await.unwrap_err().text,
        "node 9 is not a member of this cluster"
    );
    let status = cluster.status(leader).await;
    let member = status
        .nodes
        .iter()
        .find(|node| node.node_id == wiped)
        .unwrap();
    assert_eq!(
        (member.role(), member.public_address.as_str()),
        (
            NodeRole::Follower,
            cluster.peers[wiped as usize - 1].public.as_str()
        )
    );
    assert_eq!(admin.transfer(Some(wiped)).await.unwrap(), wiped);
    cluster.shutdown().await;
}

#[tokio::test]
async fn init_needs_every_member_and_goes_on_where_it_stopped() {
    let mut cluster = Cluster::start(3).await;
    cluster.stop(3).await;
    let refusal = cluster.nodes[&1]
        .context()
        .cluster
        .init()
        .await
        .unwrap_err();
    assert!(
        refusal.text.contains("node 3 at") && refusal.text.contains("can't be reached"),
        "{refusal:?}"
    );
    assert_eq!(
        cluster.nodes[&1].context().identity.cluster_id(),
        None,
        "nothing was done"
    );

    // An attempt that ended half-way: two nodes have the cluster's id, the third has not.
    let cluster_id = uuid::Uuid::from_u128(77);
    for node_id in [1, 2] {
        cluster.nodes[&node_id]
            .context()
            .identity
            .adopt(cluster_id)
            .unwrap();
    }
    cluster.start_node(3, Seams::default()).await;
    assert_eq!(
        cluster.nodes[&3].context().cluster.init().await.unwrap(),
        cluster_id
    );
    cluster.leader().await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn members_of_two_attempts_do_not_become_one_cluster() {
    let cluster = Cluster::start(2).await;
    cluster.nodes[&1]
        .context()
        .identity
        .adopt(uuid::Uuid::from_u128(1))
        .unwrap();
    cluster.nodes[&2]
        .context()
        .identity
        .adopt(uuid::Uuid::from_u128(2))
        .unwrap();
    let refusal = cluster.nodes[&1]
        .context()
        .cluster
        .init()
        .await
        .unwrap_err();
    assert!(refusal.text.contains("by another attempt"), "{refusal:?}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_and_a_used_folder_are_named() {
    let taken = listener().await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::local(1, folder.path().to_owned());
    config.public = taken.local_addr().unwrap();
    let error = start(config.clone(), Seams::default()).await.unwrap_err();
    assert!(
        matches!(&error, ServeError::Listen { key: "public", address, .. } if *address == config.public),
        "{error}"
    );
    assert_eq!(error.exit_status(), 1);

    config.public.set_port(0);
    let node = start(config.clone(), Seams::default()).await.unwrap();
    let error = start(config, Seams::default()).await.unwrap_err();
    assert!(
        error.to_string().contains("is in use by another process"),
        "{error}"
    );
    node.shutdown().await.unwrap();
}
