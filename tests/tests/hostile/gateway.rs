//! Senders that mean harm to a gateway.

use bytes::Bytes;
use ordo_gateway::config::{GatewayConfig, InboundConfig, ListenConfig};
use ordo_gateway::gateway::Gateway;
use ordo_tests::hostile::PREFACE;
use ordo_tests::load::staged;
use ordo_tests::mllp::Sender;
use ordo_tests::{Nodes, PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn silent_senders_do_not_keep_others_from_a_gateway() {
    let nodes = Nodes::running(1, "").await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("RAD", staged(&[]))
        .await
        .unwrap();
    let listen = ListenConfig::new("127.0.0.1:0".parse().unwrap(), "RAD");
    let config = GatewayConfig {
        listen: vec![listen],
        inbound: InboundConfig {
            connections: 20,
            ..InboundConfig::default()
        },
        ..GatewayConfig::default()
    };
    let gateway = Gateway::start(config, &cluster).await.unwrap();
    let address = gateway.listening()[0];
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let message: Bytes = "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101||ORM^O01|1|P|2.5\rPID|1\r".into();
    let (code, _) = eventually("a sender's turn", async || {
        let mut sender = Sender::connect(address).await.ok()?;
        sender.send(&message).await.ok()
    })
    .await;
    assert_eq!(code, "AA");
    // What is no MLLP is closed, whatever it is.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], PREFACE, &[0; 4_096]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // Closed with bytes of ours unread, it is a reset.
        let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
        assert!(answer.is_empty());
    }
    let mut sender = Sender::connect(address).await.unwrap();
    assert_eq!(sender.send(&message).await.unwrap().0, "AA", "a duplicate");
}
