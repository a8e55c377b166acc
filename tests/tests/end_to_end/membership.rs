//! Nodes that come late, come new, come back empty, and go.

use ordo_client::proto::NodeRole;
use ordo_tests::carry::{Burden, carry};
use ordo_tests::load::{message, staged};
use ordo_tests::{Nodes, eventually};
use std::time::Duration;

const SMALL_SNAPSHOTS: &str = "[raft]\nsnapshot_entries = 100\nkeep_entries = 0\n";

/// One entry of the log a message.
async fn send(nodes: &Nodes, from: u64, through: u64) {
    let producer = nodes.cluster().unwrap().producer().start().unwrap();
    for n in from..=through {
        assert_eq!(
            producer
                .send("lab", message("lab", n))
                .await
                .unwrap()
                .sequence,
            n
        );
    }
}

async fn command(nodes: &Nodes, args: &[&str]) -> (i32, String) {
    let output = nodes.ordo(args).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}

async fn succeeds(nodes: &Nodes, args: &[&str]) -> String {
    let (status, said) = command(nodes, args).await;
    assert_eq!(status, 0, "ordo {args:?}: {said}");
    said
}

/// Gives a learner a vote, once it has caught up. A try before may have done it and not been heard.
async fn promoted(nodes: &Nodes, id: &str) {
    eventually("a learner to be promoted", async || {
        let (status, said) = command(nodes, &["cluster", "promote", id]).await;
        (status == 0 || said.contains("votes already")).then_some(())
    })
    .await;
    let (status, said) = command(nodes, &["cluster", "promote", id]).await;
    assert!(status != 0 && said.contains("votes already"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_too_long_catches_up_by_a_snapshot() {
    let mut nodes = Nodes::running(3, SMALL_SNAPSHOTS).await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    send(&nodes, 1, 20).await;
    let leader = nodes.leader().await;
    let place = (0..3).find(|place| *place != leader).unwrap();
    nodes.nodes[place].kill().unwrap();
    send(&nodes, 21, 400).await;
    eventually("a snapshot", async || {
        (nodes.status(leader).await?.snapshot_index > 200).then_some(())
    })
    .await;
    nodes.nodes[place].start().unwrap();
    nodes.wait_up(place).await;
    eventually("the snapshot to be installed", async || {
        (nodes.status(place).await?.snapshot_index > 200).then_some(())
    })
    .await;
    nodes.agree().await;
    // And it goes on from there.
    send(&nodes, 401, 450).await;
    nodes.nodes[place].stop().await.unwrap();
    nodes.nodes[place].start().unwrap();
    nodes.agree().await;
}

/// The long run is `torture snapshot`.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_gets_through_a_narrow_link_that_breaks_and_onto_a_slow_disk() {
    let burden = Burden {
        bytes: 24 << 20,
        bytes_a_second: 4 << 20,
        sync: Duration::from_millis(50),
        break_every: Duration::from_secs(2),
    };
    let arrived = carry(burden, |_| ()).await.unwrap();
    assert!(arrived.breaks > 0, "{arrived:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_is_added_promoted_and_one_is_removed() {
    let mut nodes = Nodes::configure_some(4, 3, SMALL_SNAPSHOTS).unwrap();
    for node in nodes.nodes.iter_mut().take(3) {
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
    send(&nodes, 1, 150).await;

    nodes.nodes[3].start().unwrap();
    nodes.wait_up(3).await;
    let (peer, public) = (
        nodes.nodes[3].peer.to_string(),
        nodes.nodes[3].public.to_string(),
    );
    let (status, said) = command(&nodes, &["cluster", "promote", "4"]).await;
    assert!(status != 0 && said.contains("node 4"), "{said}");
    succeeds(
        &nodes,
        &["cluster", "add", "4", "--peer", &peer, "--public", &public],
    )
    .await;
    promoted(&nodes, "4").await;
    send(&nodes, 151, 170).await;
    nodes.agree().await;

    let said = succeeds(&nodes, &["cluster", "transfer", "--to", "4"]).await;
    assert!(said.contains("node 4 leads"), "{said}");
    assert_eq!(nodes.leader().await, 3);
    succeeds(&nodes, &["cluster", "remove", "1"]).await;
    nodes.nodes[0].kill().unwrap();
    let status = nodes.status(3).await.unwrap();
    let voters: Vec<u64> = status.nodes.iter().map(|node| node.node_id).collect();
    assert_eq!(voters, [2, 3, 4]);
    assert!(
        status
            .nodes
            .iter()
            .all(|node| node.role() != NodeRole::Learner)
    );
    send(&nodes, 171, 190).await;
    nodes.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_data_stays_out_until_an_operator_takes_it_in_again() {
    let mut nodes = Nodes::three().await.unwrap();
    nodes
        .cluster()
        .unwrap()
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    send(&nodes, 1, 50).await;
    let leader = nodes.leader().await;
    let place = (0..3).find(|place| *place != leader).unwrap();
    nodes.nodes[place].kill().unwrap();
    std::fs::remove_dir_all(&nodes.nodes[place].data).unwrap();
    nodes.nodes[place].start().unwrap();
    nodes.wait_up(place).await;
    send(&nodes, 51, 80).await;
    let status = nodes.status(place).await.unwrap();
    assert_eq!(
        (status.cluster_id.len(), status.applied_index),
        (0, 0),
        "it took no part by itself"
    );
    a_wiped_node_is_shown_as_replaced(&nodes, place).await;

    let node = &nodes.nodes[place];
    let (id, peer, public) = (
        node.id.to_string(),
        node.peer.to_string(),
        node.public.to_string(),
    );
    let add = ["cluster", "add", &id, "--peer", &peer, "--public", &public];
    let (status, said) = command(&nodes, &add).await;
    assert!(
        status != 0 && said.contains("remove"),
        "says what to do: {said}"
    );
    succeeds(&nodes, &["cluster", "remove", &id]).await;
    succeeds(&nodes, &add).await;
    promoted(&nodes, &id).await;
    send(&nodes, 81, 100).await;
    nodes.agree().await;
}

/// Whoever is asked first, and even where nobody but the empty node is named.
async fn a_wiped_node_is_shown_as_replaced(nodes: &Nodes, place: usize) {
    let wiped = &nodes.nodes[place];
    let id = wiped.id.to_string();
    let alone = wiped.public.to_string();
    let heals = format!(
        "cluster add {id} --peer {} --public {alone} --replace",
        wiped.peer
    );
    for args in [
        vec!["cluster", "status"],
        vec!["cluster", "status"],
        vec!["cluster", "status", "--cluster", &alone],
    ] {
        let said = succeeds(nodes, &args).await;
        assert!(
            said.contains("replaced, not taking part")
                && said.contains(&heals)
                && said.contains(&format!("cluster promote {id}"))
                && !said.contains("not initialized"),
            "{args:?}: {said}"
        );
    }
    let (status, said) = command(nodes, &["cluster", "promote", &id]).await;
    assert!(status != 0 && said.contains(&heals), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_no_leader_is_named() {
    let mut nodes = Nodes::three().await.unwrap();
    let leader = nodes.leader().await;
    let left = (leader + 1) % 3;
    for place in 0..3 {
        let leaves = place != left;
        if leaves {
            nodes.nodes[place].kill().unwrap();
        }
    }
    let said = succeeds(&nodes, &["cluster", "status"]).await;
    assert!(said.contains("none that a quorum knows"), "{said}");
    let json = succeeds(&nodes, &["cluster", "status", "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["leader_id"], 0, "{json}");
    assert!(!json["nodes"].to_string().contains("\"leader\""), "{json}");
    // Nor is it a leader that lost its followers.
    nodes.nodes[leader].start().unwrap();
    let leader = nodes.leader().await;
    for place in 0..3 {
        if place != leader && nodes.nodes[place].runs() {
            nodes.nodes[place].kill().unwrap();
        }
    }
    let said = succeeds(&nodes, &["cluster", "status"]).await;
    assert!(said.contains("none that a quorum knows"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_started_at_another_address_says_so_and_is_moved() {
    let mut nodes = Nodes::three().await.unwrap();
    let admin = nodes.cluster().unwrap().admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    send(&nodes, 1, 20).await;
    let place = nodes.follower().await;
    nodes.nodes[place].stop().await.unwrap();
    let node = &mut nodes.nodes[place];
    let before = (node.peer.to_string(), node.public.to_string());
    let addresses = ordo_tests::free_addresses(2);
    (node.peer, node.public) = (addresses[0], addresses[1]);
    let (peer, public) = (node.peer.to_string(), node.public.to_string());
    let config = std::fs::read_to_string(&node.config).unwrap();
    let config = config.replace(&before.0, &peer).replace(&before.1, &public);
    std::fs::write(&node.config, config).unwrap();
    node.start().unwrap();
    let id = node.id.to_string();
    let http = node.http;
    nodes.wait_up(place).await;
    let says = format!("cluster move {id}");
    eventually(
        "the node to say that it is not where it should be",
        async || {
            let page = ordo_tests::get(http, "/readyz").await.ok()?;
            (page.contains("503") && page.contains(&says)).then_some(())
        },
    )
    .await;
    assert!(nodes.nodes[place].said().contains(&says));

    let (args, moved) = (
        ["cluster", "add", &id, "--peer", &peer, "--public", &public],
        ["cluster", "move", &id, "--peer", &peer, "--public", &public],
    );
    let (status, said) = command(&nodes, &args).await;
    assert!(status != 0 && said.contains(&moved.join(" ")), "{said}");
    succeeds(&nodes, &moved).await;
    succeeds(&nodes, &moved).await;
    eventually("the node to be ready", async || {
        let page = ordo_tests::get(http, "/readyz").await.ok()?;
        page.contains("200 OK").then_some(())
    })
    .await;
    send(&nodes, 21, 40).await;
    nodes.agree().await;
    let said = succeeds(&nodes, &["cluster", "transfer", "--to", &id]).await;
    assert!(said.contains(&format!("node {id} leads")), "{said}");
    send(&nodes, 41, 50).await;
    nodes.agree().await;

    // What is there is another node, or another folder.
    let other = (place + 1) % 3;
    let (status, said) = command(
        &nodes,
        &[
            "cluster",
            "move",
            &nodes.nodes[other].id.to_string(),
            "--peer",
            &peer,
            "--public",
            &public,
        ],
    )
    .await;
    assert!(
        status != 0 && said.contains(&format!("says that it is node {id}")),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_hands_over_first() {
    let mut nodes = Nodes::three().await.unwrap();
    nodes
        .cluster()
        .unwrap()
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    send(&nodes, 1, 10).await;
    let leader = nodes.leader().await;
    let before = nodes.status(leader).await.unwrap().term;
    assert!(
        nodes.nodes[leader].stop().await.unwrap().success(),
        "{}",
        nodes.nodes[leader].output()
    );
    let next = nodes.leader().await;
    let status = nodes.status(next).await.unwrap();
    assert_ne!(next, leader);
    // By a transfer, not by a time-out: one election.
    assert_eq!(status.term, before + 1);
    send(&nodes, 11, 20).await;
}
