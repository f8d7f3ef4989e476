//! The command line: forms, limits, defaults. What is wrong here is wrong without touching the system: exit 2.

use crate::restarts::RestartArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use handoff::ids::ListenerName;
use handoff::os::listeners::{Address, InvalidAddress};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Replace the binary of a running server while its clients keep their connections.
#[derive(Debug, Parser)]
#[command(name = "handoffctl", version, after_help = SHORT_EXIT_CODES, after_long_help = LONG_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const SHORT_EXIT_CODES: &str = "Exit codes and examples: handoffctl --help";

const LONG_HELP: &str = "\
Examples:
  Start a server under a supervisor, with its data and one listener:
    handoffctl run --run-dir /run/kv --data-dir /var/lib/kv \\
        --listen resp=127.0.0.1:6379 -- /opt/kv/demo-server --data /var/lib/kv

  Replace it by the build that now lies at the same path, or at another one:
    handoffctl upgrade --run-dir /run/kv
    handoffctl upgrade --run-dir /run/kv --binary /opt/kv-2/demo-server

  Ask a script-friendly question:
    handoffctl upgrade --run-dir /run/kv --format json | jq .freeze_ms

Exit codes:
   0  done: committed, stopped and empty, or everything as it should be
   1  status: nothing serves
   2  usage: the command line is wrong; nothing was touched
   3  no supervisor answers in this run dir
  10  upgrade aborted, the old server serves on
  11  upgrade aborted, a server had to be started from disk
  12  outcome unknown: ask `handoffctl status`, which reads the claim files
  13  busy: another upgrade or a recovery is open; run: the directories are in use
  14  upgrade: preflight failed, the server was not touched; run: cannot start
  15  upgrade --wait-probation: the new server did not stand its probation, the build before serves again
  16  abort: nothing to abort, or too late
  70  internal error";

const UPGRADE_HELP: &str = "\
The command waits for the end. On a terminal it shows the phases on stderr as they happen; the result goes to
stdout, as one block or, with --format json, as one object on one line (for every exit code except 2).

After the commit the new server is on probation: if it dies, makes no progress for 6 s, or says that it is not healthy
within that time, the supervisor goes back to the build before, by a handoff or, where nobody can hand over, from
disk. `status` and `history` show it as rolled_back. The next upgrade ends a probation.

Without --binary the PROGRAM of `run` is resolved again: install the new build at the same path, then upgrade.
A relative --binary is relative to your directory. Arguments and environment are those of `run`.

With --supervisor the supervisor becomes the handoffctl that now lies at its path, or --binary: same process, same
servers, same listeners. The new one is checked first; if it cannot take over, the old one goes on (14).

With --no-supervisor it works where the supervisor is gone for good: the server that serves gives its listeners,
arguments and environment. Afterwards it is alone again; `handoffctl run` adopts it.

Examples:
  handoffctl upgrade --run-dir /run/kv
  handoffctl upgrade --run-dir /run/kv --binary ./target/release/demo-server --freeze-budget 500ms
  handoffctl upgrade --run-dir /run/kv --format json
  handoffctl upgrade --run-dir /run/kv --supervisor --binary /opt/handoff-2/handoffctl

Exit codes:
   0  committed: the new server serves; the new supervisor supervises
   2  usage
   3  no supervisor answers in this run dir
  10  aborted, the old server serves on
  11  aborted, a server had to be started from disk
  12  unknown: the supervisor went away before it answered; `handoffctl status` reads the claim files
  13  another upgrade is running
  14  preflight failed, the old server was not touched
  15  with --wait-probation: committed, did not stand its probation, the build before serves again
  70  internal error";

const RUN_HELP: &str = "\
Binds the listeners, starts PROGRAM, watches it, starts it again from disk when it dies, and answers operators on
DIR/control.sock until SIGTERM or SIGINT. Then the server drains, everything is ended, and the exit code is 0; a second
signal shortens the grace. When a supervisor died (kill -9 too), start it again with the same arguments: it
takes over the running server.

ADDR is 127.0.0.1:6379, [::1]:6379, unix:/path or udp:127.0.0.1:53. The program finds its listeners the way systemd
passes them (LISTEN_FDS, LISTEN_FDNAMES). Its environment is what --env declares, nothing else. RUST_LOG sets what is
logged on stderr (default: info).

A server that dies is started again from disk: the first time at once, then after pauses that double. When the budget
is used up, `status` says `failed` and why; the listeners stay open, so that clients wait. A program that does not come
up when a service is started for the first time, or again after a clean stop, is not tried again: exit 14.

Examples:
  handoffctl run --run-dir /run/kv --data-dir /var/lib/kv --listen resp=127.0.0.1:6379 -- demo-server --data /var/lib/kv
  handoffctl run --run-dir /run/web --listen http=[::]:8080 --env RUST_LOG=info --env HOME -- ./web

Exit codes:
   0  stopped, nothing left behind
   2  usage
  13  run dir or data dir in use by another supervisor or lineage
  14  cannot start: a directory, an address or the program is not as it must be
  70  internal error";

const ROLLBACK_HELP: &str = "\
A handoff in the other direction: to the newest kept build that is not the one that serves, called as it was then, from
the copy that the supervisor keeps, whatever became of the file. Builds are kept as long as one of the last claims
names them. While an upgrade is on probation it goes back to the build before that upgrade.

Examples:
  handoffctl rollback --run-dir /run/kv

Exit codes:
   0  rolled back: the build before serves
   2  usage
   3  no supervisor answers in this run dir
  10  aborted, the running server serves on
  11  aborted, a server had to be started from disk
  12  unknown: the supervisor went away before it answered
  13  another upgrade is running
  14  there is nothing to go back to, or it does not fit; the running server was not touched
  70  internal error";

const STATUS_HELP: &str = "\
Without a supervisor it still says what journal, claim files and control sockets say, with \"supervisor\": null.

Examples:
  handoffctl status --run-dir /run/kv
  handoffctl status --run-dir /run/kv --format json | jq -r .server.pid

Exit codes:
   0  a supervisor answers, a server serves, nothing is open
   1  nothing serves
   2  usage
   3  no supervisor answers
  13  a handoff or a recovery is open
  70  internal error";

const ABORT_HELP: &str = "\
The old server serves on, unless the new one has claimed already. The waiting `upgrade` prints how it ended.

Examples:
  handoffctl abort --run-dir /run/kv

Exit codes:
   0  taken
   2  usage
   3  no supervisor answers
  16  nothing to abort, or too late
  70  internal error";

const HISTORY_HELP: &str = "\
Reads the journal of the run dir, newest handoff first; no supervisor is needed. With --format json one object a line,
in the form that `upgrade` prints.

Examples:
  handoffctl history --run-dir /run/kv
  handoffctl history --run-dir /run/kv --format json | jq -r '[.handoff_id, .outcome, .freeze_ms] | @tsv'

Exit codes:
   0  printed (nothing when there was no upgrade yet)
   2  usage
   3  there is no such run dir
  70  the journal cannot be read";

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a server and supervise it
    #[command(after_long_help = RUN_HELP)]
    Run(Run),
    /// Replace the running server by another build of it
    #[command(after_long_help = UPGRADE_HELP)]
    Upgrade(Upgrade),
    /// Go back to the build that served before
    #[command(after_long_help = ROLLBACK_HELP)]
    Rollback(Rollback),
    /// Show who serves and whether anything is open
    #[command(after_long_help = STATUS_HELP)]
    Status(Query),
    /// Abort the open upgrade
    #[command(after_long_help = ABORT_HELP)]
    Abort(Abort),
    /// Asked by a supervisor before this program takes its place
    #[command(hide = true)]
    SelfCheck(SelfCheck),
    /// Show the upgrades so far, newest first
    #[command(after_long_help = HISTORY_HELP)]
    History(Query),
}

/// `run`
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Directory of the supervisor: sockets, lock, journal (created 0700 when missing)
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// Directory of the server's data; without it the service is stateless
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A listener, held across upgrades; may be repeated
    #[arg(long = "listen", value_name = "NAME=ADDR")]
    pub(crate) listen: Vec<Listen>,
    /// A variable of the server's environment: K=V, or K to copy it from here; may be repeated
    #[arg(long = "env", value_name = "K[=V]", value_parser = parse_env)]
    pub(crate) env: Vec<EnvArg>,
    #[command(flatten)]
    pub(crate) restarts: RestartArgs,
    /// A name for this service, shown by `status`
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// The server and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "PROGRAM [ARGS]")]
    pub(crate) program: Vec<OsString>,
}

/// `upgrade`
#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// Run dir of the supervisor
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// The new program; default: PROGRAM of `run`, resolved again
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
    /// Replace the supervisor itself, in place; --binary is then the new handoffctl
    #[arg(long, conflicts_with_all = ["drain_grace", "freeze_budget", "deadline"])]
    pub(crate) supervisor: bool,
    /// Upgrade although no supervisor runs: this program supervises until it is done, then leaves
    #[arg(long, conflicts_with = "supervisor")]
    pub(crate) no_supervisor: bool,
    /// Time for the old server to prepare
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) drain_grace: Duration,
    /// Longest pause of the service before the old server serves on
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_positive)]
    pub(crate) freeze_budget: Duration,
    /// Time for the whole upgrade
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_positive)]
    pub(crate) deadline: Duration,
    /// How long the new server has to prove itself; 0s: not at all
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) probation: Duration,
    /// Wait for the end of the probation; 15 when the service went back
    #[arg(long)]
    pub(crate) wait_probation: bool,
    /// Accept that the old build cannot read what the new one writes: there is no way back
    #[arg(long)]
    pub(crate) one_way: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// `rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Run dir of the supervisor
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// Time for the running server to prepare
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) drain_grace: Duration,
    /// Longest pause of the service before the running server serves on
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_positive)]
    pub(crate) freeze_budget: Duration,
    /// Time for all of it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_positive)]
    pub(crate) deadline: Duration,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// `self-check`
#[derive(Debug, Args)]
pub(crate) struct SelfCheck {
    /// The arguments of the supervisor
    #[arg(last = true, required = true, num_args = 1.., value_name = "ARGS")]
    pub(crate) arguments: Vec<OsString>,
}

/// `status`, `history`
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// Run dir of the supervisor
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// `abort`
#[derive(Debug, Args)]
pub(crate) struct Abort {
    /// Run dir of the supervisor
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Human,
    /// For programs: one object a line
    Json,
}

/// `NAME=ADDR`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) name: ListenerName,
    pub(crate) address: Address,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) =
            text.split_once('=').ok_or("a listener is NAME=ADDR, for example resp=127.0.0.1:6379")?;
        let name = ListenerName::new(name).map_err(|e| e.to_string())?;
        let address = address.parse().map_err(|e: InvalidAddress| e.to_string())?;
        Ok(Self { name, address })
    }
}

/// One `--env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EnvArg {
    /// Set to this.
    Set(String, String),
    /// Copied from the supervisor's own environment.
    Copy(String),
}

impl EnvArg {
    fn key(&self) -> &str {
        match self {
            EnvArg::Set(key, _) | EnvArg::Copy(key) => key,
        }
    }
}

impl fmt::Display for EnvArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl Run {
    /// What no single argument shows: the same name twice.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (n, listen) in self.listen.iter().enumerate() {
            if self.listen[..n].iter().any(|other| other.name == listen.name) {
                return Err(format!("two listeners are named {}: give each its own name", listen.name));
            }
            if self.listen[..n].iter().any(|other| other.address == listen.address) {
                return Err(format!("two listeners have the address {}: remove one", listen.address));
            }
        }
        for (n, env) in self.env.iter().enumerate() {
            if self.env[..n].iter().any(|other| other.key() == env.key()) {
                return Err(format!("--env {env} is given twice: remove one"));
            }
        }
        Ok(())
    }
}

/// The longest duration a command line may give.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// `250ms`, `5s`, `2m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| "a time is a number and a unit, like 250ms, 5s or 2m".to_owned())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        other if other.starts_with(['.', ',']) => {
            return Err("a time is a whole number and a unit: write 1500ms for one and a half seconds".into());
        }
        "" => return Err(format!("the unit is missing: write {number}s or {number}ms")),
        other => return Err(format!("unknown unit {other:?}: use ms, s, m or h")),
    };
    let time = number.checked_mul(unit_ms).map(Duration::from_millis).filter(|t| *t <= LONGEST);
    time.ok_or_else(|| format!("{text} is too long: 24h is the most"))
}

pub(crate) fn parse_positive(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time.is_zero() { Err("0 is no time to do anything in: give at least 1ms".into()) } else { Ok(time) }
}

fn parse_env(text: &str) -> Result<EnvArg, String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    if key.is_empty() {
        return Err("the variable has no name: write K=V or K".into());
    }
    for reserved in ["HANDOFF_", "LISTEN_"] {
        if key.starts_with(reserved) {
            return Err(format!("{key} is reserved: the supervisor sets {reserved}* itself"));
        }
    }
    Ok(match value {
        Some(value) => EnvArg::Set(key.to_owned(), value.to_owned()),
        None => EnvArg::Copy(key.to_owned()),
    })
}

fn parse_name(text: &str) -> Result<String, String> {
    ListenerName::new(text)
        .map(|name| name.as_str().to_owned())
        .map_err(|_| "a service name has 1 to 64 letters, digits, '.', '_' or '-'".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "1d",
            "25h",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert!(parse_positive("0s").is_err());
    }

    #[test]
    fn listeners() {
        for good in ["resp=127.0.0.1:6379", "a=[::1]:1", "a=unix:/x", "dns=udp:127.0.0.1:53"] {
            assert!(good.parse::<Listen>().is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "resp",
            "=127.0.0.1:1",
            "a=127.0.0.1",
            "a=localhost:1",
            "a=unix:x",
            "a=udp:/x",
            "a b=[::1]:1",
        ] {
            assert!(bad.parse::<Listen>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_environment_is_declared() {
        assert_eq!(parse_env("A=b=c"), Ok(EnvArg::Set("A".into(), "b=c".into())));
        assert_eq!(parse_env("A="), Ok(EnvArg::Set("A".into(), String::new())));
        assert_eq!(parse_env("A"), Ok(EnvArg::Copy("A".into())));
        for bad in ["", "=x", "HANDOFF_ROLE=cold", "HANDOFF_CRASH", "LISTEN_FDS=3"] {
            assert!(parse_env(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_and_addresses_are_given_once() {
        let parse = |args: &[&str]| {
            let words = ["handoffctl", "run", "--run-dir", "/r"].iter().chain(args).chain(&["--", "p"]);
            match Cli::try_parse_from(words).expect("parses").command {
                Command::Run(run) => run.check(),
                other => panic!("{other:?}"),
            }
        };
        assert!(parse(&["--listen", "a=[::1]:1", "--listen", "b=[::1]:2"]).is_ok());
        assert!(parse(&["--listen", "a=[::1]:1", "--listen", "a=[::1]:2"]).is_err());
        assert!(parse(&["--listen", "a=[::1]:1", "--listen", "b=[::1]:1"]).is_err());
        assert!(parse(&["--env", "A=1", "--env", "A"]).is_err());
    }
}
