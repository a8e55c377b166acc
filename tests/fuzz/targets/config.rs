//! Configurations of a node and of a gateway: any text is refused with the keys that are wrong, or is a configuration
//! in which every key that was given was read and every value is allowed.
#![no_main]

// The node's own module, by its path: the crate around it is RocksDB and openraft.
#[allow(dead_code, reason = "what `ordo serve` needs beside it")]
#[path = "../../../crates/node/src/config/mod.rs"]
mod config;

use config::{Config, Overrides};
use figment::providers::{Format, Toml};
use figment::value::Dict;
use libfuzzer_sys::fuzz_target;
use ordo_gateway::config::GatewayConfig;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

const TOP: [&str; 9] = [
    "node_id",
    "data_dir",
    "public",
    "peer",
    "http",
    "allow_plaintext",
    "peers",
    "limits",
    "raft",
];

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("ordo-fuzz-{}.toml", std::process::id())));

fuzz_target!(|text: &str| {
    node(text);
    gateway(text);
});

fn node(text: &str) {
    fs::write(&*FILE, text).expect("the temporary folder takes a small file");
    // The same text as a variable: a value, or no table at all.
    let variable = ("ORDO_LIMITS__CONNECTIONS".to_owned(), text.to_owned());
    for env in [None, Some(variable)] {
        let from_file = env.is_none();
        match Config::load_with(Some(&FILE), env.into_iter(), &Overrides::default()) {
            Ok(config) => {
                assert_eq!(config.check(), Ok(()));
                if from_file {
                    check_known(text);
                }
            }
            Err(errors) => {
                assert!(!errors.0.is_empty());
                for problem in &errors.0 {
                    assert!(!problem.key.is_empty(), "{problem}");
                    assert!(!problem.allowed.is_empty(), "{problem}");
                }
            }
        }
    }
}

/// A key that nobody reads is a mistake that nobody hears of.
fn check_known(text: &str) {
    let values: Dict = Toml::from_str(text).expect("it was read");
    for (key, value) in &values {
        assert!(TOP.contains(&key.as_str()), "{key:?} was not read");
        for inner in value.as_dict().into_iter().flat_map(|inner| inner.keys()) {
            let known = inner
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(known, "{key}.{inner:?} was not read");
        }
    }
}

fn gateway(text: &str) {
    match GatewayConfig::parse(text) {
        Ok(config) => assert_eq!(config.check(), Ok(())),
        Err(errors) => {
            assert!(!errors.0.is_empty());
            for problem in &errors.0 {
                assert!(!problem.key.is_empty(), "{problem}");
                assert!(!problem.allowed.is_empty(), "{problem}");
            }
        }
    }
}
