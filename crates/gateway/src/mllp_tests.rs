#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 64;

/// What a connection's bytes are decoded to: frames and errors, in their order.
type Found = Vec<Result<Bytes, FrameError>>;

fn frame_error(error: MllpError) -> FrameError {
    match error {
        MllpError::Frame(error) => error,
        other => panic!("not a framing error: {other}"),
    }
}

/// Feeds `pieces` one after the other, draining the decoder after each, then ends the connection. Also the most that was
/// buffered.
fn decode_pieces<'a>(
    codec: &mut MllpCodec,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Found, usize) {
    let mut buffer = BytesMut::new();
    let (mut found, mut buffered_max) = (Vec::new(), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(next) = codec.decode(&mut buffer).map_err(frame_error).transpose() {
            found.push(next);
            if codec.is_lost() {
                return (found, buffered_max);
            }
        }
        buffered_max = buffered_max.max(buffer.len());
    }
    while let Some(next) = codec
        .decode_eof(&mut buffer)
        .map_err(frame_error)
        .transpose()
    {
        found.push(next);
        if codec.is_lost() {
            break;
        }
    }
    (found, buffered_max)
}

fn decode_all(bytes: &[u8]) -> Found {
    decode_pieces(&mut MllpCodec::new(LIMIT), [bytes]).0
}

fn frames(payloads: &[&'static [u8]]) -> Found {
    let frames = payloads
        .iter()
        .map(|payload| Ok(Bytes::from_static(payload)));
    frames.collect()
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    MllpCodec::default().encode(payload, &mut out).unwrap();
    out.to_vec()
}

#[test]
fn two_frames_in_one_packet_are_two_messages() {
    let found = decode_all(b"\x0bone\x1c\r\x0btwo\x1c\r");
    assert_eq!(found, frames(&[b"one", b"two"]));
}

#[test]
fn a_frame_in_a_thousand_pieces_is_one_message() {
    let payload: Vec<u8> = (0..1_000_u32).map(|i| b'a' + (i % 26) as u8).collect();
    let bytes = framed(&payload);
    let (found, _) = decode_pieces(&mut MllpCodec::default(), bytes.chunks(1));
    assert_eq!(found, [Ok(payload.into())]);
}

#[test]
fn an_empty_frame_is_an_empty_message() {
    assert_eq!(decode_all(b"\x0b\x1c\r"), frames(&[b""]));
}

/// Every way in which a frame may end, and whether the next must follow for it to end.
const ENDS: [&[u8]; 8] = [
    b"\x1c\r",
    b"\x1c\n",
    b"\x1c\r\n",
    b"\x1c",
    b"\x1c\0",
    b"\x1c \t",
    b"\x1c\r\n\r\n\0 \t",
    b"\x1c\r\xef\xbb\xbf",
];

#[test]
fn frames_end_in_every_way_that_is_seen() {
    for end in ENDS {
        for before in [
            &b""[..],
            b"\r\n",
            b"\0",
            b"\xef\xbb\xbf",
            b" \xef\xbb\xbf\n",
        ] {
            let bytes = [before, b"\x0bone", end, b"\x0btwo", end].concat();
            assert_eq!(decode_all(&bytes), frames(&[b"one", b"two"]), "{bytes:?}");
        }
    }
}

#[test]
fn silence_ends_a_frame_whose_end_no_carriage_return_follows_and_no_other() {
    for (bytes, ends) in [
        (&b"\x0bone\x1c"[..], true),
        (b"\x0bone\x1c \0", true),
        (b"\x0bone", false),
        (b"\x0bone\x1c\xef", false),
        (b"", false),
        (b"\xef\xbb", false),
    ] {
        let (mut codec, mut buffer) = (MllpCodec::new(LIMIT), BytesMut::from(bytes));
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        assert_eq!(codec.awaits_silence(), ends, "{bytes:?}");
        let found = codec.after_silence(&mut buffer).unwrap();
        assert_eq!(found, ends.then(|| Bytes::from_static(b"one")));
        if ends {
            // What comes late is padding.
            buffer.extend_from_slice(b"\r\x0btwo\x1c\r");
            assert_eq!(codec.decode(&mut buffer).unwrap().unwrap(), "two");
        }
        assert!(!codec.awaits_silence());
    }
}

#[test]
fn silence_ends_text_that_no_frame_follows() {
    let (mut codec, mut buffer) = (MllpCodec::new(LIMIT), BytesMut::from(&b"MSH|1\r"[..]));
    assert_eq!(codec.decode(&mut buffer).unwrap(), None);
    assert!(codec.awaits_silence());
    let error = frame_error(codec.after_silence(&mut buffer).unwrap_err());
    assert_eq!(
        error.to_string(),
        "expected the start of an MLLP frame (0x0b) but found 0x4d at byte 0: text before a frame"
    );
    assert!(codec.is_lost() && buffer.is_empty());
    assert_eq!(codec.take_rejected().unwrap(), "MSH|1\r");
}

#[test]
fn a_payload_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let fits = vec![b'x'; LIMIT];
    assert_eq!(decode_all(&framed(&fits)), [Ok(Bytes::from(fits))]);
    let oversized = FrameError::Oversized {
        frame_offset: 0,
        limit: LIMIT,
    };
    let bytes = [framed(&[b'x'; LIMIT + 1]), framed(b"behind")].concat();
    assert_eq!(decode_all(&bytes), [Err(oversized)]);
}

#[test]
fn utf_16_past_the_limit_is_told_alike_however_it_is_cut() {
    let bytes = b"M\0S\0H\0|\0^\0";
    for limit in 0..bytes.len() {
        let (whole, _) = decode_pieces(&mut MllpCodec::new(limit), [&bytes[..]]);
        let (cut, _) = decode_pieces(&mut MllpCodec::new(limit), bytes.chunks(1));
        assert_eq!(whole, cut, "limit {limit}");
    }
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

/// A broken frame between two good ones: the error, and the head that is kept of it.
fn broken(bytes: &[u8]) -> (FrameError, Bytes) {
    let all = [&b"\x0bone\x1c\r"[..], bytes, b"\x0btwo\x1c\r"].concat();
    let mut found = decode_all(&all);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(
        (found[0].clone(), found[2].clone()),
        (Ok("one".into()), Ok("two".into()))
    );
    let mut codec = MllpCodec::new(LIMIT);
    decode_pieces(&mut codec, [&all[..all.len() - 6]]);
    (
        found.swap_remove(1).unwrap_err(),
        codec.take_rejected().unwrap_or_default(),
    )
}

#[test]
fn a_broken_frame_is_one_error_and_those_around_it_are_not_affected() {
    let text_before = FrameError::StartExpected {
        found: b'G',
        offset: 6,
    };
    let cases: [(&[u8], FrameError, &[u8]); 9] = [
        (b"GARBAGE\x0bMSH|bad\x1c\r", text_before, b"MSH|bad"),
        (b"GARBAGE\x1c\r", text_before, b"GARBAGE"),
        (b"G\x0bMSH|b\x0bd\x1c \r", text_before, b"MSH|b\x0bd"),
        (
            b"\x0bMSH|a\x0bbc\x1c\r",
            FrameError::StartInsideText { offset: 12 },
            b"MSH|a\x0bbc",
        ),
        (
            b"\x0bMSH|a\x1cbc\x1c\n",
            FrameError::EndWithoutCarriageReturn {
                found: b'b',
                offset: 13,
            },
            b"MSH|a\x1cbc",
        ),
        (
            b"\x0bMSH|a\x1c \0b\x1c",
            FrameError::EndWithoutCarriageReturn {
                found: b'b',
                offset: 15,
            },
            b"MSH|a\x1c \0b",
        ),
        (
            b"M\0S\0H\0|\0\x1c\r",
            FrameError::Utf16 { frame_offset: 6 },
            b"M\0S\0H\0|\0",
        ),
        (
            b"\xff\xfe\x0b\0M\0S\0H\0\x1c\0\r\0",
            FrameError::Utf16 { frame_offset: 6 },
            b"\0M\0S\0H\0",
        ),
        (
            b"\x0bM\0S\0H\0\x0b\x0b\x1c\r",
            FrameError::Utf16 { frame_offset: 6 },
            b"M\0S\0H\0\x0b\x0b",
        ),
    ];
    for (bytes, error, head) in cases {
        let (found, rejected) = broken(bytes);
        assert_eq!((found, &rejected[..]), (error, head), "{bytes:?}");
    }
}

#[test]
fn a_frame_within_a_frame_ends_the_first_one_and_is_read() {
    for (first, second) in [("", ""), ("\u{feff}", "\u{feff}")] {
        let (mut codec, text) = (MllpCodec::new(LIMIT), format!("{second}MSH|two"));
        let bytes = format!("\x0b{first}MSH|one\r\x0b{text}\x1c\r\x0bthree\x1c\r");
        let (found, _) = decode_pieces(&mut codec, [bytes.as_bytes()]);
        let inside = FrameError::StartInsideFrame {
            offset: 9 + first.len() as u64,
            frame_offset: 0,
        };
        assert_eq!(found, [Err(inside), Ok(text.into()), Ok("three".into())]);
        assert_eq!(codec.take_rejected().unwrap(), format!("{first}MSH|one\r"));
        assert_eq!(codec.take_rejected(), None);
    }
}

#[test]
fn padding_is_bounded() {
    let padded = |count: usize| [&vec![0; count][..], b"\x0bone\x1c\r"].concat();
    assert_eq!(decode_all(&padded(PADDING_BYTES_MAX)), frames(&[b"one"]));
    let offset = PADDING_BYTES_MAX as u64;
    let error = FrameError::Padding { offset };
    assert_eq!(decode_all(&padded(PADDING_BYTES_MAX + 1)), [Err(error)]);
    // Between an FS and its CR, too: then it is none.
    let mut codec = MllpCodec::new(LIMIT);
    let bytes = [b"\x0bone\x1c", &[b' '; PADDING_BYTES_MAX + 1][..], b"\r"].concat();
    decode_pieces(&mut codec, [&bytes[..]]);
    assert!(codec.is_lost());
}

#[test]
fn a_connection_that_ends_inside_a_frame_truncates_it() {
    for bytes in [
        &b"\x0bone"[..],
        b"\x0bone\x1c\xef",
        b"\x0b",
        b"\x0bone\x0bM",
    ] {
        let received = bytes.len();
        let frame_offset = 0;
        let truncated = FrameError::Truncated {
            frame_offset,
            received,
        };
        assert_eq!(decode_all(bytes), [Err(truncated)], "{bytes:?}");
    }
    let mut codec = MllpCodec::new(LIMIT);
    decode_pieces(&mut codec, [&b"\x0bone"[..]]);
    assert_eq!(codec.take_rejected().unwrap(), "one");
}

#[test]
fn after_an_error_nothing_more_is_decoded_or_kept() {
    let mut codec = MllpCodec::new(LIMIT);
    let mut buffer = BytesMut::from(&[0; PADDING_BYTES_MAX + 1][..]);
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
    let (found, _) = decode_pieces(&mut codec, [&b"\x0bSECRET"[..]]);
    let error = found[0].clone().unwrap_err();
    let text = format!("{codec:?} {error:?} {error}");
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
    let piece = prop_oneof![
        Just(&[START_OF_FRAME][..]),
        Just(&[END_OF_FRAME][..]),
        Just(&b"\r"[..]),
        Just(&b"\n"[..]),
        Just(&b"\0"[..]),
        Just(&b" "[..]),
        Just(&b"MSH"[..]),
        Just(&b"M"[..]),
        Just(&b"M\0S\0H\0"[..]),
        Just(BYTE_ORDER_MARK),
        Just(&b"\xef"[..]),
        Just(&b"x"[..]),
        Just(&b"\x0bone\x1c\r"[..]),
    ];
    proptest::collection::vec(piece, 0..200).prop_map(|pieces| pieces.concat())
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
        payloads in proptest::collection::vec((payload(), proptest::sample::select(&ENDS[..])), 0..8),
        sizes in proptest::collection::vec(0..40_usize, 0..64),
    ) {
        let mut bytes = Vec::new();
        for (payload, end) in &payloads {
            bytes.extend([&[START_OF_FRAME], &payload[..], end].concat());
        }
        let (found, _) = decode_pieces(&mut MllpCodec::new(LIMIT), cut(&bytes, &sizes));
        let expected: Found = payloads.into_iter().map(|(payload, _)| Ok(payload.into())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_split_of_any_bytes_is_decoded_alike(
        bytes in hostile(),
        sizes in proptest::collection::vec(0..16_usize, 0..64),
    ) {
        let whole = decode_all(&bytes);
        for pieces in [cut(&bytes, &sizes), bytes.chunks(1).collect()] {
            let (found, _) = decode_pieces(&mut MllpCodec::new(LIMIT), pieces);
            prop_assert_eq!(&found, &whole);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_the_limit(
        bytes in hostile(),
        size in 1..16_usize,
    ) {
        let mut codec = MllpCodec::new(LIMIT);
        let (found, buffered_max) = decode_pieces(&mut codec, bytes.chunks(size));
        // Text before a VT, a VT, the payload and an FS with padding that waits for what follows.
        prop_assert!(buffered_max <= 2 * LIMIT + 2 + PADDING_BYTES_MAX + 2, "held {}", buffered_max);
        prop_assert!(found.iter().flatten().all(|frame| frame.len() <= LIMIT));
        prop_assert!(codec.take_rejected().is_none_or(|head| head.len() <= LIMIT + size));
    }
}
