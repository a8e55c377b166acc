//! Grants, answers, destinations, dead letters and changes of an interface, in words.

mod common;

use common::scenario::run;

#[test]
fn answers_carry_the_epoch_of_the_grant_held() {
    run("
        interface lab                   -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        ack default 1                   -> refused: the answer is of epoch 0; the grant's is 0
        grant default as=one            -> epoch 1 after 0
        ack default 1                   -> checkpoint 1
        grant default as=two            -> epoch 2 after 1
        ack default 2 epoch=1           -> refused: the answer is of epoch 1; the grant's is 2
        ack default 2 epoch=3           -> refused: the answer is of epoch 3; the grant's is 2
        ack default 3                   -> refused: sequence 3 is beyond the release watermark 2
        # An end of an older grant ends nothing.
        end default epoch=1             -> done
        ack default 2                   -> checkpoint 2
        end default                     -> done
        ack default 2                   -> refused: the answer is of epoch 2; the grant's is 2
        grant 3                         -> refused: destination number 3 does not exist
        ack 3 1                         -> refused: destination number 3 does not exist
    ");
}

#[test]
fn an_ack_is_cumulative_and_idempotent() {
    run("
        interface lab stages=check      -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        complete 1 check                -> done
        complete 2 check                -> done
        grant default                   -> epoch 1 after 0
        ack default 3                   -> refused: sequence 3 is beyond the release watermark 2
        ack default 2                   -> checkpoint 2
        ack default 1                   -> checkpoint 2
        ack default 2                   -> checkpoint 2
        counts default                  -> delivered 2 skipped 0 attempts 0 until 0
    ");
}

#[test]
fn a_presented_position_counts_as_an_ack() {
    run("
        interface lab stages=check      -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        complete 1 check                -> done
        complete 2 check                -> done
        grant default position=3        -> refused: the position presented is 3, beyond the release watermark 2
        grant default position=1 incarnation=2  -> refused: the position presented is of incarnation 2; the interface's is 1
        grant default position=1        -> epoch 1 after 1
        grant default position=0        -> epoch 2 after 1
        see default                     -> 2
        counts default                  -> delivered 1 skipped 0 attempts 0 until 0
    ");
}

#[test]
fn a_delivery_is_tried_again_after_a_pause_and_then_given_up() {
    run("
        interface lab delivery_attempts=2   -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        grant default                   -> epoch 1 after 0
        again default 2                 -> refused: only checkpoint + 1, which is 1, can be answered so, not 2
        refused default 2               -> refused: only checkpoint + 1, which is 1, can be answered so, not 2
        unavailable default 2           -> refused: only checkpoint + 1, which is 1, can be answered so, not 2
        time +100
        again default 1 after=400       -> checkpoint 0
        counts default                  -> delivered 0 skipped 0 attempts 1 until 500
        # What was sent before is void.
        ack default 1 epoch=1           -> refused: the answer is of epoch 1; the grant's is 2
        # A laboratory that is down costs no attempts.
        unavailable default 1 after=1000    -> checkpoint 0
        unavailable default 1 after=2000    -> checkpoint 0
        counts default                  -> delivered 0 skipped 0 attempts 1 until 2100
        again default 1                 -> checkpoint 1
        letters                         -> 1/default DeliveryAttempts
        counts default                  -> delivered 0 skipped 1 attempts 0 until 100
        see default                     -> 2
        stored 1                        -> payload record DeliveryRetried DeliveryRejected
    ");
}

#[test]
fn a_reason_is_kept_of_a_consumer_that_gives_none() {
    run("
        interface lab                   -> version 1
        ingest a                        -> 1
        grant default                   -> epoch 1 after 0
        reason default                  ->
        unavailable default 1 why=      -> checkpoint 0
        reason default                  -> no reason given
        again default 1 why=            -> checkpoint 0
        reason default                  -> no reason given
        again default 1 why=closed      -> checkpoint 0
        reason default                  -> closed
        ack default 1                   -> checkpoint 1
        reason default                  ->
    ");
}

#[test]
fn a_refused_delivery_is_a_dead_letter_for_that_destination() {
    run("
        interface lab to=his,ris        -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        grant his                       -> epoch 1 after 0
        grant ris                       -> epoch 1 after 0
        refused his 1                   -> checkpoint 1
        letters                         -> 1/his DeliveryRejected
        ack his 2 epoch=1               -> refused: the answer is of epoch 1; the grant's is 2
        ack his 2                       -> checkpoint 2
        see ris                         -> 1, 2
        ack ris 2                       -> checkpoint 2
        counts his                      -> delivered 1 skipped 1 attempts 0 until 0
        counts ris                      -> delivered 2 skipped 0 attempts 0 until 0
        stored 1                        -> payload record DeliveryRejected
        stored 2                        -> record
    ");
}

#[test]
fn a_skip_marker_can_only_be_acknowledged() {
    run("
        interface lab stages=check      -> version 1
        ingest a                        -> 1
        reject 1 check                  -> done
        grant default                   -> epoch 1 after 0
        again default 1                 -> refused: sequence 1 is a skip marker, which can only be acknowledged
        refused default 1               -> refused: sequence 1 is a skip marker, which can only be acknowledged
        counts default                  -> delivered 0 skipped 0 attempts 0 until 0
        ack default 1                   -> checkpoint 1
    ");
}

#[test]
fn what_is_for_others_is_passed_over() {
    run("
        interface lab stages=route to=his,ris   -> version 1
        grant his                       -> epoch 1 after 0
        grant ris                       -> epoch 1 after 0
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        ingest d                        -> 4
        complete 1 route for=9          -> refused: destination number 9 does not exist
        complete 2 route for=his        -> done
        complete 1 route for=his        -> done
        see his                         -> 1, 2
        see ris                         ->
        # Its checkpoint is moved across them, so that nothing has to be sent for it.
        ack ris 0                       -> checkpoint 2
        complete 3 route                -> done
        complete 4 route for=his        -> done
        see ris                         -> 3, (4)
        ack ris 3                       -> checkpoint 4
        slot 1                          -> ready turn 2 attempts 0 losses 0 from 0
        # The slowest destination decides when a message is finished.
        ack his 1                       -> checkpoint 1
        slot 1                          -> finished
        slot 2                          -> ready turn 2 attempts 0 losses 0 from 0
        ack his 4                       -> checkpoint 4
        counts his                      -> delivered 4 skipped 0 attempts 0 until 0
        counts ris                      -> delivered 1 skipped 0 attempts 0 until 0
    ");
}

#[test]
fn a_later_naming_replaces_an_earlier_one_and_silence_keeps_it() {
    run("
        interface lab stages=check,enrich,route to=his,ris  -> version 1
        ingest a                        -> 1
        complete 1 check for=his        -> done
        complete 1 enrich for=ris       -> done
        complete 1 route                -> done
        see his                         ->
        see ris                         -> 1
        # A skip marker too is only for those the message was for.
        ingest b                        -> 2
        complete 2 check for=his        -> done
        reject 2 enrich                 -> done
        grant his                       -> epoch 1 after 1
        see his                         -> skip 2
        see ris                         -> 1, (2)
    ");
}

#[test]
fn a_redrive_above_the_watermark_is_in_place() {
    run("
        interface lab stages=check,enrich   -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        complete 2 check payload=bb     -> done
        retry 2 enrich                  -> done
        lose 2 enrich                   -> done
        reject 2 enrich                 -> done
        discard 1                       -> refused: sequence 1 has no dead letter of a stage
        redrive 2 in_place              -> in place
        redrive 2                       -> refused: the dead letter is being redriven as sequence 2
        discard 2                       -> refused: the dead letter is being redriven as sequence 2
        letters                         -> 2 Rejected as 2
        slot 2                          -> pending enrich turn 6 attempts 0 losses 0 from 0
        # It fails again: one dead letter, the new one.
        lose 2 enrich                   -> done
        reject 2 enrich                 -> done
        letters                         -> 2 Rejected
        redrive 2                       -> in place
        complete 2 enrich               -> done
        complete 1 check                -> done
        complete 1 enrich               -> done
        see default                     -> 1, 2
        letters                         -> 2 Rejected as 2
        grant default                   -> epoch 1 after 0
        ack default 2                   -> checkpoint 2
        # Delivered: resolved.
        letters                         ->
        stored 2                        -> record Retried Lost Rejected Redriven Lost Rejected Redriven
    ");
}

#[test]
fn a_redrive_below_the_watermark_is_a_new_message_at_the_tail() {
    run("
        interface lab stages=check,enrich   -> version 1
        grant default                   -> epoch 1 after 0
        ingest a headers=from:ward      -> 1
        complete 1 check payload=aa     -> done
        reject 1 enrich                 -> done
        ack default 1                   -> checkpoint 1
        stored 1                        -> payload headers0 record Rejected
        redrive 1 in_place              -> refused: sequence 1 is released: it can be redriven at the tail only
        ingest b                        -> 2
        redrive 1                       -> as 3
        redrive 1                       -> refused: the dead letter is being redriven as sequence 3
        letters                         -> 1 Rejected as 3
        # The old id stays the old message's.
        ingest a headers=from:ward      -> 1 again
        slot 3                          -> pending enrich turn 1 attempts 0 losses 0 from 0
        complete 3 enrich headers=by:it -> done
        # The body is where it was.
        stored 3                        ->
        stored 1                        -> payload headers0 headers2 record Rejected Redriven
        see default                     ->
        filter 2 check                  -> done
        see default                     -> skip 2, 3
        ack default 3                   -> checkpoint 3
        letters                         ->
        stored 1                        -> record Rejected Redriven
        stored 3                        -> record
    ");
}

#[test]
fn a_redrive_that_fails_takes_the_dead_letters_place() {
    run("
        interface lab stages=check      -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        reject 1 check                  -> done
        ack default 1                   -> checkpoint 1
        redrive 1                       -> as 2
        reject 2 check                  -> done
        letters                         -> 2 Rejected
        stored 1                        -> payload record Rejected Redriven
        ack default 2                   -> checkpoint 2
        redrive 2                       -> as 3
        complete 3 check                -> done
        refused default 3               -> checkpoint 3
        letters                         -> 3/default DeliveryRejected
        redrive 3/default               -> as 4
        slot 4                          -> ready turn 1 attempts 0 losses 0 from 0
        ack default 4                   -> checkpoint 4
        letters                         ->
        stored 1                        -> record Rejected Redriven
    ");
}

#[test]
fn a_redrive_goes_only_where_the_dead_letter_was_for() {
    run("
        interface lab to=his,ris,lis    -> version 1
        grant his                       -> epoch 1 after 0
        grant ris                       -> epoch 1 after 0
        grant lis                       -> epoch 1 after 0
        ingest a                        -> 1
        refused his 1                   -> checkpoint 1
        refused ris 1                   -> checkpoint 1
        ack lis 1                       -> checkpoint 1
        redrive 1/ris                   -> as 2
        redrive 1/his                   -> as 3
        letters                         -> 1/his DeliveryRejected as 3, 1/ris DeliveryRejected as 2
        see his                         -> 3
        see ris                         -> 2, (3)
        see lis                         ->
        ack ris 2                       -> checkpoint 3
        ack his 3                       -> checkpoint 3
        letters                         ->
        stored 1                        -> record DeliveryRejected DeliveryRejected Redriven Redriven
    ");
}

/// Found by the model: the payload was deleted with the dead letter.
#[test]
fn a_discarded_dead_letter_of_a_redrive_leaves_the_body_to_the_others() {
    run("
        interface lab stages=check to=his,ris   -> version 1
        grant his                       -> epoch 1 after 0
        grant ris                       -> epoch 1 after 0
        ingest a                        -> 1
        reject 1 check                  -> done
        ack his 1                       -> checkpoint 1
        ack ris 1                       -> checkpoint 1
        redrive 1                       -> as 2
        complete 2 check                -> done
        refused his 2                   -> checkpoint 2
        discard 2/his                   -> done
        see ris                         -> 2
        stored 1                        -> payload record Rejected Redriven
        ack ris 2                       -> checkpoint 2
        stored 1                        -> record Rejected Redriven
    ");
}

#[test]
fn dead_letters_past_their_cap_halt_release_until_one_is_resolved() {
    run("
        interface lab stages=check letters=1    -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        complete 3 check                -> done
        reject 1 check                  -> done
        watermark                       -> 1
        reject 2 check                  -> done
        letters                         -> 1 Rejected, 2 Rejected
        watermark                       -> 1
        # Nothing that failed is lost, neither in a stage nor at a destination.
        discard 1                       -> done
        watermark                       -> 3
        see default                     -> skip 1, skip 2, 3
        stored 1                        -> payload Rejected Discarded
        stored 2                        -> payload Rejected
    ");
}

#[test]
fn a_delivery_is_not_given_up_while_the_dead_letters_are_past_their_cap() {
    run("
        interface lab stages=check letters=1 delivery_attempts=1    -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        complete 1 check                -> done
        reject 3 check                  -> done
        reject 2 check                  -> done
        refused default 1               -> refused: the interface's dead letters are at their cap: 2 with 2 bytes of payload
        again default 1                 -> refused: the interface's dead letters are at their cap: 2 with 2 bytes of payload
        # A refusal changes nothing.
        counts default                  -> delivered 0 skipped 0 attempts 0 until 0
        ack default 1 epoch=1           -> checkpoint 1
        update version=1 stages=check letters=5  -> version 2
        see default                     -> skip 2, skip 3
    ");
}

/// Found by the model: the room was not used until the next outcome.
#[test]
fn a_delivered_redrive_makes_room_for_a_failed_head() {
    run("
        interface lab stages=check letters=1    -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        complete 1 check                -> done
        refused default 1               -> checkpoint 1
        redrive 1/default               -> as 2
        ingest c                        -> 3
        reject 3 check                  -> done
        watermark                       -> 2
        ack default 2                   -> checkpoint 2
        letters                         -> 3 Rejected
        see default                     -> skip 3
    ");
}

#[test]
fn the_cap_counts_bytes_too() {
    run("
        interface lab stages=check letter_bytes=10  -> version 1
        ingest a payload=0123456789     -> 1
        ingest b payload=x              -> 2
        reject 1 check                  -> done
        watermark                       -> 1
        reject 2 check                  -> done
        watermark                       -> 1
        discard 1                       -> done
        watermark                       -> 2
    ");
}

#[test]
fn an_update_names_the_version_it_is_made_from() {
    run("
        interface lab stages=check      -> version 1
        update version=2 stages=check   -> refused: the configuration version is 1, not 2
        update version=1 stages=check attempts=1    -> version 2
        update version=1 stages=check   -> refused: the configuration version is 2, not 1
        ingest a                        -> 1
        retry 1 check                   -> done
        letters                         -> 1 Attempts
    ");
}

#[test]
fn stages_and_destinations_go_only_when_the_interface_is_drained() {
    run("
        interface lab stages=check to=his   -> version 1
        grant his                       -> epoch 1 after 0
        ingest a                        -> 1
        update version=1 to=his         -> refused: changing stages needs a drained interface: 1 messages are not delivered and 0 dead letters not resolved
        update version=1 stages=check to=ris    -> refused: removing or reordering destinations needs a drained interface: 1 messages are not delivered and 0 dead letters not resolved
        reject 1 check                  -> done
        ack his 1                       -> checkpoint 1
        update version=1 to=his         -> refused: changing stages needs a drained interface: 0 messages are not delivered and 1 dead letters not resolved
        discard 1                       -> done
        update version=1 to=ris,his     -> version 2
        # A destination keeps its state by its name; a new one begins at the watermark.
        ingest b                        -> 2
        see his                         -> 2
        see ris                         -> 2
        ack his 2 epoch=1               -> checkpoint 2
        grant ris                       -> epoch 2 after 1
    ");
}

#[test]
fn a_destination_that_comes_back_under_its_name_goes_on_with_higher_epochs() {
    run("
        interface lab to=his,ris        -> version 1
        grant his                       -> epoch 1 after 0
        grant his                       -> epoch 2 after 0
        grant his                       -> epoch 3 after 0
        grant ris                       -> epoch 1 after 0
        update version=1 to=ris         -> version 2
        # What remembers it is voided by it; there is nothing under way.
        ack ris 0 epoch=1               -> refused: the answer is of epoch 1; the grant's is 3
        ack ris 0                       -> checkpoint 0
        update version=2 to=lis         -> version 3
        update version=3 to=lis,his     -> version 4
        grant his                       -> epoch 4 after 0
        grant lis                       -> epoch 4 after 0
    ");
}

#[test]
fn a_new_destination_begins_at_the_watermark() {
    run("
        interface lab stages=check to=his   -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        complete 1 check                -> done
        update version=1 stages=check to=his,ris    -> version 2
        see his                         -> 1
        see ris                         ->
        complete 2 check                -> done
        see ris                         -> 2
    ");
}

#[test]
fn what_is_forgotten_is_neither_known_nor_a_dead_letters() {
    run("
        interface lab stages=check dedup=2  -> version 1
        grant default                   -> epoch 1 after 0
        ingest a                        -> 1
        ingest b                        -> 2
        ingest c                        -> 3
        ingest d                        -> 4
        ingest e                        -> 5
        filter 1 check                  -> done
        reject 2 check                  -> done
        filter 3 check                  -> done
        filter 4 check                  -> done
        filter 5 check                  -> done
        ack default 5                   -> checkpoint 5
        forget 9                        -> done
        stored 1                        ->
        # The dead letter's history stays until it is resolved.
        stored 2                        -> payload record Rejected
        stored 3                        ->
        # Deduplication still needs these.
        stored 4                        -> record Filtered
        stored 5                        -> record Filtered
        ingest e                        -> 5 again
        redrive 2                       -> as 6
        stored 2                        -> payload record Rejected Redriven
        filter 6 check                  -> done
        ack default 6                   -> checkpoint 6
        letters                         ->
        stored 2                        ->
        # A day after that hour nobody knows them.
        time +89999999
        forget 9                        -> done
        stored 4                        -> record Filtered
        time +1
        forget 9                        -> done
        stored 4                        ->
        stored 6                        ->
        ingest e                        -> 7
    ");
}

#[test]
fn what_may_have_reached_the_receiver_is_counted_until_it_is_acknowledged() {
    run("
        interface lab                   -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        grant default                   -> epoch 1 after 0
        unavailable default 1 why=closed    -> checkpoint 0
        unavailable default 1 sent=1 why=silent     -> checkpoint 0
        again default 1 why=busy        -> checkpoint 0
        unavailable default 1 sent=1 why=silent     -> checkpoint 0
        tries default                   -> turn 4 repeats 2: Unavailable closed, Sent silent, Retry busy, Sent silent
        ack default 1                   -> checkpoint 1
        tries default                   -> turn 4 repeats 0:
        stored 1                        -> record DeliveryRetried DeliveryRepeated
        # Only the last eight are kept.
        unavailable default 2 why=a     -> checkpoint 1
        unavailable default 2 why=b     -> checkpoint 1
        unavailable default 2 why=c     -> checkpoint 1
        unavailable default 2 why=d     -> checkpoint 1
        unavailable default 2 why=e     -> checkpoint 1
        unavailable default 2 why=f     -> checkpoint 1
        unavailable default 2 why=g     -> checkpoint 1
        unavailable default 2 why=h     -> checkpoint 1
        unavailable default 2 why=i     -> checkpoint 1
        tries default                   -> turn 13 repeats 0: Unavailable b, Unavailable c, Unavailable d, Unavailable e, Unavailable f, Unavailable g, Unavailable h, Unavailable i
    ");
}

#[test]
fn a_person_gives_up_the_head_for_one_destination_and_of_two_only_the_first_counts() {
    run("
        interface lab to=his,ris        -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        grant his                       -> epoch 1 after 0
        unavailable his 1 after=5000 sent=1     -> checkpoint 0
        skip his 2                      -> refused: only checkpoint + 1, which is 1, can be answered so, not 2
        skip his 3                      -> refused: sequence 3 is beyond the release watermark 2
        skip his 1 turn=0               -> refused: the destination's turn is 1, not 0: another answer or decision came first; nothing changed
        counts his                      -> delivered 0 skipped 0 attempts 0 until 5000
        skip his 1 turn=1               -> turn 2
        skip his 2 turn=1               -> refused: the destination's turn is 2, not 1: another answer or decision came first; nothing changed
        counts his                      -> delivered 0 skipped 1 attempts 0 until 0
        letters                         -> 1/his DeliveryRejected
        see his                         -> 2
        see ris                         -> 1, 2
        # What was sent before is void, and a late answer changes nothing.
        ack his 1 epoch=2               -> refused: the answer is of epoch 2; the grant's is 3
    ");
}

#[test]
fn a_pause_is_ended_by_a_person() {
    run("
        interface lab                   -> version 1
        ingest a                        -> 1
        grant default                   -> epoch 1 after 0
        resume default                  -> turn 0
        unavailable default 1 after=5000    -> checkpoint 0
        time +100
        resume default turn=0           -> refused: the destination's turn is 1, not 0: another answer or decision came first; nothing changed
        resume default turn=1           -> turn 2
        counts default                  -> delivered 0 skipped 0 attempts 0 until 100
        resume default                  -> turn 2
        ack default 1                   -> checkpoint 1
    ");
}

#[test]
fn what_a_receiver_says_later_is_kept_with_what_is_settled() {
    run("
        interface lab                   -> version 1
        ingest a                        -> 1
        ingest b                        -> 2
        grant default                   -> epoch 1 after 0
        note default 1                  -> refused: sequence 1 is beyond the destination's checkpoint 0: only what it has acknowledged is noted
        ack default 1                   -> checkpoint 1
        note default 1                  -> done
        note default 1 epoch=2          -> refused: the answer is of epoch 2; the grant's is 1
        note default 0                  -> refused: the record of sequence 0 is no longer kept
        stored 1                        -> record Noted
    ");
}
