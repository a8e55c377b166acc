#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;

const WHOLE: &str = r#"
cluster = ["127.0.0.1:7400", "localhost:7410"]
allow_plaintext = true
shutdown_ms = 500
state = "/var/lib/ordo-gateway"

[[listen]]
address = "0.0.0.0:2575"
interface = "RAD"
charset = "ISO IR87"
batch = "split"
identity = "control_id_and_time"
ignored = ["MSH-7", "NTE-3"]

[[listen]]
address = "127.0.0.1:2576"
interface = "lab/CHEM"

[[send]]
interface = "RAD"
address = "lab.example:2577"

[[send]]
interface = "RAD"
destination = "archive"
address = "[::1]:2578"
match = "lenient"
await = "application"
connection = "per_message"

[inbound]
connections = 3
payload_bytes = 4096
idle_ms = 1000
frame_ms = 200
frame_end_ms = 30

[outbound]
connect_ms = 100
ack_ms = 300
ack_ms_max = 900
silence_ms = 50
pause_ms_min = 20
pause_ms_max = 40
repeats_max = 3
"#;

fn problems(text: &str) -> Vec<String> {
    let errors = GatewayConfig::parse(text).unwrap_err();
    errors.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn every_key_is_read() {
    let config = GatewayConfig::parse(WHOLE).unwrap();
    assert_eq!(config.cluster, ["127.0.0.1:7400", "localhost:7410"]);
    assert_eq!(config.listen[1].interface, "lab/CHEM");
    assert_eq!(config.listen[0].address.port(), 2575);
    let names = ["MSH-7", "NTE-3"].map(|name| FieldName::parse(name).unwrap());
    let messages = MessageConfig {
        charset: Charset::named(b"ISO IR87"),
        batch: Batch::Split,
        identity: Identity::ControlIdAndTime,
        ignored: names.into(),
    };
    assert_eq!(config.listen[0].messages, messages);
    assert_eq!(config.listen[1].messages, MessageConfig::default());
    assert_eq!(config.state, Some("/var/lib/ordo-gateway".into()));
    assert_eq!(config.send[0].destination, "default");
    let archive = SendConfig {
        interface: "RAD".to_owned(),
        destination: "archive".to_owned(),
        address: "[::1]:2578".to_owned(),
        matching: Match::Lenient,
        awaits: Some(Await::Application),
        connection: ConnectionUse::PerMessage,
    };
    assert_eq!(config.send[1], archive);
    assert_eq!(config.shutdown, Duration::from_millis(500));
    let inbound = InboundConfig {
        connections: 3,
        payload_bytes: 4096,
        idle: Duration::from_secs(1),
        frame: Duration::from_millis(200),
        frame_end: Duration::from_millis(30),
    };
    assert_eq!(config.inbound, inbound);
    let outbound = OutboundConfig {
        connect: Duration::from_millis(100),
        ack: Duration::from_millis(300),
        ack_max: Duration::from_millis(900),
        silence: Duration::from_millis(50),
        pause_min: Duration::from_millis(20),
        pause_max: Duration::from_millis(40),
        repeats_max: 3,
    };
    assert_eq!(config.outbound, outbound);
}

#[test]
fn the_defaults_are_those_the_documentation_shows() {
    let documented: String = include_str!("../config.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .skip_while(|line| !line.contains("```toml"))
        .skip(1)
        .take_while(|line| !line.contains("```"))
        .map(|line| format!("{line}\n"))
        .collect();
    let config = GatewayConfig::parse(&documented).unwrap();
    assert_eq!(config.inbound, InboundConfig::default());
    assert_eq!(config.listen[0].messages, MessageConfig::default());
    assert_eq!(config.outbound, OutboundConfig::default());
    assert_eq!(config.shutdown, Duration::from_secs(10));
    assert_eq!(
        (config.cluster.len(), config.listen.len(), config.send.len()),
        (3, 1, 1)
    );
}

#[test]
fn the_example_file_is_right_and_its_comments_name_the_defaults() {
    let text = include_str!("../../../../cluster/gateway.toml");
    GatewayConfig::parse(text).unwrap();
    let (head, tail) = text.split_once("# The defaults:\n").unwrap();
    let values = tail
        .lines()
        .map(|line| line.trim_start_matches("# ").trim_start_matches('#'));
    let (top, sections): (Vec<_>, Vec<_>) =
        values.partition(|line| line.starts_with("shutdown_ms"));
    let config =
        GatewayConfig::parse(&[&top.join("\n"), head, &sections.join("\n")].join("\n")).unwrap();
    assert_eq!(config, GatewayConfig::parse(text).unwrap());
}

#[test]
fn every_wrong_value_is_named_with_what_is_allowed() {
    let found = problems(
        r#"
        cluster = ["nowhere"]
        cluste = 1
        shutdown_ms = "soon"
        [[listen]]
        address = "127.0.0.1"
        interface = "RAD"
        [[listen]]
        address = "10.0.0.1:2575"
        interface = "R D"
        charset = "UTF-16"
        batch = "join"
        identity = 1
        ignored = ["MSH-7", "MSH-2", "PID"]
        [[send]]
        adress = "127.0.0.1:2576"
        interface = "RAD"
        [[send]]
        interface = "RAD"
        destination = ""
        address = "lab:2576"
        match = "loose"
        await = "CA"
        connection = 1
        [inbound]
        connections = 0
        payload_bytes = -1
        frame_ms = 1
        [outbound]
        ack_ms = 500
        ack_ms_max = 400
        pause_ms_min = 500
        pause_ms_max = 100
        repeats_max = 0
        "#,
    );
    let name = "1 to 255 bytes of A-Z a-z 0-9 . _ / -";
    let charset =
        "the name of a character set but UTF-16, as \"ISO IR87\", \"8859/1\" or \"Shift_JIS\"";
    let fields = "a list of fields, as [\"MSH-7\"], without MSH-1 and MSH-2";
    let plaintext = "a loopback address: MLLP is not encrypted; where that is meant, set allow_plaintext = true";
    let expected = [
        "shutdown_ms is \"soon\"; allowed: a number of milliseconds".to_owned(),
        "cluste is not a key that exists; allowed: cluster, allow_plaintext, shutdown_ms, state, listen, send, inbound, outbound".to_owned(),
        "listen[0].address is \"127.0.0.1\"; allowed: an IP address and port, as \"127.0.0.1:2575\"".to_owned(),
        format!("listen[1].charset is \"UTF-16\"; allowed: {charset}"),
        "listen[1].batch is \"join\"; allowed: \"refuse\" or \"split\"".to_owned(),
        "listen[1].identity is 1; allowed: \"control_id\", \"control_id_and_time\", \"content\" or \"none\"".to_owned(),
        format!("listen[1].ignored is \"MSH-2\"; allowed: {fields}"),
        format!("listen[1].ignored is \"PID\"; allowed: {fields}"),
        "send[0].address is missing; allowed: \"host:port\"".to_owned(),
        "send[0].adress is not a key that exists; allowed: interface, destination, address, match, await, connection".to_owned(),
        "send[1].match is \"loose\"; allowed: \"strict\", \"lenient\" or \"any\"".to_owned(),
        "send[1].await is \"CA\"; allowed: \"commit\" or \"application\"".to_owned(),
        "send[1].connection is 1; allowed: \"keep\" or \"per_message\"".to_owned(),
        "inbound.payload_bytes is -1; allowed: a number of bytes".to_owned(),
        "cluster[0] is \"nowhere\"; allowed: host:port, as \"127.0.0.1:7400\"".to_owned(),
        format!("listen[1].interface is \"R D\"; allowed: {name}"),
        format!("listen[1].address is 10.0.0.1:2575; allowed: {plaintext}"),
        format!("send[1].destination is \"\"; allowed: {name}"),
        format!("send[1].address is \"lab:2576\"; allowed: {plaintext}"),
        "inbound.connections is 0; allowed: a number from 1 to 10000".to_owned(),
        "outbound.repeats_max is 0; allowed: a number from 1 to 1000000".to_owned(),
        "inbound.frame_ms is 1; allowed: a number of milliseconds from 100 to 600000".to_owned(),
        "outbound.pause_ms_min is 500; allowed: at most outbound.pause_ms_max, 100".to_owned(),
        "outbound.ack_ms is 500; allowed: at most outbound.ack_ms_max, 400".to_owned(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn addresses_and_destinations_are_not_shared() {
    let found = problems(
        r#"
        cluster = ["127.0.0.1:7400"]
        [[listen]]
        address = "127.0.0.1:2575"
        interface = "A"
        [[listen]]
        address = "127.0.0.1:2575"
        interface = "B"
        [[send]]
        interface = "A"
        address = "127.0.0.1:2576"
        [[send]]
        interface = "A"
        address = "127.0.0.1:2577"
        "#,
    );
    assert_eq!(
        found,
        [
            "listen[1].address is 127.0.0.1:2575, which another [[listen]] has; allowed: an address of its own for each interface",
            "send[1].destination is \"default\", which another [[send]] has for this interface; allowed: one address for each (interface, destination)",
        ]
    );
}

#[test]
fn what_is_no_configuration_at_all_is_told_so() {
    assert!(problems("cluster = [")[0].starts_with("the configuration is "));
    assert_eq!(
        problems("listen = 1\ninbound = 2"),
        [
            "listen[0] is 1; allowed: tables, as [[listen]]",
            "inbound is 2; allowed: a table, as [inbound]",
            "the configuration is without a [[listen]] and without a [[send]]; allowed: at least one of them",
            "cluster is empty; allowed: addresses of the cluster's nodes, as [\"127.0.0.1:7400\"]",
        ]
    );
    let error = GatewayConfig::load(Path::new("no/such/gateway.toml")).unwrap_err();
    assert!(
        error.to_string().starts_with("no/such/gateway.toml is "),
        "{error}"
    );
}

#[test]
fn a_program_may_listen_on_free_ports() {
    let listen =
        |interface: &str| ListenConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), interface);
    let config = GatewayConfig {
        listen: vec![listen("A"), listen("B")],
        ..GatewayConfig::default()
    };
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn a_key_without_a_name_is_told_by_its_quotes() {
    let errors = GatewayConfig::parse("\"\" = 1").unwrap_err();
    assert!(errors.to_string().contains("\"\" is not a key that exists"));
}
