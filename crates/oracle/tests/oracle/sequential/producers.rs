//! Messages are handed over, taken and answered.

use super::*;

impl Sequential {
    pub(super) fn send(&mut self) {
        let producer = self.random.random_range(0..2_usize);
        self.sent[producer] += 1;
        let order = self.sent[producer];
        let id = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
        let digest = self.digest();
        let call = self.call();
        let numbered = (producer == 1).then(|| Numbered {
            producer: "numberer".into(),
            number: order,
        });
        self.record(
            ["p0", "p1"][producer],
            What::Send {
                call,
                interface: INTERFACE.into(),
                message_id: id,
                digest,
                order: Some(order),
                numbered,
            },
        );
        self.ids.push((id, digest));
        self.sending[producer].push_back(Sending {
            call,
            id,
            digest,
            result: None,
        });
    }

    /// A producer's first untaken message takes effect, or its first call is answered.
    pub(super) fn take_sent(&mut self) {
        let producer = self.random.random_range(0..2_usize);
        let answer = self.chance(0.5);
        let first = self.sending[producer].front();
        if answer && first.is_some_and(|sending| sending.result.is_some()) {
            let done = self.sending[producer].pop_front().unwrap();
            // Some answers never come.
            let result = if self.chance(0.05) {
                SendResult::Unknown { why: "cut".into() }
            } else {
                done.result.unwrap()
            };
            let call = done.call;
            self.record(["p0", "p1"][producer], What::Sent { call, result });
            return;
        }
        let untaken = self.sending[producer]
            .iter()
            .position(|sending| sending.result.is_none());
        let Some(untaken) = untaken else { return };
        let (id, digest) = {
            let sending = &self.sending[producer][untaken];
            (sending.id, sending.digest)
        };
        // Numbered ones must not leave a gap.
        let fate = self.random.random_range(0..40);
        let result = match fate {
            0 if producer == 0 => SendResult::Refused {
                reason: "REASON_WINDOW_FULL".into(),
            },
            1 if producer == 0 => SendResult::Unknown { why: "lost".into() },
            _ => self.ingest(id, digest),
        };
        self.sending[producer][untaken].result = Some(result);
    }

    pub(super) fn repeat(&mut self) {
        if self.chance(0.5) && !self.ids.is_empty() && !self.draining {
            let (id, digest) = self.ids[self.random.random_range(0..self.ids.len())];
            let digest = if self.chance(0.3) {
                self.digest()
            } else {
                digest
            };
            let call = self.call();
            self.record(
                "p2",
                What::Send {
                    call,
                    interface: INTERFACE.into(),
                    message_id: id,
                    digest,
                    order: None,
                    numbered: None,
                },
            );
            self.repeats.push(Sending {
                call,
                id,
                digest,
                result: None,
            });
        } else if let Some(sending) = self.repeats.pop() {
            let result = match self.known.contains_key(&sending.id) {
                true => self.ingest(sending.id, sending.digest),
                false => SendResult::Refused {
                    reason: "REASON_PAUSED".into(),
                },
            };
            let call = sending.call;
            self.record("p2", What::Sent { call, result });
        }
    }

    pub(super) fn ingest(&mut self, id: Uuid, digest: Digest) -> SendResult {
        if let Some(sequence) = self.known.get(&id).copied() {
            return match self.slots[sequence as usize - 1].ingested == digest {
                true => SendResult::Accepted {
                    sequence,
                    duplicate: true,
                },
                false => SendResult::Refused {
                    reason: "REASON_CONFLICTING_PAYLOAD".into(),
                },
            };
        }
        let sequence = self.append(Slot {
            id,
            ingested: digest,
            payload: digest,
            stage: 0,
            turn: 1,
            entered: 1,
            attempts: 0,
            losses: 0,
            status: Status::Pending,
            named: None,
            redrive_of: 0,
            rejected: Vec::new(),
            events: Vec::new(),
        });
        SendResult::Accepted {
            sequence,
            duplicate: false,
        }
    }
}
