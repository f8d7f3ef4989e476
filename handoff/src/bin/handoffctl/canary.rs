//! `upgrade --canary*`: what is tried on the new server.

use crate::args::parse_positive;
use crate::commands::upgrade::{checked, millis};
use clap::Args;
use handoff::supervisor::Canary;
use handoff::supervisor::protocol::{CanaryKind, CanaryRequest};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "A canary")]
pub(crate) struct CanaryArgs {
    /// A request that is tried on the new server before it takes over, and the beginning of the right answer;
    /// escapes: \r \n \\ \xNN
    #[arg(long, value_name = "SEND=>EXPECT", value_parser = text, conflicts_with_all = ["canary_program", "supervisor"])]
    canary: Option<String>,
    /// A program that tries it: the connection is its stdin, stdout and descriptor 3, exit code 0 is good
    #[arg(long, value_name = "PATH", conflicts_with = "supervisor")]
    canary_program: Option<PathBuf>,
    /// Time for it, within the freeze budget [default: 500ms]
    #[arg(long, value_name = "TIME", value_parser = parse_positive)]
    canary_timeout: Option<Duration>,
}

/// As it was typed, if it is one.
fn text(text: &str) -> Result<String, String> {
    text.parse::<Canary>().map(|_| text.to_owned())
}

impl CanaryArgs {
    pub(crate) fn wanted(&self) -> bool {
        self.canary.is_some() || self.canary_program.is_some()
    }

    fn time(&self) -> Duration {
        self.canary_timeout.unwrap_or(Canary::TIMEOUT)
    }

    /// What no single argument shows.
    pub(crate) fn check(&self, freeze_budget: Duration) -> Result<(), String> {
        match (self.wanted(), self.canary_timeout) {
            (false, Some(_)) => {
                Err("--canary-timeout without a canary: add --canary 'PING\\r\\n=>+PONG' or \
                                     --canary-program PATH"
                    .to_owned())
            }
            (true, _) if self.time() >= freeze_budget => Err(format!(
                "--canary-timeout {:?} must be less than --freeze-budget {freeze_budget:?}, of which it is a part: \
                 for example --canary-timeout 500ms --freeze-budget 2s",
                self.time()
            )),
            _ => Ok(()),
        }
    }

    /// For a supervisor.
    pub(crate) fn request(&self) -> Result<Option<CanaryRequest>, String> {
        let what = match (&self.canary, &self.canary_program) {
            (Some(text), _) => CanaryKind::Exchange(text.clone()),
            (None, Some(path)) => CanaryKind::Program(checked("--canary-program", path)?),
            (None, None) => return Ok(None),
        };
        Ok(Some(CanaryRequest { what, timeout_ms: millis(self.time()) }))
    }

    /// The same, for this program itself.
    pub(crate) fn own(&self) -> Result<Option<Canary>, String> {
        self.request()?.map(CanaryRequest::parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn parsed(more: &[&str]) -> Result<(), String> {
        let words = ["handoffctl", "upgrade", "--run-dir", "/r"].iter().chain(more);
        match Cli::try_parse_from(words).map_err(|e| e.to_string())?.command {
            Command::Upgrade(upgrade) => upgrade.check(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrong_canary_is_a_wrong_command_line() {
        for good in [
            &["--canary", r"PING\r\n=>+PONG"][..],
            &["--canary-program", "/bin/true", "--canary-timeout", "1s"],
            &["--canary", "a=>b", "--no-supervisor"],
        ] {
            assert_eq!(parsed(good), Ok(()), "{good:?}");
        }
        for (bad, words) in [
            (&["--canary", "PING"][..], &["--canary", r"'PING\r\n=>+PONG'"][..]),
            (&["--canary", r"P\z=>x"], &["--canary", r"\z is no escape", r"'PING\r\n=>+PONG'"]),
            (&["--canary", "a=>"], &["--canary", "behind '=>'"]),
            (&["--canary", "a=>b", "--canary-program", "/x"], &["--canary-program", "cannot be used with"]),
            (&["--canary", "a=>b", "--supervisor"], &["--supervisor", "cannot be used with"]),
            (&["--canary-timeout", "1s"], &["--canary-timeout", "--canary 'PING"]),
            (&["--canary", "a=>b", "--canary-timeout", "2s"], &["--canary-timeout", "--freeze-budget"]),
            (&["--canary", "a=>b", "--freeze-budget", "300ms"], &["--canary-timeout", "--freeze-budget"]),
        ] {
            let why = parsed(bad).expect_err("wrong");
            assert!(words.iter().all(|word| why.contains(word)), "{bad:?}: {why}");
        }
    }
}
