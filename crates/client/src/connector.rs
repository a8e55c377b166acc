//! How a channel to a node is made. Simulations put their own network here.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::error::ConnectError;

/// Makes channels to nodes. Implemented by every `Fn(&str) -> Result<Channel, ConnectError>`.
pub trait Connect: Send + Sync + 'static {
    /// A channel to the node at `address` ("host:port", or a URI). It may connect when it is first used; every call
    /// gives a connection of its own.
    ///
    /// # Errors
    /// The address can't be used.
    fn channel(&self, address: &str) -> Result<Channel, ConnectError>;
}

impl<F> Connect for F
where
    F: Fn(&str) -> Result<Channel, ConnectError> + Send + Sync + 'static,
{
    fn channel(&self, address: &str) -> Result<Channel, ConnectError> {
        self(address)
    }
}

/// Connects over TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

impl Connect for TcpConnector {
    fn channel(&self, address: &str) -> Result<Channel, ConnectError> {
        Ok(endpoint(address)?.connect_lazy())
    }
}

/// The settings of every connection to a node: large HTTP/2 windows, no Nagle delay, and a keep-alive that notices a
/// node which is gone without a word. For a [`Connect`] that brings its own transport:
/// `endpoint(address)?.connect_with_connector_lazy(..)`.
///
/// # Errors
/// `address` is neither "host:port" nor a URI.
pub fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| ConnectError::Address {
        address: address.to_owned(),
        text: error.to_string(),
    })?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(10)))
        .http2_keep_alive_interval(Duration::from_secs(3))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(16 << 20))
}
