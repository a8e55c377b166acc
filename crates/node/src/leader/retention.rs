//! Forgets what is remembered of finished messages, and their records, when their time is over.
//!
//! When that is stands in memory, by the hour: nothing is read, and where nothing is due nothing is proposed. What is
//! due goes in small proposals, one after the other, so that work with a deadline has its turn in between.

use crate::proposer::{ProposeError, Proposer};
use ordo_core::{ClusterTime, Command, ForgetFinished, State};
use ordo_storage::MachineHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the leader looks.
const EVERY: Duration = Duration::from_secs(600);
/// How soon a new leader looks.
const FIRST: Duration = Duration::from_secs(5);
/// Interfaces looked at in one question to the machine.
const INTERFACES: usize = 500;
/// Interfaces in one proposal: of each some thousand messages are forgotten at most.
const AT_ONCE: usize = 8;

/// While this node leads, looks now and then for what is past its time, until `stop` is cancelled.
pub async fn forget_old_records(
    proposer: Proposer,
    machine: MachineHandle<super::Event>,
    stop: CancellationToken,
) {
    let mut wait = FIRST;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = FIRST;
        if proposer.run().is_none() {
            continue;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            swept = sweep(&proposer, &machine) => match swept {
                Ok(()) => wait = EVERY,
                // Somebody else leads, or nobody: whoever does looks.
                Err(error) => tracing::debug!(%error, "what is past its time is forgotten later"),
            }
        }
    }
}

/// Forgets all that is past its time.
async fn sweep(
    proposer: &Proposer,
    machine: &MachineHandle<super::Event>,
) -> Result<(), ProposeError> {
    let now = proposer.clock().now();
    let mut after = String::new();
    loop {
        let name = after.clone();
        let chunk = machine.query(move |view| chunk(view.state, &name, now));
        let chunk = chunk.await.map_err(|_| ProposeError::OutcomeUnknown)?;
        for commands in chunk.commands.chunks(AT_ONCE) {
            let commands = commands.iter().cloned().map(Command::ForgetFinished);
            proposer.propose(commands.collect()).await?;
        }
        match chunk.last {
            // One command forgets some of what is due; what is left is found again.
            Some(_) if !chunk.commands.is_empty() => {}
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

/// What there is to forget of some interfaces.
struct Chunk {
    commands: Vec<ForgetFinished>,
    /// The last one's name; none when there was no interface left to look at.
    last: Option<String>,
}

/// Looks at the next interfaces by name.
fn chunk(state: &State, after: &str, now: ClusterTime) -> Chunk {
    let mut chunk = Chunk {
        commands: Vec::new(),
        last: None,
    };
    for interface in state.interfaces_by_name(after).take(INTERFACES) {
        chunk.last = Some(interface.name.to_string());
        if interface.set_aside().is_some() {
            continue;
        }
        if let Some(through) = state.forgettable(interface, now) {
            chunk.commands.push(ForgetFinished {
                interface: interface.id,
                through,
            });
        }
    }
    chunk
}

#[cfg(test)]
mod tests;
