//! Frames over a connection, with every wait bounded.
//!
//! Not `tokio_util::codec::Framed`: a gateway must know whether a frame has begun (idle peers are patient, unfinished
//! frames are not), and must notice that a peer is gone while a reply to it is being delayed.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::codec::{Decoder, Encoder};

use crate::mllp::{FrameError, MllpCodec, MllpError};

/// Room made in the buffer for one read, in bytes.
const READ_BYTES: usize = 8 * 1024;
/// What may be read of the next frames while the reply to the last is awaited, in bytes; only to notice the end.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a peer must have been silent before a frame whose FS no CR follows is taken as complete, where nothing else
/// is configured.
pub(crate) const FRAME_END: Duration = Duration::from_millis(250);
/// How long a peer that was told of an error may go on sending, and how much, before the connection is cut. Cut at
/// once, with unread bytes on our side, TCP would throw our reply away.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// No frame began in time.
    #[error("nothing was received for too long")]
    Idle,
    /// A frame began and did not end in time.
    #[error("the MLLP frame did not end within {0:?} of its beginning")]
    Slow(Duration),
    /// Not framed as MLLP asks.
    #[error(transparent)]
    Frame(FrameError),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

impl From<MllpError> for ReadError {
    fn from(error: MllpError) -> Self {
        match error {
            MllpError::Frame(error) => Self::Frame(error),
            MllpError::Io(error) => Self::Io(error),
            MllpError::Unframable { .. } => {
                unreachable!("only encoding finds what can't be framed")
            }
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why a frame was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// It holds a framing byte. Nothing was written.
    #[error(
        "the message can't be framed: it holds the framing byte 0x{byte:02x} at byte {position}"
    )]
    Unframable { byte: u8, position: usize },
    /// The peer did not take it in time.
    #[error("the peer did not take the message within {0:?}")]
    Slow(Duration),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

/// One MLLP connection.
pub(crate) struct Connection<S> {
    stream: S,
    codec: MllpCodec,
    buffer: BytesMut,
    /// When the frame that is being received began.
    begun: Option<Instant>,
    /// When bytes came last.
    heard: Instant,
    /// How long a silence ends a frame that lacks its CR.
    frame_end: Duration,
    /// The peer has ended its side.
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S, payload_bytes_max: usize) -> Self {
        Self {
            stream,
            codec: MllpCodec::new(payload_bytes_max),
            buffer: BytesMut::new(),
            begun: None,
            heard: Instant::now(),
            frame_end: FRAME_END,
            ended: false,
        }
    }

    /// Sets how long a silence ends a frame whose FS no CR follows.
    pub(crate) fn with_frame_end(mut self, frame_end: Duration) -> Self {
        self.frame_end = frame_end;
        self
    }

    /// Whether what comes after a framing error can be read.
    pub(crate) fn is_understood(&self) -> bool {
        !self.codec.is_lost()
    }

    /// The next frame; `None` where the peer has ended its side between frames. Loses nothing when dropped.
    ///
    /// `idle` ends the wait for a frame's beginning, `frame` bounds the time from there to its end. After a framing error
    /// it may be called again where the connection [is understood](Self::is_understood).
    pub(crate) async fn read(
        &mut self,
        idle: impl Future<Output = ()>,
        frame: Duration,
    ) -> Result<Option<Bytes>, ReadError> {
        let mut idle = pin!(idle);
        loop {
            let found = match self.ended {
                true => self.codec.decode_eof(&mut self.buffer),
                false => self.codec.decode(&mut self.buffer),
            };
            if self.ended || !matches!(found, Ok(None)) {
                self.begun = None;
                return Ok(found?);
            }
            let idles = self.buffer.is_empty();
            if !idles {
                self.begun.get_or_insert_with(Instant::now);
            }
            let slow = self.begun.map(|begun| begun + frame);
            let silent = self.heard + self.frame_end;
            self.buffer.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.buffer);
            tokio::select! {
                biased;
                read = read => {
                    self.heard = Instant::now();
                    self.ended = read? == 0;
                }
                () = &mut idle, if idles => return Err(ReadError::Idle),
                () = sleep_until(silent), if self.codec.awaits_silence() => {
                    let found = self.codec.after_silence(&mut self.buffer);
                    self.begun = None;
                    return Ok(found?);
                }
                () = sleep_until(slow.unwrap_or_else(Instant::now)), if !idles => return Err(ReadError::Slow(frame)),
            }
        }
    }

    /// Whether something was read of a frame that has not ended.
    pub(crate) fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Writes one frame, within `limit`.
    pub(crate) async fn write(
        &mut self,
        payload: &[u8],
        limit: Duration,
    ) -> Result<(), WriteError> {
        let mut frame = BytesMut::new();
        match self.codec.encode(payload, &mut frame) {
            Ok(()) => {}
            Err(MllpError::Unframable { byte, position }) => {
                return Err(WriteError::Unframable { byte, position });
            }
            Err(MllpError::Frame(_) | MllpError::Io(_)) => {
                unreachable!("encoding writes to memory and judges only its payload")
            }
        }
        let written = async {
            self.stream.write_all_buf(&mut frame).await?;
            self.stream.flush().await
        };
        match timeout(limit, written).await {
            Ok(written) => written.map_err(WriteError::Io),
            Err(_) => Err(WriteError::Slow(limit)),
        }
    }

    /// Returns when the peer is gone: when the connection has failed, or `grace` after the peer ended its side. Not at
    /// that end itself, because a peer may end its side and still wait for its reply.
    ///
    /// It has to read for this, so what it reads of the next frames is bounded; past the bound it notices nothing.
    pub(crate) async fn gone(&mut self, grace: Duration) {
        while !self.ended {
            if self.buffer.len() >= AHEAD_BYTES_MAX {
                return std::future::pending().await;
            }
            self.buffer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(read) => {
                    self.heard = Instant::now();
                    self.ended = read == 0;
                }
                Err(_) => return,
            }
        }
        sleep(grace).await;
    }

    /// After an error of the read: the beginning of the frame that broke.
    pub(crate) fn broken_frame(&mut self) -> Option<Bytes> {
        let begun = || (self.buffer.len() > 1).then(|| Bytes::copy_from_slice(&self.buffer[1..]));
        self.codec.take_rejected().or_else(begun)
    }

    /// Ends the connection in good order.
    pub(crate) async fn close(mut self) {
        // Where that fails it has ended already.
        let _ = self.stream.shutdown().await;
    }

    /// Ends the connection in the midst of what the peer sends, so that what was written last arrives: ends our side,
    /// then lets the peer end its own.
    pub(crate) async fn close_early(mut self) {
        if self.stream.shutdown().await.is_err() || self.ended {
            return;
        }
        let mut dropped = 0;
        let drain = async {
            while dropped < LINGER_BYTES_MAX {
                self.buffer.clear();
                self.buffer.reserve(READ_BYTES);
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(read) if read > 0 => dropped += read,
                    // The peer has closed, or the connection is gone: either way nothing is left to wait for.
                    Ok(_) | Err(_) => return,
                }
            }
        };
        // Past the limit the connection is cut, which is what a time limit is for.
        let _ = timeout(LINGER_MAX, drain).await;
    }
}
