#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::{Config, Overrides};
use std::path::{Path, PathBuf};

const GOOD: &str = r#"
node_id = 1
data_dir = "data/node1"
public = "127.0.0.1:7400"
peer = "127.0.0.1:7401"
http = "127.0.0.1:7402"

[[peers]]
node_id = 1
peer = "127.0.0.1:7401"
public = "127.0.0.1:7400"
"#;

fn load(text: &str, env: &[(&str, &str)], overrides: &Overrides) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load_with(Some(&path), env, overrides).map_err(|errors| {
        errors
            .to_string()
            .replace(path.to_str().unwrap(), "node.toml")
    })
}

#[test]
fn a_file_is_read_and_the_rest_are_defaults() {
    let config = load(
        GOOD,
        &[("ORDO_CACHE", "/x"), ("PATH", "/bin")],
        &Overrides::default(),
    )
    .unwrap();
    assert_eq!(config.node_id, 1);
    assert_eq!(config.data_dir, PathBuf::from("data/node1"));
    assert_eq!(config.peers.len(), 1);
    assert_eq!(config.raft, super::RaftTiming::default());
    assert_eq!(config.limits, super::Limits::default());
    assert_eq!(config.public_address(), "127.0.0.1:7400");
}

#[test]
fn the_shipped_files_are_good() {
    for node in 1..=3 {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../cluster/node{node}.toml"));
        let config =
            Config::load_with(Some(&path), std::iter::empty(), &Overrides::default()).unwrap();
        assert_eq!(config.node_id, node);
        assert_eq!(config.peers.len(), 3);
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let env = [
        ("ORDO_NODE_ID", "2"),
        ("ORDO_RAFT__HEARTBEAT_MS", "100"),
        ("ORDO_DATA_DIR", "7"),
        ("ORDO_PEERS", "[]"),
    ];
    let overrides = Overrides {
        node_id: Some(3),
        public: Some("127.0.0.1:1".to_owned()),
        ..Overrides::default()
    };
    let config = load(GOOD, &env, &overrides).unwrap();
    assert_eq!((config.node_id, config.public.port()), (3, 1));
    assert_eq!(config.raft.heartbeat_ms, 100);
    assert_eq!(config.data_dir, PathBuf::from("7"));
    assert_eq!(config.peers, []);
}

#[test]
fn each_wrong_value_is_named_with_its_place_and_what_is_allowed() {
    let table = [
        (
            "node_id = 0",
            "node_id is 0 (node.toml); allowed: a number of at least 1",
        ),
        (
            "node_id = \"one\"",
            "node_id is \"one\" (node.toml); allowed: a number of at least 1",
        ),
        (
            "public = \"localhost\"",
            "public is \"localhost\" (node.toml); allowed: an IP address and port",
        ),
        (
            "peer = 7401",
            "peer is 7401 (node.toml); allowed: an IP address and port",
        ),
        (
            "data_dir = \"\"",
            "data_dir is \"\" (node.toml); allowed: a folder",
        ),
        (
            "allow_plaintext = 3",
            "allow_plaintext is 3 (node.toml); allowed: true or false",
        ),
        (
            "http = \"0.0.0.0:7402\"",
            "http is 0.0.0.0:7402; allowed: a loopback address, or allow_plaintext = true",
        ),
        (
            "http = \"127.0.0.1:7400\"",
            "http is 127.0.0.1:7400; allowed: an address of its own",
        ),
        (
            "colour = \"red\"",
            "colour is not a key of the configuration (node.toml); allowed: allow_plaintext, ",
        ),
        (
            "raft.speed = 1",
            "raft.speed is not a key of the configuration (node.toml)",
        ),
        (
            "\"limits.connections\" = 5",
            "\"limits.connections\" is not a key of the configuration (node.toml)",
        ),
        (
            "\"\" = 5",
            "\"\" is not a key of the configuration (node.toml)",
        ),
        (
            "raft.heartbeat_ms = 5",
            "raft.heartbeat_ms is 5 (node.toml); allowed: a number from 10 to 10000",
        ),
        (
            "raft.election_ms_min = 300",
            "raft.election_ms_min is 300; allowed: at least 3 times raft.heartbeat_ms (150)",
        ),
        (
            "raft.election_ms_max = 500",
            "raft.election_ms_max is 500; allowed: more than raft.election_ms_min (500)",
        ),
        (
            "raft.snapshot_entries = -4",
            "raft.snapshot_entries is -4 (node.toml); allowed: a number from 100",
        ),
        (
            "limits.connections = 0",
            "limits.connections is 0 (node.toml); allowed: a number from 1 to 1000000",
        ),
        (
            "limits.streams_per_connection = 0.5",
            "limits.streams_per_connection is 0.5 (node.toml); allowed",
        ),
        (
            "limits.memory_bytes = 1",
            "limits.memory_bytes is 1 (node.toml); allowed: a number of at least 67108864",
        ),
        (
            "peers = 3",
            "peers is 3 (node.toml); allowed: tables of node_id",
        ),
        (
            "peers = [{ node_id = 2, peer = \"a:1\", public = \"b:2\" }]",
            "peers is nodes {2}; allowed: a list that has this node",
        ),
        (
            "peers = [{ node_id = 1, peer = \"a\", public = \"b:2\" }]",
            "peers[0] is { node_id = 1, peer = \"a\", public = \"b:2\" }",
        ),
        (
            "peers = [{ node_id = 1, peer = \"a:1\", public = \"b:2\", color = 1 }]",
            "unknown field",
        ),
        (
            "peers = [{ node_id = 1, peer = \"a:1\", public = \"b:2\" }, { node_id = 1, peer = \"c:1\", public = \"b:2\" }]",
            "peers[1].node_id is 1 twice; allowed: distinct numbers",
        ),
    ];
    for (line, expected) in table {
        let key = line.split([' ', '.']).next().unwrap();
        let base: String = GOOD
            .split("[[peers]]")
            .take(1)
            .flat_map(str::lines)
            .filter(|kept| kept.split(' ').next() != Some(key))
            .flat_map(|kept| [kept, "\n"])
            .collect();
        let error = load(&format!("{base}{line}\n"), &[], &Overrides::default()).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn wrong_values_of_the_environment_and_of_flags_name_them() {
    let env = [
        ("ORDO_RAFT__HEARTBEAT_MS", "soon"),
        ("ORDO_NOTHING__AT_ALL", "1"),
        ("ORDO_LIMITS__CONNECTION", "4"),
    ];
    let overrides = Overrides {
        public: Some("here".to_owned()),
        ..Overrides::default()
    };
    let error = load(GOOD, &env, &overrides).unwrap_err();
    for expected in [
        "raft.heartbeat_ms is \"soon\" (environment variable ORDO_RAFT__HEARTBEAT_MS)",
        "nothing is not a key",
        "limits.connection is not a key of the configuration (environment variable ORDO_LIMITS__CONNECTION)",
        "public is \"here\" (flag --public)",
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn missing_values_and_unreadable_files_are_told() {
    let error = Config::load_with(None, std::iter::empty(), &Overrides::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("node_id is missing; allowed: a number of at least 1"),
        "{error}"
    );
    assert!(
        error.contains("data_dir is missing; allowed: a folder"),
        "{error}"
    );
    let error = Config::load_with(
        Some(Path::new("no/such/file")),
        std::iter::empty(),
        &Overrides::default(),
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("(no/such/file); allowed: a readable TOML file")
    );
    let error = load("node_id = [", &[], &Overrides::default()).unwrap_err();
    assert!(error.contains("the configuration file is"), "{error}");
}

#[test]
fn plaintext_off_loopback_can_be_meant() {
    let text = GOOD.replace("127.0.0.1:7402", "0.0.0.0:7402");
    assert!(load(&text, &[], &Overrides::default()).is_err());
    let overrides = Overrides {
        allow_plaintext: Some(true),
        ..Overrides::default()
    };
    assert!(load(&text, &[], &overrides).unwrap().allow_plaintext);
}
