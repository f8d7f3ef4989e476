//! C1, C2, C3: how a child comes to life, and what is left when it does not.

use crate::play::played;
use crate::rig::*;
use processkit::{Command, Error, Signal, identity_of};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_child_ends_as_it_ended() {
    for group in groups() {
        for (script, code, signal) in [
            ("exit 0", Some(0), None),
            ("exit 7", Some(7), None),
            ("kill -9 $$", None, Some(9)),
            ("kill -15 $$", None, Some(15)),
        ] {
            let mut process = started(&group, &sh(script)).await;
            let pid = process.pid().expect("a pid");
            assert_eq!(process.identity().pid, pid);
            let exit = exit_of(&mut process).await;
            assert_eq!((exit.code, exit.signal), (code, signal), "{script}");
            assert_eq!(process.exit().await.expect("the same"), exit);
            assert_eq!(process.pid(), None, "the number is free now");
            assert_ne!(identity_of(pid).ok(), Some(process.identity()), "reaped when it returns");
            process.signal(Signal::Kill).expect("gone is fine");
        }
        group.shutdown().await.expect("gone");
    }
}

/// The cgroup is joined before the first instruction: what the child reads first is already the group.
#[tokio::test]
async fn it_is_born_in_its_group() {
    for group in groups() {
        let (mut process, mut out) = speaker(&group, Command::new("cat").arg("/proc/self/cgroup")).await;
        if let Some(location) = group.location() {
            let name = location.file_name().expect("a name").to_str().expect("text").to_owned();
            let mut line = out.line().await;
            while !line.starts_with("0::") {
                line = out.line().await;
            }
            assert!(line.ends_with(&name), "{line} is not {name}");
        }
        assert!(exit_of(&mut process).await.success());
        group.remove().await.expect("gone");
    }
}

/// Handlers, mask and SIGPIPE are as a fresh program expects them. The control is this process, which ignores SIGPIPE.
#[tokio::test]
async fn signals_are_reset() {
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect("the field");
        u64::from_str_radix(line.split_whitespace().nth(1).expect("a value"), 16).expect("hexadecimal")
    };
    const SIGPIPE: u64 = 1 << 12;
    let own = fs::read_to_string("/proc/self/status").expect("our status");
    assert_ne!(field(&own, "SigIgn") & SIGPIPE, 0, "control: ignored here");
    assert_ne!(field(&own, "SigCgt"), 0, "control: some are caught here");
    for options in mechanisms() {
        let status = output(&options, Command::new("cat").arg("/proc/self/status")).await;
        assert_eq!(field(&status, "SigBlk"), 0);
        assert_eq!(field(&status, "SigIgn") & SIGPIPE, 0);
        assert_eq!(field(&status, "SigCgt"), 0);
    }
    let after = fs::read_to_string("/proc/thread-self/status").expect("our status");
    assert_eq!(field(&after, "SigBlk"), 0, "our own mask is restored");
}

#[tokio::test]
async fn it_leads_its_group_or_session() {
    for options in mechanisms() {
        let stat = output(&options, sh("cut -d' ' -f1,5,6 /proc/$$/stat")).await;
        let ids: Vec<&str> = stat.split_whitespace().collect();
        assert_eq!(ids[0], ids[1], "leads a process group");
        assert_ne!(ids[0], ids[2], "not a session");
        let stat = output(&options, sh("cut -d' ' -f1,5,6 /proc/$$/stat").setsid()).await;
        let ids: Vec<&str> = stat.split_whitespace().collect();
        assert!(ids[0] == ids[1] && ids[1] == ids[2], "{stat}");
    }
}

#[tokio::test]
async fn the_environment_is_what_was_asked_for() {
    for options in mechanisms() {
        let command = Command::new("env").env_clear().env("A", "1").env("B", "x y");
        let text = output(&options, command).await;
        let mut lines: Vec<&str> =
            text.lines().filter(|line| !line.starts_with("PROCESSKIT_GROUP=")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["A=1", "B=x y"]);
    }
}

/// `LISTEN_PID` is the child's own pid, also over a value that was set before.
#[tokio::test]
async fn the_pid_variable_is_right() {
    for options in mechanisms() {
        let command =
            sh("echo $$ $LISTEN_PID $OTHER").env("LISTEN_PID", "1").env("OTHER", "o").env_pid("LISTEN_PID");
        for _ in 0..20 {
            let text = output(&options, command.clone()).await;
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(words, [words[0], words[0], "o"]);
        }
    }
}

/// A failed start names the culprit and leaves nothing: no descriptor, no zombie, no member.
#[tokio::test]
async fn failures_name_the_program_and_leave_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = directory.path().join("plain");
    fs::write(&plain, "no program").expect("a file");
    let strange = directory.path().join("strange");
    fs::write(&strange, "neither ELF nor script").expect("a file");
    fs::set_permissions(&strange, Permissions::from_mode(0o755)).expect("executable");
    let orphan = directory.path().join("orphan");
    write_executable(&orphan, "#!/no/such/interpreter\n");
    let path = directory.path().to_str().expect("text");

    let cases: Vec<(Command, Option<ErrorKind>, &str)> = vec![
        (Command::new("no-such-program-here"), Some(ErrorKind::NotFound), "PATH"),
        (Command::new("no-such-program-here").env_clear(), Some(ErrorKind::NotFound), "PATH"),
        (Command::new("/no/such/program"), Some(ErrorKind::NotFound), "/no/such/program"),
        (Command::new(""), Some(ErrorKind::NotFound), "the name of the program is empty"),
        (Command::new("a\0b"), Some(ErrorKind::InvalidInput), "the name of the program has a zero byte"),
        (Command::new(&plain), Some(ErrorKind::PermissionDenied), "plain"),
        (Command::new("plain").env("PATH", path), Some(ErrorKind::PermissionDenied), "plain"),
        (Command::new(&strange), None, "strange"),
        (
            Command::new("true").current_dir("/no/such/place"),
            Some(ErrorKind::NotFound),
            "working directory does not exist",
        ),
        (Command::new("true").current_dir(&plain), Some(ErrorKind::NotADirectory), "is not a directory"),
        (
            Command::new("true").arg("x").arg("a\0b"),
            Some(ErrorKind::InvalidInput),
            "argument 2 has a zero byte",
        ),
        (
            Command::new("true").env("A", "a\0b"),
            Some(ErrorKind::InvalidInput),
            "variable `A` has a zero byte",
        ),
        (Command::new(&orphan), Some(ErrorKind::NotFound), "its interpreter"),
    ];
    for group in groups() {
        for (command, kind, says) in &cases {
            let error = group.start(command).await.expect_err("no such thing");
            let Error::Spawn { program, source } = &error else { panic!("{error}") };
            assert_eq!(program.as_str(), command.program());
            assert!(kind.is_none_or(|kind| kind == source.kind()), "{error:?}");
            assert!(error.to_string().contains(says), "{error} does not say {says}");
            assert_eq!(error.is_not_found(), *kind == Some(ErrorKind::NotFound));
            assert_eq!(error.is_permission_denied(), *kind == Some(ErrorKind::PermissionDenied));
        }
        assert!(group.is_empty().expect("an answer"));
        group.remove().await.expect("gone");
    }
}

/// Programs are found in the command's `PATH`, or in ours although the environment is cleared.
#[tokio::test]
async fn programs_are_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("greet");
    write_executable(&file, "#!/bin/sh\necho hello $0\n");
    for options in mechanisms() {
        let text = output(&options, Command::new("greet").env("PATH", directory.path())).await;
        assert!(text.starts_with("hello "), "{text}");
        assert_eq!(output(&options, Command::new("echo").arg("x").env_clear()).await, "x\n");
        let text = output(&options, Command::new("./greet").current_dir(directory.path())).await;
        assert_eq!(text, "hello ./greet\n");
    }
}

/// An opened file runs although another took its name; the control by name runs the other.
#[tokio::test]
async fn an_opened_executable_is_immune_to_replacement() {
    let directory = tempfile::tempdir().expect("a directory");
    for options in mechanisms() {
        // an ELF file
        let file = directory.path().join("program");
        copy_executable("/bin/echo", &file);
        let opened = OwnedFd::from(File::open(&file).expect("opened"));
        let command = Command::new(&file).arg("original").exe_fd(opened);
        replace(&file, "#!/bin/sh\necho replaced\n");
        assert_eq!(output(&options, command).await, "original\n");
        assert_eq!(output(&options, Command::new(&file)).await, "replaced\n");

        // a script
        let file = directory.path().join("script");
        write_executable(&file, "#!/bin/sh\necho original $1\n");
        let opened = OwnedFd::from(File::open(&file).expect("opened"));
        let command = Command::new(&file).arg("x").exe_fd(opened);
        replace(&file, "#!/bin/sh\necho replaced\n");
        assert_eq!(output(&options, command).await, "original x\n");
        assert_eq!(output(&options, Command::new(&file)).await, "replaced\n");
    }
}

/// The script's file stays open for its interpreter even if command and handle are dropped at once.
#[tokio::test]
async fn a_script_outlives_its_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("script");
    write_executable(&file, "#!/bin/sh\necho ran\n");
    for group in groups() {
        for _ in 0..20 {
            let opened = OwnedFd::from(File::open(&file).expect("opened"));
            let (command, mut out) = Output::of(Command::new(&file).exe_fd(opened));
            drop(started(&group, &command).await);
            drop(command);
            assert_eq!(out.line().await, "ran");
            out.end().await;
        }
        group.remove().await.expect("gone");
    }
}

fn write_executable(path: &std::path::Path, text: &str) {
    // By another process: a descriptor for writing in this one could be inherited by a spawn of another test, between
    // its clone and its exec, and the file would be "busy".
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .arg(text)
        .status()
        .expect("sh");
    assert!(status.success());
}

fn copy_executable(from: &str, to: &std::path::Path) {
    assert!(std::process::Command::new("cp").arg(from).arg(to).status().expect("cp").success());
}

fn replace(path: &std::path::Path, text: &str) {
    let next = path.with_extension("next");
    write_executable(&next, text);
    fs::rename(next, path).expect("renamed");
}

/// C13: what it used is kept from the reap on. In a process of its own, whose memory nobody else fills.
///
/// Was unknown for a child that was smaller than the parent of its parent, here once in some thirty runs: what another test
/// had in memory just then. getrusage(2) counts it as the spawner's own, although the child is charged with what the spawner
/// has resident itself.
#[tokio::test]
async fn usage_is_known_after_the_end() {
    let _larger_than_the_child = vec![1u8; 256 << 20];
    played("usage");
}
