//! Signals by name.

/// A signal to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(
    not(feature = "process-control"),
    expect(dead_code, unreachable_pub, reason = "for nobody outside")
)]
pub enum Signal {
    /// Please end (`SIGTERM`).
    Term,
    /// End now (`SIGKILL`).
    Kill,
    /// Interrupt (`SIGINT`).
    Int,
    /// Hang up (`SIGHUP`).
    Hup,
    /// Quit (`SIGQUIT`).
    Quit,
    /// `SIGUSR1`.
    Usr1,
    /// `SIGUSR2`.
    Usr2,
    /// Any other, by its number.
    Other(i32),
}

impl Signal {
    /// The number the kernel knows it by.
    #[cfg_attr(not(feature = "process-control"), expect(unreachable_pub, reason = "for nobody outside"))]
    pub fn as_raw(self) -> i32 {
        match self {
            Signal::Term => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
            Signal::Int => libc::SIGINT,
            Signal::Hup => libc::SIGHUP,
            Signal::Quit => libc::SIGQUIT,
            Signal::Usr1 => libc::SIGUSR1,
            Signal::Usr2 => libc::SIGUSR2,
            Signal::Other(number) => number,
        }
    }
}
