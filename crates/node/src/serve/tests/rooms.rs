//! What nodes do about a full disk, their own or another's.

use super::{Cluster, eventually, get};
use crate::serve::Measure;
use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const GIB: u64 = 1 << 30;

/// Three nodes of one cluster, and the free bytes of each one's disk.
async fn three() -> (Cluster, BTreeMap<u64, Arc<AtomicU64>>) {
    let disks: BTreeMap<u64, _> = (1..=3)
        .map(|n| (n, Arc::new(AtomicU64::new(GIB))))
        .collect();
    let measure = |node_id: u64| {
        let disk = Arc::clone(&disks[&node_id]);
        let measure: Measure = Arc::new(move || (Some(1), Some(disk.load(Ordering::Relaxed))));
        Some(measure)
    };
    let cluster = Cluster::start_measured(3, 50_000, measure).await;
    cluster.nodes[&1].context().cluster.init().await.unwrap();
    (cluster, disks)
}

fn refusal(cluster: &Cluster, node_id: u64) -> Option<String> {
    cluster.nodes[&node_id].context().rooms.refusal()
}

/// Who leads for those that run, as far as they agree.
fn leads(cluster: &Cluster) -> Option<u64> {
    let metrics = cluster
        .nodes
        .values()
        .map(|node| node.context().raft.metrics());
    let leaders: Vec<_> = metrics
        .map(|metrics| metrics.borrow_watched().current_leader)
        .collect();
    leaders[0].filter(|_| leaders.iter().all(|leader| *leader == leaders[0]))
}

#[tokio::test]
async fn a_followers_full_disk_is_borne_until_it_is_the_quorums() {
    let (mut cluster, disks) = three().await;
    let leader = cluster.leader().await;
    let (full, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    disks[&full].store(5, Ordering::Relaxed);
    let says = |cluster: &Cluster, at: u64, what: &str| {
        let problems = cluster.nodes[&at].context().rooms.problems();
        problems.iter().any(|problem| problem.contains(what))
    };
    let lacks = format!("node {full} lacks room: its disk has 5 bytes left");
    eventually("every node knows who lacks room", || {
        (1..=3).all(|node_id| says(&cluster, node_id, &lacks))
    })
    .await;
    assert_eq!(refusal(&cluster, leader), None);
    assert_eq!(cluster.leader().await, leader);
    let page = get(cluster.nodes[&other].http, "/readyz").await;
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains(&lacks),
        "{page}"
    );
    let refused = cluster.nodes[&leader]
        .context()
        .cluster
        .transfer(Some(full))
        .await;
    assert!(refused.unwrap_err().text.contains("lacks room"));

    // With the other follower away, or full as well, there is no quorum that has room.
    cluster.stop(other).await;
    eventually("ingest is refused", || refusal(&cluster, leader).is_some()).await;
    let why = refusal(&cluster, leader).unwrap();
    assert!(
        why.contains(&lacks) && why.contains(&format!("node {other} does not answer")),
        "{why}"
    );
    cluster.start_node(other, super::Seams::default()).await;
    eventually("ingest goes on", || refusal(&cluster, leader).is_none()).await;
    disks[&full].store(GIB, Ordering::Relaxed);
    eventually("nobody lacks room", || {
        (1..=3).all(|node_id| !says(&cluster, node_id, "lacks room"))
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_leader_without_room_hands_over_and_does_not_lead_again_before_it_has_some() {
    let (cluster, disks) = three().await;
    let first = cluster.leader().await;
    disks[&first].store(5, Ordering::Relaxed);
    eventually("another node leads", || {
        leads(&cluster).is_some_and(|leader| leader != first)
    })
    .await;
    let second = cluster.leader().await;
    eventually("ingest goes on", || refusal(&cluster, second).is_none()).await;
    let third = 6 - first - second;
    disks[&second].store(5, Ordering::Relaxed);
    eventually("the third node leads", || leads(&cluster) == Some(third)).await;
    eventually("ingest is refused: two of three lack room", || {
        refusal(&cluster, third).is_some()
    })
    .await;
    let why = refusal(&cluster, third).unwrap();
    for node_id in [first, second] {
        assert!(why.contains(&format!("node {node_id} lacks room")), "{why}");
    }
    // Where nobody has room, nobody hands over.
    disks[&third].store(5, Ordering::Relaxed);
    eventually("all of them lack room", || {
        refusal(&cluster, third).is_some_and(|why| why.contains(&format!("node {third} lacks")))
    })
    .await;
    assert_eq!(leads(&cluster), Some(third));
    // A few bytes more than the limit are no room to lead with.
    let limit = cluster.nodes[&first]
        .context()
        .config
        .limits
        .disk_free_bytes;
    disks[&first].store(limit + 1, Ordering::Relaxed);
    disks[&second].store(GIB, Ordering::Relaxed);
    eventually("the one with room leads", || {
        leads(&cluster) == Some(second)
    })
    .await;
    cluster.shutdown().await;
}
