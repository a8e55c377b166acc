//! HL7 in tests: gateways, a plain MLLP sender, one that writes any bytes, and the public samples.

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use ordo_gateway::ack::ReceivedAck;
use ordo_gateway::config::GatewayConfig;
use ordo_gateway::gateway::Gateway;
use ordo_gateway::mllp::MllpCodec;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

use crate::Nodes;

const VT: u8 = 0x0b;
const FS: u8 = 0x1c;
const CR: u8 = b'\r';

/// A gateway of this cluster, in this process. `settings` is the text of its configuration, but for `cluster`.
///
/// # Errors
/// When the configuration is refused, or it can't listen.
pub async fn gateway(nodes: &Nodes, settings: &str) -> Result<Gateway> {
    let addresses: Vec<_> = nodes
        .nodes
        .iter()
        .map(|node| node.public.to_string())
        .collect();
    let config = GatewayConfig::parse(&format!("cluster = {addresses:?}\n{settings}"))?;
    Ok(Gateway::start(config, &nodes.cluster()?).await?)
}

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

/// A connection that writes whatever bytes it is told to, and takes replies as the standard has them: between VT and
/// FS CR, and nothing besides. It shares no code with the gateway.
#[derive(Debug)]
pub struct RawSender {
    stream: TcpStream,
    unread: BytesMut,
}

impl RawSender {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            unread: BytesMut::new(),
        })
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Says that nothing more is written; replies are still taken.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// The next reply; `None` where the connection ends, or none comes within `limit`.
    ///
    /// # Errors
    /// When what comes is no frame.
    pub async fn reply(&mut self, limit: Duration) -> Result<Option<Bytes>> {
        let read = next_frame(&mut self.stream, &mut self.unread);
        match tokio::time::timeout(limit, read).await {
            Ok(reply) => reply,
            Err(_) => Ok(None),
        }
    }
}

/// The next frame of a peer that keeps to the standard; `None` at the end of the connection. What was read beyond it stays
/// in `unread`.
///
/// # Errors
/// When what comes is no frame.
pub async fn next_frame(stream: &mut TcpStream, unread: &mut BytesMut) -> Result<Option<Bytes>> {
    loop {
        ensure!(
            unread.first().is_none_or(|first| *first == VT),
            "a frame does not begin with VT"
        );
        if let Some(end) = unread.windows(2).position(|pair| pair == [FS, CR]) {
            let frame = unread.split_to(end + 2).freeze();
            return Ok(Some(frame.slice(1..end)));
        }
        // A reset is an end, too.
        if !matches!(stream.read_buf(unread).await, Ok(1..)) {
            return Ok(None);
        }
    }
}

/// A message as the standard frames it.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[VT], message, &[FS, CR]].concat()
}

/// A field of the first segment of that name, `MSH-1` being the separator; empty where there is none.
#[must_use]
pub fn field(message: &[u8], segment: &str, number: usize) -> String {
    let text = String::from_utf8_lossy(message);
    let mut segments = text.split('\r').map(|line| line.split('|'));
    let found = segments.find_map(|mut fields| (fields.next() == Some(segment)).then_some(fields));
    // The separator itself is the header's first field.
    let before = if segment == "MSH" { 2 } else { 1 };
    let value = found.and_then(|mut fields| fields.nth(number.checked_sub(before)?));
    value.unwrap_or_default().to_owned()
}

/// The public HL7 orders, by file name; `None` where the folder that holds them does not exist.
///
/// # Errors
/// When it exists and can't be read.
pub fn sample_orders() -> Result<Option<BTreeMap<String, Bytes>>> {
    files("hl7-orders", "hl7")
}

/// What real peers send and answer, by file name; `None` where the folder that holds it does not exist.
///
/// # Errors
/// When it exists and can't be read.
pub fn peer_cases() -> Result<Option<BTreeMap<String, Bytes>>> {
    files("mllp-cases", "bin")
}

fn files(folder: &str, extension: &str) -> Result<Option<BTreeMap<String, Bytes>>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(folder);
    if !folder.exists() {
        return Ok(None);
    }
    let mut files = BTreeMap::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|found| found == extension) {
            let name = path
                .file_name()
                .context("a file has a name")?
                .to_string_lossy()
                .into_owned();
            files.insert(name, std::fs::read(path)?.into());
        }
    }
    Ok(Some(files))
}
