#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use super::*;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use std::convert::Infallible;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::service_fn;

const INGEST: &str = "/ordo.v1.IngestService/Ingest";

/// A gRPC message, from its prefix on.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// An `IngestRequest` with one message of `bytes`.
fn frame(bytes: usize) -> Vec<u8> {
    use ordo_wire::v1;
    use prost::Message as _;
    let message = v1::IngestMessage {
        payload: vec![b'x'; bytes].into(),
        ..Default::default()
    };
    let batch = v1::IngestBatch {
        messages: vec![message],
        ..Default::default()
    };
    let request = v1::IngestRequest {
        batches: vec![batch],
    };
    framed(&request.encode_to_vec())
}

type Sent = mpsc::UnboundedSender<Bytes>;

fn body(inlet: &Inlet) -> (Sent, Incoming) {
    let (sent, received) = mpsc::unbounded_channel();
    let data =
        UnboundedReceiverStream::new(received).map(|data| Ok::<_, Status>(Frame::data(data)));
    let body = Body::new(StreamBody::new(data));
    (sent, Incoming::new(body, inlet.clone(), public(INGEST)))
}

async fn next(body: &mut Incoming) -> Result<Bytes, Reason> {
    let frame = body.frame().await.unwrap();
    frame
        .map(|frame| frame.into_data().unwrap())
        .map_err(|status| Failure::from_status(&status).reason)
}

fn held(inlet: &Inlet) -> usize {
    inlet.0.bytes.load(Ordering::Relaxed)
}

#[tokio::test]
async fn messages_go_on_whole_however_they_were_cut() {
    let inlet = Inlet::new(10, 1 << 20, public);
    let sent: Vec<u8> = [frame(10), frame(3_000), frame(0), frame(500)].concat();
    for cut in [1, 2, 5, 7, 100, 1_000, sent.len()] {
        let (send, mut body) = body(&inlet);
        for part in sent.chunks(cut) {
            send.send(Bytes::copy_from_slice(part)).unwrap();
        }
        drop(send);
        let mut received = Vec::new();
        while let Some(frame) = body.frame().await {
            let mut data = frame.unwrap().into_data().unwrap();
            received.extend_from_slice(&data);
            while !data.is_empty() {
                let length = u32::from_be_bytes(data[1..5].try_into().unwrap()) as usize;
                let _whole = data.split_to(5 + length);
            }
        }
        assert_eq!(received, sent, "cut every {cut} bytes");
        assert_eq!(held(&inlet), 0);
    }
}

#[tokio::test]
async fn beginnings_of_messages_have_one_budget_and_those_that_hold_most_are_refused_first() {
    let inlet = Inlet::new(10, 1_000, public);
    let (send_hog, mut hog) = body(&inlet);
    let large = frame(2_000);
    send_hog.send(large[..600].to_vec().into()).unwrap();
    assert!(futures_util::poll!(hog.frame()).is_pending());
    assert_eq!(held(&inlet), 600);
    let (send_small, mut small) = body(&inlet);
    let message = frame(200);
    send_small.send(message[..100].to_vec().into()).unwrap();
    assert!(futures_util::poll!(small.frame()).is_pending());
    send_hog.send(large[600..900].to_vec().into()).unwrap();
    assert_eq!(next(&mut hog).await, Err(Reason::NodeFull));
    send_small.send(message[100..].to_vec().into()).unwrap();
    assert_eq!(next(&mut small).await.unwrap(), message);
    drop(hog);
    assert_eq!(held(&inlet), 0);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_has_come() {
    let inlet = Inlet::new(10, 1 << 20, public);
    let (send, mut body) = body(&inlet);
    let length = u32::try_from(crate::services::FRAME_BYTES_MAX + 1).unwrap();
    let mut prefix = vec![0];
    prefix.extend_from_slice(&length.to_be_bytes());
    send.send(prefix.into()).unwrap();
    assert_eq!(next(&mut body).await, Err(Reason::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_message_must_grow() {
    let inlet = Inlet::new(10, 64 << 20, public);
    let (send, mut body) = body(&inlet);
    let large = frame(3 * PROGRESS_BYTES);
    let started = Instant::now();
    let trickle = tokio::spawn(async move {
        // Fast enough at first, then a byte at a time.
        for part in large.chunks(PROGRESS_BYTES).take(2) {
            send.send(part.to_vec().into()).unwrap();
            sleep(Duration::from_secs(20)).await;
        }
        while send.send(Bytes::from_static(b"x")).is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(next(&mut body).await, Err(Reason::InvalidField));
    assert!((50..=51).contains(&started.elapsed().as_secs()));
    drop(body);
    trickle.await.unwrap();
    assert_eq!(held(&inlet), 0);
}

#[tokio::test]
async fn a_stream_that_ends_in_a_message_is_no_clean_end() {
    let inlet = Inlet::new(10, 1 << 20, public);
    let (send, mut body) = body(&inlet);
    send.send(frame(100)[..50].to_vec().into()).unwrap();
    drop(send);
    assert_eq!(next(&mut body).await, Err(Reason::InvalidField));
}

#[tokio::test]
async fn calls_are_counted_until_their_answers_are_through() {
    let inlet = Inlet::new(1, 1 << 20, public);
    let serve = service_fn(|_: Request<Body>| async {
        let data = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))]);
        Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(data))))
    });
    let mut bounded = inlet.layer(serve);
    let first = bounded.call(Request::new(Body::empty())).await.unwrap();
    let second = bounded.call(Request::new(Body::empty())).await.unwrap();
    let status = Status::from_header_map(second.headers()).unwrap();
    let failure = Failure::from_status(&status);
    assert_eq!(
        (status.code(), failure.reason),
        (tonic::Code::ResourceExhausted, Reason::NodeFull)
    );
    assert!(http_body::Body::is_end_stream(second.body()));
    drop(first);
    let third = bounded.call(Request::new(Body::empty())).await.unwrap();
    assert!(Status::from_header_map(third.headers()).is_none());
}
