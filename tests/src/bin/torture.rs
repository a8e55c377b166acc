//! The tests that break real nodes, for as long as one likes.

use anyhow::Result;
use clap::Parser;
use ordo_tests::power::{self, Disk};
use ordo_tests::torture;

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
    }
    Ok(())
}
