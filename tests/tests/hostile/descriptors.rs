//! A flood of connections where file descriptors are few.

use ordo_tests::Nodes;
use ordo_tests::load::{message, staged};
use std::process::Command;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_file_descriptors_for_the_disk() {
    let nodes = Nodes::configure(1, "").unwrap();
    let node = &nodes.nodes[0];
    let log = std::fs::File::create(&node.log).unwrap();
    let mut process = tokio::process::Command::from(Command::new("sh"))
        .args(["-c", "ulimit -n 400 && exec \"$0\" serve --config \"$1\""])
        .arg(ordo_tests::ordo())
        .arg(&node.config)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    nodes.wait_up(0).await;
    let cluster = nodes.cluster().unwrap();
    let address = node.public.to_string();
    cluster.admin().init_cluster(&address).await.unwrap();
    cluster
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    let producer = cluster.producer().start().unwrap();
    producer.send("lab", message("lab", 1)).await.unwrap();
    let mut flood = Vec::new();
    for port in [node.public, node.peer, node.http] {
        for _ in 0..250 {
            flood.push(TcpStream::connect(port).await.unwrap());
        }
    }
    for n in 2..=200 {
        let accepted = producer.send("lab", message("lab", n)).await.unwrap();
        assert_eq!(accepted.sequence, n);
    }
    assert!(process.try_wait().unwrap().is_none(), "{}", node.output());
    let output = node.output();
    assert!(output.contains("ulimit -n"), "{output}");
    assert!(output.lines().count() < 50, "{output}");
    process.kill().await.unwrap();
}
