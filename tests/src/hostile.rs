//! Clients that mean no good, the honest ones beside them, and what the nodes use meanwhile.

use crate::Nodes;
use crate::load::{Arrivals, message, staged, worker};
use anyhow::{Context, Result, ensure};
use ordo_client::{Cluster, Consumer, Worker};
use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::block_in_place;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What every HTTP/2 connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// HTTP/2 frame types and flags.
pub const DATA: u8 = 0;
/// A request's head, or a part of it.
pub const HEADERS: u8 = 1;
/// The end of one stream.
pub const RST_STREAM: u8 = 3;
/// Settings of the connection.
pub const SETTINGS: u8 = 4;
/// Asks for an answer.
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// More of a head.
pub const CONTINUATION: u8 = 9;
/// The head ends here.
pub const END_HEADERS: u8 = 4;

/// One HTTP/2 frame.
///
/// # Panics
/// When the payload has 16 MiB or more.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short");
    assert!(length < 1 << 24, "a frame's length has three bytes");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header as HPACK writes it without any table; names and values of fewer than 127 bytes.
///
/// # Panics
/// When one is longer.
#[must_use]
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
        bytes.push(length.expect("a short text"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The head of a gRPC request.
#[must_use]
pub fn request(stream: u32, path: &str) -> Vec<u8> {
    let head: Vec<u8> = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "ordo"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .flat_map(|(name, value)| header(name, value))
    .collect();
    frame(HEADERS, END_HEADERS, stream, &head)
}

/// A gRPC message, as a stream's data has it.
///
/// # Panics
/// When it has 4 GiB or more.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message is short");
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    framed
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this HTTP/2 error code.
    GoAway(u32),
    /// Without a word.
    Closed,
}

/// An HTTP/2 connection, written by hand.
#[derive(Debug)]
pub struct Raw(TcpStream);

impl Raw {
    /// Connects and greets, with `settings`: identifier and value.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut raw = Self(TcpStream::connect(address).await?);
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend(identifier.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat())
            .await?;
        Ok(raw)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// The next frame: type, stream and payload.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn next(&mut self) -> io::Result<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let [l0, l1, l2, kind, _flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        self.0.read_exact(&mut payload).await?;
        Ok((kind, u32::from_be_bytes(stream), payload))
    }

    /// Reads to the end.
    pub async fn ended(mut self) -> End {
        loop {
            match self.next().await {
                Ok((GOAWAY, _, payload)) => {
                    let code = payload.get(4..8).and_then(|code| code.try_into().ok());
                    return code.map_or(End::Closed, |code| End::GoAway(u32::from_be_bytes(code)));
                }
                Ok(_) => {}
                Err(_) => return End::Closed,
            }
        }
    }

    /// Writes `bytes` again and again until the node closes the connection, at most `per_second` times in a second;
    /// `None` when `stop` came first. Reads nothing meanwhile, so a node that answers has to stop reading in the end.
    pub async fn flood(
        mut self,
        mut bytes: impl FnMut(u32) -> Vec<u8>,
        per_second: u32,
        stop: &CancellationToken,
    ) -> Option<End> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        for n in 0.. {
            let sent = tokio::select! {
                () = stop.cancelled() => return None,
                sent = async {
                    ticks.tick().await;
                    self.send(&bytes(n)).await
                } => sent,
            };
            if sent.is_err() {
                break;
            }
        }
        Some(self.ended().await)
    }
}

/// A producer, a worker and a consumer at a steady rate.
#[derive(Debug)]
pub struct Honest {
    samples: Arc<Mutex<Samples>>,
    arrivals: Arrivals,
    stop: CancellationToken,
    producer: tokio::task::JoinHandle<Result<u64>>,
    _worker: Worker,
    _consumer: Arc<Consumer>,
}

#[derive(Debug, Default)]
struct Samples {
    sent: Vec<Instant>,
    /// From sending to the acknowledgement, and to the arrival at the consumer.
    accepted: Vec<Duration>,
    arrived: Vec<Duration>,
}

/// Latencies of a part of a run.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Messages that arrived.
    pub messages: usize,
    /// From sending to the acknowledgement.
    pub accepted_p99: Duration,
    /// From sending to the arrival at the consumer.
    pub arrived_p50: Duration,
    /// The same.
    pub arrived_p99: Duration,
}

/// The interface that the honest ones use.
pub const HONEST: &str = "honest";
/// Between two honest messages: 100 a second.
const PACE: Duration = Duration::from_millis(10);

impl Honest {
    /// Begins.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        cluster
            .admin()
            .create_interface(HONEST, staged(&["honest"]))
            .await?;
        let samples = Arc::new(Mutex::new(Samples::default()));
        let arrivals = Arrivals::default();
        let consumer = Arc::new(cluster.consumer().name(HONEST).start()?);
        let mut subscription = consumer.subscribe(HONEST);
        let (seen, times) = (arrivals.clone(), Arc::clone(&samples));
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = subscription.next().await {
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                let n = usize::try_from(delivery.sequence()).unwrap_or(usize::MAX);
                // A repeat is no new arrival.
                if n == times.arrived.len() + 1 {
                    let took = times.sent[n - 1].elapsed();
                    times.arrived.push(took);
                }
                seen.record(&delivery);
                drop(times);
                delivery.ack();
            }
        });
        let stop = CancellationToken::new();
        let sending = send_steadily(cluster.clone(), Arc::clone(&samples), stop.clone());
        Ok(Self {
            samples,
            arrivals,
            producer: tokio::spawn(sending),
            _worker: worker(cluster, &["honest"])?,
            _consumer: consumer,
            stop,
        })
    }

    /// How many have arrived, for [`Honest::since`].
    #[must_use]
    pub fn mark(&self) -> (usize, usize) {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        (samples.accepted.len(), samples.arrived.len())
    }

    /// What happened since then.
    #[must_use]
    pub fn since(&self, (accepted, arrived): (usize, usize)) -> Figures {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let sorted = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times
        };
        let accepted = sorted(&samples.accepted[accepted..]);
        let arrived = sorted(&samples.arrived[arrived..]);
        let at = |times: &[Duration], percent: usize| {
            let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(place).copied().unwrap_or_default()
        };
        Figures {
            messages: arrived.len(),
            accepted_p99: at(&accepted, 99),
            arrived_p50: at(&arrived, 50),
            arrived_p99: at(&arrived, 99),
        }
    }

    /// Stops sending, waits until everything has arrived, and checks it.
    ///
    /// # Errors
    /// When something is missing, or came out of order.
    pub async fn finish(self) -> Result<u64> {
        self.stop.cancel();
        let sent = tokio::time::timeout(crate::PATIENCE, self.producer)
            .await
            .context("an honest message was not accepted")???;
        crate::eventually("every honest message to arrive", async || {
            (self.arrivals.count(HONEST) as u64 >= sent).then_some(())
        })
        .await;
        let arrived = self.arrivals.of(HONEST)?;
        ensure!(arrived.len() as u64 == sent, "more arrived than was sent");
        for (n, arrival) in (1..).zip(&arrived) {
            let expected = crate::load::id(HONEST, n);
            ensure!(arrival.message_id == expected, "another message is {n}");
            ensure!(!arrival.skipped, "message {n} was skipped");
        }
        Ok(sent)
    }
}

async fn send_steadily(
    cluster: Cluster,
    samples: Arc<Mutex<Samples>>,
    stop: CancellationToken,
) -> Result<u64> {
    let producer = cluster.producer().start()?;
    let mut ticks = tokio::time::interval(PACE);
    let mut receipts = tokio::task::JoinSet::new();
    let mut n = 0;
    while !stop.is_cancelled() {
        ticks.tick().await;
        n += 1;
        let at = Instant::now();
        samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sent
            .push(at);
        let receipt = producer.enqueue(HONEST, message(HONEST, n)).await?;
        let samples = Arc::clone(&samples);
        receipts.spawn(async move {
            let accepted = receipt.await?;
            ensure!(accepted.sequence == n, "{n} got {}", accepted.sequence);
            let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.accepted.push(at.elapsed());
            Ok(())
        });
        while let Some(done) = receipts.try_join_next() {
            done??;
        }
    }
    while let Some(done) = receipts.join_next().await {
        done??;
    }
    Ok(n)
}

/// What the nodes used at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory of the largest node, in bytes.
    pub memory_bytes: u64,
    /// File descriptors of the node that had most.
    pub descriptors: usize,
}

/// Looks at the nodes' memory and file descriptors all the time, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    peak: Arc<Mutex<Usage>>,
    _stop: DropGuard,
}

impl Watch {
    /// Begins.
    #[must_use]
    pub fn start(nodes: &Nodes) -> Self {
        let processes: Vec<u32> = nodes.nodes.iter().filter_map(crate::Node::pid).collect();
        let peak = Arc::new(Mutex::new(Usage::default()));
        let stop = CancellationToken::new();
        let (seen, until) = (Arc::clone(&peak), stop.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            while !until.is_cancelled() {
                ticks.tick().await;
                for process in &processes {
                    let now = usage(*process);
                    let mut peak = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    peak.memory_bytes = peak.memory_bytes.max(now.memory_bytes);
                    peak.descriptors = peak.descriptors.max(now.descriptors);
                }
            }
        });
        Self {
            peak,
            _stop: stop.drop_guard(),
        }
    }

    /// The peaks since the last call.
    #[must_use]
    pub fn take(&self) -> Usage {
        std::mem::take(&mut *self.peak.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a process uses now; nothing once it is gone.
#[must_use]
pub fn usage(process: u32) -> Usage {
    const PAGE_BYTES: u64 = 4_096;
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    Usage {
        memory_bytes: pages.unwrap_or(0_u64) * PAGE_BYTES,
        descriptors: std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count),
    }
}

/// Floods, one after the other, beside honest clients: what these notice, and what the nodes use meanwhile.
#[derive(Debug)]
pub struct Floods {
    honest: Honest,
    watch: Watch,
    table: Table,
    flooders: Flooders,
}

/// Whoever floods has a machine of its own, as far as that can be had on one: threads of the lowest priority, which get
/// what the nodes and the honest ones leave of the processors.
#[derive(Debug)]
struct Flooders(Option<Runtime>);

impl Flooders {
    fn new() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(give_way)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs `flood` to its end, on a thread of their own.
    fn run<T: Send>(&self, flood: impl AsyncFnOnce() -> T + Send) -> T {
        let runtime = self.0.as_ref().expect("it goes when this is dropped");
        let run = || {
            give_way();
            runtime.block_on(flood())
        };
        let ran = block_in_place(|| thread::scope(|scope| scope.spawn(run).join()));
        ran.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Flooders {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers this thread's priority.
fn give_way() {
    rustix::process::nice(19).expect("a thread may lower its priority");
}

impl Floods {
    /// Begins: the honest ones are at it, and the heading is printed.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn begin(cluster: &Cluster, nodes: &Nodes) -> Result<Self> {
        let honest = Honest::start(cluster).await?;
        crate::eventually("the honest ones to begin", async || {
            (honest.mark().1 > 100).then_some(())
        })
        .await;
        Ok(Self {
            honest,
            watch: Watch::start(nodes),
            table: Table::new(),
            flooders: Flooders::new()?,
        })
    }

    /// A row of nothing but the honest ones. The first one is what all others are compared with.
    pub async fn quiet(&mut self, name: &str, lasts: Duration) {
        let mark = self.honest.mark();
        tokio::time::sleep(lasts).await;
        let figures = self.honest.since(mark);
        self.table.row(name, figures, self.watch.take(), "");
    }

    /// A row of one flood, which is told to stop after a while. Whatever it did, honest messages arrive afterwards, if
    /// not during it. Answers what the nodes used.
    pub async fn flood(
        &mut self,
        name: &str,
        lasts: Duration,
        flood: impl AsyncFnOnce(CancellationToken) -> String + Send,
    ) -> Usage {
        let (mark, stop) = (self.honest.mark(), CancellationToken::new());
        let after = stop.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            after.cancel();
        });
        let outcome = self.flooders.run(async || flood(stop).await);
        timer.await.expect("it only sleeps");
        let arrived = self.honest.mark().1;
        crate::eventually("an honest message to arrive", async || {
            (self.honest.mark().1 > arrived).then_some(())
        })
        .await;
        let usage = self.watch.take();
        let figures = self.honest.since(mark);
        self.table.row(name, figures, usage, &outcome);
        usage
    }

    /// Ends: every honest message has arrived, once and in order.
    ///
    /// # Errors
    /// When one has not.
    pub async fn finish(self) -> Result<()> {
        let sent = self.honest.finish().await?;
        println!("{sent} honest messages accepted and delivered in order");
        Ok(())
    }
}

/// The rows of a run: what was done, and what became of the honest ones.
#[derive(Debug)]
struct Table {
    quiet: Option<Figures>,
}

impl Table {
    /// Prints the heading.
    fn new() -> Self {
        println!(
            "{:<34}{:>9}{:>12}{:>12}{:>12}{:>8}{:>8}{:>6}  what became of it",
            "", "messages", "ack p99", "arrive p50", "arrive p99", "x", "MiB", "fds"
        );
        Self { quiet: None }
    }

    /// Prints a row. The first one is what the others are compared with.
    fn row(&mut self, name: &str, figures: Figures, usage: Usage, outcome: &str) {
        let quiet = *self.quiet.get_or_insert(figures);
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1_000.0);
        println!(
            "{name:<34}{:>9}{:>12}{:>12}{:>12}{:>8.2}{:>8}{:>6}  {outcome}",
            figures.messages,
            ms(figures.accepted_p99),
            ms(figures.arrived_p50),
            ms(figures.arrived_p99),
            figures.arrived_p99.as_secs_f64() / quiet.arrived_p99.as_secs_f64(),
            usage.memory_bytes >> 20,
            usage.descriptors,
        );
    }
}
