//! Links that are cut, swallow what is sent, or do so in one direction only.

use ordo_tests::namespaces::Namespaces;
use ordo_tests::proxy::{End, Net, Way};
use ordo_tests::traffic::Traffic;
use ordo_tests::{Nodes, eventually};
use std::time::Duration;

const INTERFACES: [&str; 2] = ["lab/a", "lab/b"];

struct Broken {
    nodes: Nodes,
    net: Net,
    traffic: Traffic,
}

async fn with_traffic() -> Broken {
    let mut nodes = Nodes::configure(3, "").unwrap();
    let net = Net::between(&nodes).await.unwrap();
    for node in &mut nodes.nodes {
        node.start().unwrap();
    }
    nodes.init().await.unwrap();
    let cluster = net.cluster().unwrap();
    let traffic = Traffic::start(&cluster, &INTERFACES, Duration::from_millis(2))
        .await
        .unwrap();
    traffic.goes_on(50).await;
    Broken {
        nodes,
        net,
        traffic,
    }
}

impl Broken {
    /// The leader, and the two others.
    async fn leader(&mut self) -> (usize, [usize; 2]) {
        let leader = self.nodes.leader().await;
        (leader, [(leader + 1) % 3, (leader + 2) % 3])
    }

    async fn finish(mut self) {
        self.net.heal();
        self.traffic.fault("everything heals");
        self.traffic.goes_on(50).await;
        self.traffic.finish().await.unwrap();
        self.nodes.agree().await;
    }
}

/// Waits until one of `places` leads in a later term than `term`.
async fn another_leads(nodes: &Nodes, places: &[usize], term: u64) {
    eventually("another leader", async || {
        for place in places {
            let status = nodes.status(*place).await?;
            if status.leader_id == nodes.nodes[*place].id && status.term > term {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// The leader loses its peers and keeps its clients: it must not take anything from them that it can't keep, nor send
/// them anything once its lease has passed.
async fn a_leader_that_keeps_its_clients(to: Way, from: Way) {
    let mut broken = with_traffic().await;
    let (leader, others) = broken.leader().await;
    let term = broken.nodes.status(leader).await.unwrap().term;
    broken.traffic.fault(format!(
        "node {}: to its peers {to:?}, from them {from:?}",
        leader + 1
    ));
    broken.net.set_peers(leader, &others, to, from);
    another_leads(&broken.nodes, &others, term).await;
    broken.traffic.goes_on(100).await;
    broken.traffic.judge().unwrap();
    broken.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_its_peers_is_replaced_though_it_keeps_its_clients() {
    a_leader_that_keeps_its_clients(Way::Cut, Way::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_links_swallow_everything_is_replaced() {
    a_leader_that_keeps_its_clients(Way::Hole, Way::Hole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_not_heard_by_its_peers_is_replaced() {
    a_leader_that_keeps_its_clients(Way::Hole, Way::Open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_hear_its_peers_does_no_harm() {
    let mut broken = with_traffic().await;
    let (leader, others) = broken.leader().await;
    broken
        .traffic
        .fault(format!("node {} hears nothing from its peers", leader + 1));
    broken.net.set_peers(leader, &others, Way::Open, Way::Hole);
    // Its heartbeats are heard, so that nobody may stand for election; its connections, unanswered, end by HTTP/2's
    // keep-alive. Whether it is replaced before that or not, nothing may go wrong.
    tokio::time::sleep(Duration::from_secs(8)).await;
    broken.traffic.judge().unwrap();
    broken.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_comes_and_goes_does_no_harm() {
    let mut broken = with_traffic().await;
    let (leader, others) = broken.leader().await;
    for round in 0..10 {
        let way = match round % 4 {
            0 => Way::Cut,
            1 => Way::Hole,
            2 => Way::Slow(Duration::from_millis(30)),
            _ => Way::Open,
        };
        broken.traffic.fault(format!("round {round}: {way:?}"));
        broken.net.set_peers(leader, &others[..1], way, way);
        broken.net.set(End::Clients, End::Node(others[0]), way);
        broken.traffic.goes_on(20).await;
    }
    broken.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_half_open_hold_up_nobody_for_good() {
    let mut broken = with_traffic().await;
    let (leader, _) = broken.leader().await;
    for (there, back) in [
        (Way::Hole, Way::Open),
        (Way::Open, Way::Hole),
        (Way::Hole, Way::Hole),
    ] {
        broken
            .traffic
            .fault(format!("clients to the leader {there:?}, back {back:?}"));
        broken.net.set(End::Clients, End::Node(leader), there);
        broken.net.set(End::Node(leader), End::Clients, back);
        tokio::time::sleep(Duration::from_secs(3)).await;
        broken.net.heal();
        broken.traffic.goes_on(50).await;
        broken.traffic.judge().unwrap();
    }
    broken.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_network_interface_goes_down_is_replaced() {
    let mut nodes = Nodes::configure(3, "").unwrap();
    let namespaces = match Namespaces::around(&mut nodes) {
        Ok(namespaces) => namespaces,
        Err(error) => return println!("skipped: network namespaces need root and ip: {error:#}"),
    };
    for node in &mut nodes.nodes {
        node.start().unwrap();
    }
    nodes.init().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let traffic = Traffic::start(&cluster, &INTERFACES, Duration::from_millis(2))
        .await
        .unwrap();
    traffic.goes_on(50).await;
    for _ in 0..2 {
        let leader = nodes.leader().await;
        let term = nodes.status(leader).await.unwrap().term;
        traffic.fault(format!("the link of node {} goes down", leader + 1));
        namespaces.set(leader, false).unwrap();
        another_leads(&nodes, &[(leader + 1) % 3, (leader + 2) % 3], term).await;
        traffic.goes_on(50).await;
        traffic.fault("and up again");
        namespaces.set(leader, true).unwrap();
        traffic.goes_on(50).await;
        traffic.judge().unwrap();
    }
    traffic.finish().await.unwrap();
    nodes.agree().await;
    // The processes before the namespaces they are in.
    drop(nodes);
    drop(namespaces);
}
