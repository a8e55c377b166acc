//! HL7 headers: what the scanner finds is what splitting the text finds, what the view shows put together again is
//! the message, and every acknowledgement of a message can be framed, read, and says what it was meant to say.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ordo_gateway::ack::{AckCode, ErrorCondition, Outcome, ReceivedAck, Refusal, Verdict};
use ordo_gateway::ack::{acknowledge, reject_unreadable};
use ordo_gateway::charset::Charset;
use ordo_gateway::hl7::Message;
use ordo_gateway::mllp::{END_OF_FRAME, MllpCodec, START_OF_FRAME};
use ordo_gateway::msh::{Msh, MshError};
use ordo_gateway::stages::{self, StageResult};
use ordo_gateway::time::Hl7Time;
use tokio_util::codec::Encoder;

/// Beyond any field there is.
const FIELDS: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    // With every character set that a listener may name, fields put together again are the header.
    for name in [
        "ISO IR87",
        "Shift_JIS",
        "BIG-5",
        "GB 18030-2000",
        "UNICODE UTF-8",
    ] {
        check_charset(bytes, Charset::named(name.as_bytes()));
    }
    // Those sets the naive reading does not know.
    if Msh::scan(bytes).is_ok_and(|msh| msh.charset().is_multibyte()) {
        return;
    }
    let expected = naive(bytes);
    match Msh::scan(bytes) {
        Ok(msh) => {
            let (separator, fields) = expected.expect("a header was found");
            check_fields(&msh, separator, &fields);
            check_view(bytes);
            // Within a frame there are no framing bytes.
            if !bytes
                .iter()
                .any(|byte| [START_OF_FRAME, END_OF_FRAME].contains(byte))
            {
                check_acks(&msh);
            }
        }
        Err(error) => {
            assert_eq!(expected, None, "{error}");
            let reply = reject_unreadable(&Refusal::from(error), time(), "1");
            let read = framed(&reply);
            assert_eq!(
                (read.code, &read.control_id[..]),
                (AckCode::ApplicationReject, &b""[..])
            );
            assert_eq!(read.text, error.to_string());
        }
    }
    check_stages(bytes);
});

fn check_charset(bytes: &[u8], charset: Option<Charset>) {
    assert!(charset.is_some());
    let Ok(message) = Message::read_in(bytes, charset) else {
        return;
    };
    let msh = message.msh();
    let line = message.segments().next().expect("a header is a segment");
    let mut fields: Vec<_> = (2..).map(|number| msh.field(number)).take(FIELDS).collect();
    while fields.last().is_some_and(|field| field.is_empty()) {
        fields.pop();
    }
    let separator = msh.field_separator();
    let joined = [&b"MSH"[..], &[separator], &fields.join(&separator)].concat();
    let raw: Vec<_> = (1..)
        .map(|number| line.field(number).raw())
        .take(FIELDS)
        .collect();
    assert!(raw.starts_with(&fields));
    let header = bytes.windows(joined.len()).any(|window| window == joined);
    assert!(header, "the fields are the header");
    let outcome = Outcome::Rejected(Refusal::new(ErrorCondition::Internal, "no \u{fc}"));
    if let Some(reply) = acknowledge(&msh, &outcome, time(), "A7") {
        assert!(!reply.is_empty());
    }
}

fn time() -> Hl7Time {
    Hl7Time::from_unix_ms(1_769_903_999_123)
}

/// A stage changes nothing of what came: at most it adds to the end, once.
fn check_stages(bytes: &[u8]) {
    for stage in [stages::validate, stages::enrich, stages::route] {
        if let StageResult::Complete {
            payload: Some(payload),
            ..
        } = stage(bytes)
        {
            assert!(payload.starts_with(bytes));
            let again = stages::enrich(&payload);
            assert!(matches!(again, StageResult::Complete { payload: None, .. }));
        }
    }
}

/// The separator, and the fields from MSH-1 on; `None` where no header begins.
fn naive(bytes: &[u8]) -> Option<(u8, Vec<Vec<u8>>)> {
    let line = header_on(bytes)
        .split(|byte| b"\r\n".contains(byte))
        .next()?;
    let rest = line.strip_prefix(b"MSH")?;
    let separator = *rest.first()?;
    let mut fields = vec![vec![separator], Vec::new()];
    for byte in &rest[1..] {
        match *byte == separator {
            true => fields.push(Vec::new()),
            false => fields.last_mut()?.push(*byte),
        }
    }
    // What MSH-2 does not say, or not in ASCII, is as usual.
    let declared = |at: usize| fields[1].get(at).copied().filter(u8::is_ascii);
    let mut encoding = (0..4).map(|at| declared(at).unwrap_or(b"^~\\&"[at]));
    let usable = separator.is_ascii_punctuation() && !encoding.any(|byte| byte == separator);
    usable.then_some((separator, fields))
}

/// Without what is skipped before a header.
fn header_on(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    loop {
        let after = rest.trim_ascii_start();
        // A form feed is no blank of HL7.
        let skipped = &rest[..rest.len() - after.len()];
        let kept = skipped.iter().position(|byte| *byte == 0x0c);
        rest = kept.map_or(after, |at| &rest[at..]);
        match rest.strip_prefix(b"\xef\xbb\xbf") {
            Some(after) => rest = after,
            None => return rest,
        }
    }
}

fn check_fields(msh: &Msh<'_>, separator: u8, fields: &[Vec<u8>]) {
    assert_eq!(msh.field_separator(), separator);
    assert_eq!(msh.field(0), b"");
    for number in 1..FIELDS.max(fields.len() + 2) {
        let expected = fields.get(number - 1).map_or(&b""[..], Vec::as_slice);
        assert_eq!(msh.field(number), expected, "MSH-{number}");
    }
    match (msh.control_id(), msh.message_id()) {
        (Ok(id), Ok(_)) => assert!(id == fields[9] && !id.trim_ascii().is_empty()),
        (Err(error), Err(again)) => {
            assert_eq!(error, again);
            let cut_short =
                matches!(error, MshError::HeaderCutShort { last } if last == fields.len());
            assert_eq!(cut_short, fields.len() < 10);
        }
        _ => panic!("a message has an identity exactly if it has a control id"),
    }
    let _ = (msh.version_number(), msh.message_type().to_string());
}

/// The view shows every line, and every field of it, as it stands.
fn check_view(bytes: &[u8]) {
    let message = Message::read(bytes).expect("its header was read");
    let separator = message.msh().field_separator();
    let repetition = message.msh().encoding_characters().repetition;
    let lines = header_on(bytes).split(|byte| b"\r\n".contains(byte));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    assert_eq!(message.segments().count(), lines.len());
    for (segment, line) in message.segments().zip(lines) {
        let parts: Vec<_> = line.split(|byte| *byte == separator).collect();
        assert_eq!(segment.name(), parts[0]);
        for (number, part) in parts.iter().enumerate().skip(1) {
            let field = segment.field(number);
            assert_eq!(field.raw(), *part);
            let repetitions: Vec<_> = field.repetitions().map(|one| one.raw()).collect();
            assert_eq!(repetitions.join(&repetition), *part);
        }
        assert_eq!(segment.field(parts.len()).raw(), b"");
    }
}

fn check_acks(msh: &Msh<'_>) {
    let text = "MSH-10 | says ^ more ~ than \\ it & should";
    let refusal = Refusal::new(ErrorCondition::Internal, text);
    let outcomes = [
        Outcome::Accepted,
        Outcome::Failed(refusal.clone()),
        Outcome::Rejected(refusal),
    ];
    for outcome in outcomes {
        let Some(reply) = acknowledge(msh, &outcome, time(), "A7") else {
            continue;
        };
        let read = framed(&reply);
        assert_eq!(read.code.verdict(), outcome.verdict());
        assert!(read.answers(msh), "MSA-2 is MSH-10");
        if outcome.verdict() != Verdict::Accept {
            assert_eq!(read.text, text);
        }
        let header = Msh::scan(&reply).expect("a reply begins with a header");
        assert_eq!(header.control_id(), Ok(&b"A7"[..]));
        assert_eq!(header.sending_application(), msh.receiving_application());
        assert_eq!(header.receiving_facility(), msh.sending_facility());
        assert_eq!(header.version(), msh.version());
        assert_eq!(header.character_set(), msh.character_set());
    }
}

/// A reply that fits into a frame and reads as an acknowledgement.
fn framed(reply: &[u8]) -> ReceivedAck {
    let mut frame = BytesMut::new();
    let encoded = MllpCodec::default().encode(reply, &mut frame);
    encoded.expect("a reply holds no framing byte");
    ReceivedAck::read(reply).expect("a reply is an acknowledgement")
}
