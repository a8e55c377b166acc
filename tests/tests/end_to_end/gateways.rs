//! Gateways as a service: two for the same interfaces, one address for many, and what they say of themselves.

use bytes::Bytes;
use ordo_gateway::config::{
    Connections, GatewayConfig, InboundConfig, ListenConfig, OutboundConfig, SendConfig, Unknown,
};
use ordo_gateway::gateway::Gateway;
use ordo_gateway::lab::{Lab, LabConfig};
use ordo_tests::load::staged;
use ordo_tests::mllp::Sender;
use ordo_tests::{Nodes, PATIENCE, eventually, free_addresses, get, ordo};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// An order of a sender; its content is its own.
fn order(site: &str, n: usize) -> Bytes {
    let id = format!("{site}-{n:06}");
    format!("MSH|^~\\&|HIS|{site}|LIS|LAB|20240101||ORM^O01|{id}|P|2.5\rPID|1||{id}\r").into()
}

/// The numbers of what a laboratory filed of one sender, in order.
fn filed(lab: &Lab, interface: &str, site: &str) -> Vec<usize> {
    let prefix = format!("{site}-");
    let numbers = lab.filed(interface).into_iter().filter_map(|id| {
        id.strip_prefix(&prefix)
            .and_then(|number| number.parse().ok())
    });
    numbers.collect()
}

/// One of a pair, as a process, gone when the test is.
struct Twin {
    listen: SocketAddr,
    http: SocketAddr,
    process: Option<Child>,
}

impl Twin {
    fn start(&mut self, nodes: &Nodes, lab: SocketAddr) {
        let mut command = Command::new(ordo());
        command.args(["--cluster", &nodes.addresses(), "gateway"]);
        command.args(["--listen", &format!("RAD={}", self.listen)]);
        command.args(["--send", &format!("RAD={lab}")]);
        command.args(["--http", &self.http.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.kill().unwrap();
        process.wait().unwrap();
    }

    async fn is_ready(&self) -> bool {
        is_ready(self.http).await
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn is_ready(http: SocketAddr) -> bool {
    let page = get(http, "/readyz").await;
    page.is_ok_and(|page| page.starts_with("HTTP/1.1 200"))
}

/// What a load balancer does with a sender's connections: gives each to a gateway that is ready, the other one where its
/// own is not.
struct Balancer {
    places: Vec<(SocketAddr, SocketAddr)>,
}

impl Balancer {
    async fn connect(&self, preferred: usize) -> Sender {
        // A loop of its own: the compiler can't see that an `async` closure's future is `Send`.
        let deadline = Instant::now() + PATIENCE;
        loop {
            for place in [preferred, 1 - preferred] {
                let (listen, http) = self.places[place];
                if is_ready(http).await
                    && let Ok(sender) = Sender::connect(listen).await
                {
                    return sender;
                }
            }
            assert!(Instant::now() < deadline, "no gateway is ready");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sends one order after the other until the end, each again until it is accepted; how many were.
async fn send_on(
    balancer: Arc<Balancer>,
    n: usize,
    end: Arc<AtomicBool>,
    all: Arc<AtomicUsize>,
) -> usize {
    let site = format!("S{n}");
    let mut sender = None;
    let mut accepted = 0;
    while !end.load(Ordering::Relaxed) {
        let connected = match &mut sender {
            Some(sender) => sender,
            none => none.insert(balancer.connect(n % 2).await),
        };
        match connected.send(&order(&site, accepted + 1)).await {
            Ok((code, text)) => {
                assert_eq!(code, "AA", "{text}");
                accepted += 1;
                all.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => sender = None,
        }
    }
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn either_of_a_pair_may_be_killed_and_no_reply_is_lost_and_no_order_broken() {
    const SENDERS: usize = 6;
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("RAD", staged(&[]))
        .await
        .unwrap();
    let config = LabConfig {
        interface: Some("RAD".to_owned()),
        ..LabConfig::default()
    };
    let lab = Lab::start(config).await.unwrap();
    let addresses = free_addresses(4);
    let mut twins: Vec<_> = addresses
        .chunks(2)
        .map(|addresses| Twin {
            listen: addresses[0],
            http: addresses[1],
            process: None,
        })
        .collect();
    for twin in &mut twins {
        twin.start(&nodes, lab.address());
    }
    let balancer = Arc::new(Balancer {
        places: twins.iter().map(|twin| (twin.listen, twin.http)).collect(),
    });
    let (end, accepted) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let senders: Vec<_> = (0..SENDERS)
        .map(|n| {
            let (balancer, end) = (Arc::clone(&balancer), Arc::clone(&end));
            tokio::spawn(send_on(balancer, n, end, Arc::clone(&accepted)))
        })
        .collect();
    let goes_on = async |what: &str| {
        let (sent, arrived) = (accepted.load(Ordering::Relaxed), lab.filed("RAD").len());
        eventually(what, async || {
            let sent = accepted.load(Ordering::Relaxed) >= sent + 200;
            (sent && lab.filed("RAD").len() >= arrived + 200).then_some(())
        })
        .await;
    };
    goes_on("orders through both").await;
    // One of the two holds the grant: each is killed once.
    for twin in &mut twins {
        twin.kill();
        goes_on("orders through the one that is left").await;
        twin.start(&nodes, lab.address());
        eventually("a gateway to be ready again", async || {
            twin.is_ready().await.then_some(())
        })
        .await;
    }
    end.store(true, Ordering::Relaxed);
    let mut counts = Vec::new();
    for sender in senders {
        counts.push(sender.await.unwrap());
    }
    let all = counts.iter().sum::<usize>();
    eventually("everything that was accepted", async || {
        (lab.filed("RAD").len() >= all).then_some(())
    })
    .await;
    for (n, count) in counts.into_iter().enumerate() {
        let expected: Vec<_> = (1..=count).collect();
        assert_eq!(filed(&lab, "RAD", &format!("S{n}")), expected);
    }
    assert_eq!(lab.filed("RAD").len(), all, "nothing else");
}

/// A gateway with one address for every site under `prefix`, and one receiver for them all.
async fn many(nodes: &Nodes, prefix: &str, lab: &Lab, connections: Connections) -> Gateway {
    let mut listen = ListenConfig::new(
        "127.0.0.1:0".parse().unwrap(),
        format!("{prefix}{{MSH-4}}.{{MSH-6}}"),
    );
    listen.unknown = Unknown::Create {
        template: format!("{prefix}like"),
        cap: 4,
    };
    let send = SendConfig {
        interface: format!("{prefix}*"),
        address: lab.address().to_string(),
        connections,
        ..SendConfig::default()
    };
    let config = GatewayConfig {
        http: Some("127.0.0.1:0".parse().unwrap()),
        listen: vec![listen],
        send: vec![send],
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
async fn one_address_takes_messages_for_many_interfaces_and_one_receiver_gets_them() {
    let mut nodes = Nodes::running(1, "").await.unwrap();
    let admin = nodes.cluster().unwrap().admin();
    let modes = [
        ("each/", Connections::Each, 3),
        ("shared/", Connections::Shared, 1),
    ];
    let mut gateways = Vec::new();
    for (prefix, connections, expected) in modes {
        let like = format!("{prefix}like");
        let lab = Lab::start(LabConfig::default()).await.unwrap();
        let gateway = many(&nodes, prefix, &lab, connections).await;
        let mut sender = Sender::connect(gateway.listening()[0]).await.unwrap();
        let (code, text) = sender.send(&order("A", 1)).await.unwrap();
        assert_eq!(code, "AE", "there is nothing to make it like yet");
        assert!(text.contains("does not exist"), "{text}");
        admin.create_interface(&like, staged(&[])).await.unwrap();
        for n in 1..=5 {
            for site in ["A", "B", "C"] {
                let (code, text) = sender.send(&order(site, n)).await.unwrap();
                assert_eq!(code, "AA", "{text}");
            }
        }
        let (code, text) = sender.send(&order("D", 1)).await.unwrap();
        assert_eq!(code, "AR");
        assert!(text.contains("there are 4 already"), "{text}");
        let (code, text) = sender.send(&order("A.LAB", 1)).await.unwrap();
        assert_eq!(code, "AR");
        assert!(text.starts_with("MSH-4 can't name"), "{text}");

        for site in ["A", "B", "C"] {
            let interface = format!("{prefix}{site}.LAB");
            let found = admin.get_interface(&interface).await.unwrap();
            assert_eq!(found.last_sequence, 5);
            eventually(&interface, async || {
                (filed(&lab, site, site) == [1, 2, 3, 4, 5]).then_some(())
            })
            .await;
        }
        assert_eq!(lab.summary().connections, expected, "{prefix}");
        gateways.push((prefix, gateway, lab));
    }

    for (prefix, gateway, _) in &gateways {
        let http = gateway.http().unwrap();
        assert!(is_ready(http).await);
        let metrics = get(http, "/metrics").await.unwrap();
        let frames = format!("ordo_gateway_frames_total{{interface=\"{prefix}A.LAB\"}} 5");
        assert!(metrics.contains(&frames), "{metrics}");
        let refusals = "reason=\"NO_INTERFACE\"} 3";
        assert!(metrics.contains(refusals), "{metrics}");
        let acks = format!("ordo_gateway_ack_seconds_count{{interface=\"{prefix}B.LAB\"}} 5");
        assert!(metrics.contains(&acks), "{metrics}");
    }

    let http = gateways[0].1.http().unwrap();
    nodes.nodes[0].kill().unwrap();
    let page = eventually("a gateway that says what it lacks", async || {
        let page = get(http, "/readyz").await.unwrap();
        page.starts_with("HTTP/1.1 503").then_some(page)
    })
    .await;
    assert!(
        page.contains("no leader of the cluster has answered for"),
        "{page}"
    );
    assert!(get(http, "/healthz").await.unwrap().ends_with("ok\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_sender_is_not_kept_waiting_by_a_hundred_that_say_nothing() {
    let nodes = Nodes::running(1, "").await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("RAD", staged(&[]))
        .await
        .unwrap();
    let config = GatewayConfig {
        listen: vec![ListenConfig::new("127.0.0.1:0".parse().unwrap(), "RAD")],
        ..GatewayConfig::default()
    };
    assert_eq!(InboundConfig::default().connections, 100);
    let gateway = Gateway::start(config, &cluster).await.unwrap();
    let address = gateway.listening()[0];
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let (code, _) = eventually("the next one's turn", async || {
        let mut sender = Sender::connect(address).await.ok()?;
        sender.send(&order("RAD", 1)).await.ok()
    })
    .await;
    assert_eq!(code, "AA");
}
