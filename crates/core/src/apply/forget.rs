//! `ForgetFinished`: the end of a record's retention.

use super::Context;
use crate::command::ForgetFinished;
use crate::ids::{DeadLetterKey, Sequence};
use crate::mutation::Mutation;
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;

impl<R: Rules> Context<'_, R> {
    /// What deduplication still knows stays, and so does the history of every dead letter.
    pub(super) fn forget_finished(&mut self, command: &ForgetFinished) -> Result<Reply, Refusal> {
        let lane = self.lane(command.interface)?;
        let interface = &mut *lane.interface;
        // An interface at rest has nobody else to let go of what is known for too long.
        interface.prune_known::<R>(lane.clock.cluster_time);
        let through = command.through.min(Sequence(interface.known_from().0 - 1));
        let mut from = interface.forgotten_through.next();
        if through < from {
            return Ok(Reply::Done);
        }
        let first = DeadLetterKey {
            sequence: from,
            destination: None,
        };
        let last = DeadLetterKey {
            sequence: through.next(),
            destination: None,
        };
        let mut kept: Vec<Sequence> = interface
            .dead_letters
            .range(first..last)
            .map(|(key, _)| key.sequence)
            .collect();
        kept.dedup();
        interface.forgotten_through = through;
        for kept in kept {
            if from < kept {
                lane.mutations.push(Mutation::Forget {
                    interface: command.interface,
                    from,
                    through: Sequence(kept.0 - 1),
                });
            }
            from = kept.next();
        }
        if from <= through {
            lane.mutations.push(Mutation::Forget {
                interface: command.interface,
                from,
                through,
            });
        }
        Ok(Reply::Done)
    }
}
