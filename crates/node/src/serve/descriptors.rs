//! File descriptors: connections must leave some for the disk, since a log that can't open its next file ends the node.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What the files of the log, the store (512), snapshots and the connections to other nodes may take.
const FILES: u64 = 1_024;
/// With so few descriptors that the files alone may need them all, the connections get this part of them.
const SHARE_MIN: u64 = 4;

/// How many client connections the process may have, of those `wanted`. Raises its limit of descriptors as far as it
/// may, and says so when that is not enough. `others` are connections on the other ports.
pub(super) fn connections(wanted: u32, others: u32) -> u32 {
    let needed = u64::from(wanted) + u64::from(others) + FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let raised = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
        let to = rustix::process::Rlimit {
            current: Some(raised),
            ..limit
        };
        match setrlimit(Resource::Nofile, to) {
            Ok(()) => limit.current = Some(raised),
            Err(error) => tracing::warn!(%error, "the limit of file descriptors can't be raised"),
        }
    }
    let fits = fits(limit.current, u64::from(others));
    if fits >= u64::from(wanted) {
        return wanted;
    }
    tracing::warn!(
        limit = limit.current,
        wanted,
        connections = fits,
        "limits.connections is lowered to what the limit of file descriptors (ulimit -n) leaves room for"
    );
    u32::try_from(fits).unwrap_or(wanted)
}

/// Client connections that fit below a limit of descriptors.
fn fits(limit: Option<u64>, others: u64) -> u64 {
    let Some(limit) = limit else { return u64::MAX };
    limit
        .saturating_sub(others + FILES)
        .max(limit / SHARE_MIN)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn files_keep_their_descriptors_and_clients_a_few() {
        assert_eq!(fits(None, 320), u64::MAX);
        assert_eq!(fits(Some(11_344), 320), 10_000);
        assert_eq!(fits(Some(1_344), 320), 336);
        assert_eq!(fits(Some(256), 320), 64);
        assert_eq!(fits(Some(0), 320), 1);
    }
}
