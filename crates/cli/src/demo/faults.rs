//! What goes wrong: the leader is killed, and the laboratory goes away for a while.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ordo_client::{Admin, Cluster};
use ordo_gateway::lab::Lab;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::INTERFACES;
use super::nodes::Nodes;
use super::screen::Screen;

/// How long the laboratory stays away.
const LAB_DOWN: Duration = Duration::from_secs(4);
/// How long the killed node stays away.
const NODE_DOWN: Duration = Duration::from_secs(2);
/// How long anything may take to go on.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was done, and how long it took to get over it.
#[derive(Debug, Serialize)]
pub struct Faults {
    killed_node_id: u64,
    leader_id: u64,
    /// From the kill to another leader.
    led_again_ms: u64,
    /// From the kill to the next delivery.
    delivered_again_ms: u64,
    lab_down_ms: u64,
    /// From the laboratory's return to its next message.
    lab_served_again_ms: u64,
}

/// Everybody whom it concerns.
pub struct Stage<'a> {
    pub cluster: &'a Cluster,
    pub nodes: &'a mut Nodes,
    pub labs: &'a mut [Lab],
    pub screen: &'a Screen,
    /// How many messages are answered, and how many there will be.
    pub answered: watch::Receiver<u64>,
    pub total: u64,
}

impl Stage<'_> {
    /// Plays both, one after the other, while messages flow.
    pub async fn play(mut self) -> Result<Faults> {
        self.wait_for(self.total.div_ceil(3)).await?;
        let mut faults = self.kill_the_leader().await?;
        self.wait_for((2 * self.total).div_ceil(3)).await?;
        self.close_the_lab(&mut faults).await?;
        Ok(faults)
    }

    async fn wait_for(&mut self, answered: u64) -> Result<()> {
        self.answered
            .wait_for(|count| *count >= answered)
            .await
            .context("the hospital gave up")?;
        Ok(())
    }

    async fn kill_the_leader(&mut self) -> Result<Faults> {
        let killed = self.nodes.leader_other_than(0, self.cluster).await?;
        let pid = self.nodes.kill(killed).await?;
        let start = Instant::now();
        let filed = self.filed();
        self.screen.note(&format!(
            "node {killed} leads; its process {pid} gets SIGKILL"
        ));
        let leader = self.nodes.leader_other_than(killed, self.cluster).await?;
        let led_again = start.elapsed();
        self.screen.note(&format!(
            "node {leader} leads, {} after the kill",
            seconds(led_again)
        ));
        self.wait_filed_beyond(filed, "deliveries did not go on under the new leader")
            .await?;
        let delivered_again = start.elapsed();
        self.screen.note(&format!(
            "deliveries go on, {} after the kill",
            seconds(delivered_again)
        ));
        sleep(NODE_DOWN.saturating_sub(start.elapsed())).await;
        self.restart(killed).await?;
        Ok(Faults {
            killed_node_id: killed,
            leader_id: leader,
            led_again_ms: milliseconds(led_again),
            delivered_again_ms: milliseconds(delivered_again),
            lab_down_ms: 0,
            lab_served_again_ms: 0,
        })
    }

    async fn restart(&mut self, id: u64) -> Result<()> {
        let start = Instant::now();
        self.nodes.start(id)?;
        self.nodes.wait_up(id, self.cluster).await?;
        let admin = self.cluster.admin();
        let goal = admin
            .cluster_status()
            .await
            .context("asking how far the cluster is")?
            .committed_index;
        let caught_up = async {
            loop {
                if let Ok(status) = admin.cluster_status_of(self.nodes.address(id)).await
                    && status.applied_index >= goal
                {
                    return;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(PATIENCE, caught_up).await.is_err() {
            bail!("node {id} did not catch up within {} s", PATIENCE.as_secs());
        }
        let took = seconds(start.elapsed());
        self.screen.note(&format!(
            "node {id} is started again and has caught up {took} later, through log index {goal}"
        ));
        Ok(())
    }

    async fn close_the_lab(&mut self, faults: &mut Faults) -> Result<()> {
        let admin = self.cluster.admin();
        let start = Instant::now();
        for lab in self.labs.iter_mut() {
            lab.down().await;
        }
        self.screen.note(&format!(
            "the laboratory is down for {} s",
            LAB_DOWN.as_secs()
        ));
        sleep(LAB_DOWN * 3 / 4).await;
        for (name, _) in INTERFACES {
            self.explain(&admin, name).await?;
        }
        sleep(LAB_DOWN.saturating_sub(start.elapsed())).await;
        let waiting = waiting(&admin).await?;
        let filed = self.filed();
        for lab in self.labs.iter_mut() {
            lab.up().await.context("opening the laboratory again")?;
        }
        let up = Instant::now();
        faults.lab_down_ms = milliseconds(start.elapsed());
        self.screen.note(&format!(
            "the laboratory is back; {waiting} messages wait for it"
        ));
        if waiting > 0 {
            self.wait_filed_beyond(filed, "deliveries did not go on with the laboratory back")
                .await?;
            faults.lab_served_again_ms = milliseconds(up.elapsed());
            self.screen.note(&format!(
                "deliveries go on, {} after its return",
                seconds(up.elapsed())
            ));
        }
        Ok(())
    }

    /// What `ordo why` says.
    async fn explain(&self, admin: &Admin, name: &str) -> Result<()> {
        let why = admin
            .explain_interface(name)
            .await
            .with_context(|| format!("asking why {name} waits"))?;
        for sentence in why.sentences {
            self.screen.note(&format!("why {name}: {sentence}"));
        }
        Ok(())
    }

    /// How many messages each door of the laboratory has filed.
    fn filed(&self) -> Vec<u64> {
        self.labs.iter().map(|lab| lab.summary().filed()).collect()
    }

    /// Waits until any door has filed more. Interfaces on which nothing comes any more have nothing to show.
    async fn wait_filed_beyond(&self, filed: Vec<u64>, otherwise: &str) -> Result<()> {
        let admin = self.cluster.admin();
        let go_on = async {
            loop {
                if self
                    .filed()
                    .iter()
                    .zip(&filed)
                    .any(|(now, before)| now > before)
                {
                    return Ok(());
                }
                // Everything may have been delivered before.
                if *self.answered.borrow() >= self.total
                    && waiting(&admin).await.is_ok_and(|waiting| waiting == 0)
                {
                    return anyhow::Ok(());
                }
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(PATIENCE, go_on)
            .await
            .with_context(|| otherwise.to_owned())?
    }
}

/// Messages that are accepted and not done.
async fn waiting(admin: &Admin) -> Result<u64> {
    let mut waiting = 0;
    for (name, _) in INTERFACES {
        let interface = admin
            .get_interface(name)
            .await
            .with_context(|| format!("asking how far {name} is"))?;
        let through = interface
            .destinations
            .iter()
            .map(|destination| destination.checkpoint)
            .min();
        waiting += interface.last_sequence.saturating_sub(through.unwrap_or(0));
    }
    Ok(waiting)
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
