//! Time, connections, and the end of a gateway.

use super::*;

fn limits() -> InboundConfig {
    InboundConfig {
        idle: Duration::from_secs(600),
        frame: Duration::from_secs(30),
        ..InboundConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_a_frame_that_began_must_end() {
    let bench = Bench::new(limits());
    let begin = tokio::time::Instant::now();
    let mut sender = Framed::new(bench.connect(), MllpCodec::default());
    assert!(
        timeout(Duration::from_secs(3_600), sender.next())
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(begin.elapsed().as_secs(), 600);

    let begin = tokio::time::Instant::now();
    let mut sender = Framed::new(bench.connect(), MllpCodec::default());
    let frame = framed(&message("RAD-1"));
    // A byte every 10 s does not keep it open.
    sender.get_mut().write_all(&frame[..200]).await.unwrap();
    for byte in &frame[200..202] {
        assert!(
            timeout(Duration::from_secs(10), sender.next())
                .await
                .is_err()
        );
        sender.get_mut().write_all(&[*byte]).await.unwrap();
    }
    let frame = timeout(Duration::from_secs(3_600), sender.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(begin.elapsed().as_secs(), 30);
    let ack = ReceivedAck::read(&frame).unwrap();
    assert_eq!(
        (ack.code, &ack.control_id[..]),
        (AckCode::ApplicationError, &b"RAD-1"[..])
    );
    assert_eq!(
        ack.text,
        "the MLLP frame did not end within 30s of its beginning"
    );
    assert!(sender.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_connection_that_was_idle_for_longest_makes_room_and_none_that_is_at_work() {
    let limits = InboundConfig {
        connections: 4,
        ..limits()
    };
    let mut bench = Bench::new(limits);
    let framed_connection = |bench: &Bench| Framed::new(bench.connect(), MllpCodec::default());
    let second = || sleep(Duration::from_secs(1));
    let mut begun = framed_connection(&bench);
    begun.get_mut().write_all(b"\x0bMSH").await.unwrap();
    second().await;
    let mut awaits = framed_connection(&bench);
    awaits.send(message("RAD-1")).await.unwrap();
    let request = bench.request().await;
    second().await;
    let mut idlest = framed_connection(&bench);
    second().await;
    let mut idle = framed_connection(&bench);
    second().await;

    let ended = async |sender: &mut Sender<DuplexStream>| {
        let moment = Duration::from_millis(1);
        timeout(moment, sender.next()).await.is_ok()
    };
    let mut new = framed_connection(&bench);
    assert!(ended(&mut idlest).await);
    assert!(!ended(&mut idle).await && !ended(&mut new).await);
    let mut newer = framed_connection(&bench);
    assert!(ended(&mut idle).await);
    assert!(
        bench.inbound.crowd.enter().is_none(),
        "those that are idle have just come"
    );
    assert!(!ended(&mut begun).await && !ended(&mut awaits).await);
    request.accept(1);
    assert_eq!(code(&mut awaits).await.1, "RAD-1");
    let rest = &framed(&message("RAD-2"))[4..];
    begun.get_mut().write_all(rest).await.unwrap();
    bench.request().await.accept(2);
    assert_eq!(code(&mut begun).await.1, "RAD-2");
    second().await;
    assert!(bench.inbound.crowd.enter().is_some());
    assert!(ended(&mut new).await && !ended(&mut newer).await);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_warnings_is_told_by_its_beginning() {
    let warnings = Warnings::default();
    let told = |count: usize| (0..count).filter(|_| warnings.may_warn("RAD")).count();
    assert_eq!(told(1_000), 20);
    sleep(WARNINGS_PERIOD).await;
    assert_eq!(told(5), 5);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_reply_is_waited_for_longer_than_a_connection_may_be_idle() {
    let mut bench = Bench::new(limits());
    let mut sender = Framed::new(bench.connect(), MllpCodec::default());
    sender.send(message("RAD-1")).await.unwrap();
    let request = bench.request().await;
    assert!(
        timeout(Duration::from_secs(86_400), sender.next())
            .await
            .is_err()
    );
    request.accept(1);
    assert_eq!(
        code(&mut sender).await,
        (AckCode::ApplicationAccept, "RAD-1".to_owned())
    );
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once() {
    let limits = InboundConfig {
        connections: 2,
        ..limits()
    };
    let (mut bench, address) = Bench::listen(limits).await;
    let mut two = [connect(address).await, connect(address).await];
    for (sender, control_id) in two.iter_mut().zip(["RAD-1", "RAD-2"]) {
        sender.send(message(control_id)).await.unwrap();
        bench.request().await.accept(1);
        assert_eq!(code(sender).await.1, control_id);
    }
    let mut third = connect(address).await;
    assert!(reply(&mut third).await.is_none());
    let [first, _second] = two;
    drop(first);
    // Its place is free as soon as its end was noticed.
    let accepted = async {
        loop {
            let mut again = connect(address).await;
            if again.send(message("RAD-3")).await.is_err() {
                continue;
            }
            tokio::select! {
                request = bench.requests.recv() => {
                    request.unwrap().accept(3);
                    return code(&mut again).await.1;
                }
                closed = again.next() => assert!(closed.is_none_or(|reply| reply.is_err())),
            }
        }
    };
    assert_eq!(timeout(LIMIT, accepted).await.unwrap(), "RAD-3");
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_takes_up_nothing_more() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let (mut idle, mut busy) = (connect(address).await, connect(address).await);
    let both = [framed(&message("RAD-1")), framed(&message("RAD-2"))].concat();
    busy.get_mut().write_all(&both).await.unwrap();
    let request = bench.request().await;
    bench.inbound.stop.cancel();
    assert!(reply(&mut idle).await.is_none());
    request.accept(1);
    assert_eq!(
        code(&mut busy).await,
        (AckCode::ApplicationAccept, "RAD-1".to_owned())
    );
    assert!(reply(&mut busy).await.is_none());
    assert!(bench.is_quiet().await);
    bench.inbound.tasks.close();
    timeout(LIMIT, bench.inbound.tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_abort_waits_for_nothing() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    sender.send(message("RAD-1")).await.unwrap();
    let _unanswered = bench.request().await;
    bench.inbound.stop.cancel();
    bench.inbound.abort.cancel();
    assert!(reply(&mut sender).await.is_none());
    bench.inbound.tasks.close();
    timeout(LIMIT, bench.inbound.tasks.wait()).await.unwrap();
}
