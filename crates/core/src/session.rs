//! Producers' sessions: whose answers were heard, so that what a producer may still replay is known, whatever others
//! have finished meanwhile.

use crate::ids::{Digest, MessageId, ProducerSession, Sequence};
use crate::interface::Interface;
use crate::mutation::SessionRow;
use crate::remembered::{DERIVED, Finished, NOBODY};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// A producer's session on one interface.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) id: ProducerSession,
    /// Names it in the tags of what is remembered: from 1, and another's again once it is gone.
    pub(crate) number: u8,
    /// Its messages before this one are those of a time for which it is forgotten.
    pub(crate) since: Sequence,
    /// It has heard the answers to all its messages through this one.
    pub(crate) heard: Sequence,
    /// Finished ones whose answers it has not heard, older than what the interface remembers in any case.
    pub(crate) unheard: VecDeque<(Sequence, Unheard)>,
}

/// A finished message whose producer may not have heard the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unheard {
    /// Who sent it.
    pub session: ProducerSession,
    /// Its id.
    pub message_id: MessageId,
    /// Its hash.
    pub digest: Digest,
    /// The hour of cluster time in which it finished.
    pub hour: u32,
}

impl fmt::Debug for Session {
    // Replicas may have given it other numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("since", &self.since)
            .field("heard", &self.heard)
            .field("unheard", &self.unheard)
            .finish()
    }
}

impl Session {
    pub(crate) fn row(&self) -> SessionRow {
        SessionRow {
            session: self.id,
            since: self.since,
            heard: self.heard,
        }
    }
}

impl Interface {
    /// How a finished message is to be remembered.
    pub(crate) fn finished_as(
        &self,
        sequence: Sequence,
        message_id: MessageId,
        digest: Digest,
        (session, derived): (Option<ProducerSession>, bool),
    ) -> Finished {
        let of = |there: &&Session| Some(there.id) == session && there.since <= sequence;
        let number = self.sessions.iter().find(of).map(|there| there.number);
        Finished {
            message_id,
            digest,
            tag: match derived {
                true => DERIVED,
                false => number.unwrap_or(NOBODY),
            },
        }
    }

    /// What is remembered of a message because its producer may not have heard the answer.
    pub(crate) fn unheard(&self, sequence: Sequence) -> Option<&Unheard> {
        self.sessions.iter().find_map(|session| {
            let at = session
                .unheard
                .binary_search_by_key(&sequence, |(sequence, _)| *sequence);
            at.ok().map(|at| &session.unheard[at].1)
        })
    }

    /// How many finished messages are remembered beyond the last `dedup_messages`, because their producers may not
    /// have heard the answers.
    #[must_use]
    pub fn unheard_messages(&self) -> u64 {
        let sessions = self.sessions.iter();
        sessions.map(|session| session.unheard.len() as u64).sum()
    }
}
