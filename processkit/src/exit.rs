//! How a process ended.

use std::fmt;
use std::time::Duration;

/// How a process ended, as the kernel told it. Pure data.
///
/// Exactly one of `code` and `signal` is set, except when the kernel would not tell (see [`Exit::UNKNOWN`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exit {
    /// The code handed to `exit`, 0 to 255.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the signal also dumped core.
    pub core: bool,
}

impl Exit {
    /// It is gone and nobody can say how: somebody else reaped it, or it was not our child on a kernel before 6.15.
    pub const UNKNOWN: Exit = Exit { code: None, signal: None, core: false };

    /// Ended by itself with code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Whether the kernel told how it ended.
    pub fn is_known(&self) -> bool {
        *self != Exit::UNKNOWN
    }

    /// From the status word of wait(2).
    pub(crate) fn from_status(status: i32) -> Exit {
        let signal = status & 0x7f;
        if signal == 0 {
            Exit { code: Some((status >> 8) & 0xff), signal: None, core: false }
        } else {
            Exit { code: None, signal: Some(signal), core: status & 0x80 != 0 }
        }
    }
}

/// What a process used in all, as the kernel counted it at the reap (getrusage(2)): itself and the descendants it had
/// waited for. Pure data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in its own code.
    pub user: Duration,
    /// CPU time in the kernel on its behalf.
    pub system: Duration,
    /// The most memory it had resident at once, in bytes.
    ///
    /// `None` if that was not clearly more than the most this process had had resident when it was spawned: until its exec a
    /// child lives in the memory of its parent, and the kernel counts that as the child's.
    pub max_rss_bytes: Option<u64>,
}

impl Usage {
    /// User and system time together.
    pub fn cpu_time(&self) -> Duration {
        self.user + self.system
    }

    /// Without the memory that was the parent's. The kernel counts pages in batches, one for each processor, and the parent
    /// may have grown while it was looked at: hence the margin.
    pub(crate) fn above(self, inherited_rss_bytes: u64) -> Usage {
        let clearly = inherited_rss_bytes + inherited_rss_bytes / 16 + (1 << 20);
        Usage { max_rss_bytes: self.max_rss_bytes.filter(|bytes| *bytes > clearly), ..self }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exited with code {code}"),
            (None, Some(signal)) if self.core => write!(f, "ended by signal {signal}, core dumped"),
            (None, Some(signal)) => write!(f, "ended by signal {signal}"),
            (None, None) => f.write_str("gone, status unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_words() {
        assert_eq!(Exit::from_status(0), Exit { code: Some(0), signal: None, core: false });
        assert_eq!(Exit::from_status(7 << 8), Exit { code: Some(7), signal: None, core: false });
        assert_eq!(Exit::from_status(9), Exit { code: None, signal: Some(9), core: false });
        assert_eq!(Exit::from_status(0x80 | 11), Exit { code: None, signal: Some(11), core: true });
        assert!(Exit::from_status(0).success());
        assert!(!Exit::UNKNOWN.success() && !Exit::UNKNOWN.is_known());
    }
}
