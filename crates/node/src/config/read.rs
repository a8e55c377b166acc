//! Reads single values and remembers everything that is wrong with them.

use super::{Overrides, PeerConfig};
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

const ENVIRONMENT: &str = "environment";
const FLAGS: &str = "command line";

/// One value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in the file: `raft.heartbeat_ms`.
    pub key: String,
    /// What was found.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
    /// The file, variable or flag it came from; `None` for a default, a missing value or a combination.
    pub place: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.key, self.value)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        write!(f, "; allowed: {}", self.allowed)
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Values that were found under one name: the environment's, or the command line's.
struct Given {
    name: &'static str,
    values: Dict,
}

impl Provider for Given {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

pub(super) struct Reader {
    figment: Figment,
    problems: Vec<Problem>,
    known: BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            let unreadable = |what: String| {
                ConfigErrors(vec![Problem {
                    key: "the configuration file".to_owned(),
                    value: what,
                    allowed: "a readable TOML file".to_owned(),
                    place: Some(path.display().to_string()),
                }])
            };
            let text =
                std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
            let values: Dict =
                Toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
            let mut values = Named {
                place: path.display().to_string(),
                values,
            };
            values
                .values
                .retain(|_, value| !matches!(value, Value::Empty(..)));
            figment = figment.merge(values);
        }
        let flags = Value::serialize(overrides).expect("plain values serialize");
        let flags = flags.into_dict().expect("a struct is a dictionary");
        let figment = figment
            .merge(Given {
                name: ENVIRONMENT,
                values: environment(env),
            })
            .merge(Given {
                name: FLAGS,
                values: flags,
            });
        Ok(Self {
            figment,
            problems: Vec::new(),
            known: BTreeSet::new(),
        })
    }

    /// A number from `min` to `max`; without a default it must be there.
    pub(super) fn number(
        &mut self,
        key: &str,
        default: Option<u64>,
        min: u64,
        max: u64,
    ) -> Option<u64> {
        let allowed = match max {
            u64::MAX => format!("a number of at least {min}"),
            _ => format!("a number from {min} to {max}"),
        };
        self.take(key, default, &allowed, |number| {
            (min..=max).contains(number)
        })
    }

    pub(super) fn text(
        &mut self,
        key: &str,
        default: Option<&str>,
        allowed: &str,
        valid: impl Fn(&String) -> bool,
    ) -> Option<String> {
        self.take(key, default.map(str::to_owned), allowed, valid)
    }

    pub(super) fn boolean(&mut self, key: &str, default: bool) -> Option<bool> {
        self.take(key, Some(default), "true or false", |_| true)
    }

    pub(super) fn address(&mut self, key: &str, default: SocketAddr) -> Option<SocketAddr> {
        let allowed = "an IP address and port to listen on, as 127.0.0.1:7400";
        self.take(key, Some(default), allowed, |_| true)
    }

    /// The list of members; empty when there is none.
    pub(super) fn peers(&mut self, key: &str) -> Option<Vec<PeerConfig>> {
        let allowed = "tables of node_id (from 1), peer and public (host:port)";
        self.known.insert(key.to_owned());
        let Some(found) = self.found(key) else {
            return Some(Vec::new());
        };
        let Some(list) = found.as_array() else {
            self.wrong(key, render(&found), allowed);
            return None;
        };
        let mut peers = Vec::new();
        for (i, value) in list.iter().enumerate() {
            match value.deserialize::<PeerConfig>() {
                Ok(peer)
                    if peer.node_id > 0 && is_address(&peer.peer) && is_address(&peer.public) =>
                {
                    peers.push(peer)
                }
                Ok(_) => self.wrong_in(key, i, render(value), allowed),
                Err(error) => self.wrong_in(
                    key,
                    i,
                    format!("{}: {}", render(value), error.kind),
                    allowed,
                ),
            }
        }
        (peers.len() == list.len()).then_some(peers)
    }

    fn take<T: DeserializeOwned>(
        &mut self,
        key: &str,
        default: Option<T>,
        allowed: &str,
        valid: impl Fn(&T) -> bool,
    ) -> Option<T> {
        self.known.insert(key.to_owned());
        let Some(found) = self.found(key) else {
            if default.is_none() {
                self.problems.push(Problem {
                    key: key.to_owned(),
                    value: "missing".to_owned(),
                    allowed: allowed.to_owned(),
                    place: None,
                });
            }
            return default;
        };
        match found.deserialize::<T>() {
            Ok(value) if valid(&value) => Some(value),
            _ => {
                self.wrong(key, render(&found), allowed);
                None
            }
        }
    }

    fn found(&self, key: &str) -> Option<Value> {
        self.figment.find_value(key).ok()
    }

    fn wrong(&mut self, key: &str, value: String, allowed: &str) {
        let place = self
            .figment
            .find_metadata(key)
            .map(|metadata| place(metadata, key));
        self.problems.push(Problem {
            key: key.to_owned(),
            value,
            allowed: allowed.to_owned(),
            place,
        });
    }

    fn wrong_in(&mut self, key: &str, i: usize, value: String, allowed: &str) {
        let place = self
            .figment
            .find_metadata(key)
            .map(|metadata| place(metadata, key));
        self.problems.push(Problem {
            key: format!("{key}[{i}]"),
            value,
            allowed: allowed.to_owned(),
            place,
        });
    }

    /// Everything that was wrong, unknown keys included.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        let Ok(root) = self.figment.find_value("") else {
            return self.problems;
        };
        let mut unknown = Vec::new();
        for (key, value) in root.as_dict().into_iter().flatten() {
            let section = format!("{key}.");
            match value.as_dict() {
                Some(values) if self.known.iter().any(|known| known.starts_with(&section)) => {
                    let strange =
                        |inner: &String| !self.known.contains(&format!("{section}{inner}"));
                    let strange = values.iter().filter(|(inner, _)| strange(inner));
                    unknown.extend(strange.map(|(inner, value)| {
                        (format!("{}.{}", written(key), written(inner)), value.tag())
                    }));
                }
                // One with a dot in it, in quotes, is not the key of that name in a section.
                _ if key.contains('.') || !self.known.contains(key) => {
                    unknown.push((written(key), value.tag()));
                }
                _ => {}
            }
        }
        let allowed = self.known.iter().cloned().collect::<Vec<_>>().join(", ");
        for (key, tag) in unknown {
            let metadata = self.figment.get_metadata(tag);
            self.problems.push(Problem {
                place: metadata.map(|metadata| place(metadata, &key)),
                key,
                value: "not a key of the configuration".to_owned(),
                allowed: allowed.clone(),
            });
        }
        self.problems
    }
}

/// The values of a file, under the file's name.
struct Named {
    place: String,
    values: Dict,
}

impl Provider for Named {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.place.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

const TOP: [&str; 7] = [
    "node_id",
    "data_dir",
    "public",
    "peer",
    "http",
    "allow_plaintext",
    "peers",
];

fn environment(env: impl Iterator<Item = (String, String)>) -> Dict {
    let mut values = Dict::new();
    for (name, text) in env {
        let Some(key) = name.strip_prefix("ORDO_").map(str::to_lowercase) else {
            continue;
        };
        // Infallible: what is nothing else is a text.
        let Ok(value) = text.parse::<Value>();
        match key.split_once("__") {
            // Refused later, with its name, when the section or key is unknown.
            Some((section, inner)) => {
                let dict = values
                    .entry(section.to_owned())
                    .or_insert_with(|| Value::from(Dict::new()));
                if let Value::Dict(_, dict) = dict {
                    dict.insert(inner.to_owned(), value);
                }
            }
            // Other programs, and our own scripts, have ORDO_ variables too.
            None if TOP.contains(&key.as_str()) => {
                // A folder may be called "1": numbers and such are meant as text here.
                let value = if key == "data_dir" {
                    Value::from(text.as_str())
                } else {
                    value
                };
                values.insert(key, value);
            }
            None => {}
        }
    }
    values
}

fn place(metadata: &Metadata, key: &str) -> String {
    match metadata.name.as_ref() {
        ENVIRONMENT => format!(
            "environment variable ORDO_{}",
            key.replace('.', "__").to_uppercase()
        ),
        FLAGS => format!("flag --{}", key.replace('_', "-")),
        file => file.to_owned(),
    }
}

/// A key as it stands in the file: in quotes where it needs them.
fn written(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    match !key.is_empty() && key.chars().all(bare) {
        true => key.to_owned(),
        false => format!("{key:?}"),
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn render(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, text) => format!("{text:?}"),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (number.to_u128(), number.to_i128(), number.to_f64()) {
            (Some(number), ..) => number.to_string(),
            (_, Some(number), _) => number.to_string(),
            (.., Some(number)) => number.to_string(),
            _ => "a number".to_owned(),
        },
        Value::Empty(..) => "empty".to_owned(),
        Value::Dict(_, values) => {
            let inner = values
                .iter()
                .map(|(key, value)| format!("{key} = {}", render(value)));
            format!("{{ {} }}", inner.collect::<Vec<_>>().join(", "))
        }
        Value::Array(_, values) => format!(
            "[{}]",
            values.iter().map(render).collect::<Vec<_>>().join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::TOP;
    use crate::config::Config;

    #[test]
    fn the_names_the_environment_knows_are_those_that_are_read() {
        let mut reader = super::Reader::new(None, std::iter::empty(), &super::Overrides::default())
            .expect("no file, nothing to misread");
        assert_eq!(Config::read(&mut reader), None, "node_id is missing");
        let mut top = TOP.map(str::to_owned).to_vec();
        top.sort();
        let found = reader
            .known
            .iter()
            .filter(|key| !key.contains('.'))
            .cloned()
            .collect::<Vec<_>>();
        assert_eq!(found, top);
    }
}
