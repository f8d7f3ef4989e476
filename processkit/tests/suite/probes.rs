//! Waiting until a process is ready.

use crate::rig::*;
use processkit::Error;
use std::pin::pin;
use std::time::Duration;

const FOREVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);

/// Its last words count, and its end ends the wait, although a grandchild holds the output open. The control lives.
#[tokio::test]
async fn the_end_of_the_process_ends_the_wait() {
    for group in groups() {
        let command = sh("sleep 1000 & echo one; echo last; exit 3");
        let mut process = started(&group, &command).await;
        ended(&process).await;
        let line = within("a line", process.wait_for_line(|line| line == "last", FOREVER)).await;
        assert_eq!(line.expect("said before the end"), "last");
        let error = within("no line", process.wait_for_line(|_| true, FOREVER)).await.expect_err("ended");
        assert!(matches!(error, Error::NotReady { timeout: FOREVER, .. }), "{error:?}");
        let error = within("no", process.wait_for(|| async { false }, FOREVER)).await.expect_err("ended");
        assert!(matches!(error, Error::NotReady { timeout: FOREVER, .. }), "{error:?}");

        let mut control = started(&group, &sh("exec sleep 1000")).await;
        let mut asked = 0;
        let check = || {
            asked += 1;
            std::future::ready(asked > 5)
        };
        within("yes", control.wait_for(check, FOREVER)).await.expect("yes in the end");
        assert!(control.try_exit().expect("an answer").is_none());
        group.remove().await.expect("gone");
    }
}

/// A probe that is given up loses no line that it did not look at, and can be repeated.
#[tokio::test]
async fn probes_can_be_given_up() {
    let mut process = sh("echo one; read line; echo two; exec sleep 1000")
        .keep_stdin_open()
        .start()
        .await
        .expect("started");
    let line = within("a line", process.wait_for_line(|line| line == "one", FOREVER)).await;
    assert_eq!(line.expect("a line"), "one");
    let error = process.wait_for_line(|_| true, SHORT).await.expect_err("nothing more yet");
    assert!(matches!(error, Error::NotReady { timeout: SHORT, .. }), "{error:?}");
    let mut stdin = process.standard_input().expect("a pipe");
    stdin.write_line("go on").await.expect("written");
    let line = within("a line", process.wait_for_line(|line| line == "two", FOREVER)).await;
    assert_eq!(line.expect("a line"), "two");
    assert!(lives(process.pid().expect("not reaped")));
}

/// A port that opens later. Ours all the time, so that nobody else can take it meanwhile.
#[tokio::test]
async fn a_port_is_awaited() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("its number");
    let mut process = sleeper().start().await.expect("started");
    let mut ready = pin!(process.wait_for_port(address, FOREVER));
    pending(ready.as_mut()).await;
    let _listener = socket.listen(1).expect("listening");
    within("the port", ready).await.expect("somebody listens");
}
