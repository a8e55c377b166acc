//! From a worker's reports to commands, and back to results.

use super::super::view_of;
use crate::admission::InterfaceView;
use crate::context::Context;
use crate::leader::{Freed, Place};
use crate::proposer::Pending;
use ordo_core::{Command, InterfaceConfig, InterfaceId, Outcome, Refusal, Reply, Report};
use ordo_wire::request::{report_of, uuid_of};
use ordo_wire::status::{Failure, reason_of};
use ordo_wire::v1::{self, Reason};
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
                            Refusal::Stale { .. }
                                | Refusal::UnknownSequence(..)
                                | Refusal::Quarantined { .. }
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
    let jitter = || {
        let rng = context.rng.lock();
        rng.unwrap_or_else(PoisonError::into_inner).random()
    };
    let report = report_of((view.id, &view.name), config, report, jitter)?;
    let name = match report.outcome {
        Outcome::Complete { .. } => "complete",
        Outcome::Retry { .. } => "retry",
        Outcome::Reject { .. } => "reject",
        Outcome::Filter { .. } => "filter",
    };
    Ok((report, name))
}
