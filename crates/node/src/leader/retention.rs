//! Forgets the records of finished messages whose retention is over.

use crate::proposer::Proposer;
use ordo_core::{ClusterTime, Command, ForgetFinished, InterfaceId, Sequence};
use ordo_storage::{MachineHandle, StateStore, Stopped};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the record of a finished message is kept, in milliseconds of cluster time.
const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
/// How often the leader looks.
const EVERY: Duration = Duration::from_secs(600);
/// Interfaces looked at in one question to the machine.
const INTERFACES: usize = 1_000;

/// What there may be to forget of an interface.
struct Finished {
    interface: InterfaceId,
    from: Sequence,
    through: Sequence,
}

/// While this node leads, looks now and then for records that are past their retention, until `stop` is cancelled.
pub async fn forget_old_records(
    proposer: Proposer,
    machine: MachineHandle<super::Event>,
    store: StateStore,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if proposer.run().is_some() && sweep(&proposer, &machine, &store).await.is_err() {
            return;
        }
    }
}

async fn sweep(
    proposer: &Proposer,
    machine: &MachineHandle<super::Event>,
    store: &StateStore,
) -> Result<(), Stopped> {
    let now = proposer.clock().now();
    let Some(before) = now.0.checked_sub(RETENTION_MS).map(ClusterTime) else {
        return Ok(());
    };
    let mut after = String::new();
    loop {
        let name = after.clone();
        let (finished, last) = machine.query(move |view| chunk(view.state, &name)).await?;
        let commands = commands_of(store, &finished, before).await;
        if !commands.is_empty() {
            proposer.propose_and_forget(commands);
        }
        match last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

/// What is to be forgotten. Others get their turn between two interfaces: each takes a few dozen reads of the disk.
async fn commands_of(
    store: &StateStore,
    finished: &[Finished],
    before: ClusterTime,
) -> Vec<Command> {
    let mut commands = Vec::new();
    for finished in finished {
        commands.extend(old_through(store, finished, before).map(Command::ForgetFinished));
        tokio::task::yield_now().await;
    }
    commands
}

/// The next interfaces by name, and the last one's name unless there are no more.
fn chunk(state: &ordo_core::State, after: &str) -> (Vec<Finished>, Option<String>) {
    let mut finished = Vec::new();
    let mut last = None;
    for interface in state.interfaces_by_name(after).take(INTERFACES) {
        last = Some(interface.name.to_string());
        let through = Sequence(interface.known_from().0.saturating_sub(1));
        let from = interface.forgotten_through.next();
        if from <= through {
            finished.push(Finished {
                interface: interface.id,
                from,
                through,
            });
        }
    }
    (finished, last)
}

/// The last record that is older than `before`: they finish in sequence order, so that halving finds it.
fn old_through(
    store: &StateStore,
    finished: &Finished,
    before: ClusterTime,
) -> Option<ForgetFinished> {
    let is_old = |sequence: u64| {
        let record = store.record(finished.interface, Sequence(sequence));
        // An error shows wherever it matters; here it only means that nothing is forgotten now.
        record.is_ok_and(|record| record.is_some_and(|record| record.finished < before))
    };
    let (mut low, mut high) = (finished.from.0, finished.through.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_old(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let through = Sequence(low - 1);
    (through >= finished.from).then_some(ForgetFinished {
        interface: finished.interface,
        through,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

    use super::*;
    use ordo_storage::StoreOptions;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use uuid::Uuid;

    #[test]
    fn a_sweep_lets_others_run_between_two_interfaces() {
        let folder = tempfile::tempdir().unwrap();
        let store = StateStore::open(folder.path(), StoreOptions::default()).unwrap();
        let finished: Vec<Finished> = (1..=5)
            .map(|n| Finished {
                interface: InterfaceId(Uuid::from_u128(n)),
                from: Sequence(1),
                through: Sequence(100),
            })
            .collect();
        let mut sweep = pin!(commands_of(&store, &finished, ClusterTime(1)));
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = 1;
        let commands = loop {
            match sweep.as_mut().poll(&mut context) {
                Poll::Ready(commands) => break commands,
                Poll::Pending => turns += 1,
            }
        };
        assert!(commands.is_empty(), "there are no records");
        assert!(turns >= finished.len(), "{turns} turns");
    }
}
