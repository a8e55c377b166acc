//! What a node refuses to start on, and what it says.

use ordo_tests::load::{send, staged};
use ordo_tests::{Nodes, eventually};

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
