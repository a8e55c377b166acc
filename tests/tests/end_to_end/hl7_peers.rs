//! Clients and servers that no one here wrote, with real gateways and a real cluster: the packages `hl7`, `hl7apy` and
//! `mllp-https` from PyPI. `tests/run` installs them; the laboratories on top of them are in `tests/peers`.

use ordo_gateway::orders::{Order, OrderGenerator};
use ordo_tests::load::staged;
use ordo_tests::mllp::{field, gateway};
use ordo_tests::{Nodes, PATIENCE, eventually, free_addresses};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const ORDERS: usize = 20;
/// How many of them are sent before the laboratory is killed.
const BEFORE: usize = 10;
/// The one that the laboratory refuses, from 0.
const REFUSED: usize = 13;

/// The Python that has the packages, where one is named.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("ORDO_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!(
            "skipped: ORDO_TEST_PYTHON names no Python that has the packages; tests/run sets it"
        );
    }
    python
}

/// A program of the packages, or a script that runs on them. Killed when dropped.
fn start(program: &Path, args: &[&str]) -> Child {
    Command::new(program)
        .args(args)
        // What it says is the orders'.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // mllp2http asks a proxy for loopback where one is configured.
        .env("NO_PROXY", "*")
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A laboratory in Python.
struct PythonLab {
    python: PathBuf,
    script: PathBuf,
    address: SocketAddr,
    record: PathBuf,
    refused: String,
    process: Child,
}

impl PythonLab {
    fn start(python: &Path, script: &str, folder: &Path, refused: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("peers")
            .join(script);
        let (address, record) = (free_addresses(1)[0], folder.join("record"));
        std::fs::write(&record, "").unwrap();
        let process = Self::run(python, &script, address, &record, refused);
        Self {
            python: python.to_owned(),
            script,
            address,
            record,
            refused: refused.to_owned(),
            process,
        }
    }

    fn run(python: &Path, script: &Path, at: SocketAddr, record: &Path, refused: &str) -> Child {
        let (script, record) = (script.to_str().unwrap(), record.to_str().unwrap());
        start(python, &[script, &at.port().to_string(), record, refused])
    }

    /// SIGKILL.
    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::run(
            &self.python,
            &self.script,
            self.address,
            &self.record,
            &self.refused,
        );
    }

    /// Every order it got, in order. A line that the kill cut short was answered by nobody.
    fn received(&self) -> Vec<Vec<u8>> {
        let record = std::fs::read_to_string(&self.record).unwrap();
        let whole = record
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        let bytes = |line: &str| {
            let digits = line.as_bytes().chunks(2);
            digits
                .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
                .collect()
        };
        whole.map(bytes).collect()
    }
}

/// Who sends the orders.
enum Client {
    /// `mllp_send` of the package `hl7`. It exits with 0 even on AE, so the replies are what counts.
    MllpSend(PathBuf),
    /// `http2mllp` of the package `mllp-https`, over HTTP.
    Http2Mllp(
        SocketAddr,
        #[allow(dead_code, reason = "killed when dropped")] Child,
    ),
}

impl Client {
    fn mllp_send(python: &Path) -> Self {
        Self::MllpSend(python.with_file_name("mllp_send"))
    }

    fn http2mllp(python: &Path, to: SocketAddr) -> Self {
        let at = free_addresses(1)[0];
        let program = python.with_file_name("http2mllp");
        let (port, to_port, host) = (
            at.port().to_string(),
            to.port().to_string(),
            to.ip().to_string(),
        );
        // Its thread for idle connections spins once one was idle for so long.
        let args = [
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--mllp_port",
            &to_port,
        ];
        let idle = ["--mllp-keep-alive", "600000", &host];
        Self::Http2Mllp(at, start(&program, &[&args[..], &idle].concat()))
    }

    /// Sends orders, and wants AA for each.
    async fn send(&self, orders: &[Order], to: SocketAddr, folder: &Path) {
        match self {
            Self::MllpSend(program) => send_with_mllp_send(program, orders, to, folder).await,
            Self::Http2Mllp(at, _) => {
                for order in orders {
                    let reply =
                        eventually("http2mllp to listen", async || post(*at, order).await).await;
                    let heard = (field(&reply, "MSA", 1), field(&reply, "MSA", 2));
                    assert_eq!(heard, ("AA".to_owned(), order.control_id.clone()));
                }
            }
        }
    }
}

async fn send_with_mllp_send(program: &Path, orders: &[Order], to: SocketAddr, folder: &Path) {
    let file = folder.join("orders.hl7");
    let text: Vec<u8> = orders
        .iter()
        .flat_map(|order| order.payload.iter())
        .map(|byte| if *byte == b'\r' { b'\n' } else { *byte })
        .collect();
    std::fs::write(&file, text).unwrap();
    let output = Command::new(program)
        .args(["--loose", "--port", &to.port().to_string(), "--file"])
        .arg(&file)
        .arg(to.ip().to_string())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .unwrap()
        .unwrap();
    let replies = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{replies}{errors}");
    for order in orders {
        let reply = format!("MSA|AA|{}", order.control_id);
        assert!(replies.contains(&reply), "{reply}: {replies}{errors}");
    }
}

/// The body that a POST of an order gets; `None` where nobody listens yet.
async fn post(at: SocketAddr, order: &Order) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    let length = order.payload.len();
    let head = format!("POST / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&order.payload).await.unwrap();
    let mut page = Vec::new();
    let read = stream.read_to_end(&mut page);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    let body = page
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap()
        + 4;
    Some(page[body..].to_vec())
}

/// Half of the orders, the laboratory killed among them, the other half; then it is there again.
async fn orders_reach(script: &str, by: impl FnOnce(&Path, SocketAddr) -> Client) {
    let Some(python) = python() else { return };
    let nodes = Nodes::three().await.unwrap();
    let admin = nodes.cluster().unwrap().admin();
    admin.create_interface("PEER", staged(&[])).await.unwrap();
    let orders: Vec<_> = OrderGenerator::new("PEER", 7).take(ORDERS).collect();
    let refused = &orders[REFUSED].control_id;
    let mut lab = PythonLab::start(&python, script, nodes.folder(), refused);
    let settings = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ninterface = \"PEER\"\n\
         [[send]]\ninterface = \"PEER\"\naddress = \"{}\"\n\
         [outbound]\npause_ms_min = 50\npause_ms_max = 500\n",
        lab.address
    );
    let gateway = gateway(&nodes, &settings).await.unwrap();
    let listening = gateway.listening()[0];
    let client = by(&python, listening);

    client
        .send(&orders[..BEFORE], listening, nodes.folder())
        .await;
    eventually("some orders at the laboratory", async || {
        (lab.received().len() >= 3).then_some(())
    })
    .await;
    lab.kill().await;
    client
        .send(&orders[BEFORE..], listening, nodes.folder())
        .await;
    eventually("the gateway to notice", async || {
        let interface = admin.get_interface("PEER").await.ok()?;
        (interface.destinations[0].suspended_ms > 0).then_some(())
    })
    .await;
    lab.restart();
    let last = ORDERS as u64;
    let interface = eventually("all orders", async || {
        let interface = admin.get_interface("PEER").await.ok()?;
        (interface.destinations[0].checkpoint == last).then_some(interface)
    })
    .await;

    // mllp_send leaves out the last CR.
    let whole = |order: &[u8]| String::from_utf8_lossy(order).trim_end().to_owned();
    let mut once: Vec<_> = lab.received().iter().map(|order| whole(order)).collect();
    let received = once.len();
    once.dedup();
    let sent: Vec<_> = orders.iter().map(|order| whole(&order.payload)).collect();
    assert_eq!(
        once, sent,
        "in order, byte for byte, repeats next to each other"
    );
    assert!(
        received - once.len() <= 1,
        "only the reply that the kill took away may be a repeat's reason"
    );
    assert_eq!((interface.last_sequence, interface.dead_letters), (last, 1));
    let letters = admin
        .list_dead_letters("PEER", 0, 0)
        .await
        .unwrap()
        .dead_letters;
    assert_eq!(letters[0].sequence, REFUSED as u64 + 1);
    assert!(
        letters[0].reason.contains("not on our list"),
        "{}",
        letters[0].reason
    );
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_mllp_send_reach_a_laboratory_on_pythons_hl7() {
    orders_reach("hl7_lab.py", |python, _| Client::mllp_send(python)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_mllp_send_reach_a_laboratory_on_hl7apy_which_closes_after_each() {
    orders_reach("hl7apy_lab.py", |python, _| Client::mllp_send(python)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_http2mllp_reach_a_laboratory_behind_mllp2http() {
    orders_reach("mllp2http_lab.py", Client::http2mllp).await;
}
