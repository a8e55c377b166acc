//! From TOML to a configuration, with everything of the wrong kind remembered.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::{
    ConfigErrors, FieldName, GatewayConfig, ListenConfig, MessageConfig, Problem, SendConfig,
};
use crate::charset::Charset;

const ADDRESS_ALLOWED: &str = "an IP address and port, as \"127.0.0.1:2575\"";
const MATCH_ALLOWED: &str = "\"strict\", \"lenient\" or \"any\"";
const AWAIT_ALLOWED: &str = "\"commit\" or \"application\"";
const CONNECTION_ALLOWED: &str = "\"keep\" or \"per_message\"";
const TIME_ALLOWED: &str = "a number of milliseconds";
const CHARSET_ALLOWED: &str =
    "the name of a character set but UTF-16, as \"ISO IR87\", \"8859/1\" or \"Shift_JIS\"";
const IDENTITY_ALLOWED: &str = "\"control_id\", \"control_id_and_time\", \"content\" or \"none\"";
const IGNORED_ALLOWED: &str = "a list of fields, as [\"MSH-7\"], without MSH-1 and MSH-2";

/// The configuration with the defaults in place of what can't be used, and what that was.
pub(super) fn read(text: &str) -> Result<(GatewayConfig, Vec<Problem>), ConfigErrors> {
    let values: Dict = Toml::from_str(text).map_err(|error| {
        let error = error.to_string();
        ConfigErrors(vec![Problem::new(
            "the configuration",
            error.trim_end(),
            "TOML",
        )])
    })?;
    let mut problems = Vec::new();
    let mut config = GatewayConfig::default();
    let mut table = Table::new(String::new(), values, &mut problems);
    table.set("cluster", &mut config.cluster, "a list of \"host:port\"");
    table.set(
        "allow_plaintext",
        &mut config.allow_plaintext,
        "true or false",
    );
    table.set_time("shutdown_ms", &mut config.shutdown);
    let state: Option<PathBuf> = table.take_as("state", "the path of a folder");
    let listen = table.tables("listen");
    let send = table.tables("send");
    let inbound = table.table("inbound");
    let outbound = table.table("outbound");
    table.finish();
    config.state = state;

    // In the place of what is missing, and noted as such, stands something that is not found wrong once more.
    for (i, (path, values)) in listen.into_iter().enumerate() {
        let mut table = Table::new(path, values, &mut problems);
        let address = table.required("address", ADDRESS_ALLOWED);
        let interface = table.required("interface", "the name of an interface");
        let messages = read_messages(&mut table);
        table.finish();
        config.listen.push(ListenConfig {
            address: address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
            interface: interface.unwrap_or_else(|| format!("-{i}")),
            messages,
        });
    }
    for (i, (path, values)) in send.into_iter().enumerate() {
        let mut table = Table::new(path, values, &mut problems);
        let interface = table.required("interface", "the name of an interface");
        let mut send = SendConfig::default();
        let destination = &mut send.destination;
        table.set("destination", destination, "the name of a destination");
        let address = table.required("address", "\"host:port\"");
        table.set("match", &mut send.matching, MATCH_ALLOWED);
        table.set("await", &mut send.awaits, AWAIT_ALLOWED);
        table.set("connection", &mut send.connection, CONNECTION_ALLOWED);
        table.finish();
        config.send.push(SendConfig {
            interface: interface.unwrap_or_else(|| format!("-{i}")),
            address: address.unwrap_or_else(|| "127.0.0.1:1".to_owned()),
            ..send
        });
    }
    if let Some((path, values)) = inbound {
        let mut table = Table::new(path, values, &mut problems);
        let inbound = &mut config.inbound;
        table.set("connections", &mut inbound.connections, "a number");
        table.set(
            "payload_bytes",
            &mut inbound.payload_bytes,
            "a number of bytes",
        );
        table.set_time("idle_ms", &mut inbound.idle);
        table.set_time("frame_ms", &mut inbound.frame);
        table.set_time("frame_end_ms", &mut inbound.frame_end);
        table.finish();
    }
    if let Some((path, values)) = outbound {
        let mut table = Table::new(path, values, &mut problems);
        let outbound = &mut config.outbound;
        table.set_time("connect_ms", &mut outbound.connect);
        table.set_time("ack_ms", &mut outbound.ack);
        table.set_time("ack_ms_max", &mut outbound.ack_max);
        table.set_time("silence_ms", &mut outbound.silence);
        table.set_time("pause_ms_min", &mut outbound.pause_min);
        table.set_time("pause_ms_max", &mut outbound.pause_max);
        table.set("repeats_max", &mut outbound.repeats_max, "a number");
        table.finish();
    }
    Ok((config, problems))
}

/// How a listener's messages are read.
fn read_messages(table: &mut Table<'_>) -> MessageConfig {
    let mut messages = MessageConfig::default();
    let charset: Option<String> = table.take_as("charset", CHARSET_ALLOWED);
    if let Some(name) = charset {
        messages.charset = Charset::named(name.as_bytes());
        if messages.charset.is_none() {
            table.wrong("charset", format!("{name:?}"), CHARSET_ALLOWED);
        }
    }
    table.set("batch", &mut messages.batch, "\"refuse\" or \"split\"");
    table.set("identity", &mut messages.identity, IDENTITY_ALLOWED);
    let mut ignored: Vec<String> = Vec::new();
    table.set("ignored", &mut ignored, IGNORED_ALLOWED);
    for name in ignored {
        match FieldName::parse(&name) {
            // They say how the others are to be read.
            Some(field) if field.segment != "MSH" || field.number > 2 => {
                messages.ignored.push(field);
            }
            _ => table.wrong("ignored", format!("{name:?}"), IGNORED_ALLOWED),
        }
    }
    messages
}

/// One table of the file; what is left of it at the end is not a key of the configuration.
struct Table<'a> {
    path: String,
    values: Dict,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Table<'a> {
    fn new(path: String, values: Dict, problems: &'a mut Vec<Problem>) -> Self {
        Self {
            path,
            values,
            known: Vec::new(),
            problems,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.values.remove(name)
    }

    fn wrong(&mut self, name: &str, found: impl Into<String>, allowed: &str) {
        let key = self.key(name);
        self.problems.push(Problem::new(key, found, allowed));
    }

    /// Sets `target` where the file names it.
    fn set<T: DeserializeOwned>(&mut self, name: &'static str, target: &mut T, allowed: &str) {
        let Some(value) = self.take(name) else { return };
        match value.deserialize() {
            Ok(value) => *target = value,
            Err(_) => self.wrong(name, shown(&value), allowed),
        }
    }

    /// What the file names, where it can be used.
    fn take_as<T: DeserializeOwned>(&mut self, name: &'static str, allowed: &str) -> Option<T> {
        let value = self.take(name)?;
        let read = value.deserialize().ok();
        if read.is_none() {
            self.wrong(name, shown(&value), allowed);
        }
        read
    }

    fn set_time(&mut self, name: &'static str, target: &mut Duration) {
        let mut ms = u64::try_from(target.as_millis()).unwrap_or(u64::MAX);
        self.set(name, &mut ms, TIME_ALLOWED);
        *target = Duration::from_millis(ms);
    }

    fn required<T: DeserializeOwned>(&mut self, name: &'static str, allowed: &str) -> Option<T> {
        let Some(value) = self.take(name) else {
            self.wrong(name, "missing", allowed);
            return None;
        };
        let read = value.deserialize().ok();
        if read.is_none() {
            self.wrong(name, shown(&value), allowed);
        }
        read
    }

    fn table(&mut self, name: &'static str) -> Option<(String, Dict)> {
        let value = self.take(name)?;
        let path = format!("{}.", self.key(name));
        match value {
            Value::Dict(_, values) => Some((path, values)),
            other => {
                self.wrong(name, shown(&other), &format!("a table, as [{name}]"));
                None
            }
        }
    }

    fn tables(&mut self, name: &'static str) -> Vec<(String, Dict)> {
        let values = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Array(_, values)) => values,
            Some(other) => vec![other],
        };
        let mut tables = Vec::new();
        for (i, value) in values.into_iter().enumerate() {
            match value {
                Value::Dict(_, values) => {
                    tables.push((format!("{}[{i}].", self.key(name)), values))
                }
                other => {
                    let found = shown(&other);
                    self.wrong(
                        &format!("{name}[{i}]"),
                        found,
                        &format!("tables, as [[{name}]]"),
                    );
                }
            }
        }
        tables
    }

    fn finish(self) {
        let known = self.known.join(", ");
        for name in self.values.keys() {
            let key = format!("{}{}", self.path, written(name));
            self.problems
                .push(Problem::new(key, "not a key that exists", known.as_str()));
        }
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

/// A value, for people.
fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, text) => format!("{text:?}"),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(number), ..) => number.to_string(),
            (_, Some(number), _) => number.to_string(),
            (.., Some(number)) => number.to_string(),
            _ => "a number".to_owned(),
        },
        Value::Empty(..) => "empty".to_owned(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    }
}
