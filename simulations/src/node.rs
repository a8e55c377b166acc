//! A node on its host: the product's own start, on the simulated machine.

use crate::disk::SimDisk;
use crate::parts::Eyes;
use crate::place::{Boot, Place};
use crate::watch::Watch;
use crate::wire::{self, HTTP, PEER, PUBLIC, SimDial};
use ordo_node::{Seams, ServeError, SimulatedStorage, start_with};
use ordo_storage::OrdoRuntime;
use ordo_storage::log::LogOptions;
use ordo_wire::lease::BootClock;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

/// Segments are small, so that they are rolled and used again within a run.
const SEGMENT_BYTES: u64 = 64 << 10;
/// How often the node's quorum is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What the log keeps in memory is small, so that it is read back.
const TAIL_BYTES: usize = 16 << 10;

/// Runs the node of `place` until it stops by itself; then waits for the crash that ends its host's software.
pub async fn run(place: Arc<Place>, watch: Watch) -> turmoil::Result {
    let boot = place.boot();
    let seed = boot.seed;
    // Everything that consensus draws comes from the seed.
    let why = OrdoRuntime::seeded(seed, live(Arc::clone(&place), watch, boot)).await;
    place.stopped(why);
    pending().await
}

/// Why the node stopped.
async fn live(place: Arc<Place>, watch: Watch, boot: Boot) -> String {
    let number = boot.number;
    let node = match start(&place, watch, boot).await {
        Ok(node) => node,
        Err(error) => {
            // Nothing that a run does to a disk is damage: a node that comes back must start.
            if !place.was_hurt() && !place.is_dead(number) {
                place.notes.violation(
                    "a_node_comes_back",
                    format_args!("{} does not start: {error}", place.name),
                );
            }
            return error.to_string();
        }
    };
    let mut node = node;
    place.up(Arc::clone(node.context()));
    let error = tokio::select! {
        error = node.failed() => error,
        () = watch_quorum(&place) => unreachable!("it is watched for ever"),
    };
    if !place.was_hurt() && !place.is_dead(number) {
        place.notes.violation(
            "a_node_goes_on",
            format_args!("{} stopped by itself: {error}", place.name),
        );
    }
    node.abandon().await;
    error.to_string()
}

/// Looks now and then, on the node's own host, whether a quorum acknowledges it.
async fn watch_quorum(place: &Place) {
    loop {
        place.look_at_quorum();
        tokio::time::sleep(LOOK).await;
    }
}

async fn start(
    place: &Arc<Place>,
    watch: Watch,
    boot: Boot,
) -> Result<ordo_node::ServeHandle, ServeError> {
    let number = boot.number;
    let listen = async |key, port| {
        let listening = wire::listen(Arc::clone(place), number, port).await;
        listening.map_err(|error| ServeError::Listen {
            key,
            address: ([0, 0, 0, 0], port).into(),
            error,
        })
    };
    let mut salts = StdRng::seed_from_u64(boot.seed ^ 0x5a17);
    let (clock, busy) = (Arc::clone(place), Arc::clone(place));
    let machine = Arc::clone(place);
    let seams = Seams {
        public: Some(listen("public", PUBLIC).await?),
        peer: Some(listen("peer", PEER).await?),
        http: Some(listen("http", HTTP).await?),
        dial: Arc::new(SimDial {
            place: Arc::clone(place),
            boot: number,
        }),
        wall: Arc::new(move || clock.wall_ms()),
        boot: BootClock::new(move || machine.suspended()),
        room: None,
        seed: Some(boot.seed),
        check_invariants: true,
        storage: Some(SimulatedStorage {
            disk: Arc::new(SimDisk::new(Arc::clone(place), number, boot.disk)),
            log: LogOptions {
                segment_bytes: SEGMENT_BYTES,
                tail_bytes: TAIL_BYTES,
                idle_marker_after: Duration::from_millis(100),
                salt: Box::new(move || salts.random()),
                ..LogOptions::default()
            },
            delay: Box::new(move || busy.disk_delay()),
            state: boot.memory,
        }),
    };
    let parts = Eyes {
        place: Arc::clone(place),
        boot: number,
        watch,
    };
    start_with(boot.config, seams, parts).await
}
