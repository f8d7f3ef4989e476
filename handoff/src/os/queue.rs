//! The accept queue of a listener: how many wait in it, how many may, and how fast it fills.

use nix::sys::socket::{getsockopt, sockopt};
use std::os::fd::AsFd;
use std::time::Instant;

/// Connections that were established and not accepted yet; `None` for anything but a TCP listener.
///
/// For a listening socket `tcpi_unacked` is the length of its accept queue (tcp(7), `tcp_get_info` of the kernel).
#[must_use]
pub fn waiting(listener: impl AsFd) -> Option<u64> {
    info(listener).map(|info| u64::from(info.tcpi_unacked))
}

/// How many may wait; `None` for anything but a TCP listener. For a listening socket that is `tcpi_sacked`.
#[must_use]
pub fn room(listener: impl AsFd) -> Option<u64> {
    info(listener).map(|info| u64::from(info.tcpi_sacked))
}

fn info(listener: impl AsFd) -> Option<libc::tcp_info> {
    let listener = listener.as_fd();
    if getsockopt(&listener, sockopt::AcceptConn) != Ok(true) {
        return None;
    }
    super::fds::tcp_info(listener).ok()
}

/// Lets so many wait, or as many as the kernel allows (`net.core.somaxconn`). Gives how many that are. Any copy of a
/// listener's descriptor will do, and nobody who waits loses the place.
///
/// # Errors
/// It does not listen.
pub fn widen(listener: impl AsFd, wanted: u64) -> std::io::Result<Option<u64>> {
    let listener = listener.as_fd();
    super::fds::listen(listener, i32::try_from(wanted).unwrap_or(i32::MAX))?;
    Ok(room(listener))
}

/// How fast TCP connections arrive: those of everything in this network namespace, so never too few.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    last: Option<(Instant, u64)>,
    rate: Option<f64>,
}

impl Arrivals {
    /// Looks again. Call it now and then: the rate is that between the last two looks.
    pub fn look(&mut self) {
        let text = std::fs::read_to_string("/proc/self/net/snmp").unwrap_or_default();
        self.saw(Instant::now(), passive_opens(&text));
    }

    fn saw(&mut self, now: Instant, opened: Option<u64>) {
        let Some(opened) = opened else { return };
        if let Some((then, before)) = self.last.replace((now, opened)) {
            let seconds = now.saturating_duration_since(then).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
            let more = opened.saturating_sub(before) as f64;
            self.rate = (seconds > 0.0).then(|| more / seconds);
        }
    }

    /// New connections a second; `None` before the second look.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }
}

/// `PassiveOpens` of a `/proc/net/snmp`: a line of names, then a line of numbers.
fn passive_opens(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "PassiveOpens")?;
    numbers.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_queue_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        assert_eq!(waiting(&listener), Some(0));
        let address = listener.local_addr().expect("an address");
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).expect("connected")).collect();
        assert_eq!(waiting(&listener), Some(3));
        drop(listener.accept().expect("accepted"));
        assert_eq!(waiting(&listener), Some(2));
        assert_eq!(waiting(&clients[0]), None);
    }

    #[test]
    fn a_queue_is_widened_and_who_waits_keeps_the_place() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        assert_eq!(widen(&listener, 7).expect("it listens"), Some(7));
        assert_eq!((room(&listener), waiting(&listener)), (Some(7), Some(1)));
        let most = widen(&listener, u64::MAX).expect("it listens");
        assert!(most > Some(7) && most == room(&listener), "{most:?}");
        drop(listener.accept().expect("accepted"));
    }

    #[test]
    fn arrivals_are_what_came_between_two_looks() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMax ActiveOpens PassiveOpens\nTcp: -1 5 40\n";
        assert_eq!(passive_opens(text), Some(40));
        assert_eq!(passive_opens("Tcp: ActiveOpens\nTcp: 1\n"), None);
        assert_eq!(passive_opens("garbage"), None);
        let mut arrivals = Arrivals::default();
        let begin = Instant::now();
        arrivals.saw(begin, Some(40));
        arrivals.saw(begin, None);
        assert_eq!(arrivals.rate(), None);
        arrivals.saw(begin + std::time::Duration::from_secs(2), Some(140));
        assert_eq!(arrivals.rate(), Some(50.0));
        // this kernel's own
        arrivals.look();
        arrivals.look();
        assert!(arrivals.rate().is_some());
    }

    #[test]
    fn what_is_no_tcp_listener_has_none() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(waiting(&a), None);
        assert_eq!(waiting(std::net::UdpSocket::bind("127.0.0.1:0").expect("bound")), None);
    }
}
