//! What the end-to-end tests share: clusters of real `ordo serve` processes on loopback, and bounded waiting.

pub mod carry;
pub mod harm;
pub mod hostile;
mod journal;
pub mod large;
pub mod load;
pub mod mllp;
pub mod namespaces;
pub mod power;
mod process;
pub mod proxy;
pub mod scripted_lab;
pub mod shim;
pub mod torture;
pub mod traffic;

pub use process::{Node, Nodes, free_addresses, ordo};

use std::time::Duration;

/// How long a test waits for a condition before it fails. Far longer than anything takes, since machines are shared;
/// nothing is ever measured against it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `condition` until it gives a value.
///
/// # Panics
/// When it gives none within [`PATIENCE`]; names `what` was waited for.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, condition).await
}

/// [`eventually`], where what is waited for takes long.
///
/// # Panics
/// When it gives none within `patience`.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    match within(patience, condition).await {
        Some(value) => value,
        None => panic!("waited {patience:?} for: {what}"),
    }
}

/// Polls `condition` until it gives a value, or `limit` has passed.
pub async fn within<T>(
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return Some(value);
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A page of a node, with its head.
///
/// # Errors
/// When nobody answers.
pub async fn get(address: std::net::SocketAddr, path: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut page)).await??;
    Ok(page)
}
