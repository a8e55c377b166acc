//! The naive model: what is promised of the state machine, written down a second time, slowly.
//!
//! It keeps every message there ever was, and what became of it at each destination, and counts the rest afresh
//! whenever it is asked. What each guarantee (numbered as in `docs/testing.md`) means here:
//!
//! - 2: an accepted message is pushed to the end of the list; its place is its sequence, and never changes.
//! - 3: an entry's ingests count only if its n follows the last one of its run; a higher (term, run) begins at
//!   n = 1 and voids the lower ones. A producer's own numbers are dense: a gap is refused, a used one never answered
//!   with success for another message, a refused one is used.
//! - 4: known is what is not done for some destination, what has an open dead letter, the last `dedup_messages` done
//!   ones that clients sent, and what of each session (of 16) it has not heard the answer to, half as many. Of the done
//!   ones those go when they are told to whose hour ended 24 h ago.
//! - 5: the watermark is the number of leading released messages, a checkpoint the number of leading ones done for
//!   that destination. A message that is not for a destination is passed over as soon as it is at its head.
//! - 6, 7: answers carry the epoch of the grant held, are refused beyond the watermark, and all but `ack` are of
//!   checkpoint + 1; a presented position acknowledges.
//! - 8, 9: FAILED and FILTERED are released like READY; FAILED only while the dead letters are within their cap.
//! - 10: redriven under its own sequence above the watermark, else as a new message with a copy of the body.
//! - 11: `complete` from any turn since the stage was entered or redriven, everything else from the current turn.

use bytes::Bytes;
use ordo_core::{
    ConsumerId, Digest, EventKind, FailCause, Header, InterfaceConfig, InterfaceId, MessageId,
    RunPosition, TryKind,
};

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub time: u64,
    pub wall: u64,
    pub position: RunPosition,
    pub lanes: Vec<Lane>,
}

/// An interface.
#[derive(Clone, Debug)]
pub struct Lane {
    pub id: InterfaceId,
    pub name: String,
    pub version: u64,
    pub config: InterfaceConfig,
    /// Every message there ever was; the first has sequence 1.
    pub messages: Vec<Message>,
    pub destinations: Vec<Destination>,
    /// Every dead letter that is not resolved.
    pub letters: Vec<Letter>,
    pub producers: Vec<Producer>,
    /// Records at or below it may go.
    pub forgotten: u64,
    /// Done messages at or below it are not known for being the last ones.
    pub let_go: u64,
    /// Producers' sessions, the one heard of last at the end.
    pub sessions: Vec<Session>,
    /// Done messages that are known because their sessions have not heard the answer.
    pub unheard: Vec<u64>,
    /// Ids that were tried for messages that the system made.
    pub redrives: u64,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub id: u64,
    pub since: u64,
    pub heard: u64,
}

#[derive(Clone, Debug)]
pub struct Producer {
    pub name: String,
    pub last: u64,
    pub message_id: MessageId,
    pub sequence: Option<u64>,
}

/// What a message carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub payload: Bytes,
    pub headers: Vec<Header>,
}

/// How many, and how many bytes of names and values.
pub fn size_of(headers: &[Header]) -> (usize, usize) {
    let bytes = headers.iter().map(|h| h.name.len() + h.value.len());
    (headers.len(), bytes.sum())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    Ready,
    Failed(FailCause),
    Filtered,
}

/// How a message ended for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    Skipped,
    Rejected,
    Passed,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub id: MessageId,
    pub digest: Digest,
    pub body: Body,
    /// Headers ever set, and their bytes: what is replaced counts on.
    pub headers_set: (usize, usize),
    pub status: Status,
    pub stage: usize,
    pub turn: u32,
    pub entered: u32,
    pub attempts: u32,
    pub losses: u32,
    pub not_before: u64,
    /// `None`: everyone.
    pub named: Option<Vec<u8>>,
    /// Per destination.
    pub ends: Vec<Option<End>>,
    pub released: bool,
    pub finished_at: Option<u64>,
    pub redrive_of: Option<(u64, Option<u8>)>,
    pub session: Option<u64>,
    /// The system made it.
    pub derived: bool,
    pub events: Vec<EventKind>,
}

#[derive(Clone, Debug)]
pub struct Destination {
    pub epoch: u64,
    pub holder: Option<(ConsumerId, String)>,
    pub suspended_until: u64,
    pub attempts: u32,
    pub reason: String,
    pub repeats: u32,
    pub turn: u32,
    /// What came of the tries of the head: all of them.
    pub tries: Vec<(TryKind, u64, String)>,
    pub delivered: u64,
    pub skipped: u64,
}

#[derive(Clone, Debug)]
pub struct Letter {
    pub key: (u64, Option<u8>),
    /// The message as it was when it failed.
    pub message: Message,
    pub cause: FailCause,
    pub attempts: u32,
    pub losses: u32,
    pub reason: String,
    pub redriven_as: Option<u64>,
}

/// What a consumer is to be sent for one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    Message,
    Skip(Status),
    Nothing,
}

impl Message {
    pub fn is_for(&self, destination: usize) -> bool {
        match &self.named {
            None => true,
            Some(named) => named.iter().any(|n| usize::from(*n) == destination),
        }
    }

    pub fn is_finished(&self) -> bool {
        self.ends.iter().all(Option::is_some)
    }
}

impl Lane {
    pub fn message(&self, sequence: u64) -> Option<&Message> {
        self.messages
            .get(usize::try_from(sequence.checked_sub(1)?).ok()?)
    }

    pub fn message_mut(&mut self, sequence: u64) -> &mut Message {
        &mut self.messages[usize::try_from(sequence - 1).expect("small")]
    }

    pub fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    pub fn watermark(&self) -> u64 {
        self.messages.iter().take_while(|m| m.released).count() as u64
    }

    pub fn checkpoint(&self, destination: usize) -> u64 {
        let done = |m: &&Message| m.ends[destination].is_some();
        self.messages.iter().take_while(done).count() as u64
    }

    pub fn finished(&self) -> u64 {
        self.messages.iter().take_while(|m| m.is_finished()).count() as u64
    }

    pub fn over_cap(&self) -> bool {
        let bytes: u64 = self
            .letters
            .iter()
            .map(|l| l.message.body.payload.len() as u64)
            .sum();
        self.letters.len() > self.config.dead_letters_max as usize
            || bytes > self.config.dead_letter_bytes_max
    }

    pub fn letter(&self, key: (u64, Option<u8>)) -> Option<&Letter> {
        self.letters.iter().find(|letter| letter.key == key)
    }

    /// Whether the hour in which a finished message finished ended 24 h ago.
    fn is_old(&self, sequence: u64, now: u64) -> bool {
        let finished = self.message(sequence).and_then(|m| m.finished_at);
        let hour = finished.expect("it is finished") / 3_600_000;
        (hour + 1 + 24) * 3_600_000 <= now
    }

    /// Only the last ones of those that clients sent are remembered in any case.
    fn let_go(&mut self) {
        let counts = |m: &&Message| m.finished_at.is_some() && !m.derived;
        let last = |lane: &Self| {
            let from = usize::try_from(lane.let_go).expect("small");
            lane.messages[from..].iter().filter(counts).count()
        };
        while last(self) > self.config.dedup_messages as usize {
            self.let_go += 1;
            self.keep_unheard(self.let_go);
        }
    }

    fn keep_unheard(&mut self, sequence: u64) {
        let message = self.message(sequence).expect("in range");
        let session = message.session;
        let of = |there: &&Session| Some(there.id) == session && there.since <= sequence;
        let unheard = self.sessions.iter().find(of).map(|s| s.heard < sequence);
        if !unheard.unwrap_or(false) || message.derived {
            return;
        }
        self.unheard.push(sequence);
        let same = |s: &&u64| self.message(**s).expect("in range").session == session;
        let of_session: Vec<u64> = self.unheard.iter().filter(same).copied().collect();
        if of_session.len() > (self.config.dedup_messages as usize / 2).max(1) {
            self.unheard.retain(|s| *s != of_session[0]);
        }
    }

    /// A session sends `sequence` and has heard the answers through `heard`.
    pub fn hear(&mut self, id: u64, heard: u64, sequence: u64) {
        let at = self.sessions.iter().position(|s| s.id == id);
        let mut session = match at {
            Some(at) => self.sessions.remove(at),
            None => Session {
                id,
                since: sequence,
                heard: 0,
            },
        };
        session.heard = session.heard.max(heard);
        let mut gone = Vec::new();
        if self.sessions.len() == 16 {
            gone.push(self.sessions.remove(0).id);
        }
        let messages = &self.messages;
        self.unheard.retain(|s| {
            let of = messages[usize::try_from(*s - 1).expect("small")].session;
            let of = of.expect("it is unheard");
            !gone.contains(&of) && (of != id || *s > session.heard)
        });
        self.sessions.push(session);
    }

    /// Those that finished long ago are no longer known, nor are their records kept, through `through` at most.
    pub fn forget(&mut self, through: u64, now: u64) {
        while self.let_go < self.finished() && self.is_old(self.let_go + 1, now) {
            self.let_go += 1;
        }
        let old: Vec<u64> = self
            .unheard
            .iter()
            .copied()
            .filter(|s| self.is_old(*s, now))
            .collect();
        self.unheard.retain(|s| !old.contains(s));
        if self.let_go == self.last() && self.unheard.is_empty() {
            self.sessions.clear();
        }
        self.forgotten = self.forgotten.max(through.min(self.let_go));
    }

    /// Guarantee 4.
    pub fn known(&self, id: MessageId) -> Option<u64> {
        let known = |sequence: &u64| {
            let message = self.message(*sequence).expect("in range");
            message.id == id
                && (!message.is_finished()
                    || self.letters.iter().any(|letter| letter.key.0 == *sequence)
                    || *sequence > self.let_go
                    || self.unheard.contains(sequence))
        };
        (1..=self.last()).find(known)
    }

    /// What a consumer of `destination` is to be sent for a released sequence.
    pub fn sight(&self, sequence: u64, destination: usize) -> Sight {
        let message = self.message(sequence).expect("in range");
        match (message.is_for(destination), message.status) {
            (false, _) => Sight::Nothing,
            (true, Status::Ready) => Sight::Message,
            (true, status) => Sight::Skip(status),
        }
    }

    /// Releases, passes over, finishes and resolves until nothing more follows.
    pub fn settle(&mut self, now: u64) {
        while self.release_one() || self.pass_over_one() || self.finish_one(now) {}
    }

    fn release_one(&mut self) -> bool {
        let over_cap = self.over_cap();
        let Some(next) = self.messages.iter_mut().find(|m| !m.released) else {
            return false;
        };
        next.released = match next.status {
            Status::Pending => false,
            Status::Failed(_) => !over_cap,
            Status::Ready | Status::Filtered => true,
        };
        next.released
    }

    fn pass_over_one(&mut self) -> bool {
        for number in 0..self.destinations.len() {
            let next = self.messages.iter_mut().find(|m| m.ends[number].is_none());
            if let Some(next) = next.filter(|m| m.released && !m.is_for(number)) {
                next.ends[number] = Some(End::Passed);
                return true;
            }
        }
        false
    }

    fn finish_one(&mut self, now: u64) -> bool {
        let finished = |m: &Message| m.finished_at.is_none() && m.is_finished();
        let Some(at) = self.messages.iter().position(finished) else {
            return false;
        };
        self.messages[at].finished_at = Some(now);
        self.let_go();
        let sequence = Some(at as u64 + 1);
        self.letters.retain(|letter| letter.redriven_as != sequence);
        true
    }

    /// A failed message gets a dead letter, which takes the place of the one it redrove.
    pub fn bury(&mut self, sequence: u64, destination: Option<u8>, letter: Letter) {
        let old = self.message(sequence).expect("in range").redrive_of;
        self.letters
            .retain(|there| Some(there.key) != old && there.key != (sequence, destination));
        self.letters.push(letter);
    }

    /// A consumer is done with everything through `through`.
    pub fn done(&mut self, destination: usize, through: u64, now: u64) {
        for sequence in self.checkpoint(destination) + 1..=through {
            let sight = self.sight(sequence, destination);
            let end = &mut self.message_mut(sequence).ends[destination];
            if end.is_some() {
                continue;
            }
            let to = match sight {
                Sight::Message => End::Delivered,
                Sight::Skip(_) => End::Skipped,
                Sight::Nothing => End::Passed,
            };
            *end = Some(to);
            self.destinations[destination].delivered += u64::from(to == End::Delivered);
            self.destinations[destination].skipped += u64::from(to == End::Skipped);
        }
        self.moved_on(destination, now);
    }

    /// What was said of the head is over when the head is.
    pub fn moved_on(&mut self, destination: usize, now: u64) {
        let there = &mut self.destinations[destination];
        there.attempts = 0;
        there.reason.clear();
        there.repeats = 0;
        there.tries.clear();
        there.suspended_until = there.suspended_until.min(now);
    }
}
