//! Who speaks to whom: the metadata of every call between nodes.

use crate::identity::Identity;
use openraft::storage::RaftStateMachine;
use ordo_storage::{StoredMembership, TypeConfig};
use std::fmt;
use std::str::FromStr;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Status};
use uuid::Uuid;

const CLUSTER: &str = "ordo-cluster";
const FROM: &str = "ordo-from";
const TO: &str = "ordo-to";

/// A node as membership means it: its number, and the data folder that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeName {
    pub(crate) node_id: u64,
    pub(crate) storage_id: Uuid,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node_id, self.storage_id)
    }
}

impl FromStr for NodeName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (node_id, storage_id) = text.split_once('/').ok_or(())?;
        Ok(Self {
            node_id: node_id.parse().map_err(|_| ())?,
            storage_id: Uuid::parse_str(storage_id).map_err(|_| ())?,
        })
    }
}

impl NodeName {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self {
            node_id: identity.node_id(),
            storage_id: identity.storage_id(),
        }
    }
}

/// `message` with the metadata that says who calls whom; an error before this node is of a cluster.
pub(crate) fn addressed<T>(
    message: T,
    identity: &Identity,
    to: NodeName,
) -> Result<Request<T>, Status> {
    let no_cluster = || Status::failed_precondition("this node is not a member of a cluster yet");
    let cluster = identity.cluster_id().ok_or_else(no_cluster)?;
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    for (key, text) in [
        (CLUSTER, cluster.to_string()),
        (FROM, NodeName::of(identity).to_string()),
        (TO, to.to_string()),
    ] {
        let value: MetadataValue<Ascii> =
            text.parse().expect("numbers, UUIDs and a slash are ASCII");
        metadata.insert(key, value);
    }
    Ok(request)
}

/// Checks a call's cluster and addressee, and says who sent it.
pub(crate) fn check(metadata: &MetadataMap, identity: &Identity) -> Result<NodeName, Status> {
    let text = |key: &'static str| {
        let value = metadata.get(key).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| Status::unauthenticated(format!("the call lacks the metadata {key}")))
    };
    let name = |key: &'static str| {
        let malformed =
            || Status::unauthenticated(format!("the metadata {key} is not node/storage id"));
        text(key)?.parse::<NodeName>().map_err(|()| malformed())
    };
    let (from, to, own) = (name(FROM)?, name(TO)?, NodeName::of(identity));
    let Some(cluster) = identity.cluster_id() else {
        return Err(refused(format!(
            "node {own} is not a member of a cluster yet"
        )));
    };
    if text(CLUSTER)? != cluster.to_string() {
        return Err(refused(format!(
            "node {own} belongs to cluster {cluster}, not to {}",
            text(CLUSTER)?
        )));
    }
    if to != own {
        return Err(refused(format!(
            "this is node {own}, not node {to}: it was set up anew, or the address is another node's"
        )));
    }
    Ok(from)
}

/// Refuses a candidate that the membership knows under another storage id: it lost what it voted on.
pub(crate) fn check_candidate(from: NodeName, membership: &StoredMembership) -> Result<(), Status> {
    match membership.get_node(&from.node_id) {
        Some(member) if member.storage_id != from.storage_id => Err(refused(format!(
            "node {} has storage {}, the membership says {}: it was set up anew. Remove it and add it again",
            from.node_id, from.storage_id, member.storage_id
        ))),
        _ => Ok(()),
    }
}

fn refused(text: String) -> Status {
    Status::failed_precondition(text)
}

/// The membership in effect at `raft`.
pub(crate) fn membership<SM: RaftStateMachine<TypeConfig>>(
    raft: &super::RaftOf<SM>,
) -> StoredMembership {
    use openraft::async_runtime::WatchReceiver;
    raft.metrics()
        .borrow_watched()
        .membership_config
        .as_ref()
        .clone()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{NodeName, addressed, check, check_candidate};
    use crate::config::Config;
    use crate::identity::Identity;
    use ordo_storage::{Member, Membership, StoredMembership};
    use std::collections::{BTreeMap, BTreeSet};
    use uuid::Uuid;

    fn node(
        node_id: u64,
        storage_id: u128,
        cluster_id: Option<u128>,
    ) -> (tempfile::TempDir, Identity) {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::local(node_id, folder.path().to_owned());
        let identity = Identity::open(&config, || Uuid::from_u128(storage_id)).unwrap();
        if let Some(cluster_id) = cluster_id {
            identity.adopt(Uuid::from_u128(cluster_id)).unwrap();
        }
        (folder, identity)
    }

    #[test]
    fn a_call_is_taken_from_the_cluster_and_for_oneself_only() {
        let (_a, one) = node(1, 11, Some(9));
        let (_b, two) = node(2, 22, Some(9));
        let request = addressed((), &one, NodeName::of(&two)).unwrap();
        assert_eq!(check(request.metadata(), &two).unwrap(), NodeName::of(&one));

        let (_c, wiped) = node(2, 23, None);
        let error = check(request.metadata(), &wiped).unwrap_err();
        assert!(
            error.message().contains("not a member of a cluster yet"),
            "{error}"
        );
        wiped.adopt(Uuid::from_u128(9)).unwrap();
        let error = check(request.metadata(), &wiped).unwrap_err();
        assert!(error.message().contains("it was set up anew"), "{error}");
        let (_d, stranger) = node(2, 22, Some(8));
        let error = check(request.metadata(), &stranger).unwrap_err();
        assert!(error.message().contains("belongs to cluster"), "{error}");
        assert_eq!(
            check(tonic::Request::new(()).metadata(), &two)
                .unwrap_err()
                .code(),
            tonic::Code::Unauthenticated
        );
        let (_e, pristine) = node(3, 33, None);
        assert!(addressed((), &pristine, NodeName::of(&two)).is_err());
    }

    #[test]
    fn a_candidate_with_another_storage_gets_no_vote() {
        let member = Member {
            peer: String::new(),
            public: String::new(),
            storage_id: Uuid::from_u128(11),
        };
        let membership =
            Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member)])).unwrap();
        let membership = StoredMembership::new(None, membership);
        let name = |node_id, storage_id| NodeName {
            node_id,
            storage_id: Uuid::from_u128(storage_id),
        };
        assert!(check_candidate(name(1, 11), &membership).is_ok());
        assert!(check_candidate(name(1, 12), &membership).is_err());
        assert!(
            check_candidate(name(2, 12), &membership).is_ok(),
            "one it has not heard of may be a member by now"
        );
    }
}
