//! From a worker's reports to commands, and back to results.

use super::super::{check_headers, check_reason, quoted, uuid_of, view_of};
use crate::admission::InterfaceView;
use crate::context::Context;
use crate::leader::{Freed, Place};
use crate::proposer::Pending;
use ordo_core::{
    Command, DestinationNumber, InterfaceConfig, InterfaceId, Outcome, Refusal, Reply, Report,
    Sequence, Turn,
};
use ordo_wire::convert::header_from_proto;
use ordo_wire::status::{Failure, reason_of};
use ordo_wire::v1::{self, Reason, work_report};
use rand::Rng;
use std::sync::{Arc, PoisonError};

/// One frame of reports.
pub(super) struct Reports {
    pub(super) proposed: Option<Pending>,
    plan: Vec<Plan>,
}

/// What becomes of one report.
enum Plan {
    Refused(Failure),
    Proposed { freed: Freed, outcome: &'static str },
}

impl Reports {
    /// Sorts out the wrong ones; the others become commands, in order.
    pub(super) async fn check(
        context: &Context,
        reports: Vec<v1::WorkReport>,
    ) -> Result<(Self, Vec<Command>), Failure> {
        let mut plan = Vec::with_capacity(reports.len());
        let mut commands = Vec::with_capacity(reports.len());
        let mut last: Option<(Arc<InterfaceView>, Arc<InterfaceConfig>)> = None;
        for report in reports {
            let id = match uuid_of("interface_id", &report.interface_id) {
                Ok(id) => InterfaceId(id),
                Err(failure) => {
                    plan.push(Plan::Refused(failure));
                    continue;
                }
            };
            if last.as_ref().is_none_or(|(view, _)| view.id != id) {
                last = view_of(context, id)
                    .await?
                    .map(|view| (Arc::clone(&view), view.config()));
            }
            let Some((view, config)) = &last else {
                plan.push(Plan::Refused(Failure::new(
                    Reason::UnknownInterface,
                    format!("interface {id} is unknown"),
                )));
                continue;
            };
            match command_of(context, view, config, report) {
                Ok((command, outcome)) => {
                    let place = Place {
                        interface: command.interface,
                        sequence: command.sequence,
                    };
                    plan.push(Plan::Proposed {
                        freed: Freed {
                            place,
                            turn: command.turn,
                        },
                        outcome,
                    });
                    commands.push(Command::Report(command));
                }
                Err(failure) => plan.push(Plan::Refused(failure)),
            }
        }
        Ok((
            Self {
                proposed: None,
                plan,
            },
            commands,
        ))
    }

    /// The results, in order, and the assignments that are no longer in the worker's hands.
    pub(super) fn results(
        self,
        context: &Context,
        replies: Vec<Reply>,
    ) -> (Vec<v1::WorkResult>, Vec<Freed>) {
        let mut replies = replies.into_iter();
        let mut freed = Vec::new();
        let mut results = Vec::with_capacity(self.plan.len());
        for plan in self.plan {
            let (reason, text) = match plan {
                Plan::Refused(failure) => (failure.reason, failure.text),
                Plan::Proposed {
                    freed: place,
                    outcome,
                } => match replies.next() {
                    Some(Reply::Refused(refusal)) => {
                        // Anything else leaves it in hand: the worker may report it otherwise.
                        if matches!(
                            refusal,
                            Refusal::Stale { .. } | Refusal::UnknownSequence(..)
                        ) {
                            freed.push(place);
                        }
                        (reason_of(&refusal), refusal.to_string())
                    }
                    _ => {
                        context.metrics.reported(outcome);
                        freed.push(place);
                        (Reason::Unspecified, String::new())
                    }
                },
            };
            if reason != Reason::Unspecified {
                context.metrics.refused(reason);
            }
            results.push(v1::WorkResult {
                reason: reason.into(),
                text,
            });
        }
        (results, freed)
    }
}

fn command_of(
    context: &Context,
    view: &InterfaceView,
    config: &InterfaceConfig,
    report: v1::WorkReport,
) -> Result<(Report, &'static str), Failure> {
    let Some(stage) = config.stage_number(&report.stage) else {
        let text = format!(
            "interface {:?} has no stage {}",
            view.name,
            quoted(&report.stage)
        );
        return Err(Failure::new(Reason::UnknownStage, text));
    };
    let reason = |reason: String| check_reason(&reason).map(|()| reason);
    let (outcome, name) = match report.outcome {
        Some(work_report::Outcome::Complete(complete)) => {
            (complete_of(view, config, complete)?, "complete")
        }
        Some(work_report::Outcome::Retry(retry)) => {
            let jitter = context
                .rng
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .random();
            (
                Outcome::Retry {
                    reason: reason(retry.reason)?,
                    jitter,
                },
                "retry",
            )
        }
        Some(work_report::Outcome::Reject(reject)) => (
            Outcome::Reject {
                reason: reason(reject.reason)?,
            },
            "reject",
        ),
        Some(work_report::Outcome::Filter(filter)) => (
            Outcome::Filter {
                reason: reason(filter.reason)?,
            },
            "filter",
        ),
        None => return Err(Failure::field("outcome", "the report has no outcome")),
    };
    let report = Report {
        interface: view.id,
        sequence: Sequence(report.sequence),
        stage,
        turn: Turn(report.turn),
        outcome,
    };
    Ok((report, name))
}

fn complete_of(
    view: &InterfaceView,
    config: &InterfaceConfig,
    complete: v1::WorkComplete,
) -> Result<Outcome, Failure> {
    let limit = config.payload_bytes_max as usize;
    if let Some(payload) = complete
        .payload
        .as_ref()
        .filter(|payload| payload.len() > limit)
    {
        let text = format!(
            "payload has {} bytes; payload_bytes_max of the interface is {limit}",
            payload.len()
        );
        return Err(Failure::new(Reason::TooLarge, text));
    }
    check_headers(&complete.headers)?;
    let number = |name: &String| -> Result<DestinationNumber, Failure> {
        config.destination_number(name).ok_or_else(|| {
            let text = format!(
                "interface {:?} has no destination {}",
                view.name,
                quoted(name)
            );
            Failure::new(Reason::UnknownDestination, text)
        })
    };
    Ok(Outcome::Complete {
        payload: complete.payload,
        headers: complete
            .headers
            .into_iter()
            .map(header_from_proto)
            .collect(),
        destinations: complete
            .destinations
            .iter()
            .map(number)
            .collect::<Result<_, _>>()?,
    })
}
