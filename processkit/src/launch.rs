//! From a command to a child: everything is looked up and laid out here, so that the child itself has nothing to decide.

use crate::command::{Command, Stdio};
use crate::containment::{is_gone, say_gone};
use crate::error::{Error, Result};
use crate::passing;
use crate::privileges::Resource;
use crate::process::{Born, Child};
use crate::sys::{self, Move, Spawn, SpawnFailure, Stage};
use nix::unistd::AccessFlags;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Where a child is born.
#[derive(Clone, Debug, Default)]
pub(crate) struct Birthplace<'a> {
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// A variable more.
    pub(crate) mark: Option<(OsString, OsString)>,
    /// Only to test the older way.
    pub(crate) without_clone3: bool,
    /// What [`Stdio::Piped`] stands for, for each stream.
    pub(crate) pipes: [Option<BorrowedFd<'a>>; 3],
}

/// Start a child. On an error nothing of it is left.
pub(crate) fn launch(command: &Command, birthplace: Birthplace<'_>) -> Result<Child> {
    launch_unnamed(command, birthplace).map_err(|source| {
        let missing = source.raw_os_error() == Some(libc::ENOENT);
        let source = if missing && is_there(command) {
            io::Error::new(
                source.kind(),
                format!("{source}: its interpreter (first line) or loader is not there"),
            )
        } else {
            source
        };
        Error::Spawn { program: command.program.to_string_lossy().into_owned(), source }
    })
}

/// Whether the program itself is there, so that what the kernel did not find is what is to run it.
fn is_there(command: &Command) -> bool {
    let inside = command.directory.as_deref().unwrap_or(Path::new(""));
    command.file.is_some() || inside.join(&command.program).exists()
}

fn launch_unnamed(command: &Command, birthplace: Birthplace<'_>) -> io::Result<Child> {
    if let Some(directory) = &command.directory {
        check_directory(directory)?;
    }
    if command.program.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name of the program is empty"));
    }
    passing::check(&command.passed)?;
    let program = c_string(command.program.as_bytes(), || "the name of the program".to_owned())?;
    let arguments = (1..).zip(&command.arguments);
    let arguments = arguments.map(|(number, a)| c_string(a.as_bytes(), || format!("argument {number}")));
    let argv = std::iter::once(Ok(program)).chain(arguments).collect::<io::Result<Vec<_>>>()?;
    let script = match &command.file {
        Some(file) if is_script(file.as_fd()) => Some(Arc::clone(file)),
        _ => None,
    };
    let path = match (&command.file, &script) {
        (_, Some(file)) => format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into(),
        (Some(_), None) => OsString::new(),
        (None, None) => search(&command.program, || command.environment.search_path())?,
    };
    let file = command.file.as_ref().filter(|_| script.is_none()).map(|file| file.as_fd());

    let mut variables = command.environment.resolve();
    variables.extend(birthplace.mark);
    let envp = variables
        .into_iter()
        .map(|(key, value)| {
            // all it needs at once: there are many of them
            let mut entry = Vec::with_capacity(key.len() + value.len() + 2);
            entry.extend(key.as_bytes());
            entry.push(b'=');
            entry.extend(value.as_bytes());
            c_string(entry, || format!("variable `{}`", key.to_string_lossy().escape_default()))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let pid_variable = command.environment.pid_variable.as_ref().map(|key| key.as_bytes().to_vec());
    if pid_variable.as_ref().is_some_and(|key| key.is_empty() || key.contains(&0) || key.contains(&b'=')) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name for a variable"));
    }

    let null = match command.streams.iter().any(|stream| matches!(stream, Stdio::Null)) {
        true => Some(OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?)),
        false => None,
    };
    let streams =
        (0..).zip(&command.streams).zip(birthplace.pipes).map(|((target, stream), pipe)| match stream {
            Stdio::Null => {
                Move { source: null.as_ref().map_or(-1, |null| null.as_raw_fd()), target, optional: false }
            }
            Stdio::Inherit => Move { source: target, target, optional: true },
            Stdio::Fd(fd) => Move { source: fd.as_raw_fd(), target, optional: false },
            Stdio::Piped => {
                Move { source: pipe.map_or(-1, |pipe| pipe.as_raw_fd()), target, optional: false }
            }
        });
    let mut moves: Vec<Move> = streams.collect();
    for (target, fd) in command.passed.iter().filter(|(target, _)| *target > libc::STDERR_FILENO) {
        moves.push(Move { source: fd.open(*target)?.as_raw_fd(), target: *target, optional: false });
    }

    let born = Born { at: Instant::now(), time: SystemTime::now() };
    let spawned = sys::spawn(Spawn {
        path: c_string(path.as_bytes(), || "the program's path".to_owned())?,
        file,
        argv,
        envp,
        pid_variable,
        directory: command
            .directory
            .as_ref()
            .map(|d| c_string(d.as_os_str().as_bytes(), || "the working directory".to_owned()))
            .transpose()?,
        moves,
        setsid: command.setsid,
        privileges: &command.privileges,
        cgroup: birthplace.cgroup,
        clone3: !birthplace.without_clone3,
    })
    .map_err(|failure| explain(&failure))?;

    event!(debug, pid = spawned.pid, "process started");
    Ok(Child::new(spawned.pidfd, spawned.pid, born, script))
}

fn c_string(bytes: impl Into<Vec<u8>>, what: impl FnOnce() -> String) -> io::Result<CString> {
    CString::new(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{} has a zero byte in it", what())))
}

fn check_directory(directory: &Path) -> io::Result<()> {
    match std::fs::metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(in_directory)
}

fn in_directory(error: io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::NotFound => "working directory does not exist",
        io::ErrorKind::NotADirectory => "working directory is not a directory",
        io::ErrorKind::PermissionDenied => "working directory may not be entered",
        _ => return io::Error::new(error.kind(), format!("cannot enter the working directory: {error}")),
    };
    io::Error::new(error.kind(), text)
}

/// The error as its reader needs it. The raw error is kept where there is nothing to add.
fn explain(failure: &SpawnFailure) -> io::Error {
    let SpawnFailure { stage, source, detail } = failure;
    let raw = || {
        source
            .raw_os_error()
            .map_or_else(|| io::Error::other(source.to_string()), io::Error::from_raw_os_error)
    };
    let step = match stage {
        Stage::Directory => return in_directory(io::Error::new(source.kind(), source.to_string())),
        Stage::Stopped => {
            return io::Error::new(source.kind(), "somebody stopped it before it executed its program");
        }
        Stage::Frozen => return io::Error::new(source.kind(), crate::group::SUSPENDED),
        Stage::Session | Stage::Exec => return raw(),
        // ENODEV or ENOENT can be about nothing else here
        Stage::Clone => return say_gone(raw()),
        Stage::Join if is_gone(source) => return say_gone(raw()),
        Stage::Join => "cannot join the group's cgroup".to_owned(),
        Stage::OomScore => "cannot set oom_score_adj".to_owned(),
        Stage::Limits => {
            let resource = Resource::from_raw(*detail);
            resource.map_or("cannot set a limit".to_owned(), |r| format!("cannot set the limit {r:?}"))
        }
        Stage::Groups => "cannot set the supplementary groups".to_owned(),
        Stage::Gid => "cannot set the gid".to_owned(),
        Stage::Uid => "cannot set the uid".to_owned(),
        Stage::ParentDeath => "cannot bind it to the life of its parent".to_owned(),
        Stage::NoNewPrivileges => "cannot set no_new_privs".to_owned(),
        Stage::Descriptors if *detail >= 0 => format!("cannot pass descriptor {detail}"),
        Stage::Descriptors => "cannot keep the file to execute open".to_owned(),
    };
    io::Error::new(source.kind(), format!("{step}: {source}"))
}

/// Whether the kernel would hand the file to an interpreter.
fn is_script(file: BorrowedFd<'_>) -> bool {
    let reads_shebang = |file: BorrowedFd<'_>| -> io::Result<bool> {
        let mut start = [0; 2];
        Ok(nix::sys::uio::pread(file, &mut start, 0)? == 2 && start == *b"#!")
    };
    // An O_PATH descriptor cannot be read, but opened again; a file we may only execute is no script, those must be read.
    reads_shebang(file)
        .or_else(|_| reads_shebang(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.as_fd()))
        .unwrap_or(false)
}

/// The file to execute: the program itself if it is a path, else the first executable of that name in `path`.
fn search(program: &OsStr, path: impl FnOnce() -> OsString) -> io::Result<OsString> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let path = path();
    let mut denied = false;
    for directory in std::env::split_paths(&path).filter(|_| !program.is_empty()) {
        let mut candidate = directory.join(program);
        if !candidate.metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        if candidate.is_relative() {
            candidate = std::env::current_dir()?.join(candidate); // the child may start elsewhere
        }
        if nix::unistd::eaccess(&candidate, AccessFlags::X_OK).is_ok() {
            return Ok(candidate.into_os_string());
        }
        denied = true;
    }
    let path = path.to_string_lossy();
    Err(if denied {
        io::Error::new(io::ErrorKind::PermissionDenied, format!("found but not executable in PATH `{path}`"))
    } else {
        io::Error::new(io::ErrorKind::NotFound, format!("no such program in PATH `{path}`"))
    })
}
