//! The main job, over three processes: worked on in any order, delivered in order, whoever dies meanwhile.

use ordo_tests::load::{consume, id, message, staged, worker};
use ordo_tests::{Nodes, eventually};

const MESSAGES: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_once_and_in_order_though_the_leader_is_killed_in_the_middle() {
    let mut nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let interfaces = ["lab/a", "lab/b", "lab/c"];
    for name in interfaces {
        cluster
            .admin()
            .create_interface(name, staged(&["validate", "enrich"]))
            .await
            .unwrap();
    }
    let _workers = [
        worker(&cluster, &["validate"]).unwrap(),
        worker(&cluster, &["enrich", "validate"]).unwrap(),
        worker(&cluster, &["enrich"]).unwrap(),
    ];
    let (_consumer, arrivals) = consume(&cluster, &interfaces).unwrap();
    let producer = cluster.producer().start().unwrap();

    let mut receipts = Vec::new();
    for n in 1..=MESSAGES {
        for name in interfaces {
            receipts.push((
                name,
                n,
                producer.enqueue(name, message(name, n)).await.unwrap(),
            ));
        }
        if n == MESSAGES / 2 {
            eventually("the first deliveries", async || {
                (arrivals.count("lab/a") > 20).then_some(())
            })
            .await;
            let leader = nodes.leader().await;
            nodes.nodes[leader].kill().unwrap();
        }
    }
    for (name, n, receipt) in receipts {
        let accepted = receipt.await.unwrap();
        assert_eq!(
            accepted.sequence, n,
            "{name}: the producer's order is the interface's"
        );
    }
    for name in interfaces {
        eventually("every message to arrive", async || {
            (arrivals.count(name) as u64 == MESSAGES).then_some(())
        })
        .await;
        let seen = arrivals.of(name).unwrap();
        for (n, arrival) in (1..).zip(&seen) {
            assert_eq!(
                (arrival.sequence, arrival.message_id, arrival.skipped),
                (n, id(name, n), false),
                "{name}"
            );
        }
    }
    // The dead one comes back and agrees.
    for node in nodes.nodes.iter_mut() {
        if !node.runs() {
            node.start().unwrap();
        }
    }
    nodes.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_skipped_in_its_place_and_kept_as_a_dead_letter() {
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("lab", staged(&["validate"]))
        .await
        .unwrap();
    let _worker = worker(&cluster, &["validate"]).unwrap();
    let (_consumer, arrivals) = consume(&cluster, &["lab"]).unwrap();
    let producer = cluster.producer().start().unwrap();
    for n in 1..=20u64 {
        let mut message = message("lab", n);
        if n % 5 == 0 {
            message.payload = format!("bad {n}").into();
        }
        producer.send("lab", message).await.unwrap();
    }
    eventually("all twenty", async || {
        (arrivals.count("lab") == 20).then_some(())
    })
    .await;
    for arrival in arrivals.of("lab").unwrap() {
        assert_eq!(
            arrival.skipped,
            arrival.sequence % 5 == 0,
            "sequence {}",
            arrival.sequence
        );
    }
    let letters = nodes
        .ordo(&["dlq", "list", "lab", "--output", "json"])
        .await
        .unwrap();
    assert!(
        letters.status.success(),
        "{}",
        String::from_utf8_lossy(&letters.stderr)
    );
    let letters: serde_json::Value = serde_json::from_slice(&letters.stdout).unwrap();
    let text = letters.to_string();
    assert!(
        text.contains("it is bad") && !text.contains("bad 5"),
        "the reason, never the payload: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_given_the_leaders_address_only_survives_that_leader() {
    let mut nodes = Nodes::three().await.unwrap();
    let leader = nodes.leader().await;
    let address = nodes.nodes[leader].public.to_string();
    let cluster = ordo_client::Cluster::connect([address]).unwrap();
    let config = staged(&[]);
    cluster
        .admin()
        .create_interface("lab", config)
        .await
        .unwrap();
    let producer = cluster.producer().start().unwrap();
    let sent = producer.send("lab", message("lab", 1)).await.unwrap();
    assert_eq!(sent.sequence, 1);
    // What it learned stands in its Debug.
    let others: Vec<_> = nodes
        .nodes
        .iter()
        .map(|node| node.public.to_string())
        .collect();
    eventually("the members to be known", async || {
        let known = format!("{cluster:?}");
        others
            .iter()
            .all(|other| known.contains(other))
            .then_some(())
    })
    .await;
    nodes.nodes[leader].kill().unwrap();
    let sent = producer.send("lab", message("lab", 2)).await.unwrap();
    assert_eq!(sent.sequence, 2);
}
