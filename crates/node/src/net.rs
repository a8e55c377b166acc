//! Connections: how they are made, accepted and bounded. Simulations bring their own.

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// A connection's two directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection and who is at its other end, where that is known.
pub type Accepted = (Box<dyn Io>, Option<SocketAddr>);

/// Connections as they come in.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<Accepted>> + Send>>;

/// Makes connections to other nodes.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `address`, a `host:port`.
    fn dial(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// Dials TCP.
#[derive(Debug)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Where connections come in, and the address that was bound.
pub struct Listening {
    /// What to tell others; with a port of 0 configured, the real one.
    pub address: SocketAddr,
    /// The connections.
    pub incoming: Incoming,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Listening {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the port is taken, or the address not this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::on(TcpListener::bind(address).await?)
    }

    /// Takes over a listener.
    ///
    /// # Errors
    /// When the operating system can't tell its address.
    pub fn on(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.and_then(|(stream, remote)| {
                stream.set_nodelay(true)?;
                Ok((Box::new(stream) as Box<dyn Io>, Some(remote)))
            });
            Some((accepted, listener))
        });
        Ok(Self {
            address,
            incoming: Box::pin(incoming),
        })
    }

    /// At most `connections` at once: the next one waits until one is closed. A connection that says nothing for
    /// `first_word` after it was made is closed, so that silent ones can't keep the others out. What is returned
    /// beside them closes them all.
    pub fn bounded(
        self,
        connections: u32,
        first_word: Duration,
    ) -> (
        impl Stream<Item = io::Result<Connection>> + Send + Unpin + 'static,
        Open,
    ) {
        let permits = Arc::new(Semaphore::new(connections as usize));
        let cut = CancellationToken::new();
        let open = Open {
            permits: Arc::clone(&permits),
            connections,
            cut: cut.clone(),
        };
        let accepted =
            futures_util::stream::unfold((self.incoming, permits, cut), move |state| async move {
                let (mut incoming, permits, cut) = state;
                let permit = Arc::clone(&permits)
                    .acquire_owned()
                    .await
                    .expect("nobody closes this semaphore");
                loop {
                    match incoming.next().await? {
                        Ok((io, remote)) => {
                            let connection = Connection {
                                io,
                                remote,
                                silent_until: Some(Box::pin(sleep(first_word))),
                                cut: Box::pin(cut.clone().cancelled_owned()),
                                _permit: permit,
                            };
                            return Some((Ok(connection), (incoming, permits, cut)));
                        }
                        // Out of file descriptors, or the peer went away at once: neither is a reason to stop listening.
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a connection");
                            sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            });
        (Box::pin(accepted), open)
    }
}

/// The connections that are open.
#[derive(Debug)]
pub struct Open {
    permits: Arc<Semaphore>,
    connections: u32,
    cut: CancellationToken,
}

impl Open {
    /// Closes all connections, and waits until whoever served them has let go, for `limit` at most. The server must
    /// have stopped taking new ones.
    pub async fn cut(self, limit: Duration) {
        self.cut.cancel();
        if timeout(limit, self.permits.acquire_many(self.connections))
            .await
            .is_err()
        {
            tracing::debug!("some connections were still in use when the node ended");
        }
    }
}

/// An accepted connection that counts against the bound until it is closed.
pub struct Connection {
    io: Box<dyn Io>,
    remote: Option<SocketAddr>,
    silent_until: Option<Pin<Box<Sleep>>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Who is at the other end of a call's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote(pub Option<SocketAddr>);

impl Connected for Connection {
    type ConnectInfo = Remote;

    fn connect_info(&self) -> Remote {
        Remote(self.remote)
    }
}

impl Connection {
    /// Who is at the other end.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            let what = "the node closed the connection";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, what)));
        }
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        match (&read, &mut self.silent_until) {
            (Poll::Pending, Some(deadline)) => deadline.as_mut().poll(cx).map(|()| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client connected and said nothing",
                ))
            }),
            (Poll::Ready(_), _) => {
                self.silent_until = None;
                read
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Io, Listening};
    use futures_util::StreamExt;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    fn listening() -> (tokio::sync::mpsc::UnboundedSender<DuplexStream>, Listening) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let incoming = incoming.map(|io: DuplexStream| Ok((Box::new(io) as Box<dyn Io>, None)));
        (
            sender,
            Listening {
                address: ([127, 0, 0, 1], 1).into(),
                incoming: Box::pin(incoming),
            },
        )
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_too_many_waits_for_another_to_close() {
        let (dial, listening) = listening();
        let (mut accepted, _open) = listening.bounded(1, Duration::from_secs(1));
        let _clients = [duplex(64), duplex(64)].map(|(client, server)| {
            dial.send(server).unwrap();
            client
        });
        let first = accepted.next().await.unwrap().unwrap();
        assert!(
            timeout(Duration::from_secs(60), accepted.next())
                .await
                .is_err()
        );
        drop(first);
        accepted.next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_closed_and_one_that_spoke_is_not() {
        let (dial, listening) = listening();
        let (mut accepted, _open) = listening.bounded(10, Duration::from_secs(10));
        let (mut client, server) = duplex(64);
        dial.send(server).unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'a');
        assert!(
            timeout(Duration::from_secs(60), connection.read_u8())
                .await
                .is_err()
        );
        let (_silent, server) = duplex(64);
        dial.send(server).unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        let error = timeout(Duration::from_secs(11), connection.read_u8())
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn all_connections_can_be_closed() {
        let (dial, listening) = listening();
        let (mut accepted, open) = listening.bounded(2, Duration::from_secs(10));
        let (mut client, server) = duplex(64);
        dial.send(server).unwrap();
        client.write_all(b"a").await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'a');
        let serving = tokio::spawn(async move { connection.read_u8().await.unwrap_err().kind() });
        drop(accepted);
        let started = tokio::time::Instant::now();
        open.cut(Duration::from_secs(60)).await;
        assert_eq!(
            started.elapsed(),
            Duration::ZERO,
            "it waits for the connection, not for the limit"
        );
        assert_eq!(
            serving.await.unwrap(),
            std::io::ErrorKind::ConnectionAborted
        );
    }
}
