//! An operator: redrives some dead letters, and throws some away.

use std::time::Duration;

use ordo_client::Cluster;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::finish::uuid_of;
use super::{about, certain_refusal, paused};
use crate::history::{Deed, OperateResult, What};
use crate::name::Name;
use crate::recorder::Scribe;

/// Dead letters looked at, at once.
const PAGE: u32 = 50;

/// What an operator does.
#[derive(Clone, Debug)]
pub struct OperatorPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// Whose dead letters.
    pub interfaces: Vec<Name>,
    /// The mean pause between two looks.
    pub pace: Duration,
    /// Deeds in all: one that is redriven may fail again.
    pub deeds: u32,
    /// Of a hundred deeds, how many discard.
    pub discard_percent: u8,
    /// Of a hundred redrives, how many demand to be in place.
    pub in_place_percent: u8,
    /// How long a call may take.
    pub timeout: Duration,
}

impl OperatorPlan {
    /// A plan for these interfaces.
    pub fn draw(random: &mut StdRng, interfaces: &[Name]) -> Self {
        Self {
            seed: random.random(),
            interfaces: interfaces.to_vec(),
            pace: Duration::from_millis(random.random_range(50..1_000)),
            deeds: random.random_range(0..100),
            discard_percent: random.random_range(0..60),
            in_place_percent: random.random_range(0..60),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Does its deeds, or what it can of them until `stop`.
pub async fn operate(
    cluster: Cluster,
    scribe: Scribe,
    plan: OperatorPlan,
    stop: CancellationToken,
) {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut deeds = 0;
    while deeds < plan.deeds && !plan.interfaces.is_empty() {
        let pause = about(&mut random, plan.pace);
        if !paused(pause, &stop).await {
            return;
        }
        let interface = &plan.interfaces[random.random_range(0..plan.interfaces.len())];
        let acted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            acted = act(&cluster, &scribe, &plan, interface, &mut random) => acted,
        };
        deeds += u32::from(acted);
    }
}

/// One look and, where there is a dead letter, one deed.
async fn act(
    cluster: &Cluster,
    scribe: &Scribe,
    plan: &OperatorPlan,
    interface: &Name,
    random: &mut StdRng,
) -> bool {
    let admin = cluster.admin().timeout(plan.timeout);
    let Ok(page) = admin.list_dead_letters(interface, 0, PAGE).await else {
        return false;
    };
    let letters = page.dead_letters;
    if letters.is_empty() {
        return false;
    }
    // One that is being redriven already is refused, and so it should be.
    let letter = &letters[random.random_range(0..letters.len())];
    let deed = match random.random_range(0..100) < plan.discard_percent {
        true => Deed::Discard,
        false => Deed::Redrive {
            in_place_only: random.random_range(0..100) < plan.in_place_percent,
        },
    };
    let call = scribe.next_call();
    let destination = letter.destination.as_str();
    scribe.record(What::Operate {
        call,
        interface: interface.clone(),
        sequence: letter.sequence,
        message_id: uuid_of(&letter.message_id),
        destination: (!destination.is_empty()).then(|| destination.into()),
        deed,
    });
    let result = match deed {
        Deed::Discard => admin
            .discard_dead_letter(interface, letter.sequence, destination)
            .await
            .map(|()| OperateResult::Discarded),
        Deed::Redrive { in_place_only } => admin
            .redrive_dead_letter(interface, letter.sequence, destination, in_place_only)
            .await
            .map(|redriven| OperateResult::Redriven {
                in_place: redriven.in_place,
                sequence: redriven.sequence,
            }),
    };
    let result = result.unwrap_or_else(|error| match certain_refusal(&error) {
        Some(reason) => OperateResult::Refused { reason },
        None => OperateResult::Unknown {
            why: error.to_string(),
        },
    });
    scribe.record(What::Operated { call, result });
    true
}
