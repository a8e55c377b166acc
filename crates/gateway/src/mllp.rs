//! The minimal lower layer protocol: `<VT> message <FS><CR>`, as a bounded codec that takes what real peers send.
//!
//! Our own, because the MLLP codecs on the registry merge two frames of one packet, never end a frame, or hold
//! whatever a sender cares to send.
//!
//! # What is taken as it is meant
//! - A frame ended by `FS CR`, `FS LF` or `FS CR LF`; also by an FS alone, where the next VT, a line end, the end of the
//!   connection or [silence](MllpCodec::after_silence) follows it, with nothing but blanks and NUL in between.
//! - Line ends, blanks, NUL and a UTF-8 byte order mark between frames, up to [`PADDING_BYTES_MAX`].
//!
//! A payload is handed on byte for byte; what stood between frames is dropped.
//!
//! # What is an error
//! HL7 forbids VT (0x0b) and FS (0x1c) inside a message, so a frame's end is never a guess: text before a VT, a VT or an
//! FS inside a frame's text, a frame past the limit, an end of the connection inside a frame, UTF-16 where any of these
//! are found in it.
//!
//! # What happens after one
//! A broken frame is passed over as a whole, up to the end that any frame has: one error for it, and what is behind it is
//! decoded as if nothing had been. A message is neither split nor joined by this: nothing of the broken frame is
//! yielded. Only a VT that `MSH` follows ends it earlier: its sender began anew. Where no end can be made out (the limit
//! is passed, text that silence follows, the end of the connection) the error is the last: the codec
//! [no longer knows](MllpCodec::is_lost) where a message begins, drops what arrives and repeats the error.
//!
//! [`MllpCodec::take_rejected`] hands out the beginning of the frame that failed, usually enough to read its MSH and so to
//! name the message in the reply.
//!
//! # Memory
//! The buffer never holds more of an unfinished frame than the limit, the padding behind it and one read; a payload is
//! split off that buffer without copying.

use std::fmt;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// Start of a frame, `<VT>`.
pub const START_OF_FRAME: u8 = 0x0b;
/// End of a frame, `<FS>`; followed by [`CARRIAGE_RETURN`] where a frame is written.
pub const END_OF_FRAME: u8 = 0x1c;
/// The byte that follows [`END_OF_FRAME`].
pub const CARRIAGE_RETURN: u8 = 0x0d;
/// Largest payload, in bytes, where nothing else is configured: 1 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes between two frames, and before the first.
pub const PADDING_BYTES_MAX: usize = 64;
/// UTF-8's byte order mark, which some put before what they send.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How much of a frame that failed is kept for the error reply, in bytes. An MSH segment fits many times.
const REJECTED_BYTES_MAX: usize = 8 * 1024;

/// Why a stream of bytes is not a sequence of MLLP frames. Offsets count from the first byte of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Text stood where a frame must begin.
    #[error(
        "expected the start of an MLLP frame (0x0b) but found 0x{found:02x} at byte {offset}: text before a frame"
    )]
    StartExpected {
        /// The byte that was found.
        found: u8,
        /// Where it was found.
        offset: u64,
    },
    /// More line ends, blanks and NUL than may stand between frames.
    #[error("more than {PADDING_BYTES_MAX} bytes of padding between MLLP frames, at byte {offset}")]
    Padding {
        /// Where the byte too many was found.
        offset: u64,
    },
    /// A frame within a frame: the VT of another message.
    #[error(
        "a frame within a frame: a new MLLP frame began (0x0b) at byte {offset}, before the frame begun at byte {frame_offset} had ended"
    )]
    StartInsideFrame {
        /// Where the second VT was found.
        offset: u64,
        /// Where the unfinished frame began.
        frame_offset: u64,
    },
    /// A VT inside a frame that begins no other message.
    #[error("a control byte inside the text of an MLLP frame: 0x0b at byte {offset}")]
    StartInsideText {
        /// Where it was found.
        offset: u64,
    },
    /// An FS that text follows.
    #[error(
        "a control byte inside the text of an MLLP frame: the end of a frame (0x1c) must be followed by 0x0d but 0x{found:02x} was found at byte {offset}"
    )]
    EndWithoutCarriageReturn {
        /// The byte found in the place of CR.
        found: u8,
        /// Where it was found.
        offset: u64,
    },
    /// Text in UTF-16, in which any byte may be a framing byte.
    #[error(
        "UTF-16: the text of the MLLP frame begun at byte {frame_offset} is in UTF-16; send UTF-8 or a character set of single bytes"
    )]
    Utf16 {
        /// Where it began.
        frame_offset: u64,
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
    /// Bytes of padding since the last frame.
    padding: usize,
    /// What is known of the frame at the beginning of the buffer.
    frame: Frame,
    /// The error that was the last.
    lost: Option<FrameError>,
    rejected: Option<Bytes>,
}

/// A frame that is being received, or a broken one that is being passed over.
#[derive(Clone, Copy, Default)]
struct Frame {
    /// Where its VT stands in the buffer; `None` while there is none.
    start: Option<usize>,
    /// Buffered bytes that need not be looked at again, so that a frame in a thousand pieces is read once.
    scanned: usize,
    /// What is wrong with it.
    fault: Option<FrameError>,
    /// It is complete if nothing else comes: its FS stands at `scanned`, and only padding follows.
    ends_in_silence: bool,
}

/// What the bytes behind an FS make of it.
enum End {
    /// A frame's end, this many bytes behind the FS included.
    After(usize),
    /// Not to be told yet. Where nothing more comes, is it an end?
    Unknown { if_nothing_comes: bool },
    /// None: this byte, so far behind the FS, is text.
    Text { found: u8, at: usize },
}

impl MllpCodec {
    /// A codec for one connection that takes payloads of up to `payload_bytes_max` bytes.
    pub fn new(payload_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max,
            offset: 0,
            padding: 0,
            frame: Frame::default(),
            lost: None,
            rejected: None,
        }
    }

    /// After a framing error: the first 8 KiB at most of the payload it cut off, once; of text before a VT where no frame
    /// followed. `None` where nothing was received.
    pub fn take_rejected(&mut self) -> Option<Bytes> {
        self.rejected.take()
    }

    /// Whether it no longer knows where a message begins: a framing error was the last.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Whether silence would tell something, after [`decode`](Decoder::decode) found nothing more: see
    /// [`MllpCodec::after_silence`].
    pub fn awaits_silence(&self) -> bool {
        let unframed = self.frame.start.is_none() && self.frame.fault.is_some();
        self.lost.is_none() && (self.frame.ends_in_silence || unframed)
    }

    /// As `decode`, when the peer has been silent for long enough to mean it: a frame that ends with an FS alone is
    /// complete, and text without a VT is not going to have one.
    ///
    /// # Errors
    /// As `decode`.
    pub fn after_silence(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, MllpError> {
        if !self.awaits_silence() {
            return Ok(None);
        }
        if self.frame.ends_in_silence {
            return self.complete(src, self.frame.scanned, src.len());
        }
        let error = self
            .frame
            .fault
            .expect("it waits for a VT, having found text");
        Err(self.lose(src, error))
    }

    /// Passes over what may stand between frames. Says whether something else comes next, known by its first byte.
    fn skip_padding(&mut self, src: &mut BytesMut) -> Result<bool, MllpError> {
        let mut length = 0;
        while let Some(&byte) = src.get(length) {
            let rest = &src[length..];
            match byte {
                b'\r' | b'\n' | b' ' | b'\t' | 0 => length += 1,
                _ if rest.starts_with(BYTE_ORDER_MARK) => length += BYTE_ORDER_MARK.len(),
                _ => break,
            }
            if self.padding + length > PADDING_BYTES_MAX {
                let offset = self.offset + (PADDING_BYTES_MAX - self.padding) as u64;
                return Err(self.lose(src, FrameError::Padding { offset }));
            }
        }
        self.padding += length;
        self.advance(src, length);
        // The beginning of a mark says nothing yet.
        Ok(!src.is_empty() && !BYTE_ORDER_MARK.starts_with(src))
    }

    /// Looks for the end of the frame at the beginning of `src`.
    fn scan(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, MllpError> {
        loop {
            let from = self.frame.scanned;
            let mark = src[from..]
                .iter()
                .position(|byte| matches!(*byte, START_OF_FRAME | END_OF_FRAME))
                .map_or(src.len(), |at| from + at);
            let frame_offset = self.offset + self.frame.start.unwrap_or_default() as u64;
            let payload = mark - self.frame.start.map_or(0, |start| start + 1);
            if payload > self.payload_bytes_max {
                let limit = self.payload_bytes_max;
                let oversized = FrameError::Oversized {
                    frame_offset,
                    limit,
                };
                // Judged by what is too much, not by what came with it.
                self.frame.scanned = mark - payload + self.payload_bytes_max + 1;
                return Err(self.lose(src, self.frame.fault.unwrap_or(oversized)));
            }
            self.frame.scanned = mark;
            let offset = self.offset + mark as u64;
            match (src.get(mark), self.frame.start) {
                (None, _) => return Ok(None),
                (Some(&START_OF_FRAME), None) => {
                    self.frame.start = Some(mark);
                    self.frame.scanned = mark + 1;
                }
                (Some(&START_OF_FRAME), Some(_)) => match begins_message(&src[mark + 1..]) {
                    None => return Ok(None),
                    Some(true) => {
                        self.frame
                            .fault
                            .get_or_insert(FrameError::StartInsideFrame {
                                offset,
                                frame_offset,
                            });
                        return self.complete(src, mark, mark);
                    }
                    Some(false) => self.pass_over(FrameError::StartInsideText { offset }),
                },
                (Some(_), _) => match end_of_frame(&src[mark + 1..]) {
                    End::After(length) => return self.complete(src, mark, mark + 1 + length),
                    End::Unknown { if_nothing_comes } => {
                        self.frame.ends_in_silence = if_nothing_comes;
                        return Ok(None);
                    }
                    End::Text { found, at } => {
                        let offset = offset + 1 + at as u64;
                        self.pass_over(FrameError::EndWithoutCarriageReturn { found, offset });
                    }
                },
            }
        }
    }

    /// The mark at `scanned` ends nothing: the frame is broken, and goes on behind it.
    fn pass_over(&mut self, fault: FrameError) {
        self.frame.fault.get_or_insert(fault);
        self.frame.scanned += 1;
    }

    /// Ends the frame: its text ends at `text_end`, and the next one may begin at `end`.
    fn complete(
        &mut self,
        src: &mut BytesMut,
        text_end: usize,
        end: usize,
    ) -> Result<Option<Bytes>, MllpError> {
        let Some(fault) = self.frame.fault else {
            let begin = self.frame.start.map_or(0, |start| start + 1);
            let frame = src.split_to(text_end).freeze().slice(begin..);
            self.offset += text_end as u64;
            self.advance(src, end - text_end);
            return Ok(Some(frame));
        };
        let fault = self.reject(src, text_end, fault);
        self.advance(src, end);
        Err(fault.into())
    }

    /// Ends decoding for good: keeps the head of the broken frame, drops the rest.
    fn lose(&mut self, src: &mut BytesMut, error: FrameError) -> MllpError {
        let error = self.reject(src, self.frame.scanned.min(src.len()), error);
        self.lost = Some(error);
        let length = src.len();
        self.advance(src, length);
        error.into()
    }

    /// Keeps the head of the broken frame, and tells UTF-16 by name.
    fn reject(&mut self, src: &BytesMut, text_end: usize, error: FrameError) -> FrameError {
        let (before, text) = match self.frame.start {
            Some(start) => (&src[..start], &src[start + 1..text_end.max(start + 1)]),
            None => (&src[..0], &src[..text_end]),
        };
        let head = &text[..text.len().min(REJECTED_BYTES_MAX)];
        self.rejected = (!head.is_empty()).then(|| Bytes::copy_from_slice(head));
        match (error, is_utf16(before) || is_utf16(text)) {
            (FrameError::Oversized { .. } | FrameError::Truncated { .. }, _) | (_, false) => error,
            (_, true) => FrameError::Utf16 {
                frame_offset: self.offset,
            },
        }
    }

    /// Drops buffered bytes; what is left begins a frame of its own.
    fn advance(&mut self, src: &mut BytesMut, length: usize) {
        self.offset += length as u64;
        src.advance(length);
        self.frame = Frame::default();
    }
}

/// Whether a message begins here, a byte order mark before it or not; `None` while that can't be told.
fn begins_message(bytes: &[u8]) -> Option<bool> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    if bytes.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(bytes) {
        return None;
    }
    let compared = bytes.len().min(3);
    match bytes[..compared] == b"MSH"[..compared] {
        true if compared < 3 => None,
        begins => Some(begins),
    }
}

/// Whether an FS that is followed by these bytes ends its frame.
fn end_of_frame(bytes: &[u8]) -> End {
    let mut at = 0;
    loop {
        let Some(&byte) = bytes.get(at) else {
            let if_nothing_comes = true;
            return End::Unknown { if_nothing_comes };
        };
        match byte {
            b'\r' | b'\n' => return End::After(at + 1),
            START_OF_FRAME => return End::After(at),
            b' ' | b'\t' | 0 if at < PADDING_BYTES_MAX => at += 1,
            _ if bytes[at..].starts_with(BYTE_ORDER_MARK) => return End::After(at),
            _ if BYTE_ORDER_MARK.starts_with(&bytes[at..]) => {
                let if_nothing_comes = false;
                return End::Unknown { if_nothing_comes };
            }
            found => return End::Text { found, at },
        }
    }
}

/// Whether text is UTF-16: by its mark, or by the zeros in `MSH`.
pub(crate) fn is_utf16(text: &[u8]) -> bool {
    [&b"\xff\xfe"[..], b"\xfe\xff", b"M\0S\0H", b"\0M\0S\0H"]
        .iter()
        .any(|begin| text.starts_with(begin))
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
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Decoder for MllpCodec {
    type Item = Bytes;
    type Error = MllpError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, MllpError> {
        if let Some(error) = self.lost {
            let length = src.len();
            self.advance(src, length);
            return Err(error.into());
        }
        if self.frame.start.is_none() && self.frame.fault.is_none() {
            if !self.skip_padding(src)? {
                return Ok(None);
            }
            self.padding = 0;
            match src[0] {
                START_OF_FRAME => {
                    self.frame.start = Some(0);
                    self.frame.scanned = 1;
                }
                found => {
                    let offset = self.offset;
                    self.frame.fault = Some(FrameError::StartExpected { found, offset });
                }
            }
        }
        self.frame.ends_in_silence = false;
        self.scan(src)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, MllpError> {
        if self.lost.is_some() && src.is_empty() {
            // Reported already; now the connection is simply over.
            return Ok(None);
        }
        if let Some(frame) = self.decode(src)? {
            return Ok(Some(frame));
        }
        if src.is_empty() {
            return Ok(None);
        }
        if self.frame.ends_in_silence {
            return self.complete(src, self.frame.scanned, src.len());
        }
        let start = self.frame.start.unwrap_or_default();
        let error = match (self.frame.fault, self.frame.start) {
            (Some(fault), _) => fault,
            // The beginning of a byte order mark.
            (None, None) => FrameError::StartExpected {
                found: src[0],
                offset: self.offset,
            },
            (None, Some(_)) => FrameError::Truncated {
                frame_offset: self.offset + start as u64,
                received: src.len() - start,
            },
        };
        Err(self.lose(src, error))
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
