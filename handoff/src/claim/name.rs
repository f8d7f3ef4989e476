//! The names of claims and proposals.

use crate::ids::{Epoch, HandoffId, InstanceId};
use std::fmt;

/// Whose proposal it is. One process writes it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProposalName {
    /// `prop.<handoff>.O`: the incumbent of a handoff.
    Incumbent(HandoffId),
    /// `prop.<handoff>.N`: the successor of a handoff.
    Successor(HandoffId),
    /// `prop.<instance>.X`: a cold-started server.
    Cold(InstanceId),
}

/// A file of the claim directory that takes part in deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// `epoch.<20 digits>`: the claim of one epoch.
    Claim(Epoch),
    /// A proposal.
    Proposal(ProposalName),
}

impl FileName {
    /// Reads what `Display` writes, and nothing else: no other spelling of the same id or number.
    #[must_use]
    pub fn parse(text: &str) -> Option<FileName> {
        let name = if let Some(digits) = text.strip_prefix("epoch.") {
            FileName::Claim(Epoch(digits.parse().ok()?))
        } else {
            let (id, role) = text.strip_prefix("prop.")?.rsplit_once('.')?;
            FileName::Proposal(match role {
                "O" => ProposalName::Incumbent(HandoffId::parse(id)?),
                "N" => ProposalName::Successor(HandoffId::parse(id)?),
                "X" => ProposalName::Cold(InstanceId::parse(id)?),
                _ => return None,
            })
        };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for ProposalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposalName::Incumbent(handoff) => write!(f, "prop.{handoff}.O"),
            ProposalName::Successor(handoff) => write!(f, "prop.{handoff}.N"),
            ProposalName::Cold(instance) => write!(f, "prop.{instance}.X"),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Claim(epoch) => write!(f, "epoch.{:020}", epoch.0),
            FileName::Proposal(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for (name, text) in [
            (FileName::Claim(Epoch(7)), "epoch.00000000000000000007"),
            (FileName::Claim(Epoch(u64::MAX)), "epoch.18446744073709551615"),
            (
                FileName::Proposal(ProposalName::Incumbent(HandoffId(1))),
                "prop.00000000-0000-0000-0000-000000000001.O",
            ),
            (
                FileName::Proposal(ProposalName::Successor(HandoffId(0xab))),
                "prop.00000000-0000-0000-0000-0000000000ab.N",
            ),
            (
                FileName::Proposal(ProposalName::Cold(InstanceId(2))),
                "prop.00000000-0000-0000-0000-000000000002.X",
            ),
        ] {
            assert_eq!(name.to_string(), text);
            assert_eq!(FileName::parse(text), Some(name));
        }
    }

    #[test]
    fn other_spellings_are_other_files() {
        for text in [
            "epoch.7",
            "epoch.+0000000000000000007",
            "epoch.000000000000000000007",
            "epoch.18446744073709551616",
            "epoch.",
            "prop.00000000000000000000000000000001.O",
            "prop.00000000-0000-0000-0000-0000000000AB.N",
            "prop.00000000-0000-0000-0000-000000000001.Q",
            "prop.00000000-0000-0000-0000-000000000001",
            "prop..O",
            "reserve",
            "",
        ] {
            assert_eq!(FileName::parse(text), None, "{text}");
        }
    }
}
