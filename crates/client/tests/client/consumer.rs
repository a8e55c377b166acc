use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ordo_client::{
    Answer, AnswerError, ConsumeError, Consumer, Delivery, GrantState, Position, Reason,
    SkipReason, SubscribeTo, Subscription, Uuid,
};
use ordo_wire::status::Failure;
use ordo_wire::v1::answer::Answer as Kind;
use ordo_wire::v1::delivery::Content;
use ordo_wire::v1::subscription_state::State;
use ordo_wire::v1::{
    self, AnswerResult, DeliverRequest, DeliverResponse, DeliveredMessage, Deliveries, SkipMarker,
    SubscriptionEnded, SubscriptionGranted, SubscriptionState, SubscriptionWaiting,
};

use crate::support::{Deliver, Node, until, within};

const ID: [u8; 16] = [5; 16];

fn granted(subscription: u32, epoch: u64, checkpoint: u64) -> DeliverResponse {
    let interface_id = ID.to_vec().into();
    state(
        subscription,
        State::Granted(SubscriptionGranted {
            epoch,
            checkpoint,
            interface_id,
            incarnation: 1,
        }),
    )
}

fn state(subscription: u32, state: State) -> DeliverResponse {
    let states = vec![SubscriptionState {
        subscription,
        state: Some(state),
    }];
    DeliverResponse {
        states,
        ..DeliverResponse::default()
    }
}

fn deliver(
    subscription: u32,
    epoch: u64,
    deliveries: impl IntoIterator<Item = v1::Delivery>,
) -> DeliverResponse {
    let deliveries = vec![Deliveries {
        subscription,
        epoch,
        deliveries: deliveries.into_iter().collect(),
    }];
    DeliverResponse {
        deliveries,
        ..DeliverResponse::default()
    }
}

fn message(sequence: u64) -> v1::Delivery {
    let payload = format!("SECRET {sequence}").into_bytes().into();
    let message = DeliveredMessage {
        message_id: vec![1; 16].into(),
        payload,
        ..DeliveredMessage::default()
    };
    v1::Delivery {
        sequence,
        attempts: 0,
        repeats: 0,
        content: Some(Content::Message(message)),
    }
}

fn skip(sequence: u64) -> v1::Delivery {
    let marker = SkipMarker {
        reason: SkipReason::Attempts.into(),
        ..SkipMarker::default()
    };
    v1::Delivery {
        sequence,
        attempts: 0,
        repeats: 0,
        content: Some(Content::Skip(marker)),
    }
}

fn heartbeat(number: u64) -> DeliverResponse {
    DeliverResponse {
        heartbeat: number,
        ..DeliverResponse::default()
    }
}

/// A stream whose heartbeats are answered and whose answers are recorded as they come.
struct Side {
    stream: Deliver,
    /// What was answered, in order: subscription, epoch, sequence and kind.
    answers: Vec<(u32, u64, u64, &'static str)>,
    unsubscribed: Vec<u32>,
    subscribed: Vec<v1::Subscribe>,
    beaten: u64,
}

impl Side {
    async fn open(node: &mut Node) -> (Self, DeliverRequest) {
        let mut stream = node.deliver().await;
        let first = stream.next().await;
        stream.send(heartbeat(first.heartbeat));
        (
            Self {
                stream,
                answers: Vec::new(),
                unsubscribed: Vec::new(),
                subscribed: first.subscribe.clone(),
                beaten: first.heartbeat,
            },
            first,
        )
    }

    fn send(&self, response: DeliverResponse) {
        self.stream.send(response);
    }

    async fn step(&mut self) {
        let request = self.stream.next().await;
        self.take(request);
    }

    fn take(&mut self, request: DeliverRequest) {
        let mut response = heartbeat(request.heartbeat);
        for answer in request.answers {
            let kind = match answer.answer.unwrap() {
                Kind::Ack(_) => "ack",
                Kind::Retry(_) => "retry",
                Kind::Reject(_) => "reject",
                Kind::Unavailable(_) => "unavailable",
            };
            self.answers
                .push((answer.subscription, answer.epoch, answer.sequence, kind));
            let subscription = answer.subscription;
            response.results.push(AnswerResult {
                subscription,
                ..AnswerResult::default()
            });
        }
        self.unsubscribed.extend(request.unsubscribe);
        self.subscribed.extend(request.subscribe);
        self.beaten = self.beaten.max(request.heartbeat);
        self.stream.send(response);
    }

    /// Goes on until the client ends the stream.
    async fn until_end(&mut self) {
        while let Some(request) = self.stream.next_or_end().await {
            self.take(request);
        }
    }

    /// Goes on until an answer of that sequence came.
    async fn until_answered(&mut self, sequence: u64) {
        while self
            .answers
            .last()
            .is_none_or(|answer| answer.2 != sequence)
        {
            self.step().await;
        }
    }

    /// Goes on until so many subscriptions were asked for; the last of them.
    async fn until_subscribed(&mut self, count: usize) -> v1::Subscribe {
        while self.subscribed.len() < count {
            self.step().await;
        }
        self.subscribed[count - 1].clone()
    }

    async fn until_beaten(&mut self, number: u64) {
        while self.beaten < number {
            self.step().await;
        }
    }

    async fn until_unsubscribed(&mut self, count: usize) {
        while self.unsubscribed.len() < count {
            self.step().await;
        }
    }
}

fn consumer(node: &Node) -> Consumer {
    node.cluster().consumer().name("lab").start().unwrap()
}

async fn next(subscription: &mut Subscription) -> Delivery {
    within(subscription.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn deliveries_are_handled_in_order_and_acknowledged_together() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let seen = Mutex::new(Vec::new());
    let handled = consumer.run(["orders"], async |delivery: &Delivery| {
        let text = delivery.message().map(|message| message.payload.clone());
        seen.lock()
            .unwrap()
            .push((delivery.sequence(), text.is_some(), delivery.epoch()));
        Answer::Ack
    });
    let play = async {
        let (mut side, first) = Side::open(&mut node).await;
        let subscribe = &first.subscribe[0];
        assert_eq!(
            (subscribe.interface.as_str(), subscribe.name.as_str()),
            ("orders", "lab")
        );
        assert_eq!((subscribe.subscription, &subscribe.position), (1, &None));
        side.send(granted(1, 4, 10));
        // 13 is for other destinations only.
        side.send(deliver(1, 4, [message(11), skip(12), message(14)]));
        side.until_answered(14).await;
        assert_eq!(side.answers, [(1, 4, 14, "ack")]);
        tokio::join!(consumer.close(), side.until_end());
        assert_eq!(side.unsubscribed, [1]);
    };
    let (result, ()) = within(async { tokio::join!(handled, play) }).await;
    result.unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        [(11, true, 4), (12, false, 4), (14, true, 4)]
    );
}

#[tokio::test]
async fn a_retry_acknowledges_what_was_before_and_voids_what_was_behind() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let (mut side, _) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, (1..=4).map(message)));
    next(&mut orders).await.ack();
    next(&mut orders)
        .await
        .retry(Duration::from_secs(1), "busy")
        .unwrap();
    side.until_answered(2).await;
    assert_eq!(side.answers, [(1, 1, 1, "ack"), (1, 1, 2, "retry")]);
    // Sent before the node knew: void.
    side.send(deliver(1, 1, [message(5)]));
    side.send(granted(1, 2, 1));
    side.send(deliver(1, 2, [message(2)]));
    let again = next(&mut orders).await;
    assert_eq!((again.sequence(), again.epoch()), (2, 2));
    assert!(!format!("{again:?}").contains("SECRET"));
    again.reject("never").unwrap();
    side.until_answered(2).await;
    side.send(granted(1, 3, 2));
    side.send(deliver(1, 3, [message(3)]));
    next(&mut orders)
        .await
        .unavailable(Duration::from_secs(1), "gone")
        .unwrap();
    side.until_answered(3).await;
    assert_eq!(
        side.answers[2..],
        [(1, 2, 2, "reject"), (1, 3, 3, "unavailable")]
    );
}

#[tokio::test]
async fn only_the_first_unacknowledged_message_can_be_answered_by_anything_but_ack() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let (mut side, _) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, [message(1), message(2), skip(3), message(4)]));
    let (first, second, third) = (
        next(&mut orders).await,
        next(&mut orders).await,
        next(&mut orders).await,
    );
    assert_eq!(
        second.reject("no"),
        Err(AnswerError::NotHead { sequence: 2 })
    );
    assert_eq!(
        third.reject("no"),
        Err(AnswerError::SkipMarker { sequence: 3 })
    );
    let fourth = next(&mut orders).await;
    first.retry(Duration::ZERO, "first again").unwrap();
    assert_eq!(
        fourth.reject("no"),
        Err(AnswerError::EpochOver { epoch: 1 })
    );
    side.until_answered(1).await;
    assert_eq!(side.answers, [(1, 1, 1, "retry")]);
}

#[tokio::test]
async fn after_a_reconnect_it_resumes_behind_what_was_handled_and_hands_nothing_over_twice() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let (side, first) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, (1..=3).map(message)));
    let (one, two) = (next(&mut orders).await, next(&mut orders).await);
    one.ack();
    side.stream
        .fail(Failure::new(Reason::Superseded, "a new run began"));
    let (mut side, again) = Side::open(&mut node).await;
    let (before, after) = (&first.subscribe[0], &again.subscribe[0]);
    assert_eq!(after.consumer_id, before.consumer_id);
    let position = after.position.clone().unwrap();
    assert_eq!(
        (
            position.sequence,
            position.incarnation,
            &position.interface_id[..]
        ),
        (1, 1, &ID[..])
    );
    // In hand over the reconnect: handled now, and not again when it is delivered again.
    two.ack();
    side.send(granted(1, 2, 1));
    side.send(deliver(1, 2, (2..=3).map(message)));
    let three = next(&mut orders).await;
    assert_eq!((three.sequence(), three.epoch()), (3, 2));
    three.ack();
    side.until_answered(3).await;
    assert!(
        side.answers.iter().all(|answer| answer.1 == 2),
        "{:?}",
        side.answers
    );
}

#[tokio::test]
async fn nothing_is_begun_before_a_heartbeat_was_answered() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let results = consumer.subscribe("results");
    let mut stream = node.deliver().await;
    let mut first = stream.next().await;
    while first.heartbeat == 0 {
        first = stream.next().await;
    }
    stream.send(granted(1, 1, 0));
    stream.send(deliver(1, 1, [message(1)]));
    stream.send(state(
        2,
        State::Waiting(SubscriptionWaiting {
            holder: "other".to_owned(),
        }),
    ));
    until(|| matches!(results.state(), GrantState::Waiting { .. })).await;
    assert_eq!(
        orders.state(),
        GrantState::Granted {
            epoch: 1,
            checkpoint: 0
        }
    );
    assert!(
        orders.next().now_or_never().is_none(),
        "the delivery is there, and may not be begun"
    );
    stream.send(heartbeat(first.heartbeat));
    assert_eq!(next(&mut orders).await.sequence(), 1);
}

#[tokio::test]
async fn subscriptions_are_handled_at_once_on_one_stream() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let both = tokio::sync::Barrier::new(2);
    let handled = consumer.run(["a", "b"], async |_: &Delivery| {
        both.wait().await;
        Answer::Ack
    });
    let play = async {
        let (mut side, _) = Side::open(&mut node).await;
        for number in [1, 2] {
            side.send(granted(number, 1, 0));
            side.send(deliver(number, 1, [message(1)]));
        }
        while side.answers.len() < 2 {
            side.step().await;
        }
        tokio::join!(consumer.close(), side.until_end());
    };
    let (result, ()) = within(async { tokio::join!(handled, play) }).await;
    result.unwrap();
}

#[tokio::test]
async fn a_handler_can_run_in_a_task_of_its_own() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let counter = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&counter);
    let task = tokio::spawn(async move {
        // A boxed future is `Send` whatever the delivery's lifetime, which a task of its own asks for.
        let handler = move |_: &Delivery| -> BoxFuture<'_, Answer> {
            count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Answer::Ack })
        };
        orders.run(handler).await
    });
    let (mut side, _) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, [message(1), message(2)]));
    side.until_answered(2).await;
    tokio::join!(consumer.close(), side.until_end());
    within(task).await.unwrap().unwrap();
    assert_eq!(counter.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_skip_marker_that_is_not_acknowledged_is_handed_over_again() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let tries = Mutex::new(0);
    let handled = consumer.run(["orders"], async |delivery: &Delivery| {
        assert_eq!(delivery.skip_reason(), Some(SkipReason::Attempts));
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        if *tries < 3 {
            Answer::unavailable(Duration::ZERO, "not now")
        } else {
            Answer::Ack
        }
    });
    let play = async {
        let (mut side, _) = Side::open(&mut node).await;
        side.send(granted(1, 1, 0));
        side.send(deliver(1, 1, [skip(1)]));
        side.until_answered(1).await;
        assert_eq!(side.answers, [(1, 1, 1, "ack")]);
        tokio::join!(consumer.close(), side.until_end());
    };
    let (result, ()) = within(async { tokio::join!(handled, play) }).await;
    result.unwrap();
    assert_eq!(*tries.lock().unwrap(), 3);
}

#[tokio::test]
async fn an_ended_subscription_tells_why_and_the_others_go_on() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let position = Position {
        interface_id: Uuid::from_bytes([6; 16]),
        incarnation: 1,
        sequence: 9,
    };
    let mut orders = consumer.subscribe(
        SubscribeTo::interface("orders")
            .destination("lab")
            .position(position),
    );
    let mut results = consumer.subscribe("results");
    let (mut side, first) = Side::open(&mut node).await;
    let subscribe = first
        .subscribe
        .iter()
        .find(|subscribe| subscribe.subscription == 1)
        .unwrap();
    assert_eq!(
        (
            subscribe.destination.as_str(),
            subscribe.position.as_ref().unwrap().sequence
        ),
        ("lab", 9)
    );
    let ended = SubscriptionEnded {
        reason: Reason::Position.into(),
        text: "another interface".to_owned(),
    };
    side.send(state(1, State::Ended(ended)));
    let error = within(orders.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ConsumeError::Ended(refusal) if refusal.reason == Reason::Position),
        "{error}"
    );
    assert!(within(orders.next()).await.is_none());
    assert_eq!(orders.state(), GrantState::Ended);
    side.send(granted(2, 1, 0));
    side.send(deliver(2, 1, [message(1)]));
    next(&mut results).await.ack();
    side.until_answered(1).await;
    drop(results);
    side.until_unsubscribed(1).await;
    assert_eq!(side.unsubscribed, [2]);
}

#[tokio::test]
async fn a_refused_answer_begins_the_grant_anew() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let (mut side, _) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, [message(1)]));
    next(&mut orders).await.ack();
    while side.stream.next().await.answers.is_empty() {}
    let result = AnswerResult {
        subscription: 1,
        reason: Reason::Epoch.into(),
        ..AnswerResult::default()
    };
    side.send(DeliverResponse {
        results: vec![result],
        ..DeliverResponse::default()
    });
    let (_side, again) = Side::open(&mut node).await;
    assert_eq!(again.subscribe[0].position.as_ref().unwrap().sequence, 1);
}

#[tokio::test]
async fn closing_acknowledges_what_was_handled_and_gives_the_grant_back() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let (mut side, _) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, (1..=3).map(message)));
    let in_hand = next(&mut orders).await;
    let finish = async {
        within(async { while orders.next().await.is_some() {} }).await;
        in_hand.ack();
    };
    within(async { tokio::join!(consumer.close(), finish, side.until_end()) }).await;
    assert_eq!(
        (side.answers, side.unsubscribed),
        (vec![(1, 1, 1, "ack")], vec![1])
    );
}

#[tokio::test]
async fn a_grant_is_given_back_only_after_what_is_in_hand_was_let_go_of() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let (mut side, _) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, (1..=3).map(message)));
    let in_hand = next(&mut orders).await;
    drop(orders);
    // What is asked for later is asked for: whatever was to be said of the other was said.
    let _others = consumer.subscribe("others");
    // The same destination waits for what is in hand, though it is one consumer's.
    let _again = consumer.subscribe("orders");
    let asked = within(side.until_subscribed(2)).await;
    assert_eq!(asked.interface, "others");
    assert_eq!(side.unsubscribed, [], "a delivery is in hand");
    in_hand.ack();
    let asked = within(side.until_subscribed(3)).await;
    assert_eq!(asked.interface, "orders");
    within(side.until_unsubscribed(1)).await;
    assert_eq!(
        (side.answers, side.unsubscribed),
        (vec![(1, 1, 1, "ack")], vec![1])
    );
}

#[tokio::test]
async fn what_is_in_hand_when_closing_takes_too_long_falls_silent() {
    let mut node = Node::start().await;
    let close_max = Duration::from_millis(50);
    let consumer = node.cluster().consumer().close_max(close_max);
    let consumer = consumer.start().unwrap();
    let (mut orders, mut others) = (consumer.subscribe("orders"), consumer.subscribe("others"));
    let (mut side, _) = Side::open(&mut node).await;
    for number in [1, 2] {
        side.send(granted(number, 1, 0));
        side.send(deliver(number, 1, [message(1)]));
    }
    let in_hand = next(&mut orders).await;
    next(&mut others).await.ack();
    within(async { tokio::join!(consumer.close(), side.until_end()) }).await;
    // Nobody else is granted it before it would be given up for want of heartbeats.
    assert_eq!(side.unsubscribed, [2]);
    within(in_hand.revoked()).await;
}

#[tokio::test]
async fn closing_waits_for_whoever_lets_go_of_what_takes_too_long() {
    let mut node = Node::start().await;
    let close_max = Duration::from_millis(50);
    let consumer = node.cluster().consumer().close_max(close_max);
    let consumer = consumer.start().unwrap();
    let handled = consumer.run(["orders"], async |_: &Delivery| {
        std::future::pending().await
    });
    let play = async {
        let (mut side, _) = Side::open(&mut node).await;
        side.send(granted(1, 1, 0));
        side.send(deliver(1, 1, [message(1)]));
        side.until_beaten(2).await;
        tokio::join!(consumer.close(), side.until_end());
        side
    };
    let (result, side) = within(async { tokio::join!(handled, play) }).await;
    result.unwrap();
    assert_eq!((side.answers, side.unsubscribed), (vec![], vec![1]));
}

#[tokio::test]
async fn what_is_in_hand_is_aborted_when_another_holds_the_grant() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let mut orders = consumer.subscribe("orders");
    let (side, _) = Side::open(&mut node).await;
    side.send(granted(1, 1, 0));
    side.send(deliver(1, 1, [message(1), message(2)]));
    let (first, second) = (next(&mut orders).await, next(&mut orders).await);
    assert!(first.may_begin());
    assert!(first.revoked().now_or_never().is_none());
    let holder = "another".to_owned();
    side.send(state(1, State::Waiting(SubscriptionWaiting { holder })));
    within(first.revoked()).await;
    assert!(!second.may_begin());
    assert!(second.begin().now_or_never().is_none());
}

#[tokio::test]
async fn heartbeats_follow_quickly_until_one_is_answered() {
    let mut node = Node::start().await;
    let consumer = consumer(&node);
    let _orders = consumer.subscribe("orders");
    let mut stream = node.deliver().await;
    let begin = std::time::Instant::now();
    let mut numbers = Vec::new();
    while numbers.len() < 3 {
        numbers.push(stream.next().await.heartbeat);
    }
    assert_eq!(numbers, [1, 2, 3]);
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
}
