//! What a node refuses to start on, and what it says.
#![allow(clippy::unwrap_used, reason = "tests")]

use ordo_tests::load::{message, send, staged};
use ordo_tests::{Nodes, eventually};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

async fn with_messages(count: u64) -> Nodes {
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    send(&cluster, 1, count).await.unwrap();
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let mut nodes = Nodes::configure(1, "").unwrap();
    let taken = std::net::TcpListener::bind(nodes.nodes[0].public).unwrap();
    nodes.nodes[0].start().unwrap();
    let status = nodes.nodes[0].ended().await;
    let output = nodes.nodes[0].output();
    assert!(!status.success(), "{output}");
    assert!(
        output.contains(&taken.local_addr().unwrap().to_string()) && output.contains("in use"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_data_are_refused() {
    let mut nodes = Nodes::configure(2, "").unwrap();
    nodes.nodes[0].start().unwrap();
    nodes.wait_up(0).await;
    nodes.nodes[0].stop().await.unwrap();
    std::fs::rename(&nodes.nodes[0].data, &nodes.nodes[1].data).unwrap();
    nodes.nodes[1].start().unwrap();
    let status = nodes.nodes[1].ended().await;
    let output = nodes.nodes[1].output();
    assert!(!status.success() && output.contains("node_id"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_data_do_not_get_in() {
    let mut ours = with_messages(10).await;
    let mut theirs = with_messages(20).await;
    // A follower of ours, started with the data of the same node of theirs.
    let leader = ours.leader().await;
    let place = (0..3).find(|place| *place != leader).unwrap();
    ours.nodes[place].stop().await.unwrap();
    for node in &mut theirs.nodes {
        node.stop().await.unwrap();
    }
    std::fs::rename(&ours.nodes[place].data, ours.folder().join("kept")).unwrap();
    std::fs::rename(&theirs.nodes[place].data, &ours.nodes[place].data).unwrap();
    ours.nodes[place].start().unwrap();
    eventually("the stranger to be refused", async || {
        let said: String = ours.nodes.iter().map(|node| node.output()).collect();
        said.contains("belongs to cluster").then_some(())
    })
    .await;
    // The others go on, and the right data are still right.
    send(&ours.cluster().unwrap(), 11, 30).await.unwrap();
    ours.nodes[place].kill().unwrap();
    std::fs::remove_dir_all(&ours.nodes[place].data).unwrap();
    std::fs::rename(ours.folder().join("kept"), &ours.nodes[place].data).unwrap();
    ours.nodes[place].start().unwrap();
    ours.wait_up(place).await;
    ours.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_node_with_a_message_and_loses_nothing() {
    let mut nodes = Nodes::configure(3, "[limits]\ndisk_free_bytes = 1048576\n").unwrap();
    let place = 2;
    let folder = nodes.nodes[place].data.clone();
    std::fs::create_dir_all(&folder).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200m", "tmpfs"])
        .arg(&folder)
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        return println!("skipped: mounting a small tmpfs needs root");
    }
    let _mounted = Mounted(folder.clone());
    for node in &mut nodes.nodes {
        node.start().unwrap();
    }
    nodes.init().await.unwrap();
    nodes
        .cluster()
        .unwrap()
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    send(&nodes.cluster().unwrap(), 1, 50).await.unwrap();
    // Somebody else fills the disk to the last byte.
    let filler = std::fs::File::create(folder.join("filler")).unwrap();
    let mut offset = 0;
    for block in [1 << 20, 4096, 1] {
        while filler.write_all_at(&vec![7; block], offset).is_ok() {
            offset += block as u64;
        }
    }
    let cluster = nodes.cluster().unwrap();
    let producer = cluster.producer().start().unwrap();
    let mut n = 50;
    let ended = eventually("the full node to stop", async || {
        for _ in 0..50 {
            n += 1;
            let big = message("lab", n);
            let big = ordo_client::Message {
                payload: vec![b'x'; 100_000].into(),
                ..big
            };
            assert_eq!(producer.send("lab", big).await.unwrap().sequence, n);
        }
        (!nodes.nodes[place].runs()).then_some(())
    });
    ended.await;
    let output = nodes.nodes[place].output();
    assert!(
        output.contains("No space left") || output.contains("no space left"),
        "{output}"
    );
    drop(filler);
    std::fs::remove_file(folder.join("filler")).unwrap();
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the node on it is killed a moment later when the test fails before that.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
