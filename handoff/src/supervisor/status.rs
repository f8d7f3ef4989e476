//! How everything stands, for operators.

use super::instance::Instance;
use super::report::{ClaimReport, ListenerReport, OpenHandoff, SCHEMA, StatusReport, SupervisorReport};
use super::view::View;
use super::world::{Site, World};
use crate::os::listeners;
use processkit::MechanismReason;
use std::os::fd::AsFd as _;

impl Site {
    pub(super) fn version(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        self.build_id.as_ref().map_or_else(|| version.to_owned(), |id| format!("{version} ({id})"))
    }
}

impl World {
    pub(super) fn status(&self) -> StatusReport {
        let view = self.window.look();
        let (state, reason) = self.state(&view);
        StatusReport {
            schema: SCHEMA,
            supervisor: Some(SupervisorReport {
                pid: std::process::id(),
                generation: self.site.generation,
                version: self.site.version(),
                name: self.site.name.clone(),
                canary: true,
                rollback_to: true,
            }),
            state: state.to_owned(),
            reason,
            epoch: view.serving.map(|(_, epoch)| epoch.0),
            server: self.incumbent.as_ref().map(Instance::report),
            handoff: view.handoff.map(|handoff| OpenHandoff {
                handoff_id: handoff.to_string(),
                phase: view.phase.map(|phase| phase.name().to_owned()).unwrap_or_default(),
                new: self.successor.as_ref().map(Instance::report),
            }),
            retiring: self.retiring.values().map(Instance::report).collect(),
            listeners: self.listener_reports(),
            claim: self.claim_report(),
            last: self.last.clone(),
            probation: view.probation.map(|handoff| handoff.to_string()),
            cold_starts: Some(view.cold_starts),
            containment: self.containment(),
            cleaned: self.cleaned.clone(),
        }
    }

    pub(super) fn state(&self, view: &View) -> (&'static str, Option<String>) {
        let trouble = self.journal_trouble.as_ref().map(|why| format!("the journal is behind: {why}"));
        if let Some(failed) = &view.failed {
            let next = "next: repair that, then stop `run` (SIGTERM) and start it again";
            return ("failed", Some(format!("{failed}{}; {next}", self.last_exit())));
        }
        let waits_for = || Some(view.state.to_lowercase());
        let starts_again = || match view.failures {
            (0, _) => self.last_exit.clone(),
            (n, budget) => Some(format!(
                "{}: failure {n} of at most {budget}{}",
                view.state.to_lowercase(),
                self.last_exit()
            )),
        };
        match view.state {
            "Empty" => ("stopped", Some("no server was started".to_owned())),
            "Stopping" | "Stopped" => ("stopped", Some("the supervisor stops".to_owned())),
            "Starting" | "Pausing" | "Emptying" | "StartFailed" if view.handoff.is_none() => {
                ("starting", starts_again().or_else(waits_for))
            }
            "Idle" | "Probation" | "Probation (canary)" => ("serving", trouble),
            "Probation (turning back)" => ("upgrading", waits_for()),
            _ if self.ask.is_some() => ("upgrading", waits_for()),
            _ => ("recovering", waits_for()),
        }
    }

    fn listener_reports(&self) -> Vec<ListenerReport> {
        let address = |shared: &super::spawn::Shared| match &shared.address {
            Some(known) => known.to_string(),
            None => {
                listeners::address_of(shared.fd.as_fd()).map_or_else(|e| e.to_string(), |a| a.to_string())
            }
        };
        let report = |shared| ListenerReport { name: shared_name(shared), address: address(shared) };
        self.site.listeners.iter().map(report).collect()
    }

    fn claim_report(&self) -> Option<ClaimReport> {
        let (epoch, claim) = self.site.claims.highest().ok().flatten()?;
        Some(ClaimReport {
            epoch: epoch.0,
            instance: claim.instance.to_string(),
            build: claim.build.0.clone(),
            pid: claim.pid,
            executable: claim.executable_text(),
        })
    }

    fn containment(&self) -> Option<String> {
        let group = self.incumbent.as_ref()?.group()?;
        let mechanism = group.mechanism();
        Some(match group.mechanism_reason() {
            MechanismReason::Strongest => format!("{mechanism:?}"),
            reason => format!("{mechanism:?} ({reason})"),
        })
    }
}

fn shared_name(shared: &super::spawn::Shared) -> String {
    shared.name.to_string()
}
