//! The state on the disk against a replica in memory; what it refuses; what it tells its observer.

use crate::state_support::{LANES, Running, Script, assert_same, lane, log_id};
use openraft::storage::RaftStateMachine;
use ordo_core::{Command, Entry, Sequence, State};
use ordo_storage::{
    BodyPlace, EntryPayload, Lump, Machine, MachineHandle, MachineOptions, MemoryState, Observer,
    StateStore, Step, StepWatch, StoreError, StoreOptions, View,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn a_store_is_at_every_lump_what_a_replica_in_memory_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(1);
    let mut running = Running::open(folder.path()).unwrap();
    for round in 0..12 {
        running.apply(script.take(1 + round * 7)).await.unwrap();
        assert_same(&running, &script).await;
        // A clean end flushes, and what comes back is all of it.
        running.stop().await;
        running = Running::open(folder.path()).unwrap();
        assert_eq!(running.store.applied().index(), script.index);
        assert_same(&running, &script).await;
    }
    let applied = running.store.applied();
    assert_eq!(applied.last_log_id, Some(log_id(script.index)));
    assert_eq!(*applied.membership.log_id(), Some(log_id(1)));
    assert_eq!(applied.membership.membership().nodes().count(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_store_in_memory_is_the_same_and_forgets_what_was_not_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryState::default();
    let mut script = Script::new(2);
    let mut running = Running::in_memory(&memory, folder.path());
    let kept = script.take(100);
    running.apply(kept).await.unwrap();
    running.store.flush().unwrap();
    assert_eq!(running.store.flushed_index(), 100);
    let hash = running.hash().await;
    let more = script.take(20);
    running.apply(more.clone()).await.unwrap();
    assert_same(&running, &script).await;
    // No `stop`: a crash.
    let mut running = Running::in_memory(&memory, folder.path());
    let applied = running.store.applied().index();
    assert!((100..=120).contains(&applied));
    if applied == 100 {
        assert_eq!(running.hash().await, hash);
    }
    let rest = more
        .into_iter()
        .filter(|entry| entry.log_id.index > applied)
        .collect();
    running.apply(rest).await.unwrap();
    assert_same(&running, &script).await;
    running.stop().await;
}

/// What a reader is told of every message there is.
fn everything(state: &State, store: &StateStore) -> Vec<String> {
    let mut told = Vec::new();
    for interface in (0..LANES).filter_map(|n| state.interface(lane(n))) {
        let id = interface.id;
        for at in 1..=interface.last_sequence.0 {
            let record = store.record(id, Sequence(at)).unwrap();
            let events = store.events(id, Sequence(at)).unwrap();
            told.push(format!("{id} {at}: {record:?} {events:?}"));
        }
        let slots = interface
            .slots()
            .map(|(_, slot)| (slot.body_of, slot.header_rows));
        let letters = interface
            .dead_letters
            .values()
            .map(|letter| (letter.body_of, letter.header_rows));
        for (body_of, header_rows) in slots.chain(letters) {
            let body = store
                .body(id, body_of, header_rows)
                .unwrap()
                .expect("what the state knows is stored");
            let headers: Vec<_> = body
                .headers
                .iter()
                .map(|h| format!("{}={}", h.name, h.value))
                .collect();
            told.push(format!(
                "{id} {body_of}: {:x?} {headers:?}",
                &body.payload[..]
            ));
        }
    }
    told
}

#[tokio::test]
async fn bodies_records_and_events_read_the_same_from_cache_tables_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(3);
    let entries = script.take(400);
    let small = StoreOptions {
        cache_bytes_max: 20_000,
        ..StoreOptions::default()
    };
    let mut of = Vec::new();
    for options in [StoreOptions::default(), small] {
        let folder = tempfile::tempdir().unwrap();
        let store = StateStore::open(folder.path(), options).unwrap();
        let mut running = Running::over(store, ()).unwrap();
        running.apply(entries.clone()).await.unwrap();
        of.push(
            running
                .handle
                .query(|view| everything(view.state, view.store))
                .await
                .unwrap(),
        );
        assert!(of[0].len() > 500, "{} things to tell", of[0].len());
        running.stop().await;
        // Nothing in memory any more.
        let running = Running::open(folder.path()).unwrap();
        of.push(
            running
                .handle
                .query(|view| everything(view.state, view.store))
                .await
                .unwrap(),
        );
        running.stop().await;
    }
    let mut in_memory = Running::in_memory(&MemoryState::default(), folder.path());
    in_memory.apply(entries).await.unwrap();
    of.push(
        in_memory
            .handle
            .query(|view| everything(view.state, view.store))
            .await
            .unwrap(),
    );
    in_memory.stop().await;
    for other in &of[1..] {
        assert!(*other == of[0], "two stores tell different things");
    }
}

/// Tells a test what it was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn say(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Told {
    type Event = u64;

    fn applied(&mut self, view: View<'_>, lump: &Lump) {
        assert_eq!(view.applied_index, lump.last_log_id.index);
        assert_eq!(
            view.store.applied().index(),
            view.applied_index,
            "written before the observer hears of it"
        );
        self.say(format!(
            "applied {} effects {}",
            view.applied_index,
            !lump.effects.is_empty()
        ));
    }

    fn event(&mut self, view: View<'_>, event: u64) {
        self.say(format!("event {event} at {}", view.applied_index));
    }

    fn installed(&mut self, view: View<'_>) {
        self.say(format!("installed {}", view.applied_index));
    }

    fn idle(&mut self, _: View<'_>) {
        self.say("idle".to_owned());
    }
}

#[tokio::test]
async fn lumps_events_and_questions_come_in_order_and_a_burst_ends_with_idle() {
    let folder = tempfile::tempdir().unwrap();
    let told = Told::default();
    let store = StateStore::open(folder.path(), StoreOptions::default()).unwrap();
    let mut running = Running::over(store, told.clone()).unwrap();
    let mut script = Script::new(4);
    running.apply(script.take(17)).await.unwrap();
    running.handle.send(5);
    running.handle.send(6);
    let index = running
        .handle
        .query(|view| view.applied_index)
        .await
        .unwrap();
    assert_eq!(index, 17);
    // A stop that came within the burst would be its end.
    let idle = async {
        while !told.all().iter().any(|what| what == "idle") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), idle)
        .await
        .unwrap();
    running.stop().await;
    let all = told.all();
    let of: Vec<_> = all
        .iter()
        .filter(|what| *what != "idle")
        .map(String::as_str)
        .collect();
    assert_eq!(
        of,
        [
            "applied 7 effects true",
            "applied 14 effects true",
            "applied 17 effects true",
            "event 5 at 17",
            "event 6 at 17"
        ]
    );
}

#[tokio::test]
async fn an_event_is_answered_although_nothing_else_happens() {
    let folder = tempfile::tempdir().unwrap();
    let told = Told::default();
    let store = StateStore::open(folder.path(), StoreOptions::default()).unwrap();
    let running = Running::over(store, told.clone()).unwrap();
    let handle: MachineHandle<u64> = running.handle.clone();
    handle.send(1);
    let heard = async {
        while told.all() != ["event 1 at 0", "idle"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard)
        .await
        .unwrap();
    running.stop().await;
    assert!(
        handle.query(|view| view.applied_index).await.is_err(),
        "it has ended"
    );
    assert!(matches!(
        handle.state_hash().await,
        Err(StoreError::Stopped)
    ));
    handle.stop().await.unwrap();
}

fn reported(store: &StateStore) -> Arc<Mutex<Vec<String>>> {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reports);
    store.on_failure(move |error| told.lock().unwrap().push(error.to_string()));
    reports
}

#[tokio::test]
async fn an_entry_that_means_nothing_stops_everything_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(5);
    let mut running = Running::open(folder.path()).unwrap();
    let reports = reported(&running.store);
    let mut entries = script.take(20);
    entries[14].payload = EntryPayload::Normal(bytes::Bytes::from_static(b"\x63PID|secret").into());
    let error = running.apply(entries).await.unwrap_err().to_string();
    assert!(
        error.contains("log entry 15") && error.contains("version 99"),
        "{error}"
    );
    assert!(!error.contains("secret"));
    let later = running.apply(script.take(1)).await.unwrap_err().to_string();
    assert!(later.contains("earlier failure"), "{later}");
    // Its lump, the third of seven, changed nothing on the disk.
    assert_eq!(running.store.applied().index(), 14);
    assert_eq!(
        reports.lock().unwrap().len(),
        1,
        "a failure is reported once"
    );
}

#[tokio::test]
async fn an_entry_left_out_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(6);
    let mut running = Running::open(folder.path()).unwrap();
    let mut entries = script.take(10);
    entries.remove(5);
    let error = running.apply(entries).await.unwrap_err().to_string();
    assert!(
        error.contains("log entry 7 cannot be applied: 6 is the next one"),
        "{error}"
    );
}

/// A store with some table files, closed.
async fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(7);
    for _ in 0..3 {
        let mut running = Running::open(folder.path()).unwrap();
        running.apply(script.take(200)).await.unwrap();
        running.stop().await;
    }
    folder
}

fn files(folder: &Path, ends: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder.join("state/00000001"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = all
        .filter(|path| path.to_str().unwrap().contains(ends))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no file {ends}");
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Opens what is there; the text of the refusal.
fn refusal(folder: &Path) -> String {
    match Running::open(folder) {
        Ok(_) => panic!("a damaged store was opened"),
        Err(error) => {
            assert!(matches!(error, StoreError::Damage { .. }), "{error:?}");
            error.to_string()
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_table_file_is_refused_with_the_files_name() {
    let made = made().await;
    let table = files(made.path(), ".sst").remove(0);
    let bytes = fs::read(&table).unwrap();
    // Past the first rows (the clock's and the like): in what every start reads.
    for at in [40, bytes.len() - 20] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(&table, flipped).unwrap();
        let text = refusal(made.path());
        assert!(text.contains(&name(&table)), "{text}");
    }
    fs::write(&table, bytes).unwrap();
    Running::open(made.path()).unwrap().stop().await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_payload_is_found_when_it_is_read_and_stops_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(8);
    let mut running = Running::open(folder.path()).unwrap();
    running.apply(script.take(300)).await.unwrap();
    running.stop().await;
    // Every byte that a start does not read is one that nobody noticed yet: try some.
    let table = files(folder.path(), ".sst").remove(0);
    let bytes = fs::read(&table).unwrap();
    let mut flipped = bytes.clone();
    let middle = bytes.len() / 2;
    flipped[middle] ^= 0x10;
    fs::write(&table, &flipped).unwrap();
    let text = match Running::open(folder.path()) {
        Err(error) => error.to_string(),
        Ok(running) => {
            let reports = reported(&running.store);
            let store = running.store.clone();
            let read = move |view: View<'_>| {
                (0..LANES).find_map(|n| {
                    let interface = view.state.interface(lane(n))?;
                    let bodies = interface
                        .slots()
                        .map(|(_, slot)| (slot.body_of, slot.header_rows));
                    let mut bodies = bodies.map(|(at, rows)| store.body(interface.id, at, rows));
                    bodies.find_map(Result::err)
                })
            };
            let error = running
                .handle
                .query(read)
                .await
                .unwrap()
                .expect("the payload's block does not check");
            assert!(matches!(error, StoreError::Damage { .. }), "{error:?}");
            assert_eq!(*reports.lock().unwrap(), [error.to_string()]);
            assert!(
                running.handle.stop().await.is_err(),
                "nothing is written any more"
            );
            error.to_string()
        }
    };
    assert!(text.contains(&name(&table)), "{text}");
}

#[tokio::test]
async fn a_missing_or_shortened_file_is_refused_with_its_name() {
    for (ends, cut) in [
        (".sst", false),
        (".sst", true),
        ("MANIFEST-", false),
        ("CURRENT", false),
    ] {
        let made = made().await;
        let file = files(made.path(), ends).remove(0);
        match cut {
            true => fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(100)
                .unwrap(),
            false => fs::remove_file(&file).unwrap(),
        }
        let text = refusal(made.path());
        let named =
            text.contains(&name(&file)) || (ends == "CURRENT" && text.contains("does not exist"));
        assert!(named, "{} {cut}: {text}", name(&file));
    }
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::open(folder.path()).unwrap();
    let error = StateStore::open(folder.path(), StoreOptions::default()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Engine { what, .. } if what.contains("LOCK")),
        "{error}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_state_that_the_log_no_longer_reaches_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::open(folder.path()).unwrap();
    running.apply(Script::new(9).take(30)).await.unwrap();
    let store = running.store.clone();
    store.check_purged(None).unwrap();
    store.check_purged(Some(log_id(30))).unwrap();
    let error = store.check_purged(Some(log_id(31))).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Behind {
                applied: 30,
                purged: 31
            }
        ),
        "{error}"
    );
    running.stop().await;
}

#[tokio::test]
async fn payloads_stay_out_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::open(folder.path()).unwrap();
    let mut script = Script::new(10);
    running.apply(script.take(2)).await.unwrap();
    let ingest = Command::Ingest(ordo_core::Ingest {
        interface: lane(1),
        message_id: ordo_core::MessageId(uuid::Uuid::from_u128(1)),
        digest: ordo_core::Digest([0; 16]),
        payload: bytes::Bytes::from_static(b"PID|secret"),
        headers: vec![ordo_core::Header {
            name: "n".to_owned(),
            value: "secret".to_owned(),
        }],
        numbered: None,
        session: None,
    });
    let position = ordo_core::RunPosition {
        n: 2,
        ..script.state.position()
    };
    let entry = Entry {
        cluster_time: script.state.cluster_time(),
        wall_time: script.state.wall_time(),
        position,
        commands: vec![ingest],
    };
    let data = ordo_wire::entry::encode(&entry).into();
    let entry = ordo_storage::Entry {
        log_id: log_id(3),
        payload: EntryPayload::Normal(data),
    };
    running.apply(vec![entry]).await.unwrap();
    let body = running
        .store
        .body(lane(1), Sequence(1), 1)
        .unwrap()
        .unwrap();
    assert_eq!(body.payload, "PID|secret");
    assert_eq!(body.headers[0].value, "secret");
    assert!(!format!("{body:?}").contains("secret"));
    assert_eq!(running.store.body(lane(1), Sequence(2), 0).unwrap(), None);
    assert!(running.store.stats().cache_bytes > 0);
    running.stop().await;
}

#[tokio::test]
async fn only_what_is_not_in_memory_any_more_is_read_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Script::new(9);
    let mut running = Running::open(folder.path()).unwrap();
    running.apply(script.take(200)).await.unwrap();
    let interface = script.state.interface(lane(1)).unwrap();
    let place = |(_, slot): (Sequence, &ordo_core::Slot)| BodyPlace {
        interface: interface.id,
        body_of: slot.body_of,
        header_rows: slot.header_rows,
    };
    let places: Vec<_> = interface.slots().map(place).collect();
    assert!(places.len() > 1);
    assert_eq!(running.store.warm(&places, 1 << 20).await, None);
    running.stop().await;
    // Nothing is in memory after a start.
    let running = Running::open(folder.path()).unwrap();
    assert!(running.store.warm(&places, 1 << 20).await.is_some());
    assert!(running.store.warm(&[], 1 << 20).await.is_none());
    assert_eq!(running.store.behind(), None);
    running.stop().await;
}

#[tokio::test]
async fn every_kind_of_step_is_told_with_how_long_it_took() {
    let folder = tempfile::tempdir().unwrap();
    let store = StateStore::open(folder.path(), StoreOptions::default()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let steps: Arc<Mutex<Vec<(Step, Duration)>>> = Arc::clone(&told);
    let watch = move |step, took| steps.lock().unwrap().push((step, took));
    let options = MachineOptions {
        steps: Some(StepWatch(Arc::new(watch))),
        ..MachineOptions::default()
    };
    let (mut machine, machine_loop) = Machine::new(store.clone(), (), options).unwrap();
    let (handle, thread) = (machine.handle(), machine_loop.spawn().unwrap());
    let entries = Script::new(9).take(20).into_iter();
    let entries = entries.map(|entry| Ok((entry, None)));
    machine
        .apply(futures_util::stream::iter(entries))
        .await
        .unwrap();
    let pause = Duration::from_millis(20);
    let (wait, waited) = std::sync::mpsc::channel::<()>();
    let slow = handle
        .query(move |_| waited.recv_timeout(pause).is_err())
        .await;
    assert!(slow.unwrap());
    drop(wait);
    handle.stop().await.unwrap();
    drop((machine, store));
    thread.join().unwrap();
    let told = told.lock().unwrap();
    let longest = |wanted| {
        let of_kind = told.iter().filter(|(step, _)| *step == wanted);
        of_kind.map(|(_, took)| *took).max()
    };
    assert!(longest(Step::Query) >= Some(pause), "{told:?}");
    assert!(longest(Step::Write) <= longest(Step::Apply), "{told:?}");
    assert!(longest(Step::Idle).is_some() && longest(Step::Install).is_none());
}
