//! The clients of a run: the actors of `ordo-oracle`, each on a host of its own.

use crate::run::Notes;
use crate::shape::Shape;
use crate::wire;
use futures_util::{StreamExt, stream};
use ordo_client::Cluster;
use ordo_oracle::actors::{self, Raw, ScriptOdds, sub_seed};
use ordo_oracle::{Completeness, InterfaceShape, Name, Recorder, What, check};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{Future, pending};
use std::io::BufWriter;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

/// How long everything may take to be delivered, once nothing fails any more. Messages that lost a worker are each
/// given to one that holds nothing else: a hundred of them, of slow work and short leases, take minutes.
const DRAINED_WITHIN: Duration = Duration::from_secs(500);
/// Messages that go through each interface after all faults, where that makes no more than `FRESH_MAX` in all; one at
/// least.
const FRESH: u64 = 10;
const FRESH_MAX: u64 = 1_000;
/// A slower worker would not be done with what gathered meanwhile.
const CONCURRENCY_MIN: u32 = 4;
/// What a slow reader's connection takes before it reads.
const SLOW_READER_BYTES: u32 = 256;
/// How long what was sent may be on its way, once no link is slow any more.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// Interfaces that are made at once.
const AT_ONCE: usize = 64;
/// How long anything waits before it is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// The clients of a run.
pub struct Workload {
    recorder: Recorder,
    hosts: Vec<String>,
    /// Ends those that make work.
    ending: CancellationToken,
    /// What came of the end: nothing yet, or why it is none.
    ended: Rc<RefCell<Option<Result<(), String>>>>,
}

/// What every client needs.
#[derive(Clone)]
struct Common {
    nodes: Arc<Vec<String>>,
    shape: Arc<Shape>,
    recorder: Recorder,
    seed: u64,
    ending: CancellationToken,
    /// How many of those who make work are at it.
    making: Rc<Cell<u32>>,
    /// The interfaces, once they are there.
    ready: watch::Receiver<Vec<InterfaceShape>>,
}

/// One of those who make work is at it, until this is dropped: also by a crash.
struct Making(Rc<Cell<u32>>);

impl Making {
    fn begin(making: &Rc<Cell<u32>>) -> Self {
        making.set(making.get() + 1);
        Self(Rc::clone(making))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// One life of a client's process.
struct Life {
    common: Common,
    name: String,
    cluster: Cluster,
    random: StdRng,
    interfaces: Vec<InterfaceShape>,
}

impl Workload {
    /// Puts the clients on their hosts.
    pub fn begin(
        sim: &mut Sim<'_>,
        nodes: &[String],
        shape: Shape,
        seed: u64,
        notes: &Notes,
    ) -> Self {
        let clock = notes.clone();
        let recorder = Recorder::new(move || Duration::from_micros(clock.now_us()));
        let (made, ready) = watch::channel(Vec::new());
        let common = Common {
            nodes: Arc::new(nodes.to_vec()),
            shape: Arc::new(shape),
            recorder: recorder.clone(),
            seed,
            ending: CancellationToken::new(),
            making: Rc::default(),
            ready,
        };
        let mut this = Self {
            recorder,
            hosts: Vec::new(),
            ending: common.ending.clone(),
            ended: Rc::default(),
        };
        this.clerk(sim, &common, made);
        this.makers(sim, &common);
        this.takers(sim, &common);
        this
    }

    /// Who makes the interfaces, and sees to the end.
    fn clerk(&self, sim: &mut Sim<'_>, common: &Common, made: watch::Sender<Vec<InterfaceShape>>) {
        let (common, ended, made) = (common.clone(), Rc::clone(&self.ended), Rc::new(made));
        sim.host("clerk", move || {
            let (common, ended, made) = (common.clone(), Rc::clone(&ended), Rc::clone(&made));
            async move {
                let cluster = wire::cluster(&common.nodes, sub_seed(common.seed, "clerk"));
                let shapes = declare(&common, &cluster).await;
                made.send_replace(shapes.clone());
                common.ending.cancelled().await;
                while common.making.get() > 0 {
                    tokio::time::sleep(AGAIN).await;
                }
                // What is on its way arrives, or never does.
                tokio::time::sleep(ON_ITS_WAY).await;
                let result = finish(&common, &cluster, &shapes).await;
                *ended.borrow_mut() = Some(result);
                pending().await
            }
        });
    }

    /// Those who make work: they end with the faults.
    fn makers(&mut self, sim: &mut Sim<'_>, common: &Common) {
        for at in 0..common.shape.producers {
            self.host(sim, common, &format!("p{at}"), produce);
        }
        self.host(sim, common, "reader", read);
        self.host(sim, common, "letters", operate);
        if common.shape.rogues[0] {
            self.host(sim, common, "rogue-p", rogue_produce);
        }
        if common.shape.rogues[1] {
            self.host(sim, common, "rogue-w", rogue_work);
        }
        // One of three, and nothing else of a run depends on it.
        if sub_seed(common.seed, "slow-w").is_multiple_of(3) {
            self.host(sim, common, "slow-w", read_late);
        }
        if common.shape.rogues[2] {
            self.host(sim, common, "rogue-c", rogue_consume);
        }
    }

    /// Those who do the work: they are there to the end.
    fn takers(&mut self, sim: &mut Sim<'_>, common: &Common) {
        for at in 0..common.shape.workers {
            self.host(sim, common, &format!("w{at}"), work);
        }
        if common.shape.narrow.is_some() {
            self.host(sim, common, "narrow-w", work_narrowly);
        }
        if common.shape.stalled {
            self.host(sim, common, "stalled-w", stall);
        }
        for at in 0..common.shape.consumers {
            self.host(sim, common, &format!("c{at}"), consume);
        }
    }

    fn host<F: Future<Output = ()> + 'static>(
        &mut self,
        sim: &mut Sim<'_>,
        common: &Common,
        name: &str,
        actor: fn(Life) -> F,
    ) {
        let (common, host, lives) = (common.clone(), name.to_owned(), AtomicU64::new(0));
        sim.host(name, move || {
            let life = lives.fetch_add(1, Ordering::Relaxed);
            let (mut common, host) = (common.clone(), host.clone());
            async move {
                // An actor that comes back after a crash has another name and other luck.
                let name = format!("{host}.{life}");
                let seed = sub_seed(common.seed, &name);
                let interfaces = common
                    .ready
                    .wait_for(|made| !made.is_empty())
                    .await?
                    .clone();
                actor(Life {
                    cluster: wire::cluster(&common.nodes, seed),
                    random: StdRng::seed_from_u64(seed),
                    common,
                    name,
                    interfaces,
                })
                .await;
                pending().await
            }
        });
        self.hosts.push(name.to_owned());
    }

    /// The clients' hosts that may crash.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Every client's host.
    pub fn all_hosts(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().cloned().chain(["clerk".to_owned()])
    }

    /// Notes a fault in the history.
    pub fn tell_fault(&self, fault: &dyn std::fmt::Debug) {
        self.recorder.fault(format!("{fault:?}"));
    }

    /// Lets those who make work end, and the rest come to its end.
    pub fn wind_down(&self) {
        self.ending.cancel();
    }

    /// Whether everything has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Judges the history.
    pub fn judge(&self, notes: &Notes, write_to: Option<&Path>) {
        let completeness = match &*self.ended.borrow() {
            Some(Ok(())) => Completeness::Healed,
            Some(Err(why)) => {
                notes.violation("everything_ends", why);
                Completeness::Cut
            }
            None => Completeness::Cut,
        };
        let mut history = self.recorder.take();
        if completeness == Completeness::Cut {
            // What was read while things still went on says nothing of how they end.
            let is_final = |event: &ordo_oracle::Event| matches!(event.what, What::Final { .. });
            let end = history.events.iter().position(is_final);
            history.events.truncate(end.unwrap_or(usize::MAX));
        }
        if let Some(path) = write_to {
            let written = File::create(path).map_err(Into::into);
            let written = written.and_then(|file| history.write(BufWriter::new(file)));
            if let Err(error) = written {
                eprintln!("cannot write {}: {error}", path.display());
            }
        }
        notes.line(format_args!("judging {} events", history.events.len()));
        for violation in check(&history, completeness) {
            notes.violation(violation.check, violation.show(&history, 5));
        }
    }
}

/// Makes the interfaces, as soon as there is a cluster.
async fn declare(common: &Common, cluster: &Cluster) -> Vec<InterfaceShape> {
    let scribe = &common.recorder.scribe("clerk");
    let declared = common
        .shape
        .interfaces
        .iter()
        .map(|(name, config)| async move {
            loop {
                match actors::declare(cluster, scribe, name, config.clone()).await {
                    Ok(shape) => return shape,
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        });
    stream::iter(declared).buffered(AT_ONCE).collect().await
}

/// Fresh messages go through every interface, and what came of everything is read.
async fn finish(
    common: &Common,
    cluster: &Cluster,
    shapes: &[InterfaceShape],
) -> Result<(), String> {
    let each = (FRESH_MAX / shapes.len() as u64).clamp(1, FRESH);
    let plan = actors::ProducerPlan {
        odds: ScriptOdds::NONE,
        repeats: 0,
        conflicts: 0,
        numbered: false,
        gives_up: false,
        ..actors::ProducerPlan::draw(
            &mut StdRng::seed_from_u64(sub_seed(common.seed, "fresh")),
            shapes,
            each * shapes.len() as u64,
        )
    };
    let scribe = common.recorder.scribe("fresh");
    let never = CancellationToken::new();
    let sent = actors::produce(cluster.clone(), scribe, plan, never);
    match tokio::time::timeout(DRAINED_WITHIN, sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("fresh messages are not accepted".to_owned()),
    }
    let names: Vec<Name> = shapes.iter().map(|shape| shape.name.clone()).collect();
    let scribe = common.recorder.scribe("clerk");
    let finished = actors::finish(cluster, &scribe, &names, DRAINED_WITHIN).await;
    finished.map_err(|error| error.to_string())
}

impl Life {
    fn scribe(&self) -> ordo_oracle::Scribe {
        self.common.recorder.scribe(self.name.as_str())
    }

    fn names(&self) -> Vec<Name> {
        self.interfaces
            .iter()
            .map(|shape| shape.name.clone())
            .collect()
    }

    fn stages(&self) -> Vec<Name> {
        let all = self.interfaces.iter().flat_map(|shape| &shape.stages);
        let names: std::collections::BTreeSet<Name> = all.map(|stage| stage.name.clone()).collect();
        names.into_iter().collect()
    }

    fn subscriptions(&self) -> Vec<(Name, Name)> {
        let all = self.interfaces.iter().flat_map(|shape| {
            let destinations = shape.destinations.iter();
            destinations.map(|destination| (shape.name.clone(), destination.name.clone()))
        });
        all.collect()
    }

    fn raw(&self) -> Raw {
        Raw::new(wire::connector(), self.common.nodes.iter().cloned())
    }
}

/// Waits for an actor whose plan the client library may refuse, which it never should.
async fn carried_out(actor: impl Future<Output = Result<(), ordo_client::ConfigError>>) {
    actor.await.expect("a drawn plan can be carried out");
}

async fn produce(mut life: Life) {
    let _making = Making::begin(&life.common.making);
    let messages = life.common.shape.messages;
    let mut plan = actors::ProducerPlan::draw(&mut life.random, &life.interfaces, messages);
    if life.common.shape.rush {
        plan.pace = Duration::ZERO;
    }
    let (scribe, ending) = (life.scribe(), life.common.ending.clone());
    carried_out(actors::produce(life.cluster, scribe, plan, ending)).await;
}

async fn read(mut life: Life) {
    let _making = Making::begin(&life.common.making);
    let names = life.names();
    let plan = actors::ReaderPlan::draw(&mut life.random, &names);
    let (scribe, ending) = (life.scribe(), life.common.ending.clone());
    actors::read(life.cluster, scribe, plan, ending).await;
}

async fn operate(mut life: Life) {
    let _making = Making::begin(&life.common.making);
    let names = life.names();
    let plan = actors::OperatorPlan::draw(&mut life.random, &names);
    let (scribe, ending) = (life.scribe(), life.common.ending.clone());
    actors::operate(life.cluster, scribe, plan, ending).await;
}

async fn rogue_produce(mut life: Life) {
    let _making = Making::begin(&life.common.making);
    let messages = life.common.shape.messages / 4;
    let plan = actors::RogueProducerPlan::draw(&mut life.random, &life.interfaces, messages);
    let (raw, scribe) = (life.raw(), life.scribe());
    actors::rogue_produce(raw, scribe, plan, life.common.ending.clone()).await;
}

async fn rogue_work(mut life: Life) {
    let _making = Making::begin(&life.common.making);
    let (stages, lease) = (life.stages(), life.common.shape.lease);
    let plan = actors::RogueWorkerPlan::draw(&mut life.random, &stages, lease);
    let (raw, scribe) = (life.raw(), life.scribe());
    actors::rogue_work(raw, scribe, plan, life.common.ending.clone()).await;
}

async fn read_late(mut life: Life) {
    let _making = Making::begin(&life.common.making);
    let (stages, lease) = (life.stages(), life.common.shape.lease);
    if stages.is_empty() {
        return;
    }
    let plan = actors::RogueWorkerPlan::draw_slow_reader(&mut life.random, &stages, lease);
    let nodes = life.common.nodes.iter().cloned();
    let raw = Raw::new(wire::narrow_connector(SLOW_READER_BYTES), nodes);
    let scribe = life.scribe();
    actors::rogue_work(raw, scribe, plan, life.common.ending.clone()).await;
}

async fn rogue_consume(mut life: Life) {
    let _making = Making::begin(&life.common.making);
    use rand::Rng;
    let all = life.subscriptions();
    let (interface, destination) = all[life.random.random_range(0..all.len())].clone();
    let plan = actors::RogueConsumerPlan::draw(&mut life.random, interface, destination);
    let (raw, scribe) = (life.raw(), life.scribe());
    actors::rogue_consume(raw, scribe, plan, life.common.ending.clone()).await;
}

async fn work(life: Life) {
    work_for(life, String::new()).await;
}

async fn work_narrowly(life: Life) {
    let prefix = life.common.shape.narrow.clone().unwrap_or_default();
    work_for(life, prefix).await;
}

async fn work_for(mut life: Life, interface_prefix: String) {
    let (stages, lease) = (life.stages(), life.common.shape.lease);
    if stages.is_empty() {
        return;
    }
    let mut plan = actors::WorkerPlan::draw(&mut life.random, &stages, lease);
    plan.concurrency = plan.concurrency.max(CONCURRENCY_MIN);
    plan.interface_prefix = interface_prefix;
    let never = CancellationToken::new();
    let scribe = life.scribe();
    carried_out(actors::work(life.cluster, scribe, plan, never)).await;
}

async fn stall(mut life: Life) {
    let stages = life.stages();
    if stages.is_empty() {
        return;
    }
    let plan = actors::StalledWorkerPlan::draw(&mut life.random, &stages);
    let (raw, scribe) = (life.raw(), life.scribe());
    actors::stall(raw, scribe, plan, CancellationToken::new()).await;
}

async fn consume(mut life: Life) {
    let subscriptions = life.subscriptions();
    let plan = actors::ConsumerPlan::draw(&mut life.random, &subscriptions);
    let never = CancellationToken::new();
    let scribe = life.scribe();
    carried_out(actors::consume(life.cluster, scribe, plan, never)).await;
}
