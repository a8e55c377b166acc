//! A running gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ordo_client::{Cluster, Consumer, Producer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{ConfigErrors, GatewayConfig, ListenConfig};
use crate::inbound::{Inbound, Intake, Lane, ReplyIds, Warnings};
use crate::outbound::Outbound;
use crate::refusals::Refusals;

/// The name under which people see a gateway's consumer.
const NAME: &str = "gateway";

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
    producers: Vec<Producer>,
    consumer: Option<Arc<Consumer>>,
    shutdown_max: std::time::Duration,
    tasks: TaskTracker,
    /// No new connections, frames or deliveries.
    stop: CancellationToken,
    /// Nothing is waited for any more.
    abort: CancellationToken,
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
            listeners.push(bind(listen).await?);
        }
        let mut gateway = Self {
            listening: listeners.iter().map(|(_, address)| *address).collect(),
            producers: Vec::new(),
            consumer: None,
            shutdown_max: config.shutdown,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        let reply_ids = Arc::new(ReplyIds::new());
        for (listen, (listener, address)) in config.listen.iter().zip(listeners) {
            // A producer of its own, so that an interface that is paused can't fill the queue of another.
            let producer = cluster.producer().start()?;
            gateway.producers.push(producer.clone());
            let interface = listen.interface.clone();
            let lane = Lane {
                producer,
                interface: interface.clone(),
            };
            tracing::info!(interface, %address, "MLLP listener");
            let inbound = Arc::new(Inbound {
                interface,
                limits: config.inbound.clone(),
                messages: listen.messages.clone(),
                refusals: refusals.clone(),
                intake: Intake::new(lane, gateway.tasks.clone(), gateway.abort.clone()),
                reply_ids: Arc::clone(&reply_ids),
                turned_away: watch::Sender::new(None),
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
            let outbound = Outbound::new(to.clone(), config.outbound.clone(), self.stop.clone());
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

    /// Stops: takes no new connections, frames or deliveries, finishes the message in flight on every connection (as
    /// long as [`GatewayConfig::shutdown`] allows; then it is cut off), and gives the grants back.
    pub async fn shutdown(self) {
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
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}

async fn bind(listen: &ListenConfig) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(listen.address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error| StartError::Listen {
        interface: listen.interface.clone(),
        address: listen.address,
        error,
    })
}
