//! What a process reads: fed in the background, whatever it writes meanwhile.

use crate::rig::*;
use processkit::{Command, Error, ProcessGroup, Stdin};
use std::io::ErrorKind;

const LARGE: usize = 64 << 20;

fn large() -> Vec<u8> {
    let period: Vec<u8> = (0..=255).collect();
    period.repeat(LARGE / period.len())
}

/// Large input and large output at once. The control: neither fits into the pipes, so that somebody who first wrote and then
/// read would wait for ever.
#[tokio::test]
async fn large_input_and_output_do_not_block_each_other() {
    let (_reader, writer) = pipe();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("set");
    let bytes = large();
    let fits = nix::unistd::write(&writer, &bytes).expect("some");
    assert!(4 * fits < LARGE, "control: {fits} bytes fit");

    for stdin in [Stdin::from_bytes(bytes.clone()), Stdin::from_reader(std::io::Cursor::new(bytes.clone()))] {
        let result =
            within("64 MiB", Command::new("cat").stdin(stdin).output_bytes()).await.expect("a result");
        assert!(result.is_success() && !result.truncated());
        assert!(*result.stdout() == bytes, "{} bytes came back", result.stdout().len());
    }
}

#[tokio::test]
async fn one_that_stops_reading_is_no_error() {
    for script in ["exec head -c 1 >/dev/null", "exec <&-; echo done", "true"] {
        let result = within("the run", sh(script).stdin(Stdin::from_bytes(large())).output_string()).await;
        assert!(result.expect("a result").is_success(), "{script}");
    }
}

/// A reader that never says anything does not hold the end of the run.
#[tokio::test]
async fn a_silent_reader_holds_nothing() {
    let (reader, _kept) = tokio::io::duplex(1);
    let command = sh("echo done").stdin(Stdin::from_reader(reader));
    assert_eq!(within("the run", command.run()).await.expect("a success"), "done");
}

/// A file is given to the process itself: no pipe, no copy.
#[tokio::test]
async fn a_file_is_handed_over() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let command = sh("readlink /proc/self/fd/0").stdin(Stdin::from_file(file.path()));
    let path = within("the run", command.run()).await.expect("a success");
    assert_eq!(path, file.path().to_str().expect("text"));

    // was an empty input where it is kept open
    let command = Command::new("cat").stdin(Stdin::from_file("/no/such/input"));
    for command in [command.clone(), command.keep_stdin_open()] {
        let error = within("the run", command.run()).await.expect_err("no such file");
        let Error::Spawn { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such/input"), "{error}");
    }
}

/// Was a thread that stood still: a FIFO is opened for reading when its writer comes. It comes when the process runs, to the
/// same thread, and what it writes is the input; the control is a file.
#[tokio::test]
async fn a_fifo_waits_for_its_writer() {
    let directory = tempfile::tempdir().expect("a directory");
    let [fifo, file] = ["fifo", "file"].map(|name| directory.path().join(name));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    for (path, keep) in [(&fifo, false), (&fifo, true), (&file, true)] {
        std::fs::write(&file, "written").expect("written");
        let command = sh("echo ready >&2; cat").stdin(Stdin::from_file(path));
        let command = if keep { command.keep_stdin_open() } else { command };
        let process = command.start().await.expect("started");
        if *path == fifo {
            tokio::task::yield_now().await;
            let options = tokio::net::unix::pipe::OpenOptions::new();
            let mut writer = options.open_sender(&fifo).expect("somebody reads");
            tokio::io::AsyncWriteExt::write_all(&mut writer, b"written").await.expect("written");
        }
        let result = within("the run", process.output_string()).await.expect("a result");
        assert_eq!(result.into_stdout(), "written");
    }
}

/// Both: what is given comes first, and then what is typed.
#[tokio::test]
async fn an_open_input_can_be_fed_first() {
    for first in ["fed\n".to_owned(), "x".repeat(1 << 20) + "\n"] {
        let command = Command::new("cat").stdin(Stdin::from_string(first.clone())).keep_stdin_open();
        let mut process = command.start().await.expect("started");
        let mut stdin = process.standard_input().expect("a pipe");
        within("a write", stdin.write_line("typed")).await.expect("written");
        within("the end of the input", stdin.finish()).await.expect("closed");
        let result = within("the run", process.output_string()).await.expect("a result");
        assert_eq!(result.into_stdout(), first + "typed");
    }
}

/// Was lost: what is given first, when the pipe is taken before there is a runtime.
#[test]
fn what_is_given_waits_for_a_runtime() {
    let group = ProcessGroup::new().expect("a group");
    let command = Command::new("cat").stdin(Stdin::from_string("fed\n")).keep_stdin_open();
    let mut process = group.start_blocking(&command).expect("started");
    let mut stdin = process.standard_input().expect("a pipe");
    runtime().block_on(async {
        within("a write", stdin.write_line("typed")).await.expect("written");
        stdin.finish().await.expect("closed");
        let result = within("the run", process.output_string()).await.expect("a result");
        assert_eq!(result.into_stdout(), "fed\ntyped");
        group.remove().await.expect("gone");
    });
}

/// An open input that nobody took is closed by whoever waits for the end.
#[tokio::test]
async fn an_open_input_that_nobody_took_is_closed() {
    for command in [
        Command::new("cat").keep_stdin_open(),
        Command::new("cat").keep_stdin_open().stdin(Stdin::from_bytes(vec![b'x'; 1 << 20])),
    ] {
        let process = command.start().await.expect("started");
        assert_eq!(within("the run", process.wait()).await.expect("an end"), Some(0));
        assert!(within("the run", command.output_string()).await.expect("a result").is_success());
    }
}

#[tokio::test]
async fn writing_to_one_that_ended_says_so() {
    let mut process = sh("exit 0").keep_stdin_open().start().await.expect("started");
    let mut stdin = process.standard_input().expect("a pipe");
    exit_of(&mut process).await;
    // a child of another test has a copy of the other end until its exec
    let refused = async {
        loop {
            match stdin.write(b"x").await {
                Err(error) => break error,
                Ok(()) => tokio::task::yield_now().await,
            }
        }
    };
    let error = within("a refused write", refused).await;
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}
