//! What was sent on one connection, and which of it a reply means.
//!
//! A reply settles a message only if no other message sent on the same connection can be meant, whether that one is
//! settled or not: a receiver may say everything twice, and the second time late. So every id that was sent is
//! remembered, and a message whose id was (or, where ids are compared leniently, one that is alike) goes out on a
//! connection of its own. A reply that names no message can only be understood where one message was sent.
//!
//! It is bounded: the last [`RECENT_MAX`] messages are kept as they are, so that a late reply finds them; of all others a
//! hash of the id, so that no id is sent twice; and after [`SENT_MAX`] messages a new connection is begun.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use ordo_client::Position;

use super::expect::{Commit, Expect};
use crate::ack::{AckCode, AckError, ReceivedAck, Verdict};
use crate::config::Match;
use crate::msh::is_blank;

/// Messages sent last of which a late reply is recognized.
const RECENT_MAX: usize = 64;
/// Messages sent on one connection.
const SENT_MAX: usize = 1_024;
/// What receivers with a field of the length that versions before 2.7 allow keep of MSH-10.
const CUT_CHARACTERS: usize = 20;

/// What a receiver said of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// AA or CA.
    Accepted,
    /// AE or CE.
    Error { code: AckCode, text: String },
    /// AR or CR.
    Rejected { code: AckCode, text: String },
}

impl From<ReceivedAck> for Said {
    fn from(ack: ReceivedAck) -> Self {
        let (code, text) = (ack.code, ack.text);
        match code.verdict() {
            Verdict::Accept => Self::Accepted,
            Verdict::Error => Self::Error { code, text },
            Verdict::Reject => Self::Rejected { code, text },
        }
    }
}

/// A message on its way: where it stands, and under which grant it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Its interface's name.
    pub(super) interface: Arc<str>,
    /// What names it for good.
    pub(super) position: Position,
    /// Of the grant.
    pub(super) epoch: u64,
}

/// What was said of a message after it had been settled as accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Which message.
    pub(super) message: Message,
    /// MSA-1.
    pub(super) code: AckCode,
    /// The receiver's own words.
    pub(super) text: String,
}

/// What a reply is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It settles this message.
    Settles(Position, Said),
    /// It says that this message was taken, and that its application will reply.
    Commits(Position),
    /// It follows one that settled its message.
    Follows(Note),
    /// It says again what was heard already.
    Repeated,
    /// It can't be understood, and why. Holds nothing of the message.
    Puzzling(String),
}

/// The messages sent on one connection.
pub(super) struct Memory {
    matching: Match,
    hasher: RandomState,
    ids: HashSet<u64>,
    count: usize,
    /// The oldest first.
    recent: VecDeque<Sent>,
    nameless: bool,
}

struct Sent {
    message: Message,
    id: Vec<u8>,
    expect: Expect,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was heard.
    Out,
    /// CA, and an application reply is awaited.
    Committed,
    /// By CA or silence: an application reply may follow.
    Taken,
    /// By AA.
    Accepted,
    /// By anything else.
    Refused,
}

impl Memory {
    pub(super) fn new(matching: Match) -> Self {
        Self {
            matching,
            hasher: RandomState::new(),
            ids: HashSet::new(),
            count: 0,
            recent: VecDeque::new(),
            nameless: false,
        }
    }

    /// How many messages were sent.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether the receiver has sent a reply that names no message.
    pub(super) fn is_nameless(&self) -> bool {
        self.nameless
    }

    /// Whether an application reply may still come to what was settled without.
    pub(super) fn is_followed(&self) -> bool {
        let is_followed = |sent: &Sent| sent.state == State::Taken && sent.expect.follows;
        self.recent.iter().any(is_followed)
    }

    /// Whether a reply to a message with this MSH-10 could be told from those to all others sent here.
    pub(super) fn can_tell(&self, id: &[u8]) -> bool {
        match is_blank(id) {
            true => self.count == 0,
            false => self.count < SENT_MAX && !self.ids.contains(&self.key(id)),
        }
    }

    /// A message was sent.
    pub(super) fn sent(&mut self, message: Message, id: &[u8], expect: Expect) {
        self.ids.insert(self.key(id));
        self.count += 1;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Sent {
            message,
            id: id.to_vec(),
            expect,
            state: State::Out,
        });
    }

    /// A message counts as accepted, without an application reply.
    pub(super) fn take_for_accepted(&mut self, position: Position) {
        let mut newest_first = self.recent.iter_mut().rev();
        if let Some(sent) = newest_first.find(|sent| sent.message.position == position) {
            sent.state = State::Taken;
        }
    }

    /// Says what a reply is, and remembers it.
    pub(super) fn hear(&mut self, reply: &[u8]) -> Reply {
        let read = match self.matching {
            Match::Strict => ReceivedAck::read(reply),
            Match::Lenient | Match::Any => ReceivedAck::read_in_any_case(reply),
        };
        let ack = match read {
            Ok(ack) => ack,
            Err(error @ AckError::CodeInLowerCase) => {
                return Reply::Puzzling(format!("{error}; match = \"lenient\" would take it"));
            }
            Err(error) => return Reply::Puzzling(error.to_string()),
        };
        let Some(at) = self.meant(&ack.control_id) else {
            return Reply::Puzzling(self.mismatch(&ack.control_id));
        };
        let sent = &mut self.recent[at];
        let (position, code) = (sent.message.position, ack.code);
        let accepts = code.verdict() == Verdict::Accept;
        match sent.state {
            State::Out
                if code == AckCode::CommitAccept && sent.expect.commit != Commit::Settles =>
            {
                sent.state = State::Committed;
                Reply::Commits(position)
            }
            State::Committed if code == AckCode::CommitAccept => Reply::Repeated,
            State::Out | State::Committed => {
                sent.state = match code {
                    AckCode::CommitAccept => State::Taken,
                    AckCode::ApplicationAccept => State::Accepted,
                    _ => State::Refused,
                };
                Reply::Settles(position, ack.into())
            }
            State::Taken if code == AckCode::CommitAccept => Reply::Repeated,
            State::Accepted if accepts => Reply::Repeated,
            State::Taken | State::Accepted => {
                sent.state = match accepts {
                    true => State::Accepted,
                    false => State::Refused,
                };
                Reply::Follows(Note {
                    message: sent.message.clone(),
                    code,
                    text: ack.text,
                })
            }
            State::Refused => Reply::Repeated,
        }
    }

    /// The one message that a reply with this MSA-2 can mean.
    fn meant(&mut self, msa_2: &[u8]) -> Option<usize> {
        let named = |means: fn(&[u8], &[u8]) -> bool| {
            let is_meant = |sent: &Sent| !is_blank(&sent.id) && means(msa_2, &sent.id);
            self.recent.iter().rposition(is_meant)
        };
        let by_name = match self.matching {
            Match::Strict => return named(|msa_2, id| msa_2 == id),
            Match::Lenient | Match::Any => {
                named(|msa_2, id| msa_2 == id).or_else(|| named(is_alike))
            }
        };
        if by_name.is_some() || (self.matching == Match::Lenient && !is_blank(msa_2)) {
            return by_name;
        }
        self.nameless = true;
        (self.count == 1).then_some(0)
    }

    /// Why a reply with this MSA-2 was not taken, and which setting would have.
    fn mismatch(&self, msa_2: &[u8]) -> String {
        let Some(sent) = self.recent.back() else {
            return "the receiver sent a reply before any message".to_owned();
        };
        let lenient = "match = \"lenient\" would take it";
        let any = "match = \"any\" would take it";
        let several = "another message sent on this connection may be meant";
        match (self.matching, is_blank(msa_2)) {
            (Match::Strict, true) => format!("MSA-2 of the reply is empty; {lenient}"),
            (Match::Lenient, true) => format!("MSA-2 of the reply is empty, and {several}"),
            (Match::Strict, false) if is_alike(msa_2, &sent.id) => {
                match trimmed(msa_2) == trimmed(&sent.id) {
                    true => format!(
                        "MSA-2 of the reply is MSH-10 with other blanks around it; {lenient}"
                    ),
                    false => format!(
                        "MSA-2 of the reply is MSH-10 cut to {CUT_CHARACTERS} characters; {lenient}"
                    ),
                }
            }
            (Match::Strict | Match::Lenient, false) => {
                format!("the reply acknowledges another message (MSA-2 is not MSH-10); {any}")
            }
            (Match::Any, _) => format!("MSA-2 of the reply is not MSH-10, and {several}"),
        }
    }

    /// What ids have in common that this matching can't tell apart.
    fn key(&self, id: &[u8]) -> u64 {
        let compared = match self.matching {
            Match::Strict => id,
            Match::Lenient | Match::Any => {
                let id = trimmed(id);
                trimmed(&id[..id.len().min(CUT_CHARACTERS)])
            }
        };
        self.hasher.hash_one(compared)
    }
}

fn trimmed(id: &[u8]) -> &[u8] {
    id.trim_ascii()
}

/// Whether MSA-2 is this MSH-10 but for blanks around it, or its beginning: 20 characters, or 20 bytes where the
/// receiver counts those.
fn is_alike(msa_2: &[u8], id: &[u8]) -> bool {
    let (msa_2, id) = (trimmed(msa_2), trimmed(id));
    if msa_2 == id {
        return true;
    }
    let cut = |bytes: usize| bytes < id.len() && msa_2 == trimmed(&id[..bytes]);
    let characters = std::str::from_utf8(id)
        .ok()
        .and_then(|id| id.char_indices().nth(CUT_CHARACTERS));
    cut(CUT_CHARACTERS) || characters.is_some_and(|(bytes, _)| cut(bytes))
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
