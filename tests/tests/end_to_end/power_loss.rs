//! The power fails everywhere at once: `cargo run --release -p ordo-tests --bin torture -- power --images 5000` does it
//! for longer.

use ordo_tests::power::{self, Disk};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_every_image_that_a_power_loss_can_leave() {
    let images = std::env::var("ORDO_POWER_IMAGES").map_or(200, |images| images.parse().unwrap());
    let lost = power::lose(images, 7, Disk::Honest, |_| {}).await.unwrap();
    println!("{lost:?}");
    // Losses that lose nothing prove nothing.
    assert!(
        lost.sectors > 100 && lost.bytes > 0 && lost.compared > images / 4,
        "{lost:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_makes_nothing_durable_is_found_out() {
    let found = power::lose(100, 7, Disk::Lying, |_| {}).await;
    let found = found.map(|lost| format!("{lost:?}")).unwrap_err();
    println!("{found:#}");
}
