//! What a step of the dispatcher costs, against how much there is that it has nothing to do with.
//!
//! The size that counts takes a while, and prints a table:
//!
//! ```text
//! cargo test --release -p ordo-node --lib -- --ignored --nocapture what_a_step_costs
//! ```

use super::*;
use std::time::Duration;

/// How much there is.
#[derive(Clone, Copy)]
struct Size {
    /// Interfaces with messages that nobody serves.
    interfaces: usize,
    /// Names of stages that they have between them.
    stage_names: usize,
    /// Workers whose prefix nothing begins with.
    workers: usize,
    /// Assignments in other workers' hands.
    held: usize,
    /// Messages that lost a worker, and that nobody may take.
    alone: usize,
    /// Messages waiting on one interface that is changed.
    waiting: usize,
}

const WHOLE: Size = Size {
    interfaces: 25_000,
    stage_names: 10_000,
    workers: 1_000,
    held: 500_000,
    alone: 10_000,
    waiting: 100_000,
};

impl Size {
    const fn part(self, of: usize) -> Self {
        Self {
            interfaces: self.interfaces / of,
            stage_names: self.stage_names / of,
            workers: self.workers / of,
            held: self.held / of,
            alone: self.alone / of,
            waiting: self.waiting / of,
        }
    }
}

/// Assignments in one worker's hands.
const HELD_EACH: usize = 50_000;
/// Times that each step is done.
const TIMES: u32 = 50;

/// What one step cost on average.
struct Cost {
    what: &'static str,
    steps: u64,
    time: Duration,
}

fn id(n: usize) -> InterfaceId {
    InterfaceId(Uuid::from_u128(n as u128 + 1))
}

/// The interface that a worker serves.
const SERVED: usize = 1_000_000;
/// The one with messages that wait.
const CHANGED: usize = 1_000_001;
/// The one whose messages are held.
const HELD: usize = 1_000_002;
/// The first of those that have no message yet.
const FRESH: usize = 3_000_000;
/// The first of those whose messages were lost.
const LOST: usize = 2_000_000;

impl World {
    fn create(&mut self, n: usize, name: String, stages_of: &[&str]) {
        let mut config = InterfaceConfig {
            window: 1_000_000,
            ..stages(stages_of)
        };
        if n == SERVED {
            config.stages[0].lease_ms = 100;
        }
        let interface = id(n);
        self.apply(vec![Command::CreateInterface(CreateInterface {
            interface,
            name,
            config,
        })]);
    }

    fn fill(&mut self, n: usize, count: usize) {
        for from in (0..count).step_by(1_000) {
            let ingest = |m: usize| {
                Command::Ingest(Ingest {
                    interface: id(n),
                    message_id: MessageId(Uuid::from_u128((n as u128) << 64 | m as u128)),
                    digest: Digest([0; 16]),
                    payload: Bytes::from_static(b"x"),
                    headers: Vec::new(),
                    numbered: None,
                    session: None,
                })
            };
            let some = (from..count.min(from + 1_000)).map(ingest);
            self.apply(some.collect());
        }
    }

    fn of_size(size: Size) -> Self {
        let mut world = Self::new(&[]);
        world.create(SERVED, "served".into(), &["parse"]);
        world.create(CHANGED, "changed".into(), &["wait"]);
        world.create(HELD, "held".into(), &["parse"]);
        let lost = size.alone.div_ceil(10);
        for n in 0..lost {
            world.create(LOST + n, format!("lost/{n}"), &["parse"]);
            world.fill(LOST + n, size.alone / lost);
        }
        let all = u32::try_from(size.alone).unwrap();
        let mut victim = world.join_with(1, &["parse"], all, "lost/", &[]);
        assert_eq!(victim.given().len(), size.alone);
        world.leave(&victim);
        world.pass(1_000);
        for n in 0..size.interfaces {
            let own = format!("own-{}", n % size.stage_names);
            world.create(n, format!("site/{n}"), &["parse", &own]);
            world.fill(n, 1);
        }
        for n in 0..TIMES as usize {
            world.create(FRESH + n, format!("site/fresh/{n}"), &["parse"]);
        }
        world.fill(CHANGED, size.waiting);
        world.fill(HELD, size.held);
        for n in 0..size.held.div_ceil(HELD_EACH) {
            let most = u32::try_from(HELD_EACH).unwrap();
            let mut holder = world.join_with(100 + n as u128, &["parse"], most, "held", &[]);
            assert!(!holder.given().is_empty());
            // Nobody reads its stream any more, which is no end of it.
            std::mem::forget(holder);
        }
        for n in 0..size.workers {
            let own = format!("own-{}", n % size.stage_names);
            let prefix = format!("nobody/{n}");
            let worker = world.join_with(1_000 + n as u128, &["parse", &own], 8, &prefix, &[]);
            std::mem::forget(worker);
        }
        world
    }

    fn cost(&mut self, what: &'static str, mut step: impl FnMut(&mut Self)) -> Cost {
        let (before, began) = (self.dispatcher.steps, std::time::Instant::now());
        for _ in 0..TIMES {
            step(self);
        }
        Cost {
            what,
            steps: (self.dispatcher.steps - before) / u64::from(TIMES),
            time: began.elapsed() / TIMES,
        }
    }

    fn dispatch(&mut self) {
        self.dispatcher.dispatch(&self.state, self.now);
        self.dispatcher.flush();
    }
}

fn costs(size: Size) -> Vec<Cost> {
    let mut world = World::of_size(size);
    let mut worker = world.join_with(2, &["parse"], 4, "served", &[]);
    let mut n = 0;
    let mut costs = vec![
        world.cost("a round with nothing to do", World::dispatch),
        world.cost("a message that nobody serves", |world| {
            world.fill(FRESH + n, 1);
            n += 1;
        }),
        world.cost("a lost message that nobody may take", |world| {
            let place = Place {
                interface: id(LOST),
                sequence: Sequence(1),
            };
            world.dispatcher.work(&world.state, place, world.now);
            world.dispatch();
        }),
    ];
    // The state's own work is not what is measured.
    world.fill(SERVED, TIMES as usize + 4);
    let mut given = worker.given();
    costs.push(world.cost("a message given out", |world| {
        let place = given.remove(0).place;
        world.dispatcher.free(place);
        world.dispatch();
        given.extend(worker.given());
    }));
    costs.push(world.cost("an idle worker comes and goes", |world| {
        let worker = world.join_with(3, &["parse"], 4, "served/not", &[]);
        world.leave(&worker);
    }));
    costs.push(world.cost("a stage that nobody has", |world| {
        let worker = world.join_with(3, &["parsley"], 4, "served/not", &[]);
        world.leave(&worker);
    }));
    let (push, _pushes) = unbounded_channel();
    let id_of = WorkerId(Uuid::from_u128(2));
    let push = || push.clone();
    costs.push(
        world.cost("a worker comes back with what it holds", |world| {
            let hello = WorkerHello {
                session: SessionId::next(),
                worker: id_of,
                name: "back".into(),
                stages: vec!["parse".into()],
                interface_prefix: "served".into(),
                holds: given.iter().map(hold).collect(),
                credits: 4,
                silent: Arc::default(),
                push: push(),
            };
            world.dispatcher.join(&world.state, hello, world.now);
            world.dispatch();
        }),
    );
    let interface = world.state.interface(id(CHANGED)).unwrap();
    let mut config = InterfaceConfig::clone(&interface.config);
    let mut version = interface.config_version;
    costs.push(world.cost("an interface is changed", |world| {
        config.backlog += 1;
        world.apply(vec![Command::UpdateInterface(UpdateInterface {
            interface: id(CHANGED),
            config_version: version,
            config: config.clone(),
        })]);
        version += 1;
    }));
    // The others' leases are longer.
    costs.push(world.cost("leases that were extended", |world| {
        world.now.cluster = world.now.cluster.after_ms(200);
        let holds: Vec<Hold> = given.iter().map(hold).collect();
        let session = world.dispatcher.sessions[&id_of];
        let (state, now) = (&world.state, world.now);
        world.dispatcher.extend(state, session, &holds, now);
        world.dispatcher.tick(&world.state, world.now);
    }));
    costs
}

#[test]
fn a_step_costs_no_more_where_there_is_more_that_it_has_nothing_to_do_with() {
    let (small, large) = (costs(WHOLE.part(1_000)), costs(WHOLE.part(50)));
    for (small, large) in small.iter().zip(&large) {
        assert!(
            large.steps <= small.steps + 2 && large.steps < 40,
            "{}: {} steps, and {} with 20 times as much",
            small.what,
            small.steps,
            large.steps
        );
    }
}

#[test]
#[ignore = "half a million assignments take a while; it measures"]
fn what_a_step_costs_at_a_hundredth_a_tenth_and_the_whole_size() {
    let sizes = [100, 10, 1].map(|part| costs(WHOLE.part(part)));
    for n in 0..sizes[0].len() {
        let of = |size: &Vec<Cost>| format!("{} steps {:?}", size[n].steps, size[n].time);
        println!(
            "{:40} | {} | {} | {}",
            sizes[0][n].what,
            of(&sizes[0]),
            of(&sizes[1]),
            of(&sizes[2])
        );
    }
}
