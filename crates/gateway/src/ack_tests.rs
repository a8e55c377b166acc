#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

fn order(msh_15: &str) -> String {
    format!(
        "MSH|^~\\&|HIS^1.2^ISO|WARD|LIS|LAB|20240101||ORM^O01^ORM_O01|RAD-17|P|2.5.1|||{msh_15}|NE||8859/1\rPID|1||SECRET"
    )
}

fn time() -> Hl7Time {
    Hl7Time::from_unix_ms(0)
}

fn answer(message: &str, outcome: &Outcome) -> Option<String> {
    let msh = Msh::scan(message.as_bytes()).unwrap();
    acknowledge(&msh, outcome, time(), "A1").map(|ack| String::from_utf8(ack.to_vec()).unwrap())
}

fn refused(text: &str) -> Refusal {
    Refusal::new(ErrorCondition::Internal, text)
}

#[test]
fn an_accept_in_original_mode_is_exactly_this() {
    assert_eq!(
        answer(&order(""), &Outcome::Accepted).unwrap(),
        "MSH|^~\\&|LIS|LAB|HIS^1.2^ISO|WARD|19700101000000.000+0000||ACK^O01^ACK|A1|P|2.5.1||||||8859/1\rMSA|AA|RAD-17\r"
    );
}

#[test]
fn a_separator_that_stands_in_the_time_shifts_no_field() {
    for separator in ["+", "."] {
        let message = order("").replace('.', "").replace('|', separator);
        let ack = answer(&message, &Outcome::Accepted).unwrap();
        let msh = Msh::scan(ack.as_bytes()).unwrap();
        assert_eq!(msh.control_id(), Ok(&b"A1"[..]), "{ack}");
    }
}

#[test]
fn a_reject_names_field_condition_and_reason() {
    let message = order("").replace("RAD-17", "");
    let outcome = Outcome::Rejected(MshError::ControlIdMissing.into());
    let ack = answer(&message, &outcome).unwrap();
    let segments: Vec<_> = ack.split('\r').collect();
    assert_eq!(segments[1], "MSA|AR||MSH-10 message control id is missing");
    assert_eq!(
        segments[2],
        "ERR||MSH^1^10|101^Required field missing^HL70357|E||||MSH-10 message control id is missing"
    );
}

#[test]
fn versions_before_2_5_get_the_reason_in_msa_3_alone() {
    let message = order("").replace("2.5.1", "2.3");
    let ack = answer(&message, &Outcome::Failed(refused("no"))).unwrap();
    assert!(ack.ends_with("\rMSA|AE|RAD-17|no\r"), "{ack}");
}

#[test]
fn msh_15_decides_mode_and_condition() {
    let (error, reject) = (
        Outcome::Failed(refused("x")),
        Outcome::Rejected(refused("x")),
    );
    let table: [(&str, [Option<&str>; 3]); 7] = [
        ("", [Some("AA"), Some("AE"), Some("AR")]),
        ("\"\"", [Some("AA"), Some("AE"), Some("AR")]),
        ("AL", [Some("CA"), Some("CE"), Some("CR")]),
        ("NE", [None, None, None]),
        ("ER", [None, Some("CE"), Some("CR")]),
        ("SU", [Some("CA"), None, None]),
        ("??", [Some("CA"), Some("CE"), Some("CR")]),
    ];
    for (msh_15, expected) in table {
        for (outcome, code) in [&Outcome::Accepted, &error, &reject]
            .into_iter()
            .zip(expected)
        {
            let ack = answer(&order(msh_15), outcome);
            let read = ack.map(|ack| ReceivedAck::read(ack.as_bytes()).unwrap());
            assert_eq!(
                read.as_ref().map(|ack| ack.code.as_str()),
                code,
                "MSH-15 {msh_15:?}"
            );
            if let Some(read) = read {
                assert_eq!(read.code.verdict(), outcome.verdict());
                assert!(read.answers(&Msh::scan(order(msh_15).as_bytes()).unwrap()));
            }
        }
    }
}

#[test]
fn where_msh_15_asks_for_silence_msh_16_may_ask_for_an_application_reply() {
    let outcomes = [
        Outcome::Accepted,
        Outcome::Failed(refused("x")),
        Outcome::Rejected(refused("x")),
    ];
    let table: [(&str, [Option<&str>; 3]); 8] = [
        ("NE|AL", [Some("AA"), Some("AE"), Some("AR")]),
        ("NE|ER", [None, Some("AE"), Some("AR")]),
        ("NE|SU", [Some("AA"), None, None]),
        ("NE|NE", [None, None, None]),
        ("NE|", [None, None, None]),
        ("ER|AL", [Some("AA"), Some("CE"), Some("CR")]),
        ("SU|ER", [Some("CA"), Some("AE"), Some("AR")]),
        ("AL|AL", [Some("CA"), Some("CE"), Some("CR")]),
    ];
    for (asked, expected) in table {
        let message = format!("MSH|^~\\&|A|B|C|D|||ORM^O01|7|P|2.5|||{asked}\rPID|1");
        for (outcome, code) in outcomes.iter().zip(expected) {
            let ack = answer(&message, outcome);
            let read = ack.map(|ack| ReceivedAck::read(ack.as_bytes()).unwrap().code.as_str());
            assert_eq!(read, code, "MSH-15|MSH-16 {asked:?}");
        }
    }
}

#[test]
fn msh_9_names_the_structure_from_2_4_on() {
    for (version, expected) in [
        ("2.3", "|ACK^O01|"),
        ("2.3.1", "|ACK^O01|"),
        ("2.4", "|ACK^O01^ACK|"),
        ("2.5.1^USA", "|ACK^O01^ACK|"),
        ("", "|ACK^O01|"),
    ] {
        let message = format!("MSH|^~\\&|A|B|C|D|||ORM^O01|7|P|{version}\r");
        let ack = answer(&message, &Outcome::Accepted).unwrap();
        assert!(ack.contains(expected), "{version}: {ack}");
    }
}

#[test]
fn a_reply_is_known_by_its_type_or_its_msa() {
    let is = |text: &str| is_reply(&Message::read(text.as_bytes()).unwrap());
    assert!(is("MSH|^~\\&|A|B|C|D|||ACK^O01|7\rMSA|AA|1"));
    assert!(is("MSH|^~\\&|A|B|C|D|||ACK|7"));
    assert!(is("MSH|^~\\&|A|B|C|D|||ORR^O02|7\r\nMSA|AA|1"));
    assert!(!is("MSH|^~\\&|A|B|C|D|||ORM^O01|7\rPID|1\rMSA|AA|1"));
}

#[test]
fn reasons_keep_their_characters_where_the_senders_set_has_them() {
    let text = |set: &str| {
        let message = format!("MSH|^~\\&|A|B|C|D|||ORM^O01|7|P|2.3||||||{set}\r");
        let msh = Msh::scan(message.as_bytes()).unwrap();
        let outcome = Outcome::Failed(refused("Pr\u{fc}fung \u{20ac}|"));
        let ack = acknowledge(&msh, &outcome, time(), "A1").unwrap();
        let msa = ack.split(|byte| *byte == b'\r').nth(1).unwrap().to_vec();
        msa.strip_prefix(b"MSA|AE|7|").unwrap().to_vec()
    };
    assert_eq!(text(""), b"Pr?fung ?\\F\\");
    assert_eq!(text("8859/1"), b"Pr\xfcfung ?\\F\\");
    assert_eq!(
        text("UNICODE UTF-8"),
        "Pr\u{fc}fung \u{20ac}\\F\\".as_bytes()
    );
    assert_eq!(text("~ISO IR87"), b"Pr?fung ?\\F\\");
}

#[test]
fn the_senders_own_separators_are_used_and_escaped() {
    let message = "MSH#*~\\&#HIS#WARD#LIS#LAB###ORM*O01#7#P#2.5";
    let ack = answer(message, &Outcome::Rejected(refused("a#b*c"))).unwrap();
    assert!(
        ack.starts_with(
            "MSH#*~\\&#LIS#LAB#HIS#WARD#19700101000000.000+0000##ACK*O01*ACK#A1#P#2.5\r"
        ),
        "{ack}"
    );
    assert!(ack.contains("MSA#AR#7#a\\F\\b\\S\\c\r"), "{ack}");
    assert!(
        ack.contains("207*Application internal error*HL70357"),
        "{ack}"
    );
    assert_eq!(ReceivedAck::read(ack.as_bytes()).unwrap().text, "a#b*c");
}

#[test]
fn a_message_without_msh_2_is_answered_with_the_usual_characters() {
    let ack = answer("MSH||A|B|C|D|||ORM^O01|7|P|2.3", &Outcome::Accepted).unwrap();
    assert!(ack.starts_with("MSH|^~\\&|C|D|A|B|"), "{ack}");
}

#[test]
fn bytes_without_a_header_get_a_reject_that_answers_no_control_id() {
    let refusal = Refusal::from(Msh::scan(b"hello").unwrap_err());
    let reply = reject_unreadable(&refusal, time(), "A9");
    let ack = ReceivedAck::read(&reply).unwrap();
    assert_eq!(ack.code, AckCode::ApplicationReject);
    assert_eq!(ack.control_id, b"");
    assert_eq!(
        ack.text,
        "not HL7: the message begins with 0x68, not with an MSH segment"
    );
    assert!(
        String::from_utf8(reply.to_vec())
            .unwrap()
            .contains("|ACK|A9|P|2.5.1\r")
    );
}

#[test]
fn nothing_of_the_body_is_in_an_acknowledgement_or_in_debug_output() {
    let ack = answer(&order(""), &Outcome::Rejected(refused("no"))).unwrap();
    assert!(!ack.contains("SECRET"));
    let read = ReceivedAck::read(b"MSH|^~\\&|\rMSA|AE|1|SECRET\r").unwrap();
    assert_eq!(read.text, "SECRET");
    assert!(!format!("{read:?}").contains("SECRET"));
}

#[test]
fn replies_of_others_are_read_whatever_ends_their_segments() {
    for end in ["\r", "\n", "\r\n"] {
        let reply = format!("MSH|^~\\&|LIS{end}MSA|CE|X^1{end}ERR|||207^Broken^HL70357|E{end}");
        let ack = ReceivedAck::read(reply.as_bytes()).unwrap();
        assert_eq!(ack.code, AckCode::CommitError);
        assert_eq!(ack.control_id, b"X^1");
        assert_eq!(ack.text, "Broken");
    }
}

#[test]
fn reasons_keep_their_characters_in_the_set_that_msh_18_names() {
    let cases: [(&str, &[u8], &str); 10] = [
        (
            "UNICODE UTF-8",
            "Prüfung: Größe 検査".as_bytes(),
            "Prüfung: Größe 検査",
        ),
        ("utf-8", "Prüfung".as_bytes(), "Prüfung"),
        ("8859/1", b"Pr\xfcfung", "Prüfung"),
        ("8859/15", b"5 \xa4", "5 €"),
        ("ASCII~8859/2", b"Pr\xfcfung", "Prüfung"),
        ("~ISO IR87", b"\x1b$B8!::\x1b(B no", "検査 no"),
        ("GB 18030-2000", b"\xbc\xec\xb2\xe9", "检查"),
        // Nothing is named: what is UTF-8 throughout is read as that, and nothing is guessed of the rest.
        ("", "Prüfung".as_bytes(), "Prüfung"),
        ("", b"Pr\xfcfung", "Pr?fung"),
        (
            "UNICODE UTF-8",
            b"a\x07b\xffc\xe2\x80\xaed\\F\\",
            "a?b?c?d|",
        ),
    ];
    for (msh_18, reason, expected) in cases {
        let header =
            format!("MSH|^~\\&|L|L|H|W|20240101||ACK|1|P|2.5||||||{msh_18}\rMSA|AR|CTRL-1|");
        let reply = [header.as_bytes(), reason, b"\r"].concat();
        let ack = ReceivedAck::read(&reply).unwrap();
        assert_eq!(ack.text, expected, "{msh_18}");
        assert_eq!(ack.control_id, b"CTRL-1");
    }
}

#[test]
fn a_code_in_lower_case_is_read_where_that_is_wanted() {
    let reply = b"MSH|^~\\&|A\rMSA|ae|1|no\r";
    assert_eq!(ReceivedAck::read(reply), Err(AckError::CodeInLowerCase));
    let ack = ReceivedAck::read_in_any_case(reply).unwrap();
    assert_eq!(ack.code, AckCode::ApplicationError);
    let missing = ReceivedAck::read(b"MSH|^~\\&|A\rMSA|AA\r").unwrap();
    assert_eq!(missing.control_id, b"");
}

#[test]
fn what_is_no_acknowledgement_says_why() {
    assert_eq!(ReceivedAck::read(b""), Err(AckError::Msh(MshError::Empty)));
    assert_eq!(
        ReceivedAck::read(b"MSH|^~\\&|A\rPID|1"),
        Err(AckError::NoMsa)
    );
    assert_eq!(
        ReceivedAck::read(b"MSH|^~\\&|A\rMSA|XX|1"),
        Err(AckError::UnknownCode)
    );
    assert_eq!(
        ReceivedAck::read(b"MSH|^~\\&|A\rMSA||1"),
        Err(AckError::UnknownCode)
    );
}

proptest! {
    #[test]
    fn any_reason_arrives_as_printable_ascii(text in "\\PC{0,300}", other in any::<bool>()) {
        let message = if other { "MSH#*~\\&#A#B#C#D###ORM*O01#7#P#2.5" } else { "MSH|^~\\&|A|B|C|D|||ORM^O01|7|P|2.5" };
        let ack = answer(message, &Outcome::Failed(refused(&text))).unwrap();
        prop_assert_eq!(ack.split('\r').count(), 4);
        let ascii: String = text
            .chars()
            .take(REASON_CHARACTERS_MAX)
            .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
            .collect();
        let read = ReceivedAck::read(ack.as_bytes()).unwrap();
        if !is_blank(ascii.as_bytes()) {
            prop_assert_eq!(read.text, ascii);
        }
    }

    #[test]
    fn no_reply_makes_the_reader_panic(tail in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut reply = b"MSH|^~\\&|A\rMSA|AA|1|".to_vec();
        reply.extend_from_slice(&tail);
        let ack = ReceivedAck::read(&reply).unwrap();
        prop_assert_eq!(ack.code, AckCode::ApplicationAccept);
    }
}
