//! What a configuration may hold, wherever it came from.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{GatewayConfig, Problem};

/// As the cluster allows them.
const NAME_ALLOWED: &str = "1 to 255 bytes of A-Z a-z 0-9 . _ / -";
const NAME_BYTES_MAX: usize = 255;
const PLAINTEXT_ALLOWED: &str =
    "a loopback address: MLLP is not encrypted; where that is meant, set allow_plaintext = true";
/// No interface may allow a larger payload.
const PAYLOAD_BYTES: std::ops::RangeInclusive<usize> = 1_024..=16 * 1024 * 1024;
const REPEATS: std::ops::RangeInclusive<usize> = 1..=1_000_000;
const CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=10_000;

impl GatewayConfig {
    /// Everything wrong but for what only a file must hold.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (i, address) in self.cluster.iter().enumerate() {
            if !is_address(address) {
                problems.push(Problem::new(
                    format!("cluster[{i}]"),
                    format!("{address:?}"),
                    "host:port, as \"127.0.0.1:7400\"",
                ));
            }
        }
        if self.listen.is_empty() && self.send.is_empty() {
            problems.push(Problem::new(
                "the configuration",
                "without a [[listen]] and without a [[send]]",
                "at least one of them",
            ));
        }
        self.check_listen(&mut problems);
        self.check_send(&mut problems);
        self.check_limits(&mut problems);
        problems
    }

    fn check_listen(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (i, listen) in self.listen.iter().enumerate() {
            let key = |name: &str| format!("listen[{i}].{name}");
            let address = listen.address;
            check_name(key("interface"), &listen.interface, problems);
            if !self.allow_plaintext && !address.ip().is_loopback() {
                problems.push(Problem::new(
                    key("address"),
                    address.to_string(),
                    PLAINTEXT_ALLOWED,
                ));
            }
            if address.port() != 0 && !seen.insert(address) {
                let found = format!("{address}, which another [[listen]] has");
                let allowed = "an address of its own for each interface";
                problems.push(Problem::new(key("address"), found, allowed));
            }
        }
    }

    fn check_send(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (i, send) in self.send.iter().enumerate() {
            let key = |name: &str| format!("send[{i}].{name}");
            check_name(key("interface"), &send.interface, problems);
            check_name(key("destination"), &send.destination, problems);
            if !is_address(&send.address) {
                let found = format!("{:?}", send.address);
                problems.push(Problem::new(
                    key("address"),
                    found,
                    "host:port, as \"127.0.0.1:2576\"",
                ));
            } else if !self.allow_plaintext && !is_loopback(&send.address) {
                let found = format!("{:?}", send.address);
                problems.push(Problem::new(key("address"), found, PLAINTEXT_ALLOWED));
            }
            if !seen.insert((&send.interface, &send.destination)) {
                let found = format!(
                    "{:?}, which another [[send]] has for this interface",
                    send.destination
                );
                let allowed = "one address for each (interface, destination)";
                problems.push(Problem::new(key("destination"), found, allowed));
            }
        }
    }

    fn check_limits(&self, problems: &mut Vec<Problem>) {
        let mut number = |key: &str, found: usize, allowed: &std::ops::RangeInclusive<usize>| {
            if !allowed.contains(&found) {
                let range = format!("a number from {} to {}", allowed.start(), allowed.end());
                problems.push(Problem::new(key, found.to_string(), range));
            }
        };
        let (inbound, outbound) = (&self.inbound, &self.outbound);
        number("inbound.connections", inbound.connections, &CONNECTIONS);
        number(
            "inbound.payload_bytes",
            inbound.payload_bytes,
            &PAYLOAD_BYTES,
        );
        number(
            "outbound.repeats_max",
            usize::try_from(outbound.repeats_max).unwrap_or(usize::MAX),
            &REPEATS,
        );
        let mut time = |key: &str, found: Duration, min_ms: u64, max_ms: u64| {
            if !(Duration::from_millis(min_ms)..=Duration::from_millis(max_ms)).contains(&found) {
                let range = format!("a number of milliseconds from {min_ms} to {max_ms}");
                problems.push(Problem::new(key, found.as_millis().to_string(), range));
            }
        };
        time("inbound.idle_ms", inbound.idle, 100, 86_400_000);
        time("inbound.frame_ms", inbound.frame, 100, 600_000);
        time("inbound.frame_end_ms", inbound.frame_end, 10, 10_000);
        time("outbound.connect_ms", outbound.connect, 10, 60_000);
        time("outbound.ack_ms", outbound.ack, 10, 600_000);
        time("outbound.ack_ms_max", outbound.ack_max, 10, 86_400_000);
        time("outbound.silence_ms", outbound.silence, 10, 60_000);
        time("outbound.pause_ms_min", outbound.pause_min, 1, 600_000);
        time("outbound.pause_ms_max", outbound.pause_max, 1, 3_600_000);
        time("shutdown_ms", self.shutdown, 0, 600_000);
        let mut at_most = |key: &str, found: Duration, other: &str, most: Duration| {
            if found > most {
                let allowed = format!("at most {other}, {}", most.as_millis());
                problems.push(Problem::new(key, found.as_millis().to_string(), allowed));
            }
        };
        at_most(
            "outbound.pause_ms_min",
            outbound.pause_min,
            "outbound.pause_ms_max",
            outbound.pause_max,
        );
        at_most(
            "outbound.ack_ms",
            outbound.ack,
            "outbound.ack_ms_max",
            outbound.ack_max,
        );
    }
}

fn check_name(key: String, name: &str, problems: &mut Vec<Problem>) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        problems.push(Problem::new(key, format!("{name:?}"), NAME_ALLOWED));
    }
}

fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    (!host.is_empty()).then_some((host, port))
}

fn is_address(address: &str) -> bool {
    host_and_port(address).is_some()
}

fn is_loopback(address: &str) -> bool {
    host_and_port(address).is_some_and(|(host, _)| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}
