//! What to run: a program, its environment and its descriptors.

use crate::options::ProcessGroupOptions;
use crate::output::{LineCallback, OutputBufferPolicy};
use crate::passing::PassedFd;
use crate::privileges::Privileges;
use crate::stdin::Stdin;
use crate::terms::Terms;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a standard stream of the child goes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Stdio {
    /// `/dev/null`.
    Null,
    /// The same as ours.
    Inherit,
    /// A pipe whose other end is ours.
    Piped,
    /// This descriptor.
    Fd(Arc<OwnedFd>),
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Stdio::Fd(Arc::new(fd))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

/// A program to start. A value: cloning is cheap, nothing is looked up before the spawn.
///
/// The child gets exactly the descriptors named here: standard input (`/dev/null` unless asked otherwise), output and error
/// (pipes that are always drained, whoever looks at them), and those of [`pass_fd`](Command::pass_fd). It leads a process group of its own, has no signal blocked and
/// the default action for every signal except those ignored here; SIGPIPE is never ignored.
#[derive(Clone)]
#[must_use = "a command does nothing until a group starts it"]
pub struct Command {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) environment: Environment,
    pub(crate) streams: [Stdio; 3],
    pub(crate) passed: Vec<(RawFd, PassedFd)>,
    pub(crate) file: Option<Arc<OwnedFd>>,
    pub(crate) setsid: bool,
    pub(crate) input: Stdin,
    pub(crate) keep_stdin_open: bool,
    pub(crate) on_line: [Option<LineCallback>; 2],
    pub(crate) output_buffer: OutputBufferPolicy,
    pub(crate) terms: Terms,
    pub(crate) unchecked: bool,
    pub(crate) group_options: ProcessGroupOptions,
    pub(crate) privileges: Privileges,
}

/// The environment as it differs from ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    pub(crate) base: Base,
    /// In effect over the base; `None` removes.
    pub(crate) changes: BTreeMap<OsString, Option<OsString>>,
    pub(crate) pid_variable: Option<OsString>,
}

/// What an environment starts from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Base {
    #[default]
    Everything,
    Nothing,
    Only(Vec<OsString>),
}

impl Environment {
    /// The variables at this moment, without the one for the pid.
    pub(crate) fn resolve(&self) -> BTreeMap<OsString, OsString> {
        let mut variables: BTreeMap<OsString, OsString> = match &self.base {
            Base::Everything => std::env::vars_os().collect(),
            Base::Nothing => BTreeMap::new(),
            Base::Only(names) => {
                names.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect()
            }
        };
        for (key, change) in &self.changes {
            match change {
                Some(value) => variables.insert(key.clone(), value.clone()),
                None => variables.remove(key),
            };
        }
        if let Some(key) = &self.pid_variable {
            variables.remove(key);
        }
        variables
    }

    /// The `PATH` to search: the child's if the command sets one, ours otherwise, also where the rest is cleared.
    pub(crate) fn search_path(&self) -> OsString {
        self.changes
            .get(OsStr::new("PATH"))
            .cloned()
            .flatten()
            .or_else(|| std::env::var_os("PATH"))
            .unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())
    }
}

impl Command {
    /// A program: a path if it contains a slash, otherwise a name searched for in `PATH` at the spawn.
    ///
    /// A relative path is taken from [`current_dir`](Command::current_dir) if that is set. A file whose format the kernel
    /// does not know is an error; it is not handed to a shell.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Command {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            directory: None,
            environment: Environment::default(),
            streams: [Stdio::Null, Stdio::Piped, Stdio::Piped],
            passed: Vec::new(),
            file: None,
            setsid: false,
            input: Stdin::empty(),
            keep_stdin_open: false,
            on_line: [None, None],
            output_buffer: OutputBufferPolicy::default(),
            terms: Terms::default(),
            unchecked: false,
            group_options: ProcessGroupOptions::default(),
            privileges: Privileges::default(),
        }
    }

    /// Add an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Add arguments.
    pub fn args<I, S>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Where it starts. A missing directory is a spawn error that says so.
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Set a variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.changes.insert(key.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Remove a variable.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.environment.changes.insert(key.as_ref().to_owned(), None);
        self
    }

    /// Start from an empty environment; forgets what was set before. `PATH` is still searched as ours.
    pub fn env_clear(mut self) -> Self {
        self.environment.base = Base::Nothing;
        self.environment.changes.clear();
        self
    }

    /// Start from these variables only, as they are at each spawn.
    pub fn inherit_env<I, S>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.environment.base = Base::Only(names.into_iter().map(|name| name.as_ref().to_owned()).collect());
        self
    }

    /// Give the child its own pid, in decimal, in this variable (`LISTEN_PID` of sd_listen_fds(3)).
    pub fn env_pid(mut self, key: impl AsRef<OsStr>) -> Self {
        self.environment.pid_variable = Some(key.as_ref().to_owned());
        self
    }

    /// Execute this opened file instead of looking the program up: what was checked is what runs, even if the file on disk
    /// is replaced. The program is `argv[0]` then, and the name in errors.
    ///
    /// A script (`#!`) is executed as `/proc/<our pid>/fd/<n>`, since its interpreter has to open it again; the interpreter
    /// needs the same uid as ours for that, and this process must live until it did.
    pub fn exe_fd(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.file = Some(Arc::new(fd.into()));
        self
    }

    /// What the child reads from its standard input, fed in the background; nothing (`/dev/null`) by default.
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        let piped = self.keep_stdin_open || !stdin.is_empty();
        self.streams[0] = if piped { Stdio::Piped } else { Stdio::Null };
        self.input = stdin;
        self
    }

    /// Keep standard input open: a pipe, handed out by
    /// [`RunningProcess::standard_input`](crate::RunningProcess::standard_input). A [`stdin`](Command::stdin) given as well is
    /// written first. The verbs that consume the process close a pipe that nobody took.
    pub fn keep_stdin_open(mut self) -> Self {
        self.keep_stdin_open = true;
        self.streams[0] = Stdio::Piped;
        self
    }

    /// Standard input from a descriptor, or as ours, instead of a [`Stdin`].
    pub fn stdin_from(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams[0] = stdio.into();
        self.input = Stdin::empty();
        self.keep_stdin_open = matches!(self.streams[0], Stdio::Piped);
        self
    }

    /// Standard output; a pipe by default. What does not go into the pipe is in no result.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams[1] = stdio.into();
        self
    }

    /// Standard error; a pipe by default. What does not go into the pipe is in no result.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams[2] = stdio.into();
        self
    }

    /// How much of the output is kept; all of it by default. The pipes are drained in any case.
    pub fn output_buffer(mut self, policy: OutputBufferPolicy) -> Self {
        self.output_buffer = policy;
        self
    }

    /// Look at each line of standard output as it comes, in the task that drains the pipe: it must not block. A panic in it
    /// ends the looking, not the run. Does not take the line from anybody else.
    pub fn on_stdout_line<F>(mut self, look: F) -> Self
    where
        F: Fn(&str) + Send + Sync + 'static,
    {
        self.on_line[0] = Some(LineCallback::new(look));
        self
    }

    /// As [`on_stdout_line`](Command::on_stdout_line), for standard error.
    pub fn on_stderr_line<F>(mut self, look: F) -> Self
    where
        F: Fn(&str) + Send + Sync + 'static,
    {
        self.on_line[1] = Some(LineCallback::new(look));
        self
    }

    /// How the private group of [`start`](Command::start) and the other verbs is made. A
    /// [`ProcessGroup`](crate::ProcessGroup) that starts this has its own options.
    pub fn group_options(mut self, options: ProcessGroupOptions) -> Self {
        self.group_options = options;
        self
    }

    /// Lead a session of its own, not only a process group.
    pub fn setsid(mut self) -> Self {
        self.setsid = true;
        self
    }

    /// The program as it was asked for.
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// The program in errors and results.
    pub(crate) fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// The arguments, without the program.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }
}

/// Without the values of the environment: they are where secrets live.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes: BTreeMap<&OsStr, &str> = self
            .environment
            .changes
            .iter()
            .map(|(key, value)| (key.as_os_str(), if value.is_some() { "set" } else { "removed" }))
            .collect();
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("directory", &self.directory)
            .field("environment", &changes)
            .field("streams", &self.streams)
            .field("passed", &self.passed)
            .field("file", &self.file)
            .field("setsid", &self.setsid)
            .field("stdin", &self.input)
            .field("output_buffer", &self.output_buffer)
            .field("limits", &self.terms)
            .field("privileges", &self.privileges)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_keeps_values_to_itself() {
        let command = Command::new("x").env("TOKEN", "hunter2").env_pid("LISTEN_PID");
        let text = format!("{command:?}");
        assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn environments_resolve_in_order() {
        let command = Command::new("x").env("A", "1").env_clear().env("B", "2").env("C", "3").env_remove("C");
        assert_eq!(command.environment.resolve(), BTreeMap::from([("B".into(), "2".into())]));
        let command = Command::new("x").inherit_env(["PATH", "NO_SUCH_VARIABLE"]).env("D", "4").env_pid("D");
        assert_eq!(command.environment.resolve().into_keys().collect::<Vec<_>>(), ["PATH"]);
    }
}
