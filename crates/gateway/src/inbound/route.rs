//! Which interface a message is for, on an address that takes messages for many.
//!
//! Each message is looked at for itself: the fields that the listener's template names are filled in, what that makes is
//! looked up in its table of names, and what is not there is the interface's name itself. An interface that the cluster
//! does not have is unknown: its messages are rejected, or it is created like another one. What no name can be made of is
//! rejected, and the reply names the field.
//!
//! An interface costs some hundred bytes here, from its first message on: it has no task, no connection and no queue of
//! its own. All of an address share one producer; how much of its queue one interface may take is bounded, so that one
//! that is paused does not keep the others waiting.
//!
//! # Room for keys
//! Once messages have keys, a listener's `key = "PID-3"` is read where the interface is: in [`Lanes::of`] the header is at
//! hand, and the target it returns is what a message is handed to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ordo_client::proto::InterfaceConfig;
use ordo_client::{Admin, CallError, Reason};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::intake::{Intake, Sink};
use crate::ack::{ErrorCondition, Outcome, Refusal};
use crate::config::Unknown;
use crate::msh::Msh;
use crate::template::Template;

/// Interfaces remembered at most; past it those with nothing on its way are forgotten, and asked for again.
const LANES_MAX: usize = 50_000;
/// Questions to the cluster at once.
const ASKED_AT_ONCE: usize = 16;
/// The pause before a question that found no leader is asked again.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// How long a count of the cluster's interfaces is good for: another gateway may create some, too.
const COUNTED_FOR: Duration = Duration::from_secs(5);

/// Where an interface's messages are handed over.
pub(crate) struct Target<K> {
    pub(crate) interface: String,
    pub(crate) intake: Intake<K>,
}

/// The interfaces of one listening address.
pub(crate) enum Lanes<K> {
    /// Everything that comes in belongs to one.
    One(Arc<Target<K>>),
    /// Each message says which.
    Many(Box<Many<K>>),
}

/// Begins to hand messages to an interface.
type Open<K> = dyn Fn(&str) -> Intake<K> + Send + Sync;

/// Interfaces that are found by their messages' headers.
pub(crate) struct Many<K> {
    route: Route,
    directory: Box<dyn Directory>,
    open: Box<Open<K>>,
    known: Mutex<HashMap<String, Arc<Target<K>>>>,
    asked: Semaphore,
}

/// How a header names an interface.
pub(crate) struct Route {
    template: Template,
    names: BTreeMap<String, String>,
    /// What the table leads to: nobody else's fields may.
    taken: BTreeSet<String>,
}

impl Route {
    pub(crate) fn new(template: Template, names: BTreeMap<String, String>) -> Self {
        let taken = names.values().cloned().collect();
        Self {
            template,
            names,
            taken,
        }
    }

    fn interface_of(&self, msh: &Msh<'_>) -> Result<String, Refusal> {
        let made = self.template.fill(msh)?;
        let named = std::str::from_utf8(&made).ok();
        if let Some(name) = named.and_then(|made| self.names.get(made)) {
            return Ok(name.clone());
        }
        self.template.check(msh, &made)?;
        match String::from_utf8(made) {
            Ok(name) if !self.taken.contains(&name) => Ok(name),
            // By that name the table knows others; what is no UTF-8 was refused before.
            _ => Err(self.unknown()),
        }
    }

    /// The refusal of a message whose interface does not exist. It says by which fields it was looked for.
    fn unknown(&self) -> Refusal {
        let fields = self.template.fields();
        self.refusal(format!(
            "{fields} name an interface that does not exist and is not created here"
        ))
    }

    fn refusal(&self, text: String) -> Refusal {
        Refusal {
            msh_field: self.template.first_field(),
            ..Refusal::new(ErrorCondition::Internal, text)
        }
    }
}

/// Where it is known which interfaces there are. The cluster, but for tests.
pub(crate) trait Directory: Send + Sync + 'static {
    /// Looks for an interface, and makes it where it is missing and may be made.
    fn find(&self, name: String) -> BoxFuture<'_, Result<Found, CallError>>;
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It exists.
    There,
    /// It does not exist.
    Missing,
    /// It does not exist, and no more are created.
    Full {
        /// How many there may be.
        cap: usize,
    },
    /// It does not exist, and nor does the interface that it is to be made like.
    NoTemplate,
}

impl<K: Sink> Lanes<K> {
    pub(crate) fn many(
        route: Route,
        directory: impl Directory,
        open: impl Fn(&str) -> Intake<K> + Send + Sync + 'static,
    ) -> Self {
        Self::Many(Box::new(Many {
            route,
            directory: Box::new(directory),
            open: Box::new(open),
            known: Mutex::default(),
            asked: Semaphore::new(ASKED_AT_ONCE),
        }))
    }

    /// Where a message with this header is handed over. Waits for a leader as long as it takes where the interface is
    /// not known here yet.
    pub(super) async fn of(&self, msh: &Msh<'_>) -> Result<Arc<Target<K>>, Outcome> {
        match self {
            Self::One(target) => Ok(Arc::clone(target)),
            Self::Many(many) => {
                let name = many.route.interface_of(msh).map_err(Outcome::Rejected)?;
                if let Some(target) = many.known().get(&name) {
                    return Ok(Arc::clone(target));
                }
                many.find(name).await
            }
        }
    }

    /// An interface that was found is no more: it is looked for again, where messages say for which they are.
    pub(super) fn forget(&self, interface: &str) -> bool {
        match self {
            Self::One(_) => false,
            Self::Many(many) => many.known().remove(interface).is_some(),
        }
    }
}

impl<K: Sink> Many<K> {
    async fn find(&self, name: String) -> Result<Arc<Target<K>>, Outcome> {
        let found = loop {
            let asked = {
                let _turn = self.asked.acquire().await;
                self.directory.find(name.clone()).await
            };
            match asked {
                Ok(found) => break found,
                Err(CallError::Refused(refusal)) if !refusal.is_transient() => {
                    let text = refusal.text.clone();
                    return Err(Outcome::Failed(self.route.refusal(text)));
                }
                // Delayed, as every message without a leader is.
                Err(_) => sleep(ASKED_EVERY).await,
            }
        };
        match found {
            Found::There => Ok(self.open(name)),
            Found::Missing => Err(Outcome::Rejected(self.route.unknown())),
            Found::Full { cap } => {
                let fields = self.route.template.fields();
                let text = format!(
                    "{fields} name an interface that does not exist, and no more are created: there are {cap} already"
                );
                Err(Outcome::Rejected(self.route.refusal(text)))
            }
            Found::NoTemplate => {
                let text = "the interface that new ones are made like does not exist";
                Err(Outcome::Failed(self.route.refusal(text.to_owned())))
            }
        }
    }

    fn open(&self, name: String) -> Arc<Target<K>> {
        let mut known = self.known();
        if known.len() >= LANES_MAX {
            known.retain(|_, target| Arc::strong_count(target) > 1 || !target.intake.is_idle());
        }
        let open = || {
            let intake = (self.open)(&name);
            let interface = name.clone();
            Arc::new(Target { interface, intake })
        };
        Arc::clone(known.entry(name.clone()).or_insert_with(open))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Target<K>>>> {
        // Nothing in there can be left half changed by a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cluster's interfaces.
pub(crate) struct ClusterDirectory {
    admin: Admin,
    unknown: Unknown,
    /// What the names of all that are made begin with: those are counted.
    prefix: String,
    counted: tokio::sync::Mutex<Option<Counted>>,
}

struct Counted {
    at: Instant,
    count: usize,
}

impl ClusterDirectory {
    pub(crate) fn new(admin: Admin, unknown: Unknown, prefix: String) -> Self {
        Self {
            admin,
            unknown,
            prefix,
            counted: tokio::sync::Mutex::default(),
        }
    }

    async fn exists(&self, name: &str) -> Result<Option<InterfaceConfig>, CallError> {
        match self.admin.get_interface(name).await {
            Ok(interface) => Ok(Some(interface.config.unwrap_or_default())),
            Err(CallError::Refused(refusal)) if refusal.reason == Reason::UnknownInterface => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn create(&self, name: &str, template: &str, cap: usize) -> Result<Found, CallError> {
        // One at a time, so that the count is right.
        let mut counted = self.counted.lock().await;
        if self.exists(name).await?.is_some() {
            return Ok(Found::There);
        }
        let fresh = counted
            .take()
            .filter(|counted| counted.at.elapsed() < COUNTED_FOR);
        let mut now = match fresh {
            Some(counted) => counted,
            None => Counted {
                at: Instant::now(),
                count: self.admin.all_interfaces(&self.prefix).await?.len(),
            },
        };
        if now.count >= cap {
            *counted = Some(now);
            return Ok(Found::Full { cap });
        }
        let Some(mut config) = self.exists(template).await? else {
            tracing::warn!(
                template,
                "the interface that new ones are made like does not exist"
            );
            return Ok(Found::NoTemplate);
        };
        // One that is only there to be copied is best kept paused.
        config.paused = false;
        match self.admin.create_interface(name, config).await {
            Ok(_) => {
                tracing::info!(interface = name, template, "created for a new sender");
                now.count += 1;
            }
            // By another gateway, meanwhile.
            Err(CallError::Refused(refusal)) if refusal.reason == Reason::InterfaceExists => {}
            Err(error) => return Err(error),
        }
        *counted = Some(now);
        Ok(Found::There)
    }
}

impl Directory for ClusterDirectory {
    fn find(&self, name: String) -> BoxFuture<'_, Result<Found, CallError>> {
        Box::pin(async move {
            if self.exists(&name).await?.is_some() {
                return Ok(Found::There);
            }
            match &self.unknown {
                Unknown::Refuse => Ok(Found::Missing),
                Unknown::Create { template, cap } => self.create(&name, template, *cap).await,
            }
        })
    }
}
