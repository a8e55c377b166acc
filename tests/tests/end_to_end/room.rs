//! A node whose disk fills while the others' have room: a follower alone, and the leader alone.

use ordo_client::OnRefusal;
use ordo_tests::load::{message, send, staged};
use ordo_tests::{Nodes, eventually, free_addresses, ordo};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: u64 = 1 << 20;
/// Of a file system of 400 MiB; a node takes less than the half of it.
const LIMIT: u64 = 100 * MIB;

/// Three nodes, the third of which has a small disk of its own; nothing where none can be mounted.
async fn that_can_fill() -> Option<(Nodes, Mounted)> {
    let limits = format!("[limits]\ndisk_free_bytes = {LIMIT}\n");
    let mut nodes = Nodes::configure(3, &limits).unwrap();
    let folder = nodes.nodes[FULL].data.clone();
    std::fs::create_dir_all(&folder).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=400m", "tmpfs"])
        .arg(&folder)
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        println!("skipped: mounting a small tmpfs needs root");
        return None;
    }
    let mounted = Mounted(folder);
    for node in &mut nodes.nodes {
        node.start().unwrap();
    }
    nodes.init().await.unwrap();
    let admin = nodes.cluster().unwrap().admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    send(&nodes.cluster().unwrap(), 1, 50).await.unwrap();
    Some((nodes, mounted))
}

/// The place of the node with the small disk.
const FULL: usize = 2;

struct Mounted(PathBuf);

impl Mounted {
    /// Somebody else takes so much that less than the limit is left, and more than nothing.
    fn fill(&self) {
        let file = File::create(self.0.join("filler")).unwrap();
        let block = vec![7; MIB as usize];
        let mut offset = 0;
        while self.free() > LIMIT / 2 {
            file.write_all_at(&block, offset).unwrap();
            offset += MIB;
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the node on it is killed a moment later when the test fails before that.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A process that ends with the test, and what it wrote.
struct Spawned(Child, PathBuf);

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gateway(nodes: &Nodes, listen: std::net::SocketAddr) -> Spawned {
    let log = nodes.folder().join("gateway.log");
    let child = Command::new(ordo())
        .env("ORDO_CLUSTER", nodes.addresses())
        .args(["gateway", "--listen", &format!("lab={listen}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn();
    Spawned(child.unwrap(), log)
}

async fn said(nodes: &Nodes, args: &[&str]) -> String {
    let output = nodes.ordo(args).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn ready(nodes: &Nodes, place: usize) -> String {
    ordo_tests::get(nodes.nodes[place].http, "/readyz")
        .await
        .unwrap()
}

/// What a producer that takes no for an answer is told of the n-th message.
async fn refusal(nodes: &Nodes, n: u64) -> Option<String> {
    let cluster = nodes.cluster().unwrap();
    let producer = cluster
        .producer()
        .on_refusal(OnRefusal::GiveUp)
        .start()
        .unwrap();
    let sent = producer.send("lab", message("lab", n)).await;
    sent.err().map(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_alone_with_a_full_disk_stops_nobody_until_the_quorum_needs_it() {
    let Some((mut nodes, disk)) = that_can_fill().await else {
        return;
    };
    if nodes.leader().await == FULL {
        said(&nodes, &["cluster", "transfer"]).await;
    }
    let leader = nodes.leader().await;
    assert_ne!(leader, FULL);
    disk.fill();
    let lacks = "node 3 lacks room: its disk has";
    eventually("the leader to know whose disk is full", async || {
        let page = ready(&nodes, leader).await;
        page.contains(lacks).then_some(())
    })
    .await;
    let status = said(&nodes, &["cluster", "status"]).await;
    assert!(
        status.contains("LACKS DISK") && status.contains(lacks),
        "{status}"
    );
    let page = ready(&nodes, leader).await;
    assert!(page.contains("200 OK") && page.contains(lacks), "{page}");
    // Two have room: that is enough.
    send(&nodes.cluster().unwrap(), 51, 100).await.unwrap();

    // Without the other follower every entry needs the full disk.
    let other = (0..2).find(|place| *place != leader).unwrap();
    nodes.nodes[other].kill().unwrap();
    eventually("ingest to be refused", async || {
        let page = ready(&nodes, leader).await;
        page.contains("ingest is refused").then_some(())
    })
    .await;
    let why = refusal(&nodes, 101).await.unwrap();
    let limit = format!("limits.disk_free_bytes is {LIMIT}");
    assert!(why.contains(lacks) && why.contains(&limit), "{why}");
    let explained = said(&nodes, &["why", "lab"]).await;
    assert!(
        explained.contains("ingest is refused") && explained.contains(lacks),
        "{explained}"
    );
    let listen = free_addresses(1)[0];
    let gateway = gateway(&nodes, listen);
    let mut hospital = eventually("the gateway", async || {
        TcpStream::connect(listen).await.ok()
    })
    .await;
    let order = b"\x0bMSH|^~\\&|A|B|C|D|20240101000000||ORM^O01|X1|P|2.5\rPID|||1\r\x1c\r";
    hospital.write_all(order).await.unwrap();
    eventually("the gateway to say why", async || {
        let log = std::fs::read_to_string(&gateway.1).unwrap();
        (log.contains("ingest is refused") && log.contains(lacks)).then_some(())
    })
    .await;

    disk.empty();
    let mut reply = [0; 1];
    hospital.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, [0x0b], "the order was taken in the end");
    nodes.nodes[other].start().unwrap();
    nodes.wait_up(other).await;
    nodes.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_alone_with_a_full_disk_hands_over_and_ingest_goes_on() {
    let Some((mut nodes, disk)) = that_can_fill().await else {
        return;
    };
    if nodes.leader().await != FULL {
        let handed = said(&nodes, &["cluster", "transfer", "--to", "3"]).await;
        assert!(handed.contains("node 3 leads"), "{handed}");
    }
    disk.fill();
    let leader = eventually("another node to lead", async || {
        let leader = nodes.leader().await;
        (leader != FULL).then_some(leader)
    })
    .await;
    send(&nodes.cluster().unwrap(), 51, 150).await.unwrap();
    let log = nodes.nodes[FULL].said();
    assert!(log.contains("which lacks room"), "{log}");
    eventually("the new leader to have heard of it", async || {
        let page = ready(&nodes, leader).await;
        page.contains("node 3 lacks room").then_some(())
    })
    .await;
    let refused = said(&nodes, &["cluster", "transfer", "--to", "3"]).await;
    assert!(refused.contains("node 3 lacks room"), "{refused}");
    assert_ne!(nodes.leader().await, FULL);
    disk.empty();
    eventually("node 3 to have room again", async || {
        let said = said(&nodes, &["cluster", "transfer", "--to", "3"]).await;
        said.contains("node 3 leads").then_some(())
    })
    .await;
    send(&nodes.cluster().unwrap(), 151, 160).await.unwrap();
    nodes.agree().await;
}
