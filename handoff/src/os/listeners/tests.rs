use super::*;
use std::io::Write as _;

#[test]
fn addresses_read_what_they_write() {
    for text in ["127.0.0.1:6379", "[::1]:6379", "unix:/run/x.sock", "udp:127.0.0.1:53", "unix-dgram:/a"] {
        assert_eq!(text.parse::<Address>().expect(text).to_string(), text);
    }
    for bad in ["", "6379", "localhost", "unix:relative", "udp:", "unix:", "127.0.0.1", "tcp:1.2.3.4:5"] {
        assert!(bad.parse::<Address>().is_err(), "{bad:?}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let first = bind(&"127.0.0.1:0".parse().expect("address")).expect("bind");
    let address = address_of(first.as_fd()).expect("address");
    let error = bind(&address).expect_err("in use");
    assert!(error.to_string().starts_with(&format!("address in use: {address}")), "{error}");
    assert_eq!(validate(first.as_fd()).expect("listens"), Kind::Tcp);
}

#[test]
fn a_live_unix_socket_is_in_use_and_a_dead_one_is_replaced() {
    let dir = tempfile::tempdir().expect("tempdir");
    // longer than sun_path
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("mkdir");
    let path = deep.join("s");
    let address = Address::Unix(path.clone());
    let first = bind(&address).expect("bind");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(bind(&address), Err(ListenError::InUse { .. })));
    connect_unix(&path).expect("alive");
    drop(first);
    let second = bind(&address).expect("the file of a dead server is replaced");
    connect_unix(&path).expect("alive");
    drop(second);
    let left: Vec<_> = std::fs::read_dir(&deep).expect("dir").collect();
    assert_eq!(left.len(), 1, "no temporary names: {left:?}");
}

#[test]
fn a_file_in_the_way_is_not_removed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("precious");
    std::fs::File::create(&path).expect("create").write_all(b"data").expect("write");
    let error = bind(&Address::Unix(path.clone())).expect_err("in the way");
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"data");
}

#[test]
fn what_does_not_listen_is_refused() {
    let file = std::fs::File::open("/dev/null").expect("open");
    assert_eq!(validate(file.as_fd()).expect_err("file").to_string(), "not a socket");
    let (a, _b) = std::os::unix::net::UnixStream::pair().expect("pair");
    assert!(validate(a.as_fd()).expect_err("stream").to_string().contains("does not listen"));
    let udp = bind(&"udp:127.0.0.1:0".parse().expect("address")).expect("bind");
    assert_eq!(validate(udp.as_fd()).expect("bound"), Kind::Udp);
}

#[test]
fn names_must_fit_the_descriptors() {
    assert_eq!(names(2, Some("resp:admin")).expect("fit").len(), 2);
    assert_eq!(names(1, None).expect("made up")[0].as_str(), "listener0");
    for bad in ["resp", "resp:resp", "resp:a/b", "a:b:c"] {
        assert!(names(2, Some(bad)).is_err(), "{bad}");
    }
}
