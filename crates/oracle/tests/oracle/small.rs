//! Short stories, one for each check: right as they stand, and broken so that exactly one check finds it.

use ordo_oracle::*;
use uuid::Uuid;

const A: Uuid = Uuid::from_u128(0xa);
const B: Uuid = Uuid::from_u128(0xb);

/// A history that is told line by line. Everything is about one interface with the stage "check" (two attempts, two
/// losses) and the destinations "ward" and "lab".
struct Story {
    events: Vec<Event>,
    calls: u64,
}

fn name(name: &str) -> Name {
    name.into()
}

impl Story {
    fn new(stages: &[&str]) -> Self {
        let stages = stages.iter().map(|stage| StageShape {
            name: name(stage),
            max_attempts: 2,
            max_losses: 2,
        });
        let shape = InterfaceShape {
            name: name("i"),
            stages: stages.collect(),
            destinations: vec![DestinationShape {
                name: name("ward"),
                max_attempts: 2,
            }],
            dedup_messages: 10,
            window: 100,
        };
        let story = Self {
            events: Vec::new(),
            calls: 0,
        };
        story.tell("creator", What::Interface(shape))
    }

    fn tell(mut self, actor: &str, what: What) -> Self {
        let at_us = self.events.len() as u64;
        self.events.push(Event {
            at_us,
            actor: name(actor),
            what,
        });
        self
    }

    fn begin(mut self, actor: &str, what: impl FnOnce(u64, Name) -> What) -> Self {
        self.calls += 1;
        let what = what(self.calls, name("i"));
        self.tell(actor, what)
    }

    fn sends(self, producer: &str, message_id: Uuid, order: u64) -> Self {
        self.sends_bytes(producer, message_id, order, 1)
    }

    fn sends_bytes(self, producer: &str, message_id: Uuid, order: u64, digest: u128) -> Self {
        self.begin(producer, |call, interface| What::Send {
            call,
            interface,
            message_id,
            digest: Digest(digest),
            order: Some(order),
            numbered: None,
        })
    }

    fn numbers(self, message_id: Uuid, number: u64) -> Self {
        self.begin("p", |call, interface| What::Send {
            call,
            interface,
            message_id,
            digest: Digest(1),
            order: None,
            numbered: Some(Numbered {
                producer: name("n"),
                number,
            }),
        })
    }

    /// Answers a call by its number, counted from 1.
    fn accepted(self, call: u64, sequence: u64) -> Self {
        let result = SendResult::Accepted {
            sequence,
            duplicate: false,
        };
        self.tell("p", What::Sent { call, result })
    }

    fn refused(self, call: u64, reason: &str) -> Self {
        let result = SendResult::Refused {
            reason: reason.into(),
        };
        self.tell("p", What::Sent { call, result })
    }

    /// Two messages of one producer, accepted.
    fn two(stages: &[&str]) -> Self {
        let story = Self::new(stages).sends("p", A, 1).sends("p", B, 2);
        story.accepted(1, 1).accepted(2, 2)
    }

    fn assigned(self, sequence: u64, message_id: Uuid, turn: u32, digest: u128) -> Self {
        let what = What::Assigned {
            interface: name("i"),
            sequence,
            message_id,
            stage: name("check"),
            turn,
            attempts: turn - 1,
            digest: Digest(digest),
        };
        self.tell("w", what)
    }

    fn reports(self, sequence: u64, turn: u32, kind: ReportKind) -> Self {
        self.begin("w", |call, interface| What::Report {
            call,
            interface,
            sequence,
            stage: name("check"),
            turn,
            kind,
        })
    }

    fn completes(self, sequence: u64, turn: u32) -> Self {
        let kind = ReportKind::Complete {
            digest: None,
            destinations: Vec::new(),
        };
        self.reports(sequence, turn, kind)
    }

    fn recorded(self) -> Self {
        let (call, verdict) = (self.calls, Verdict::Recorded);
        self.tell("w", What::Reported { call, verdict })
    }

    fn granted(self, consumer: &str, epoch: u64, checkpoint: u64) -> Self {
        let (interface, destination) = (name("i"), name("ward"));
        let what = What::Granted {
            interface,
            destination,
            epoch,
            checkpoint,
            raw: false,
        };
        self.tell(consumer, what)
    }

    fn content(self, consumer: &str, epoch: u64, sequence: u64, content: Content) -> Self {
        let (interface, destination) = (name("i"), name("ward"));
        let message_id = if sequence == 1 { A } else { B };
        let what = What::Delivered {
            interface,
            destination,
            epoch,
            sequence,
            message_id,
            content,
            raw: false,
        };
        self.tell(consumer, what)
    }

    fn delivered(self, consumer: &str, epoch: u64, sequence: u64) -> Self {
        let content = Content::Message {
            digest: Digest(1),
            redrive_of: 0,
        };
        self.content(consumer, epoch, sequence, content)
    }

    fn skipped(self, epoch: u64, sequence: u64, cause: SkipCause) -> Self {
        let dead_letter = cause != SkipCause::Filtered;
        self.content("c", epoch, sequence, Content::Skip { cause, dead_letter })
    }

    fn answers(self, consumer: &str, epoch: u64, sequence: u64, kind: AnswerKind) -> Self {
        self.begin(consumer, |call, interface| What::Answer {
            call,
            interface,
            destination: name("ward"),
            epoch,
            sequence,
            kind,
        })
    }

    fn acks(self, consumer: &str, epoch: u64, sequence: u64) -> Self {
        self.answers(consumer, epoch, sequence, AnswerKind::Ack)
    }

    fn answered(self, checkpoint: u64) -> Self {
        let (call, verdict, checkpoint) = (self.calls, Verdict::Recorded, Some(checkpoint));
        self.tell(
            "c",
            What::Answered {
                call,
                verdict,
                checkpoint,
            },
        )
    }

    fn reads(self, last_sequence: u64, watermark: u64, checkpoint: u64) -> Self {
        let story = self.begin("r", |call, interface| What::Reading { call, interface });
        let call = story.calls;
        let standing = standing(last_sequence, watermark, checkpoint);
        story.tell("r", What::Read { call, standing })
    }

    fn ends(self, last_sequence: u64, checkpoint: u64) -> Self {
        let (interface, standing) = (
            name("i"),
            standing(last_sequence, last_sequence, checkpoint),
        );
        self.tell(
            "r",
            What::Final {
                interface,
                standing,
            },
        )
    }

    fn message(self, sequence: u64, status: MessageStatus, events: &[(EventKind, &str)]) -> Self {
        let events = events.iter().map(|(kind, place)| MessageEvent {
            kind: *kind,
            place: name(place),
        });
        let what = What::FinalMessage {
            interface: name("i"),
            sequence,
            message_id: if sequence == 1 { A } else { B },
            status,
            redrive_of: 0,
            events: events.collect(),
        };
        self.tell("r", what)
    }

    /// The names of the checks that find something.
    fn found(&self, completeness: Completeness) -> Vec<&'static str> {
        let history = History {
            events: self.events.clone(),
        };
        let violations = check(&history, completeness);
        violations.iter().map(|violation| violation.check).collect()
    }

    #[track_caller]
    fn passes(self) -> Self {
        assert_eq!(self.found(Completeness::Cut), Vec::<&str>::new());
        self
    }

    #[track_caller]
    fn breaks(self, check: &str) {
        assert_eq!(self.found(Completeness::Cut), [check]);
    }
}

fn standing(last_sequence: u64, watermark: u64, checkpoint: u64) -> Standing {
    let ward = DestinationStanding {
        checkpoint,
        epoch: 9,
    };
    Standing {
        last_sequence,
        watermark,
        destinations: [(name("ward"), ward)].into(),
        ..Standing::default()
    }
}

#[test]
fn a_sequence_that_two_messages_have_is_found() {
    let story = Story::new(&[])
        .sends("p", A, 1)
        .sends("q", B, 1)
        .accepted(1, 1);
    story.accepted(2, 1).breaks("sequence_has_one_message");
}

#[test]
fn a_gap_is_found_unless_an_unanswered_call_may_fill_it() {
    let story = || {
        Story::new(&[])
            .sends("p", A, 1)
            .sends("q", B, 1)
            .accepted(1, 2)
    };
    story().passes();
    story().refused(2, "REASON_PAUSED").breaks("no_gaps");
}

#[test]
fn an_id_with_two_sequences_is_found_unless_the_first_may_be_forgotten() {
    let twice = |sequence| {
        let mut story = Story::new(&[]);
        for call in 1..=sequence - 2 {
            story = story.sends("q", Uuid::from_u128(0x100 + u128::from(call)), call);
        }
        let call = sequence - 1;
        story
            .sends("p", A, 1)
            .sends("p", A, 1)
            .accepted(call, 1)
            .accepted(call + 1, sequence)
    };
    twice(3).breaks("id_has_one_sequence");
    twice(12).passes();
}

#[test]
fn a_conflict_that_is_accepted_or_made_up_is_found() {
    let story = || {
        Story::new(&[])
            .sends_bytes("p", A, 1, 1)
            .accepted(1, 1)
            .sends_bytes("p", A, 1, 2)
    };
    story().refused(2, "REASON_CONFLICTING_PAYLOAD").passes();
    story().accepted(2, 1).breaks("id_has_one_payload");
    let same = Story::new(&[])
        .sends("p", A, 1)
        .accepted(1, 1)
        .sends("p", A, 1);
    same.refused(2, "REASON_CONFLICTING_PAYLOAD")
        .breaks("id_has_one_payload");
}

#[test]
fn a_refused_message_that_is_there_is_found() {
    let story = Story::new(&["check"])
        .sends("p", A, 1)
        .refused(1, "REASON_WINDOW_FULL");
    story.assigned(1, A, 1, 1).breaks("refused_leaves_nothing");
}

#[test]
fn a_producer_out_of_order_is_found_and_two_producers_are_free() {
    let story = Story::new(&[]).sends("p", A, 1).sends("p", B, 2);
    story.accepted(2, 1).accepted(1, 2).breaks("producer_order");
    let story = Story::new(&[]).sends("p", A, 1).sends("q", B, 2);
    story.accepted(2, 1).accepted(1, 2).passes();
}

#[test]
fn numbers_out_of_order_or_of_two_messages_are_found() {
    let story = || Story::new(&[]).numbers(A, 1).numbers(B, 2);
    story().accepted(1, 1).accepted(2, 2).passes();
    story()
        .accepted(1, 2)
        .accepted(2, 1)
        .breaks("numbers_are_dense");
    let story = Story::new(&[]).numbers(A, 1).numbers(B, 1);
    story
        .accepted(1, 1)
        .accepted(2, 2)
        .breaks("numbers_are_dense");
    let story = Story::new(&[]).numbers(A, 2);
    story.accepted(1, 1).breaks("numbers_are_dense");
}

#[test]
fn a_sequence_from_before_the_message_was_sent_is_found() {
    let story = Story::new(&[])
        .sends("q", B, 1)
        .accepted(1, 2)
        .sends("p", A, 1);
    story.accepted(2, 1).breaks("every_call_in_its_time");
}

#[test]
fn an_invented_message_or_payload_is_found() {
    Story::two(&["check"]).assigned(1, A, 1, 1).passes();
    let story = Story::new(&["check"]).sends("p", B, 1);
    story.assigned(1, A, 1, 1).breaks("nothing_is_invented");
    Story::two(&["check"])
        .assigned(1, A, 1, 7)
        .breaks("nothing_is_invented");
}

#[test]
fn a_message_that_left_out_its_stage_is_found() {
    let story = || Story::two(&["check"]).granted("c", 1, 0);
    story().delivered("c", 1, 1).breaks("nothing_is_invented");
    story().completes(1, 1).delivered("c", 1, 1).passes();
}

#[test]
fn what_a_stage_left_is_what_is_delivered() {
    let replaced = |digest| {
        let digest = Some(Digest(digest));
        let kind = ReportKind::Complete {
            digest,
            destinations: Vec::new(),
        };
        Story::two(&["check"])
            .granted("c", 1, 0)
            .reports(1, 1, kind)
            .delivered("c", 1, 1)
    };
    replaced(1).passes();
    replaced(7).breaks("nothing_is_invented");
}

#[test]
fn a_stage_that_is_handed_two_payloads_is_found() {
    // Both were sent under the id, so that each may be the one that counts.
    let story = Story::new(&["check"])
        .sends_bytes("p", A, 1, 1)
        .sends_bytes("q", A, 1, 2);
    let story = story.assigned(1, A, 1, 1).passes();
    story.assigned(1, A, 2, 2).breaks("stage_has_one_payload");
}

#[test]
fn a_report_that_counts_too_late_or_twice_is_found() {
    let story = || Story::two(&["check"]).assigned(1, A, 1, 1);
    let late = || {
        story()
            .assigned(1, A, 2, 1)
            .reports(1, 1, ReportKind::Retry)
    };
    late()
        .passes()
        .recorded()
        .breaks("late_reports_change_nothing");
    // A completion counts from any turn of its stage.
    story()
        .assigned(1, A, 2, 1)
        .completes(1, 1)
        .recorded()
        .passes();
    let twice = story().completes(1, 1).recorded().completes(1, 1).passes();
    twice.recorded().breaks("late_reports_change_nothing");
}

#[test]
fn a_repeat_or_an_omission_under_one_epoch_is_found() {
    let story = || Story::two(&[]).granted("c", 1, 0).delivered("c", 1, 1);
    story().delivered("c", 1, 2).passes();
    story().delivered("c", 1, 1).breaks("strictly_next");
    story()
        .granted("c", 2, 0)
        .delivered("c", 2, 1)
        .delivered("c", 2, 2)
        .passes();
    story()
        .delivered("c", 1, 2)
        .granted("c", 2, 0)
        .delivered("c", 2, 2)
        .breaks("strictly_next");
}

#[test]
fn what_comes_back_after_it_was_done_is_found() {
    let story = || {
        Story::two(&[])
            .granted("c", 1, 0)
            .delivered("c", 1, 1)
            .acks("c", 1, 1)
    };
    story().delivered("d", 2, 1).passes();
    story()
        .answered(1)
        .delivered("d", 2, 1)
        .breaks("what_is_done_stays_done");
}

#[test]
fn a_delivery_under_an_old_epoch_is_found() {
    let story = Story::two(&[])
        .granted("c", 1, 0)
        .granted("d", 2, 0)
        .passes();
    story.delivered("c", 1, 1).breaks("epochs_only_grow");
    let story = Story::two(&[]).granted("c", 1, 0).passes();
    story.granted("d", 1, 0).breaks("epochs_only_grow");
}

#[test]
fn an_answer_of_an_old_epoch_that_counts_is_found() {
    let story = || {
        Story::two(&[])
            .granted("c", 1, 0)
            .delivered("c", 1, 1)
            .granted("d", 2, 0)
    };
    story().acks("c", 1, 1).passes();
    story()
        .acks("c", 1, 1)
        .answered(1)
        .breaks("answers_are_fenced");
    let story = Story::two(&[])
        .granted("c", 1, 0)
        .delivered("c", 1, 1)
        .acks("c", 1, 1);
    story.answered(0).breaks("answers_are_fenced");
}

#[test]
fn an_outcome_that_changes_is_found() {
    let story = Story::two(&["check"])
        .completes(1, 1)
        .reports(1, 1, ReportKind::Filter);
    let story = story
        .granted("c", 1, 0)
        .delivered("c", 1, 1)
        .granted("c", 2, 0)
        .passes();
    story
        .skipped(2, 1, SkipCause::Filtered)
        .breaks("one_outcome");
}

#[test]
fn a_skip_without_a_cause_is_found() {
    let story = |kind: Option<ReportKind>, cause| {
        let mut story = Story::two(&["check"]).granted("c", 1, 0);
        if let Some(kind) = kind {
            story = story.reports(1, 1, kind);
        }
        story.skipped(1, 1, cause)
    };
    story(Some(ReportKind::Reject), SkipCause::Rejected).passes();
    story(None, SkipCause::Rejected).breaks("skips_have_causes");
    story(Some(ReportKind::Retry), SkipCause::Attempts).breaks("skips_have_causes");
    story(None, SkipCause::Filtered).breaks("skips_have_causes");
    let lost_once = story(None, SkipCause::Losses).passes();
    let events = [(EventKind::Lost, "check")];
    lost_once
        .message(1, MessageStatus::Skipped, &events)
        .breaks("skips_have_causes");
}

#[test]
fn a_failure_that_left_no_dead_letter_is_found() {
    let story = Story::two(&["check"])
        .granted("c", 1, 0)
        .reports(1, 1, ReportKind::Reject);
    let content = Content::Skip {
        cause: SkipCause::Rejected,
        dead_letter: false,
    };
    story
        .content("c", 1, 1, content)
        .breaks("skips_have_causes");
}

#[test]
fn a_failure_that_nobody_reported_is_found() {
    let story = || Story::two(&["check"]).reports(1, 1, ReportKind::Retry);
    let once = [(EventKind::Retried, "check")];
    story().message(1, MessageStatus::Pending, &once).passes();
    let twice = [(EventKind::Retried, "check"); 2];
    story()
        .message(1, MessageStatus::Pending, &twice)
        .breaks("failures_were_reported");
}

#[test]
fn a_checkpoint_that_nobody_earned_is_found() {
    Story::two(&[])
        .granted("c", 1, 1)
        .breaks("checkpoints_are_earned");
    let named = ReportKind::Complete {
        digest: None,
        destinations: vec![name("lab")],
    };
    // Sequence 1 is for another destination.
    Story::two(&["check"])
        .reports(1, 1, named)
        .granted("c", 1, 1)
        .passes();
}

#[test]
fn a_message_that_a_receiver_never_got_is_found() {
    // An acknowledgement of what never came: the grant begins behind it.
    let story = Story::two(&[]).acks("d", 1, 1).granted("c", 2, 1).passes();
    story.delivered("c", 2, 2).breaks("effects_happen_once");
}

#[test]
fn a_read_that_makes_no_sense_or_is_old_is_found() {
    Story::two(&[]).reads(2, 2, 0).passes();
    Story::two(&[]).reads(2, 3, 0).breaks("reads_make_sense");
    Story::two(&[]).reads(1, 1, 0).breaks("reads_are_fresh");
    Story::two(&[])
        .reads(2, 2, 0)
        .reads(2, 1, 0)
        .breaks("reads_are_fresh");
    let unanswered = Story::new(&[])
        .sends("p", A, 1)
        .reads(0, 0, 0)
        .accepted(1, 1);
    unanswered.passes();
}

#[test]
fn a_rogue_that_has_its_way_is_found() {
    let (interface, text) = (name("i"), "a report of nobody's was recorded".to_owned());
    let what = What::Unlawful {
        interface,
        guarantee: 11,
        text,
    };
    Story::two(&[])
        .passes()
        .tell("rogue", what)
        .breaks("nothing_unlawful");
}

#[test]
fn an_ending_that_nobody_saw_is_found() {
    let story = || Story::two(&[]).granted("c", 1, 0).delivered("c", 1, 1);
    story().message(1, MessageStatus::Delivered, &[]).passes();
    story()
        .message(1, MessageStatus::Skipped, &[])
        .breaks("endings_agree");
}

#[test]
fn what_never_ends_is_found_in_a_run_that_healed() {
    let done = || {
        let story = Story::two(&[])
            .granted("c", 1, 0)
            .delivered("c", 1, 1)
            .delivered("c", 1, 2);
        story.acks("c", 1, 2)
    };
    let healed = |story: Story| story.found(Completeness::Healed);
    assert_eq!(healed(done().ends(2, 2)), Vec::<&str>::new());
    assert_eq!(healed(done()), ["everything_ends"]);
    assert_eq!(healed(done().ends(2, 1)), ["everything_ends"]);
    let lost = Story::two(&[]).acks("c", 1, 2).ends(2, 2);
    assert_eq!(healed(lost), ["everything_ends"]);
    done().ends(2, 1).passes();
}

#[test]
fn a_history_that_names_what_it_never_declared_is_not_judged_right() {
    let story = Story::two(&[]);
    let events = story.events[1..].to_vec();
    let violations = check(&History { events }, Completeness::Cut);
    assert_eq!(violations[0].check, UNREADABLE);
    let mut twice = Story::two(&[]);
    twice.events.push(twice.events.last().unwrap().clone());
    assert_eq!(twice.found(Completeness::Cut), [UNREADABLE]);
}

#[test]
fn a_violation_shows_the_events_and_the_faults_before_them() {
    let fault = What::Fault {
        text: "node 2 is cut off".to_owned(),
    };
    let story = Story::two(&[]).tell("faults", fault).reads(1, 1, 0);
    let history = History {
        events: story.events,
    };
    let violations = check(&history, Completeness::Cut);
    let shown = violations[0].show(&history, 5);
    assert!(
        shown.starts_with("reads_are_fresh: A read shows"),
        "{shown}"
    );
    assert!(
        shown.contains("node 2 is cut off") && shown.contains("\"what\":\"read\""),
        "{shown}"
    );
}
