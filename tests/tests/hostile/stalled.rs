//! A worker that reads nothing.

use super::{Target, WORK};
use bytes::Bytes;
use ordo_client::Cluster;
use ordo_client::proto;
use ordo_tests::hostile::framed;
use ordo_tests::load::{message, staged};
use prost::Message as _;
use std::time::Duration;
use tokio::net::TcpStream;

pub(super) const STALLED: &str = "stalled";

/// A worker that answers every ping, says that it is there, and reads not a byte of what it is given; it goes on while
/// what is returned lives.
pub(super) async fn stalled_worker(at: Target, cluster: &Cluster) -> impl Sized {
    let mut config = staged(&[STALLED]);
    // Longer than this test: the lease is not what ends it.
    config.stages[0].lease_ms = 600_000;
    cluster
        .admin()
        .create_interface(STALLED, config)
        .await
        .unwrap();
    let tcp = TcpStream::connect(at.public).await.unwrap();
    let handshake = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(tcp)
        .await;
    let (client, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let head = http::Request::post(format!("http://ordo{WORK}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut client = client.ready().await.unwrap();
    let (response, mut body) = client.send_request(head, false).unwrap();
    let hello = proto::WorkHello {
        worker_id: vec![5; 16].into(),
        stages: vec![STALLED.to_owned()],
        credits: 10,
        ..Default::default()
    };
    let hello = proto::WorkRequest {
        hello: Some(hello),
        ..Default::default()
    };
    body.send_data(framed(&hello.encode_to_vec()).into(), false)
        .unwrap();
    let response = response.await.unwrap();
    let producer = cluster.producer().start().unwrap();
    producer.send(STALLED, message(STALLED, 1)).await.unwrap();
    let beats = tokio::spawn(async move {
        for heartbeat in 1.. {
            let beat = proto::WorkRequest {
                heartbeat,
                ..Default::default()
            };
            if body
                .send_data(framed(&beat.encode_to_vec()).into(), false)
                .is_err()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    (client, response, beats)
}
