//! Which build a server is started from: that of the highest claim, from what is kept of it.
//!
//! Executables are read and copied in threads of their own: nothing here holds the loop while somebody serves.

use super::instance::{News, Tell};
use super::options::SpawnSpec;
use super::preflight::{Executable, Stamp};
use super::spawn::Build;
use super::world::World;
use crate::claim::{BuildDigest, KeptSpec, Proposal};
use crate::ids::InstanceId;
use crate::machine::Which;
use crate::os::builds::Builds;
use crate::os::identity::executable_of;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keeps a build and notes that this instance is started from it. Blocks.
///
/// # Errors
/// The executable cannot be read. That it cannot be kept is only said: it is no reason to start nothing.
pub(super) fn keep(builds: &Builds, instance: InstanceId, build: &Build) -> Result<Build, String> {
    let mut build = build.clone();
    if build.executable.digest == BuildDigest::UNKNOWN {
        build.executable.keep(builds)?;
    }
    if let Err(why) = builds.describe(instance, &build.kept()) {
        tracing::warn!(%instance, why, "how it is started is not noted");
    }
    Ok(build)
}

/// Makes it durable, when nobody waits for it any more. Blocks.
pub(super) fn sync(builds: &Builds, build: &Build) {
    if build.executable.copy.is_some()
        && let Err(error) = builds.sync(build.executable.digest)
    {
        tracing::warn!(%error, "a kept build may not survive a power loss");
    }
}

/// What an instance was started from. Blocks.
///
/// # Errors
/// Why it cannot be started from that again.
pub(super) fn recall(builds: &Builds, instance: InstanceId) -> Result<Build, String> {
    let spec = builds.spec_of(instance).ok_or("how it was started is not known")?;
    found(builds, &spec)
}

fn found(builds: &Builds, spec: &KeptSpec) -> Result<Build, String> {
    let path = PathBuf::from(OsString::from_vec(spec.executable.clone()));
    let text = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
    let mut called = SpawnSpec::new(&path).args(spec.args.iter().map(text));
    called.env = spec.env.iter().map(|(key, value)| (text(key), text(value))).collect();
    // the file itself where it is still that: libraries may lie beside it
    let in_place = Executable::open(&path).and_then(|mut executable| {
        executable.keep(builds)?;
        if executable.digest == spec.digest {
            return Ok(executable);
        }
        Err(format!("{}: it was changed since", path.display()))
    });
    let executable = match in_place {
        Ok(executable) => executable,
        Err(why) => {
            let copy = builds.executable(spec.digest).map_err(|and| format!("{why}; {and}"))?;
            tracing::info!(why, digest = %spec.digest, "started from the kept copy");
            Executable::kept(&path, copy, spec.digest)?
        }
    };
    Ok(Build { executable, spec: called })
}

/// Recalls builds in the background.
pub(super) fn recall_each(builds: &Arc<Builds>, instances: Vec<InstanceId>, tell: &Tell) {
    let (builds, tell) = (Arc::clone(builds), tell.clone());
    tokio::task::spawn_blocking(move || {
        for id in instances {
            match recall(&builds, id) {
                Ok(build) => drop(tell.send(News::Kept(id, Arc::new(build)))),
                Err(why) => tracing::info!(instance = %id, why, "what it runs is looked at"),
            }
        }
    });
}

impl World {
    /// Keeps the build that an instance was just started from, in the background.
    pub(super) fn keep_build(&self, id: InstanceId, build: &Arc<Build>) {
        let (builds, build, tell) = (Arc::clone(&self.site.builds), Arc::clone(build), self.tell.clone());
        tokio::task::spawn_blocking(move || match keep(&builds, id, &build) {
            Ok(build) => {
                let _ = tell.send(News::Kept(id, Arc::new(build.clone())));
                sync(&builds, &build);
            }
            Err(why) => tracing::warn!(instance = %id, why, "its build is not kept"),
        });
    }

    /// A server that nobody noted the build of (it was started by hand) and that was taken over: what it runs, called
    /// as the configured program is.
    pub(super) fn keep_adopted(&self, configured: &Build) {
        let Some((id, pid)) = self.incumbent.as_ref().and_then(|slot| Some((slot.id, slot.pid?))) else {
            return;
        };
        let (builds, tell, spec) =
            (Arc::clone(&self.site.builds), self.tell.clone(), configured.spec.clone());
        tokio::task::spawn_blocking(move || {
            if builds.spec_of(id).is_some() {
                return;
            }
            let link = PathBuf::from(format!("/proc/{pid}/exe"));
            let kept = Executable::open(&link).and_then(|executable| {
                let path = std::fs::read_link(&link).unwrap_or(link);
                keep(&builds, id, &Build { executable: Executable { path, ..executable }, spec })
            });
            match kept {
                Ok(build) => {
                    let _ = tell.send(News::Kept(id, Arc::new(build.clone())));
                    sync(&builds, &build);
                }
                Err(why) => tracing::warn!(instance = %id, why, "its build is not kept"),
            }
        });
    }

    pub(super) fn build_kept(&mut self, id: InstanceId, build: Arc<Build>) {
        self.builds.insert(id, build);
        self.prune_builds();
    }

    /// Keeps the builds that a cold start may need: those of the living, and of whom the highest claim names. On
    /// disk: also those of all claims that are left.
    pub(super) fn prune_builds(&mut self) {
        let owner = match self.site.claims.highest() {
            Ok(highest) => highest.map(|(_, proposal)| proposal.instance),
            Err(error) => return tracing::warn!(%error, "claims"),
        };
        let previous = self.window.look().previous;
        let keep: BTreeSet<InstanceId> = self
            .builds
            .keys()
            .copied()
            .filter(|id| owner == Some(*id) || previous == Some(*id) || self.peer_of(*id).is_some())
            .collect();
        self.builds.retain(|id, _| keep.contains(id));
        let mut named = keep;
        let slots = self.incumbent.iter().chain(&self.successor).chain(self.retiring.values());
        named.extend(slots.map(|slot| slot.id));
        named.extend(self.ask.as_ref().map(|ask| ask.successor));
        named.extend(previous);
        // read, and its start is not noted yet
        let first = self.configured.as_ref().filter(|_| self.starting.is_some());
        let held = self.builds.values().chain(first).map(|build| build.executable.digest);
        let mut digests: BTreeSet<BuildDigest> = held.collect();
        digests.extend(self.wanted().map(|build| build.executable.digest));
        let (builds, claims) = (Arc::clone(&self.site.builds), self.site.claims.clone());
        tokio::task::spawn_blocking(move || {
            let tidied = claims.claimed().and_then(|epochs| {
                for epoch in epochs {
                    let claim = claims.read(epoch)?;
                    digests.extend(claim.as_ref().map(|claim| claim.build_digest));
                    named.extend(claim.map(|claim| claim.instance));
                }
                builds.tidy(&named, &digests)
            });
            if let Err(error) = tidied {
                tracing::warn!(%error, "kept builds were not tidied");
            }
        });
    }

    /// The build of the highest claim, never "old" or "new" by assumption; after a clean stop, and where nothing was
    /// claimed, the configured program. Where the build of the highest claim is gone, too: it refuses by itself
    /// what it does not read.
    pub(super) async fn cold_build(&self, which: Which) -> Result<Arc<Build>, String> {
        if let Which::Of(instance) = which {
            return self.build_of(instance).await;
        }
        let Some((epoch, claim)) = self.site.claims.highest().map_err(|e| e.to_string())? else {
            return self.fresh();
        };
        if let Some(build) = self.builds.get(&claim.instance)
            && let Some(executable) = build.executable.unchanged()
        {
            return Ok(Arc::new(Build { executable, spec: build.spec.clone() }));
        }
        if self.site.clean && self.builds.is_empty() {
            return self.fresh();
        }
        let builds = Arc::clone(&self.site.builds);
        let (instance, digest) = (claim.instance, claim.build_digest);
        let configured = self.configured.clone();
        let executable = executable_of(&claim).into_os_string().into_vec();
        let recalled = tokio::task::spawn_blocking(move || {
            recall(&builds, instance).or_else(|why| {
                // everything died before its call was noted: its claim names build and file, and the configured
                // arguments are the best guess
                let like = configured.filter(|_| digest != BuildDigest::UNKNOWN).ok_or(why)?;
                found(&builds, &KeptSpec { digest, executable, ..like.kept() })
            })
        });
        match recalled.await.map_err(|e| e.to_string())? {
            Ok(build) => Ok(Arc::new(build)),
            Err(why) => self.in_place(&claim).or_else(|and| {
                let program = executable_of(&claim);
                tracing::warn!(%epoch, program = %program.display(), why, and, "the build of the highest claim is gone");
                self.fresh().map_err(|e| {
                    format!(
                        "the build of the highest claim (epoch {epoch}, {}) is gone ({and}; {why}), and the \
                         configured program cannot take its place: {e}",
                        program.display()
                    )
                })
            }),
        }
    }

    /// What an instance was started from, or was to be started from.
    async fn build_of(&self, instance: InstanceId) -> Result<Arc<Build>, String> {
        let asked = self.ask.as_ref().filter(|ask| ask.successor == instance);
        let known = self.builds.get(&instance).or(asked.and_then(|ask| ask.build.as_ref()));
        if let Some(build) = known
            && let Some(executable) = build.executable.unchanged()
        {
            return Ok(Arc::new(Build { executable, spec: build.spec.clone() }));
        }
        let builds = Arc::clone(&self.site.builds);
        let recalled = tokio::task::spawn_blocking(move || recall(&builds, instance));
        recalled.await.map_err(|e| e.to_string())?.map(Arc::new)
    }

    /// The executable that a claim names, if it is still that file.
    fn in_place(&self, claim: &Proposal) -> Result<Arc<Build>, String> {
        let path = executable_of(claim);
        let stamp = Stamp {
            dev: claim.executable_file.dev,
            ino: claim.executable_file.ino,
            size: claim.executable_size,
            mtime_ns: i128::from(claim.executable_mtime_ns),
        };
        let executable = Executable::open(&path)?;
        if executable.stamp != stamp {
            return Err(format!("{}: it was changed since", path.display()));
        }
        let configured = self.configured.as_ref().ok_or_else(none_configured)?;
        Ok(Arc::new(Build { executable, spec: configured.spec.clone() }))
    }

    /// The configured program, resolved again: it may have been replaced since.
    fn fresh(&self) -> Result<Arc<Build>, String> {
        let configured = self.configured.as_ref().ok_or_else(none_configured)?;
        let executable = Executable::open(&configured.spec.resolve()?)?;
        // read already
        if executable.stamp == configured.executable.stamp {
            return Ok(Arc::clone(configured));
        }
        Ok(Arc::new(Build { executable, spec: configured.spec.clone() }))
    }
}

fn none_configured() -> String {
    "no program is configured: start one first".to_owned()
}

impl Executable {
    /// The copy of a program that is not at its place any more.
    fn kept(path: &Path, copy: std::os::fd::OwnedFd, digest: BuildDigest) -> Result<Self, String> {
        let stamp = Stamp::of(&nix::sys::stat::fstat(&copy).map_err(|e| e.desc().to_owned())?);
        let copy = Arc::new(copy);
        Ok(Self { path: path.to_owned(), file: Arc::clone(&copy), stamp, digest, copy: Some(copy) })
    }
}
