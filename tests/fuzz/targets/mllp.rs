//! MLLP: however a connection's bytes are cut into reads, the decoder finds the same frames and errors, those that a strict
//! reading finds among them; every frame stands in the bytes between a VT and an FS; and what is held is bounded.
//!
//! Input: the limit, how the reads are cut, and the connection's bytes.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use ordo_gateway::mllp::{
    CARRIAGE_RETURN, END_OF_FRAME, FrameError, MllpCodec, MllpError, PADDING_BYTES_MAX,
    START_OF_FRAME,
};
use tokio_util::codec::{Decoder, Encoder};

/// Frames and errors, in their order.
type Found = Vec<Result<Bytes, FrameError>>;

fuzz_target!(|data: &[u8]| {
    let [limit, cut, bytes @ ..] = data else {
        return;
    };
    let limit = usize::from(*limit);
    let found = decode(&[bytes], limit);
    for reads in [bytes.chunks(1).collect(), cut_up(bytes, *cut)] {
        assert_eq!(decode(&reads, limit), found);
    }
    let frames: Vec<_> = found.iter().flatten().collect();
    check_places(bytes, &frames, limit);
    let (strict, all) = strict(bytes, limit);
    assert!(frames.len() >= strict.len());
    assert!(
        frames
            .iter()
            .zip(&strict)
            .all(|(frame, strict)| frame == strict)
    );
    if all {
        assert_eq!(found.len(), strict.len());
    }
    let mut written = BytesMut::new();
    for frame in &frames {
        MllpCodec::new(limit)
            .encode(frame, &mut written)
            .expect("a frame that was read holds no framing byte");
    }
    if all {
        assert_eq!(written, bytes, "frames are written as they came");
    }
});

/// The frames with which the bytes begin, as the protocol says it, and whether there is nothing else.
fn strict(bytes: &[u8], limit: usize) -> (Vec<&[u8]>, bool) {
    let (mut frames, mut rest) = (Vec::new(), bytes);
    while let Some(body) = rest.strip_prefix(&[START_OF_FRAME]) {
        let is_mark = |byte: &u8| [START_OF_FRAME, END_OF_FRAME].contains(byte);
        let length = body.iter().position(is_mark).unwrap_or(body.len());
        match body[length..].strip_prefix(&[END_OF_FRAME, CARRIAGE_RETURN]) {
            Some(after) if length <= limit => {
                frames.push(&body[..length]);
                rest = after;
            }
            _ => break,
        }
    }
    (frames, rest.is_empty())
}

/// Frames stand in the bytes, one behind the other, and none holds a framing byte.
fn check_places(bytes: &[u8], frames: &[&Bytes], limit: usize) {
    let mut rest = bytes;
    for frame in frames {
        assert!(frame.len() <= limit);
        let framed = [&[START_OF_FRAME], &frame[..], &[END_OF_FRAME]].concat();
        let at = rest
            .windows(framed.len())
            .position(|window| window == framed)
            .expect("a frame is a part of the bytes");
        rest = &rest[at + framed.len()..];
    }
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

fn decode(reads: &[&[u8]], limit: usize) -> Found {
    let (mut codec, mut buffer) = (MllpCodec::new(limit), BytesMut::new());
    let mut found = Vec::new();
    for read in reads {
        buffer.extend_from_slice(read);
        while let Some(next) = frame_error(codec.decode(&mut buffer)).transpose() {
            let error = next.as_ref().err().copied();
            found.push(next);
            if codec.is_lost() {
                check_lost(&mut codec, &mut buffer, error);
                return found;
            }
        }
        // Text, the start, a payload, an end, and padding that waits for what follows.
        let held = 2 * limit + 2 + PADDING_BYTES_MAX + 2;
        assert!(buffer.len() <= held, "{} bytes are held", buffer.len());
    }
    while let Some(next) = frame_error(codec.decode_eof(&mut buffer)).transpose() {
        let error = next.as_ref().err().copied();
        found.push(next);
        if codec.is_lost() {
            check_lost(&mut codec, &mut buffer, error);
            return found;
        }
    }
    assert!(buffer.is_empty());
    found
}

/// Nothing is read after the last error, and nothing is kept twice.
fn check_lost(codec: &mut MllpCodec, buffer: &mut BytesMut, error: Option<FrameError>) {
    let _ = codec.take_rejected();
    assert_eq!(codec.take_rejected(), None);
    buffer.extend_from_slice(b"\x0bMSH|\x1c\r");
    assert_eq!(frame_error(codec.decode(buffer)).err(), error);
    assert!(buffer.is_empty() && !codec.awaits_silence());
    assert_eq!(frame_error(codec.decode_eof(buffer)), Ok(None));
}

fn frame_error(result: Result<Option<Bytes>, MllpError>) -> Result<Option<Bytes>, FrameError> {
    result.map_err(|error| match error {
        MllpError::Frame(error) => error,
        other => panic!("not a framing error: {other}"),
    })
}
