//! From the events of a history to the lanes of its interfaces.

use std::collections::BTreeMap;

use super::{
    Answer, Assigned, Delivered, FinalMessage, Granted, Lane, Letter, Operate, Read, Report, Send,
    Step,
};
use crate::history::{Event, History, What};
use crate::name::Name;

/// Why a history can't be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) at: usize,
    pub(crate) text: String,
}

/// Sorts `history` by interface.
pub(crate) fn index(history: &History) -> Result<BTreeMap<Name, Lane<'_>>, Unreadable> {
    let mut index = Index::default();
    for (at, event) in history.events.iter().enumerate() {
        index
            .take(at, event)
            .map_err(|text| Unreadable { at, text })?;
    }
    for lane in index.lanes.values_mut() {
        lane.derive();
    }
    Ok(index.lanes)
}

#[derive(Default)]
struct Index<'h> {
    lanes: BTreeMap<Name, Lane<'h>>,
    /// The interface of each call, and what it is there.
    calls: BTreeMap<u64, (Name, Call)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Send(usize),
    Report(usize),
    Answer(usize),
    Reading(usize),
    Operate(usize),
}

impl<'h> Index<'h> {
    fn lane(&mut self, interface: &Name) -> Result<&mut Lane<'h>, String> {
        self.lanes
            .get_mut(interface)
            .ok_or_else(|| format!("interface {interface} is used and was not declared"))
    }

    /// Notes a call; its answer finds it by its number.
    fn call(&mut self, call: u64, interface: &Name, what: Call) -> Result<(), String> {
        match self.calls.insert(call, (interface.clone(), what)) {
            None => Ok(()),
            Some(_) => Err(format!("call {call} is made twice")),
        }
    }

    fn answered(&mut self, call: u64) -> Result<(&mut Lane<'h>, Call), String> {
        let (interface, what) = self
            .calls
            .get(&call)
            .cloned()
            .ok_or_else(|| format!("call {call} is answered and was not made"))?;
        Ok((self.lane(&interface)?, what))
    }

    fn take(&mut self, at: usize, event: &'h Event) -> Result<(), String> {
        match &event.what {
            What::Interface(shape) => {
                let lane = Lane::new(shape);
                if self.lanes.insert(shape.name.clone(), lane).is_some() {
                    return Err(format!("interface {} is declared twice", shape.name));
                }
            }
            What::Fault { .. } => {}
            What::Send { .. }
            | What::Report { .. }
            | What::Answer { .. }
            | What::Reading { .. }
            | What::Operate { .. } => self.take_call(at, event)?,
            What::Sent { .. }
            | What::Reported { .. }
            | What::Answered { .. }
            | What::Read { .. }
            | What::Operated { .. } => self.take_answer(at, &event.what)?,
            _ => self.take_sight(at, event)?,
        }
        Ok(())
    }

    fn take_call(&mut self, at: usize, event: &'h Event) -> Result<(), String> {
        let actor = &event.actor;
        match &event.what {
            What::Send {
                call,
                interface,
                message_id,
                digest,
                order,
                numbered,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.sends.len();
                lane.sends.push(Send {
                    at,
                    actor,
                    message_id: *message_id,
                    digest: *digest,
                    order: *order,
                    numbered: numbered.as_ref(),
                    sent: None,
                });
                lane.sends_of.entry(*message_id).or_default().push(number);
                lane.steps.push(Step::Send(number));
                self.call(*call, interface, Call::Send(number))
            }
            What::Report {
                call,
                interface,
                sequence,
                stage,
                turn,
                kind,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.reports.len();
                lane.reports.push(Report {
                    at,
                    sequence: *sequence,
                    stage: lane.stage(stage),
                    turn: *turn,
                    kind,
                    reported: None,
                });
                lane.steps.push(Step::Report(number));
                self.call(*call, interface, Call::Report(number))
            }
            what => self.take_other_call(at, actor, what),
        }
    }

    fn take_other_call(
        &mut self,
        at: usize,
        actor: &'h Name,
        what: &'h What,
    ) -> Result<(), String> {
        match what {
            What::Answer {
                call,
                interface,
                destination,
                epoch,
                sequence,
                kind,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.answers.len();
                lane.answers.push(Answer {
                    at,
                    actor,
                    destination,
                    epoch: *epoch,
                    sequence: *sequence,
                    kind: *kind,
                    answered: None,
                });
                lane.steps.push(Step::Answer(number));
                self.call(*call, interface, Call::Answer(number))
            }
            What::Reading { call, interface } => {
                self.lane(interface)?.steps.push(Step::Reading(at));
                self.call(*call, interface, Call::Reading(at))
            }
            What::Operate {
                call,
                interface,
                sequence,
                message_id,
                destination,
                deed,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.operates.len();
                lane.operates.push(Operate {
                    at,
                    sequence: *sequence,
                    message_id: *message_id,
                    destination: destination.as_ref(),
                    deed: *deed,
                    operated: None,
                });
                lane.steps.push(Step::Operate(number));
                self.call(*call, interface, Call::Operate(number))
            }
            _ => Ok(()),
        }
    }

    fn take_answer(&mut self, at: usize, what: &'h What) -> Result<(), String> {
        let (What::Sent { call, .. }
        | What::Reported { call, .. }
        | What::Answered { call, .. }
        | What::Read { call, .. }
        | What::Operated { call, .. }) = what
        else {
            return Ok(());
        };
        let (lane, of) = self.answered(*call)?;
        let first = match (what, of) {
            (What::Sent { result, .. }, Call::Send(number)) => {
                lane.steps.push(Step::Sent(number));
                lane.sends[number].sent.replace((at, result)).is_none()
            }
            (What::Reported { verdict, .. }, Call::Report(number)) => {
                lane.steps.push(Step::Reported(number));
                let answer = (at, verdict);
                lane.reports[number].reported.replace(answer).is_none()
            }
            (
                What::Answered {
                    verdict,
                    checkpoint,
                    ..
                },
                Call::Answer(number),
            ) => {
                lane.steps.push(Step::Answered(number));
                let answer = (at, verdict, *checkpoint);
                lane.answers[number].answered.replace(answer).is_none()
            }
            (What::Read { standing, .. }, Call::Reading(began)) => {
                let is_first = lane.reads.iter().all(|read| read.began != began);
                lane.steps.push(Step::Read(lane.reads.len()));
                let read = Read {
                    began,
                    at,
                    standing,
                };
                lane.reads.push(read);
                is_first
            }
            (What::Operated { result, .. }, Call::Operate(number)) => {
                lane.steps.push(Step::Operated(number));
                lane.operates[number]
                    .operated
                    .replace((at, result))
                    .is_none()
            }
            _ => return Err(format!("call {call} is answered as another kind of call")),
        };
        match first {
            true => Ok(()),
            false => Err(format!("call {call} is answered twice")),
        }
    }

    fn take_sight(&mut self, at: usize, event: &'h Event) -> Result<(), String> {
        let actor = &event.actor;
        match &event.what {
            What::Assigned {
                interface,
                sequence,
                message_id,
                stage,
                turn,
                attempts,
                digest,
            } => {
                let lane = self.lane(interface)?;
                lane.steps.push(Step::Assigned(lane.assigned.len()));
                lane.assigned.push(Assigned {
                    at,
                    sequence: *sequence,
                    message_id: *message_id,
                    stage: lane.stage(stage),
                    stage_name: stage,
                    turn: *turn,
                    attempts: *attempts,
                    digest: *digest,
                });
            }
            What::Granted {
                interface,
                destination,
                epoch,
                checkpoint,
                raw,
            } => {
                let lane = self.lane(interface)?;
                lane.steps.push(Step::Granted(lane.granted.len()));
                lane.granted.push(Granted {
                    at,
                    actor,
                    destination,
                    epoch: *epoch,
                    checkpoint: *checkpoint,
                    raw: *raw,
                });
            }
            What::Delivered {
                interface,
                destination,
                epoch,
                sequence,
                message_id,
                content,
                raw,
            } => {
                let lane = self.lane(interface)?;
                lane.steps.push(Step::Delivered(lane.delivered.len()));
                lane.delivered.push(Delivered {
                    at,
                    actor,
                    destination,
                    epoch: *epoch,
                    sequence: *sequence,
                    message_id: *message_id,
                    content,
                    raw: *raw,
                });
            }
            _ => self.take_end(at, &event.what)?,
        }
        Ok(())
    }

    fn take_end(&mut self, at: usize, what: &'h What) -> Result<(), String> {
        match what {
            What::Unlawful {
                interface,
                guarantee,
                text,
            } => self
                .lane(interface)?
                .unlawful
                .push((at, *guarantee, text.as_str())),
            What::Final {
                interface,
                standing,
            } => self.lane(interface)?.last = Some((at, standing)),
            What::FinalMessage {
                interface,
                sequence,
                message_id,
                status,
                redrive_of,
                events,
            } => self.lane(interface)?.messages.push(FinalMessage {
                at,
                sequence: *sequence,
                message_id: *message_id,
                status: *status,
                redrive_of: *redrive_of,
                events,
            }),
            What::FinalDeadLetter {
                interface,
                sequence,
                destination,
                message_id,
                stage,
                digest,
                ..
            } => {
                let lane = self.lane(interface)?;
                let stage = stage.as_ref().and_then(|stage| lane.stage(stage));
                lane.letters.push(Letter {
                    at,
                    sequence: *sequence,
                    destination: destination.as_ref(),
                    stage,
                    message_id: *message_id,
                    digest: *digest,
                });
            }
            _ => {}
        }
        Ok(())
    }
}
