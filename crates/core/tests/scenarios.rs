//! Ingest, stages and release, in words (see `common/scenario.rs` for the language).

mod common;

use common::scenario::run;

/// The first worked example of the original design.
#[test]
fn two_failed_ones_hold_nobody_up() {
    run("
        interface lab stages=check      -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        complete 3 check                -> done
        see default                     ->
        reject 1 check                  -> done
        see default                     -> skip 1
        reject 2 check                  -> done
        see default                     -> skip 1, skip 2, 3
        letters                         -> 1 Rejected, 2 Rejected
        ack default 3                   -> checkpoint 3
        counts default                  -> delivered 1 skipped 2 attempts 0 until 0
    ");
}

/// The second one.
#[test]
fn what_fails_behind_work_goes_out_when_that_work_is_done() {
    let mut text = "
        interface lab stages=check      -> version 1
        grant default                   -> epoch 1 after 0
    "
    .to_owned();
    for sequence in 1..=19 {
        text += &format!("ingest m{sequence} -> {sequence}\n");
    }
    for sequence in 1..=10 {
        text += &format!("complete {sequence} check -> done\n");
    }
    text += "
        ack default 10                  -> checkpoint 10
        complete 16 check               -> done
        complete 19 check               -> done
        reject 15 check                 -> done
        complete 18 check               -> done
        complete 17 check               -> done
        see default                     ->
        complete 12 check               -> done
        see default                     ->
        complete 11 check               -> done
        see default                     -> 11, 12
        ack default 12                  -> checkpoint 12
        complete 14 check               -> done
        see default                     ->
        complete 13 check               -> done
        see default                     -> 13, 14, skip 15, 16, 17, 18, 19
        watermark                       -> 19
        ack default 19                  -> checkpoint 19
        counts default                  -> delivered 18 skipped 1 attempts 0 until 0
    ";
    run(&text);
}

#[test]
fn no_stage_means_ready_on_ingest() {
    run("
        interface lab                   -> version 1
        ingest a                        -> 1
        see default                     -> 1
        complete 1 0                    -> refused: stage number 0 does not exist
    ");
}

#[test]
fn a_known_id_gets_its_first_answer() {
    run("
        interface lab stages=check      -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        ingest a                        -> 1 again
        ingest a payload=other          -> refused: the message_id is known, as sequence 1, with another payload
        complete 1 check                -> done
        ingest a                        -> 1 again
        grant default                   -> epoch 1 after 0
        ack default 1                   -> checkpoint 1
        ingest a                        -> 1 again
        ingest a payload=other          -> refused: the message_id is known, as sequence 1, with another payload
        ingest c                        -> 3
    ");
}

#[test]
fn ids_are_known_while_they_are_among_the_last_finished() {
    run("
        interface lab dedup=2           -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        ack default 2                   -> checkpoint 2
        ingest a                        -> 1 again
        ack default 3                   -> checkpoint 3
        known a                         -> no
        known b                         -> 2
        ingest b                        -> 2 again
        ingest a                        -> 4
        known a                         -> 4
    ");
}

#[test]
fn ids_are_known_for_a_day_of_cluster_time_and_to_the_end_of_the_hour() {
    run("
        interface lab                   -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        ack default 1                   -> checkpoint 1
        time +89999999
        forget 0                        -> done
        ingest a                        -> 1 again
        time +1
        forget 0                        -> done
        ingest a                        -> 2
    ");
}

/// Two gateways on one interface: what one of them has not heard the answer to is known, however much the other has
/// finished meanwhile.
#[test]
fn a_producer_may_replay_what_it_has_not_heard_of_whatever_others_send() {
    run("
        interface lab dedup=4           -> version 1
        grant default                   -> epoch 1 after 0
        ingest x session=1:0            -> 1
        ingest a session=1:1            -> 2
        ingest b session=1:1            -> 3
        ack default 3                   -> checkpoint 3
        # The first one hangs with two answers unheard; the other goes on.
        ingest 1 session=2:0            -> 4
        ingest 2 session=2:4            -> 5
        ingest 3 session=2:5            -> 6
        ingest 4 session=2:6            -> 7
        ingest 5 session=2:7            -> 8
        ack default 8                   -> checkpoint 8
        known x                         -> no
        known 1                         -> no
        ingest a session=1:1            -> 2 again
        ingest a payload=other session=1:1  -> refused: the message_id is known, as sequence 2, with another payload
        ingest b session=1:1            -> 3 again
        # With the next new message it says that it has heard.
        ingest c session=1:3            -> 9
        known a                         -> no
        known b                         -> no
        # A day later, what nobody heard goes, too.
        ack default 9                   -> checkpoint 9
        ingest 6 session=2:8            -> 10
        ingest 7 session=2:8            -> 11
        ingest 8 session=2:8            -> 12
        ingest 9 session=2:8            -> 13
        ack default 13                  -> checkpoint 13
        known c                         -> 9
        time +90000000
        forget 0                        -> done
        known c                         -> no
        known 9                         -> no
    ");
}

#[test]
fn a_session_keeps_half_of_what_an_interface_remembers_and_the_last_ones_are_told_apart() {
    let mut text = "
        interface lab dedup=4           -> version 1
        grant default                   -> epoch 1 after 0
        ingest a session=1:0            -> 1
        ingest b session=1:0            -> 2
        ingest c session=1:0            -> 3
        ack default 3                   -> checkpoint 3
    "
    .to_owned();
    for session in 2..=16 {
        let sequence = session + 2;
        text += &format!("ingest m{session} session={session}:0 -> {sequence}\n");
        text += &format!("ack default {sequence} -> checkpoint {sequence}\n");
    }
    text += "
        # More than a client keeps unanswered: the oldest is forgotten.
        known a                         -> no
        known b                         -> 2
        known c                         -> 3
        known m2                        -> 4
        # A seventeenth session takes the place of the one that was silent for longest.
        ingest m17 session=17:0         -> 19
        known b                         -> no
        known c                         -> no
        known m2                        -> 4
    ";
    run(&text);
}

#[test]
fn what_the_system_makes_itself_takes_nobodys_place() {
    run("
        interface lab stages=check dedup=2  -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        reject 1 check                  -> done
        reject 2 check                  -> done
        complete 3 check                -> done
        ack default 3                   -> checkpoint 3
        redrive 1                       -> as 4
        redrive 2                       -> as 5
        complete 4 check                -> done
        complete 5 check                -> done
        ack default 5                   -> checkpoint 5
        known a                         -> no
        known b                         -> 2
        known c                         -> 3
    ");
}

#[test]
fn undelivered_ids_and_those_of_dead_letters_stay_known() {
    run("
        interface lab stages=check dedup=2  -> version 1
        grant default                   -> epoch 1 after 0
        ingest dead                     -> 1
        reject 1 check                  -> done
        ack default 1                   -> checkpoint 1
        ingest b                        -> 2
        ingest c                        -> 3
        ingest d                        -> 4
        ingest waiting                  -> 5
        complete 2 check                -> done
        complete 3 check                -> done
        complete 4 check                -> done
        ack default 4                   -> checkpoint 4
        time +172800000
        ingest dead                     -> 1 again
        ingest dead payload=other       -> refused: the message_id is known, as sequence 1, with another payload
        ingest waiting                  -> 5 again
        discard 1                       -> done
        known dead                      -> no
        ingest dead                     -> 6
    ");
}

#[test]
fn a_lost_proposal_lets_no_later_message_overtake() {
    run("
        interface lab stages=check      -> version 1
        ingest a                        -> 1
        lost
        ingest c                        -> refused: an earlier proposal of this run was lost; send it again
        # Everything but ingests goes on.
        lost
        complete 1 check                -> done
        position 1.1.9
        grant default                   -> epoch 1 after 0
        # The leader begins a new run.
        position 1.2.1
        ingest b                        -> 2
        # What is left of the old one is void, whatever its number.
        position 1.1.3
        ingest d                        -> refused: an earlier proposal of this run was lost; send it again
        position 1.1.4
        refuse d by=p:1                 -> refused: an earlier proposal of this run was lost; send it again
        position 1.2.2
        ingest c                        -> 3
        # The same proposal twice.
        position 1.2.2
        ingest d                        -> refused: an earlier proposal of this run was lost; send it again
        # A new term's runs begin again, and void all before.
        position 2.1.1
        ingest d                        -> 4
        position 1.3.1
        ingest e                        -> refused: an earlier proposal of this run was lost; send it again
        position 2.2.2
        ingest e                        -> refused: an earlier proposal of this run was lost; send it again
        position 2.1.2
        ingest e                        -> refused: an earlier proposal of this run was lost; send it again
        position 2.2.1
        ingest e                        -> 5
    ");
}

#[test]
fn a_producers_numbers_are_dense_and_used_once() {
    run("
        interface lab dedup=2           -> version 1
        grant default                   -> epoch 1 after 0
        ingest a by=p:2                 -> refused: producer_sequence 2 leaves a gap: 1 is expected
        ingest a by=p:1                 -> 1
        ingest b by=p:3                 -> refused: producer_sequence 3 leaves a gap: 2 is expected
        ingest b by=p:2                 -> 2
        ingest b by=p:2                 -> 2 again
        ingest x by=p:2                 -> refused: producer_sequence 2 was used already for another message; 3 is expected
        ingest a by=p:2                 -> refused: producer_sequence 2 was used already for another message; 3 is expected
        # A replay of several: each gets its own answer.
        ingest a by=p:1                 -> 1 again
        # Another producer counts for itself.
        ingest c by=q:1                 -> 3
        # A known id uses its number up all the same.
        ingest a by=p:3                 -> 1 again
        ingest d by=p:4                 -> 4
        # A conflict as well.
        ingest a by=p:5 payload=other   -> refused: the message_id is known, as sequence 1, with another payload
        ingest e by=p:6                 -> 5
        ack default 5                   -> checkpoint 5
        # The last number remembers its message for good.
        ingest f                        -> 6
        ingest g                        -> 7
        ingest h                        -> 8
        ack default 8                   -> checkpoint 8
        known e                         -> no
        ingest e by=p:6                 -> 5 again
        ingest d by=p:4                 -> refused: producer_sequence 4 was used already for another message; 7 is expected
    ");
}

#[test]
fn a_permanent_refusal_consumes_its_number() {
    run("
        interface lab                   -> version 1
        refuse big by=p:2               -> refused: producer_sequence 2 leaves a gap: 1 is expected
        refuse big by=p:1               -> refused: the message with producer_sequence 1 was refused for good
        refuse big by=p:1               -> refused: the message with producer_sequence 1 was refused for good
        ingest big by=p:1               -> refused: the message with producer_sequence 1 was refused for good
        ingest other by=p:1             -> refused: producer_sequence 1 was used already for another message; 2 is expected
        ingest a by=p:2                 -> 1
        refuse a by=p:2                 -> 1 again
    ");
}

#[test]
fn stages_follow_each_other_and_may_change_the_message() {
    run("
        interface lab stages=check,enrich   -> version 1
        ingest a headers=from:ward          -> 1
        stored 1                            -> payload headers0
        complete 1 enrich                   -> refused: the report is of turn 1, stage 1; it came too late and changed nothing
        complete 1 check payload=aa headers=from:lab,by:check  -> done
        slot 1                              -> pending enrich turn 2 attempts 0 losses 0 from 0
        stored 1                            -> payload headers0 headers1
        complete 1 enrich headers=from:     -> done
        slot 1                              -> ready turn 3 attempts 0 losses 0 from 0
        stored 1                            -> payload headers0 headers1 headers2
        grant default                       -> epoch 1 after 0
        ack default 1                       -> checkpoint 1
        stored 1                            -> record
        slot 1                              -> finished
    ");
}

#[test]
fn complete_counts_from_an_earlier_turn_and_nothing_else_does() {
    run("
        interface lab stages=check,enrich backoff=100   -> version 1
        ingest a                        -> 1
        retry 1 check                   -> done
        slot 1                          -> pending check turn 2 attempts 1 losses 0 from 100
        retry 1 check turn=1            -> refused: the report is of turn 1, stage 0; it came too late and changed nothing
        reject 1 check turn=1           -> refused: the report is of turn 1, stage 0; it came too late and changed nothing
        filter 1 check turn=1           -> refused: the report is of turn 1, stage 0; it came too late and changed nothing
        lose 1 check turn=1             -> refused: the report is of turn 1, stage 0; it came too late and changed nothing
        complete 1 check turn=3         -> refused: the report is of turn 3, stage 0; it came too late and changed nothing
        complete 1 check turn=1         -> done
        slot 1                          -> pending enrich turn 3 attempts 0 losses 0 from 0
        complete 1 check turn=2         -> refused: the report is of turn 2, stage 0; it came too late and changed nothing
        complete 1 enrich turn=2        -> refused: the report is of turn 2, stage 1; it came too late and changed nothing
        complete 1 enrich               -> done
        complete 1 enrich               -> refused: the report is of turn 4, stage 1; it came too late and changed nothing
        complete 2 check                -> refused: sequence 2 is not known; the last one is 1
        complete 1 7                    -> refused: stage number 7 does not exist
        complete 1 check for=5          -> refused: the report is of turn 4, stage 0; it came too late and changed nothing
    ");
}

#[test]
fn after_a_redrive_only_its_own_turns_complete() {
    run("
        interface lab stages=check      -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        retry 2 check                   -> done
        reject 2 check                  -> done
        redrive 2                       -> in place
        slot 2                          -> pending check turn 4 attempts 0 losses 0 from 0
        complete 2 check turn=3         -> refused: the report is of turn 3, stage 0; it came too late and changed nothing
        complete 2 check turn=4         -> done
    ");
}

#[test]
fn retries_wait_longer_each_time_and_end_as_a_dead_letter() {
    run("
        interface lab stages=check attempts=4 backoff=1000 backoff_max=3000    -> version 1
        ingest a                        -> 1
        time +500
        retry 1 check                   -> done
        slot 1                          -> pending check turn 2 attempts 1 losses 0 from 1500
        retry 1 check jitter=65535      -> done
        slot 1                          -> pending check turn 3 attempts 2 losses 0 from 1500
        retry 1 check                   -> done
        slot 1                          -> pending check turn 4 attempts 3 losses 0 from 3500
        retry 1 check                   -> done
        slot 1                          -> failed check Attempts turn 5 attempts 4 losses 0 from 3500
        letters                         -> 1 Attempts
        see default                     -> skip 1
        stored 1                        -> payload Retried Retried Retried Retried
    ");
}

#[test]
fn attempts_count_per_stage() {
    run("
        interface lab stages=check,enrich attempts=2 backoff=0  -> version 1
        ingest a                        -> 1
        retry 1 check                   -> done
        complete 1 check                -> done
        retry 1 enrich                  -> done
        slot 1                          -> pending enrich turn 4 attempts 1 losses 0 from 0
        retry 1 enrich                  -> done
        letters                         -> 1 Attempts
    ");
}

#[test]
fn losses_count_apart_from_attempts() {
    run("
        interface lab stages=check attempts=3 losses=2 backoff=0  -> version 1
        ingest a                        -> 1
        retry 1 check                   -> done
        retry 1 check                   -> done
        lose 1 check                    -> done
        slot 1                          -> pending check turn 4 attempts 2 losses 1 from 0
        lose 1 check                    -> done
        letters                         -> 1 Losses
        see default                     -> skip 1
    ");
}

#[test]
fn a_filtered_message_leaves_a_skip_marker_and_no_dead_letter() {
    run("
        interface lab stages=check      -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        filter 1 check                  -> done
        letters                         ->
        see default                     -> skip 1
        ack default 1                   -> checkpoint 1
        stored 1                        -> record Filtered
        counts default                  -> delivered 0 skipped 1 attempts 0 until 0
    ");
}

#[test]
fn headers_have_a_limit_and_past_it_nothing_changes() {
    let many = |from: usize, count: usize| {
        let names = (from..from + count).map(|n| format!("h{n}:v"));
        names.collect::<Vec<_>>().join(",")
    };
    run(&format!(
        "
        interface lab stages=check      -> version 1
        ingest a headers={}             -> 1
        complete 1 check headers={}     -> refused: the message's headers would be 65 with 250 bytes; at most 64 with 16384 bytes
        slot 1                          -> pending check turn 1 attempts 0 losses 0 from 0
        complete 1 check headers={}     -> done
        ",
        many(0, 60),
        many(60, 5),
        many(60, 4)
    ));
}

#[test]
fn cluster_time_never_goes_back() {
    run("
        interface lab stages=check backoff=100  -> version 1
        ingest a                        -> 1
        time +5000
        ingest b                        -> 2
        # An entry of a leader that is behind.
        time -4000
        retry 1 check                   -> done
        slot 1                          -> pending check turn 2 attempts 1 losses 0 from 5100
    ");
}

#[test]
fn interfaces_have_names_of_their_own_and_unknown_ones_are_refused() {
    run("
        interface lab                   -> version 1
        ingest a                        -> 1
        # One must not take another's place by its id either.
        interface ward as=lab           -> refused: an interface called \"lab\" exists already
        see default                     -> 1
        interface lab as=another        -> refused: an interface called \"lab\" exists already
        ingest a interface=nowhere      -> refused: interface 5c3a004a-acfa-52f5-b757-d9d338921ca2 is unknown
    ");
}
