//! The async runtime under openraft: tokio, with randomness that a simulation can seed.
//!
//! openraft draws its election jitter from the runtime. `DeterministicRng` from openraft-rt seeds it, but panics in
//! every task that was not started inside a seeded scope, which a gRPC server's tasks are not. This runtime seeds
//! where [`OrdoRuntime::seeded`] was used, and is plain tokio elsewhere, so that production and simulations share one
//! `TypeConfig`.

use std::cell::Cell;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use openraft::AsyncRuntime;
use openraft_rt::OptionalSend;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use uuid::Uuid;

type Seeded = DeterministicRng<TokioRuntime>;

tokio::task_local! {
    static SEED: Cell<u64>;
}

/// Tokio, seeded where asked for.
#[derive(Debug)]
pub struct OrdoRuntime(TokioRuntime);

impl OrdoRuntime {
    /// Runs `future` so that it, and every task openraft spawns from it, draws randomness from `seed`.
    pub fn seeded<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
        SEED.scope(Cell::new(seed), future)
    }
}

/// The scope's next seed; `None` outside of a scope.
fn next_seed() -> Option<u64> {
    SEED.try_with(|seed| {
        let current = seed.get();
        seed.set(mix(current, 0x6a09_e667_f3bc_c908));
        current
    })
    .ok()
}

/// SplitMix64, as in openraft-rt: a bijection, so that two seeds never become one.
const fn mix(seed: u64, gamma: u64) -> u64 {
    let z = seed.wrapping_add(gamma);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl AsyncRuntime for OrdoRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match next_seed() {
            Some(seed) => {
                TokioRuntime::spawn(SEED.scope(Cell::new(mix(seed, 0x9e37_79b9_7f4a_7c15)), future))
            }
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = next_seed().unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
        // The wrapper's generator can be had only inside its scope; there is nothing to wait for there.
        let drawn = Seeded::scope(seed, async { Seeded::thread_rng() }).now_or_never();
        drawn.expect("a future without an await point is ready at once")
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use openraft::testing::runtime::Suite;

    use super::*;

    type Rng = <OrdoRuntime as AsyncRuntime>::ThreadLocalRng;

    // What a generator holds is all it will ever give, so comparing two needs no trait of theirs.
    fn drawn() -> String {
        let rng: Rng = OrdoRuntime::thread_rng();
        format!("{rng:?}")
    }

    async fn draws_of_a_tree() -> Vec<String> {
        let first = drawn();
        let child = OrdoRuntime::spawn(async {
            let grandchild = OrdoRuntime::spawn(async { drawn() });
            vec![drawn(), grandchild.await.unwrap()]
        });
        let sibling = OrdoRuntime::spawn(async { drawn() });
        let mut all = vec![first, drawn()];
        all.extend(child.await.unwrap());
        all.push(sibling.await.unwrap());
        all
    }

    #[tokio::test]
    async fn a_seed_decides_every_draw_of_a_task_and_of_those_it_spawns() {
        let first = OrdoRuntime::seeded(7, draws_of_a_tree()).await;
        assert_eq!(first, OrdoRuntime::seeded(7, draws_of_a_tree()).await);
        assert_ne!(first, OrdoRuntime::seeded(8, draws_of_a_tree()).await);
        let mut distinct = first.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), first.len(), "no two draws are the same");
    }

    #[tokio::test]
    async fn without_a_seed_tasks_draw_freely() {
        assert_ne!(draws_of_a_tree().await, draws_of_a_tree().await);
    }

    #[test]
    fn openrafts_runtime_suite_passes() {
        Suite::<OrdoRuntime>::test_all();
    }
}
