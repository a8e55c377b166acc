//! Sends each line of standard input to the interface "orders", in order, many at once.
use ordo_client::{Cluster, Message};
use std::io::BufRead;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Any node will do: the client finds the leader and follows it.
    let cluster = Cluster::connect(["127.0.0.1:7400"])?;
    let producer = cluster.producer().start()?;
    let mut receipts = Vec::new();
    for line in std::io::stdin().lock().lines() {
        // Waits for room, not for the answer: the order is that of these calls.
        receipts.push(producer.enqueue("orders", Message::new(line?)).await?);
    }
    for receipt in receipts {
        println!("accepted as {}", receipt.await?.sequence);
    }
    producer.close().await;
    Ok(())
}
