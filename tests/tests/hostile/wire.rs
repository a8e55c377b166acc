//! Attacks below gRPC: bytes and HTTP/2 frames of our own making.

use super::{INGEST, Target, WORK, kind};
use futures_util::future::join_all;
use ordo_client::proto::admin_service_client::AdminServiceClient;
use ordo_client::proto::work_service_client::WorkServiceClient;
use ordo_client::proto::{self, Reason};
use ordo_tests::hostile::{
    CONTINUATION, End, HEADERS, PING, PREFACE, RST_STREAM, Raw, SETTINGS, frame, header, request,
};
use ordo_tests::{PATIENCE, eventually};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;

/// Connects again and again, says `bytes`, and waits for the end; as often as it goes.
async fn say(address: SocketAddr, bytes: &[u8], stop: &CancellationToken) -> u64 {
    let mut times = 0;
    while !stop.is_cancelled() {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            continue;
        };
        // The node may close it at any point.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        tokio::select! {
            () = stop.cancelled() => {}
            _ = stream.read_to_end(&mut answer) => times += 1,
        }
    }
    times
}

pub(super) async fn garbage(at: Target, stop: CancellationToken) -> String {
    let noise: Vec<u8> = (0..4_096_u32).map(|n| ((n * 7_919) >> 3) as u8).collect();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let http1 = b"GET / HTTP/1.1\r\nHost: ordo\r\n\r\n".to_vec();
    let bad_frame = [PREFACE, &frame(SETTINGS, 0, 0, &[1, 2, 3])].concat();
    let mut all = Vec::new();
    for port in at.ports() {
        for bytes in [&noise, &tls_hello, &http1, &bad_frame] {
            all.push(say(port, bytes, &stop));
        }
    }
    let times: u64 = join_all(all).await.into_iter().sum();
    assert!(times > 0, "no garbage was answered by closing");
    format!("{times} connections closed")
}

pub(super) async fn resets(at: Target, stop: CancellationToken) -> String {
    let attack = async || {
        let mut ends = Vec::new();
        while !stop.is_cancelled() {
            let Ok(raw) = Raw::open(at.public, &[]).await else {
                continue;
            };
            let pairs = |n: u32| -> Vec<u8> {
                let streams = (n * 100..(n + 1) * 100).map(|i| 2 * i + 1);
                streams
                    .flat_map(|i| [request(i, INGEST), frame(RST_STREAM, 0, i, &[0, 0, 0, 8])])
                    .flatten()
                    .collect()
            };
            ends.extend(raw.flood(pairs, 100, &stop).await);
        }
        ends
    };
    let ends: Vec<End> = join_all((0..4).map(|_| attack())).await.concat();
    assert!(ends.contains(&End::GoAway(11)), "{ends:?}");
    format!("{} connections: ENHANCE_YOUR_CALM", ends.len())
}

pub(super) async fn continuations(at: Target, stop: CancellationToken) -> String {
    let attack = async |port| {
        let mut ends = 0;
        while !stop.is_cancelled() {
            let Ok(raw) = Raw::open(port, &[]).await else {
                continue;
            };
            let more = header("x", &"y".repeat(120)).repeat(8);
            let bytes = |n: u32| match n {
                0 => frame(HEADERS, 0, 1, &more),
                _ => frame(CONTINUATION, 0, 1, &more),
            };
            ends += u32::from(raw.flood(bytes, 1_000, &stop).await.is_some());
        }
        ends
    };
    let ends: u32 = join_all([at.public, at.peer].map(attack))
        .await
        .iter()
        .sum();
    assert!(ends > 0, "nothing ended it");
    format!("{ends} connections closed")
}

/// Asks for answers and reads none.
pub(super) async fn pings(at: Target, stop: CancellationToken) -> String {
    let attack = async |(port, bytes): (SocketAddr, Vec<u8>)| {
        let raw = Raw::open(port, &[]).await.unwrap();
        raw.flood(|_| bytes.repeat(50), 100, &stop).await.is_some()
    };
    let ping = frame(PING, 0, 0, &[7; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let both = [ping, settings];
    let all = [at.public, at.peer]
        .into_iter()
        .flat_map(|port| both.clone().map(|bytes| (port, bytes)));
    let ended = join_all(all.map(attack)).await;
    format!(
        "20,000 a second taken, {} closed",
        ended.iter().filter(|end| **end).count()
    )
}

/// Streams beyond what a connection may have.
pub(super) async fn streams(at: Target, stop: CancellationToken) -> String {
    let mut refused = 0;
    while refused == 0 || !stop.is_cancelled() {
        let mut raw = Raw::open(at.public, &[]).await.unwrap();
        let flood: Vec<u8> = (0..256).flat_map(|i| request(2 * i + 1, WORK)).collect();
        raw.send(&flood).await.unwrap();
        let mut resets = 0;
        while resets < 192 {
            let next = tokio::time::timeout(PATIENCE, raw.next()).await.unwrap();
            match next {
                Ok((RST_STREAM, _, code)) => {
                    assert_eq!(code, [0, 0, 0, 7], "REFUSED_STREAM");
                    resets += 1;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        assert!(resets > 0, "streams beyond the limit were taken");
        refused += resets;
    }
    format!("{refused} REFUSED_STREAM")
}

/// Hellos that only begin.
pub(super) async fn hellos(at: Target, stop: CancellationToken) -> String {
    let channel = at.channel().await;
    let frames = tokio_stream::iter([proto::WorkRequest::default()]);
    let opened = WorkServiceClient::new(channel).work(frames).await;
    let status = match opened {
        Err(status) => status,
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(kind(&status), (Code::InvalidArgument, Reason::InvalidField));
    let mut held = Vec::new();
    while !stop.is_cancelled() && held.len() < 200 {
        let mut stream = TcpStream::connect(at.public).await.unwrap();
        stream.write_all(&PREFACE[..12]).await.unwrap();
        held.push(stream);
    }
    stop.cancelled().await;
    format!("{} half greetings held", held.len())
}

/// Asks for pages and reads none.
pub(super) async fn pages(at: Target, stop: CancellationToken) -> String {
    let attack = async || {
        let mut stream = TcpStream::connect(at.http).await.unwrap();
        let ask = b"GET /metrics HTTP/1.1\r\nHost: ordo\r\n\r\n".repeat(100);
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { while stream.write_all(&ask).await.is_ok() {} } => {}
        }
    };
    join_all((0..8).map(|_| attack())).await;
    "8 connections stalled".to_owned()
}

/// All connections that a port takes are taken, by such as say nothing, say it slowly, or greet and leave it at that:
/// a newcomer gets its turn all the same.
pub(super) async fn newcomers(at: Target, _: CancellationToken) -> String {
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut held = Vec::new();
    let head = b"GET /healthz HTTP/1.1\r\nHost: ".to_vec();
    for (port, count, greeting) in [
        (at.public, 400, &greeting),
        (at.peer, 350, &greeting),
        (at.http, 100, &head),
    ] {
        for n in 0..count {
            let mut stream = TcpStream::connect(port).await.unwrap();
            let said = match n % 4 {
                0 => 0,
                1 => 5,
                2 => greeting.len() / 2,
                _ => greeting.len(),
            };
            let said = &greeting[..said];
            stream.write_all(said).await.unwrap();
            held.push(stream);
        }
    }
    let slowly = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for (n, stream) in held.iter_mut().enumerate() {
                if n % 4 == 1 {
                    let _ = stream.write_all(b"x").await;
                }
            }
        }
    });
    let begun = tokio::time::Instant::now();
    let call = async {
        // One of the many that are tried while there is no room.
        eventually("a newcomer's call", async || {
            let endpoint = Endpoint::from_shared(format!("http://{}", at.public)).unwrap();
            let channel = endpoint.timeout(PATIENCE).connect().await.ok()?;
            let ask = proto::GetClusterStatusRequest::default();
            let status = AdminServiceClient::new(channel)
                .get_cluster_status(ask)
                .await;
            status.ok()
        })
        .await;
    };
    let page = async {
        let mut stream = TcpStream::connect(at.http).await.unwrap();
        let ask = b"GET /healthz HTTP/1.1\r\nHost: ordo\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let peer = async {
        let mut raw = Raw::open(at.peer, &[]).await.unwrap();
        assert_eq!(raw.next().await.unwrap().0, SETTINGS);
    };
    let all = async { tokio::join!(call, page, peer) };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("newcomers get their turn");
    slowly.abort();
    format!("in after {:.0} s", begun.elapsed().as_secs_f64())
}
