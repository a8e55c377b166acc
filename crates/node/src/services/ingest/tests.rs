#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use super::super::tests::{batch, message, node};
use super::*;
use ordo_core::Sound;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_room_and_is_let_go() {
    let mut node = node().await;
    for name in ["a", "b"] {
        node.create(name, v1::InterfaceConfig::default()).await;
    }
    let context = Arc::clone(node.context());
    let pump = Pump::<Sound>::new(
        Stream::open(&context).await.unwrap(),
        Duration::from_millis(200),
    );
    // Nobody reads, and what fits is there already.
    let (responses, unread) = mpsc::channel(1);
    responses
        .send(Ok(v1::IngestResponse::default()))
        .await
        .unwrap();
    // The first frame's results are a response of their own; the second frame is read before they are there.
    let mut first = batch("a", vec![message(1, b"1")]);
    let many = (0..RESULTS).map(|_| message(1, b"")).collect();
    first.batches.extend(batch("nowhere", many).batches);
    let second = batch("b", vec![message(1, b"1")]);
    let sent = tokio_stream::iter([Ok(first), Ok(second)]);
    let open = Box::pin(sent.chain(futures_util::stream::pending()));
    let pump = tokio::spawn(pump.run(open, responses));

    let taken = async {
        while node.get("b").await.last_sequence == 0 || context.admission.bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    tokio::time::timeout(PATIENCE, pump).await.unwrap().unwrap();
    drop(unread);
    node.stop().await;
}
