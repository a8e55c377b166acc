//! A laboratory that does exactly what a test tells it to, byte by byte. It shares no code with the gateway.

use bytes::{Bytes, BytesMut};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::mllp::{field, next_frame};

/// How long it waits for the next order to be there.
const NEXT_ORDER_MAX: Duration = Duration::from_millis(500);

/// One order as it reached the laboratory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// MSH-10.
    pub control_id: String,
    /// The order.
    pub order: Bytes,
    /// How often the same bytes had come before.
    pub earlier: usize,
    /// The number of the connection it came on, from 1.
    pub connection: usize,
}

/// One thing that the laboratory does about an order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Thinks for so long.
    Wait(Duration),
    /// Waits until the next order is there, or does not come, without reading it.
    AwaitNext,
    /// Closes the connection.
    Close,
}

/// What it does about an order that it sees.
type Script = dyn Fn(&Sight) -> Vec<Step> + Send + Sync;

/// A running laboratory. Dropping it closes everything.
#[derive(Debug)]
pub struct ScriptedLab {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Sight>>>,
    accepting: JoinHandle<()>,
}

impl ScriptedLab {
    /// Opens one that does what `script` says of each order.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(
        script: impl Fn(&Sight) -> Vec<Step> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&seen), Arc::new(script)));
        Ok(Self {
            address,
            seen,
            accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Sight> {
        locked(&self.seen).clone()
    }
}

impl Drop for ScriptedLab {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn locked(seen: &Mutex<Vec<Sight>>) -> std::sync::MutexGuard<'_, Vec<Sight>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves connections, which end with this.
async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Sight>>>, script: Arc<Script>) {
    let mut serving = tokio::task::JoinSet::new();
    let mut connections = 0;
    while let Ok((stream, _)) = listener.accept().await {
        connections += 1;
        serving.spawn(serve(
            stream,
            connections,
            Arc::clone(&seen),
            Arc::clone(&script),
        ));
        while serving.try_join_next().is_some() {}
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    seen: Arc<Mutex<Vec<Sight>>>,
    script: Arc<Script>,
) {
    let mut unread = BytesMut::new();
    while let Ok(Some(order)) = next_frame(&mut stream, &mut unread).await {
        let sight = {
            let mut seen = locked(&seen);
            let sight = Sight {
                control_id: field(&order, "MSH", 10),
                earlier: seen.iter().filter(|sight| sight.order == order).count(),
                order,
                connection,
            };
            seen.push(sight.clone());
            sight
        };
        for step in script(&sight) {
            match step {
                Step::Write(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Wait(pause) => tokio::time::sleep(pause).await,
                Step::AwaitNext => {
                    let next = tokio::time::timeout(NEXT_ORDER_MAX, is_there(&stream));
                    let _ = next.await;
                }
                Step::Close => return,
            }
        }
    }
}

/// Waits until something can be read, the end of the connection included, and reads nothing.
async fn is_there(stream: &TcpStream) {
    let mut byte = [0];
    while let Err(error) = stream.peek(&mut byte).await {
        if error.kind() != ErrorKind::Interrupted {
            return;
        }
    }
}
