//! Which versions of the protocol this build speaks, and the choice of one that both sides speak.

/// The lowest wire version this build speaks.
pub const MIN: u16 = 1;
/// The highest wire version this build speaks.
pub const MAX: u16 = 1;

/// The highest version that is spoken here: [`MAX`], unless a test asked for a later one.
#[must_use]
pub fn highest() -> u16 {
    super::dialect::Dialect::spoken().highest()
}

/// The highest version that both sides speak.
///
/// # Errors
/// The two ranges when they do not overlap (a range that ends before it begins overlaps nothing).
pub fn choose(peer_min: u16, peer_max: u16) -> Result<u16, VersionMismatch> {
    let highest = highest().min(peer_max);
    if peer_min <= highest && MIN <= highest {
        Ok(highest)
    } else {
        Err(VersionMismatch { peer_min, peer_max })
    }
}

/// No wire version that both sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the peer speaks wire versions {peer_min} to {peer_max}, this build {MIN} to {max}: \
     upgrade in between to a build that speaks one of each",
    max = highest()
)]
pub struct VersionMismatch {
    /// Lowest version of the peer.
    pub peer_min: u16,
    /// Highest version of the peer.
    pub peer_max: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_chosen() {
        assert_eq!(choose(1, 1), Ok(1));
        assert_eq!(choose(0, 9), Ok(MAX));
        for (min, max) in [(2, 9), (0, 0), (9, 1)] {
            assert_eq!(choose(min, max), Err(VersionMismatch { peer_min: min, peer_max: max }));
        }
    }
}
