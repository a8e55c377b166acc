//! Nodes in network namespaces of their own, whose links can be taken down: the real thing, where the system lets one.

use crate::Nodes;
use anyhow::{Result, ensure};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// A bridge, and one namespace a node on it. Removed when this is dropped, after the nodes.
#[derive(Debug)]
pub struct Namespaces {
    bridge: String,
    count: usize,
}

impl Namespaces {
    /// Moves nodes, which must not have been started, into namespaces.
    ///
    /// # Errors
    /// When the system does not let one make namespaces: that needs root and `ip`.
    pub fn around(nodes: &mut Nodes) -> Result<Self> {
        // The process's number keeps tests that run at once apart; the addresses are those set aside for tests of
        // networks (RFC 2544).
        let pid = std::process::id();
        let [high, low] = [(pid >> 8 & 1) as u8 + 18, (pid & 0xff) as u8];
        let address = |host: u8| Ipv4Addr::new(198, high, low, host);
        let made = Self {
            bridge: format!("ordo{pid}"),
            count: nodes.nodes.len(),
        };
        let bridge = &made.bridge;
        ip(&format!("link add name {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", address(254)))?;
        ip(&format!("link set {bridge} up"))?;
        for place in 0..made.count {
            let (name, link) = (made.name(place), made.link(place));
            ip(&format!("netns add {name}"))?;
            ip(&format!(
                "link add {link} type veth peer name eth0 netns {name}"
            ))?;
            ip(&format!("link set {link} master {bridge} up"))?;
            ip(&format!(
                "-n {name} addr add {}/24 dev eth0",
                address(place as u8 + 1)
            ))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        let mut instead = Vec::new();
        for (place, node) in nodes.nodes.iter_mut().enumerate() {
            for own in [&mut node.public, &mut node.peer, &mut node.http] {
                let before = own.to_string();
                own.set_ip(IpAddr::V4(address(place as u8 + 1)));
                instead.push((before, own.to_string()));
            }
            let name = made.name(place);
            node.inside = ["ip", "netns", "exec", &name].map(str::to_owned).to_vec();
        }
        for node in &nodes.nodes {
            let mut text = fs::read_to_string(&node.config)?;
            for (before, now) in &instead {
                text = text.replace(before, now);
            }
            fs::write(&node.config, format!("allow_plaintext = true\n{text}"))?;
        }
        Ok(made)
    }

    /// Takes a node's link down, or up again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set(&self, place: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&format!("link set {} {state}", self.link(place)))
    }

    fn name(&self, place: usize) -> String {
        format!("{}-{place}", self.bridge)
    }

    fn link(&self, place: usize) -> String {
        format!("{}v{place}", self.bridge)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // With a namespace go its end of the link, and so the other one.
        for place in 0..self.count {
            let _ = ip(&format!("netns delete {}", self.name(place)));
        }
        let _ = ip(&format!("link delete {}", self.bridge));
    }
}

fn ip(command: &str) -> Result<()> {
    let output = Command::new("ip").args(command.split(' ')).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {command}: {said}");
    Ok(())
}
