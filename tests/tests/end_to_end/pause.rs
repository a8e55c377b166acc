//! Processes that stand still for longer than a lease and an election, and then go on as if nothing had been.

use ordo_tests::traffic::Traffic;
use ordo_tests::{Nodes, eventually};
use std::time::Duration;

const INTERFACES: [&str; 3] = ["lab/a", "lab/b", "lab/c"];

async fn with_traffic() -> (Nodes, Traffic) {
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let traffic = Traffic::start(&cluster, &INTERFACES, Duration::from_millis(2))
        .await
        .unwrap();
    traffic.goes_on(100).await;
    (nodes, traffic)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_is_believed_by_nobody() {
    let (mut nodes, traffic) = with_traffic().await;
    for _ in 0..2 {
        let stale = nodes.leader().await;
        let term = nodes.status(stale).await.unwrap().term;
        traffic.fault(format!("node {} stands still", nodes.nodes[stale].id));
        nodes.nodes[stale].signal("STOP").unwrap();
        let place = eventually("another leader", async || {
            for place in (0..3).filter(|place| *place != stale) {
                let status = nodes.status(place).await?;
                if status.leader_id == nodes.nodes[place].id && status.term > term {
                    return Some(place);
                }
            }
            None
        })
        .await;
        traffic.goes_on(200).await;
        traffic.fault(format!("node {} goes on", nodes.nodes[stale].id));
        nodes.nodes[stale].signal("CONT").unwrap();
        eventually("the stale leader to follow", async || {
            let leader = nodes.status(stale).await?.leader_id;
            (leader != 0 && leader != nodes.nodes[stale].id).then_some(())
        })
        .await;
        assert!(nodes.nodes[place].runs() && nodes.nodes[stale].runs());
        traffic.goes_on(200).await;
        traffic.judge().unwrap();
    }
    assert!(traffic.finish().await.unwrap() >= 500);
    nodes.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stood_still_catches_up_and_disturbs_nobody() {
    let (mut nodes, traffic) = with_traffic().await;
    let leader = nodes.leader().await;
    let place = nodes.follower().await;
    let term = nodes.status(leader).await.unwrap().term;
    let applied = nodes.status(place).await.unwrap().applied_index;
    nodes.nodes[place].signal("STOP").unwrap();
    traffic.goes_on(300).await;
    // Longer than any lease and election, by the leader's own steps: it applied hundreds of entries meanwhile.
    eventually("the leader to be far ahead", async || {
        (nodes.status(leader).await?.applied_index > applied + 200).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    nodes.nodes[place].signal("CONT").unwrap();
    traffic.goes_on(200).await;
    let now = nodes.status(leader).await.unwrap();
    assert_eq!(
        (now.term, now.leader_id),
        (term, nodes.nodes[leader].id),
        "Pre-Vote keeps the leader in office"
    );
    traffic.finish().await.unwrap();
    nodes.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_that_stood_still_loses_nothing() {
    let (mut nodes, traffic) = with_traffic().await;
    for node in &nodes.nodes {
        node.signal("STOP").unwrap();
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    for node in &nodes.nodes {
        node.signal("CONT").unwrap();
    }
    traffic.goes_on(200).await;
    traffic.finish().await.unwrap();
    nodes.agree().await;
}
