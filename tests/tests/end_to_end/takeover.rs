//! One gateway after another before receivers that can't fence: what they see of both.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use ordo_client::{Message, Producer};
use ordo_gateway::ack::{Outcome, acknowledge};
use ordo_gateway::mllp::MllpCodec;
use ordo_gateway::msh::Msh;
use ordo_gateway::time::Hl7Time;
use ordo_tests::load::staged;
use ordo_tests::{Nodes, eventually, ordo};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::Framed;

const INTERFACE: &str = "RAD";

/// What receivers saw, in order: which gateway it was, by its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// A message began.
    Arrived(usize),
    /// It gets no answer.
    InHand(usize),
    /// A connection ended.
    Closed(usize),
}

/// A receiver with an address for each gateway.
struct Lab {
    addresses: Vec<SocketAddr>,
    seen: Arc<Mutex<Vec<Seen>>>,
    silent: Arc<AtomicBool>,
}

impl Lab {
    async fn start() -> Self {
        let mut lab = Self {
            addresses: Vec::new(),
            seen: Arc::default(),
            silent: Arc::default(),
        };
        for place in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            lab.addresses.push(listener.local_addr().unwrap());
            let (seen, silent) = (Arc::clone(&lab.seen), Arc::clone(&lab.silent));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (seen, silent) = (Arc::clone(&seen), Arc::clone(&silent));
                    tokio::spawn(async move {
                        converse(place, stream, &seen, &silent).await;
                        seen.lock().unwrap().push(Seen::Closed(place));
                    });
                }
            });
        }
        lab
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The gateway whose message is the next to begin.
    async fn holder(&self) -> usize {
        let from = self.seen().len();
        eventually("a message", async || {
            self.seen()[from..].iter().find_map(|seen| match seen {
                Seen::Arrived(place) => Some(*place),
                _ => None,
            })
        })
        .await
    }

    async fn saw(&self, what: &str, from: usize, wanted: Seen) {
        eventually(what, async || {
            self.seen()[from..].contains(&wanted).then_some(())
        })
        .await;
    }

    /// Waits until a gateway has begun so many messages after the first `from` events.
    async fn arrived(&self, place: usize, from: usize, count: usize) {
        let what = format!("{count} messages from gateway {place}");
        eventually(&what, async || {
            let seen = self.seen();
            let arrived = seen[from..]
                .iter()
                .filter(|seen| **seen == Seen::Arrived(place));
            (arrived.count() >= count).then_some(())
        })
        .await;
    }

    /// Nothing of `before` began once `after` had.
    fn never_both(&self, from: usize, before: usize, after: usize) {
        let seen = &self.seen()[from..];
        let begun = seen.iter().position(|seen| *seen == Seen::Arrived(after));
        let late = &seen[begun.unwrap()..];
        assert!(!late.contains(&Seen::Arrived(before)), "{seen:?}");
    }
}

async fn converse(place: usize, stream: TcpStream, seen: &Mutex<Vec<Seen>>, silent: &AtomicBool) {
    let mut connection = Framed::new(stream, MllpCodec::default());
    while let Some(Ok(message)) = connection.next().await {
        seen.lock().unwrap().push(Seen::Arrived(place));
        if silent.load(Ordering::Relaxed) {
            seen.lock().unwrap().push(Seen::InHand(place));
            continue;
        }
        let msh = Msh::scan(&message).unwrap();
        let now = Hl7Time::from_unix_ms(0);
        let reply = acknowledge(&msh, &Outcome::Accepted, now, "1").unwrap();
        if connection.send(reply).await.is_err() {
            return;
        }
    }
}

/// A gateway as a process, gone when the test is.
struct Gateway(Child);

impl Gateway {
    fn start(nodes: &Nodes, lab: &Lab, place: usize) -> Self {
        let mut command = Command::new(ordo());
        command.args(["--cluster", &nodes.addresses(), "gateway", "--send"]);
        command.arg(format!("{INTERFACE}={}", lab.addresses[place]));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Orders, one after the other, for as long as the test goes on.
async fn feed(producer: Producer) {
    for n in 0_u64.. {
        let text =
            format!("MSH|^~\\&|HIS|WARD|LIS|LAB|20240101||ORM^O01|N-{n}|P|2.5\rPID|1||{n}\r");
        if producer
            .send(INTERFACE, Message::new(Bytes::from(text)))
            .await
            .is_err()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_cannot_fence_see_one_gateway_at_a_time() {
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let admin = cluster.admin();
    admin
        .create_interface(INTERFACE, staged(&[]))
        .await
        .unwrap();
    let lab = Lab::start().await;
    let feeding = tokio::spawn(feed(cluster.producer().start().unwrap()));
    let mut gateways = [0, 1].map(|place| Gateway::start(&nodes, &lab, place));

    // The cluster falls silent while a message is in hand.
    let holds = lab.holder().await;
    lab.arrived(holds, 0, 20).await;
    lab.silent.store(true, Ordering::Relaxed);
    lab.saw("a message in hand", 0, Seen::InHand(holds)).await;
    let (from, began) = (lab.seen().len(), Instant::now());
    nodes
        .nodes
        .iter()
        .for_each(|node| node.signal("STOP").unwrap());
    lab.saw("the connection's end", from, Seen::Closed(holds))
        .await;
    println!("given up after {:?} without the cluster", began.elapsed());
    lab.silent.store(false, Ordering::Relaxed);
    nodes
        .nodes
        .iter()
        .for_each(|node| node.signal("CONT").unwrap());

    let holds = lab.holder().await;
    lab.arrived(holds, lab.seen().len(), 20).await;
    let (from, began, other) = (lab.seen().len(), Instant::now(), 1 - holds);
    gateways[holds].0.kill().unwrap();
    lab.arrived(other, from, 1).await;
    println!(
        "taken over after {:?} from one that was killed",
        began.elapsed()
    );
    lab.never_both(from, holds, other);

    gateways[holds] = Gateway::start(&nodes, &lab, holds);
    let (holds, other) = (other, holds);
    lab.arrived(holds, lab.seen().len(), 50).await;
    let (from, began) = (lab.seen().len(), Instant::now());
    gateways[holds].signal("STOP");
    lab.arrived(other, from, 1).await;
    println!(
        "taken over after {:?} from one that was stopped",
        began.elapsed()
    );
    gateways[holds].signal("CONT");
    lab.arrived(other, lab.seen().len(), 100).await;
    lab.never_both(from, holds, other);

    // It stands in line again; the other one says goodbye.
    let (holds, other) = (other, holds);
    let (from, began) = (lab.seen().len(), Instant::now());
    gateways[holds].signal("TERM");
    lab.arrived(other, from, 1).await;
    println!(
        "taken over after {:?} from one that said goodbye",
        began.elapsed()
    );
    lab.never_both(from, holds, other);
    feeding.abort();
}
