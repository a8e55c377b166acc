//! Disks that fail: a sync that reports an error, and a disk without room.

use ordo_tests::load::{message, send, staged};
use ordo_tests::shim::{compile, preload};
use ordo_tests::{Nodes, eventually};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// Three nodes, all of which fail their syncs while a file of theirs is there.
async fn that_can_fail() -> Nodes {
    let mut nodes = Nodes::configure(3, "").unwrap();
    let library = compile(nodes.folder()).unwrap();
    for place in 0..3 {
        let trigger = trigger(&nodes, place);
        nodes.nodes[place].environment = preload(&library, "ORDO_SHIM_FAIL", &trigger);
        nodes.nodes[place].start().unwrap();
    }
    nodes.init().await.unwrap();
    let admin = nodes.cluster().unwrap().admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    nodes
}

fn trigger(nodes: &Nodes, place: usize) -> PathBuf {
    nodes.folder().join(format!("fail{place}"))
}

/// The node at `place` ended by itself, said why, and synced no file again whose sync had failed.
async fn ended_without_another_try(nodes: &mut Nodes, place: usize) {
    let status = nodes.nodes[place].ended().await;
    let said = nodes.nodes[place].said();
    assert_eq!(
        status.code(),
        Some(10),
        "the status of storage that failed: {said}"
    );
    assert!(
        said.contains("Input/output error") && said.contains("sync"),
        "{said}"
    );
    let calls = trigger(nodes, place).with_extension("calls");
    let mut tries: BTreeMap<String, u32> = BTreeMap::new();
    for path in fs::read_to_string(calls).unwrap().lines() {
        *tries.entry(path.to_owned()).or_default() += 1;
    }
    assert!(!tries.is_empty());
    assert!(
        tries.values().all(|tries| *tries == 1),
        "tried again: {tries:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_sync_fails_ends_and_comes_back() {
    let mut nodes = that_can_fail().await;
    let cluster = nodes.cluster().unwrap();
    send(&cluster, 1, 50).await.unwrap();
    let place = nodes.follower().await;
    fs::write(trigger(&nodes, place), "").unwrap();
    send(&cluster, 51, 100).await.unwrap();
    ended_without_another_try(&mut nodes, place).await;
    send(&cluster, 101, 150).await.unwrap();
    fs::remove_file(trigger(&nodes, place)).unwrap();
    nodes.nodes[place].start().unwrap();
    nodes.wait_up(place).await;
    nodes.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_sync_fails_ends_and_nothing_acknowledged_is_lost() {
    let mut nodes = that_can_fail().await;
    let cluster = nodes.cluster().unwrap();
    let producer = cluster.producer().start().unwrap();
    let place = nodes.leader().await;
    let mut receipts = Vec::new();
    for n in 1..=600u64 {
        receipts.push((n, producer.enqueue("lab", message("lab", n)).await.unwrap()));
        if n == 300 {
            fs::write(trigger(&nodes, place), "").unwrap();
        }
    }
    for (n, receipt) in receipts {
        assert_eq!(receipt.await.unwrap().sequence, n);
    }
    ended_without_another_try(&mut nodes, place).await;
    fs::remove_file(trigger(&nodes, place)).unwrap();
    nodes.nodes[place].start().unwrap();
    nodes.wait_up(place).await;
    // A known message gets its first answer.
    send(&cluster, 1, 600).await.unwrap();
    nodes.agree().await;
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
    // With room again it comes back, with what it had.
    assert_eq!(nodes.nodes[place].ended().await.code(), Some(10));
    nodes.nodes[place].start().unwrap();
    nodes.wait_up(place).await;
    nodes.agree().await;
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the node on it is killed a moment later when the test fails before that.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
