//! The state machine, its store, the naive model and a second replica, in lockstep: whatever is applied is applied
//! to all of them, and compared.

use super::compare::{self, Watched};
use super::model::Model;
use super::store::Store;
use ordo_core::{
    Entry, InterfaceId, MessageId, Reply, RunPosition, Sequence, State, Status, invariants,
};
use std::collections::BTreeMap;

/// What was once released must stay so: id, status, destinations.
type Outcomes = BTreeMap<(InterfaceId, Sequence), (MessageId, Status, ordo_core::DestinationSet)>;

/// When the second replica writes, and whether it is restarted then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replica {
    /// Not now: its mutations gather.
    #[default]
    Gathers,
    /// It writes what has gathered.
    Writes,
    /// It writes, and begins again from what it wrote.
    Restarts,
}

/// Everything that is compared.
#[derive(Default)]
pub struct Bench {
    pub state: State,
    pub store: Store,
    pub model: Model,
    replica: State,
    replica_store: Store,
    released: Outcomes,
    index: u64,
}

impl Bench {
    /// The position that follows the last one.
    pub fn next_position(&self) -> RunPosition {
        let last = self.model.position;
        RunPosition {
            term: last.term.max(1),
            run: last.run.max(1),
            n: last.n + 1,
        }
    }

    /// Applies an entry everywhere and compares everything there is to see. Returns the replies.
    pub fn apply(&mut self, entry: &Entry, replica: Replica) -> Vec<Reply> {
        self.index += 1;
        let before = Watched::of(&self.state);
        let mut effects = Vec::new();
        let replies = self.state.apply(self.index, entry.clone(), &mut effects);
        let expected = self.model.apply(entry);
        assert_eq!(replies, expected, "replies to {entry:?}");
        if let Err(violation) = invariants::check(&self.state) {
            panic!("after {entry:?}: {violation}");
        }
        compare::state(&self.state, &self.model);
        let now = Watched::of(&self.state);
        now.explained_since(&before, &effects);
        now.resumed_by(&self.state.resume());
        self.store.take(&mut self.state);
        compare::store(&self.store, &self.state, &self.model);
        self.outcomes_stay();
        self.replicate(entry, &replies, replica);
        replies
    }

    /// Guarantees 2 and 5: a released sequence keeps its message and its outcome, to the end and in its record.
    fn outcomes_stay(&mut self) {
        for interface in self.state.interfaces() {
            for sequence in (1..=interface.watermark.0).map(Sequence) {
                let outcome = match interface.slot(sequence) {
                    Some(slot) => Some((slot.message_id, slot.status, slot.destinations)),
                    None => {
                        let record = self.store.record(interface.id, sequence);
                        record.map(|r| (r.message_id, r.status, r.destinations))
                    }
                };
                let Some(outcome) = outcome else { continue };
                let first = self
                    .released
                    .entry((interface.id, sequence))
                    .or_insert(outcome);
                assert_eq!(
                    *first, outcome,
                    "the outcome of released {sequence} changed"
                );
            }
        }
    }

    /// A replica that writes in other lumps, and restarts in between, answers the same and stores the same.
    fn replicate(&mut self, entry: &Entry, expected: &[Reply], replica: Replica) {
        let replies = self
            .replica
            .apply(self.index, entry.clone(), &mut Vec::new());
        assert_eq!(
            replies, expected,
            "the other replica's replies to {entry:?}"
        );
        if replica == Replica::Gathers {
            return;
        }
        self.replica_store.take(&mut self.replica);
        assert_eq!(
            self.replica_store.canonical(),
            self.store.canonical(),
            "the replicas' stores"
        );
        if replica == Replica::Restarts {
            self.replica = self.replica_store.load();
            let suspects = self.replica.suspects();
            let suspects: Vec<_> = suspects.map(|(_, invariant)| invariant).collect();
            assert!(suspects.is_empty(), "loaded: {suspects:?} do not hold");
        }
        let (a, b) = (format!("{:#?}", self.replica), format!("{:#?}", self.state));
        assert!(
            a == b,
            "the replicas' states differ: {}",
            first_difference(&a, &b)
        );
    }
}

fn first_difference(a: &str, b: &str) -> String {
    let lines: Vec<_> = a.lines().zip(b.lines()).collect();
    let at = lines
        .iter()
        .position(|(a, b)| a != b)
        .unwrap_or(lines.len());
    let shown = lines[at.saturating_sub(4)..].iter().take(8);
    shown.map(|(a, b)| format!("\n{a:60} | {b}")).collect()
}
