//! Receives the interface "orders" in sequence order and prints it, until Ctrl-C.
use ordo_client::{Answer, Cluster, Content, Delivery};

async fn receive(delivery: &Delivery) -> Answer {
    match delivery.content() {
        Content::Message(message) => {
            println!("{}: {} bytes", delivery.sequence(), message.payload.len());
        }
        Content::Skip(skip) => println!("{}: skipped, {:?}", delivery.sequence(), skip.reason()),
    }
    // A receiver that stores `delivery.position()` with its own data discards repeats after a crash.
    Answer::Ack
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Any node will do: the client finds the leader and follows it.
    let cluster = Cluster::connect(["127.0.0.1:7400"])?;
    let consumer = cluster.consumer().name("printer").start()?;
    tokio::select! {
        ended = consumer.run(["orders"], receive) => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    // What was handled is acknowledged, and the grant given back.
    consumer.close().await;
    Ok(())
}
