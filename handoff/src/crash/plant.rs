//! Bugs on purpose. The others stand where a programmer would have made them: `grep -rn 'crash::planted'`.

use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, bind, getpeername, getsockname, listen,
    setsockopt, shutdown, socket, sockopt,
};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static PLANTED: LazyLock<String> = LazyLock::new(|| std::env::var("HANDOFF_PLANT").unwrap_or_default());

pub(super) fn planted(bug: &str) -> bool {
    *PLANTED == bug
}

/// Bugs that are a deed at a point.
pub(super) fn at(point: &str) {
    static BEGUN: AtomicU32 = AtomicU32::new(0);
    match (PLANTED.as_str(), point) {
        // a descriptor that stays, of one upgrade in eight
        ("O6-leak", "S.send.Begin.before") if BEGUN.fetch_add(1, Ordering::SeqCst) % 8 == 7 => {
            std::mem::forget(std::fs::File::open("/dev/null"));
        }
        // a connection is cut off on its way to the successor
        ("O1", "O.send.SealComplete.before") => cut_a_connection(),
        // nobody is answered for longer than any timer takes
        ("O8", "N.call.Serve.before") => std::thread::sleep(Duration::from_secs(4)),
        // a supervisor that can upgrade once
        ("O11", "S.send.Begin.before") if BEGUN.fetch_add(1, Ordering::SeqCst) > 0 => {
            super::armed::break_channels();
        }
        _ => {}
    }
}

fn cut_a_connection() {
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let client = numbers.find(|number| getpeername::<SockaddrIn>(*number).is_ok());
    if let Some(client) = client {
        shutdown(client, Shutdown::Both).unwrap_or_else(|e| panic!("plant O1: {e}"));
    }
}

pub(super) fn another_listener(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let address: SockaddrIn = getsockname(listener.as_raw_fd())?;
    shutdown(listener.as_raw_fd(), Shutdown::Both)?;
    let other = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&other, sockopt::ReuseAddr, &true)?;
    bind(other.as_raw_fd(), &address)?;
    listen(&other, Backlog::new(1024)?)?;
    Ok(other)
}
