//! Short stories, one for each check: right as they stand, and broken so that exactly one check finds it.

use ordo_oracle::*;
use uuid::Uuid;

use crate::story::{A, B, Story, name};

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
