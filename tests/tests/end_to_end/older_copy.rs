//! A node that comes back with less than it acknowledged takes no part, until an operator takes it in anew.

use ordo_tests::harm::copy_folder;
use ordo_tests::load::{send, staged};
use ordo_tests::{Nodes, eventually};
use std::fs;

/// How often a folder is copied until its node goes on leading.
const TRIES: u32 = 10;

/// Three nodes with some messages, and a place whose folder was copied a while ago.
async fn with_copy(of_leader: bool) -> (Nodes, usize) {
    let mut nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let admin = cluster.admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    send(&cluster, 1, 50).await.unwrap();
    nodes.agree().await;
    let place = match of_leader {
        true => nodes.leader().await,
        false => nodes.follower().await,
    };
    nodes.nodes[place].kill().unwrap();
    copy_folder(&nodes.nodes[place].data, &nodes.folder().join("copy")).unwrap();
    nodes.nodes[place].start().unwrap();
    nodes.wait_up(place).await;
    nodes.agree().await;
    (nodes, place)
}

fn put_back(nodes: &Nodes, place: usize) {
    fs::remove_dir_all(&nodes.nodes[place].data).unwrap();
    fs::rename(nodes.folder().join("copy"), &nodes.nodes[place].data).unwrap();
}

/// It ends, says why, and the one command it names takes it in again.
async fn stays_out_until_taken_in(nodes: &mut Nodes, place: usize, sent: u64) {
    nodes.nodes[place].start().unwrap();
    let status = nodes.nodes[place].ended().await;
    let said = nodes.nodes[place].said();
    assert_eq!(status.code(), Some(10), "{said}");
    let folder = nodes.nodes[place].data.display().to_string();
    assert!(
        said.contains(&folder) && said.contains("older copy") && said.contains("--replace"),
        "{said}"
    );
    let cluster = nodes.cluster().unwrap();
    send(&cluster, sent + 1, sent + 10).await.unwrap();

    fs::remove_dir_all(&nodes.nodes[place].data).unwrap();
    nodes.nodes[place].start().unwrap();
    nodes.wait_up(place).await;
    let node = &nodes.nodes[place];
    let (id, peer, public) = (
        node.id.to_string(),
        node.peer.to_string(),
        node.public.to_string(),
    );
    let add = ["cluster", "add", &id, "--peer", &peer, "--public", &public];
    let refused = nodes.ordo(&add).await.unwrap();
    assert!(!refused.status.success(), "only when it is asked to");
    let taken = nodes
        .ordo(&[&add[..], &["--replace"]].concat())
        .await
        .unwrap();
    assert!(
        taken.status.success(),
        "{}",
        String::from_utf8_lossy(&taken.stderr)
    );
    eventually("the node to be promoted", async || {
        let promoted = nodes.ordo(&["cluster", "promote", &id]).await.unwrap();
        promoted.status.success().then_some(())
    })
    .await;
    send(&cluster, sent + 11, sent + 20).await.unwrap();
    nodes.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_followers_folder_is_refused_while_its_leader_leads() {
    let (mut nodes, place) = with_copy(false).await;
    send(&nodes.cluster().unwrap(), 51, 80).await.unwrap();
    nodes.agree().await;
    nodes.nodes[place].kill().unwrap();
    put_back(&nodes, place);
    stays_out_until_taken_in(&mut nodes, place, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_does_not_elect_a_node_that_lacks_what_was_acknowledged() {
    let (mut nodes, place) = with_copy(false).await;
    let leader = nodes.leader().await;
    let lagging = 3 - leader - place;
    // The leader and the node whose copy was made are the quorum of what comes now.
    nodes.nodes[lagging].signal("STOP").unwrap();
    send(&nodes.cluster().unwrap(), 51, 80).await.unwrap();
    nodes.nodes[place].kill().unwrap();
    put_back(&nodes, place);
    // Nobody leads now: with the copy's vote the lagging node could, and would have lost thirty messages.
    nodes.nodes[place].start().unwrap();
    nodes.nodes[lagging].signal("CONT").unwrap();
    let status = nodes.nodes[place].ended().await;
    let said = nodes.nodes[place].said();
    assert_eq!(status.code(), Some(10), "{said}");
    stays_out_until_taken_in(&mut nodes, place, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_leaders_folder_is_refused() {
    let (mut nodes, place) = with_copy(true).await;
    // It leads again, so that what comes now counts on its own disk.
    let id = nodes.nodes[place].id.to_string();
    let moved = nodes
        .ordo(&["cluster", "transfer", "--to", &id])
        .await
        .unwrap();
    assert!(
        moved.status.success(),
        "{}",
        String::from_utf8_lossy(&moved.stderr)
    );
    send(&nodes.cluster().unwrap(), 51, 80).await.unwrap();
    nodes.nodes[place].kill().unwrap();
    put_back(&nodes, place);
    stays_out_until_taken_in(&mut nodes, place, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaders_folder_set_back_within_its_own_term_is_refused() {
    let mut nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let admin = cluster.admin();
    admin.create_interface("lab", staged(&[])).await.unwrap();
    send(&cluster, 1, 50).await.unwrap();
    let mut sent = 50;
    for _ in 0..TRIES {
        let place = nodes.leader().await;
        // A copy of a running node, as a snapshot of its volume would be: the process stands still meanwhile.
        let copy = nodes.folder().join("copy");
        let _ = std::fs::remove_dir_all(&copy);
        nodes.nodes[place].signal("STOP").unwrap();
        copy_folder(&nodes.nodes[place].data, &copy).unwrap();
        nodes.nodes[place].signal("CONT").unwrap();
        let term = nodes.status(place).await.unwrap().term;
        send(&cluster, sent + 1, sent + 30).await.unwrap();
        sent += 30;
        let status = nodes.status(place).await.unwrap();
        if status.term == term && status.leader_id == nodes.nodes[place].id {
            nodes.nodes[place].kill().unwrap();
            put_back(&nodes, place);
            return stays_out_until_taken_in(&mut nodes, place, sent).await;
        }
    }
    panic!("the leader changed at every one of {TRIES} copies");
}
