//! A running gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ordo_client::{Cluster, Consumer, Producer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{ConfigErrors, GatewayConfig, ListenConfig};
use crate::inbound::{
    ClusterDirectory, Crowd, Inbound, Intake, Lane, Lanes, ReplyIds, Route, SHARE_BYTES, Target,
    Warnings,
};
use crate::metrics::Metrics;
use crate::outbound::{Many, Outbound};
use crate::refusals::Refusals;
use crate::template::Template;
use crate::watch::{Standing, watch};

/// The name under which people see a gateway's consumer.
const NAME: &str = "gateway";
/// What may be on its way from an address for many interfaces, in bytes: the shares of 256 of them.
const MANY_BYTES_MAX: usize = 256 * SHARE_BYTES;

/// Why a gateway can't be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its configuration holds wrong values.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// It can't listen on an address.
    #[error("interface {interface}: can't listen on {address}: {error}")]
    Listen {
        /// The interface whose messages were to come in there.
        interface: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// Its folder can't be used.
    #[error("state: can't use {}: {error}", folder.display())]
    State {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It can't listen on the address of its pages.
    #[error("http: can't listen on {address}: {error}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The client library refuses a setting.
    #[error(transparent)]
    Client(#[from] ordo_client::ConfigError),
}

/// A running gateway: MLLP listeners that feed interfaces, and senders that deliver to receivers.
///
/// Dropped without [`Gateway::shutdown`], it stops at once: what is in flight is cut off, and sent again later by
/// whoever had no answer.
pub struct Gateway {
    listening: Vec<SocketAddr>,
    http: Option<SocketAddr>,
    standing: Arc<Standing>,
    metrics: Metrics,
    producers: Vec<Producer>,
    consumer: Option<Arc<Consumer>>,
    shutdown_max: std::time::Duration,
    tasks: TaskTracker,
    /// No new connections, frames or deliveries.
    stop: CancellationToken,
    /// Nothing is waited for any more.
    abort: CancellationToken,
    /// Nothing is told any more of how it stands.
    ended: CancellationToken,
}

impl Gateway {
    /// Binds every address of `config` and begins. Whether the cluster can be reached shows later: until then replies
    /// are delayed.
    ///
    /// # Errors
    /// The configuration holds wrong values, or an address can't be listened on. Then nothing runs.
    pub async fn start(config: GatewayConfig, cluster: &Cluster) -> Result<Self, StartError> {
        config.check()?;
        let refusals = match &config.state {
            None => Refusals::in_memory(),
            Some(folder) => Refusals::open(folder).map_err(|error| StartError::State {
                folder: folder.clone(),
                error,
            })?,
        };
        let mut listeners = Vec::with_capacity(config.listen.len());
        for listen in &config.listen {
            let bound = bind(listen.address).await;
            listeners.push(bound.map_err(|error| StartError::Listen {
                interface: listen.interface.clone(),
                address: listen.address,
                error,
            })?);
        }
        let pages = match config.http {
            None => None,
            Some(address) => {
                let bound = bind(address).await;
                let bound = bound.map_err(|error| StartError::Http { address, error })?;
                tracing::info!(address = %bound.1, "health and metrics");
                Some(bound)
            }
        };
        let mut gateway = Self {
            listening: listeners.iter().map(|(_, address)| *address).collect(),
            http: pages.as_ref().map(|(_, address)| *address),
            standing: Arc::new(Standing::new()),
            metrics: Metrics::new(),
            producers: Vec::new(),
            consumer: None,
            shutdown_max: config.shutdown,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        gateway.tell_how_it_stands(cluster, pages.map(|(listener, _)| listener));
        let reply_ids = Arc::new(ReplyIds::new());
        for (listen, (listener, address)) in config.listen.iter().zip(listeners) {
            let interface = listen.interface.clone();
            tracing::info!(interface, %address, "MLLP listener");
            let inbound = Arc::new(Inbound {
                interface,
                limits: config.inbound.clone(),
                messages: listen.messages.clone(),
                refusals: refusals.clone(),
                lanes: gateway.lanes(listen, cluster)?,
                crowd: Crowd::new(config.inbound.connections),
                metrics: gateway.metrics.clone(),
                reply_ids: Arc::clone(&reply_ids),
                warnings: Warnings::default(),
                stop: gateway.stop.clone(),
                abort: gateway.abort.clone(),
                tasks: gateway.tasks.clone(),
            });
            gateway.tasks.spawn(inbound.listen(listener));
        }
        gateway.start_senders(&config, cluster)?;
        Ok(gateway)
    }

    /// Where the messages of a listening address are handed over.
    fn lanes(
        &mut self,
        listen: &ListenConfig,
        cluster: &Cluster,
    ) -> Result<Lanes<Lane>, StartError> {
        let (tasks, abort) = (self.tasks.clone(), self.abort.clone());
        let Ok(template) = Template::parse(&listen.interface) else {
            // A producer of its own, so that an interface that is paused can't fill the queue of another.
            let producer = cluster.producer().start()?;
            self.producers.push(producer.clone());
            let interface = listen.interface.clone();
            let lane = Lane {
                producer,
                interface: interface.clone(),
                share: None,
            };
            let intake = Intake::new(lane, tasks, abort);
            return Ok(Lanes::One(Arc::new(Target { interface, intake })));
        };
        let producer = cluster.producer().queue_bytes_max(MANY_BYTES_MAX).start()?;
        self.producers.push(producer.clone());
        let open = move |interface: &str| {
            let lane = Lane {
                producer: producer.clone(),
                interface: interface.to_owned(),
                share: Some(Arc::new(Semaphore::new(SHARE_BYTES))),
            };
            Intake::new(lane, tasks.clone(), abort.clone())
        };
        let prefix = template.prefix().to_owned();
        let directory = ClusterDirectory::new(cluster.admin(), listen.unknown.clone(), prefix);
        let route = Route::new(template, listen.names.clone());
        Ok(Lanes::many(route, directory, open))
    }

    fn tell_how_it_stands(&self, cluster: &Cluster, pages: Option<TcpListener>) {
        if let Some(listener) = pages {
            tokio::spawn(crate::http::serve(
                listener,
                self.metrics.clone(),
                Arc::clone(&self.standing),
                self.ended.clone(),
            ));
        }
        let standing = Arc::clone(&self.standing);
        let (cluster, metrics, ended) = (cluster.clone(), self.metrics.clone(), self.ended.clone());
        tokio::spawn(async move { watch(&standing, &cluster, &metrics, &ended).await });
    }

    fn start_senders(
        &mut self,
        config: &GatewayConfig,
        cluster: &Cluster,
    ) -> Result<(), StartError> {
        if config.send.is_empty() {
            return Ok(());
        }
        let consumer = cluster
            .consumer()
            .name(NAME)
            .close_max(config.shutdown)
            .start()?;
        let consumer = Arc::new(consumer);
        for to in &config.send {
            tracing::info!(
                interface = to.interface,
                destination = to.destination,
                address = to.address,
                "MLLP sender"
            );
            if to.prefix().is_some() {
                let many = Many {
                    to: to.clone(),
                    limits: config.outbound.clone(),
                    metrics: self.metrics.clone(),
                    admin: cluster.admin(),
                    stop: self.stop.clone(),
                    abort: self.abort.clone(),
                    tasks: self.tasks.clone(),
                };
                self.tasks.spawn(many.run(Arc::clone(&consumer)));
                continue;
            }
            let outbound = Outbound::new(
                to.clone(),
                config.outbound.clone(),
                self.metrics.clone(),
                self.stop.clone(),
            );
            let (consumer, abort) = (Arc::clone(&consumer), self.abort.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = abort.cancelled() => {}
                    () = outbound.run(&consumer) => {}
                }
            });
        }
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Where it listens, in the order of the configuration, with the ports that were taken for port 0.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Where `/healthz`, `/readyz` and `/metrics` are, where they were asked for.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Stops: takes no new connections, frames or deliveries, finishes the message in flight on every connection (as
    /// long as [`GatewayConfig::shutdown`] allows; then it is cut off), and gives the grants back.
    pub async fn shutdown(self) {
        self.standing.stop();
        self.stop.cancel();
        self.tasks.close();
        if timeout(self.shutdown_max, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "messages in flight are cut off; their senders will send them again"
            );
            self.abort.cancel();
            self.tasks.wait().await;
        }
        if let Some(consumer) = &self.consumer {
            consumer.close().await;
        }
        for producer in &self.producers {
            // Nobody waits for what is left there: it goes on for a moment, and is sent again by its senders.
            if timeout(CLOSE_MAX, producer.close()).await.is_err() {
                tracing::debug!("a producer was left with messages unanswered");
            }
        }
    }
}

/// How long a producer may take to say goodbye once nobody waits for its answers.
const CLOSE_MAX: std::time::Duration = std::time::Duration::from_millis(200);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abort.cancel();
        self.ended.cancel();
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}

async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
