//! Nodes killed under load, again and again, at random and where it hurts.

use crate::Nodes;
use crate::shim::{compile, preload};
use crate::traffic::Traffic;
use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where `shim.c` can kill a node, and how many times at most it passes there first: some places are passed with
/// every batch, others once a snapshot.
const POINTS: [(&str, u32); 16] = [
    ("log-write", 20),
    ("log-torn", 20),
    ("log-sync", 20),
    ("log-synced", 20),
    ("vote-write", 3),
    ("vote-torn", 3),
    ("vote-sync", 3),
    ("vote-synced", 3),
    ("table-sync", 2),
    ("other-sync", 10),
    ("other-synced", 10),
    ("rename", 3),
    ("renamed", 3),
    ("link", 2),
    ("unlink", 5),
    ("send", 60),
];
/// Cycles on one set of interfaces, before everything is drained and judged as a whole.
const ROUND: u32 = 10;
/// Snapshots every few entries, so that they, and the purges behind them, are hit too.
const SMALL_SNAPSHOTS: &str = "[raft]\nsnapshot_entries = 100\nkeep_entries = 50\n";
/// How long a node that is to die at a point may take to get there before it is killed where it is.
const ARRIVES_WITHIN: Duration = Duration::from_millis(1_500);

/// What was done.
#[derive(Debug, Default)]
pub struct Killed {
    /// Kills by the place at which they came.
    pub by_point: BTreeMap<String, u32>,
    /// Messages that were sent, all of which arrived.
    pub messages: u64,
}

struct Torture {
    nodes: Nodes,
    library: PathBuf,
    rng: StdRng,
    killed: Killed,
}

/// Kills one, two or three of three nodes under load, `cycles` times, restarts them, and judges what producers, workers
/// and consumers saw after every one. `progress` is told after each.
///
/// # Errors
/// What promise was broken.
///
/// # Panics
/// When the cluster does not come back.
pub async fn kill(cycles: u32, seed: u64, progress: impl Fn(u32, &Killed)) -> Result<Killed> {
    let nodes = Nodes::running(3, SMALL_SNAPSHOTS).await?;
    let library = compile(nodes.folder())?;
    let mut torture = Torture {
        nodes,
        library,
        rng: StdRng::seed_from_u64(seed),
        killed: Killed::default(),
    };
    let mut done = 0;
    while done < cycles {
        let interfaces = [format!("round/{done}/a"), format!("round/{done}/b")];
        let cluster = torture.nodes.cluster()?;
        let names: Vec<&str> = interfaces.iter().map(String::as_str).collect();
        let traffic = Traffic::start(&cluster, &names, Duration::from_millis(2)).await?;
        traffic.goes_on(20).await;
        for _ in 0..ROUND.min(cycles - done) {
            torture.cycle(&traffic).await?;
            done += 1;
            progress(done, &torture.killed);
        }
        torture.killed.messages += traffic.finish().await?;
        torture.nodes.agree().await;
    }
    Ok(torture.killed)
}

impl Torture {
    async fn cycle(&mut self, traffic: &Traffic) -> Result<()> {
        let mut victims = [0, 1, 2];
        victims.shuffle(&mut self.rng);
        let count = [1, 1, 1, 2, 3][self.rng.random_range(0..5)];
        let victims = &victims[..count];
        for place in victims {
            self.pause(100).await;
            self.kill(*place, "anywhere", traffic)?;
        }
        self.pause(200).await;
        for place in victims {
            let (point, passes) = POINTS[self.rng.random_range(0..POINTS.len())];
            let at = format!("{point} {}", self.rng.random_range(1..=passes));
            let node = &mut self.nodes.nodes[*place];
            node.environment = preload(&self.library, "ORDO_SHIM_KILL", Path::new(&at));
            node.start()?;
            traffic.fault(format!("node {} starts and is to die at {at}", node.id));
        }
        let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
        while victims.iter().any(|place| self.nodes.nodes[*place].runs())
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for place in victims {
            let point = self.nodes.nodes[*place].environment[1].1.clone();
            let point = point.split(' ').next().unwrap_or_default().to_owned();
            match self.nodes.nodes[*place].runs() {
                true => self.kill(*place, "anywhere", traffic)?,
                false => self.died(*place, &point, traffic).await,
            }
        }
        for place in victims {
            let node = &mut self.nodes.nodes[*place];
            node.environment.clear();
            node.start()?;
            traffic.fault(format!("node {} starts", node.id));
        }
        traffic.goes_on(20).await;
        for place in victims {
            self.nodes.wait_up(*place).await;
        }
        traffic.judge()
    }

    fn kill(&mut self, place: usize, point: &str, traffic: &Traffic) -> Result<()> {
        self.count(place, point, traffic);
        self.nodes.nodes[place].kill()
    }

    /// It is gone already: by the signal, or by an error that a crash must not lead to.
    async fn died(&mut self, place: usize, point: &str, traffic: &Traffic) {
        let status = self.nodes.nodes[place].ended().await;
        let said = self.nodes.nodes[place].said();
        assert!(
            status.code().is_none(),
            "node {place} ended by itself, {status}: {said}"
        );
        self.count(place, point, traffic);
    }

    fn count(&mut self, place: usize, point: &str, traffic: &Traffic) {
        traffic.fault(format!(
            "node {} is killed: {point}",
            self.nodes.nodes[place].id
        ));
        *self.killed.by_point.entry(point.to_owned()).or_default() += 1;
    }

    async fn pause(&mut self, ms_max: u64) {
        let ms = self.rng.random_range(0..=ms_max);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
