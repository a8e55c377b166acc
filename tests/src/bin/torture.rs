//! The tests that break real nodes, for as long as one likes.

use anyhow::Result;
use clap::Parser;
use ordo_tests::carry::{Burden, carry};
use ordo_tests::large::{Size, measure};
use ordo_tests::power::{self, Disk};
use ordo_tests::torture;
use std::time::Duration;

#[derive(Parser)]
enum Command {
    /// Kill one, two or three of three nodes under load, restart them, and check every promise.
    Kill {
        /// How often.
        #[arg(long, default_value_t = 1000)]
        cycles: u32,
        /// Chooses who is killed, when and where.
        #[arg(long, default_value_t = 7)]
        seed: u64,
    },
    /// Cut the power under load, and open images of what the disks may hold then.
    Power {
        /// How many, over all losses.
        #[arg(long, default_value_t = 5000)]
        images: u32,
        /// Chooses when the power fails, and what of the unsynced writes is lost.
        #[arg(long, default_value_t = 7)]
        seed: u64,
    },
    /// Carry a state to a node that was away, over a narrow link that breaks, onto a slow disk.
    Snapshot {
        /// Payloads in the state, in mebibytes.
        #[arg(long, default_value_t = 5120)]
        megabytes: u64,
        /// What the link carries, in mebibytes a second.
        #[arg(long, default_value_t = 8)]
        link: u64,
        /// How much longer every sync of the disk takes, in milliseconds.
        #[arg(long, default_value_t = 200)]
        sync_ms: u64,
        /// How often the link breaks, in seconds.
        #[arg(long, default_value_t = 30)]
        break_every: u64,
    },
    /// Make a large state, and measure how long a snapshot, a hash, a start and an installation of it take.
    State {
        /// Interfaces.
        #[arg(long, default_value_t = 25_000)]
        interfaces: u64,
        /// Messages of each.
        #[arg(long, default_value_t = 40)]
        messages: u64,
        /// Bytes of each.
        #[arg(long, default_value_t = 1_024)]
        payload_bytes: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Kill { cycles, seed } => {
            let begin = std::time::Instant::now();
            let killed = torture::kill(cycles, seed, |done, killed| {
                if done % 10 == 0 {
                    println!(
                        "{done} cycles in {} s: {:?}",
                        begin.elapsed().as_secs(),
                        killed.by_point
                    );
                }
            });
            let killed = killed.await?;
            println!(
                "{cycles} cycles, {} kills, {} messages, none lost: {:?}",
                killed.by_point.values().sum::<u32>(),
                killed.messages,
                killed.by_point
            );
        }
        Command::Power { images, seed } => {
            let begin = std::time::Instant::now();
            let lost = power::lose(images, seed, Disk::Honest, |lost| {
                if lost.losses % 10 == 0 {
                    println!("{} s: {lost:?}", begin.elapsed().as_secs());
                }
            });
            println!("nothing acknowledged was lost: {:?}", lost.await?);
        }
        Command::Snapshot {
            megabytes,
            link,
            sync_ms,
            break_every,
        } => {
            let burden = Burden {
                bytes: megabytes << 20,
                bytes_a_second: link << 20,
                sync: Duration::from_millis(sync_ms),
                break_every: Duration::from_secs(break_every),
            };
            println!("{:?}", carry(burden, |said| println!("{said}")).await?);
        }
        Command::State {
            interfaces,
            messages,
            payload_bytes,
        } => {
            let size = Size {
                interfaces,
                messages,
                payload_bytes,
            };
            println!("{size:?}: {:?}", measure(size).await?);
        }
    }
    Ok(())
}
