//! Where cgroups can be made: the cgroup2 mounts of `/proc/self/mountinfo` and the own path of `/proc/self/cgroup`.

use super::is_short;
use crate::mechanism::MechanismReason;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The directory that holds all our groups, below the own cgroup.
const PREFIX: &str = "processkit";

/// The directory of groups of this process: `<own cgroup>/processkit`. It may not exist yet. Found once per process, so
/// that moving the process later does not lose its groups. A failure that may pass is no finding: it is asked again.
pub(crate) fn base() -> Result<&'static Path, MechanismReason> {
    static BASE: OnceLock<Result<PathBuf, MechanismReason>> = OnceLock::new();
    let found = match BASE.get() {
        Some(found) => found,
        None => match find() {
            Ok(found) => BASE.get_or_init(|| found),
            Err(passing) => return Err(passing),
        },
    };
    found.as_deref().map_err(Clone::clone)
}

/// What is so for good, or why it cannot be told now.
fn find() -> Result<Result<PathBuf, MechanismReason>, MechanismReason> {
    let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let places = match places(&parse_mountinfo(&mounts), parse_own_cgroup(&own).as_deref()) {
        Ok(places) => places,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut reason = MechanismReason::NoCgroup2Mount;
    for place in places {
        match probe(&place)? {
            Ok(base) => return Ok(Ok(base)),
            Err(why) => reason = why,
        }
    }
    Ok(Err(reason))
}

/// Nothing where there is no such file, or none for us.
fn read(path: &str) -> Result<Vec<u8>, MechanismReason> {
    match std::fs::read(path) {
        Err(error) if is_short(&error) => Err(not_writable(path.into(), &error)),
        other => Ok(other.unwrap_or_default()),
    }
}

fn not_writable(path: PathBuf, error: &io::Error) -> MechanismReason {
    MechanismReason::NotWritable { path, cause: error.to_string() }
}

/// Whether groups can be made at this place.
fn probe(own: &Path) -> Result<Result<PathBuf, MechanismReason>, MechanismReason> {
    let base = own.join(PREFIX);
    let made = match std::fs::create_dir(&base) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) if is_short(&error) => return Err(not_writable(base, &error)),
        Err(error) => return Ok(Err(not_writable(base, &error))),
    };
    let checked = check(&base);
    if made {
        let _ = std::fs::remove_dir(&base); // made again with the first group
    }
    Ok(checked.map(|()| base))
}

fn check(base: &Path) -> Result<(), MechanismReason> {
    if !base.join("cgroup.kill").exists() {
        return Err(MechanismReason::NoCgroupKill);
    }
    // Processes move between cgroups only if the one above both is ours to write (cgroups(7), delegation).
    if let Err(error) = nix::unistd::access(&base.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK) {
        return Err(MechanismReason::NotWritable {
            path: base.join("cgroup.procs"),
            cause: error.to_string(),
        });
    }
    Ok(())
}

/// All directories that may hold groups of ours: that of [`base`], and the one beside the own cgroup for groups with limits.
pub(crate) fn bases() -> Vec<PathBuf> {
    let Ok(base) = base() else { return Vec::new() };
    let above = base.ancestors().nth(2).filter(|above| above.join("cgroup.procs").exists());
    std::iter::once(base.to_owned()).chain(above.map(|above| above.join(PREFIX))).collect()
}

/// Remove the directories of groups that have none.
pub(crate) fn tidy() {
    for base in bases() {
        let _ = std::fs::remove_dir(base); // busy, as long as somebody has a group
    }
}

/// One cgroup2 mount.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The cgroup that is visible at `point`.
    root: PathBuf,
    point: PathBuf,
}

/// The directories of the own cgroup, one for each mount that shows it.
fn places(mounts: &[Mount], own: Option<&Path>) -> Result<Vec<PathBuf>, MechanismReason> {
    let Some(own) = own.filter(|_| !mounts.is_empty()) else { return Err(MechanismReason::NoCgroup2Mount) };
    let places: Vec<PathBuf> = mounts
        .iter()
        .filter_map(|mount| own.strip_prefix(&mount.root).ok().map(|rest| mount.point.join(rest)))
        .filter(|place| !place.components().any(|part| part == std::path::Component::ParentDir))
        .collect();
    if places.is_empty() {
        Err(MechanismReason::OutsideOfMount { cgroup: own.to_owned() })
    } else {
        Ok(places)
    }
}

/// proc_pid_mountinfo(5): `id parent major:minor root point options [optional..] - type source super`.
fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
            let separator = fields.iter().position(|field| *field == b"-")?;
            if *fields.get(separator + 1)? != b"cgroup2" {
                return None;
            }
            Some(Mount { root: unescape(fields.get(3)?), point: unescape(fields.get(4)?) })
        })
        .collect()
}

/// cgroups(7): the line of the unified hierarchy is `0::<path>`.
fn parse_own_cgroup(text: &[u8]) -> Option<PathBuf> {
    let line = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    let path = line.strip_suffix(b" (deleted)").unwrap_or(line);
    Some(PathBuf::from(OsString::from_vec(path.to_vec())))
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if *first == b'\\' => {
                bytes.push(digits.iter().fold(0u8, |value, d| value.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_layouts_have_it_elsewhere() {
        let mounts = parse_mountinfo(HYBRID);
        assert_eq!(mounts, [Mount { root: "/".into(), point: "/sys/fs/cgroup/unified".into() }]);
        let own = parse_own_cgroup(b"1:name=systemd:/a\n0::/user.slice/app\n");
        assert_eq!(
            places(&mounts, own.as_deref()),
            Ok(vec![PathBuf::from("/sys/fs/cgroup/unified/user.slice/app")])
        );
    }

    #[test]
    fn a_mount_may_show_a_part_only() {
        let mounts = parse_mountinfo(b"1 2 0:3 /docker/x /c\\040g rw - cgroup2 none rw\n");
        assert_eq!(places(&mounts, Some(Path::new("/docker/x/y"))), Ok(vec![PathBuf::from("/c g/y")]));
        assert_eq!(
            places(&mounts, Some(Path::new("/other"))),
            Err(MechanismReason::OutsideOfMount { cgroup: "/other".into() })
        );
    }

    #[test]
    fn without_a_mount_there_is_nothing() {
        assert_eq!(places(&[], Some(Path::new("/"))), Err(MechanismReason::NoCgroup2Mount));
        assert!(parse_mountinfo(b"31 23 0:28 / /x rw - cgroup cgroup2 rw\n\ngarbage - cgroup2").is_empty());
        assert_eq!(parse_own_cgroup(b"3:cpu:/\n"), None);
    }
}
