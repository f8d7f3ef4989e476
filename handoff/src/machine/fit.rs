//! Whether a successor fits an incumbent, by what both say of themselves: decided before the incumbent is touched.

use crate::ids::{Digest, ListenerName};
use crate::wire::{Hello, version};

/// The wire version to speak with an instance, `None` when there is none in common.
#[must_use]
pub(super) fn version(hello: &Hello) -> Option<u16> {
    version::choose(hello.wire_min, hello.wire_max).ok()
}

/// The format in which connections can be parked, 0 when the two have none in common.
#[must_use]
pub(super) fn connection_format(incumbent: &Hello, successor: &Hello) -> u32 {
    let format = incumbent.connections.writes;
    if successor.connections.reads.contains(&format) { format } else { 0 }
}

/// Why N cannot take over from O, `None` when it can.
#[must_use]
pub(super) fn misfit(incumbent: &Hello, successor: &Hello) -> Option<String> {
    if version(successor).is_none() {
        return Some(format!(
            "wire versions: the new binary speaks {}..={}, this supervisor {}..={}; upgrade the supervisor first",
            successor.wire_min,
            successor.wire_max,
            version::MIN,
            version::highest()
        ));
    }
    if incumbent.service != successor.service {
        return Some(format!(
            "the new binary is the service {:?}, but {:?} runs here",
            successor.service, incumbent.service
        ));
    }
    if incumbent.strategy != successor.strategy {
        return Some(format!(
            "the strategy differs: {:?} runs, the new binary says {:?}",
            incumbent.strategy, successor.strategy
        ));
    }
    if incumbent.owner_lock != successor.owner_lock {
        return Some("the new binary looks at another data directory (owner.lock is another file); compare --data and --data-dir".to_owned());
    }
    if !successor.state.reads.contains(&incumbent.state.writes) {
        return Some(format!(
            "state format {} is on disk, the new binary reads only {:?}; upgrade through a version that reads both",
            incumbent.state.writes, successor.state.reads
        ));
    }
    missing_listeners(&incumbent.listeners, &successor.listeners)
}

/// Why O could not take over from N again, `None` when it could.
#[must_use]
pub(super) fn no_way_back(incumbent: &Hello, successor: &Hello) -> Option<String> {
    let written = successor.state.writes;
    (!incumbent.state.reads.contains(&written)).then(|| {
        format!(
            "the new binary writes state format {written}, the running build reads only {:?}: there would be no way \
             back; upgrade with --one-way, or through a version that reads both",
            incumbent.state.reads
        )
    })
}

/// Why no canary can be tried on N, `None` when one can.
#[must_use]
pub(super) fn no_canary(successor: &Hello) -> Option<String> {
    (!successor.canary).then(|| {
        "the new binary answers no canary (its Hello does not say so): upgrade without --canary, or build it with \
         Successor::CANARY and a stream listener"
            .to_owned()
    })
}

/// Listeners of O that N would not serve.
#[must_use]
pub(super) fn missing_listeners(incumbent: &[ListenerName], successor: &[ListenerName]) -> Option<String> {
    let missing: Vec<&str> =
        incumbent.iter().filter(|name| !successor.contains(name)).map(ListenerName::as_str).collect();
    if missing.is_empty() {
        None
    } else {
        Some(format!("the new binary does not serve the listener {}", missing.join(", ")))
    }
}

/// Why a Ready is not good, `None` when it is.
#[must_use]
pub(super) fn not_ready(
    incumbent: &Hello,
    sealed: Option<&(Digest, u64)>,
    incumbent_lives: bool,
    digest: Option<&Digest>,
    listeners: &[ListenerName],
    healthy: bool,
    connections: u64,
) -> Option<String> {
    if let Some((expected, parked)) = sealed {
        match digest {
            Some(found) if found == expected => {}
            Some(found) => return Some(format!("digest differs: sealed {expected}, loaded {found}")),
            None => return Some("the successor gave no digest".to_owned()),
        }
        if incumbent_lives && connections != *parked {
            return Some(format!("{parked} connections were parked, {connections} arrived"));
        }
    }
    if !healthy {
        return Some("the successor says that it is not healthy".to_owned());
    }
    missing_listeners(&incumbent.listeners, listeners)
}
