//! HL7 in tests: a plain MLLP sender, and the public sample orders.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use ordo_gateway::ack::ReceivedAck;
use ordo_gateway::mllp::MllpCodec;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

/// A connection to an MLLP listener.
#[derive(Debug)]
pub struct Sender(Framed<TcpStream, MllpCodec>);

/// A reply: the acknowledgement code and its text.
pub type Reply = (String, String);

impl Sender {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self(Framed::new(
            TcpStream::connect(address).await?,
            MllpCodec::default(),
        )))
    }

    /// Sends one message and waits for its reply.
    ///
    /// # Errors
    /// When the connection ends instead, or the reply is none.
    pub async fn send(&mut self, message: &Bytes) -> Result<Reply> {
        self.0.send(message).await?;
        let reply = tokio::time::timeout(crate::PATIENCE, self.0.next())
            .await
            .context("no reply")?;
        let reply = reply.context("the connection ended")??;
        let ack = ReceivedAck::read(&reply)?;
        Ok((ack.code.to_string(), ack.text))
    }
}

/// The public HL7 orders, by file name; `None` where the folder that holds them does not exist.
///
/// # Errors
/// When it exists and can't be read.
pub fn sample_orders() -> Result<Option<BTreeMap<String, Bytes>>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/hl7-orders");
    if !folder.exists() {
        return Ok(None);
    }
    let mut orders = BTreeMap::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "hl7") {
            let name = path
                .file_name()
                .context("a file has a name")?
                .to_string_lossy()
                .into_owned();
            orders.insert(name, std::fs::read(path)?.into());
        }
    }
    Ok(Some(orders))
}
