//! The minimal lower layer protocol: `<VT> message <FS><CR>`, as a bounded codec.
//!
//! Our own, because the MLLP codecs on the registry merge two frames of one packet, never end a frame, or hold
//! whatever a sender cares to send.
//!
//! # What is an error
//! HL7 forbids VT (0x0b) and FS (0x1c) inside a message, so a frame's end is never a guess: a byte other than VT
//! between frames, a VT inside a frame (its sender began anew and the first frame will never end), an FS without its
//! CR, a frame past the limit, an end of the connection inside a frame.
//!
//! # What happens after one
//! The codec no longer knows where a message begins, and guessing could split one message or join two. So the first
//! framing error is the last: from then on the codec drops what arrives and repeats the error. A gateway sends one
//! error reply where one is possible and closes the connection; the sender, having had no accept, sends again on a new
//! one. [`MllpCodec::take_rejected`] hands out the beginning of the frame that failed, usually enough to read its MSH
//! and so to name the message in that reply. Frames that were complete before the error have been yielded already and
//! are not affected.
//!
//! # Memory
//! The buffer never holds more of an unfinished frame than the limit and one read; a payload is split off that buffer
//! without copying.

use std::fmt;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// Start of a frame, `<VT>`.
pub const START_OF_FRAME: u8 = 0x0b;
/// End of a frame, `<FS>`, always followed by [`CARRIAGE_RETURN`].
pub const END_OF_FRAME: u8 = 0x1c;
/// The byte that follows [`END_OF_FRAME`].
pub const CARRIAGE_RETURN: u8 = 0x0d;
/// Largest payload, in bytes, where nothing else is configured: 1 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// How much of a frame that failed is kept for the error reply, in bytes. An MSH segment fits many times.
const REJECTED_BYTES_MAX: usize = 8 * 1024;

/// Why a stream of bytes is not a sequence of MLLP frames. Offsets count from the first byte of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something other than VT stood where a frame must begin.
    #[error("expected the start of an MLLP frame (0x0b) but found 0x{found:02x} at byte {offset}")]
    StartExpected {
        /// The byte that was found.
        found: u8,
        /// Where it was found.
        offset: u64,
    },
    /// A VT inside a frame.
    #[error(
        "a new MLLP frame began (0x0b) at byte {offset}, before the frame begun at byte {frame_offset} had ended"
    )]
    StartInsideFrame {
        /// Where the second VT was found.
        offset: u64,
        /// Where the unfinished frame began.
        frame_offset: u64,
    },
    /// An FS that no CR follows.
    #[error(
        "the end of an MLLP frame (0x1c) must be followed by 0x0d but 0x{found:02x} was found at byte {offset}"
    )]
    EndWithoutCarriageReturn {
        /// The byte found in the place of CR.
        found: u8,
        /// Where it was found.
        offset: u64,
    },
    /// More payload than allowed.
    #[error(
        "the MLLP frame begun at byte {frame_offset} is larger than the limit of {limit} bytes"
    )]
    Oversized {
        /// Where the frame began.
        frame_offset: u64,
        /// The limit on the payload, in bytes.
        limit: usize,
    },
    /// The connection ended inside a frame.
    #[error(
        "the connection ended {received} bytes into the MLLP frame begun at byte {frame_offset}"
    )]
    Truncated {
        /// Where the frame began.
        frame_offset: u64,
        /// Bytes received of it, its VT included.
        received: usize,
    },
}

/// What can go wrong on an MLLP connection.
#[derive(Debug, thiserror::Error)]
pub enum MllpError {
    /// What arrived is not framed as MLLP asks.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What was to be sent holds a byte that would break the frame.
    #[error(
        "the message can't be framed: it holds the framing byte 0x{byte:02x} at byte {position}"
    )]
    Unframable {
        /// The offending byte, VT or FS.
        byte: u8,
        /// Its position in the payload.
        position: usize,
    },
    /// The connection failed.
    #[error("the MLLP connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Decodes and encodes MLLP frames; see the [module](self) for its rules.
pub struct MllpCodec {
    payload_bytes_max: usize,
    /// Offset in the connection of the first buffered byte.
    offset: u64,
    /// Buffered bytes known to hold no complete frame, so that a frame in a thousand pieces is read once.
    scanned: usize,
    failed: Option<FrameError>,
    rejected: Option<Bytes>,
}

impl MllpCodec {
    /// A codec for one connection that takes payloads of up to `payload_bytes_max` bytes.
    pub fn new(payload_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max,
            offset: 0,
            scanned: 0,
            failed: None,
            rejected: None,
        }
    }

    /// After a framing error: the first 8 KiB at most of the payload it cut off, once. `None` where the error was not
    /// inside a frame.
    pub fn take_rejected(&mut self) -> Option<Bytes> {
        self.rejected.take()
    }

    /// Ends decoding for good: keeps the head of the broken frame, drops the rest.
    fn fail(&mut self, src: &mut BytesMut, payload_len: usize, error: FrameError) -> MllpError {
        if payload_len > 0 {
            let kept = payload_len.min(REJECTED_BYTES_MAX);
            self.rejected = Some(Bytes::copy_from_slice(&src[1..=kept]));
        }
        self.failed = Some(error);
        self.drop_buffered(src);
        error.into()
    }

    fn drop_buffered(&mut self, src: &mut BytesMut) {
        self.offset += src.len() as u64;
        self.scanned = 0;
        src.clear();
    }

    fn oversized(&self) -> FrameError {
        FrameError::Oversized {
            frame_offset: self.offset,
            limit: self.payload_bytes_max,
        }
    }
}

impl Default for MllpCodec {
    fn default() -> Self {
        Self::new(PAYLOAD_BYTES_MAX)
    }
}

impl fmt::Debug for MllpCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MllpCodec")
            .field("payload_bytes_max", &self.payload_bytes_max)
            .field("offset", &self.offset)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Decoder for MllpCodec {
    type Item = Bytes;
    type Error = MllpError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, MllpError> {
        if let Some(error) = self.failed {
            self.drop_buffered(src);
            return Err(error.into());
        }
        match src.first() {
            None => return Ok(None),
            Some(&START_OF_FRAME) => {}
            Some(&found) => {
                let error = FrameError::StartExpected {
                    found,
                    offset: self.offset,
                };
                return Err(self.fail(src, 0, error));
            }
        }
        let from = self.scanned.max(1);
        let mark = src[from..]
            .iter()
            .position(|byte| matches!(*byte, START_OF_FRAME | END_OF_FRAME));
        let payload_len = mark.map_or(src.len(), |at| from + at) - 1;
        if payload_len > self.payload_bytes_max {
            let error = self.oversized();
            return Err(self.fail(src, payload_len, error));
        }
        let mark = payload_len + 1;
        let mark_offset = self.offset + mark as u64;
        match (src.get(mark).copied(), src.get(mark + 1).copied()) {
            (Some(START_OF_FRAME), _) => {
                let error = FrameError::StartInsideFrame {
                    offset: mark_offset,
                    frame_offset: self.offset,
                };
                Err(self.fail(src, payload_len, error))
            }
            (Some(_), Some(CARRIAGE_RETURN)) => {
                src.advance(1);
                let payload = src.split_to(payload_len).freeze();
                src.advance(2);
                self.offset = mark_offset + 2;
                self.scanned = 0;
                Ok(Some(payload))
            }
            (Some(_), Some(found)) => {
                let error = FrameError::EndWithoutCarriageReturn {
                    found,
                    offset: mark_offset + 1,
                };
                Err(self.fail(src, payload_len, error))
            }
            // Unfinished, or finished but for its CR: look again from the mark on.
            (None | Some(_), None) | (None, Some(_)) => {
                self.scanned = mark;
                Ok(None)
            }
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, MllpError> {
        if self.failed.is_some() && src.is_empty() {
            // Reported already; now the connection is simply over.
            return Ok(None);
        }
        if let Some(frame) = self.decode(src)? {
            return Ok(Some(frame));
        }
        if src.is_empty() {
            return Ok(None);
        }
        let error = FrameError::Truncated {
            frame_offset: self.offset,
            received: src.len(),
        };
        let payload_len = self.scanned.max(1) - 1;
        Err(self.fail(src, payload_len, error))
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for MllpCodec {
    type Error = MllpError;

    fn encode(&mut self, item: T, dst: &mut BytesMut) -> Result<(), MllpError> {
        let payload = item.as_ref();
        if let Some(position) = payload
            .iter()
            .position(|byte| matches!(*byte, START_OF_FRAME | END_OF_FRAME))
        {
            return Err(MllpError::Unframable {
                byte: payload[position],
                position,
            });
        }
        dst.reserve(payload.len() + 3);
        dst.put_u8(START_OF_FRAME);
        dst.put_slice(payload);
        dst.put_slice(&[END_OF_FRAME, CARRIAGE_RETURN]);
        Ok(())
    }
}

#[cfg(test)]
#[path = "mllp_tests.rs"]
mod tests;
