//! Open files: every connection is one, and one more where it goes on to an app.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for listeners, the origin, the app and the log.
const OTHERS: u64 = 512;

/// Raises the soft limit to the hard one (S2), and warns when that is too little for `connections`, each of which may need one
/// of its own to the app when `to_app`.
pub fn raise_limit(connections: usize, to_app: bool) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let needed = (connections as u64).saturating_mul(1 + u64::from(to_app)).saturating_add(OTHERS);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "too few open files for limits.max_connections; raise LimitNOFILE or ulimit -n"
        );
    }
}
