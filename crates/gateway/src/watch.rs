//! Whether the cluster can be reached, and a voice for when it can't.
//!
//! A gateway without a cluster, or with one that has no leader, delays its replies and delivers nothing; who looks at it
//! must not have to guess why. So it asks every second for something that only a leader which a quorum confirms answers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ordo_client::Cluster;
use ordo_client::proto::ListInterfacesRequest;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The pause between questions.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// How long one question may take, in which it is asked of one node after the other.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// Silence for so long is told: an election takes less.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// And then again and again.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How a gateway stands.
pub(crate) struct Standing(Mutex<State>);

struct State {
    /// The last answer of a leader, or the start.
    heard: Instant,
    /// Whether it was ever heard of.
    ever: bool,
    /// Why the last question was not answered.
    trouble: String,
    told: Option<Instant>,
    stopping: bool,
}

/// What a person should be told.
#[derive(Debug, PartialEq, Eq)]
enum Tell {
    Nothing,
    Trouble,
    Recovery,
}

impl Standing {
    pub(crate) fn new() -> Self {
        let state = State {
            heard: Instant::now(),
            ever: false,
            trouble: "no answer yet".to_owned(),
            told: None,
            stopping: false,
        };
        Self(Mutex::new(state))
    }

    /// Whether the gateway is of use; an error says what is missing.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let state = self.state();
        if state.stopping {
            Err("the gateway is stopping".to_owned())
        } else if !state.ever || state.heard.elapsed() >= TOLD_AFTER {
            Err(state.missing())
        } else {
            Ok(())
        }
    }

    /// The gateway stops: who distributes connections should choose another.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
    }

    /// Notes how a question went.
    fn note(&self, answer: Result<(), String>) -> Tell {
        let mut state = self.state();
        match answer {
            Ok(()) => {
                state.heard = Instant::now();
                state.ever = true;
                match state.told.take() {
                    Some(_) => Tell::Recovery,
                    None => Tell::Nothing,
                }
            }
            Err(trouble) => {
                state.trouble = trouble;
                let silent = state.heard.elapsed() >= TOLD_AFTER;
                let due = state.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY);
                if silent && due {
                    state.told = Some(Instant::now());
                    Tell::Trouble
                } else {
                    Tell::Nothing
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there can be left half changed by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn missing(&self) -> String {
        let seconds = self.heard.elapsed().as_secs();
        let trouble = &self.trouble;
        format!("no leader of the cluster has answered for {seconds} s: {trouble}")
    }
}

/// Asks for as long as the gateway runs.
pub(crate) async fn watch(
    standing: &Standing,
    cluster: &Cluster,
    metrics: &Metrics,
    end: &CancellationToken,
) {
    let admin = cluster.admin().timeout(ANSWERED_WITHIN);
    loop {
        let question = ListInterfacesRequest {
            limit: 1,
            ..ListInterfacesRequest::default()
        };
        let answer = tokio::select! {
            () = end.cancelled() => return,
            answer = admin.list_interfaces(question) => answer,
        };
        let told = standing.note(answer.map(drop).map_err(|error| error.to_string()));
        metrics.cluster_reached(standing.ready().is_ok());
        match told {
            Tell::Nothing => {}
            Tell::Recovery => tracing::info!("the cluster answers again"),
            Tell::Trouble => {
                let missing = standing.state().missing();
                tracing::warn!(
                    "{missing}; until one does, replies are delayed and nothing is delivered"
                );
            }
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep(ASKED_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_after_five_seconds_and_once_a_minute() {
        let standing = Standing::new();
        let mut told = Vec::new();
        for second in 0..=130 {
            if standing.note(Err("nobody".to_owned())) == Tell::Trouble {
                told.push(second);
            }
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, [5, 65, 125]);
        assert_eq!(standing.note(Ok(())), Tell::Recovery);
        assert_eq!(standing.note(Ok(())), Tell::Nothing);
        assert_eq!(standing.note(Err("nobody".to_owned())), Tell::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_is_ready_while_a_leader_was_heard_of_lately() {
        let standing = Standing::new();
        let missing = standing.ready().expect_err("no leader was heard of yet");
        assert!(missing.contains("no answer yet"), "{missing}");
        standing.note(Ok(()));
        assert_eq!(standing.ready(), Ok(()));
        advance(Duration::from_secs(4)).await;
        standing.note(Err("connection refused".to_owned()));
        assert_eq!(standing.ready(), Ok(()), "an election is not told");
        advance(Duration::from_secs(1)).await;
        let missing = standing.ready().expect_err("for too long");
        assert_eq!(
            missing,
            "no leader of the cluster has answered for 5 s: connection refused"
        );
        standing.note(Ok(()));
        standing.stop();
        assert_eq!(standing.ready(), Err("the gateway is stopping".to_owned()));
    }
}
