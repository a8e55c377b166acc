//! Whose data folder this is: IDENTITY and LOCK.
//!
//! IDENTITY holds the node's number, a random storage id drawn at first start and, once the node belongs to one, the
//! cluster's id. Membership names (number, storage id), so that a node whose folder was lost is another node to its
//! cluster, whatever number it claims.

use crate::config::Config;
use figment::providers::{Format, Toml};
use serde::Deserialize;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use uuid::Uuid;

const IDENTITY: &str = "IDENTITY";
const LOCK: &str = "LOCK";
const VERSION: u32 = 1;

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system refused something.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// Another process has the folder.
    #[error("{0} is in use by another process: each node needs a data folder of its own")]
    InUse(PathBuf),
    /// IDENTITY can't be read, or was changed.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The configuration names another node.
    #[error("{path} belongs to node {found}, the configuration says node_id = {configured}")]
    OtherNode {
        /// The data folder.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who asks.
        configured: u64,
    },
    /// The node is of a cluster already, and of another one.
    #[error("this node belongs to cluster {own}, not to {other}")]
    OtherCluster {
        /// Its cluster.
        own: Uuid,
        /// The one it was asked to join.
        other: Uuid,
    },
    /// Something that must be there is not.
    #[error("{path} is missing: {why}")]
    Missing {
        /// What is missing.
        path: PathBuf,
        /// Why that stops the node.
        why: &'static str,
    },
}

impl IdentityError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io {
            action,
            path,
            error,
        }
    }
}

/// A data folder that is this process's alone until it is dropped.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    node_id: u64,
    storage_id: Uuid,
    cluster_id: Mutex<Option<Uuid>>,
    // Held, never read: the lock goes with the file.
    _lock: File,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    node_id: u64,
    storage_id: String,
    cluster_id: Option<String>,
    crc32c: u32,
}

impl Identity {
    /// Locks the folder of `config` and reads whose it is; an empty folder becomes this node's, with `fresh` as its
    /// storage id.
    ///
    /// # Errors
    /// When the folder is in use, is another node's, or lacks what it once had.
    pub fn open(config: &Config, fresh: impl FnOnce() -> Uuid) -> Result<Self, IdentityError> {
        let folder = config.data_dir.clone();
        fs::create_dir_all(&folder).map_err(IdentityError::io("create", &folder))?;
        let lock = lock(&folder)?;
        let path = folder.join(IDENTITY);
        let text = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(IdentityError::io("read", &path)(error)),
        };
        let Some(text) = text else {
            refuse_orphans(&folder)?;
            let identity = Self {
                folder,
                node_id: config.node_id,
                storage_id: fresh(),
                cluster_id: Mutex::new(None),
                _lock: lock,
            };
            identity.store(None)?;
            return Ok(identity);
        };
        let (node_id, storage_id, cluster_id) = parse(&path, &text)?;
        if node_id != config.node_id {
            return Err(IdentityError::OtherNode {
                path: folder,
                found: node_id,
                configured: config.node_id,
            });
        }
        // A node takes its cluster's id only when its log stands, so from then on it must be there.
        if cluster_id.is_some() && is_empty(&folder.join("log"))? {
            let why = "the node is of a cluster and may have voted in it. Take its other data away too and take \
                       it in anew with `ordo cluster add --replace`";
            return Err(IdentityError::Missing {
                path: folder.join("log"),
                why,
            });
        }
        Ok(Self {
            folder,
            node_id,
            storage_id,
            cluster_id: Mutex::new(cluster_id),
            _lock: lock,
        })
    }

    /// The node's number.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Drawn when the folder was first used.
    #[must_use]
    pub fn storage_id(&self) -> Uuid {
        self.storage_id
    }

    /// The cluster the node belongs to; `None` before `ordo cluster init` or `add` reached it.
    #[must_use]
    pub fn cluster_id(&self) -> Option<Uuid> {
        *self
            .cluster_id
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// A folder within the data folder.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes the node one of `cluster_id`, on disk before this returns. Again is fine, another one is not.
    ///
    /// # Errors
    /// When the node is of another cluster, or the disk refuses.
    pub fn adopt(&self, cluster_id: Uuid) -> Result<(), IdentityError> {
        let mut own = self
            .cluster_id
            .lock()
            .expect("no code panics while it holds this lock");
        match *own {
            Some(own) if own == cluster_id => Ok(()),
            Some(own) => Err(IdentityError::OtherCluster {
                own,
                other: cluster_id,
            }),
            None => {
                self.store(Some(cluster_id))?;
                *own = Some(cluster_id);
                Ok(())
            }
        }
    }

    fn store(&self, cluster_id: Option<Uuid>) -> Result<(), IdentityError> {
        let mut text = body(self.node_id, self.storage_id, cluster_id);
        text.push_str(&format!("crc32c = {}\n", crc32c::crc32c(text.as_bytes())));
        let (path, fresh) = (self.folder.join(IDENTITY), self.folder.join("IDENTITY.new"));
        let mut file = File::create(&fresh).map_err(IdentityError::io("create", &fresh))?;
        file.write_all(text.as_bytes())
            .map_err(IdentityError::io("write", &fresh))?;
        file.sync_all().map_err(IdentityError::io("sync", &fresh))?;
        fs::rename(&fresh, &path).map_err(IdentityError::io("write", &path))?;
        let folder = File::open(&self.folder).map_err(IdentityError::io("open", &self.folder))?;
        folder
            .sync_all()
            .map_err(IdentityError::io("sync", &self.folder))
    }
}

fn body(node_id: u64, storage_id: Uuid, cluster_id: Option<Uuid>) -> String {
    let cluster = cluster_id.map_or_else(String::new, |id| format!("cluster_id = \"{id}\"\n"));
    format!(
        "# Whose data this is. Written by ordo: neither change it nor copy it to another node.\n\
         version = {VERSION}\nnode_id = {node_id}\nstorage_id = \"{storage_id}\"\n{cluster}"
    )
}

fn parse(path: &Path, text: &str) -> Result<(u64, Uuid, Option<Uuid>), IdentityError> {
    let damaged = |what: String| IdentityError::Damaged {
        path: path.to_owned(),
        what,
    };
    let stored: Stored = Toml::from_str(text).map_err(|error| damaged(error.to_string()))?;
    if stored.version != VERSION {
        return Err(damaged(format!(
            "version {}, this program knows {VERSION}",
            stored.version
        )));
    }
    let id =
        |text: &str| Uuid::parse_str(text).map_err(|error| damaged(format!("{text:?}: {error}")));
    let storage_id = id(&stored.storage_id)?;
    let cluster_id = stored.cluster_id.as_deref().map(id).transpose()?;
    let crc32c = crc32c::crc32c(body(stored.node_id, storage_id, cluster_id).as_bytes());
    if crc32c != stored.crc32c {
        return Err(damaged(format!(
            "its checksum is {}, that of its content {crc32c}",
            stored.crc32c
        )));
    }
    Ok((stored.node_id, storage_id, cluster_id))
}

fn lock(folder: &Path) -> Result<File, IdentityError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(IdentityError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IdentityError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(IdentityError::io("lock", &path)(error)),
    }
}

/// Data without IDENTITY is somebody's: better no node than one with a new name on old data.
fn refuse_orphans(folder: &Path) -> Result<(), IdentityError> {
    for name in ["log", "state", "snapshots"] {
        if !is_empty(&folder.join(name))? {
            let why = "there is data beside it that would get a new owner";
            return Err(IdentityError::Missing {
                path: folder.join(IDENTITY),
                why,
            });
        }
    }
    Ok(())
}

fn is_empty(folder: &Path) -> Result<bool, IdentityError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(IdentityError::io("read", folder)(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Identity, IdentityError};
    use crate::config::Config;
    use std::path::Path;
    use uuid::Uuid;

    fn open(folder: &Path, node_id: u64) -> Result<Identity, IdentityError> {
        Identity::open(&Config::local(node_id, folder.to_owned()), || {
            Uuid::from_u128(7)
        })
    }

    #[test]
    fn a_folder_keeps_its_identity_and_its_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), 1).unwrap();
        assert_eq!(
            (first.node_id(), first.storage_id(), first.cluster_id()),
            (1, Uuid::from_u128(7), None)
        );
        first.adopt(Uuid::from_u128(9)).unwrap();
        first.adopt(Uuid::from_u128(9)).unwrap();
        assert!(matches!(
            first.adopt(Uuid::from_u128(8)),
            Err(IdentityError::OtherCluster { .. })
        ));
        drop(first);
        std::fs::create_dir(folder.path().join("log")).unwrap();
        std::fs::write(folder.path().join("log/1"), "x").unwrap();
        let again = Identity::open(&Config::local(1, folder.path().to_owned()), || {
            unreachable!("it has one")
        })
        .unwrap();
        assert_eq!(
            (again.storage_id(), again.cluster_id()),
            (Uuid::from_u128(7), Some(Uuid::from_u128(9)))
        );
    }

    #[test]
    fn a_folder_has_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), 1).unwrap();
        assert!(matches!(
            open(folder.path(), 1),
            Err(IdentityError::InUse(_))
        ));
        drop(first);
        open(folder.path(), 1).unwrap();
    }

    #[test]
    fn another_nodes_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), 1).unwrap());
        let error = open(folder.path(), 2).unwrap_err().to_string();
        assert!(
            error.ends_with("belongs to node 1, the configuration says node_id = 2"),
            "{error}"
        );
    }

    #[test]
    fn a_log_that_vanished_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), 1)
            .unwrap()
            .adopt(Uuid::from_u128(9))
            .unwrap();
        let error = open(folder.path(), 1).unwrap_err();
        assert!(
            matches!(&error, IdentityError::Missing { path, .. } if path.ends_with("log")),
            "{error}"
        );
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        std::fs::write(folder.path().join("state/CURRENT"), "x").unwrap();
        let error = open(folder.path(), 1).unwrap_err();
        assert!(
            matches!(&error, IdentityError::Missing { path, .. } if path.ends_with("IDENTITY")),
            "{error}"
        );
    }

    #[test]
    fn a_changed_identity_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), 1).unwrap());
        let path = folder.path().join("IDENTITY");
        let text = std::fs::read_to_string(&path).unwrap();
        for changed in [
            text.replace("node_id = 1", "node_id = 2"),
            text[..text.len() / 2].to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, changed).unwrap();
            assert!(matches!(
                open(folder.path(), 1),
                Err(IdentityError::Damaged { .. })
            ));
        }
    }
}
