//! Real orders over MLLP, in and out.

use bytes::Bytes;
use ordo_client::Outcome;
use ordo_gateway::config::{GatewayConfig, ListenConfig, OutboundConfig, SendConfig};
use ordo_gateway::gateway::Gateway;
use ordo_gateway::lab::{Lab, LabConfig};
use ordo_gateway::msh::Msh;
use ordo_gateway::stages::{StageResult, validate};
use ordo_tests::load::{consume, staged};
use ordo_tests::mllp::{Sender, sample_orders};
use ordo_tests::{Nodes, eventually};
use std::collections::BTreeMap;
use std::time::Duration;

const LANES: usize = 22;
const SKIPPED: &str = "skipped: the folder with the public sample orders is not there";

fn lane(n: usize) -> String {
    format!("HL7-{n:02}")
}

/// The orders spread so that no (MSH-3, MSH-4, MSH-10) comes twice on one interface.
fn spread(orders: &BTreeMap<String, Bytes>) -> Vec<Vec<(&String, &Bytes)>> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut lanes: Vec<Vec<_>> = vec![Vec::new(); LANES];
    for (name, order) in orders {
        let key = Msh::scan(order).ok().and_then(|msh| msh.message_id().ok());
        let place = key.map_or(0, |key| {
            let place = seen.entry(key.to_string()).or_default();
            *place += 1;
            *place - 1
        });
        lanes[place].push((name, order));
    }
    lanes
}

/// A gateway that listens for every lane and delivers each to the address that goes with it.
async fn gateway(nodes: &Nodes, lanes: &[(String, Option<String>)]) -> Gateway {
    let listen = |(interface, _): &(String, Option<String>)| {
        ListenConfig::new("127.0.0.1:0".parse().unwrap(), interface.clone())
    };
    let send = |(interface, address): &(String, Option<String>)| {
        address.clone().map(|address| SendConfig {
            interface: interface.clone(),
            address,
            ..SendConfig::default()
        })
    };
    let config = GatewayConfig {
        listen: lanes.iter().map(listen).collect(),
        send: lanes.iter().filter_map(send).collect(),
        outbound: OutboundConfig {
            pause_min: Duration::from_millis(50),
            ..OutboundConfig::default()
        },
        ..GatewayConfig::default()
    };
    Gateway::start(config, &nodes.cluster().unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_62_orders_on_22_interfaces_come_out_byte_for_byte_and_in_order() {
    let Some(orders) = sample_orders().unwrap() else {
        return println!("{SKIPPED}");
    };
    assert_eq!(orders.len(), 62);
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let mut labs = Vec::new();
    for n in 0..LANES {
        cluster
            .admin()
            .create_interface(&lane(n), staged(&[]))
            .await
            .unwrap();
        let config = LabConfig {
            interface: Some(lane(n)),
            keep_messages: true,
            ..LabConfig::default()
        };
        labs.push(Lab::start(config).await.unwrap());
    }
    let places: Vec<_> = labs
        .iter()
        .enumerate()
        .map(|(n, lab)| (lane(n), Some(lab.address().to_string())))
        .collect();
    let gateway = gateway(&nodes, &places).await;
    let mut refused = Vec::new();
    let mut sent = vec![Vec::new(); LANES];
    for (n, orders) in spread(&orders).into_iter().enumerate() {
        let mut sender = Sender::connect(gateway.listening()[n]).await.unwrap();
        for (name, order) in orders {
            let (code, text) = sender.send(order).await.unwrap();
            match code.as_str() {
                "AA" | "CA" => sent[n].push(order.clone()),
                _ => refused.push((name.clone(), text)),
            }
        }
    }
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        refused[0].0.contains("missing_msh-10") && refused[0].1.contains("MSH-10"),
        "{refused:?}"
    );
    for (n, lab) in labs.iter().enumerate() {
        let all = |there: usize| there == sent[n].len();
        eventually(&lane(n), async || {
            all(lab.messages(&lane(n)).len()).then_some(())
        })
        .await;
        assert_eq!(lab.messages(&lane(n)), sent[n], "{}", lane(n));
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_62_orders_on_one_interface_are_21_accepted_40_conflicts_and_1_without_msh_10() {
    let Some(orders) = sample_orders().unwrap() else {
        return println!("{SKIPPED}");
    };
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("ALL", staged(&["validate"]))
        .await
        .unwrap();
    let _worker = cluster
        .worker()
        .stage_sync("validate", |work| match validate(work.payload()) {
            StageResult::Complete { .. } => Outcome::complete(),
            StageResult::Reject { reason } => Outcome::reject(reason),
            StageResult::Filter { reason } => Outcome::filter(reason),
        })
        .start()
        .unwrap();
    let gateway = gateway(&nodes, &[("ALL".to_owned(), None)]).await;
    let mut sender = Sender::connect(gateway.listening()[0]).await.unwrap();
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut accepted = Vec::new();
    for (name, order) in &orders {
        let (code, text) = sender.send(order).await.unwrap();
        let kind = match code.as_str() {
            "AA" | "CA" => "accepted",
            _ if text.starts_with("MSH-10") => "without MSH-10",
            _ => {
                assert!(text.contains("another"), "{name}: {code} {text}");
                "conflict"
            }
        };
        if kind == "accepted" {
            accepted.push(order);
        }
        *counted.entry(kind).or_default() += 1;
    }
    assert_eq!(
        counted,
        BTreeMap::from([("accepted", 21), ("conflict", 40), ("without MSH-10", 1)])
    );

    // A repeat gets the first reply again, and takes no sequence.
    let (code, _) = sender.send(accepted[0]).await.unwrap();
    assert!(code == "AA" || code == "CA", "{code}");
    let (_consumer, arrivals) = consume(&cluster, &["ALL"]).unwrap();
    eventually("21 sequences", async || {
        (arrivals.count("ALL") == 21).then_some(())
    })
    .await;
    let seen = arrivals.of("ALL").unwrap();
    for (arrival, order) in seen.iter().zip(&accepted) {
        let rejected = matches!(validate(order), StageResult::Reject { .. });
        assert_eq!(arrival.skipped, rejected, "sequence {}", arrival.sequence);
        assert!(arrival.skipped || arrival.payload == **order);
    }
    assert!(
        seen.iter().any(|arrival| arrival.skipped),
        "some of the accepted are broken"
    );

    let letters = cluster
        .admin()
        .list_dead_letters("ALL", 0, 0)
        .await
        .unwrap()
        .dead_letters;
    assert_eq!(
        letters.len(),
        seen.iter().filter(|arrival| arrival.skipped).count()
    );
    for letter in letters {
        let named = ["PID", "MSH-", "OBR", "ORC"]
            .iter()
            .any(|field| letter.reason.contains(field));
        assert!(named, "the reason names the field: {}", letter.reason);
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laboratory_that_is_down_costs_no_message_its_attempts() {
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("LAB", staged(&[]))
        .await
        .unwrap();
    let mut lab = Lab::start(LabConfig {
        interface: Some("LAB".to_owned()),
        ..LabConfig::default()
    })
    .await
    .unwrap();
    lab.down().await;
    let gateway = gateway(
        &nodes,
        &[("LAB".to_owned(), Some(lab.address().to_string()))],
    )
    .await;
    let mut sender = Sender::connect(gateway.listening()[0]).await.unwrap();
    for order in ordo_gateway::orders::OrderGenerator::new("LAB", 7).take(10) {
        assert_eq!(sender.send(&order.payload).await.unwrap().0, "AA");
    }
    eventually("the destination to be suspended", async || {
        let interface = cluster.admin().get_interface("LAB").await.ok()?;
        let destination = interface.destinations.first()?;
        (destination.suspended_ms > 0 && destination.attempts == 0).then_some(())
    })
    .await;
    lab.up().await.unwrap();
    eventually("all ten", async || {
        (lab.filed("LAB").len() == 10).then_some(())
    })
    .await;
    let interface = cluster.admin().get_interface("LAB").await.unwrap();
    assert_eq!(
        (interface.dead_letters, interface.destinations[0].attempts),
        (0, 0)
    );
    gateway.shutdown().await;
}

/// A client that no one here wrote: Python's `hl7`. It exits with 0 even on AE, so the replies are what counts.
#[tokio::test(flavor = "multi_thread")]
async fn pythons_hl7_sends_orders_and_reads_their_acknowledgements() {
    let Some(python) = std::env::var_os("ORDO_TEST_PYTHON") else {
        return println!(
            "skipped: ORDO_TEST_PYTHON names no Python that has the package hl7; tests/run sets it"
        );
    };
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("PY", staged(&[]))
        .await
        .unwrap();
    let gateway = gateway(&nodes, &[("PY".to_owned(), None)]).await;
    let file = nodes.folder().join("orders.hl7");
    let orders: Vec<_> = ordo_gateway::orders::OrderGenerator::new("PY", 7)
        .take(5)
        .collect();
    let mut text = Vec::new();
    for order in &orders {
        text.extend(
            order
                .payload
                .iter()
                .map(|byte| if *byte == b'\r' { b'\n' } else { *byte }),
        );
    }
    std::fs::write(&file, text).unwrap();
    let sender = std::path::Path::new(&python).with_file_name("mllp_send");
    let address = gateway.listening()[0];
    let output = tokio::process::Command::new(sender)
        .args(["--loose", "--port", &address.port().to_string(), "--file"])
        .arg(&file)
        .arg(address.ip().to_string())
        .output()
        .await
        .unwrap();
    let replies = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{replies}{errors}");
    for order in &orders {
        assert!(
            replies.contains(&format!("MSA|AA|{}", order.control_id)),
            "{}: {replies}{errors}",
            order.control_id
        );
    }
    let interface = cluster.admin().get_interface("PY").await.unwrap();
    assert_eq!(interface.last_sequence, 5);
    gateway.shutdown().await;
}
