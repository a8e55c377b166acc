//! From a frame to a proposal: what is refused at once, what is refused for now, what is proposed.

use super::super::{failed, run_ended, stopped, view_named};
use crate::admission::{InterfaceView, Room, Transient};
use crate::context::Context;
use crate::proposer::{Pending, RunId, headers_weight};
use ordo_core::{
    Command, Ingest, InterfaceConfig, InterfaceId, MessageId, Refusal, RefuseIngest, Reply, Rules,
};
use ordo_wire::request::{ingest_of, quoted};
use ordo_wire::status::{Failure, reason_of};
use ordo_wire::v1::{self, IngestRefused, Reason, ingest_result};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

/// Bytes that a message takes beside its payload and its headers.
const MESSAGE_BYTES: usize = 128;

/// Turns one stream's frames into proposals.
pub(super) struct Acceptor<R> {
    context: Arc<Context>,
    run: RunId,
    /// Transient refusals on this stream so far.
    refusals: u64,
    /// The latest one of each interface that no frame has named yet.
    refused: BTreeMap<InterfaceId, u64>,
    rules: PhantomData<R>,
}

/// A frame whose results are not written yet.
pub(super) struct Frame {
    plan: Vec<Plan>,
    proposed: Option<Pending>,
    bytes: usize,
}

/// What becomes of one message.
enum Plan {
    /// The result is known.
    Refused(IngestRefused),
    /// The next reply is the result.
    Proposed { payload_bytes: u64 },
    /// It is refused for good; the next reply says whether that used up its number.
    Consumed(IngestRefused),
}

/// A message that may be proposed if there is room.
struct Candidate {
    ingest: Ingest,
    /// Past a limit: it is taken only if its id is known.
    refused: Option<IngestRefused>,
    /// Past a limit of the state machine itself: it is not taken even then.
    impossible: bool,
    /// Where in the plan it stands.
    at: usize,
}

impl Frame {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn pending(&mut self) -> Option<&mut Pending> {
        self.proposed.as_mut()
    }

    /// The results, in the order of the messages.
    pub(super) fn results(
        self,
        context: &Context,
        replies: Vec<Reply>,
    ) -> Result<Vec<v1::IngestResult>, Failure> {
        let mut replies = replies.into_iter();
        let mut results = Vec::with_capacity(self.plan.len());
        let (mut messages, mut bytes) = (0, 0);
        for plan in self.plan {
            let result = match plan {
                Plan::Refused(refused) => ingest_result::Result::Refused(refused),
                Plan::Proposed { payload_bytes } => {
                    messages += 1;
                    bytes += payload_bytes;
                    result_of(replies.next().ok_or_else(run_ended)?)?
                }
                Plan::Consumed(refused) => match replies.next().ok_or_else(run_ended)? {
                    Reply::Refused(Refusal::ProducerRefused(_)) => {
                        ingest_result::Result::Refused(refused)
                    }
                    other => result_of(other)?,
                },
            };
            if let ingest_result::Result::Refused(refused) = &result {
                context.metrics.refused(refused.reason());
            }
            results.push(v1::IngestResult {
                result: Some(result),
            });
        }
        context.metrics.ingested.inc_by(messages);
        context.metrics.ingested_bytes.inc_by(bytes);
        Ok(results)
    }
}

fn result_of(reply: Reply) -> Result<ingest_result::Result, Failure> {
    match reply {
        Reply::Ingested {
            sequence,
            duplicate,
        } => Ok(ingest_result::Result::Accepted(v1::IngestAccepted {
            sequence: sequence.0,
            duplicate,
        })),
        Reply::Refused(Refusal::Superseded) => Err(run_ended()),
        // Refused here, those behind it may have been taken after a repair: what comes again is refused before.
        Reply::Refused(refusal @ Refusal::Quarantined { .. }) => {
            Err(Failure::new(Reason::Superseded, refusal.to_string()))
        }
        Reply::Refused(refusal) => {
            let mut refused = permanent(reason_of(&refusal), refusal.to_string());
            if let Refusal::ProducerGap { expected, .. }
            | Refusal::ProducerSequenceUsed { expected, .. } = refusal
            {
                refused.expected_producer_sequence = expected;
            }
            if let Refusal::ConflictingPayload(sequence) = refusal {
                refused.conflicting_sequence = sequence.0;
            }
            Ok(ingest_result::Result::Refused(refused))
        }
        other => unreachable!("an ingest was answered with {other:?}"),
    }
}

fn permanent(reason: Reason, text: impl Into<String>) -> IngestRefused {
    IngestRefused {
        reason: reason.into(),
        text: text.into(),
        ..IngestRefused::default()
    }
}

impl<R: Rules> Acceptor<R> {
    pub(super) fn new(context: Arc<Context>, run: RunId) -> Self {
        Self {
            context,
            run,
            refusals: 0,
            refused: BTreeMap::new(),
            rules: PhantomData,
        }
    }

    /// Checks a frame and proposes what can be.
    pub(super) async fn accept(&mut self, frame: v1::IngestRequest) -> Result<Frame, Failure> {
        let mut accepted = Accepted::default();
        for batch in frame.batches {
            self.accept_batch(batch, &mut accepted).await?;
        }
        let Accepted {
            plan,
            commands,
            rooms,
            mut bytes,
        } = accepted;
        // What was refused waits with the rest until the frames before it are answered.
        bytes += plan.len() * MESSAGE_BYTES;
        let proposed = match commands.is_empty() {
            true => None,
            false => Some(
                self.context
                    .proposer
                    .propose_ingest(commands, rooms, self.run)
                    .map_err(|error| failed(&self.context, error))?,
            ),
        };
        Ok(Frame {
            plan,
            proposed,
            bytes,
        })
    }

    async fn accept_batch(
        &mut self,
        batch: v1::IngestBatch,
        accepted: &mut Accepted,
    ) -> Result<(), Failure> {
        let Some(view) = view_named(&self.context, &batch.interface).await? else {
            let refused = permanent(
                Reason::UnknownInterface,
                format!("interface {} is unknown", quoted(&batch.interface)),
            );
            accepted.plan.extend(
                batch
                    .messages
                    .iter()
                    .map(|_| Plan::Refused(refused.clone())),
            );
            return Ok(());
        };
        if let Some(latest) = self.refused.get(&view.id).copied() {
            if !R::names_refusal(latest, batch.after_refusal) {
                let refusal = earlier_refused(latest);
                accepted.plan.extend(
                    batch
                        .messages
                        .iter()
                        .map(|_| self.refuse(view.id, &refusal)),
                );
                return Ok(());
            }
            self.refused.remove(&view.id);
        }
        if let Some(refusal) = view.set_aside() {
            let refused = batch.messages.iter();
            accepted
                .plan
                .extend(refused.map(|_| self.refuse(view.id, &refusal)));
            return Ok(());
        }
        let config = view.config();
        let candidates = check_all(&view, &config, batch, accepted);
        if !candidates.is_empty() {
            self.admit(&view, &config, candidates, accepted).await?;
        }
        Ok(())
    }

    /// Proposes what there is room for. What there is none for gets its first answer if it is known, and is refused
    /// otherwise.
    async fn admit(
        &mut self,
        view: &Arc<InterfaceView>,
        config: &InterfaceConfig,
        candidates: Vec<Candidate>,
        accepted: &mut Accepted,
    ) -> Result<(), Failure> {
        let fit = candidates
            .iter()
            .filter(|candidate| candidate.refused.is_none());
        let sizes: Vec<u64> = fit
            .map(|candidate| size_of(&candidate.ingest) as u64)
            .collect();
        let (room, mut free, mut transient) =
            self.context.admission.take_room(view, config, &sizes);
        accepted.rooms.push(room);
        let known = match transient.is_none() && sizes.len() == candidates.len() {
            true => Vec::new(),
            false => self.known(view.id, &candidates).await?,
        };
        for (n, candidate) in candidates.into_iter().enumerate() {
            let Candidate {
                ingest,
                refused,
                impossible,
                at,
            } = candidate;
            if known.get(n).copied().unwrap_or(false) && !impossible {
                accepted.ingest(ingest);
                continue;
            }
            // Behind one that is refused for now a number can't be used up: it would come before its turn.
            let behind = ingest.numbered.is_some() && self.refused.contains_key(&view.id);
            match (refused, &transient) {
                (Some(refused), _) if !behind => accepted.consume(ingest, refused, at),
                (refused, Some(refusal)) if refused.is_some() || free == 0 => {
                    accepted.plan[at] = self.refuse(view.id, refusal);
                    transient = self
                        .refused
                        .get(&view.id)
                        .map(|latest| earlier_refused(*latest));
                }
                _ => {
                    free = free.saturating_sub(1);
                    accepted.ingest(ingest);
                }
            }
        }
        Ok(())
    }

    /// Which ids are known: those get their first answer before any limit is looked at.
    async fn known(&self, id: InterfaceId, candidates: &[Candidate]) -> Result<Vec<bool>, Failure> {
        let ids: Vec<MessageId> = candidates
            .iter()
            .map(|candidate| candidate.ingest.message_id)
            .collect();
        let ask = move |view: ordo_storage::View<'_>| -> Vec<bool> {
            let interface = view.state.interface(id);
            let known = |id: &MessageId| {
                interface.is_some_and(|interface| interface.sequence_of(*id).is_some())
            };
            ids.iter().map(known).collect()
        };
        self.context
            .machine
            .query(ask)
            .await
            .map_err(|_| stopped(&self.context))
    }

    /// A transient refusal: numbered, and the interface stays refused on this stream until a frame names it.
    fn refuse(&mut self, id: InterfaceId, refusal: &Transient) -> Plan {
        self.refusals += 1;
        self.refused.insert(id, self.refusals);
        Plan::Refused(IngestRefused {
            reason: refusal.reason.into(),
            text: refusal.text.clone(),
            refusal: self.refusals,
            retry_after_ms: refusal.retry_after_ms,
            ..IngestRefused::default()
        })
    }
}

/// What a frame has come to so far.
#[derive(Default)]
struct Accepted {
    plan: Vec<Plan>,
    commands: Vec<Command>,
    rooms: Vec<Room>,
    bytes: usize,
}

impl Accepted {
    fn ingest(&mut self, ingest: Ingest) {
        self.bytes += size_of(&ingest);
        self.commands.push(Command::Ingest(ingest));
    }

    /// Refused for good: a number that came with it is used up through the log, so that it leaves no gap.
    fn consume(&mut self, ingest: Ingest, refused: IngestRefused, at: usize) {
        let Some(numbered) = ingest.numbered else {
            self.plan[at] = Plan::Refused(refused);
            return;
        };
        self.plan[at] = Plan::Consumed(refused);
        self.bytes += MESSAGE_BYTES;
        let refuse = RefuseIngest {
            interface: ingest.interface,
            message_id: ingest.message_id,
            numbered,
        };
        self.commands.push(Command::RefuseIngest(refuse));
    }
}

/// Bytes that a message takes until it is applied.
fn size_of(ingest: &Ingest) -> usize {
    MESSAGE_BYTES + ingest.payload.len() + headers_weight(&ingest.headers)
}

/// Sorts out what can never be taken.
fn check_all(
    view: &InterfaceView,
    config: &InterfaceConfig,
    batch: v1::IngestBatch,
    accepted: &mut Accepted,
) -> Vec<Candidate> {
    let mut candidates = Vec::with_capacity(batch.messages.len());
    let wrong = |failure: Failure| permanent(failure.reason, failure.text);
    let session = (batch.session, batch.heard_sequence);
    for message in batch.messages {
        let checked = match ingest_of(view.id, config, &batch.producer, session, message) {
            Ok(checked) => checked,
            Err(failure) => {
                accepted.plan.push(Plan::Refused(wrong(failure)));
                continue;
            }
        };
        let at = accepted.plan.len();
        accepted.plan.push(Plan::Proposed {
            payload_bytes: checked.ingest.payload.len() as u64,
        });
        candidates.push(Candidate {
            ingest: checked.ingest,
            refused: checked.too_large.map(wrong),
            impossible: checked.impossible,
            at,
        });
    }
    candidates
}

fn earlier_refused(latest: u64) -> Transient {
    let text = format!(
        "an earlier message of this interface was refused on this stream; send again with after_refusal = {latest}"
    );
    Transient {
        reason: Reason::EarlierRefused,
        text,
        retry_after_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ordo_wire::convert::digest;

    #[test]
    fn what_a_quarantine_met_on_its_way_is_sent_again() {
        let refusal = Refusal::Quarantined {
            invariant: "ids_are_known".to_owned(),
            log_index: 7,
        };
        // As an answer it would let what comes behind it overtake, should a repair come between.
        let failure = result_of(Reply::Refused(refusal)).expect_err("the stream ends");
        assert_eq!(failure.reason, Reason::Superseded);
    }

    #[test]
    fn headers_count_as_bytes_on_their_way() {
        let header = ordo_core::Header {
            name: "routing".into(),
            value: "x".repeat(10_000),
        };
        let ingest = Ingest {
            interface: InterfaceId(uuid::Uuid::from_u128(1)),
            message_id: MessageId(uuid::Uuid::from_u128(2)),
            digest: digest(b"", &[]),
            payload: bytes::Bytes::new(),
            headers: vec![header],
            numbered: None,
            session: None,
        };
        let mut accepted = Accepted::default();
        accepted.ingest(ingest);
        assert!(accepted.bytes > 10_000, "{}", accepted.bytes);
    }
}
