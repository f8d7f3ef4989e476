//! A supervisor's own exec, in a process without other threads.
//!
//! It stood among the unit tests once, and another one could not start a thread now and then: while one thread tries an exec the kernel
//! starts no thread of that process (EAGAIN; copy_fs() of kernel/fork.c looks at in_exec).
#![cfg(feature = "system")]

use handoff::os::exec::{memory_file, replace_image};
use handoff::os::stop_signals::StopSignals;
use nix::sys::signal::{SigSet, Signal, raise};
use std::os::fd::AsFd as _;

/// One test for both: whether a signal was read is a fact about the process.
#[tokio::test]
async fn an_exec_that_fails_returns_and_after_a_signal_there_is_none() {
    let no_program = memory_file("test", b"no program at all").expect("a memfd");
    let before = SigSet::thread_get_mask().expect("a mask");
    let exec = || replace_image(no_program.as_fd(), &[c"x".to_owned()], &[]);
    let error = exec();
    assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC), "{error}");
    assert_eq!(SigSet::thread_get_mask().expect("a mask"), before);

    StopSignals::hold_back().expect("a mask");
    let signals = StopSignals::listen().expect("a descriptor");
    // to this thread alone: others do not hold it back
    raise(Signal::SIGTERM).expect("a signal");
    assert_eq!(exec().raw_os_error(), Some(libc::ENOEXEC), "what waits goes through");
    signals.next().await.expect("it has waited");
    let error = exec();
    assert!(error.to_string().contains("told to stop"), "{error}");
    before.thread_set_mask().expect("a mask");
}
