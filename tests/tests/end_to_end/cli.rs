//! The command line as scripts use it: what it prints, and how it ends.

use ordo_tests::{Nodes, eventually, ordo};
use std::process::{Command, Stdio};

async fn run(nodes: &Nodes, args: &[&str]) -> (i32, String, String) {
    let output = nodes.ordo(args).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_commands_work_and_their_exit_status_says_what_happened() {
    let nodes = Nodes::three().await.unwrap();
    let create = [
        "interface",
        "create",
        "RAD",
        "--stage",
        "validate",
        "--stage",
        "enrich",
    ];
    let (status, _, errors) = run(&nodes, &create).await;
    assert_eq!(status, 0, "{errors}");
    let (status, _, errors) = run(&nodes, &create).await;
    assert!(
        status == 4 && errors.contains("RAD"),
        "a conflict: {status} {errors}"
    );
    let (status, _, errors) = run(&nodes, &["interface", "create", "bad name"]).await;
    assert!(
        status != 0 && errors.contains("bad name") && errors.contains("[A-Za-z0-9._/-]"),
        "{status} {errors}"
    );
    let (status, _, _) = run(&nodes, &["interface", "show", "NOWHERE"]).await;
    assert_eq!(status, 3, "not found");
    let (status, _, _) = run(&nodes, &["interface", "fly"]).await;
    assert_eq!(status, 2, "usage");

    let lines = nodes.folder().join("lines");
    std::fs::write(
        &lines,
        (1..=20).map(|n| format!("order {n}\n")).collect::<String>(),
    )
    .unwrap();
    let (status, _, errors) = run(
        &nodes,
        &["produce", "RAD", "--file", lines.to_str().unwrap()],
    )
    .await;
    assert_eq!(status, 0, "{errors}");
    let (status, why, errors) = run(&nodes, &["why", "RAD"]).await;
    assert!(status == 0 && why.contains("validate"), "{why}{errors}");

    let reject = "grep -q 'order 13' && { echo unlucky >&2; exit 65; } || exit 0";
    let mut workers = Vec::new();
    for (stage, command) in [("validate", reject), ("enrich", "sed s/order/ORDER/")] {
        let mut worker = Command::new(ordo());
        worker
            .env("ORDO_CLUSTER", nodes.addresses())
            .args(["work", "--stage", stage, "--exec", command]);
        workers.push(Killed(
            worker
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        ));
    }
    let (status, seen, errors) = run(
        &nodes,
        &["consume", "RAD", "--count", "20", "--output", "json"],
    )
    .await;
    assert_eq!(status, 0, "{errors}");
    let seen: Vec<serde_json::Value> = seen
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let sequences: Vec<u64> = seen
        .iter()
        .map(|delivery| delivery["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, (1..=20).collect::<Vec<_>>());
    assert!(
        seen[12].to_string().to_lowercase().contains("rejected"),
        "{}",
        seen[12]
    );

    let (status, shown, errors) = run(&nodes, &["message", "show", "RAD", "13"]).await;
    assert!(
        status == 0 && shown.contains("unlucky") && !shown.contains("order 13"),
        "{shown}{errors}"
    );
    let (status, letter, errors) = run(&nodes, &["dlq", "show", "RAD", "13", "--payload"]).await;
    assert!(
        status == 0 && letter.contains("order 13"),
        "{letter}{errors}"
    );
    let (status, redriven, errors) = run(&nodes, &["dlq", "redrive", "RAD", "13"]).await;
    assert!(
        status == 0 && redriven.contains("21"),
        "it enters at the tail: {redriven}{errors}"
    );
    eventually("the redrive to fail again", async || {
        let (_, letters, _) = run(&nodes, &["dlq", "list", "RAD", "--output", "json"]).await;
        let letters: serde_json::Value = serde_json::from_str(&letters).ok()?;
        (letters.to_string().contains("\"sequence\":21")).then_some(())
    })
    .await;
    let (status, _, errors) = run(&nodes, &["dlq", "discard", "RAD", "21"]).await;
    assert_eq!(status, 0, "{errors}");
    let (status, _, _) = run(&nodes, &["dlq", "show", "RAD", "21"]).await;
    assert_eq!(status, 3, "it is gone");
    dead_letters_of_destinations(&nodes).await;
    let (status, members, _) = run(&nodes, &["cluster", "status", "--output", "json"]).await;
    let members: serde_json::Value = serde_json::from_str(&members).unwrap();
    assert!(
        status == 0 && members.to_string().contains("leader"),
        "{members}"
    );
}

/// What is unambiguous needs no `--destination`; of several, one is asked for by name.
async fn dead_letters_of_destinations(nodes: &Nodes) {
    let create = [
        "interface",
        "create",
        "TWO",
        "--destination",
        "lab",
        "--destination",
        "billing",
    ];
    let (status, _, errors) = run(nodes, &create).await;
    assert_eq!(status, 0, "{errors}");
    let lines = nodes.folder().join("two");
    std::fs::write(&lines, "refused by both\nrefused by one\ntaken\n").unwrap();
    let (status, _, errors) = run(
        nodes,
        &["produce", "TWO", "--file", lines.to_str().unwrap()],
    )
    .await;
    assert_eq!(status, 0, "{errors}");
    for (destination, taken, refuses) in [
        ("lab", "1", "grep -q refused && exit 65; exit 0"),
        ("billing", "2", "grep -q both && exit 65; exit 0"),
    ] {
        let consume = [
            "consume",
            "TWO",
            "--destination",
            destination,
            "--count",
            taken,
            "--exec",
            refuses,
        ];
        let (status, _, errors) = run(nodes, &consume).await;
        assert_eq!(status, 0, "{errors}");
    }
    let (status, _, errors) = run(nodes, &["dlq", "discard", "TWO", "1"]).await;
    assert!(
        status == 2 && errors.contains("lab, billing") && errors.contains("--destination"),
        "{status} {errors}"
    );
    let (status, _, errors) = run(
        nodes,
        &["dlq", "discard", "TWO", "1", "--destination", "lab"],
    )
    .await;
    assert_eq!(status, 0, "{errors}");
    for sequence in ["1", "2"] {
        let (status, _, errors) = run(nodes, &["dlq", "discard", "TWO", sequence]).await;
        assert_eq!(status, 0, "{errors}");
    }
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable() {
    let nodes = Nodes::configure(3, "").unwrap();
    let (status, _, errors) = run(&nodes, &["interface", "list", "--timeout", "1"]).await;
    assert!(status == 5 && !errors.is_empty(), "{status} {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_names_every_wrong_value_and_what_is_allowed() {
    let nodes = Nodes::configure(
        1,
        "[limits]\nconnections = 0\n[raft]\nheartbeat_ms = \"soon\"\ncolour = 1\n",
    )
    .unwrap();
    let config = nodes.nodes[0].config.to_str().unwrap().to_owned();
    let (status, out, errors) = run(&nodes, &["config", "check", "--config", &config]).await;
    let said = out + &errors;
    assert_ne!(status, 0);
    for part in ["limits.connections", "heartbeat_ms", "soon", "colour"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let fine = Nodes::configure(1, "").unwrap();
    let (status, out, errors) = run(
        &fine,
        &[
            "config",
            "check",
            "--config",
            fine.nodes[0].config.to_str().unwrap(),
        ],
    )
    .await;
    assert_eq!(status, 0, "{out}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_ends_well_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = tokio::process::Command::new(ordo());
    demo.args(["demo", "--messages", "60", "--rate", "20"])
        .env("TMPDIR", folder.path())
        .kill_on_drop(true);
    let output = tokio::time::timeout(ordo_tests::PATIENCE * 3, demo.output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("DELIVERED") && said.contains("SKIPPED"),
        "{said}"
    );
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
