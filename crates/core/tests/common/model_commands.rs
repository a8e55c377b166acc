//! The naive model's commands.

use super::model::{
    Body, Destination, End, Lane, Letter, Message, Model, Producer, Sight, Status, size_of,
};
use ordo_core::{
    Answer, AnswerKind, Command, CreateInterface, DeadLetterKey, DestinationNumber, Entry, Epoch,
    EventKind, FailCause, Grant, GrantEnd, Ingest, InterfaceConfig, Loss, MessageId, NoteDelivery,
    Outcome, RedriveDeadLetter, Refusal, RefuseIngest, Reply, Report, ResumeDelivery, Sequence,
    SkipDelivery, TryKind, Turn, UpdateInterface, merge_headers,
};

fn key(key: DeadLetterKey) -> (u64, Option<u8>) {
    (key.sequence.0, key.destination.map(|d| d.0))
}

impl Model {
    pub fn apply(&mut self, entry: &Entry) -> Vec<Reply> {
        self.time = self.time.max(entry.cluster_time.0);
        self.wall = self.wall.max(entry.wall_time.0);
        let (last, new) = (self.position, entry.position);
        let higher = (new.term, new.run) > (last.term, last.run);
        if higher {
            self.position = ordo_core::RunPosition { n: 0, ..new };
        }
        let same = (new.term, new.run) == (self.position.term, self.position.run);
        let follows = same && new.n == self.position.n + 1;
        if follows {
            self.position = new;
        }
        let run = |command| self.run(command, follows).unwrap_or_else(Reply::Refused);
        entry.commands.iter().map(run).collect()
    }

    fn run(&mut self, command: &Command, follows: bool) -> Result<Reply, Refusal> {
        let id = match command {
            Command::CreateInterface(c) => return self.create(c),
            Command::Ingest(_) | Command::RefuseIngest(_) if !follows => {
                return Err(Refusal::Superseded);
            }
            command => command.interface(),
        };
        let (now, wall) = (self.time, self.wall);
        let lane = self.lanes.iter_mut().find(|lane| lane.id == id);
        let lane = lane.ok_or(Refusal::UnknownInterface(id))?;
        let reply = match command {
            Command::Ingest(c) => lane.ingest(c)?,
            Command::RefuseIngest(c) => lane.refuse_ingest(c)?,
            Command::Report(c) => lane.report(c, now)?,
            Command::Loss(c) => lane.loss(c)?,
            Command::Grant(c) => lane.grant(c, now)?,
            Command::GrantEnd(c) => lane.grant_end(c)?,
            Command::Answer(c) => lane.answer(c, (now, wall))?,
            Command::UpdateInterface(c) => lane.update(c)?,
            Command::DiscardDeadLetter(c) => lane.discard(key(c.key), c.key)?,
            Command::RedriveDeadLetter(c) => lane.redrive(c)?,
            Command::ForgetFinished(c) => {
                lane.forget(c.through.0, now);
                Reply::Done
            }
            Command::SkipDelivery(c) => lane.skip_delivery(c, now)?,
            Command::ResumeDelivery(c) => lane.resume_delivery(c, now)?,
            Command::NoteDelivery(c) => lane.note_delivery(c)?,
            Command::CreateInterface(_) => unreachable!("answered above"),
            Command::RepairInterface(_) => Reply::Done,
            Command::QuarantineInterface(_) => unreachable!("no choice is it"),
        };
        lane.settle(now);
        // The checkpoint a consumer is told counts what was passed over for it.
        Ok(match (reply, command) {
            (Reply::Answered { .. }, Command::Answer(c)) => Reply::Answered {
                checkpoint: Sequence(lane.checkpoint(c.destination.0.into())),
            },
            (Reply::Granted { epoch, .. }, Command::Grant(c)) => Reply::Granted {
                epoch,
                checkpoint: Sequence(lane.checkpoint(c.destination.0.into())),
            },
            (reply, _) => reply,
        })
    }

    fn create(&mut self, c: &CreateInterface) -> Result<Reply, Refusal> {
        if self.lanes.iter().any(|lane| lane.name == c.name) {
            return Err(Refusal::InterfaceExists(c.name.clone()));
        }
        if let Some(there) = self.lanes.iter().find(|lane| lane.id == c.interface) {
            return Err(Refusal::InterfaceExists(there.name.clone()));
        }
        self.lanes.push(Lane {
            id: c.interface,
            name: c.name.clone(),
            version: 1,
            config: c.config.clone(),
            messages: Vec::new(),
            destinations: c
                .config
                .destinations
                .iter()
                .map(|_| Destination::new())
                .collect(),
            letters: Vec::new(),
            producers: Vec::new(),
            forgotten: 0,
            let_go: 0,
            sessions: Vec::new(),
            unheard: Vec::new(),
            redrives: 0,
        });
        Ok(Reply::Configured {
            interface: c.interface,
            config_version: 1,
        })
    }
}

impl Destination {
    fn new() -> Self {
        Self {
            epoch: 0,
            holder: None,
            suspended_until: 0,
            attempts: 0,
            reason: String::new(),
            repeats: 0,
            turn: 0,
            tries: Vec::new(),
            delivered: 0,
            skipped: 0,
        }
    }
}

impl Lane {
    fn ingest(&mut self, c: &Ingest) -> Result<Reply, Refusal> {
        let known = self.known(c.message_id);
        let again = known.map(|sequence| {
            match self.message(sequence).expect("it is known").digest == c.digest {
                true => Ok(Reply::Ingested {
                    sequence: Sequence(sequence),
                    duplicate: true,
                }),
                false => Err(Refusal::ConflictingPayload(Sequence(sequence))),
            }
        });
        if let Some((name, number)) = &c.numbered {
            let last = self.producers.iter().find(|p| p.name == *name).cloned();
            let expected = last.as_ref().map_or(1, |p| p.last + 1);
            let given = *number;
            if given > expected {
                return Err(Refusal::ProducerGap { given, expected });
            }
            if given < expected {
                let last = last.expect("a number is used");
                let used = Refusal::ProducerSequenceUsed { given, expected };
                return match (again, given == last.last, last.message_id == c.message_id) {
                    // The last number, with another id than before.
                    (_, true, false) => Err(used),
                    // Known: its first answer, as for everyone.
                    (Some(again), _, _) => again,
                    (None, true, true) => match last.sequence {
                        Some(sequence) => Ok(Reply::Ingested {
                            sequence: Sequence(sequence),
                            duplicate: true,
                        }),
                        None => Err(Refusal::ProducerRefused(given)),
                    },
                    (None, false, _) => Err(used),
                };
            }
            let sequence = match &again {
                None => Some(self.last() + 1),
                Some(Ok(_)) => known,
                Some(Err(_)) => None,
            };
            self.number(name, given, c.message_id, sequence);
        }
        if let Some(again) = again {
            return again;
        }
        if let Some((session, heard)) = c.session {
            self.hear(session.0.get(), heard.0, self.last() + 1);
        }
        let body = Body {
            payload: c.payload.clone(),
            headers: merge_headers([c.headers.clone()]),
        };
        self.push(Message {
            id: c.message_id,
            digest: c.digest,
            body,
            headers_set: size_of(&c.headers),
            status: Status::Pending,
            stage: 0,
            turn: 1,
            entered: 1,
            attempts: 0,
            losses: 0,
            not_before: 0,
            named: None,
            ends: vec![None; self.destinations.len()],
            released: false,
            finished_at: None,
            redrive_of: None,
            session: c.session.map(|(session, _)| session.0.get()),
            derived: false,
            events: Vec::new(),
        });
        Ok(Reply::Ingested {
            sequence: Sequence(self.last()),
            duplicate: false,
        })
    }

    fn push(&mut self, mut message: Message) {
        if message.stage == self.config.stages.len() {
            message.status = Status::Ready;
        }
        self.messages.push(message);
    }

    fn number(&mut self, name: &str, number: u64, id: MessageId, sequence: Option<u64>) {
        self.producers.retain(|p| p.name != name);
        self.producers.push(Producer {
            name: name.to_owned(),
            last: number,
            message_id: id,
            sequence,
        });
    }

    fn refuse_ingest(&mut self, c: &RefuseIngest) -> Result<Reply, Refusal> {
        let (name, given) = (&c.numbered.0, c.numbered.1);
        let last = self.producers.iter().find(|p| p.name == *name).cloned();
        let expected = last.as_ref().map_or(1, |p| p.last + 1);
        if given > expected {
            return Err(Refusal::ProducerGap { given, expected });
        }
        if given == expected {
            self.number(name, given, c.message_id, None);
            return Err(Refusal::ProducerRefused(given));
        }
        match last.filter(|p| p.last == given && p.message_id == c.message_id) {
            None => Err(Refusal::ProducerSequenceUsed { given, expected }),
            Some(last) => match last.sequence {
                None => Err(Refusal::ProducerRefused(given)),
                Some(sequence) => Ok(Reply::Ingested {
                    sequence: Sequence(sequence),
                    duplicate: true,
                }),
            },
        }
    }

    /// Whether a report counts: guarantee 11.
    fn check_report(
        &self,
        sequence: Sequence,
        stage: usize,
        turn: u32,
        any_turn: bool,
    ) -> Result<(), Refusal> {
        let last = Sequence(self.last());
        let message = self
            .message(sequence.0)
            .ok_or(Refusal::UnknownSequence(sequence, last))?;
        let number = u8::try_from(stage).expect("small");
        if stage >= self.config.stages.len() {
            return Err(Refusal::UnknownStage(number));
        }
        let pending_there = message.status == Status::Pending && message.stage == stage;
        let in_time = match any_turn {
            true => (message.entered..=message.turn).contains(&turn),
            false => message.turn == turn,
        };
        match pending_there && in_time {
            true => Ok(()),
            false => Err(Refusal::Stale {
                given: Turn(turn),
                stage: number,
            }),
        }
    }

    fn report(&mut self, c: &Report, now: u64) -> Result<Reply, Refusal> {
        let stage = usize::from(c.stage.0);
        let completes = matches!(c.outcome, Outcome::Complete { .. });
        self.check_report(c.sequence, stage, c.turn.0, completes)?;
        let (stages, destinations) = (self.config.stages.clone(), self.destinations.len());
        let message = self.message_mut(c.sequence.0);
        match &c.outcome {
            Outcome::Complete {
                payload,
                headers,
                destinations: named,
            } => {
                if let Some(unknown) = named.iter().find(|d| usize::from(d.0) >= destinations) {
                    return Err(Refusal::UnknownDestination(unknown.0));
                }
                let (count, bytes) = size_of(headers);
                let (count, bytes) = (message.headers_set.0 + count, message.headers_set.1 + bytes);
                if count > 64 || bytes > 16 * 1024 {
                    return Err(Refusal::HeadersFull { count, bytes });
                }
                message.headers_set = (count, bytes);
                if let Some(payload) = payload {
                    message.body.payload = payload.clone();
                }
                let before = std::mem::take(&mut message.body.headers);
                message.body.headers = merge_headers([before, headers.clone()]);
                if !named.is_empty() {
                    message.named = Some(named.iter().map(|d| d.0).collect());
                }
                message.stage += 1;
                message.turn += 1;
                message.entered = message.turn;
                message.attempts = 0;
                message.losses = 0;
                message.not_before = 0;
                if message.stage == stages.len() {
                    message.status = Status::Ready;
                }
            }
            Outcome::Retry { reason, jitter } => {
                message.turn += 1;
                message.attempts += 1;
                message.events.push(EventKind::Retried);
                let config = &stages[stage];
                let mut pause = u64::from(config.backoff_ms);
                for _ in 1..message.attempts {
                    pause = (pause * 2).min(u64::from(config.backoff_ms_max));
                }
                pause = pause.min(u64::from(config.backoff_ms_max));
                message.not_before = now + pause - pause / 2 * u64::from(*jitter) / 65_535;
                if message.attempts >= config.max_attempts {
                    self.fail(c.sequence.0, FailCause::Attempts, reason);
                }
            }
            Outcome::Reject { reason } => {
                message.turn += 1;
                message.attempts += 1;
                message.events.push(EventKind::Rejected);
                self.fail(c.sequence.0, FailCause::Rejected, reason);
            }
            Outcome::Filter { .. } => {
                message.turn += 1;
                message.events.push(EventKind::Filtered);
                message.status = Status::Filtered;
            }
        }
        Ok(Reply::Done)
    }

    fn loss(&mut self, c: &Loss) -> Result<Reply, Refusal> {
        let stage = usize::from(c.stage.0);
        self.check_report(c.sequence, stage, c.turn.0, false)?;
        let losses_max = self.config.stages[stage].max_losses;
        let message = self.message_mut(c.sequence.0);
        message.turn += 1;
        message.losses += 1;
        message.events.push(EventKind::Lost);
        if message.losses >= losses_max {
            self.fail(c.sequence.0, FailCause::Losses, &c.reason);
        }
        Ok(Reply::Done)
    }

    fn fail(&mut self, sequence: u64, cause: FailCause, reason: &str) {
        let message = self.message_mut(sequence);
        message.status = Status::Failed(cause);
        let letter = Letter {
            key: (sequence, None),
            message: message.clone(),
            cause,
            attempts: message.attempts,
            losses: message.losses,
            reason: reason.to_owned(),
            redriven_as: None,
        };
        self.bury(sequence, None, letter);
    }

    fn grant(&mut self, c: &Grant, now: u64) -> Result<Reply, Refusal> {
        let number = usize::from(c.destination.0);
        if number >= self.destinations.len() {
            return Err(Refusal::UnknownDestination(c.destination.0));
        }
        if let Some((incarnation, sequence)) = c.position {
            // The texts are core's own.
            if incarnation.0 != 1 {
                let text = format!("of incarnation {incarnation}; the interface's is 1");
                return Err(Refusal::Position(text));
            }
            if sequence.0 > self.watermark() {
                let text = format!(
                    "{sequence}, beyond the release watermark {}",
                    self.watermark()
                );
                return Err(Refusal::Position(text));
            }
            if sequence.0 > self.checkpoint(number) {
                self.note_repeats(number);
                self.done(number, sequence.0, now);
            }
        }
        let destination = &mut self.destinations[number];
        destination.epoch += 1;
        destination.holder = Some((c.consumer, c.name.clone()));
        Ok(Reply::Granted {
            epoch: Epoch(destination.epoch),
            checkpoint: Sequence::ZERO,
        })
    }

    fn grant_end(&mut self, c: &GrantEnd) -> Result<Reply, Refusal> {
        let destination = self.destinations.get_mut(usize::from(c.destination.0));
        let destination = destination.ok_or(Refusal::UnknownDestination(c.destination.0))?;
        if destination.epoch == c.epoch.0 {
            destination.holder = None;
        }
        Ok(Reply::Done)
    }

    fn answer(&mut self, c: &Answer, (now, wall): (u64, u64)) -> Result<Reply, Refusal> {
        let number = usize::from(c.destination.0);
        let destination = self.destinations.get(number);
        let destination = destination.ok_or(Refusal::UnknownDestination(c.destination.0))?;
        if destination.holder.is_none() || destination.epoch != c.epoch.0 {
            return Err(Refusal::WrongEpoch {
                given: c.epoch,
                current: Epoch(destination.epoch),
            });
        }
        if c.sequence.0 > self.watermark() {
            return Err(Refusal::NotReleased {
                given: c.sequence,
                watermark: Sequence(self.watermark()),
            });
        }
        let checkpoint = self.checkpoint(number);
        let reply = Ok(Reply::Answered {
            checkpoint: Sequence::ZERO,
        });
        if matches!(c.kind, AnswerKind::Ack) {
            if c.sequence.0 > checkpoint {
                self.note_repeats(number);
                self.done(number, c.sequence.0, now);
            }
            return reply;
        }
        if c.sequence.0 != checkpoint + 1 {
            return Err(Refusal::NotHead {
                given: c.sequence,
                head: Sequence(checkpoint + 1),
            });
        }
        let is_message = self.sight(c.sequence.0, number) == Sight::Message;
        let attempts = destination.attempts + 1;
        let rejected = match &c.kind {
            AnswerKind::Unavailable { .. } => None,
            _ if !is_message => return Err(Refusal::SkipMarker(c.sequence)),
            AnswerKind::Reject { reason } => Some((FailCause::DeliveryRejected, reason)),
            AnswerKind::Retry { reason, .. } => {
                let max = self.config.destinations[number].max_attempts;
                (attempts >= max).then_some((FailCause::DeliveryAttempts, reason))
            }
            AnswerKind::Ack => unreachable!("answered above"),
        };
        if let Some((cause, reason)) = rejected {
            self.reject_delivery((number, c.sequence.0), cause, reason, attempts, now)?;
            return reply;
        }
        if let AnswerKind::Retry { .. } = c.kind {
            self.destinations[number].attempts = attempts;
            self.message_mut(c.sequence.0)
                .events
                .push(EventKind::DeliveryRetried);
        }
        let kind = match c.kind {
            AnswerKind::Unavailable { sent: true, .. } => TryKind::Sent,
            AnswerKind::Unavailable { .. } => TryKind::Unavailable,
            _ => TryKind::Retry,
        };
        if let AnswerKind::Retry { after_ms, reason }
        | AnswerKind::Unavailable {
            after_ms, reason, ..
        } = &c.kind
        {
            let destination = &mut self.destinations[number];
            destination.suspended_until = now + after_ms;
            destination.reason.clone_from(reason);
            if reason.is_empty() {
                destination.reason = "no reason given".to_owned();
            }
            destination.repeats += u32::from(kind == TryKind::Sent);
            let said = destination.reason.clone();
            destination.tries.push((kind, wall, said));
            destination.turn += 1;
            destination.epoch += 1;
        }
        reply
    }

    fn note_repeats(&mut self, number: usize) {
        if self.destinations[number].repeats > 0 {
            let head = self.checkpoint(number) + 1;
            let events = &mut self.message_mut(head).events;
            events.push(EventKind::DeliveryRepeated);
        }
    }

    fn skip_delivery(&mut self, c: &SkipDelivery, now: u64) -> Result<Reply, Refusal> {
        let number = usize::from(c.destination.0);
        self.check_turn(c.destination, c.turn)?;
        if c.sequence.0 > self.watermark() {
            return Err(Refusal::NotReleased {
                given: c.sequence,
                watermark: Sequence(self.watermark()),
            });
        }
        let head = Sequence(self.checkpoint(number) + 1);
        if c.sequence != head {
            let given = c.sequence;
            return Err(Refusal::NotHead { given, head });
        }
        if self.sight(head.0, number) != Sight::Message {
            return Err(Refusal::SkipMarker(head));
        }
        let attempts = self.destinations[number].attempts;
        let reason = "given up for this destination by a person";
        let cause = FailCause::DeliveryRejected;
        self.reject_delivery((number, head.0), cause, reason, attempts, now)?;
        Ok(Reply::Decided {
            turn: Turn(self.destinations[number].turn),
        })
    }

    fn resume_delivery(&mut self, c: &ResumeDelivery, now: u64) -> Result<Reply, Refusal> {
        let there = self.destinations.get(usize::from(c.destination.0));
        let there = there.ok_or(Refusal::UnknownDestination(c.destination.0))?;
        self.check_turn(c.destination, c.turn.unwrap_or(Turn(there.turn)))?;
        let there = &mut self.destinations[usize::from(c.destination.0)];
        if there.suspended_until > now {
            there.suspended_until = now;
            there.turn += 1;
            there.epoch += 1;
        }
        Ok(Reply::Decided {
            turn: Turn(there.turn),
        })
    }

    fn note_delivery(&mut self, c: &NoteDelivery) -> Result<Reply, Refusal> {
        let number = usize::from(c.destination.0);
        let there = self.destinations.get(number);
        let there = there.ok_or(Refusal::UnknownDestination(c.destination.0))?;
        if c.epoch.0 > there.epoch {
            return Err(Refusal::WrongEpoch {
                given: c.epoch,
                current: Epoch(there.epoch),
            });
        }
        let checkpoint = Sequence(self.checkpoint(number));
        if c.sequence > checkpoint {
            let given = c.sequence;
            return Err(Refusal::NotAcknowledged { given, checkpoint });
        }
        let mut letters = self.letters.iter();
        if c.sequence.0 <= self.forgotten && !letters.any(|l| l.key.0 == c.sequence.0) {
            return Err(Refusal::Forgotten(c.sequence));
        }
        self.message_mut(c.sequence.0).events.push(EventKind::Noted);
        Ok(Reply::Done)
    }

    fn check_turn(&self, destination: DestinationNumber, given: Turn) -> Result<(), Refusal> {
        let there = self.destinations.get(usize::from(destination.0));
        let there = there.ok_or(Refusal::UnknownDestination(destination.0))?;
        let current = Turn(there.turn);
        match given == current {
            true => Ok(()),
            false => Err(Refusal::StaleDecision { given, current }),
        }
    }

    fn reject_delivery(
        &mut self,
        (number, sequence): (usize, u64),
        cause: FailCause,
        reason: &str,
        attempts: u32,
        now: u64,
    ) -> Result<(), Refusal> {
        if self.over_cap() {
            let letters = self.letters.iter();
            return Err(Refusal::DeadLettersFull {
                count: self.letters.len(),
                bytes: letters.map(|l| l.message.body.payload.len() as u64).sum(),
            });
        }
        let mut message = self.message(sequence).expect("it is at the head").clone();
        let destination = u8::try_from(number).expect("there are few");
        message.named = Some(vec![destination]);
        let letter = Letter {
            key: (sequence, Some(destination)),
            message,
            cause,
            attempts,
            losses: 0,
            reason: reason.to_owned(),
            redriven_as: None,
        };
        self.bury(sequence, Some(destination), letter);
        let message = self.message_mut(sequence);
        message.ends[number] = Some(End::Rejected);
        message.events.push(EventKind::DeliveryRejected);
        self.destinations[number].skipped += 1;
        self.destinations[number].epoch += 1;
        self.destinations[number].turn += 1;
        self.moved_on(number, now);
        Ok(())
    }

    fn update(&mut self, c: &UpdateInterface) -> Result<Reply, Refusal> {
        if c.config_version != self.version {
            return Err(Refusal::ConfigVersion {
                given: c.config_version,
                current: self.version,
            });
        }
        let stages =
            |c: &InterfaceConfig| c.stages.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let names = |c: &InterfaceConfig| {
            c.destinations
                .iter()
                .map(|d| d.name.clone())
                .collect::<Vec<_>>()
        };
        let (old, new) = (names(&self.config), names(&c.config));
        let change = if stages(&c.config) != stages(&self.config) {
            Some("changing stages")
        } else if new.len() < old.len() || new[..old.len()] != old[..] {
            Some("removing or reordering destinations")
        } else {
            None
        };
        let undelivered = self.last() - self.finished();
        let dead_letters = self.letters.len() as u64;
        if let Some(change) = change.filter(|_| undelivered > 0 || dead_letters > 0) {
            return Err(Refusal::NotDrained {
                change: change.to_owned(),
                undelivered,
                dead_letters,
            });
        }
        let place = |name: &String| old.iter().position(|there| there == name);
        let places: Vec<Option<usize>> = new.iter().map(place).collect();
        // A name's epoch and turn never fall, though the destination goes for a while.
        let highest = self.destinations.iter().map(|d| d.epoch).max();
        let turn = self.destinations.iter().map(|d| d.turn).max();
        let some_go = places.iter().flatten().count() < old.len();
        let kept = |at: &Option<usize>| {
            let mut there = at.map_or_else(Destination::new, |at| self.destinations[at].clone());
            if some_go || at.is_none() {
                there.epoch = highest.expect("there is always one");
                there.turn = turn.expect("there is always one");
            }
            there
        };
        self.destinations = places.iter().map(kept).collect();
        for message in &mut self.messages {
            // A new destination begins at the watermark.
            let start = message.released.then_some(End::Passed);
            let end = |at: &Option<usize>| at.map_or(start, |at| message.ends[at]);
            message.ends = places.iter().map(end).collect();
        }
        self.config = c.config.clone();
        self.version += 1;
        Ok(Reply::Configured {
            interface: self.id,
            config_version: self.version,
        })
    }

    fn idle_letter(&self, at: (u64, Option<u8>), key: DeadLetterKey) -> Result<&Letter, Refusal> {
        let letter = self.letter(at).ok_or(Refusal::UnknownDeadLetter(key))?;
        match letter.redriven_as {
            None => Ok(letter),
            Some(sequence) => Err(Refusal::BeingRedriven(Sequence(sequence))),
        }
    }

    fn discard(&mut self, at: (u64, Option<u8>), key: DeadLetterKey) -> Result<Reply, Refusal> {
        self.idle_letter(at, key)?;
        self.message_mut(at.0).events.push(EventKind::Discarded);
        self.letters.retain(|letter| letter.key != at);
        Ok(Reply::Done)
    }

    fn redrive(&mut self, c: &RedriveDeadLetter) -> Result<Reply, Refusal> {
        let at = key(c.key);
        let letter = self.idle_letter(at, c.key)?.clone();
        let in_place = !self.message(at.0).expect("it had a sequence").released;
        if !in_place && c.in_place_only {
            return Err(Refusal::Released(c.key.sequence));
        }
        let derived = (!in_place).then(|| self.derived_id(letter.message.id));
        self.message_mut(at.0).events.push(EventKind::Redriven);
        let sequence = if in_place { at.0 } else { self.last() + 1 };
        let there = self.letters.iter_mut().find(|letter| letter.key == at);
        there.expect("it was just read").redriven_as = Some(sequence);
        if let Some(id) = derived {
            let ends = vec![None; self.destinations.len()];
            self.push(Message {
                id,
                status: Status::Pending,
                turn: 1,
                entered: 1,
                attempts: 0,
                losses: 0,
                not_before: 0,
                ends,
                released: false,
                finished_at: None,
                redrive_of: Some(at),
                session: None,
                derived: true,
                events: Vec::new(),
                ..letter.message
            });
        } else {
            let message = self.message_mut(at.0);
            message.status = Status::Pending;
            message.turn += 1;
            message.entered = message.turn;
            message.attempts = 0;
            message.losses = 0;
            message.not_before = 0;
            message.redrive_of = Some(at);
        }
        Ok(Reply::Redriven {
            in_place,
            sequence: Sequence(sequence),
        })
    }

    /// The first of the derived ids, from where the last search ended, that is not known.
    fn derived_id(&mut self, old: MessageId) -> MessageId {
        loop {
            self.redrives += 1;
            let id = old.derived(self.redrives);
            if self.known(id).is_none() {
                return id;
            }
        }
    }
}
