//! Connections over the simulated network.

use crate::place::Place;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use ordo_client::{BootClock, Cluster, Connect, ConnectError, endpoint};
use ordo_node::net::{Accepted, Dial, Io, Listening};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Where clients connect.
pub const PUBLIC: u16 = 7400;
/// Where other nodes connect.
pub const PEER: u16 = 7401;
/// Where health is served.
pub const HTTP: u16 = 7402;

/// A node's end of a connection. Once the node is dead of a trap nothing leaves it any more, though its tasks run on
/// to the end of the tick.
struct NodeWire {
    stream: TcpStream,
    place: Arc<Place>,
    boot: u64,
}

impl AsyncRead for NodeWire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for NodeWire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.place.is_dead(self.boot) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Dials other nodes from `place`.
pub struct SimDial {
    /// Whose machine this is.
    pub place: Arc<Place>,
    /// Which start of it.
    pub boot: u64,
}

impl Dial for SimDial {
    fn dial(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let (address, place, boot) = (address.to_owned(), Arc::clone(&self.place), self.boot);
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(NodeWire {
                stream,
                place,
                boot,
            }) as Box<dyn Io>)
        })
    }
}

/// Listens on a port of the host at hand.
///
/// # Errors
/// When the port is taken.
pub async fn listen(place: Arc<Place>, boot: u64, port: u16) -> io::Result<Listening> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(address).await?;
    let incoming = futures_util::stream::unfold((listener, place), move |state| async move {
        let (listener, place) = state;
        let accepted = listener.accept().await.map(|(stream, remote)| {
            let wire = NodeWire {
                stream,
                place: Arc::clone(&place),
                boot,
            };
            let accepted: Accepted = (Box::new(wire), Some(remote));
            accepted
        });
        Some((accepted, (listener, place)))
    });
    Ok(Listening {
        address,
        incoming: Box::pin(incoming),
    })
}

/// Connects from the host at hand.
pub fn connector() -> impl Connect {
    connector_of(None)
}

/// Connects from the host at hand; what is not read waits at the node, but for so many bytes of it.
pub fn narrow_connector(bytes: u32) -> impl Connect {
    connector_of(Some(bytes))
}

fn connector_of(window: Option<u32>) -> impl Connect {
    move |address: &str| -> Result<_, ConnectError> {
        let address = address.to_owned();
        let mut endpoint = endpoint(&address)?;
        if let Some(bytes) = window {
            endpoint = endpoint.initial_stream_window_size(bytes);
        }
        Ok(
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
                let address = address.clone();
                async move { TcpStream::connect(address).await.map(TokioIo::new) }
            })),
        )
    }
}

/// The cluster, as a client on the host at hand reaches it.
///
/// # Panics
/// Never: the addresses are host names of ours.
#[must_use]
pub fn cluster(nodes: &[String], seed: u64) -> Cluster {
    let cluster = Cluster::builder()
        .addresses(nodes.iter().cloned())
        .connector(connector())
        // Clients' machines are never suspended here; to look would make runs differ.
        .clock(BootClock::new(|| Duration::ZERO))
        .seed(seed);
    cluster.build().expect("there is at least one address")
}
