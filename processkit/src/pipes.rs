//! The pipes of one process.

use crate::command::{Command, Stdio};
use crate::error::{Error, Result};
use crate::stdin::InputFile;
use nix::fcntl::OFlag;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Both ends of what [`Stdio::Piped`] stands for; the child's are to be closed once it has its own.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    child: [Option<OwnedFd>; 3],
    pub(crate) ours: [Option<Ours>; 3],
}

/// Our end of one.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) pipe: OwnedFd,
    /// What is to be copied into it: opened before the start, which fails with it.
    pub(crate) file: Option<InputFile>,
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
            let file = match stream {
                0 => command.input.open()?,
                _ => None,
            };
            let file = match file {
                Some(InputFile::Plain(file)) if !command.keep_stdin_open => {
                    pipes.child[0] = Some(file.into());
                    continue;
                }
                file => file,
            };
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            let (child, ours) = if stream == 0 { (reader, writer) } else { (writer, reader) };
            pipes.child[stream] = Some(child);
            pipes.ours[stream] = Some(Ours { pipe: ours, file });
        }
        Ok(pipes)
    }

    /// What the child gets.
    pub(crate) fn child_ends(&self) -> [Option<BorrowedFd<'_>>; 3] {
        self.child.each_ref().map(|end| end.as_ref().map(|end| end.as_fd()))
    }
}
