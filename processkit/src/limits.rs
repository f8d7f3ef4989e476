//! What a group may use at most. Only a cgroup with the controllers enforces that, so everything else is refused.

use crate::containment::Cgroup;
use crate::error::{Error, Result};
use crate::options::ProcessGroupOptions;
use std::io;
use std::path::{Path, PathBuf};

/// The limits of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    memory_max: Option<u64>,
    max_processes: Option<u32>,
    cpu_quota: Option<f64>,
}

/// A limit as the kernel takes it.
#[derive(Debug, PartialEq)]
struct Setting {
    name: &'static str,
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// A limit that cannot be enforced is [`Error::ResourceLimit`] when the group is made: it names the limit and what is missing,
/// and nothing of the group is left. Limits need the controllers of cgroup v2. Where they belong to the older hierarchies
/// (a hybrid layout), or with [`Mechanism::ProcessGroup`](crate::Mechanism::ProcessGroup), there are none.
///
/// A cgroup with processes of its own cannot give its controllers to others unless it is the root ("no internal processes",
/// Documentation/admin-guide/cgroup-v2.rst). So where the own cgroup cannot, a limited group is made beside it, below
/// `<cgroup above the own>/processkit`: with systemd, `Delegate=yes` and `DelegateSubgroup=` make that possible.
impl ProcessGroupOptions {
    /// Memory of all members together, in bytes (`memory.max`). What goes beyond it is reclaimed, or ended by the OOM killer.
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.limits.memory_max = Some(bytes);
        self
    }

    /// Processes and threads (`pids.max`). Beyond it a fork in the group fails with `EAGAIN`; a start by
    /// [`ProcessGroup::start`](crate::ProcessGroup::start) does, too.
    pub fn max_processes(mut self, count: u32) -> Self {
        self.limits.max_processes = Some(count);
        self
    }

    /// Time on the CPU, in CPUs: 0.5 is half of one, 2.0 all of two (`cpu.max`, over periods of 100 ms; from 0.001 on).
    pub fn cpu_quota(mut self, cores: f64) -> Self {
        self.limits.cpu_quota = Some(cores);
        self
    }
}

impl Limits {
    fn settings(&self) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        if let Some(bytes) = self.memory_max {
            check("memory_max", bytes > 0, bytes)?;
            let (controller, file) = ("memory", "memory.max");
            settings.push(Setting { name: "memory_max", controller, file, value: bytes.to_string() });
        }
        if let Some(count) = self.max_processes {
            check("max_processes", count > 0, count)?;
            let (controller, file) = ("pids", "pids.max");
            settings.push(Setting { name: "max_processes", controller, file, value: count.to_string() });
        }
        if let Some(cores) = self.cpu_quota {
            // The kernel takes quotas from 1 ms on, and periods up to 1 s.
            check("cpu_quota", cores.is_finite() && (0.001..=100_000.0).contains(&cores), cores)?;
            let period = if cores < 0.01 { 1_000_000 } else { 100_000 };
            let quota = (cores * f64::from(period)).round() as u64;
            let (controller, file) = ("cpu", "cpu.max");
            settings.push(Setting {
                name: "cpu_quota",
                controller,
                file,
                value: format!("{quota} {period}"),
            });
        }
        Ok(settings)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.memory_max.is_some() || self.max_processes.is_some() || self.cpu_quota.is_some()
    }

    /// Whether the numbers make sense, and may be enforced by `mechanism` at all.
    pub(crate) fn check(&self, without_cgroup: Option<&dyn std::fmt::Display>) -> Result<()> {
        match (self.settings()?.first(), without_cgroup) {
            (Some(setting), Some(reason)) => {
                Err(refused(setting.name, format_args!("only a cgroup can, and there is none: {reason}")))
            }
            _ => Ok(()),
        }
    }

    /// A cgroup of this name with these limits, in the first of the directories of groups that can have one.
    pub(crate) fn create(&self, bases: &[PathBuf], name: &str) -> Result<Cgroup> {
        let settings = self.settings()?;
        let mut refusal = None;
        for base in bases {
            let enabled = base.parent().map_or(Ok(()), |own| enable(own, &settings));
            let created = enabled.and_then(|()| {
                let cgroup = Cgroup::create(base.join(name))?;
                match enable(base, &settings).and_then(|()| impose(cgroup.path(), &settings)) {
                    Ok(()) => Ok(cgroup),
                    Err(error) => {
                        cgroup.try_remove()?;
                        Err(error)
                    }
                }
            });
            match created {
                Err(error @ Error::ResourceLimit(_)) => refusal = refusal.or(Some(error)),
                other => return other,
            }
        }
        Err(refusal.unwrap_or_else(|| refused("limits", "there is no directory for groups")))
    }
}

fn refused(name: &str, why: impl std::fmt::Display) -> Error {
    Error::ResourceLimit(format!("{name}: {why}"))
}

fn check(name: &str, sound: bool, number: impl std::fmt::Display) -> Result<()> {
    if sound { Ok(()) } else { Err(refused(name, format_args!("{number} is no limit"))) }
}

/// Let the cgroups below this one have the controllers.
fn enable(directory: &Path, settings: &[Setting]) -> Result<()> {
    let read = |file| match std::fs::read_to_string(directory.join(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        other => Ok(other.unwrap_or_default()),
    };
    let has = |list: &str, controller: &str| list.split_ascii_whitespace().any(|word| word == controller);
    let there = read("cgroup.controllers")?;
    let enabled = read("cgroup.subtree_control")?;
    for Setting { name, controller, .. } in settings {
        let at = directory.display();
        if !has(&there, controller) {
            let there = there.trim();
            let why = format_args!("no controller `{controller}` in {at}/cgroup.controllers (`{there}`)");
            return Err(refused(name, why));
        }
        if has(&enabled, controller) {
            continue;
        }
        if let Err(error) = std::fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"))
        {
            let hint = match error.raw_os_error() {
                Some(libc::EBUSY) => "; a cgroup with processes in it cannot pass its controllers on",
                _ => "",
            };
            let why =
                format_args!("cannot enable `{controller}` in {at}/cgroup.subtree_control: {error}{hint}");
            return Err(refused(name, why));
        }
    }
    Ok(())
}

fn impose(group: &Path, settings: &[Setting]) -> Result<()> {
    settings.iter().try_for_each(|Setting { name, file, value, .. }| {
        let path = group.join(file);
        // no file is made if there is none: a cgroup would not allow it
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(|error| {
                refused(name, format_args!("cannot write {value} to {}: {error}", path.display()))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn limits(options: ProcessGroupOptions) -> Limits {
        options.limits
    }

    #[test]
    fn numbers_that_are_no_limits() {
        let new = ProcessGroupOptions::default;
        let cores = [0.0, -1.0, 0.0009, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e9];
        let wrong = cores.map(|cores| new().cpu_quota(cores)).into_iter();
        for options in wrong.chain([new().memory_max(0), new().max_processes(0)]) {
            let error = limits(options.clone()).check(None).expect_err("no limit");
            assert!(matches!(&error, Error::ResourceLimit(text) if text.contains("is no limit")), "{error}");
        }
        limits(new()).check(Some(&"nothing to enforce")).expect("no limits");
    }

    #[test]
    fn what_the_kernel_is_told() {
        let options = ProcessGroupOptions::default().cpu_quota(1.5).memory_max(1 << 20).max_processes(7);
        let told = |options: ProcessGroupOptions| {
            let settings = limits(options).settings().expect("sound");
            settings.into_iter().map(|s| format!("{} {}", s.file, s.value)).collect::<Vec<_>>()
        };
        assert_eq!(told(options), ["memory.max 1048576", "pids.max 7", "cpu.max 150000 100000"]);
        let slow = ProcessGroupOptions::default().cpu_quota(0.001);
        assert_eq!(told(slow), ["cpu.max 1000 1000000"]);
    }

    /// In a directory that looks like a cgroup: the kernel's part is not tested here.
    #[test]
    fn controllers_are_enabled_and_limits_written() {
        let place = tempfile::tempdir().expect("a directory");
        let (above, group) = (place.path().to_owned(), place.path().join("group"));
        fs::create_dir(&group).expect("made");
        fs::write(above.join("cgroup.controllers"), "cpu memory pids\n").expect("written");
        fs::write(above.join("cgroup.subtree_control"), "").expect("written");
        let settings = limits(ProcessGroupOptions::default().max_processes(7)).settings().expect("sound");
        enable(&above, &settings).expect("enabled");
        assert_eq!(fs::read(above.join("cgroup.subtree_control")).expect("read"), b"+pids");
        let error = impose(&group, &settings).expect_err("no such file");
        assert!(error.to_string().contains("max_processes: cannot write 7 to"), "{error}");
        fs::write(group.join("pids.max"), "max\n").expect("written");
        impose(&group, &settings).expect("written");
        assert!(fs::read_to_string(group.join("pids.max")).expect("read").starts_with('7'));

        fs::write(above.join("cgroup.controllers"), "hugetlb\n").expect("written");
        let error = enable(&above, &settings).expect_err("missing").to_string();
        assert!(
            error.contains("max_processes: no controller `pids`") && error.contains("hugetlb"),
            "{error}"
        );
    }
}
