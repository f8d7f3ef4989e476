//! Starting instances: the successor of an upgrade, and the server of a cold start.

use super::instance::Instance;
use super::spawn::{Birth, Build};
use super::world::World;
use crate::ids::{HandoffId, InstanceId};
use crate::machine::{Peer, Which};
use crate::os::channel::Channel;
use crate::os::listeners::{self, Address};
use crate::wire::Role;
use processkit::{ProcessGroup, ProcessGroupOptions};
use std::os::fd::AsFd as _;
use std::sync::Arc;

/// The file of an instance's control socket.
pub(super) fn control_name(instance: InstanceId) -> String {
    format!("{instance}.sock")
}

/// The name of an instance's container.
pub(super) fn group_name(instance: InstanceId) -> String {
    format!("inst-{instance}")
}

impl World {
    pub(super) async fn spawn(&mut self, peer: Peer, id: InstanceId, which: Which) -> Result<(), String> {
        let (build, role) = match peer {
            Peer::Successor => {
                let build = self.wanted().ok_or_else(|| "no upgrade is open".to_owned())?;
                (build, Role::Successor)
            }
            Peer::Incumbent => (self.cold_build(which).await?, Role::Cold),
            Peer::Supervisor | Peer::Retiring(_) => {
                return Err("nothing is started under this name".to_owned());
            }
        };
        if peer == Peer::Incumbent {
            self.withdraw_of_last();
        }
        let started = self.start_instance(id, role, &build).await;
        let instance = started.inspect_err(|_| self.remove_control(id))?;
        tracing::info!(instance = %id, pid = ?instance.pid, program = %build.executable.path.display(), "started");
        match peer {
            Peer::Successor => {
                if let Some(progress) = &mut self.progress {
                    progress.new = instance.report();
                }
                self.successor = Some(instance);
            }
            Peer::Incumbent => {
                self.keep_build(id, &build);
                self.builds.insert(id, build);
                self.incumbent = Some(instance);
            }
            Peer::Supervisor | Peer::Retiring(_) => {}
        }
        Ok(())
    }

    /// An incumbent that survived an aborted handoff removes its proposal when the next one is over. Who is started
    /// from disk knows nothing of either: the supervisor does.
    fn withdraw_of_last(&self) {
        let last = self.last.as_ref().and_then(|last| HandoffId::parse(&last.handoff_id));
        if let Some(Err(error)) = last.map(|handoff| self.site.claims.withdraw(handoff, true)) {
            // whoever serves removes it when the next handoff is over
            tracing::warn!(%error, "a proposal stays");
        }
    }

    async fn start_instance(
        &self,
        id: InstanceId,
        role: Role,
        build: &Arc<Build>,
    ) -> Result<Instance, String> {
        let path = self.site.ctl.join(&control_name(id));
        let control = listeners::bind(&Address::Unix(path)).map_err(|e| e.to_string())?;
        let said = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let (ours, theirs) = Channel::pair().map_err(said("channel"))?;
        let channel = Channel::from_fd(ours).map_err(said("channel"))?;
        channel.want_credentials().map_err(said("channel"))?;
        let birth = Birth {
            instance: id,
            role,
            build,
            listeners: &self.site.listeners,
            control,
            channel: theirs,
            lineage: self.site.lineage.as_fd(),
            streams: self.site.streams.as_ref(),
            run_dir: self.site.run.path(),
            data_dir: self.site.data_dir.as_deref(),
        };
        let command = birth.command().map_err(said("descriptors"))?;
        let group = new_group(id)?;
        match group.start(&command).await {
            Ok(process) => match process.pidfd().try_clone_to_owned() {
                Ok(pidfd) => {
                    let build = Arc::clone(build);
                    Ok(Instance::started(id, channel, process, pidfd, group, build, &self.tell))
                }
                Err(error) => {
                    // it would serve, and nobody would know of it
                    if let Err(error) = group.remove().await {
                        tracing::error!(instance = %id, %error, "a process that cannot be watched is not ended");
                    }
                    Err(said("process")(error))
                }
            },
            Err(error) => {
                if let Err(error) = group.remove().await {
                    tracing::warn!(%error, "container of a failed start");
                }
                Err(error.to_string())
            }
        }
    }
}

/// A container that survives this process. Where there are no cgroups it has no name.
fn new_group(id: InstanceId) -> Result<ProcessGroup, String> {
    let options = ProcessGroupOptions::default;
    let mut group = match ProcessGroup::named(&group_name(id), options()) {
        Err(processkit::Error::Unsupported { operation }) => {
            tracing::warn!(
                operation,
                "containers are weak here: a tree is ended by a walk over its processes"
            );
            ProcessGroup::with_options(options())
        }
        other => other,
    }
    .map_err(|error| format!("container: {error}"))?;
    group.persist();
    Ok(group)
}
