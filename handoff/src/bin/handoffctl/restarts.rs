//! `run --restart-*`: how a server that dies is started again.

use crate::args::{parse_duration, parse_positive};
use clap::Args;
use handoff::supervisor::Restarts;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "When the server dies")]
pub(crate) struct RestartArgs {
    /// Restarts within the window, or starts in a row that never serve, before it counts as failed (0: none)
    #[arg(long, value_name = "N", default_value_t = 10)]
    restart_budget: u32,
    /// A death is forgotten after this time
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_positive)]
    restart_window: Duration,
    /// Pause after the second death; doubles with each further one
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration)]
    restart_backoff: Duration,
    /// Longest pause by doubling
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    restart_backoff_max: Duration,
    /// Least pause where half of the budget is used up
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    storm_pause: Duration,
}

impl RestartArgs {
    pub(crate) fn rules(self) -> Restarts {
        Restarts {
            budget: self.restart_budget,
            window: self.restart_window,
            backoff: self.restart_backoff,
            backoff_max: self.restart_backoff_max,
            storm_pause: self.storm_pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        restarts: RestartArgs,
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        assert_eq!(Line::parse_from(["run"]).restarts.rules(), Restarts::default());
    }
}
