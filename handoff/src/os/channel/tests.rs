use super::*;
use crate::ids::{Epoch, HandoffId};
use crate::wire::{Frame, Message, ParkedEntry};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

fn frame(message: Message) -> Stamped {
    Stamped { handoff: HandoffId(7), epoch: Epoch(3), message }
}

fn bytes(message: Message) -> Vec<u8> {
    Frame::encode(&frame(message), 1).expect("encodes")
}

fn parked(first: u64, entries: usize) -> Message {
    let entry = |n: usize| ParkedEntry { total: 1, bytes: vec![n as u8] };
    Message::Parked { first, entries: (0..entries).map(entry).collect() }
}

fn ends() -> (Channel, UnixStream) {
    let (a, b) = Channel::pair().expect("pair");
    (Channel::from_fd(a).expect("channel"), UnixStream::from(b))
}

fn two() -> (Channel, Channel) {
    let (a, b) = Channel::pair().expect("pair");
    (Channel::from_fd(a).expect("channel"), Channel::from_fd(b).expect("channel"))
}

fn file() -> Arc<OwnedFd> {
    Arc::new(std::fs::File::open("/dev/null").expect("open").into())
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[tokio::test]
async fn frames_are_whole_however_they_are_cut() {
    let (mut channel, mut peer) = ends();
    let mut all = bytes(Message::Commit);
    all.extend(bytes(Message::Heartbeat { progress: 5 }));
    all.extend(bytes(Message::SealFailed { error: "no".into() }));
    let writer = tokio::task::spawn_blocking(move || {
        for byte in all {
            peer.write_all(&[byte]).expect("write");
        }
    });
    assert_eq!(channel.recv().await.expect("frame").frame, frame(Message::Commit));
    assert_eq!(channel.recv().await.expect("frame").frame, frame(Message::Heartbeat { progress: 5 }));
    assert_eq!(channel.recv().await.expect("frame").frame, frame(Message::SealFailed { error: "no".into() }));
    assert_eq!(channel.recv().await.expect_err("end"), Closed::Eof);
    writer.await.expect("written");
}

#[tokio::test]
async fn descriptors_stay_with_their_frame() {
    let (mut a, b) = two();
    // frames without descriptors before and after: nothing may slide
    for round in 0..20u64 {
        b.send(&frame(Message::Heartbeat { progress: round }), vec![]);
        let count = [1, 253, 7][round as usize % 3];
        b.send(&frame(parked(round, count)), (0..count).map(|_| file()).collect());
        b.send(&frame(Message::End { connections: round }), vec![]);
        assert_eq!(a.recv().await.expect("frame").frame, frame(Message::Heartbeat { progress: round }));
        let received = a.recv().await.expect("frame");
        assert_eq!((received.fds.len(), received.frame), (count, frame(parked(round, count))));
        for fd in &received.fds {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).expect("open");
            assert_eq!(flags & nix::libc::FD_CLOEXEC, nix::libc::FD_CLOEXEC);
        }
        assert_eq!(a.recv().await.expect("frame").frame, frame(Message::End { connections: round }));
    }
}

#[tokio::test]
async fn what_a_dead_peer_had_sent_is_received() {
    let (mut a, b) = two();
    a.send(&frame(Message::Commit), vec![]);
    for n in 0..50 {
        b.send(&frame(parked(n, 1)), vec![file()]);
    }
    drop(b);
    for n in 0..50 {
        let received = a.recv().await.expect("frame");
        assert_eq!((received.frame, received.fds.len()), (frame(parked(n, 1)), 1));
    }
    assert_eq!(a.recv().await.expect_err("end"), Closed::Eof);
    assert_eq!(a.recv().await.expect_err("still"), Closed::Eof);
    // and sending to it is no error
    a.send(&frame(Message::Commit), vec![]);
    a.flush().await;
}

#[tokio::test]
async fn a_cut_frame_is_told_from_an_end() {
    let (mut channel, mut peer) = ends();
    peer.write_all(&bytes(Message::Commit)[..20]).expect("write");
    drop(peer);
    assert_eq!(channel.recv().await.expect_err("cut"), Closed::Cut);
}

#[tokio::test]
async fn garbage_and_oversize_end_the_channel_with_a_reason() {
    for garbage in [&b"GET / HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n"[..], &[0xff; 64], &[0; 64]] {
        let (mut channel, mut peer) = ends();
        peer.write_all(garbage).expect("write");
        let closed = channel.recv().await.expect_err("garbage");
        assert!(matches!(&closed, Closed::Protocol(why) if why.contains("does not speak")), "{closed}");
        assert_eq!(channel.recv().await.expect_err("still"), closed);
    }
}

#[tokio::test]
async fn a_wrong_number_of_descriptors_is_a_protocol_error_and_leaks_none() {
    let (mut channel, peer) = ends();
    let fd = file();
    let raw = [std::os::fd::AsRawFd::as_raw_fd(&fd)];
    let commit = bytes(Message::Commit);
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&raw)];
    let iov = [std::io::IoSlice::new(&commit)];
    let flags = nix::sys::socket::MsgFlags::empty();
    let raw_peer = std::os::fd::AsRawFd::as_raw_fd(&peer);
    nix::sys::socket::sendmsg::<()>(raw_peer, &iov, &rights, flags, None).expect("sent");
    let closed = channel.recv().await.expect_err("Commit names no descriptor");
    assert_eq!(closed, Closed::Protocol("Commit came with 1 descriptors".into()));
}

#[tokio::test]
async fn descriptors_in_the_middle_of_a_frame_are_refused() {
    let (mut channel, mut peer) = ends();
    let all = bytes(parked(0, 1));
    peer.write_all(&all[..crate::wire::HEADER]).expect("write");
    let fd = file();
    let raw = [std::os::fd::AsRawFd::as_raw_fd(&fd)];
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&raw)];
    let iov = [std::io::IoSlice::new(&all[crate::wire::HEADER..])];
    let raw_peer = std::os::fd::AsRawFd::as_raw_fd(&peer);
    nix::sys::socket::sendmsg::<()>(raw_peer, &iov, &rights, nix::sys::socket::MsgFlags::empty(), None)
        .expect("sent");
    let closed = channel.recv().await.expect_err("middle");
    assert!(closed.to_string().contains("in the middle"), "{closed}");
}

#[tokio::test]
async fn lost_descriptors_are_fatal() {
    let (a, b) = Channel::pair().expect("pair");
    let (mut a, b) = (Channel::with_room(a, 2).expect("channel"), Channel::from_fd(b).expect("channel"));
    b.send(&frame(parked(0, 30)), (0..30).map(|_| file()).collect());
    let closed = a.recv().await.expect_err("truncated");
    assert!(closed.to_string().contains("descriptors were lost"), "{closed}");
}

#[tokio::test]
async fn unknown_messages_are_skipped_or_refused() {
    let (mut channel, mut peer) = ends();
    let mut harmless = bytes(Message::Heartbeat { progress: 1 });
    harmless[6..8].copy_from_slice(&999u16.to_le_bytes());
    let mut critical = bytes(Message::Commit);
    critical[6..8].copy_from_slice(&998u16.to_le_bytes());
    peer.write_all(&harmless).expect("write");
    peer.write_all(&critical).expect("write");
    peer.write_all(&bytes(Message::Commit)).expect("write");
    assert_eq!(channel.recv().await.expect("frame").frame, frame(Message::Commit));
    let mut answer = vec![0; 4096];
    let n = peer.read(&mut answer).expect("answer");
    let mut decoder = crate::wire::Decoder::new();
    decoder.push(&answer[..n]);
    match decoder.pull().expect("a frame").expect("whole") {
        crate::wire::Decoded::Frame(Stamped { message: Message::Refused(r), .. }) => assert_eq!(r.what, 998),
        other => panic!("{other:?}"),
    }
    assert!(decoder.pull().expect("nothing more").is_none(), "the harmless one is not refused");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_become_whole_ends_the_channel() {
    let (mut channel, mut peer) = ends();
    // silence before a frame is no fault
    assert!(tokio::time::timeout(READ_DEADLINE * 3, channel.recv()).await.is_err());
    peer.write_all(&bytes(Message::Commit)[..5]).expect("write");
    let closed = channel.recv().await.expect_err("late");
    assert!(closed.to_string().contains("not whole"), "{closed}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_ends_the_channel_but_not_what_it_sent() {
    let (mut channel, mut peer) = ends();
    peer.write_all(&bytes(Message::Commit)).expect("write");
    for progress in 0..100_000 {
        channel.send(&frame(Message::Heartbeat { progress }), vec![]);
    }
    assert_eq!(channel.recv().await.expect("sent before").frame, frame(Message::Commit));
    let closed = channel.recv().await.expect_err("overflow");
    assert!(matches!(&closed, Closed::Stalled(why) if why.contains("frames wait")), "{closed}");

    let (mut channel, _peer) = ends();
    for progress in 0..4000 {
        channel.send(&frame(Message::SealFailed { error: progress.to_string().repeat(100) }), vec![]);
    }
    let closed = channel.recv().await.expect_err("deadline");
    assert!(matches!(&closed, Closed::Stalled(why) if why.contains("took nothing")), "{closed}");
}

#[tokio::test]
async fn reading_to_the_end_outlives_a_writer_that_broke() {
    let (channel, mut peer) = ends();
    let (sender, mut receiver) = channel.split();
    receiver.read_to_eof();
    for progress in 0..100_000 {
        sender.send(&frame(Message::Heartbeat { progress }), vec![]);
    }
    assert!(sender.broken().is_some());
    let reading = tokio::spawn(async move { receiver.recv().await.map(|r| r.frame) });
    peer.write_all(&bytes(Message::Started)).expect("write");
    assert_eq!(reading.await.expect("task").expect("frame"), frame(Message::Started));
}

#[tokio::test]
async fn receiving_can_be_cancelled_at_any_byte() {
    let (mut channel, mut peer) = ends();
    let all = bytes(parked(1, 0));
    for byte in &all[..all.len() - 1] {
        peer.write_all(&[*byte]).expect("write");
        tokio::select! {
            biased;
            got = channel.recv() => panic!("{got:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    peer.write_all(&all[all.len() - 1..]).expect("write");
    assert_eq!(channel.recv().await.expect("frame").frame, frame(parked(1, 0)));
}

#[tokio::test]
async fn a_large_queue_is_flushed_in_order() {
    let (mut a, b) = two();
    let message = |n: u32| Message::ParkedMore { index: u64::from(n), bytes: vec![n as u8; 30_000] };
    for n in 0..100 {
        b.send(&frame(message(n)), vec![]);
    }
    let reading = tokio::spawn(async move {
        for n in 0..100 {
            assert_eq!(a.recv().await.expect("frame").frame, frame(message(n)));
        }
        a
    });
    b.flush().await;
    assert_eq!(b.sender().broken(), None);
    reading.await.expect("all in order");
}

// a server says Hello in the moment a new supervisor connects, before that could ask the kernel for the sender: the
// pid to watch and to end was then the one that the server named itself, which is another one in another pid namespace
#[tokio::test]
async fn the_kernel_names_whoever_speaks_first_on_a_new_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let connected = crate::os::listeners::connect_unix(&path).expect("connected");
    let server = Channel::from_fd(listener.accept().expect("accepted").0.into()).expect("channel");
    server.send(&frame(Message::Commit), vec![]);
    let mut channel = Channel::from_fd(connected).expect("channel");
    channel.want_credentials().expect("asked");
    channel.recv().await.expect("frame");
    assert_eq!(channel.first_sender().expect("known").pid, std::process::id() as i32);
}

#[tokio::test]
async fn the_kernel_names_the_sender() {
    let (mut a, b) = two();
    a.want_credentials().expect("asked");
    b.send(&frame(Message::Commit), vec![]);
    b.send(&frame(parked(0, 1)), vec![file()]);
    assert_eq!(a.recv().await.expect("frame").frame, frame(Message::Commit));
    assert_eq!(a.recv().await.expect("frame").fds.len(), 1);
    let me = std::process::id() as i32;
    assert_eq!(a.first_sender().expect("known").pid, me);
    assert_eq!(a.peer().expect("known").pid, me);
}

#[tokio::test]
async fn only_stream_sockets_become_channels() {
    let file = std::fs::File::open("/dev/null").expect("open");
    assert!(Channel::from_fd(file.into()).is_err());
    let (a, _b) = std::os::unix::net::UnixDatagram::pair().expect("pair");
    assert!(Channel::from_fd(a.into()).is_err());
}

// last in the file and alone in what it counts: descriptors of a channel's pair and of frames never received
#[test]
fn a_channel_leaves_no_descriptor() {
    // in a process of its own the count would be exact; here other tests run, so the loop makes a leak stand out
    let before = open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        for _ in 0..50 {
            let (mut a, b) = two();
            for n in 0..20 {
                b.send(&frame(parked(n, 20)), (0..20).map(|_| file()).collect());
            }
            drop(a.recv().await.expect("frame"));
        }
    });
    drop(runtime);
    let after = open_files();
    assert!(after < before + 1000, "{before} before, {after} after: 20000 descriptors went through");
}
