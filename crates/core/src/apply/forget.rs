//! `ForgetFinished`: the end of what is remembered of finished messages, and of their records.

use super::Context;
use crate::command::ForgetFinished;
use crate::ids::{DeadLetterKey, Sequence};
use crate::mutation::Mutation;
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;

impl<R: Rules> Context<'_, R> {
    /// What deduplication still knows stays, and so does the history of every dead letter. Much is forgotten in several
    /// commands: see [`State::forgettable`](crate::State::forgettable).
    pub(super) fn forget_finished(&mut self, command: &ForgetFinished) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        lane.forget_known();
        let interface = &mut *lane.interface;
        let through = command
            .through
            .min(Sequence(interface.known_from().0.saturating_sub(1)));
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
        if interface
            .hours
            .forget(through, interface.finished_through())
        {
            interface.dirty.hours = true;
        }
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
