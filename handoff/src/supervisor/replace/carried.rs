//! What goes through the exec of a supervisor that replaces itself: a small file in memory and the descriptors that it
//! names. Whatever is not here the new program finds out by itself, like a supervisor that was restarted.

use super::candidate::Ability;
use super::report::ImageReport;
use crate::ids::{InstanceId, ListenerName};
use crate::os::exec::memory_file;
use crate::os::fds::take_inherited;
use crate::os::listeners::validate;
use crate::os::lock::LineageLock;
use crate::supervisor::salvage::Salvaged;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Names the descriptor of the file in the environment of the new program.
pub(super) const VARIABLE: &str = "HANDOFF_CARRIED_FD";
/// The format this build writes, and the highest one it reads.
pub(super) const FORMAT: u32 = 1;
/// No supervisor has so much to carry.
const LIMIT: u64 = 1 << 20;

/// The facts. Fields may be added in later formats, none is ever taken away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) format: u32,
    /// The run directory.
    pub(super) run: PathBuf,
    /// The journal that has to be read.
    pub(super) journal: PathBuf,
    /// The directory of the claims.
    pub(super) claims: PathBuf,
    /// The wire versions of the instances that run.
    pub(super) spoken: Vec<Spoken>,
    /// Children of this process: whoever is not adopted has to be reaped.
    pub(super) children: Vec<u32>,
    pub(super) old: ImageReport,
    /// Only in the file that goes through the exec, not in the one for the check.
    pub(super) passed: Option<Passed>,
}

/// The wire versions of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spoken {
    pub(super) instance: String,
    pub(super) min: u16,
    pub(super) max: u16,
}

/// What goes through by number, and since when nobody supervises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Passed {
    pub(super) began_ns: u64,
    pub(super) check_ms: f64,
    /// `supervisor.lock`, held.
    pub(super) lock: RawFd,
    /// `lineage.lock`, held.
    pub(super) lineage: RawFd,
    /// The listener of the operators' socket.
    pub(super) operators: Option<RawFd>,
    /// The operator who asked.
    pub(super) client: RawFd,
    pub(super) listeners: Vec<(String, RawFd)>,
    /// In how many milliseconds each failure that counts is forgotten. Missing where the program before did not say.
    #[serde(default)]
    pub(super) failures_ms: Vec<u64>,
}

impl Facts {
    pub(super) fn to_file(&self) -> io::Result<OwnedFd> {
        memory_file("handoff-carried", &serde_json::to_vec(self)?)
    }

    fn read(number: RawFd) -> Result<Facts, String> {
        let said = |e: io::Error| format!("{VARIABLE}={number}: {e}");
        let (file, ()) = take_inherited(number, |_| Ok(())).map_err(said)?;
        let mut file = File::from(file);
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.take(LIMIT + 1).read_to_end(&mut bytes)).map_err(said)?;
        Facts::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Facts, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let wrong = |e: serde_json::Error| format!("what the old program carries over cannot be read: {e}");
        if bytes.len() as u64 > LIMIT {
            return Err(format!("the old program carries over more than {LIMIT} bytes"));
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(wrong)?;
        if !(1..=FORMAT).contains(&format) {
            return Err(format!(
                "the old program carries over format {format}, this one reads 1 to {FORMAT}: \
                 upgrade by way of a version in between"
            ));
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }
}

/// What a program found that was executed in the place of an older supervisor.
#[derive(Debug)]
pub struct Carried {
    pub(super) facts: Facts,
    pub(super) began_ns: u64,
    pub(super) check_ms: f64,
    pub(super) client: OwnedFd,
    pub(in crate::supervisor) lock: OwnedFd,
    pub(in crate::supervisor) operators: Option<OwnedFd>,
    pub(in crate::supervisor) held: Option<Salvaged>,
    /// The failures that count, each with the time until it is forgotten.
    pub(in crate::supervisor) failures: Vec<Duration>,
}

impl Carried {
    /// What this process was given, if it was executed in the place of an older supervisor. Call it once, before
    /// anything else opens descriptors.
    ///
    /// # Errors
    /// What is wrong with it. Nothing that was given is lost then: it stays open.
    pub fn inherit() -> Result<Option<Carried>, String> {
        let Some(number) = number()? else { return Ok(None) };
        let facts = Facts::read(number)?;
        let passed = facts.passed.clone().ok_or("nothing was passed on: this was meant for a check")?;
        let take = |what: &str, number: RawFd| {
            take_inherited(number, |_| Ok(())).map(|(fd, ())| fd).map_err(|e| format!("{what}: {e}"))
        };
        let mut held = Salvaged::default();
        for (name, number) in &passed.listeners {
            let (fd, _) = take_inherited(*number, validate).map_err(|e| format!("listener {name}: {e}"))?;
            let name = ListenerName::new(name).map_err(|e| e.to_string())?;
            held.listeners.push((name, Arc::new(fd)));
        }
        let lineage = LineageLock::from_fd(take("lineage.lock", passed.lineage)?);
        held.lineage = Some(lineage.map_err(|e| e.to_string())?);
        Ok(Some(Carried {
            began_ns: passed.began_ns,
            check_ms: passed.check_ms,
            client: take("the operator who asked", passed.client)?,
            lock: take("supervisor.lock", passed.lock)?,
            operators: passed.operators.map(|n| take("the operators' socket", n)).transpose()?,
            held: Some(held),
            failures: passed.failures_ms.into_iter().map(Duration::from_millis).collect(),
            facts,
        }))
    }

    /// Says whether this program, called with this run directory, could take over from the one that started it, which
    /// passed on what it would carry over. Changes nothing.
    #[must_use]
    pub fn check(program: &str, run_dir: Option<&Path>) -> Ability {
        let facts = number().and_then(|number| {
            Facts::read(number.ok_or_else(|| format!("{VARIABLE} is not set: only a supervisor asks this"))?)
        });
        Ability::of(program, facts.and_then(|facts| facts.examine(run_dir)))
    }

    /// Children of this process that nobody else watches.
    pub(in crate::supervisor) fn children(&self) -> &[u32] {
        &self.facts.children
    }
}

fn number() -> Result<Option<RawFd>, String> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| format!("{VARIABLE}={text:?}: not a number"))
}

/// The wire versions of an instance, to be carried.
pub(super) fn spoken(instance: InstanceId, min: u16, max: u16) -> Spoken {
    Spoken { instance: instance.to_string(), min, max }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn facts() -> Facts {
        Facts {
            format: FORMAT,
            run: "/nonexistent".into(),
            journal: "/nonexistent/journal".into(),
            claims: "/nonexistent".into(),
            spoken: vec![spoken(InstanceId(1), 1, 1)],
            children: vec![7],
            old: ImageReport::default(),
            passed: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = serde_json::to_vec(&facts()).expect("json");
        assert_eq!(Facts::parse(&bytes), Ok(facts()));
    }

    /// Written by a program that knew less.
    #[test]
    fn what_a_program_before_did_not_carry_over_is_missing() {
        let passed = br#"{"began_ns":1,"check_ms":1.0,"lock":3,"lineage":4,"operators":null,"client":5,"listeners":[]}"#;
        let passed: Passed = serde_json::from_slice(passed).expect("json");
        assert!(passed.failures_ms.is_empty());
    }

    #[test]
    fn a_later_format_is_refused_by_its_number_alone() {
        let later = br#"{"format": 2, "journal": {"something": "else"}}"#;
        let why = Facts::parse(later).expect_err("later");
        assert!(why.contains("format 2") && why.contains("in between"), "{why}");
        assert!(Facts::parse(b"garbage").expect_err("garbage").contains("cannot be read"));
        assert!(Facts::parse(&vec![b' '; 2 << 20]).expect_err("long").contains("more than"));
    }
}
