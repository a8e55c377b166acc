use std::net::TcpListener;
use std::time::Duration;

use ordo_client::proto::InterfaceConfig;
use ordo_client::{CallError, Cluster, ConnectError, Reason};
use ordo_wire::status::Failure;

use crate::support::{Node, within};

#[tokio::test]
async fn a_follower_names_the_leader_and_the_call_goes_there() {
    let (leader, follower) = (Node::start().await, Node::start().await);
    follower
        .script(|script| script.refuses = Some(Failure::not_leader(Some(leader.address.clone()))));
    let admin = follower.cluster().admin();
    let created = within(admin.create_interface("orders", InterfaceConfig::default()))
        .await
        .unwrap();
    assert_eq!(created.name, "orders");
    assert_eq!(follower.script(|script| script.calls), 1);
    // The leader is known from then on.
    within(admin.get_interface("orders")).await.unwrap();
    assert_eq!(follower.script(|script| script.calls), 1);
}

#[tokio::test]
async fn without_a_hint_the_nodes_are_tried_in_turn_until_one_leads() {
    let nodes = [Node::start().await, Node::start().await];
    let gone = "127.0.0.1:1".to_owned();
    for node in &nodes {
        node.script(|script| script.refuses = Some(Failure::not_leader(None)));
    }
    let addresses = nodes.iter().map(|node| node.address.clone()).chain([gone]);
    let admin = Cluster::connect(addresses).unwrap().admin();
    let call = admin.get_interface("orders");
    let elect = async {
        while nodes
            .iter()
            .any(|node| node.script(|script| script.calls) < 3)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        nodes[1].script(|script| script.refuses = None);
    };
    let (interface, ()) = within(async { tokio::join!(call, elect) }).await;
    assert_eq!(interface.unwrap().name, "orders");
}

#[tokio::test]
async fn a_change_with_an_unknown_outcome_is_not_repeated_and_a_read_is() {
    let node = Node::start().await;
    let admin = node.cluster().admin();
    let unknown = || Failure::new(Reason::OutcomeUnknown, "the leader stepped down");
    node.script(|script| script.fails_once = vec![unknown()]);
    let error = within(admin.create_interface("orders", InterfaceConfig::default()))
        .await
        .unwrap_err();
    assert!(matches!(&error, CallError::OutcomeUnknown(_)), "{error}");
    assert_eq!(error.refusal().reason, Reason::OutcomeUnknown);
    node.script(|script| script.fails_once = vec![unknown()]);
    within(admin.get_interface("orders")).await.unwrap();
    // One that was certainly not executed is repeated.
    node.script(|script| {
        script.fails_once = vec![Failure::new(Reason::Superseded, "a new run began")]
    });
    within(admin.create_interface("orders", InterfaceConfig::default()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_leader_that_does_not_answer_is_not_taken_for_it_any_more() {
    let (leader, follower) = (Node::start().await, Node::start().await);
    // Takes connections, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let names = |leader: &str| Some(Failure::not_leader(Some(leader.to_owned())));
    follower.script(|script| script.refuses = names(&silent));
    // Of the nodes that it knows then a call begins with any; with this seed, not with the silent one.
    let cluster = Cluster::builder().addresses([follower.address.clone()]);
    let admin = cluster.seed(1).build().unwrap().admin();
    listener.set_nonblocking(true).unwrap();
    let hasty = admin.clone().timeout(Duration::from_millis(100));
    // Until the silent one was called: the follower may take as long, too.
    while listener.accept().is_err() {
        let error = within(hasty.create_interface("orders", InterfaceConfig::default()))
            .await
            .unwrap_err();
        assert!(matches!(&error, CallError::OutcomeUnknown(_)), "{error}");
    }
    follower.script(|script| script.refuses = names(&leader.address));
    within(admin.create_interface("orders", InterfaceConfig::default()))
        .await
        .unwrap();
    assert_eq!(leader.script(|script| script.calls), 1);
}

#[tokio::test]
async fn a_refusal_keeps_reason_text_field_and_delay() {
    let node = Node::start().await;
    let failure =
        Failure::field("config.window", "0 is not allowed").retry_after(Duration::from_millis(70));
    node.script(|script| script.refuses = Some(failure));
    let error = within(
        node.cluster()
            .admin()
            .create_interface("orders", InterfaceConfig::default()),
    )
    .await;
    let Err(CallError::Refused(refusal)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(refusal.reason, Reason::InvalidField);
    assert_eq!(refusal.code, tonic::Code::InvalidArgument);
    assert_eq!(refusal.fields[0].field, "config.window");
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(70)));
}

#[tokio::test]
async fn without_any_node_a_call_ends_in_time_as_not_executed() {
    let cluster = Cluster::connect(["127.0.0.1:1"]).unwrap();
    let admin = cluster.admin().timeout(Duration::from_millis(300));
    let error = within(admin.create_interface("orders", InterfaceConfig::default()))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Unsent(_)), "{error}");
}

#[test]
fn addresses_that_cannot_be_used_are_named() {
    assert!(matches!(
        Cluster::connect(Vec::<String>::new()),
        Err(ConnectError::NoAddress)
    ));
    let error = Cluster::connect(["a b"]).unwrap_err();
    assert!(
        matches!(&error, ConnectError::Address { address, .. } if address == "a b"),
        "{error}"
    );
}
