//! The log's files: what is written where, reused, read back and refused.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::log_support::{
    Counter, Outcome, append, drain, fill, flat, open, point, read_all, record, segments, spares,
    tiny, vote,
};
use ordo_storage::log::{Log, LogOptions, Record, Step};
use ordo_storage::{FileDisk, LogError, MemDisk};

fn expected(range: std::ops::Range<u64>, length: usize) -> Vec<(u64, Vec<u8>)> {
    range.map(|index| flat(&record(index, 0, length))).collect()
}

#[test]
fn what_was_appended_is_readable_before_and_after_it_is_written_and_after_reopening() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    let outcome = append(&log, (5..25).map(|index| record(index, 0, 700)).collect());
    assert_eq!(read_all(&log), expected(5..25, 700));
    assert_eq!(outcome.get().map(|_| ()), None);
    assert_eq!(log.last_synced_index(), None);
    assert!(drain(&mut writer));
    assert!(outcome.is_ok());
    assert_eq!(log.last_synced_index(), Some(24));
    assert!(log.bytes_in_memory() <= 2000, "the tail is bounded");
    assert_eq!(read_all(&log), expected(5..25, 700));
    let (log, _writer) = open(&disk.process_ends(), 2).unwrap();
    assert_eq!(read_all(&log), expected(5..25, 700));
    assert_eq!(log.last_synced_index(), Some(24));
    assert_eq!(log.bounds().first, 5);
}

#[test]
fn everything_queued_costs_one_sync() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    let outcomes: Vec<Outcome> = (0..30)
        .map(|index| append(&log, vec![record(index, 0, 100)]))
        .collect();
    let before = disk.syncs();
    assert_eq!(writer.step(), Step::Worked);
    assert_eq!(disk.syncs() - before, 1);
    assert!(outcomes.iter().all(Outcome::is_ok));
}

#[test]
fn a_bounded_read_returns_at_least_one_record_and_little_more_than_asked() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 1..60, 500);
    for start in 1..60 {
        for bytes_max in [0, 1, 600, 3000] {
            let records = log.read(start, 60, bytes_max).unwrap();
            let got: Vec<_> = records.iter().map(flat).collect();
            assert_eq!(got, expected(start..start + got.len() as u64, 500));
            let without_last: usize = records.iter().rev().skip(1).map(Record::len).sum();
            assert!(!got.is_empty() && (without_last == 0 || without_last < bytes_max));
        }
    }
    assert!(log.read(60, 70, 100).unwrap().is_empty());
    assert!(log.read(7, 7, 100).unwrap().is_empty());
}

#[test]
fn purged_segments_are_used_again_and_the_folder_stops_growing() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    let mut largest = 0;
    for round in 0..30 {
        fill(&log, &mut writer, round * 20..(round + 1) * 20, 900);
        log.purge(point(round * 20 + 14)).unwrap();
        assert!(drain(&mut writer));
        largest = largest.max(segments(&disk).len() + spares(&disk).len());
        assert_eq!(
            read_all(&log),
            expected(round * 20 + 15..(round + 1) * 20, 900)
        );
    }
    assert!(largest <= 6, "{largest} files");
    let files = (segments(&disk).len() + spares(&disk).len()) as u64;
    assert_eq!(log.bytes_on_disk(), files * 16 * 4096 + 8192);
    let (log, _writer) = open(&disk.process_ends(), 2).unwrap();
    assert_eq!(read_all(&log), expected(29 * 20 + 15..600, 900));
    assert_eq!(log.bounds().purge, Some(point(29 * 20 + 14)));
}

#[test]
fn reading_while_segments_are_purged_and_used_again_never_meets_foreign_bytes() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..40, 900);
    let reader = log.clone();
    let reads = std::thread::spawn(move || {
        let mut reads = 0;
        while reader.bounds().next < 2000 {
            let records = reader.read(0, u64::MAX, usize::MAX).unwrap();
            for record in &records {
                assert_eq!(
                    flat(record),
                    flat(&crate::log_support::record(record.index, 0, 900))
                );
            }
            reads += records.len();
        }
        reads
    });
    for index in 40..2000 {
        fill(&log, &mut writer, index..index + 1, 900);
        if index % 20 == 0 {
            log.purge(point(index - 30)).unwrap();
        }
    }
    assert!(reads.join().unwrap() > 0);
    assert!(segments(&disk).len() + spares(&disk).len() < 12);
}

#[test]
fn a_truncation_is_followed_by_other_records_and_survives_reopening() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..30, 900);
    log.truncate(12).unwrap();
    let mut want = expected(0..12, 900);
    assert_eq!(read_all(&log), want);
    for index in 12..20 {
        append(&log, vec![record(index, 7, 300)]);
        want.push(flat(&record(index, 7, 300)));
    }
    assert_eq!(read_all(&log), want);
    assert!(drain(&mut writer));
    assert_eq!(read_all(&log), want);
    assert_eq!(log.last_synced_index(), Some(19));
    let (log, mut writer) = open(&disk.process_ends(), 2).unwrap();
    assert_eq!(read_all(&log), want);
    log.truncate(3).unwrap();
    assert_eq!(log.last_synced_index(), Some(2));
    assert!(drain(&mut writer));
    want.truncate(3);
    assert_eq!(read_all(&log), want);
}

#[test]
fn records_taken_back_before_they_were_written_leave_the_new_ones_readable() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..5, 900);
    append(&log, (5..15).map(|index| record(index, 1, 900)).collect());
    log.truncate(6).unwrap();
    append(&log, (6..16).map(|index| record(index, 2, 900)).collect());
    let mut want = expected(0..5, 900);
    want.push(flat(&record(5, 1, 900)));
    want.extend((6..16).map(|index| flat(&record(index, 2, 900))));
    assert_eq!(read_all(&log), want);
    while writer.step() == Step::Worked {
        assert_eq!(read_all(&log), want);
    }
    assert_eq!(read_all(&log), want);
}

#[test]
fn a_purge_past_the_end_empties_the_log_and_goes_on_behind_it() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..10, 900);
    log.purge(point(99)).unwrap();
    assert_eq!(read_all(&log), vec![]);
    assert_eq!(
        (log.bounds().next, log.last_synced_index()),
        (100, Some(99))
    );
    let refused = append(&log, vec![record(10, 0, 10)]);
    assert!(matches!(
        refused.get(),
        Some(Err(LogError::OutOfOrder {
            index: 10,
            expected: 100
        }))
    ));
    append(&log, vec![record(100, 0, 50)]);
    assert!(drain(&mut writer));
    fill(&log, &mut writer, 101..110, 900);
    let (log, mut writer) = open(&disk.process_ends(), 2).unwrap();
    assert_eq!(log.bounds().purge, Some(point(99)));
    assert_eq!(read_all(&log)[0], flat(&record(100, 0, 50)));
    assert_eq!(read_all(&log).len(), 10);
    fill(&log, &mut writer, 110..112, 10);
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own_length() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..3, 100);
    fill(&log, &mut writer, 3..4, 200_000);
    fill(&log, &mut writer, 4..6, 100);
    let (log, mut writer) = open(&disk.process_ends(), 2).unwrap();
    assert_eq!(
        log.read(3, 4, 0)
            .unwrap()
            .iter()
            .map(flat)
            .collect::<Vec<_>>(),
        expected(3..4, 200_000)
    );
    assert_eq!(read_all(&log).len(), 6);
    log.purge(point(5)).unwrap();
    assert!(drain(&mut writer));
    fill(&log, &mut writer, 6..40, 900);
    assert!(log.bytes_on_disk() < 200_000 + 5 * 65_536);
}

#[test]
fn the_vote_is_there_when_it_was_acknowledged_and_not_before() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    let outcome = vote(&log, 4);
    assert_eq!(log.vote(), None);
    assert!(drain(&mut writer));
    assert!(outcome.is_ok());
    let crashed = disk.crash(|| false);
    let (reopened, _writer) = open(&crashed, 2).unwrap();
    assert_eq!(reopened.vote(), log.vote());
    assert_eq!(reopened.vote().unwrap().term, 4);
}

#[test]
fn committed_rides_along_without_a_sync() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..10, 100);
    let before = disk.syncs();
    log.set_committed(7);
    log.set_committed(99);
    assert_eq!(writer.step(), Step::Idle);
    assert_eq!(disk.syncs(), before);
    assert_eq!(log.committed(), Some(7));
    assert_eq!(writer.write_marker(), Step::Worked);
    assert_eq!(writer.write_marker(), Step::Idle);
    let (log, _writer) = open(&disk.crash(|| false), 2).unwrap();
    assert_eq!(log.committed(), Some(7));
}

#[test]
fn a_failed_write_is_told_once_and_the_log_takes_nothing_more() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..3, 100);
    disk.fail_after(1);
    let first = append(&log, vec![record(3, 0, 10)]);
    let second = vote(&log, 9);
    assert_eq!(writer.step(), Step::Failed);
    assert!(matches!(
        first.get(),
        Some(Err(LogError::Io { action: "sync", .. }))
    ));
    assert!(matches!(second.get(), Some(Err(_))));
    assert!(matches!(log.failure(), Some(LogError::Io { .. })));
    disk.fail_after(u64::MAX);
    let later = append(&log, vec![record(4, 0, 10)]);
    assert!(matches!(later.get(), Some(Err(LogError::Failed(_)))));
    assert!(log.truncate(0).is_err() && log.purge(point(1)).is_err());
    assert_eq!(writer.step(), Step::Failed);
    assert_eq!(writer.write_marker(), Step::Failed);
}

#[test]
fn out_of_order_records_are_refused() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 4..6, 10);
    for records in [
        vec![record(7, 0, 1)],
        vec![record(5, 0, 1)],
        vec![record(6, 0, 1), record(8, 0, 1)],
    ] {
        assert!(matches!(
            append(&log, records).get(),
            Some(Err(LogError::OutOfOrder { .. }))
        ));
    }
    assert!(append(&log, vec![]).get().is_none());
    fill(&log, &mut writer, 6..7, 10);
}

#[test]
fn the_writer_is_woken_when_work_comes_and_not_for_every_piece() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    let woken = Counter::default();
    let counted = woken.clone();
    log.on_work(move || counted.add());
    append(&log, vec![record(0, 0, 1)]);
    append(&log, vec![record(1, 0, 1)]);
    assert_eq!(woken.get(), 1);
    assert!(drain(&mut writer));
    append(&log, vec![record(2, 0, 1)]);
    assert_eq!(woken.get(), 2);
}

#[test]
fn a_closed_log_writes_what_is_queued_and_takes_nothing_more() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    let outcome = append(&log, vec![record(0, 0, 1)]);
    log.close();
    assert!(matches!(
        append(&log, vec![record(1, 0, 1)]).get(),
        Some(Err(LogError::Closed))
    ));
    assert_eq!(writer.step(), Step::Worked);
    assert!(outcome.is_ok());
    assert_eq!(writer.step(), Step::Closed);
}

#[test]
fn the_thread_serves_a_real_folder_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = 0u64;
    for round in 0..4 {
        let disk = Arc::new(FileDisk::open(folder.path().join("log")).unwrap());
        let options = LogOptions {
            idle_marker_after: Duration::from_millis(1),
            ..tiny(round)
        };
        let (log, writer) = Log::open(disk, options).unwrap();
        let all = read_all(&log);
        assert_eq!(all.last().map(|(index, _)| index + 1).unwrap_or(0), next);
        let thread = writer.spawn().unwrap();
        let (told, hears) = channel();
        for _ in 0..200 {
            let told = told.clone();
            let done = Box::new(move |result: Result<(), LogError>| told.send(result).unwrap());
            log.append(vec![record(next, 0, 300)], done).unwrap();
            next += 1;
        }
        for _ in 0..200 {
            hears
                .recv_timeout(Duration::from_secs(30))
                .unwrap()
                .unwrap();
        }
        assert_eq!(log.last_synced_index(), Some(next - 1));
        log.purge(point(next - 60)).unwrap();
        thread.join();
        assert!(log.failure().is_none());
    }
    let disk = Arc::new(FileDisk::open(folder.path().join("log")).unwrap());
    let (log, _writer) = Log::open(disk, tiny(9)).unwrap();
    assert_eq!(read_all(&log), expected(next - 59..next, 300));
}
