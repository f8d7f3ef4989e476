//! The place where an upgrade will happen, checked before the incumbent hears of it: claims, disk, descriptors, queues.

use super::spawn::Shared;
use crate::ids::InstanceId;
use crate::os::claims::Claims;
use crate::os::files::FileError;
use crate::os::queue;
use nix::sys::statfs::{FsType, Statfs, fstatfs, statfs};
use nix::sys::statvfs::FsFlags;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The place where an upgrade will happen.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The directory of the claims.
    pub(super) claims: Claims,
    /// The service's data, if it has any.
    pub(super) data: Option<PathBuf>,
    /// The process that serves: its successor must be able to hold as many descriptors.
    pub(super) incumbent: Option<u32>,
    /// Who serves, as the supervisor knows.
    pub(super) serving: Option<InstanceId>,
    /// Where clients wait while nobody accepts.
    pub(super) listeners: Vec<Shared>,
    /// For how long that may be; zero where somebody always accepts.
    pub(super) freeze: Duration,
    /// New connections a second, as far as that is known.
    pub(super) arrivals: Option<f64>,
}

/// Descriptors that a successor needs besides the incumbent's: its own files, sockets, epoll.
const SPARE_DESCRIPTORS: u64 = 64;
/// Files that an upgrade makes: proposals, the claim's spec, the copy of a build, sockets, and each once more half-written.
const SPARE_INODES: u64 = 16;

impl Place {
    /// Checks that claims can be made and that the data is where a handoff is possible. Gives what is not right and yet
    /// no reason to refuse.
    ///
    /// # Errors
    /// What is wrong and what to do.
    fn check(&self) -> Result<Vec<String>, String> {
        let claims = self.claims.dir().path();
        let said = |e: FileError| format!("{e}: the directory of the claims must be writable and have room");
        // put back when there is room again; without it a full disk could not be survived
        self.claims.ensure_reserve().map_err(said)?;
        self.claims.probe_link().map_err(said)?;
        let failed = |dir: &Path| {
            let shown = dir.display().to_string();
            move |e: nix::Error| format!("{shown}: {}", e.desc())
        };
        let found = fstatfs(self.claims.dir()).map_err(failed(claims))?;
        let mut warnings: Vec<String> = Disk::of(&found).judge(claims)?.into_iter().collect();
        if let Some(data) = &self.data {
            let found = statfs(data.as_path()).map_err(failed(data))?;
            let warning = Disk::of(&found).judge(data)?;
            // mostly they are on the same one
            warnings.extend(warning.filter(|_| !claims.starts_with(data)));
        }
        self.unclaimed()?;
        self.incumbent.map_or(Ok(()), descriptors_fit)?;
        warnings.extend(self.queues());
        Ok(warnings)
    }

    /// The result of [`Place::check`], with its warnings beside it.
    pub(super) fn judged(&self) -> (Result<(), String>, Vec<String>) {
        match self.check() {
            Ok(warnings) => (Ok(()), warnings),
            Err(why) => (Err(why), Vec::new()),
        }
    }

    /// Nobody but the server has claimed beyond it: a handoff would end with nobody who may serve.
    fn unclaimed(&self) -> Result<(), String> {
        let Some(serving) = self.serving else { return Ok(()) };
        let highest = self.claims.highest().map_err(|e| {
            format!(
                "{e}; the server goes on without it; next: restore it from a copy before the next upgrade"
            )
        })?;
        match highest {
            Some((epoch, claim)) if claim.instance != serving => Err(format!(
                "epoch {epoch} is claimed by instance {} (pid {}, {}), and not by the server, {serving}: somebody \
                 else started on this data, or files were put there; next: find out who, then stop the service and \
                 start it again, which claims the epoch after that",
                claim.instance,
                claim.pid,
                claim.executable_text()
            )),
            _ => Ok(()),
        }
    }

    /// Who comes while nobody accepts has to wait in the queue of a listener: twice as many as are expected must fit,
    /// or they are turned away. A queue that is too short is made longer.
    fn queues(&self) -> Vec<String> {
        let Some(arrivals) = self.arrivals else { return Vec::new() };
        let expected = 2.0 * arrivals * self.freeze.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, rounded up")]
        let needed = expected.ceil() as u64;
        let short = |shared: &Shared| {
            let room = queue::room(&shared.fd).filter(|room| *room < needed)?;
            let room = queue::widen(&shared.fd, needed).ok().flatten().unwrap_or(room);
            (room < needed).then(|| {
                format!(
                    "listener {}: {room} clients can wait, and {needed} may have to ({arrivals:.0} new connections a \
                     second, twice the freeze budget of {:?}): sysctl -w net.core.somaxconn={needed}, or a shorter \
                     --freeze-budget",
                    shared.name, self.freeze
                )
            })
        };
        self.listeners.iter().filter_map(short).collect()
    }
}

/// What matters of the file system of a directory.
#[derive(Clone, Copy, Debug)]
struct Disk {
    kind: FsType,
    read_only: bool,
    /// `None` where inodes are made as they are needed.
    free_inodes: Option<u64>,
}

/// Locks and hard links of one machine do not hold another one back there.
const REMOTE: [(i64, &str); 9] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x0bd0_0bd0, "lustre"),
];
/// What is behind these, this kernel does not know.
const PERHAPS: [(i64, &str); 2] = [(0x6573_5546, "fuse"), (0x0102_1997, "9p")];

impl Disk {
    fn of(found: &Statfs) -> Self {
        Self {
            kind: found.filesystem_type(),
            read_only: found.flags().contains(FsFlags::ST_RDONLY),
            free_inodes: (found.files() > 0).then(|| found.files_free()),
        }
    }

    /// Whether an upgrade can happen there; a warning where that is not known.
    fn judge(&self, dir: &Path) -> Result<Option<String>, String> {
        let shown = dir.display();
        // the magic numbers are 32 bits; where the type is narrower they come with a sign
        #[expect(clippy::unnecessary_cast, reason = "its width depends on the architecture")]
        let kind = (self.kind.0 as i64) & 0xffff_ffff;
        let named = |list: &[(i64, &'static str)]| {
            list.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
        };
        if let Some(name) = named(&REMOTE) {
            return Err(format!(
                "{shown}: not a local file system ({name}): locks there do not fence, use a local one"
            ));
        }
        if self.read_only {
            return Err(format!("{shown}: the file system is read-only: remount it"));
        }
        if let Some(free) = self.free_inodes.filter(|free| *free < SPARE_INODES) {
            return Err(format!(
                "{shown}: {free} free inodes, an upgrade may need {SPARE_INODES}: remove files (df -i)"
            ));
        }
        Ok(named(&PERHAPS).map(|name| {
            format!(
                "{shown}: whether {name} is a local file system is not known: locks fence only where it is"
            )
        }))
    }
}

fn descriptors_fit(incumbent: u32) -> Result<(), String> {
    // a process of another uid hides them: then it is not known, and not refused
    let Ok(open) = std::fs::read_dir(format!("/proc/{incumbent}/fd")) else { return Ok(()) };
    let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map_err(|e| format!("descriptor limit: {}", e.desc()))?;
    fit(open.count() as u64, limit)
}

fn fit(open: u64, limit: u64) -> Result<(), String> {
    if open.saturating_add(SPARE_DESCRIPTORS) > limit {
        return Err(format!(
            "the incumbent has {open} descriptors open, a successor may have {limit}: raise the limit (ulimit -n) \
             of the supervisor"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ListenerName;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket};
    use std::os::fd::AsRawFd as _;
    use std::sync::Arc;

    fn place(dir: &Path) -> Place {
        Place {
            claims: Claims::open(dir).expect("claims"),
            data: Some(dir.to_owned()),
            incumbent: Some(std::process::id()),
            serving: None,
            listeners: Vec::new(),
            freeze: Duration::from_secs(2),
            arrivals: None,
        }
    }

    #[test]
    fn a_place_needs_its_claims_and_a_reserve() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = place(dir.path());
        assert!(place.check().is_ok());
        let reserve = dir.path().join(Claims::IN_DATA).join("reserve");
        std::fs::remove_file(&reserve).expect("removed");
        assert!(place.check().is_ok());
        assert!(reserve.exists(), "put back");
        std::fs::remove_dir_all(dir.path().join(Claims::IN_DATA)).expect("removed");
        assert!(place.check().expect_err("gone").contains("claims"));
    }

    #[test]
    fn a_disk_is_judged_by_what_the_kernel_says_of_it() {
        let ext4 = Disk { kind: FsType(0xef53), read_only: false, free_inodes: Some(1000) };
        let at = Path::new("/data");
        assert_eq!(ext4.judge(at), Ok(None));
        assert_eq!(Disk { free_inodes: None, ..ext4 }.judge(at), Ok(None), "btrfs says 0 of 0");
        for (magic, name) in REMOTE {
            let why = Disk { kind: FsType(magic as _), ..ext4 }.judge(at).expect_err(name);
            assert!(why.contains("/data: not a local") && why.contains(name) && why.contains("use"), "{why}");
        }
        for (magic, name) in PERHAPS {
            let warning = Disk { kind: FsType(magic as _), ..ext4 }.judge(at).expect("no reason to refuse");
            assert!(warning.is_some_and(|text| text.contains("/data") && text.contains(name)), "{name}");
        }
        let few = Disk { free_inodes: Some(SPARE_INODES - 1), ..ext4 }.judge(at).expect_err("full");
        assert!(few.contains("/data: 15 free inodes") && few.contains("remove files"), "{few}");
        assert_eq!(Disk { free_inodes: Some(SPARE_INODES), ..ext4 }.judge(at), Ok(None));
        let fixed = Disk { read_only: true, ..ext4 }.judge(at).expect_err("read-only");
        assert!(fixed.contains("/data") && fixed.contains("remount"), "{fixed}");
    }

    #[test]
    fn as_many_descriptors_as_the_incumbent_has_must_fit_and_some_more() {
        assert_eq!(fit(960, 1024), Ok(()));
        let why = fit(961, 1024).expect_err("too many");
        for word in ["961", "1024", "ulimit -n"] {
            assert!(why.contains(word), "{why}");
        }
        assert!(fit(u64::MAX, u64::MAX - 1).is_err());
    }

    /// A listener that another program made, with a queue for few.
    fn listener(backlog: i32) -> Shared {
        let fd =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bound");
        listen(&fd, Backlog::new(backlog).expect("in range")).expect("listens");
        let name = ListenerName::new("resp").expect("a name");
        Shared { name, fd: Arc::new(fd), address: None }
    }

    #[test]
    fn a_queue_that_is_too_short_is_made_longer_and_a_limit_is_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shared = listener(5);
        let with = |arrivals| Place { listeners: vec![shared.clone()], arrivals, ..place(dir.path()) };
        // nobody knows how many come, or they fit
        assert_eq!(with(None).queues(), Vec::<String>::new());
        assert_eq!(with(Some(1.0)).queues(), Vec::<String>::new());
        assert_eq!(queue::room(&shared.fd), Some(5), "as it was");
        assert_eq!(with(Some(10.0)).queues(), Vec::<String>::new());
        assert_eq!(queue::room(&shared.fd), Some(40), "twice 10 a second for 2 s");
        // more than the kernel allows
        let told = with(Some(1e9)).queues();
        assert_eq!(told.len(), 1, "{told:?}");
        for word in ["listener resp", "net.core.somaxconn=4000000000", "--freeze-budget"] {
            assert!(told[0].contains(word), "{told:?}");
        }
    }
}
