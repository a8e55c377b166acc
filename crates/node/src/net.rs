//! Connections: how they are made, accepted and bounded. Simulations bring their own.

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// How long a client may take to say what its protocol begins with; and how often a connection is looked at.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may be open without a call on it. Clients connect anew when they need to.
const IDLE: Duration = Duration::from_secs(300);
/// The same while all connections are taken, so that idle ones can't keep the others out for ever.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(10);
/// How long a client may leave what is written to it in the network: then it is gone, or does not mean to read.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);
/// The pause after `accept` failed. Descriptors come back as connections end, not by asking at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

    /// At most `connections` at once: the next one waits until one is closed. One is closed when its first
    /// `hello_bytes` take longer than 10 s, when no call is on it for 5 minutes (10 s while all are taken), and when it
    /// takes nothing of what is written for 30 s; so whoever says or reads nothing can't keep the others out. What is
    /// returned beside them closes them all.
    pub fn bounded(
        self,
        connections: u32,
        hello_bytes: usize,
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
        let gate = Gate {
            address: self.address,
            incoming: self.incoming,
            permits,
            full: Arc::default(),
            told_full: Told::default(),
            told_error: Told::default(),
            hello_bytes,
            cut,
        };
        let accepted = futures_util::stream::unfold(gate, |mut gate| async move {
            let connection = gate.next().await?;
            Some((Ok(connection), gate))
        });
        (Box::pin(accepted), open)
    }
}

/// Keeps a flood out of the logs.
#[derive(Debug, Default)]
pub(crate) struct Told(Option<Instant>);

impl Told {
    /// At most once a minute.
    pub(crate) fn may_tell(&mut self) -> bool {
        let may = self
            .0
            .is_none_or(|at| at.elapsed() >= Duration::from_secs(60));
        if may {
            self.0 = Some(Instant::now());
        }
        may
    }
}

/// Where connections wait to be let in.
struct Gate {
    address: SocketAddr,
    incoming: Incoming,
    permits: Arc<Semaphore>,
    /// No more fit.
    full: Arc<AtomicBool>,
    told_full: Told,
    told_error: Told,
    hello_bytes: usize,
    cut: CancellationToken,
}

impl Gate {
    async fn permit(&mut self) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return permit;
        }
        if self.told_full.may_tell() {
            tracing::warn!(address = %self.address, "all connections are taken: more have to wait");
        }
        self.full.store(true, Ordering::Relaxed);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        self.full.store(false, Ordering::Relaxed);
        permit.expect("nobody closes this semaphore")
    }

    async fn next(&mut self) -> Option<Connection> {
        let permit = self.permit().await;
        loop {
            match self.incoming.next().await? {
                Ok((io, remote)) => {
                    return Some(Connection {
                        io,
                        remote: Remote::new(remote),
                        hello: self.hello_bytes,
                        look: Box::pin(sleep(HELLO_WITHIN)),
                        unwritten_since: None,
                        full: Arc::clone(&self.full),
                        cut: Box::pin(self.cut.clone().cancelled_owned()),
                        _permit: permit,
                    });
                }
                // Out of file descriptors, or the peer went away at once: neither is a reason to stop listening.
                Err(error) => {
                    if self.told_error.may_tell() {
                        tracing::warn!(address = %self.address, %error, "cannot accept a connection");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
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
    remote: Remote,
    /// Bytes that have to come before it counts as one that speaks.
    hello: usize,
    /// When it is looked at next.
    look: Pin<Box<Sleep>>,
    /// It takes nothing of what is written.
    unwritten_since: Option<Instant>,
    full: Arc<AtomicBool>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("remote", &self.remote.address)
            .finish_non_exhaustive()
    }
}

/// Who is at the other end of a call's connection.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its address, where that is known.
    pub address: Option<SocketAddr>,
    /// The calls on the connection.
    pub activity: Arc<Activity>,
}

impl Remote {
    fn new(address: Option<SocketAddr>) -> Self {
        Self {
            address,
            activity: Arc::new(Activity(Mutex::new(Calls {
                open: 0,
                idle_since: Instant::now(),
            }))),
        }
    }
}

/// The calls on one connection: one without any is closed in the end.
#[derive(Debug)]
pub struct Activity(Mutex<Calls>);

#[derive(Debug)]
struct Calls {
    open: usize,
    idle_since: Instant,
}

impl Activity {
    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins.
    pub fn begin(&self) {
        self.calls().open += 1;
    }

    /// A call that had begun is over.
    pub fn end(&self) {
        let mut calls = self.calls();
        calls.open -= 1;
        calls.idle_since = Instant::now();
    }

    fn is_idle(&self, limit: Duration) -> bool {
        let calls = self.calls();
        calls.open == 0 && calls.idle_since.elapsed() >= limit
    }
}

impl Connected for Connection {
    type ConnectInfo = Remote;

    fn connect_info(&self) -> Remote {
        self.remote.clone()
    }
}

impl Connection {
    /// Who is at the other end.
    #[must_use]
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Why it has to be closed; pending while it need not.
    fn overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let idle = match self.full.load(Ordering::Relaxed) {
                true => IDLE_WHEN_FULL,
                false => IDLE,
            };
            let why = if self.hello > 0 {
                "the client connected and said nothing"
            } else if self.remote.activity.is_idle(idle) {
                "no call was made on the connection"
            } else if self
                .unwritten_since
                .is_some_and(|since| since.elapsed() >= WRITTEN_WITHIN)
            {
                "the client took nothing of what was written"
            } else {
                self.look.as_mut().reset(Instant::now() + HELLO_WITHIN);
                continue;
            };
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }

    /// What a write came to.
    fn wrote<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_pending() {
            self.unwritten_since.get_or_insert_with(Instant::now);
            return self.overdue(cx).map(Err);
        }
        self.unwritten_since = None;
        wrote
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
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if read.is_pending() {
            return self.overdue(cx).map(Err);
        }
        let bytes = buffer.filled().len() - before;
        self.hello = self.hello.saturating_sub(bytes);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, data);
        self.wrote(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.wrote(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.wrote(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Connection, Io, Listening, Open};
    use futures_util::{Stream, StreamExt};
    use std::io::{self, ErrorKind};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc::UnboundedSender;
    use tokio::time::{Instant, timeout};

    type Dial = UnboundedSender<DuplexStream>;

    fn gate(
        connections: u32,
        hello_bytes: usize,
    ) -> (
        Dial,
        impl Stream<Item = io::Result<Connection>> + Unpin,
        Open,
    ) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let incoming = incoming.map(|io: DuplexStream| Ok((Box::new(io) as Box<dyn Io>, None)));
        let listening = Listening {
            address: ([127, 0, 0, 1], 1).into(),
            incoming: Box::pin(incoming),
        };
        let (accepted, open) = listening.bounded(connections, hello_bytes);
        (sender, accepted, open)
    }

    async fn connect(
        dial: &Dial,
        accepted: &mut (impl Stream<Item = io::Result<Connection>> + Unpin),
    ) -> (DuplexStream, Connection) {
        let (client, server) = duplex(64);
        dial.send(server).unwrap();
        (client, accepted.next().await.unwrap().unwrap())
    }

    /// Waits for the connection to be closed: how, and after how many seconds.
    async fn closed(connection: &mut Connection) -> (ErrorKind, u64) {
        let started = Instant::now();
        let error = connection.read_u8().await.unwrap_err();
        (error.kind(), started.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_too_many_waits_for_another_to_close() {
        let (dial, mut accepted, _open) = gate(1, 1);
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
    async fn a_connection_whose_greeting_does_not_come_is_closed() {
        let (dial, mut accepted, _open) = gate(10, 3);
        let (mut client, mut connection) = connect(&dial, &mut accepted).await;
        client.write_all(b"ab").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'a');
        assert_eq!(connection.read_u8().await.unwrap(), b'b');
        assert_eq!(closed(&mut connection).await, (ErrorKind::TimedOut, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_call_is_closed_sooner_when_others_wait() {
        let (dial, mut accepted, _open) = gate(2, 1);
        let (mut client, mut connection) = connect(&dial, &mut accepted).await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'a');
        let call = connection.remote().activity.clone();
        call.begin();
        let hour = Duration::from_secs(3_600);
        assert!(
            timeout(hour, connection.read_u8()).await.is_err(),
            "a call is open"
        );
        call.end();
        let (kind, seconds) = closed(&mut connection).await;
        assert!(
            kind == ErrorKind::TimedOut && (300..=310).contains(&seconds),
            "{seconds}"
        );

        let (mut client, mut second) = connect(&dial, &mut accepted).await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), b'a');
        let third = tokio::spawn(async move { accepted.next().await.unwrap().unwrap() });
        let (_waiting, server) = duplex(64);
        dial.send(server).unwrap();
        let (kind, seconds) = closed(&mut second).await;
        assert!(
            kind == ErrorKind::TimedOut && seconds <= 20,
            "{seconds}: all are taken"
        );
        drop(second);
        third.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_closed_whatever_it_says() {
        let (dial, mut accepted, _open) = gate(2, 1);
        let (mut client, mut connection) = connect(&dial, &mut accepted).await;
        connection.remote().activity.begin();
        client.write_all(b"a").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'a');
        let started = Instant::now();
        let error = connection.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!((30..=40).contains(&started.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn all_connections_can_be_closed() {
        let (dial, mut accepted, open) = gate(2, 1);
        let (mut client, mut connection) = connect(&dial, &mut accepted).await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'a');
        let serving = tokio::spawn(async move { connection.read_u8().await.unwrap_err().kind() });
        drop(accepted);
        let started = Instant::now();
        open.cut(Duration::from_secs(60)).await;
        assert_eq!(
            started.elapsed(),
            Duration::ZERO,
            "it waits for the connection, not for the limit"
        );
        assert_eq!(serving.await.unwrap(), ErrorKind::ConnectionAborted);
    }
}
