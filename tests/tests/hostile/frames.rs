//! Frames that begin, and never end.

use super::{INGEST, Target};
use bytes::Bytes;
use futures_util::future::join_all;
use ordo_tests::eventually;
use ordo_tests::hostile::framed;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// The beginnings of long frames, which don't end: some 1,900 MiB of them, until some are refused.
pub(super) async fn beginnings(at: Target, stop: CancellationToken) -> String {
    let (refused, enough) = (AtomicUsize::new(0), CancellationToken::new());
    let attack = async || {
        let tcp = TcpStream::connect(at.public).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let stream = async || {
            if let Some(code) = half_a_frame(client.clone(), &enough).await {
                assert_eq!(code, Code::ResourceExhausted);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        };
        join_all((0..16).map(|_| stream())).await;
    };
    let end = async {
        stop.cancelled().await;
        eventually("the beginning of a frame to be refused", async || {
            (refused.load(Ordering::Relaxed) > 0).then_some(())
        })
        .await;
        enough.cancel();
    };
    tokio::join!(join_all((0..4).map(|_| attack())), end);
    format!(
        "{} of 64 streams RESOURCE_EXHAUSTED",
        refused.load(Ordering::Relaxed)
    )
}

/// With what the stream ended before `stop`.
async fn half_a_frame(
    client: h2::client::SendRequest<Bytes>,
    stop: &CancellationToken,
) -> Option<Code> {
    let head = http::Request::post(format!("http://ordo{INGEST}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut client = client.ready().await.ok()?;
    let (response, mut body) = client.send_request(head, false).ok()?;
    let mut prefix = framed(&[]);
    prefix[1..].copy_from_slice(&(31_u32 << 20).to_be_bytes());
    body.send_data(prefix.into(), false).ok()?;
    let send = async {
        // All but the end.
        for _ in 0..30 * 16 {
            body.reserve_capacity(64 << 10);
            let mut capacity = 0;
            while capacity < 64 << 10 {
                capacity = std::future::poll_fn(|cx| body.poll_capacity(cx))
                    .await?
                    .ok()?;
            }
            body.send_data(vec![0; 64 << 10].into(), false).ok()?;
        }
        std::future::pending::<Option<()>>().await
    };
    tokio::select! {
        () = stop.cancelled() => return None,
        _ = send => {}
    }
    let mut answer = response.await.ok()?.into_body();
    while answer.data().await.is_some() {}
    let trailers = answer.trailers().await.ok()??;
    Some(Status::from_header_map(&trailers)?.code())
}
