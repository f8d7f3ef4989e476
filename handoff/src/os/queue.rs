//! How many connections wait in a listener's accept queue.

use std::os::fd::AsFd;

/// Connections that were established and not accepted yet; `None` for anything but a TCP listener.
///
/// For a listening socket `tcpi_unacked` is the length of its accept queue (tcp(7), `tcp_get_info` of the kernel).
#[must_use]
pub fn waiting(listener: impl AsFd) -> Option<u64> {
    let listener = listener.as_fd();
    let listens = nix::sys::socket::getsockopt(&listener, nix::sys::socket::sockopt::AcceptConn);
    if listens != Ok(true) {
        return None;
    }
    super::fds::tcp_info(listener).ok().map(|info| u64::from(info.tcpi_unacked))
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
    fn what_is_no_tcp_listener_has_none() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(waiting(&a), None);
        assert_eq!(waiting(std::net::UdpSocket::bind("127.0.0.1:0").expect("bound")), None);
    }
}
