//! Nodes killed under load: `cargo run --release -p ordo-tests --bin torture -- kill --cycles 1000` does it for longer.

use ordo_tests::torture;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_wherever_it_stands_every_promise_is_kept() {
    let cycles = std::env::var("ORDO_KILL_CYCLES").map_or(30, |cycles| cycles.parse().unwrap());
    let killed = torture::kill(cycles, 7, |_, _| {}).await.unwrap();
    println!("{killed:?}");
    let at_points = killed
        .by_point
        .iter()
        .filter(|(point, _)| *point != "anywhere");
    assert!(
        at_points.map(|(_, kills)| kills).sum::<u32>() > cycles / 3,
        "{killed:?}"
    );
}
