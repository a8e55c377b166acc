//! From a consumer's answers to commands, and back to results.

use crate::context::Context;
use crate::proposer::Pending;
use ordo_core::{
    AnswerKind, Command, DestinationNumber, Epoch, InterfaceId, Refusal, Reply, Rules, Sequence,
};
use ordo_wire::request::answer_of;
use ordo_wire::status::{Failure, reason_of};
use ordo_wire::v1::{self, Reason};
use std::collections::BTreeMap;

/// A grant as it was told to the consumer, and what was written under it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) interface: InterfaceId,
    pub(super) destination: DestinationNumber,
    pub(super) epoch: Epoch,
    /// The last sequence written.
    pub(super) sent: Sequence,
    /// When it was granted.
    pub(super) checkpoint: Sequence,
    /// Nothing more goes out under this epoch.
    pub(super) broken: bool,
}

/// One frame of answers.
pub(super) struct Answers {
    pub(super) proposed: Option<Pending>,
    plan: Vec<(u32, Plan)>,
}

/// What becomes of one answer.
enum Plan {
    Refused(Failure),
    /// The reply with this number is its result; several acks may share one.
    Proposed(usize, &'static str),
}

impl Answers {
    /// Refuses what can't be meant; the others become commands. Acks of one subscription that follow each other
    /// become one.
    pub(super) fn check<R: Rules>(
        answers: Vec<v1::Answer>,
        subscriptions: &BTreeMap<u32, Option<Granted>>,
    ) -> (Self, Vec<Command>) {
        let mut plan = Vec::with_capacity(answers.len());
        let mut commands: Vec<Command> = Vec::new();
        let mut acks: BTreeMap<u32, usize> = BTreeMap::new();
        for answer in answers {
            let number = answer.subscription;
            let granted = subscriptions.get(&number).and_then(Option::as_ref);
            let (command, name) = match command_of::<R>(granted, answer) {
                Ok(there) => there,
                Err(failure) => {
                    plan.push((number, Plan::Refused(failure)));
                    continue;
                }
            };
            let is_ack = matches!(command.kind, AnswerKind::Ack);
            if let Some(at) = acks.get(&number).copied().filter(|_| is_ack)
                && let Some(Command::Answer(before)) = commands.get_mut(at)
            {
                before.sequence = before.sequence.max(command.sequence);
                plan.push((number, Plan::Proposed(at, name)));
                continue;
            }
            match is_ack {
                true => acks.insert(number, commands.len()),
                false => acks.remove(&number),
            };
            plan.push((number, Plan::Proposed(commands.len(), name)));
            commands.push(Command::Answer(command));
        }
        (
            Self {
                proposed: None,
                plan,
            },
            commands,
        )
    }

    /// The results, in order.
    pub(super) fn results(self, context: &Context, replies: Vec<Reply>) -> Vec<v1::AnswerResult> {
        let result = |(subscription, plan): (u32, Plan)| {
            let (reason, text, checkpoint) = match plan {
                Plan::Refused(failure) => (failure.reason, failure.text, 0),
                Plan::Proposed(at, name) => match replies.get(at) {
                    Some(Reply::Refused(refusal)) => (reason_of(refusal), refusal.to_string(), 0),
                    Some(Reply::Answered { checkpoint }) => {
                        context.metrics.answered(name);
                        (Reason::Unspecified, String::new(), checkpoint.0)
                    }
                    _ => (
                        Reason::OutcomeUnknown,
                        "the answer got no reply".to_owned(),
                        0,
                    ),
                },
            };
            if reason != Reason::Unspecified {
                context.metrics.refused(reason);
            }
            v1::AnswerResult {
                subscription,
                reason: reason.into(),
                text,
                checkpoint,
            }
        };
        self.plan.into_iter().map(result).collect()
    }
}

fn command_of<R: Rules>(
    granted: Option<&Granted>,
    answer: v1::Answer,
) -> Result<(ordo_core::Answer, &'static str), Failure> {
    let (given, sequence) = (Epoch(answer.epoch), Sequence(answer.sequence));
    let Some(granted) = granted else {
        let text = format!(
            "subscription {} holds no grant on this stream",
            answer.subscription
        );
        return Err(Failure::new(Reason::Epoch, text));
    };
    if !R::holds(granted.epoch, given) {
        return Err(Failure::from(&Refusal::WrongEpoch {
            given,
            current: granted.epoch,
        }));
    }
    if !R::is_released(granted.sent, sequence) {
        let text = format!(
            "sequence {sequence} was not sent under epoch {given}; the last one that was is {}",
            granted.sent.max(granted.checkpoint)
        );
        return Err(Failure::new(Reason::NotReleased, text));
    }
    let kind = answer_of(answer.answer)?;
    let name = match kind {
        AnswerKind::Ack => "ack",
        AnswerKind::Retry { .. } => "retry",
        AnswerKind::Reject { .. } => "reject",
        AnswerKind::Unavailable { sent: false, .. } => "unavailable",
        AnswerKind::Unavailable { sent: true, .. } => "unavailable_sent",
    };
    let (interface, destination) = (granted.interface, granted.destination);
    Ok((
        ordo_core::Answer {
            interface,
            destination,
            epoch: given,
            sequence,
            kind,
        },
        name,
    ))
}
