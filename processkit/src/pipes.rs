//! The pipes of one process.

use crate::command::{Command, Stdio};
use crate::error::{Error, Result};
use nix::fcntl::OFlag;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Both ends of what [`Stdio::Piped`] stands for; the child's are to be closed once it has its own.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    child: [Option<OwnedFd>; 3],
    pub(crate) ours: [Option<OwnedFd>; 3],
}

impl Pipes {
    /// As many as the command needs.
    ///
    /// # Errors
    /// [`Error::Spawn`].
    pub(crate) fn open(command: &Command) -> Result<Self> {
        Self::try_open(command).map_err(|source| Error::Spawn { program: command.name(), source })
    }

    fn try_open(command: &Command) -> io::Result<Self> {
        let mut pipes = Pipes::default();
        for stream in 0..3 {
            if !matches!(command.streams[stream], Stdio::Piped) {
                continue;
            }
            if stream == 0
                && !command.keep_stdin_open
                && let Some(file) = command.input.open()?
            {
                pipes.child[0] = Some(file);
                continue;
            }
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            let (child, ours) = if stream == 0 { (reader, writer) } else { (writer, reader) };
            pipes.child[stream] = Some(child);
            pipes.ours[stream] = Some(ours);
        }
        Ok(pipes)
    }

    /// What the child gets.
    pub(crate) fn child_ends(&self) -> [Option<BorrowedFd<'_>>; 3] {
        self.child.each_ref().map(|end| end.as_ref().map(|end| end.as_fd()))
    }
}
