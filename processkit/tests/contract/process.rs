//! What a running process means: its numbers, its streams, its probes, and what becomes of it.

use crate::rig::{lives, sh, sleeper, within};
use processkit::{Command, Error, ProcessGroup, RunningProcess, Stdin, StreamExt};
use std::time::{Duration, SystemTime};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);
async fn start(command: &Command) -> RunningProcess {
    within(command.start()).await.expect("started")
}

#[tokio::test]
async fn it_has_numbers() {
    let before = SystemTime::now();
    let process = start(&sleeper()).await;
    assert!(lives(process.pid().expect("a pid")));
    assert!(process.start_time() >= before && process.start_time() <= SystemTime::now());
    let earlier = process.elapsed();
    assert!(process.elapsed() >= earlier);
    assert!(process.cpu_time().is_some());
    assert!(process.peak_memory_bytes().is_some_and(|bytes| bytes > 0));
}

#[tokio::test]
async fn a_wait_gives_the_code() {
    assert_eq!(within(start(&sh("exit 6")).await.wait()).await.expect("an end"), Some(6));
    let mut process = start(&sleeper()).await;
    let pid = process.pid().expect("a pid");
    process.start_kill().expect("killed");
    process.start_kill().expect("killed already");
    assert_eq!(within(process.wait()).await.expect("an end"), None);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "reaped when wait returns");
}

#[tokio::test]
async fn input_is_written_while_it_runs() {
    let mut process = start(&Command::new("cat").keep_stdin_open()).await;
    let mut stdin = process.standard_input().expect("it was kept open");
    assert!(process.standard_input().is_none(), "it can be taken once");
    let mut lines = process.stdout_lines();
    stdin.write_line("one").await.expect("written");
    stdin.flush().await.expect("flushed");
    assert_eq!(within(lines.next()).await.as_deref(), Some("one"));
    stdin.write(b"tw").await.expect("written");
    stdin.write(b"o").await.expect("written");
    stdin.finish().await.expect("closed");
    assert_eq!(within(lines.next()).await.as_deref(), Some("two"));
    assert_eq!(within(lines.next()).await, None);
    assert_eq!(within(process.wait()).await.expect("an end"), Some(0));
    // without the request there is nothing to write to
    assert!(start(&Command::new("cat")).await.standard_input().is_none());
    assert!(start(&Command::new("cat").stdin(Stdin::from_string("x"))).await.standard_input().is_none());
}

#[tokio::test]
async fn output_is_captured_from_the_start() {
    let process = start(&sh("echo out; echo err >&2; exit 2")).await;
    let result = within(process.output_string()).await.expect("a result");
    assert_eq!((result.stdout().as_str(), result.stderr(), result.code()), ("out", "err", Some(2)));
    let result = within(start(&sh("printf '\\377'")).await.output_bytes()).await.expect("a result");
    assert_eq!(result.stdout(), b"\xff");
}

#[tokio::test]
async fn lines_are_streamed() {
    let mut process = start(&sh("echo complaint >&2; printf 'a\\r\\nb\\n\\nlast'; exit 3")).await;
    let lines: Vec<String> = within(process.stdout_lines().collect()).await;
    assert_eq!(lines, ["a", "b", "", "last"]);
    let (code, stderr) = within(process.finish_streamed()).await.expect("an end");
    assert_eq!((code, stderr.trim_end()), (Some(3), "complaint"));
    let mut process = start(&sh("seq 1000; seq 10 >&2")).await;
    assert_eq!(within(process.stdout_lines().collect::<Vec<_>>()).await.len(), 1000);
    assert_eq!(process.stdout_line_count(), 1000);
}

/// A port that is taken, so that nobody else begins to listen there.
fn nobody_listens() -> (tokio::net::TcpSocket, std::net::SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("its number");
    (socket, address)
}

#[tokio::test]
async fn probes_wait_and_never_kill() {
    let mut process = start(&sh("echo warm; echo ready 7; exec sleep 1000")).await;
    let line = within(process.wait_for_line(|line| line.starts_with("ready"), LONG)).await;
    assert_eq!(line.expect("a line"), "ready 7");
    let mut asked = 0;
    let check = || {
        asked += 1;
        std::future::ready(asked == 3)
    };
    within(process.wait_for(check, LONG)).await.expect("true in the end");
    assert_eq!(asked, 3);

    let (_closed, nowhere) = nobody_listens();
    for error in [
        within(process.wait_for(|| async { false }, SHORT)).await.expect_err("never"),
        within(process.wait_for_port(nowhere, SHORT)).await.expect_err("nobody listens"),
        within(process.wait_for_line(|line| line == "never", SHORT)).await.expect_err("never said"),
    ] {
        assert!(
            matches!(&error, Error::NotReady { program, timeout: SHORT } if program == "/bin/sh"),
            "{error:?}"
        );
    }
    assert!(lives(process.pid().expect("not reaped")), "a failed probe never kills");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    within(process.wait_for_port(address, LONG)).await.expect("somebody listens");
}

/// One that ends will never be ready: the wait ends as well.
#[tokio::test]
async fn probes_of_one_that_ended() {
    let (_closed, nowhere) = nobody_listens();
    let mut process = start(&sh("echo out; exit 3")).await;
    for error in [
        within(process.wait_for_line(|line| line == "never", LONG)).await.expect_err("it ended"),
        within(process.wait_for(|| async { false }, LONG)).await.expect_err("it ended"),
        within(process.wait_for_port(nowhere, LONG)).await.expect_err("it ended"),
    ] {
        assert!(matches!(error, Error::NotReady { timeout: LONG, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_profile_sums_up() {
    let process = start(&sh("exit 5")).await;
    let profile = within(process.profile(Duration::from_millis(1))).await.expect("a profile");
    assert_eq!(profile.exit_code, Some(5));
    assert!(profile.duration > Duration::ZERO);
}

/// Its private group goes with it; in a group of somebody it owns nothing.
#[tokio::test]
async fn a_drop_kills_what_is_private() {
    let command = sh("sleep 1000 & echo $!; wait");
    let first = |process: &mut RunningProcess| {
        let mut lines = process.stdout_lines();
        async move { within(lines.next()).await.expect("a line").parse::<u32>().expect("a pid") }
    };
    let mut process = start(&command).await;
    let (parent, child) = (process.pid().expect("a pid"), first(&mut process).await);
    drop(process);
    for pid in [parent, child] {
        let gone = async {
            while lives(pid) {
                tokio::task::yield_now().await;
            }
        };
        within(gone).await;
    }
    let group = ProcessGroup::new().expect("a group");
    let mut process = within(group.start(&command)).await.expect("started");
    let (parent, child) = (process.pid().expect("a pid"), first(&mut process).await);
    drop(process);
    assert!(lives(parent) && lives(child), "the group is still there");
    within(group.shutdown()).await.expect("ended");
    assert!(!lives(parent) && !lives(child));
}

#[tokio::test]
async fn many_are_waited_for_at_once() {
    let mut slow = start(&sleeper()).await;
    let mut quick = start(&sh("exit 4")).await;
    let first = within(processkit::wait_any(&mut [&mut slow, &mut quick])).await.expect("one");
    assert_eq!(first, (1, Some(4)));
    // given up and taken up again: nothing is lost
    for _ in 0..3 {
        let mut both = [&mut slow, &mut quick];
        tokio::select! {
            biased;
            _ = processkit::wait_all(&mut both) => panic!("too early"),
            () = tokio::task::yield_now() => {}
        }
    }
    slow.start_kill().expect("killed");
    let all = within(processkit::wait_all(&mut [&mut slow, &mut quick])).await.expect("all");
    assert_eq!(all, [None, Some(4)]);
    assert_eq!(within(processkit::wait_all(&mut [])).await.expect("nothing"), []);
    let error = within(processkit::wait_any(&mut [])).await.expect_err("nothing to wait for");
    assert!(
        matches!(&error, Error::Io(source) if source.kind() == std::io::ErrorKind::InvalidInput),
        "{error:?}"
    );
}
