#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use ordo_client::Uuid;
use proptest::prelude::*;

use super::*;
use crate::lab::reply;
use crate::msh::Msh;

const LONG: &str = "LONGER-CONTROL-ID-0001";

fn at(sequence: u64) -> Position {
    Position {
        interface_id: Uuid::nil(),
        incarnation: 1,
        sequence,
    }
}

fn message(sequence: u64) -> Message {
    Message {
        interface: "RAD".into(),
        position: at(sequence),
        epoch: 1,
    }
}

/// What is expected where MSH-15 and MSH-16 are `AL`: CA settles.
fn expect() -> Expect {
    let msh = Msh::scan(b"MSH|^~\\&|A|B|C|D|||ORM|1|P|2.5|||AL|AL").unwrap();
    Expect::of(&msh, None)
}

fn memory(matching: Match, ids: &[&str]) -> Memory {
    let mut memory = Memory::new(matching);
    for (id, sequence) in ids.iter().zip(1..) {
        assert!(memory.can_tell(id.as_bytes()), "{id}");
        memory.sent(message(sequence), id.as_bytes(), expect());
    }
    memory
}

fn hear(memory: &mut Memory, code: AckCode, msa_2: &str) -> Reply {
    memory.hear(&reply(code, msa_2.as_bytes()))
}

fn settles(sequence: u64) -> Reply {
    Reply::Settles(at(sequence), Said::Accepted)
}

fn puzzle(reply: Reply) -> String {
    match reply {
        Reply::Puzzling(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_taken_says_what_came_and_which_setting_would_take_it() {
    use Match::{Any, Lenient, Strict};
    let accept = AckCode::ApplicationAccept;
    let cut = &LONG[..20];
    for (matching, msa_2, expected) in [
        (
            Strict,
            "",
            "MSA-2 of the reply is empty; match = \"lenient\" would take it",
        ),
        (
            Strict,
            cut,
            "MSA-2 of the reply is MSH-10 cut to 20 characters; match = \"lenient\" would take it",
        ),
        (
            Strict,
            " LONGER-CONTROL-ID-0001 ",
            "MSA-2 of the reply is MSH-10 with other blanks around it; match = \"lenient\" would take it",
        ),
        (
            Strict,
            "X",
            "the reply acknowledges another message (MSA-2 is not MSH-10); match = \"any\" would take it",
        ),
        (
            Lenient,
            "X",
            "the reply acknowledges another message (MSA-2 is not MSH-10); match = \"any\" would take it",
        ),
        (
            Lenient,
            "LONGER",
            "the reply acknowledges another message (MSA-2 is not MSH-10); match = \"any\" would take it",
        ),
    ] {
        let mut memory = memory(matching, &[LONG]);
        assert_eq!(puzzle(hear(&mut memory, accept, msa_2)), expected);
    }
    for (matching, msa_2) in [
        (Lenient, ""),
        (Lenient, cut),
        (Lenient, " LONGER-CONTROL-ID-0001 "),
        (Any, "X"),
        (Any, ""),
    ] {
        let mut memory = memory(matching, &[LONG]);
        assert_eq!(
            hear(&mut memory, accept, msa_2),
            settles(1),
            "{matching:?} {msa_2:?}"
        );
    }
    let lower = b"MSH|^~\\&|LIS\rMSA|aa|LONGER-CONTROL-ID-0001\r";
    let why = "MSA-1 of the reply is in lower case; match = \"lenient\" would take it";
    assert_eq!(puzzle(memory(Strict, &[LONG]).hear(lower)), why);
    assert_eq!(memory(Lenient, &[LONG]).hear(lower), settles(1));
    for (matching, msa_2, expected) in [
        (
            Lenient,
            "",
            "MSA-2 of the reply is empty, and another message sent on this connection may be meant",
        ),
        (
            Any,
            "X",
            "MSA-2 of the reply is not MSH-10, and another message sent on this connection may be meant",
        ),
    ] {
        let mut memory = memory(matching, &["1", "2"]);
        assert_eq!(puzzle(hear(&mut memory, accept, msa_2)), expected);
        assert!(memory.is_nameless());
    }
    let why = "the receiver sent a reply before any message";
    assert_eq!(puzzle(hear(&mut memory(Any, &[]), accept, "1")), why);
}

#[test]
fn ids_that_could_not_be_told_apart_are_not_sent_on_one_connection() {
    let alike = "LONGER-CONTROL-ID-0002";
    for (matching, told) in [
        (Match::Strict, true),
        (Match::Lenient, false),
        (Match::Any, false),
    ] {
        let memory = memory(matching, &["1", LONG]);
        assert!(!memory.can_tell(LONG.as_bytes()));
        assert_eq!(memory.can_tell(alike.as_bytes()), told);
        assert_eq!(memory.can_tell(b" 1"), told);
        assert!(memory.can_tell(b"3") && !memory.can_tell(b""));
    }
    assert!(memory(Match::Any, &[]).can_tell(b"\"\""));
}

#[test]
fn a_reply_is_for_the_message_it_names_and_counts_once() {
    let (commit, accept) = (AckCode::CommitAccept, AckCode::ApplicationAccept);
    for matching in [Match::Strict, Match::Lenient, Match::Any] {
        let mut memory = memory(matching, &["1", "2", "3"]);
        assert_eq!(hear(&mut memory, accept, "2"), settles(2));
        assert_eq!(hear(&mut memory, accept, "2"), Reply::Repeated);
        assert_eq!(hear(&mut memory, commit, "1"), settles(1));
        assert_eq!(hear(&mut memory, commit, "1"), Reply::Repeated);
        assert!(memory.is_followed());
        let note = Note {
            message: message(1),
            code: accept,
            text: String::new(),
        };
        assert_eq!(hear(&mut memory, accept, "1"), Reply::Follows(note.clone()));
        assert!(!memory.is_followed());
        let refused = Note {
            code: AckCode::ApplicationError,
            ..note
        };
        assert_eq!(
            hear(&mut memory, refused.code, "1"),
            Reply::Follows(refused.clone())
        );
        assert_eq!(hear(&mut memory, refused.code, "1"), Reply::Repeated);
        let error = Said::Error {
            code: refused.code,
            text: String::new(),
        };
        assert_eq!(
            hear(&mut memory, refused.code, "3"),
            Reply::Settles(at(3), error)
        );
        assert_eq!(hear(&mut memory, accept, "3"), Reply::Repeated);
    }
}

#[test]
fn the_memory_is_bounded_and_forgets_no_id_that_could_be_taken_for_another() {
    let ids: Vec<_> = (0..SENT_MAX).map(|n| n.to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let mut whole = memory(Match::Strict, &ids);
    assert_eq!(whole.recent.len(), RECENT_MAX);
    assert!(!whole.can_tell(b"one more"));
    let before = memory(Match::Strict, &ids[..SENT_MAX - 1]);
    assert!(before.can_tell(b"one more") && !before.can_tell(b"0"));
    puzzle(hear(&mut whole, AckCode::ApplicationAccept, "0"));
    assert_eq!(
        hear(
            &mut whole,
            AckCode::ApplicationAccept,
            ids[SENT_MAX - RECENT_MAX]
        ),
        settles((SENT_MAX - RECENT_MAX) as u64 + 1)
    );
}

#[test]
fn characters_are_counted_as_receivers_count_them() {
    let id = "Überweisung-0000000000-1";
    let bytes = &id.as_bytes()[..20];
    let characters = id.chars().take(20).collect::<String>();
    assert!(is_alike(bytes, id.as_bytes()) && is_alike(characters.as_bytes(), id.as_bytes()));
    assert!(!is_alike(&bytes[..19], id.as_bytes()) && !is_alike(b"", id.as_bytes()));
    assert!(!is_alike(b"12345678901234567890", b"1234567890123456789"));
}

proptest! {
    /// A receiver that says everything any number of times, as late as it likes, and names messages by its own lights.
    #[test]
    fn no_reply_settles_another_message_than_the_one_it_is_for(
        matching in prop_oneof![Just(Match::Strict), Just(Match::Lenient), Just(Match::Any)],
        steps in proptest::collection::vec((any::<bool>(), 0..6_usize, 0..5_usize), 1..60),
    ) {
        let ids = ["A", " A", "AB", LONG, "LONGER-CONTROL-ID-0002", ""];
        let mut memory = Memory::new(matching);
        let mut sent: Vec<&str> = Vec::new();
        let mut settled = Vec::new();
        for (sends, which, names) in steps {
            if sends {
                let id = ids[which];
                let strict_needs_one = matching == Match::Strict && is_blank(id.as_bytes());
                if !strict_needs_one && memory.can_tell(id.as_bytes()) && !memory.is_nameless() {
                    sent.push(id);
                    memory.sent(message(sent.len() as u64), id.as_bytes(), expect());
                }
            } else if let Some(id) = sent.get(which) {
                let cut = &id[..id.len().min(20)];
                let msa_2 = [*id, cut, &format!("{id} "), "", "0"][names].to_owned();
                let code = AckCode::ApplicationAccept;
                if let Reply::Settles(position, _) = hear(&mut memory, code, &msa_2) {
                    prop_assert_eq!(position, at(which as u64 + 1));
                    prop_assert!(!settled.contains(&which));
                    settled.push(which);
                }
            }
        }
    }
}
