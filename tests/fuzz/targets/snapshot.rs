//! Snapshots on their way in: chunks in any order, with any damage, and any manifest. What is taken in the end is
//! what its manifest says, byte for byte, and nothing else is left behind.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use ordo_storage::{
    MemoryState, Snapshot, SnapshotChunk, SnapshotReceiver, StateStore, StoreError, StoreOptions,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use tempfile::TempDir;

const MANIFEST: &str = "MANIFEST.ordo";
const NAMES: [&str; 8] = [
    "a.sst", "b.sst", "CURRENT", "rows", MANIFEST, "..", "a/b", "",
];

/// What a peer sends.
#[derive(Arbitrary, Debug)]
struct Transfer {
    /// The manifest's fields, whatever they are; else those that say what the files are.
    fields: Option<Vec<u8>>,
    term: u8,
    voters: Vec<(u8, bool)>,
    files: Vec<(u8, Vec<u8>)>,
    chunk_bytes: u8,
    faults: Vec<Fault>,
}

/// What goes wrong on the way. Numbers are places, modulo how many there are.
#[derive(Arbitrary, Debug)]
enum Fault {
    /// In the manifest, whose checksum does not follow.
    FlipManifest(u16),
    /// In a chunk; its own checksum follows or does not.
    Flip {
        chunk: u8,
        bit: u16,
        checksum: bool,
    },
    Drop(u8),
    Repeat(u8),
    Swap(u8, u8),
    Move(u8, i8),
    Rename(u8, u8),
    Grow(u8, Vec<u8>),
    Count(i8, i8),
}

#[derive(Serialize)]
struct LogId {
    term: u64,
    node_id: u64,
    index: u64,
}

#[derive(Serialize)]
struct Member {
    peer: String,
    public: String,
    storage_id: uuid::Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct File {
    name: String,
    bytes: u64,
    crc32c: u32,
}

/// As it is sent: permanent.
#[derive(Serialize)]
struct Manifest {
    last_log_id: Option<LogId>,
    membership_log_id: Option<LogId>,
    configs: Vec<Vec<u64>>,
    nodes: BTreeMap<u64, Member>,
    files: Vec<File>,
}

fuzz_target!(|transfer: Transfer| run(transfer));

fn run(transfer: Transfer) {
    let folder = TempDir::new().expect("the temporary folder takes another");
    let memory = MemoryState::default();
    let store = StateStore::open_in_memory(memory, folder.path(), StoreOptions::default());
    let store = store.expect("an empty folder is opened");
    let (chunks, files, (count, bytes)) = prepared(&transfer);
    let received = received(&store, &chunks, count, bytes);
    let whole = transfer.faults.is_empty() && transfer.fields.is_none();
    match received {
        Ok(snapshot) => {
            if transfer.fields.is_none() {
                check(&snapshot, &files);
            }
        }
        Err(StoreError::Transfer(_)) => {
            assert!(
                !(whole && is_proper(&transfer, &files)),
                "a whole snapshot was refused"
            );
            let left = inside(folder.path());
            assert!(left.iter().all(|name| name == "receiving"), "{left:?}");
        }
        Err(error) => panic!("not an error of what was sent: {error}"),
    }
    if transfer.fields.is_none() && is_proper(&transfer, &files) {
        let sent = Transfer {
            faults: Vec::new(),
            ..transfer
        };
        check(&resumed(&store, &sent), &files);
    }
}

/// Whatever came before: somebody who sends what is missing gets it through, at the second try at the latest.
fn resumed(store: &StateStore, transfer: &Transfer) -> Snapshot {
    let (chunks, files, (count, bytes)) = prepared(transfer);
    for _ in 0..2 {
        let mut receiver = SnapshotReceiver::begin(store).expect("no other is there");
        let (manifest, rest) = chunks.split_at(
            chunks
                .iter()
                .take_while(|chunk| chunk.file == MANIFEST)
                .count(),
        );
        let taken = manifest.iter().try_for_each(|chunk| receiver.chunk(chunk));
        taken.expect("the manifest is whole");
        let held = receiver.held().expect("the manifest is proper");
        for held in &held {
            let file = files.iter().find(|file| file.name == held.file);
            assert!(file.is_some_and(|file| held.bytes <= file.bytes));
        }
        let missing = rest.iter().filter_map(|chunk| {
            let held = held.iter().find(|held| held.file == chunk.file);
            let file = files.iter().find(|file| file.name == chunk.file);
            beyond(
                chunk,
                held.map(|held| held.bytes),
                file.map_or(0, |file| file.bytes),
            )
        });
        if missing
            .map(|chunk| receiver.chunk(&chunk))
            .all(|taken| taken.is_ok())
            && let Ok(snapshot) = finished(receiver, count, bytes)
        {
            return snapshot;
        }
    }
    panic!("a whole snapshot was refused twice")
}

/// What of a chunk lies beyond the bytes that are held of its file.
fn beyond(chunk: &SnapshotChunk, held: Option<u64>, whole: u64) -> Option<SnapshotChunk> {
    let Some(held) = held else {
        return Some(chunk.clone());
    };
    let end = chunk.offset + chunk.data.len() as u64;
    if held == whole || end <= held {
        return None;
    }
    let from = usize::try_from(held.saturating_sub(chunk.offset)).expect("within the chunk");
    let data = chunk.data.slice(from..);
    Some(SnapshotChunk {
        file: chunk.file.clone(),
        offset: chunk.offset + from as u64,
        crc32c: crc32c::crc32c(&data),
        data,
    })
}

/// The chunks, the files as their manifest names them, and the counts at the end.
fn prepared(transfer: &Transfer) -> (Vec<SnapshotChunk>, Vec<File>, (u64, u64)) {
    let name = |number: u8| NAMES[usize::from(number) % NAMES.len()].to_owned();
    let contents: Vec<_> = transfer
        .files
        .iter()
        .map(|(n, data)| (name(*n), data))
        .collect();
    let files: Vec<_> = contents
        .iter()
        .map(|(name, data)| File {
            name: name.clone(),
            bytes: data.len() as u64,
            crc32c: crc32c::crc32c(data),
        })
        .collect();
    let mut manifest = match &transfer.fields {
        Some(fields) => fields.clone(),
        None => fields(transfer, &files),
    };
    manifest.extend(crc32c::crc32c(&manifest).to_le_bytes());
    for fault in &transfer.faults {
        if let Fault::FlipManifest(bit) = fault {
            flip(&mut manifest, *bit);
        }
    }
    let chunk_bytes = usize::from(transfer.chunk_bytes).max(1);
    let mut chunks = chunks_of(MANIFEST, &manifest, chunk_bytes);
    for (name, data) in contents {
        chunks.extend(chunks_of(&name, data, chunk_bytes));
    }
    let bytes = chunks.iter().map(|chunk| chunk.data.len() as u64).sum();
    let mut counts = (files.len() as u64 + 1, bytes);
    for fault in &transfer.faults {
        damage(fault, &mut chunks, &mut counts);
    }
    (chunks, files, counts)
}

fn fields(transfer: &Transfer, files: &[File]) -> Vec<u8> {
    let log_id = |index| LogId {
        term: transfer.term.into(),
        node_id: 1,
        index,
    };
    let voters = transfer.voters.iter().filter(|(_, votes)| *votes);
    let member = |(id, _): &(u8, bool)| {
        let member = Member {
            peer: format!("{id}:1"),
            public: String::new(),
            storage_id: uuid::Uuid::nil(),
        };
        (u64::from(*id), member)
    };
    let manifest = Manifest {
        last_log_id: (transfer.term > 0).then(|| log_id(17)),
        membership_log_id: (transfer.term > 1).then(|| log_id(3)),
        configs: vec![voters.map(|(id, _)| u64::from(*id)).collect()],
        nodes: transfer.voters.iter().map(member).collect(),
        files: files.to_vec(),
    };
    let mut bytes = vec![1];
    bytes.extend(postcard::to_stdvec(&manifest).expect("plain data"));
    bytes
}

fn chunks_of(file: &str, data: &[u8], chunk_bytes: usize) -> Vec<SnapshotChunk> {
    let chunk = |offset: usize, data: &[u8]| SnapshotChunk {
        file: file.to_owned(),
        offset: offset as u64,
        data: Bytes::copy_from_slice(data),
        crc32c: crc32c::crc32c(data),
    };
    match data.is_empty() {
        true => vec![chunk(0, data)],
        false => {
            let parts = data.chunks(chunk_bytes).enumerate();
            parts
                .map(|(n, part)| chunk(n * chunk_bytes, part))
                .collect()
        }
    }
}

fn flip(bytes: &mut [u8], bit: u16) {
    let bits = bytes.len() * 8;
    if let Some(bit) = usize::from(bit).checked_rem(bits) {
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

fn damage(fault: &Fault, chunks: &mut Vec<SnapshotChunk>, counts: &mut (u64, u64)) {
    let place = |n: u8| usize::from(n).checked_rem(chunks.len());
    match fault {
        Fault::FlipManifest(_) => {}
        Fault::Flip {
            chunk,
            bit,
            checksum,
        } => {
            let Some(at) = place(*chunk) else { return };
            let mut data = chunks[at].data.to_vec();
            flip(&mut data, *bit);
            if *checksum {
                chunks[at].crc32c = crc32c::crc32c(&data);
            }
            chunks[at].data = data.into();
        }
        Fault::Drop(n) => {
            if let Some(at) = place(*n) {
                chunks.remove(at);
            }
        }
        Fault::Repeat(n) => {
            if let Some(at) = place(*n) {
                chunks.insert(at, chunks[at].clone());
            }
        }
        Fault::Swap(a, b) => {
            if let (Some(a), Some(b)) = (place(*a), place(*b)) {
                chunks.swap(a, b);
            }
        }
        Fault::Move(n, by) => {
            if let Some(at) = place(*n) {
                chunks[at].offset = chunks[at].offset.wrapping_add_signed((*by).into());
            }
        }
        Fault::Rename(n, name) => {
            if let Some(at) = place(*n) {
                chunks[at].file = NAMES[usize::from(*name) % NAMES.len()].to_owned();
            }
        }
        Fault::Grow(n, more) => {
            if let Some(at) = place(*n) {
                let data = [&chunks[at].data[..], more].concat();
                chunks[at].crc32c = crc32c::crc32c(&data);
                chunks[at].data = data.into();
            }
        }
        Fault::Count(files, bytes) => {
            counts.0 = counts.0.wrapping_add_signed((*files).into());
            counts.1 = counts.1.wrapping_add_signed((*bytes).into());
        }
    }
}

fn received(
    store: &StateStore,
    chunks: &[SnapshotChunk],
    files: u64,
    bytes: u64,
) -> Result<Snapshot, StoreError> {
    let mut receiver = SnapshotReceiver::begin(store)?;
    chunks.iter().try_for_each(|chunk| receiver.chunk(chunk))?;
    finished(receiver, files, bytes)
}

fn finished(receiver: SnapshotReceiver, files: u64, bytes: u64) -> Result<Snapshot, StoreError> {
    let finish = pin!(receiver.finish(files, bytes));
    match finish.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result.map(|received| received.snapshot),
        Poll::Pending => panic!("a store in memory has no threads to wait for"),
    }
}

/// What is taken is what the manifest says.
fn check(snapshot: &Snapshot, files: &[File]) {
    let folder = &snapshot.snapshot.path;
    let mut names: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
    names.push(MANIFEST.to_owned());
    names.sort();
    assert_eq!(inside(folder), names);
    for file in files {
        let data = fs::read(folder.join(&file.name)).expect("it is there");
        assert_eq!(data.len() as u64, file.bytes, "{}", file.name);
        assert_eq!(crc32c::crc32c(&data), file.crc32c, "{}", file.name);
    }
}

fn inside(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("it can be read").file_name();
        name.into_string().expect("plain names")
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

/// Whether a sender in its right mind could have sent it: plain names, once each, and somebody who votes.
fn is_proper(transfer: &Transfer, files: &[File]) -> bool {
    let mut names: Vec<_> = files.iter().map(|file| &file.name).collect();
    names.sort();
    let distinct = names.windows(2).all(|pair| pair[0] != pair[1]);
    let plain = names.iter().all(|name| NAMES[..4].contains(&name.as_str()));
    let mut ids = BTreeMap::new();
    let once = transfer
        .voters
        .iter()
        .all(|(id, votes)| ids.insert(id, votes).is_none());
    let somebody = transfer.voters.iter().any(|(_, votes)| *votes);
    distinct && plain && once && somebody
}
