//! The cluster and its nodes.

use std::collections::BTreeMap;

use ordo_client::proto::{self, NodeRole};
use serde::Serialize;

use super::{bytes, uuid, word};
use crate::output::{Card, Row, table};

/// What every node that was asked said, by its address.
pub type Answers = BTreeMap<String, Result<proto::GetClusterStatusResponse, String>>;

/// The cluster, as a quorum of its nodes sees it.
#[derive(Debug, Serialize)]
pub struct Status {
    cluster_id: String,
    /// Whether a quorum confirms all this. Where none does, it is what one node knew last.
    confirmed: bool,
    /// The leader that a quorum knows; 0 for none.
    leader_id: u64,
    /// Whose view it is.
    told_by: u64,
    term: u64,
    last_log_index: u64,
    committed_index: u64,
    nodes: Vec<Member>,
    /// What a person should look at, and do.
    problems: Vec<String>,
}

/// One node.
#[derive(Debug, Serialize)]
pub struct Member {
    node_id: u64,
    role: String,
    public_address: String,
    peer_address: String,
    storage_id: String,
    /// What the leader knows to be on its disk.
    matched_index: u64,
    /// Memory and disk against its limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<Room>,
    /// What it says of itself; none where it did not answer, or is not the node that the membership means.
    #[serde(flatten)]
    own: Option<Own>,
    /// Why it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
}

#[derive(Debug, Serialize)]
struct Own {
    applied_index: u64,
    snapshot_index: u64,
    state_hash: String,
    version: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Room {
    memory_bytes: Option<u64>,
    memory_bytes_max: u64,
    disk_free_bytes: Option<u64>,
    disk_free_bytes_min: u64,
}

impl Status {
    /// What the answers come to: what the leader says that a quorum confirms. `named` are the addresses that the caller
    /// was given.
    pub fn new(named: &[String], mut answers: Answers) -> Self {
        let confirmed = answers
            .values()
            .flatten()
            .filter(|answer| answer.leader_confirmed);
        let confirmed = confirmed.max_by_key(|answer| answer.term).cloned();
        // Without one the furthest of them is as near as it gets.
        let known = || {
            let members = answers
                .values()
                .flatten()
                .filter(|answer| !answer.nodes.is_empty());
            members
                .max_by_key(|answer| (answer.committed_index, answer.term))
                .cloned()
        };
        let Some(whole) = confirmed.clone().or_else(known) else {
            return Self::not_initialized(named, &answers);
        };
        let mut problems = Vec::new();
        let nodes: Vec<Member> = whole
            .nodes
            .iter()
            .map(|node| {
                let own = answers.remove(&node.public_address);
                let own = own.unwrap_or_else(|| Err("it was not asked".to_owned()));
                Member::new(node, own, confirmed.is_some(), &mut problems)
            })
            .collect();
        problems.extend(whole.problems);
        problems.sort();
        problems.dedup();
        Self {
            cluster_id: uuid(&whole.cluster_id),
            confirmed: confirmed.is_some(),
            leader_id: confirmed.map_or(0, |leader| leader.node_id),
            told_by: whole.node_id,
            term: whole.term,
            last_log_index: whole.last_log_index,
            committed_index: whole.committed_index,
            nodes,
            problems,
        }
    }

    /// No node that answers is a member of a cluster.
    fn not_initialized(named: &[String], answers: &Answers) -> Self {
        let silent = named.iter().filter_map(|address| {
            let error = answers.get(address)?.as_ref().err()?;
            Some(format!("{address} does not answer: {error}"))
        });
        Self {
            cluster_id: String::new(),
            confirmed: false,
            leader_id: 0,
            told_by: 0,
            term: 0,
            last_log_index: 0,
            committed_index: 0,
            nodes: Vec::new(),
            problems: silent.collect(),
        }
    }
}

impl Member {
    fn new(
        node: &proto::Node,
        own: Result<proto::GetClusterStatusResponse, String>,
        confirmed: bool,
        problems: &mut Vec<String>,
    ) -> Self {
        let (id, public, peer) = (node.node_id, &node.public_address, &node.peer_address);
        let mut role = word(node.role().as_str_name(), "NODE_ROLE_");
        // Who leads, and who is about to, is one node's word.
        if !confirmed && matches!(node.role(), NodeRole::Leader | NodeRole::Candidate) {
            role = "follower".to_owned();
        }
        let mut room = node.room;
        let (own, unreachable) = match own {
            Ok(own) if own.node_id != id => {
                let other = own.node_id;
                problems.push(format!(
                    "at {public}, where node {id} should be, node {other} answers"
                ));
                role = "elsewhere".to_owned();
                (None, None)
            }
            // A version that says nothing of its folder is taken at its word.
            Ok(own) if !own.storage_id.is_empty() && own.storage_id != node.storage_id => {
                problems.push(format!(
                    "node {id} was replaced, and takes no part: its data folder is not the one that the membership \
                     knows. `ordo cluster add {id} --peer {peer} --public {public} --replace` takes it in again, and \
                     `ordo cluster promote {id}` gives it a vote"
                ));
                role = "replaced, not taking part".to_owned();
                (None, None)
            }
            Ok(own) => {
                problems.extend(own.problems.iter().cloned());
                // Its own word is newer than what others heard of it.
                let itself = own.nodes.iter().find(|node| node.node_id == id);
                room = itself.and_then(|node| node.room).or(room);
                (Some(Own::from(own)), None)
            }
            Err(error) => (None, Some(error)),
        };
        Self {
            role,
            storage_id: uuid(&node.storage_id),
            node_id: id,
            public_address: public.clone(),
            peer_address: peer.clone(),
            matched_index: node.matched_index,
            room: room.as_ref().map(Room::from),
            own,
            unreachable,
        }
    }
}

impl From<&proto::NodeRoom> for Room {
    fn from(wire: &proto::NodeRoom) -> Self {
        Self {
            memory_bytes: wire.memory_bytes,
            memory_bytes_max: wire.memory_bytes_max,
            disk_free_bytes: wire.disk_free_bytes,
            disk_free_bytes_min: wire.disk_free_bytes_min,
        }
    }
}

impl Room {
    /// `12.0 GiB of disk left, 300.0 MiB of memory used`; what lacks first, and alone.
    fn sentence(&self) -> String {
        if let Some(free) = self
            .disk_free_bytes
            .filter(|free| *free < self.disk_free_bytes_min)
        {
            return format!(
                "LACKS DISK: {} left, {} needed",
                bytes(free),
                bytes(self.disk_free_bytes_min)
            );
        }
        if let Some(used) = self
            .memory_bytes
            .filter(|used| *used > self.memory_bytes_max)
        {
            return format!(
                "LACKS MEMORY: {} used, {} allowed",
                bytes(used),
                bytes(self.memory_bytes_max)
            );
        }
        let disk = self
            .disk_free_bytes
            .map(|free| format!("disk {} left", bytes(free)));
        let memory = self
            .memory_bytes
            .map(|used| format!("memory {} used", bytes(used)));
        disk.into_iter()
            .chain(memory)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl From<proto::GetClusterStatusResponse> for Own {
    fn from(wire: proto::GetClusterStatusResponse) -> Self {
        let hash = wire
            .state_hash
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            applied_index: wire.applied_index,
            snapshot_index: wire.snapshot_index,
            state_hash: hash,
            version: wire.version,
        }
    }
}

impl Row for Member {
    const HEADINGS: &'static [&'static str] = &[
        ">node",
        "role",
        "public",
        "peer",
        ">on its disk",
        ">applied",
        ">snapshot",
        "state hash",
        "version",
        "room",
    ];

    fn cells(&self) -> Vec<String> {
        // What a node was not asked for, or did not answer.
        let own = |value: fn(&Own) -> String| {
            self.own
                .as_ref()
                .map(value)
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| "–".to_owned())
        };
        let role = match (&self.unreachable, self.role.as_str()) {
            (Some(_), _) => "unreachable".to_owned(),
            (None, "unspecified") => String::new(),
            (None, role) => role.to_owned(),
        };
        vec![
            self.node_id.to_string(),
            role,
            self.public_address.clone(),
            self.peer_address.clone(),
            if self.matched_index == 0 {
                "–".to_owned()
            } else {
                self.matched_index.to_string()
            },
            own(|own| own.applied_index.to_string()),
            own(|own| own.snapshot_index.to_string()),
            own(|own| own.state_hash.chars().take(16).collect()),
            own(|own| own.version.clone()),
            self.room
                .as_ref()
                .map(Room::sentence)
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| "–".to_owned()),
        ]
    }
}

impl Card for Status {
    fn properties(&self) -> Vec<(&'static str, String)> {
        if self.cluster_id.is_empty() {
            let what = match self.problems.is_empty() {
                true => "not initialized: run `ordo cluster init` once",
                false => {
                    "none of the nodes that answer is a member of one, and not all of them answer"
                }
            };
            return vec![("cluster", what.to_owned())];
        }
        let leader = match self.leader_id {
            0 => format!(
                "none that a quorum knows; what follows is what node {} knew last",
                self.told_by
            ),
            leader => format!("node {leader}, in term {}", self.term),
        };
        vec![
            ("cluster", self.cluster_id.clone()),
            ("leader", leader),
            (
                "log",
                format!(
                    "last {}, committed {}",
                    self.last_log_index, self.committed_index
                ),
            ),
        ]
    }

    fn below(&self) -> Option<String> {
        let nodes = (!self.nodes.is_empty()).then(|| table(&self.nodes));
        let problems = (!self.problems.is_empty()).then(|| self.problems.join("\n"));
        let parts: Vec<String> = nodes.into_iter().chain(problems).collect();
        (!parts.is_empty()).then(|| parts.join("\n\n"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn node(node_id: u64, role: NodeRole) -> proto::Node {
        proto::Node {
            node_id,
            role: role.into(),
            public_address: format!("n{node_id}"),
            peer_address: format!("p{node_id}"),
            storage_id: vec![node_id as u8; 16].into(),
            ..Default::default()
        }
    }

    fn answer(node_id: u64, confirmed: bool) -> proto::GetClusterStatusResponse {
        proto::GetClusterStatusResponse {
            cluster_id: vec![1; 16].into(),
            node_id,
            leader_id: 1,
            leader_confirmed: confirmed,
            storage_id: vec![node_id as u8; 16].into(),
            nodes: vec![node(1, NodeRole::Leader), node(2, NodeRole::Follower)],
            applied_index: 5,
            state_hash: vec![0xab; 16].into(),
            ..Default::default()
        }
    }

    fn status<const N: usize>(
        answers: [(&str, Result<proto::GetClusterStatusResponse, String>); N],
    ) -> (Status, String) {
        let named: Vec<String> = answers
            .iter()
            .map(|(address, _)| (*address).to_owned())
            .collect();
        let answers = answers
            .into_iter()
            .map(|(address, answer)| (address.to_owned(), answer));
        let status = Status::new(&named, answers.collect());
        let text = crate::output::properties(&status.properties());
        let text = format!("{text}\n{}", status.below().unwrap_or_default());
        (status, text)
    }

    #[test]
    fn a_node_that_does_not_answer_is_named_so() {
        let silent = || Err("connection refused".to_owned());
        let (status, text) = status([("n1", Ok(answer(1, true))), ("n2", silent())]);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["leader_id"], 1);
        assert_eq!(json["nodes"][0]["applied_index"], 5);
        assert_eq!(json["nodes"][0]["role"], "leader");
        assert_eq!(json["nodes"][1]["unreachable"], "connection refused");
        assert!(json["nodes"][1].get("applied_index").is_none());
        assert!(
            text.contains("unreachable") && text.contains("abababababababab"),
            "{text}"
        );
        assert_eq!(status.nodes[0].cells().len(), Member::HEADINGS.len());
    }

    #[test]
    fn an_empty_cluster_says_what_to_do_where_every_node_says_so() {
        let (_, text) = status([
            ("n1", Ok(Default::default())),
            ("n2", Ok(Default::default())),
        ]);
        assert!(text.contains("cluster init"), "{text}");
        let (_, text) = status([
            ("n1", Ok(Default::default())),
            ("n2", Err("refused".to_owned())),
        ]);
        assert!(
            !text.contains("cluster init") && text.contains("n2 does not answer"),
            "{text}"
        );
    }

    #[test]
    fn a_leader_that_no_quorum_confirms_is_none() {
        let (status, text) = status([
            ("n1", Ok(answer(1, false))),
            ("n2", Err("refused".to_owned())),
        ]);
        assert!(text.contains("none that a quorum knows"), "{text}");
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(
            (&json["leader_id"], &json["confirmed"]),
            (&0.into(), &false.into())
        );
        assert_eq!(json["nodes"][0]["role"], "follower");
    }

    #[test]
    fn a_member_with_another_folder_is_shown_as_replaced() {
        let wiped = proto::GetClusterStatusResponse {
            node_id: 2,
            storage_id: vec![9; 16].into(),
            ..Default::default()
        };
        let (status, text) = status([("n2", Ok(wiped)), ("n1", Ok(answer(1, true)))]);
        assert_eq!(status.nodes[1].role, "replaced, not taking part");
        assert!(status.nodes[1].own.is_none());
        let heals = "cluster add 2 --peer p2 --public n2 --replace";
        assert!(
            text.contains(heals) && text.contains("cluster promote 2"),
            "{text}"
        );
    }

    #[test]
    fn who_lacks_room_is_seen_at_once() {
        let mut leader = answer(1, true);
        leader.nodes[1].room = Some(proto::NodeRoom {
            memory_bytes: Some(1 << 20),
            memory_bytes_max: 2 << 30,
            disk_free_bytes: Some(5 << 20),
            disk_free_bytes_min: 256 << 20,
        });
        let (_, text) = status([("n1", Ok(leader)), ("n2", Ok(answer(2, false)))]);
        assert!(
            text.contains("LACKS DISK: 5.0 MiB left, 256.0 MiB needed"),
            "{text}"
        );
    }
}
