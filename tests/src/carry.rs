//! A large state on its way to a node that was away: over a narrow link that breaks, onto a slow disk.

use crate::load::staged;
use crate::proxy::{End, Net, Way};
use crate::shim::{compile, preload};
use crate::{Nodes, PATIENCE};
use anyhow::{Context, Result, ensure};
use ordo_client::{Cluster, Message};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::path::Path;
use std::time::{Duration, Instant};

/// No entry is kept behind a snapshot, so that a node that was away needs one.
const SNAPSHOTS: &str = "[raft]\nsnapshot_entries = 100\nkeep_entries = 0\n";
/// Bytes of a message.
const PAYLOAD_BYTES: usize = 256 << 10;
/// How long a link is broken, each time.
const BROKEN: Duration = Duration::from_millis(300);

/// What is carried, and how badly.
#[derive(Clone, Copy, Debug)]
pub struct Burden {
    /// Payloads in the state.
    pub bytes: u64,
    /// What the link to the node takes.
    pub bytes_a_second: u64,
    /// How much longer every sync of the node's disk takes.
    pub sync: Duration,
    /// How often the link breaks.
    pub break_every: Duration,
}

/// What it took.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// From the node's start until it had the state.
    pub took: Duration,
    /// Bytes that the leader sent it meanwhile.
    pub bytes: u64,
    /// How often the link broke.
    pub breaks: u32,
}

/// Fills a cluster with a state while a node is away, and waits until that node has it.
///
/// # Errors
/// When it does not get there, or sends most of it more than once, or when somebody else leads in the meantime.
///
/// # Panics
/// When the cluster does not come up, or its replicas differ in the end.
pub async fn carry(burden: Burden, progress: impl Fn(&str)) -> Result<Arrived> {
    let mut nodes = Nodes::configure(3, SNAPSHOTS)?;
    let net = Net::between(&nodes).await?;
    for node in &mut nodes.nodes {
        node.start()?;
    }
    nodes.init().await?;
    let leader = nodes.leader().await;
    let place = (leader + 1) % nodes.nodes.len();
    // While everybody is there: a call that a killed node had taken has no answer.
    let admin = net.cluster()?.admin();
    admin.create_interface("lab", staged(&[])).await?;
    nodes.nodes[place].kill()?;
    fill(&net.cluster()?, burden.bytes).await?;
    let filled = nodes.status(leader).await.context("the leader answers")?;
    progress(&format!(
        "{} bytes are in {} entries",
        burden.bytes, filled.applied_index
    ));

    let library = compile(nodes.folder())?;
    let sync_ms = burden.sync.as_millis().to_string();
    nodes.nodes[place].environment = preload(&library, "ORDO_SHIM_SLOW", Path::new(&sync_ms));
    let (from, to) = (End::Node(leader), End::Node(place));
    let narrow = Way::Narrow(burden.bytes_a_second);
    net.set(from, to, narrow);
    let carried_before = net.carried(from, to);
    nodes.nodes[place].start()?;
    let (began, mut broke, mut breaks) = (Instant::now(), Instant::now(), 0);
    // Four times what the link takes, and 8 MiB a second for what the nodes do with it.
    let within = 4 * burden.bytes / burden.bytes_a_second + (burden.bytes >> 23);
    let within = Duration::from_secs(120 + within);
    loop {
        let status = nodes.status(place).await;
        if status.is_some_and(|status| status.applied_index >= filled.applied_index) {
            break;
        }
        let said = nodes.nodes[place].output();
        ensure!(
            began.elapsed() < within,
            "it has not arrived in {within:?}: {said}"
        );
        if broke.elapsed() > burden.break_every {
            net.set(from, to, Way::Cut);
            tokio::time::sleep(BROKEN).await;
            net.set(from, to, narrow);
            (broke, breaks) = (Instant::now(), breaks + 1);
            let carried = net.carried(from, to) - carried_before;
            progress(&format!(
                "{carried} bytes in {} s",
                began.elapsed().as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let arrived = Arrived {
        took: began.elapsed(),
        bytes: net.carried(from, to) - carried_before,
        breaks,
    };
    net.heal();
    // Each node reads all of it to say what it has.
    nodes
        .agree_within(PATIENCE + Duration::from_secs(burden.bytes >> 24))
        .await;
    let status = nodes.status(leader).await.context("the leader answers")?;
    ensure!(
        (status.term, status.leader_id) == (filled.term, filled.leader_id),
        "node {} led in term {}, and now node {} in term {}",
        filled.leader_id,
        filled.term,
        status.leader_id,
        status.term
    );
    // What is on its way when a link breaks is lost, once each time; a state that begins again is far more.
    let lost = 2 * (1 << 20) * u64::from(breaks);
    let most = burden.bytes + burden.bytes / 4 + lost + (8 << 20);
    ensure!(arrived.bytes < most, "it took {arrived:?}");
    Ok(arrived)
}

/// Messages that nobody takes away, of bytes that nothing makes smaller.
async fn fill(cluster: &Cluster, bytes: u64) -> Result<()> {
    let producer = cluster.producer().start()?;
    let mut rng = StdRng::seed_from_u64(7);
    let mut receipts = Vec::new();
    for _ in 0..bytes.div_ceil(PAYLOAD_BYTES as u64) {
        let mut payload = vec![0; PAYLOAD_BYTES];
        rng.fill_bytes(&mut payload);
        receipts.push(producer.enqueue("lab", Message::new(payload)).await?);
        if receipts.len() == 16 {
            for receipt in receipts.drain(..) {
                receipt.await?;
            }
        }
    }
    for receipt in receipts {
        receipt.await?;
    }
    // Each an entry of its own, so that there is a snapshot of what came before.
    for n in 0..250 {
        producer.send("lab", Message::new(format!("{n}"))).await?;
    }
    Ok(())
}
