//! Flipped bits, lost files and old files: refused, with file and offset, wherever the bytes were known to be synced.

use crate::log_support::{
    append, drain, fill, flat, open, point, read_all, record, segments, vote,
};
use ordo_storage::log::Step;
use ordo_storage::{Disk, LogError, MemDisk};

/// A folder with several segments, a truncation, a purge, a vote, and a marker over it all. The second value is where
/// the marker, the last batch, stands in the last segment.
fn written() -> (MemDisk, usize) {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..60, 900);
    log.truncate(50).unwrap();
    vote(&log, 6);
    fill(&log, &mut writer, 50..70, 700);
    log.purge(point(20)).unwrap();
    assert!(drain(&mut writer));
    let last = segments(&disk).pop().unwrap();
    let used = |disk: &MemDisk| {
        let bytes = disk.bytes(&last).unwrap();
        bytes
            .chunks(4096)
            .rposition(|block| block.iter().any(|byte| *byte != 0))
            .unwrap()
            * 4096
    };
    assert_eq!(writer.write_marker(), Step::Worked);
    assert_eq!(
        segments(&disk).last(),
        Some(&last),
        "the marker is in the segment that was looked at"
    );
    let marker = used(&disk);
    (disk, marker)
}

fn image(disk: &MemDisk) -> MemDisk {
    disk.crash(|| true)
}

fn refused(disk: &MemDisk) -> LogError {
    match open(disk, 3) {
        Ok(_) => panic!("a damaged log was opened"),
        Err(error) => error,
    }
}

#[test]
fn every_flipped_bit_below_the_marker_is_refused_with_file_and_offset() {
    let (disk, marker) = written();
    let names = segments(&disk);
    assert!(names.len() >= 3);
    for name in &names {
        let bytes = disk.bytes(name).unwrap();
        // What lies behind a segment's end was never written in this life of the file, and says nothing.
        let end = if Some(name) == names.last() {
            marker
        } else {
            let next = names[names.iter().position(|other| other == name).unwrap() + 1].clone();
            u64::from_le_bytes(disk.bytes(&next).unwrap()[32..40].try_into().unwrap()) as usize
        };
        for offset in (0..end).filter(|offset| offset % 61 == 0 || offset % 4096 < 120) {
            let image = image(&disk);
            assert!(image.flip_bit(name, offset, (offset % 8) as u8));
            let error = refused(&image);
            let LogError::Damage {
                file,
                offset: named,
                ..
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!(file, name, "flipped {name} at {offset}: {error}");
            assert!(
                *named as usize <= offset && offset < *named as usize + 8192,
                "flipped {offset}: {error}"
            );
            assert_eq!(named % 4096, 0);
            assert!(
                error
                    .to_string()
                    .contains(&format!("{name} is damaged at offset {named}"))
            );
        }
        assert!(bytes.len() >= end);
    }
}

#[test]
fn a_flipped_bit_in_the_meta_file_costs_nothing() {
    let (disk, _) = written();
    let (whole, _writer) = open(&image(&disk), 3).unwrap();
    let (want, vote) = (read_all(&whole), whole.vote());
    assert!(vote.is_some());
    for offset in (0..8192).filter(|offset| offset % 4096 < 200 || offset % 97 == 0) {
        let image = image(&disk);
        assert!(image.flip_bit("META", offset, (offset % 8) as u8));
        let (log, _writer) = open(&image, 3).unwrap();
        assert_eq!((log.vote(), read_all(&log)), (vote, want.clone()));
        // And it is whole again: another flip in the other slot does no harm either.
        let image = image.crash(|| false);
        assert!(image.flip_bit("META", (offset + 4096) % 8192, 1));
        let (log, _writer) = open(&image, 3).unwrap();
        assert_eq!(log.vote(), vote);
    }
}

#[test]
fn a_meta_file_that_is_bad_in_both_slots_or_gone_is_refused() {
    let (disk, _) = written();
    let both = image(&disk);
    assert!(both.flip_bit("META", 40, 0) && both.flip_bit("META", 4096 + 40, 0));
    assert!(matches!(refused(&both), LogError::Damage { file, offset: 0, .. } if file == "META"));
    let gone = image(&disk);
    gone.remove("META").unwrap();
    assert!(matches!(refused(&gone), LogError::Missing { file, .. } if file == "META"));
    let short = image(&disk);
    short.open("META").unwrap().set_len(5000).unwrap();
    assert!(
        matches!(refused(&short), LogError::Damage { file, offset: 5000, .. } if file == "META")
    );
}

#[test]
fn an_old_meta_file_is_refused_because_a_vote_may_be_lost() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..3, 100);
    let old = disk.bytes("META").unwrap();
    vote(&log, 5);
    assert!(drain(&mut writer));
    assert_eq!(writer.write_marker(), Step::Worked);
    let image = image(&disk);
    image.open("META").unwrap().write_at(&old, 0).unwrap();
    let error = refused(&image);
    assert!(matches!(&error, LogError::Damage { file, .. } if file == "META"));
    assert!(error.to_string().contains("a vote may be lost"));
}

#[test]
fn a_missing_segment_is_named() {
    let (disk, _) = written();
    for name in segments(&disk) {
        let image = image(&disk);
        image.remove(&name).unwrap();
        let error = refused(&image);
        assert!(
            matches!(&error, LogError::Missing { file, .. } if *file == name),
            "{error}"
        );
    }
}

#[test]
fn a_shortened_segment_is_refused() {
    let (disk, _) = written();
    for name in segments(&disk) {
        for length in [0, 60, 4096, 40_000] {
            let image = image(&disk);
            image.open(&name).unwrap().set_len(length).unwrap();
            assert!(
                matches!(refused(&image), LogError::Damage { file, offset: 0, .. } if file == name)
            );
        }
    }
}

#[test]
fn a_torn_last_batch_is_cut_and_what_lay_behind_it_never_comes_back() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..5, 100);
    let segment = segments(&disk).pop().unwrap();
    let before = disk.bytes(&segment).unwrap();
    // Two batches, written but not synced.
    disk.fail_after(1);
    append(&log, (5..9).map(|index| record(index, 0, 1500)).collect());
    assert_eq!(writer.step(), Step::Failed);
    let after = disk.bytes(&segment).unwrap();
    let batches: Vec<usize> = (0..after.len() / 4096)
        .map(|block| block * 4096)
        .filter(|at| after[*at..at + 4] == *b"BTCH" && before[*at..at + 4] != *b"BTCH")
        .collect();
    assert!(batches.len() >= 2);
    // The first is torn, the second whole.
    let image = disk.crash(|| true);
    assert!(image.flip_bit(&segment, batches[0] + 1000, 3));
    let (log, mut writer) = open(&image, 2).unwrap();
    let kept: Vec<_> = (0..5).map(|index| flat(&record(index, 0, 100))).collect();
    assert_eq!(read_all(&log), kept);
    // The same records again, as a leader would send them; and a crash with only the first of them synced.
    fill(&log, &mut writer, 5..6, 1500);
    let (log, _writer) = open(&image.crash(|| false), 3).unwrap();
    assert_eq!(read_all(&log).len(), 6);
}

#[test]
fn a_payload_that_looks_like_a_batch_with_a_marker_does_not_turn_a_torn_tail_into_damage() {
    let disk = MemDisk::new();
    let (log, mut writer) = open(&disk, 1).unwrap();
    fill(&log, &mut writer, 0..3, 100);
    let segment = segments(&disk).pop().unwrap();
    let bytes = disk.bytes(&segment).unwrap();
    // A header of another life of the file: everything right but the salt, and a marker far ahead.
    let header_at = 4096 * 3;
    assert_eq!(bytes[header_at..header_at + 4], *b"BTCH");
    let mut fake = bytes[header_at..header_at + 96].to_vec();
    fake[32] ^= 1;
    fake[64..72].copy_from_slice(&60_000u64.to_le_bytes());
    let crc = crc32c::crc32c(&fake[8..96]);
    fake[4..8].copy_from_slice(&crc.to_le_bytes());
    disk.fail_after(1);
    let mut payload = record(3, 0, 8000);
    let mut body = payload.body.to_vec();
    // Block-aligned in the file: behind batch header, record header and the record's own head.
    let aligned = 4096 - 96 - 20 - 16;
    body[aligned..aligned + 96].copy_from_slice(&fake);
    payload.body = body.into();
    append(&log, vec![payload]);
    assert_eq!(writer.step(), Step::Failed);
    let image = disk.crash(|| true);
    let written = image.bytes(&segment).unwrap();
    let batch = (0..16)
        .map(|block| block * 4096)
        .rfind(|at| written[*at..at + 4] == *b"BTCH")
        .unwrap();
    assert_eq!(
        written[batch..batch + 96],
        fake[..],
        "the payload lies where a batch could begin"
    );
    assert!(image.flip_bit(&segment, batch - 4096 + 2000, 1));
    let (log, _writer) = open(&image, 2).unwrap();
    assert_eq!(read_all(&log).len(), 3);
}
