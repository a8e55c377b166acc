//! MLLP: however a connection's bytes are cut into reads, the decoder finds what a naive reading of the whole finds,
//! and never holds more than a frame.
//!
//! Input: the limit, how the reads are cut, and the connection's bytes.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use ordo_gateway::mllp::{
    CARRIAGE_RETURN, END_OF_FRAME, FrameError, MllpCodec, MllpError, START_OF_FRAME,
};
use tokio_util::codec::{Decoder, Encoder};

fuzz_target!(|data: &[u8]| {
    let [limit, cut, bytes @ ..] = data else {
        return;
    };
    let limit = usize::from(*limit);
    let (expected, error) = naive(bytes, limit);
    for reads in [vec![bytes], bytes.chunks(1).collect(), cut_up(bytes, *cut)] {
        check(&reads, limit, &expected, error);
    }
    let mut written = BytesMut::new();
    for frame in &expected {
        MllpCodec::new(limit)
            .encode(frame, &mut written)
            .expect("a frame that was read holds no framing byte");
    }
    assert!(
        bytes.starts_with(&written),
        "frames are written as they came"
    );
    if error.is_none() {
        assert_eq!(written, bytes);
    }
});

/// Frames and what ends them, as the protocol says it: one byte after the other.
fn naive(bytes: &[u8], limit: usize) -> (Vec<&[u8]>, Option<FrameError>) {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let frame_offset = at as u64;
        if bytes[at] != START_OF_FRAME {
            let found = bytes[at];
            let offset = frame_offset;
            return (frames, Some(FrameError::StartExpected { found, offset }));
        }
        let is_mark = |byte: &u8| [START_OF_FRAME, END_OF_FRAME].contains(byte);
        let body = &bytes[at + 1..];
        let length = body.iter().position(is_mark).unwrap_or(body.len());
        let offset = frame_offset + 1 + length as u64;
        let error = match (body.get(length).copied(), body.get(length + 1).copied()) {
            _ if length > limit => FrameError::Oversized {
                frame_offset,
                limit,
            },
            (Some(START_OF_FRAME), _) => FrameError::StartInsideFrame {
                offset,
                frame_offset,
            },
            (Some(_), Some(CARRIAGE_RETURN)) => {
                frames.push(&body[..length]);
                at += length + 3;
                continue;
            }
            (Some(_), Some(found)) => FrameError::EndWithoutCarriageReturn {
                found,
                offset: offset + 1,
            },
            _ => FrameError::Truncated {
                frame_offset,
                received: bytes.len() - at,
            },
        };
        return (frames, Some(error));
    }
    (frames, None)
}

/// Reads of 1 to 16 bytes, drawn from `seed`.
fn cut_up(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let (mut reads, mut rest, mut state) = (Vec::new(), bytes, u32::from(seed));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = 1 + (state >> 28) as usize;
        let (read, after) = rest.split_at(length.min(rest.len()));
        reads.push(read);
        rest = after;
    }
    reads
}

fn check(reads: &[&[u8]], limit: usize, expected: &[&[u8]], error: Option<FrameError>) {
    let mut codec = MllpCodec::new(limit);
    let mut buffer = BytesMut::new();
    let (frames, found) = decode(&mut codec, &mut buffer, reads, limit);
    assert_eq!(frames, expected);
    assert_eq!(found, error);
    let rejected = codec.take_rejected();
    let Some(error) = error else {
        assert_eq!(rejected, None);
        return;
    };
    // What is kept of a broken frame is its head, and nothing is kept twice.
    let bytes = reads.concat();
    let consumed: usize = expected.iter().map(|frame| frame.len() + 3).sum();
    let head = rejected.unwrap_or_default();
    assert!(head.is_empty() || bytes[consumed + 1..].starts_with(&head));
    assert_eq!(codec.take_rejected(), None);
    // Nothing is read after an error.
    buffer.extend_from_slice(b"\x0bMSH|\x1c\r");
    assert_eq!(frame_error(codec.decode(&mut buffer)), Err(error));
    assert!(buffer.is_empty());
    assert_eq!(frame_error(codec.decode_eof(&mut buffer)), Ok(None));
}

fn decode(
    codec: &mut MllpCodec,
    buffer: &mut BytesMut,
    reads: &[&[u8]],
    limit: usize,
) -> (Vec<Bytes>, Option<FrameError>) {
    let mut frames = Vec::new();
    for read in reads {
        buffer.extend_from_slice(read);
        loop {
            match frame_error(codec.decode(buffer)) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        // The start, a payload, and an end that waits for its CR.
        assert!(buffer.len() <= limit + 2, "{} bytes are held", buffer.len());
    }
    loop {
        match frame_error(codec.decode_eof(buffer)) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

fn frame_error(result: Result<Option<Bytes>, MllpError>) -> Result<Option<Bytes>, FrameError> {
    result.map_err(|error| match error {
        MllpError::Frame(error) => error,
        other => panic!("not a framing error: {other}"),
    })
}
