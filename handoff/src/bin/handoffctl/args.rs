//! The command line: forms, limits, defaults. What is wrong here is wrong without touching the system: exit 2.

use crate::canary::CanaryArgs;
use crate::help::{ABORT_HELP, HISTORY_HELP, LONG_HELP, ROLLBACK_HELP, RUN_HELP, STATUS_HELP, UPGRADE_HELP};
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
    #[command(flatten)]
    pub(crate) canary: CanaryArgs,
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
    /// Go to this kept build: an epoch, or a build, path or instance id as `status` and `history` show it
    #[arg(long, value_name = "BUILD")]
    pub(crate) to: Option<String>,
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

impl Upgrade {
    /// What no single argument shows: times that do not fit.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.canary.check(self.freeze_budget)
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
