//! The cluster and its nodes.

use ordo_client::proto;
use serde::Serialize;

use super::{uuid, word};
use crate::output::{Card, Row, table};

/// The cluster, as its nodes see it.
#[derive(Debug, Serialize)]
pub struct Status {
    cluster_id: String,
    leader_id: u64,
    term: u64,
    last_log_index: u64,
    committed_index: u64,
    nodes: Vec<Member>,
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
    /// What it says of itself; none where it did not answer.
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

impl Status {
    /// From one node's view of the whole and every node's answer about itself, in the order of the nodes.
    pub fn new<E: std::fmt::Display>(
        whole: proto::GetClusterStatusResponse,
        own: Vec<Result<proto::GetClusterStatusResponse, E>>,
    ) -> Self {
        let nodes = whole
            .nodes
            .into_iter()
            .zip(own)
            .map(|(node, own)| Member::new(node, own));
        Self {
            cluster_id: uuid(&whole.cluster_id),
            leader_id: whole.leader_id,
            term: whole.term,
            last_log_index: whole.last_log_index,
            committed_index: whole.committed_index,
            nodes: nodes.collect(),
        }
    }
}

impl Member {
    fn new<E: std::fmt::Display>(
        node: proto::Node,
        own: Result<proto::GetClusterStatusResponse, E>,
    ) -> Self {
        let (own, unreachable) = match own {
            Ok(own) => (Some(Own::from(own)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            role: word(node.role().as_str_name(), "NODE_ROLE_"),
            storage_id: uuid(&node.storage_id),
            node_id: node.node_id,
            public_address: node.public_address,
            peer_address: node.peer_address,
            matched_index: node.matched_index,
            own,
            unreachable,
        }
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
        ]
    }
}

impl Card for Status {
    fn properties(&self) -> Vec<(&'static str, String)> {
        if self.cluster_id.is_empty() {
            return vec![(
                "cluster",
                "not initialized: run `ordo cluster init` once".to_owned(),
            )];
        }
        let leader = match self.leader_id {
            0 => "none known".to_owned(),
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
        (!self.nodes.is_empty()).then(|| table(&self.nodes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_named_so() {
        let node = |node_id, role: proto::NodeRole| proto::Node {
            node_id,
            role: role.into(),
            ..Default::default()
        };
        let whole = proto::GetClusterStatusResponse {
            cluster_id: vec![1; 16].into(),
            leader_id: 1,
            nodes: vec![
                node(1, proto::NodeRole::Leader),
                node(2, proto::NodeRole::Follower),
            ],
            ..Default::default()
        };
        let own = proto::GetClusterStatusResponse {
            applied_index: 5,
            state_hash: vec![0xab; 16].into(),
            ..Default::default()
        };
        let status = Status::new(whole, vec![Ok(own), Err("connection refused")]);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["nodes"][0]["applied_index"], 5);
        assert_eq!(json["nodes"][0]["role"], "leader");
        assert_eq!(json["nodes"][1]["unreachable"], "connection refused");
        assert!(json["nodes"][1].get("applied_index").is_none());
        let text = status.below().unwrap();
        assert!(
            text.contains("unreachable") && text.contains("abababababababab"),
            "{text}"
        );
        assert_eq!(status.nodes[0].cells().len(), Member::HEADINGS.len());
    }

    #[test]
    fn an_empty_cluster_says_what_to_do() {
        let status = Status::new::<String>(Default::default(), Vec::new());
        assert!(status.properties()[0].1.contains("cluster init"));
    }
}
