//! Which outcomes a cell may have, and who says so.
//!
//! For one death or one process that stands still for ever the model knows them: every order in which an upgrade can go
//! until then, and every order in which it can go on. What it does not know is judged by agreement alone.

use crate::cell::{Cell, Fault, Policy, Strike};
use std::collections::BTreeSet;
use std::fmt;

/// Written by the model: policy, point, fault, and what can come of it (`handoff/tests/model/allowed.rs`).
const TABLE: &str = include_str!("allowed.tsv");

/// What the journal says of the upgrade (`none`: nothing), and who serves: `O`, `N` or `X`.
pub(crate) type End = (&'static str, &'static str);

/// Who judges the outcome of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nobody may take slowness for a fault.
    Commits,
    /// What the model found.
    Model {
        /// What can come of it once there is a supervisor again.
        ends: BTreeSet<End>,
        /// Who can serve while there is none.
        alone: Option<BTreeSet<&'static str>>,
    },
    /// Any outcome on which exit code, report and claims agree.
    Agreement,
}

/// Who judges this cell.
pub(crate) fn rule(cell: &Cell) -> Rule {
    if cell.strikes().all(|strike| strike.fault == Fault::Slow) {
        return Rule::Commits;
    }
    if cell.second.is_some() {
        return Rule::Agreement;
    }
    // a supervisor that comes back late is one of the orders that the model tries, so its whole table applies
    let Some(ends) = ends("restarted", &cell.first) else { return Rule::Agreement };
    let alone = match cell.policy {
        Policy::Restarted => None,
        Policy::Never => ends_alone(&cell.first),
    };
    Rule::Model { ends, alone }
}

fn ends_alone(strike: &Strike) -> Option<BTreeSet<&'static str>> {
    Some(ends("never", strike)?.into_iter().map(|(_, serves)| serves).collect())
}

/// The line of the table: how a process dies makes no difference to the others.
fn ends(policy: &str, strike: &Strike) -> Option<BTreeSet<End>> {
    let fault = match strike.fault {
        Fault::Kill9 | Fault::Exit | Fault::Panic => "kill9",
        Fault::Stop => "stop",
        _ => return None,
    };
    let wanted = [policy, &strike.point.name, fault];
    let ends = TABLE.lines().find_map(|line| {
        let mut words = line.split('\t');
        wanted.iter().all(|word| words.next() == Some(word)).then(|| words.next())?
    })?;
    Some(ends.split(' ').filter_map(|end| end.split_once('/')).collect())
}

impl Rule {
    /// What is wrong with this end. `struck` serves in the model where it stands still for ever; in a cell an operator
    /// ended it then, if `ended`, and a server was started from disk.
    pub(crate) fn contradicts(&self, said: &str, serves: &str, struck: &str, ended: bool) -> Option<String> {
        let held = match self {
            Rule::Agreement => true,
            Rule::Commits => (said, serves) == ("committed", "N"),
            Rule::Model { ends, alone } => {
                let is = |(word, who): &End| {
                    *word == said && (*who == serves || ended && *who == struck && serves == "X")
                };
                ends.iter().any(is) && alone.as_ref().is_none_or(|who| who.contains(serves))
            }
        };
        (!held).then(|| format!("the journal says {said:?}, and {serves} serves; allowed: {self}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Agreement => f.write_str("any on which exit code, report and claims agree"),
            Rule::Commits => f.write_str("committed/N, since nobody may take slowness for a fault"),
            Rule::Model { ends, alone } => {
                let ends: Vec<String> = ends.iter().map(|(said, who)| format!("{said}/{who}")).collect();
                write!(f, "{} (what the journal says / who serves), by the model", ends.join(", "))?;
                match alone {
                    Some(who) => write!(f, "; without a supervisor {who:?} can serve"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cell: &str) -> Rule {
        rule(&cell.parse().expect("the name of a cell"))
    }

    #[test]
    fn the_model_judges_one_death_and_nobody_else_does() {
        let model = of("S.send.Begin.after/kill9");
        assert!(matches!(model, Rule::Model { alone: None, .. }), "{model}");
        assert_eq!(of("S.send.Begin.after/exit"), model);
        assert!(matches!(
            of("S.send.Begin.after/kill9/load/v1-1-1/never"),
            Rule::Model { alone: Some(_), .. }
        ));
        for unknown in [
            "S.send.Begin.after/drop",
            "S.nowhere.after/kill9",
            "S.send.Begin.after/kill9+N.claim.after/stop",
        ] {
            assert_eq!(of(unknown), Rule::Agreement, "{unknown}");
        }
        assert_eq!(of("N.claim.after/slow"), Rule::Commits);
    }

    #[test]
    fn what_the_model_does_not_allow_is_seen() {
        let model = of("N.arm.deadline.after/kill9");
        assert_eq!(model.contradicts("preflight_failed", "O", "N", false), None);
        assert!(model.contradicts("committed", "N", "N", false).is_some());
        assert!(model.contradicts("preflight_failed", "X", "N", true).is_some());
        // an incumbent that stood still served on, until somebody ended it
        let stopped = of("O.propose.after/stop");
        assert_eq!(stopped.contradicts("aborted", "X", "O", true), None);
        assert!(stopped.contradicts("aborted", "X", "O", false).is_some());
    }
}
