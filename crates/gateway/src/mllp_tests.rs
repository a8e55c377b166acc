#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 64;

/// Feeds `pieces` one after the other, draining the decoder after each, then ends the connection.
fn decode_pieces<'a>(
    codec: &mut MllpCodec,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Bytes>, Option<FrameError>, usize) {
    let mut buffer = BytesMut::new();
    let (mut frames, mut buffered_max) = (Vec::new(), 0);
    let frame_error = |error| match error {
        MllpError::Frame(error) => error,
        other => panic!("not a framing error: {other}"),
    };
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(frame_error(error)), buffered_max),
            }
        }
        buffered_max = buffered_max.max(buffer.len());
    }
    loop {
        match codec.decode_eof(&mut buffer) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None, buffered_max),
            Err(error) => return (frames, Some(frame_error(error)), buffered_max),
        }
    }
}

fn decode_all(bytes: &[u8]) -> (Vec<Bytes>, Option<FrameError>) {
    let (frames, error, _) = decode_pieces(&mut MllpCodec::new(LIMIT), [bytes]);
    (frames, error)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    MllpCodec::default().encode(payload, &mut out).unwrap();
    out.to_vec()
}

#[test]
fn two_frames_in_one_packet_are_two_messages() {
    let (frames, error) = decode_all(b"\x0bone\x1c\r\x0btwo\x1c\r");
    assert_eq!(frames, ["one", "two"]);
    assert_eq!(error, None);
}

#[test]
fn a_frame_in_a_thousand_pieces_is_one_message() {
    let payload: Vec<u8> = (0..1_000_u32).map(|i| b'a' + (i % 26) as u8).collect();
    let bytes = framed(&payload);
    let (frames, error, _) = decode_pieces(&mut MllpCodec::default(), bytes.chunks(1));
    assert_eq!(frames, [payload]);
    assert_eq!(error, None);
}

#[test]
fn an_empty_frame_is_an_empty_message() {
    assert_eq!(decode_all(b"\x0b\x1c\r"), (vec![Bytes::new()], None));
}

#[test]
fn a_payload_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let fits = vec![b'x'; LIMIT];
    assert_eq!(decode_all(&framed(&fits)), (vec![Bytes::from(fits)], None));
    let (frames, error) = decode_all(&framed(&[b'x'; LIMIT + 1]));
    assert!(frames.is_empty());
    assert_eq!(
        error,
        Some(FrameError::Oversized {
            frame_offset: 0,
            limit: LIMIT
        })
    );
}

#[test]
fn an_oversized_frame_fails_when_the_limit_is_passed_not_when_it_ends() {
    let mut codec = MllpCodec::new(LIMIT);
    let mut buffer = BytesMut::from(&b"\x0b"[..]);
    buffer.extend_from_slice(&[b'x'; LIMIT]);
    assert!(codec.decode(&mut buffer).unwrap().is_none());
    buffer.extend_from_slice(b"x");
    assert!(matches!(
        codec.decode(&mut buffer),
        Err(MllpError::Frame(FrameError::Oversized { .. }))
    ));
    assert!(buffer.is_empty());
    assert_eq!(codec.take_rejected().unwrap().len(), LIMIT + 1);
}

#[test]
fn garbage_before_a_frame_is_named_by_byte_and_offset() {
    let (frames, error) = decode_all(b"\x0bone\x1c\r\n\x0btwo\x1c\r");
    assert_eq!(frames, ["one"]);
    assert_eq!(
        error,
        Some(FrameError::StartExpected {
            found: b'\n',
            offset: 6
        })
    );
    assert_eq!(
        error.unwrap().to_string(),
        "expected the start of an MLLP frame (0x0b) but found 0x0a at byte 6"
    );
}

#[test]
fn a_frame_begun_inside_a_frame_is_an_error_that_keeps_the_first_ones_head() {
    let mut codec = MllpCodec::new(LIMIT);
    let (frames, error, _) = decode_pieces(&mut codec, [&b"\x0bMSH|one\x0btwo\x1c\r"[..]]);
    assert!(frames.is_empty());
    assert_eq!(
        error,
        Some(FrameError::StartInsideFrame {
            offset: 8,
            frame_offset: 0
        })
    );
    assert_eq!(codec.take_rejected().unwrap(), "MSH|one");
    assert_eq!(codec.take_rejected(), None);
}

#[test]
fn an_end_without_its_carriage_return_is_an_error() {
    let (_, error) = decode_all(b"\x0bone\x1c\x0btwo\x1c\r");
    assert_eq!(
        error,
        Some(FrameError::EndWithoutCarriageReturn {
            found: 0x0b,
            offset: 5
        })
    );
}

#[test]
fn a_connection_that_ends_inside_a_frame_truncates_it() {
    for bytes in [&b"\x0bone"[..], b"\x0bone\x1c", b"\x0b"] {
        let (frames, error) = decode_all(bytes);
        assert!(frames.is_empty());
        assert_eq!(
            error,
            Some(FrameError::Truncated {
                frame_offset: 0,
                received: bytes.len()
            })
        );
    }
    let mut codec = MllpCodec::new(LIMIT);
    decode_pieces(&mut codec, [&b"\x0bone\x1c"[..]]);
    assert_eq!(codec.take_rejected().unwrap(), "one");
}

#[test]
fn after_an_error_nothing_more_is_decoded_or_kept() {
    let mut codec = MllpCodec::new(LIMIT);
    let mut buffer = BytesMut::from(&b"?"[..]);
    codec.decode(&mut buffer).unwrap_err();
    buffer.extend_from_slice(&framed(b"fine"));
    codec.decode(&mut buffer).unwrap_err();
    assert!(buffer.is_empty());
    assert!(codec.decode_eof(&mut buffer).unwrap().is_none());
}

#[test]
fn a_payload_with_framing_bytes_is_not_sent() {
    let mut out = BytesMut::new();
    let error = MllpCodec::default()
        .encode(&b"a\x1cb"[..], &mut out)
        .unwrap_err();
    assert!(matches!(
        error,
        MllpError::Unframable {
            byte: END_OF_FRAME,
            position: 1
        }
    ));
    assert!(out.is_empty());
}

#[test]
fn debug_output_holds_no_content() {
    let mut codec = MllpCodec::new(LIMIT);
    let (_, error, _) = decode_pieces(&mut codec, [&b"\x0bSECRET"[..]]);
    let text = format!("{codec:?} {error:?} {}", error.unwrap());
    assert!(!text.contains("SECRET"), "{text}");
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("framing byte", |byte| {
        !matches!(*byte, START_OF_FRAME | END_OF_FRAME)
    });
    proptest::collection::vec(byte, 0..LIMIT)
}

/// Bytes rich in what the decoder looks for.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        Just(START_OF_FRAME),
        Just(END_OF_FRAME),
        Just(CARRIAGE_RETURN),
        any::<u8>()
    ];
    proptest::collection::vec(byte, 0..400)
}

fn cut<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    for size in sizes {
        let (head, tail) = rest.split_at((*size).min(rest.len()));
        pieces.push(head);
        rest = tail;
    }
    pieces.push(rest);
    pieces
}

proptest! {
    #[test]
    fn any_split_of_any_frames_decodes_to_the_same_frames(
        payloads in proptest::collection::vec(payload(), 0..8),
        sizes in proptest::collection::vec(0..40_usize, 0..64),
    ) {
        let bytes: Vec<u8> = payloads.iter().flat_map(|payload| framed(payload)).collect();
        let (frames, error, _) = decode_pieces(&mut MllpCodec::new(LIMIT), cut(&bytes, &sizes));
        prop_assert_eq!(error, None);
        prop_assert_eq!(frames, payloads);
    }

    #[test]
    fn any_split_of_any_bytes_ends_the_same_way(
        bytes in hostile(),
        sizes in proptest::collection::vec(0..16_usize, 0..64),
    ) {
        let (frames, error, _) = decode_pieces(&mut MllpCodec::new(LIMIT), [&bytes[..]]);
        let (frames_cut, error_cut, _) = decode_pieces(&mut MllpCodec::new(LIMIT), cut(&bytes, &sizes));
        prop_assert_eq!(frames, frames_cut);
        prop_assert_eq!(error, error_cut);
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_the_limit(
        bytes in hostile(),
        size in 1..16_usize,
    ) {
        let mut codec = MllpCodec::new(LIMIT);
        let (frames, _, buffered_max) = decode_pieces(&mut codec, bytes.chunks(size));
        // A VT, the payload and an FS that waits for its CR.
        prop_assert!(buffered_max <= LIMIT + 2, "held {}", buffered_max);
        prop_assert!(frames.iter().all(|frame| frame.len() <= LIMIT));
        prop_assert!(codec.take_rejected().is_none_or(|head| head.len() <= LIMIT + size));
    }
}
