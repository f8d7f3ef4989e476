//! C3, C4: exactly the declared descriptors arrive, at their numbers.

use crate::play::alone;
use crate::rig::*;
use processkit::{Command, ProcessGroup, ProcessGroupOptions, Stdio};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A file that says its name.
fn labelled(label: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(label.as_bytes()).expect("written");
    file.into()
}

/// Reads the descriptors given as arguments from their start, whatever their offset is.
fn read_all(targets: &[i32]) -> Command {
    let script = "for fd; do printf '%s=' $fd; cat /proc/self/fd/$fd; echo; done";
    sh(script).arg("sh").args(targets.iter().map(ToString::to_string))
}

/// Pass labelled descriptors as `map` says (target -> label), and see what arrives.
async fn arrives(options: &ProcessGroupOptions, map: Vec<(i32, OwnedFd, &'static str)>) {
    let expected: BTreeMap<i32, &str> = map.iter().map(|(target, _, label)| (*target, *label)).collect();
    let targets: Vec<i32> = expected.keys().copied().collect();
    let mut command = read_all(&targets);
    for (target, fd, _) in map {
        command = command.pass_fd(fd, target);
    }
    let text = output(options, command).await;
    let wanted: String = expected.iter().map(|(target, label)| format!("{target}={label}\n")).collect();
    assert_eq!(text, wanted);
}

/// The first number that none can have.
fn limit_of_descriptors() -> i32 {
    let resource = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (limit, _) = nix::sys::resource::getrlimit(resource).expect("limits");
    i32::try_from(limit).expect("a sane limit")
}

/// Sources and targets that overlap in every way: a swap, a cycle, a target that is another's source, itself; and every
/// number below the limit, whoever has it here, and whatever has to be moved out of the way.
#[tokio::test]
async fn maps_may_collide() {
    let last = limit_of_descriptors() - 1;
    for options in mechanisms() {
        let (a, b) = (labelled("a"), labelled("b"));
        let (x, y) = (a.as_raw_fd(), b.as_raw_fd());
        arrives(&options, vec![(y, a, "a"), (x, b, "b")]).await; // a swap

        let (a, b, c) = (labelled("a"), labelled("b"), labelled("c"));
        let (x, y, z) = (a.as_raw_fd(), b.as_raw_fd(), c.as_raw_fd());
        arrives(&options, vec![(y, a, "a"), (z, b, "b"), (x, c, "c")]).await; // a cycle

        let (a, b) = (labelled("a"), labelled("b"));
        let y = b.as_raw_fd();
        arrives(&options, vec![(y, a, "a"), (y + 100, b, "b")]).await; // a target that is a source

        let a = labelled("a");
        let x = a.as_raw_fd();
        arrives(&options, vec![(x, a, "a")]).await; // itself, although it is close-on-exec here

        let (a, b) = (labelled("a"), labelled("b"));
        let (x, y) = (a.as_raw_fd(), b.as_raw_fd());
        arrives(&options, vec![(y, a, "a"), (x, b, "b"), (last, labelled("c"), "c")]).await;
        arrives(&options, vec![(3, labelled("c"), "c"), (4, labelled("d"), "d"), (9, labelled("e"), "e")])
            .await;
    }
}

/// Nothing else arrives: not our close-on-exec descriptors, and not those somebody forgot to mark (the control).
#[tokio::test]
async fn exactly_the_declared_descriptors_arrive() {
    let inheritable = labelled("x");
    nix::fcntl::fcntl(&inheritable, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
        .expect("unmarked");
    let number = inheritable.as_raw_fd();
    // `ls` lists the descriptor of the list as well: the one that leads to /proc.
    let list = ["-l", "/proc/self/fd"];
    let listed = |text: String| {
        let entries = text.lines().filter_map(|line| line.split_once(" -> "));
        let entries = entries.filter(|(_, to)| !to.starts_with("/proc/"));
        let mut numbers: Vec<i32> = entries
            .map(|(left, _)| left.rsplit(' ').next().expect("a name").parse().expect("a number"))
            .collect();
        numbers.sort_unstable();
        numbers
    };

    let control = std::process::Command::new("ls").args(list).output().expect("output").stdout;
    let control = listed(String::from_utf8(control).expect("text"));
    assert!(control.contains(&number), "control: std lets {number} through: {control:?}");

    for options in mechanisms() {
        assert_eq!(listed(output(&options, Command::new("ls").args(list)).await), [0, 1, 2]);
        let command = Command::new("ls")
            .args(list)
            .pass_fd(labelled("a"), 3)
            .pass_fd(labelled("b"), 7)
            .pass_fd(labelled("c"), 250);
        assert_eq!(listed(output(&options, command).await), [0, 1, 2, 3, 7, 250]);
        let opened = OwnedFd::from(File::open("/bin/ls").expect("opened"));
        let command = Command::new("ls").args(list).exe_fd(opened).pass_fd(labelled("a"), 3);
        assert_eq!(listed(output(&options, command).await), [0, 1, 2, 3]);
    }
    drop(inheritable);
}

/// An exec error reaches the caller, and no byte of it a passed descriptor: wherever it is placed, over any number.
#[tokio::test]
async fn exec_errors_never_touch_a_passed_descriptor() {
    for group in groups() {
        let (mut reader, writer) = pipe();
        let writer = std::sync::Arc::new(writer);
        let mut command = Command::new("/no/such/program").stdout(Stdio::Fd(writer.clone()));
        for target in 3..40 {
            command = command.pass_fd(writer.try_clone().expect("a copy"), target);
        }
        assert!(group.start(&command).await.expect_err("missing").is_not_found());
        drop((command, writer));
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("the end");
        assert_eq!(bytes, b"");
        group.remove().await.expect("gone");
    }
}

#[tokio::test]
async fn streams_go_where_they_should() {
    for options in mechanisms() {
        // standard input is /dev/null by default
        let text = output(&options, sh("readlink /proc/$$/fd/0; cat")).await;
        assert_eq!(text, "/dev/null\n");

        // each stream on its own
        let group = ProcessGroup::with_options(options).expect("a group");
        let (mut out, out_writer) = Output::pipe();
        let (mut err, err_writer) = Output::pipe();
        let input = File::from(labelled("input"));
        let command = sh("cat /proc/self/fd/0; echo error >&2").stdin_from(input);
        started(&group, &command.stdout(out_writer).stderr(err_writer)).await;
        assert_eq!((out.line().await.as_str(), err.line().await.as_str()), ("input", "error"));

        // nothing at all
        let (mut names, teller) = Output::pipe();
        let command = sh("for fd in 1 2; do name=$(readlink /proc/$$/fd/$fd); echo $name >&3; done");
        started(&group, &command.stdout(Stdio::Null).stderr(Stdio::Null).pass_fd(teller, 3)).await;
        for _ in 0..2 {
            assert_eq!(names.line().await, "/dev/null");
        }
        group.remove().await.expect("gone");
    }
}

/// A borrowed descriptor is copied at once: what becomes of it afterwards is no matter.
#[tokio::test]
async fn borrowed_descriptors_are_copied() {
    for options in mechanisms() {
        let borrowed = labelled("borrowed");
        let command = read_all(&[9]).pass_fd(borrowed.as_fd(), 9);
        drop(borrowed);
        assert_eq!(output(&options, command.clone()).await, "9=borrowed\n");
        assert_eq!(output(&options, command).await, "9=borrowed\n", "and again");
    }
}

/// What cannot be passed is named, nothing is started, and nothing is left open.
#[tokio::test]
async fn impossible_descriptors_are_errors() {
    let beyond = limit_of_descriptors();
    let cases: Vec<(Command, &str)> = vec![
        (Command::new("true").pass_fd(labelled("x"), -5), "descriptor -5: the number is negative"),
        (Command::new("true").pass_fd(labelled("x"), beyond), "RLIMIT_NOFILE"),
        (Command::new("true").pass_fd(labelled("x"), i32::MAX), "RLIMIT_NOFILE"),
        (
            Command::new("true").pass_fd(labelled("x"), 5).pass_fd(labelled("y"), 5),
            "descriptor 5: it is mapped twice",
        ),
        (
            Command::new("true").pass_fd(labelled("x"), 1).pass_fd(labelled("y"), 1),
            "descriptor 1: it is mapped twice",
        ),
    ];
    for group in groups() {
        for (command, says) in &cases {
            let error = group.start(command).await.expect_err("impossible");
            assert!(matches!(error, processkit::Error::Spawn { .. }), "{error:?}");
            assert!(error.to_string().contains(says), "{error} does not say {says}");
        }
        assert!(group.is_empty().expect("an answer"));
        group.remove().await.expect("gone");
    }
}

/// A source that was closed is named by its target. In a process of its own, where nobody else gets its number.
#[tokio::test]
async fn a_closed_source_is_an_error() {
    if !alone("descriptors::a_closed_source_is_an_error").await {
        return;
    }
    let (_reader, writer) = pipe();
    nix::unistd::close(writer.as_raw_fd()).expect("closed");
    let command = Command::new("true").pass_fd(writer.as_fd(), 7);
    std::mem::forget(writer);
    let group = ProcessGroup::new().expect("a group");
    let error = group.start_blocking(&command).expect_err("closed").to_string();
    assert!(error.contains("cannot pass descriptor 7: its source cannot be copied"), "{error}");
    assert!(group.is_empty().expect("an answer"));
}

/// A child costs a pidfd and the pipes asked for, and its private group nothing more. A named group has a descriptor of its
/// own (the control).
#[tokio::test]
async fn a_private_group_holds_no_descriptor() {
    if !alone("descriptors::a_private_group_holds_no_descriptor").await {
        return;
    }
    let with_cgroups = cgroups(); // asked before anything is counted: it makes a group, which the background removes
    within("the background", processkit::settled()).await;
    let quiet = sleeper().stdout(Stdio::Null).stderr(Stdio::Null);
    let first = quiet.start().await.expect("started"); // what is opened once is open now
    let before = open_descriptors();
    let (one, other) = (quiet.start().await.expect("started"), quiet.start().await.expect("started"));
    assert_eq!(open_descriptors(), before + 2, "pidfds");
    let speaking = sleeper().start().await.expect("started");
    assert_eq!(open_descriptors(), before + 5, "a pidfd and two pipes more");
    if with_cgroups {
        let _named = ProcessGroup::named(&unique("held"), ProcessGroupOptions::default()).expect("a group");
        assert_eq!(open_descriptors(), before + 6, "control");
    }
    drop((first, one, other, speaking));
    within("the background", processkit::settled()).await;
}
