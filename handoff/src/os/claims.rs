//! The claim directory: proposals are written, claims are linked, and whoever asks reads who owns an epoch.
//!
//! [`crate::claim`] is the format. Nothing here retries an fsync, and nothing believes what `link` returned: the
//! answer is always what the claim file says.

use super::files::{Dir, FileError};
use crate::claim::{FileName, MAX_PROPOSAL, Proposal, ProposalName};
use crate::crash::planted;
use crate::ids::{Epoch, HandoffId, InstanceId};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 64 * 1024;
/// Claims that are kept when the directory is tidied.
const KEPT_CLAIMS: usize = 16;

/// One claim directory.
#[derive(Clone, Debug)]
pub struct Claims {
    dir: Dir,
}

impl Claims {
    /// Name of the claim directory in a data directory.
    pub const IN_DATA: &str = ".handoff";
    /// Name of the claim directory in a run directory, for services without data.
    pub const IN_RUN: &str = "claims";

    /// Opens the claim directory of a data directory for writing; creates it, mode 0700, if it is missing. Removes
    /// what writers that died left half-written, and sees to the reserve.
    ///
    /// # Errors
    /// The data directory is missing; the claim directory belongs to somebody else or lets others in.
    pub fn open(data_dir: &Path) -> Result<Claims, FileError> {
        Self::prepare(&Dir::open(data_dir)?, Self::IN_DATA)
    }

    /// The same for a service without data: the claims are in the run directory.
    ///
    /// # Errors
    /// As [`Claims::open`].
    pub fn open_in_run(run_dir: &Path) -> Result<Claims, FileError> {
        Self::prepare(&Dir::open(run_dir)?, Self::IN_RUN)
    }

    fn prepare(parent: &Dir, name: &str) -> Result<Claims, FileError> {
        let claims = Claims { dir: parent.sub_private(name)? };
        claims.dir.sweep_temps()?;
        match claims.ensure_reserve() {
            // a full disk must not keep a server from starting; preflight asks for the reserve
            Err(e) if e.is_full() => {}
            other => other?,
        }
        Ok(claims)
    }

    /// Opens a claim directory (not the data directory) for looking: needs no right beyond reading it, changes
    /// nothing.
    ///
    /// # Errors
    /// It is not there or may not be read.
    pub fn observe(claim_dir: &Path) -> Result<Claims, FileError> {
        Ok(Claims { dir: Dir::open(claim_dir)? })
    }

    /// The directory: the locks are in it too.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Writes a proposal. It is durable, name included, when this returns. Proposing the same again is fine.
    ///
    /// # Errors
    /// No room even with the reserve; a failed fsync; the name is taken by another instance.
    pub fn propose(&self, name: ProposalName, proposal: &Proposal) -> Result<(), FileError> {
        let (name, bytes) = (name.to_string(), proposal.encode());
        self.with_reserve(|| self.write_proposal(&name, &bytes))?;
        let written = self.proposal_at(&name)?.map(|p| p.instance);
        if written != Some(proposal.instance) {
            let whose = written.map_or_else(|| "nobody".into(), |i| i.to_string());
            let why =
                format!("it names {whose}, not {}: two processes play the same role", proposal.instance);
            return Err(FileError::content(self.dir.join(&name), why));
        }
        self.dir.sync_dir()
    }

    /// Under a name of its own first: a proposal is whole or not there, and never overwritten.
    fn write_proposal(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let temp = self.dir.write_temp(bytes, 0o600)?;
        let linked = self.dir.link(&temp, name);
        self.dir.unlink(&temp)?;
        match linked {
            Err(e) if e.is(Errno::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Tries to claim an epoch with this process's own proposal, and says whom the claim names then: `me`, the peer,
    /// a third, or nobody when the proposal was removed because its handoff is over. Not durable before
    /// [`Claims::sync_claim`].
    ///
    /// # Errors
    /// `EIO` and `EROFS`: the tenure must be given up. The proposal names somebody else. No room even with the
    /// reserve. A claim that is there but cannot be read.
    pub fn claim(
        &self,
        epoch: Epoch,
        own: ProposalName,
        me: InstanceId,
    ) -> Result<Option<InstanceId>, FileError> {
        let (proposal, claim) = (own.to_string(), FileName::Claim(epoch).to_string());
        if let Some(other) = self.proposal_at(&proposal)?.map(|p| p.instance).filter(|i| *i != me) {
            let why = format!("it names {other}, not {me}: this process must not claim with it");
            return Err(FileError::content(self.dir.join(&proposal), why));
        }
        let linked = self.with_reserve(|| self.dir.link(&proposal, &claim));
        match &linked {
            Err(e) if e.is(Errno::EIO) || e.is(Errno::EROFS) => return linked.map(|()| None),
            _ => {}
        }
        let owner = self.read(epoch)?.map(|p| p.instance);
        match linked {
            Err(e) if owner.is_none() && !e.is_not_found() => Err(e),
            _ => Ok(owner),
        }
    }

    /// Makes the claim of an epoch durable: the file and its name. Never call it again after an error.
    ///
    /// # Errors
    /// The claim is not durable, and nobody can say whether it will be: the tenure must be given up.
    pub fn sync_claim(&self, epoch: Epoch) -> Result<(), FileError> {
        self.dir.sync_file(&FileName::Claim(epoch).to_string())?;
        self.dir.sync_dir()
    }

    /// What the claim of an epoch says, `None` if nobody claimed it.
    ///
    /// # Errors
    /// It is there, but cannot be read or was damaged.
    pub fn read(&self, epoch: Epoch) -> Result<Option<Proposal>, FileError> {
        self.proposal_at(&FileName::Claim(epoch).to_string())
    }

    /// What a proposal says, `None` if it is not there (any more).
    ///
    /// # Errors
    /// It is there, but cannot be read or was damaged.
    pub fn proposal(&self, name: ProposalName) -> Result<Option<Proposal>, FileError> {
        self.proposal_at(&name.to_string())
    }

    fn proposal_at(&self, name: &str) -> Result<Option<Proposal>, FileError> {
        let bytes = match self.dir.read(name, MAX_PROPOSAL) {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        Proposal::decode(&bytes).map(Some).map_err(|e| FileError::content(self.dir.join(name), e))
    }

    /// The highest claim, `None` where nobody ever claimed.
    ///
    /// # Errors
    /// The directory or that claim cannot be read.
    pub fn highest(&self) -> Result<Option<(Epoch, Proposal)>, FileError> {
        let Some(epoch) = self.claimed()?.pop() else { return Ok(None) };
        // the highest two are never removed, so what was listed is there
        Ok(self.read(epoch)?.map(|proposal| (epoch, proposal)))
    }

    /// Every epoch that has a claim, ascending.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn claimed(&self) -> Result<Vec<Epoch>, FileError> {
        let mut epochs: Vec<_> = self.files()?.into_iter().filter_map(claim_epoch).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    fn files(&self) -> Result<Vec<FileName>, FileError> {
        Ok(self.dir.list()?.iter().filter_map(|name| FileName::parse(name)).collect())
    }

    /// Preflight: whether a link can be made here at all.
    ///
    /// # Errors
    /// It cannot: read-only, full, or a filesystem without hard links.
    pub fn probe_link(&self) -> Result<(), FileError> {
        let file = self.dir.write_temp(b"probe", 0o600)?;
        let link = format!("{file}.link");
        self.dir.unlink_if_there(&link)?;
        let linked = self.dir.link(&file, &link).and_then(|()| self.dir.unlink(&link));
        self.dir.unlink(&file)?;
        linked
    }

    /// Whether the reserve is there.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn has_reserve(&self) -> Result<bool, FileError> {
        Ok(self.dir.stat(RESERVE)?.is_some_and(|stat| stat.st_size >= RESERVE_BYTES as i64))
    }

    /// Puts the reserve back if it is missing.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn ensure_reserve(&self) -> Result<(), FileError> {
        if self.has_reserve()? {
            return Ok(());
        }
        // not zeros: a filesystem that compresses would keep nothing free
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(RESERVE_BYTES);
        while bytes.len() < RESERVE_BYTES {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            bytes.extend_from_slice(&noise.to_le_bytes());
        }
        self.dir.replace(RESERVE, &bytes, 0o600)
    }

    /// A step that needs a little room: when there is none, the reserve goes and the step is tried once more.
    fn with_reserve<T>(&self, step: impl Fn() -> Result<T, FileError>) -> Result<T, FileError> {
        match step() {
            Err(e) if e.is_full() && self.dir.unlink_if_there(RESERVE)? => {
                // freed blocks may be used again only after the filesystem's own commit
                self.dir.sync_dir()?;
                step()
            }
            other => other,
        }
    }

    /// Removes what ended handoffs left: their proposals, durably, and only then claims below the highest 16. The
    /// other order would let a successor that was stopped and goes on later win an old epoch again.
    ///
    /// A handoff has ended when its id is not later than `ended` (the last one this process took part in, or nil) or
    /// than that of the newest claims: ids sort by time. Proposals of later handoffs stay: their successor may be
    /// warming already. Proposals of cold starts always go: whoever serves has won against them.
    ///
    /// # Errors
    /// Those of listing, removing and syncing. What was not removed is removed the next time.
    pub fn tidy(&self, ended: HandoffId) -> Result<(), FileError> {
        if planted("O6") {
            return Ok(());
        }
        let files = self.files()?;
        let mut claims: Vec<Epoch> = files.iter().copied().filter_map(claim_epoch).collect();
        claims.sort_unstable();
        let mut last = ended;
        for epoch in claims.iter().rev().take(2) {
            last = last.max(self.read(*epoch)?.map_or(HandoffId::NIL, |p| p.handoff));
        }
        let over = |name: &ProposalName| match name {
            ProposalName::Incumbent(handoff) | ProposalName::Successor(handoff) => *handoff <= last,
            ProposalName::Cold(_) => true,
        };
        for file in &files {
            if let FileName::Proposal(name) = file
                && over(name)
            {
                self.dir.unlink_if_there(&file.to_string())?;
            }
        }
        self.dir.sync_dir()?;
        let kept = if planted("O5") { 1 } else { KEPT_CLAIMS };
        for epoch in claims.iter().rev().skip(kept) {
            self.dir.unlink_if_there(&FileName::Claim(*epoch).to_string())?;
        }
        match self.ensure_reserve() {
            Err(e) if e.is_full() => Ok(()),
            other => other,
        }
    }

    /// Removes the proposals of a handoff that ended without a commit, half-written ones too, for whoever cannot do that
    /// any more: the successor is gone, and so is the incumbent if `incumbent_gone`. Not durable: what a power loss brings back is
    /// removed by the next [`Claims::tidy`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn withdraw(&self, ended: HandoffId, incumbent_gone: bool) -> Result<(), FileError> {
        let of_incumbent = incumbent_gone.then_some(ProposalName::Incumbent(ended));
        for name in [ProposalName::Successor(ended)].into_iter().chain(of_incumbent) {
            self.dir.unlink_if_there(&FileName::Proposal(name).to_string())?;
        }
        self.dir.sweep_temps().map(drop)
    }

    /// Removes every proposal and every unfinished file, durably. Only for whoever knows that nobody of this lineage
    /// lives: it took [`super::lock::LineageLock`] anew. A claim never goes: it says who served.
    ///
    /// # Errors
    /// Those of listing, removing and syncing.
    pub(crate) fn sweep(&self) -> Result<Swept, FileError> {
        let mut swept = Swept::default();
        for name in self.dir.list()? {
            match FileName::parse(&name) {
                Some(FileName::Claim(_)) => continue,
                Some(FileName::Proposal(proposal)) => {
                    // one that is damaged names nobody
                    let named = self.proposal(proposal).ok().flatten().map(|p| p.instance);
                    swept.instances.extend(named);
                }
                None if name.starts_with("tmp.") => {}
                None => continue,
            }
            if self.dir.unlink_if_there(&name)? {
                swept.names.push(name);
            }
        }
        if !swept.names.is_empty() {
            self.dir.sync_dir()?;
        }
        let owners = self.claimed()?.into_iter().filter_map(|epoch| self.read(epoch).ok().flatten());
        swept.instances.extend(owners.map(|claim| claim.instance));
        Ok(swept)
    }

    /// Begins to watch for claims.
    ///
    /// # Errors
    /// No inotify instance is free (`fs.inotify.max_user_instances`); the directory may not be read; there is no
    /// tokio runtime with I/O here.
    pub fn watch(&self) -> Result<ClaimWatch, FileError> {
        let wrong = |source| FileError { op: "watch", path: self.dir.path().to_owned(), source };
        let inotify =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(|e| wrong(e.into()))?;
        let own = format!("/proc/self/fd/{}", self.dir.as_fd().as_raw_fd());
        inotify
            .add_watch(own.as_str(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
            .map_err(|e| wrong(e.into()))?;
        let events = super::fds::watch(OwnedFd::from(inotify), Interest::READABLE).map_err(wrong)?;
        Ok(ClaimWatch { claims: self.clone(), events })
    }
}

/// What [`Claims::sweep`] removed.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// The files.
    pub(crate) names: Vec<String>,
    /// Everybody whom a proposal or a claim named.
    pub(crate) instances: Vec<InstanceId>,
}

fn claim_epoch(name: FileName) -> Option<Epoch> {
    match name {
        FileName::Claim(epoch) => Some(epoch),
        FileName::Proposal(_) => None,
    }
}

/// Tells when a claim appears, without polling.
#[derive(Debug)]
pub struct ClaimWatch {
    claims: Claims,
    events: AsyncFd<OwnedFd>,
}

impl ClaimWatch {
    /// Waits until the epoch is claimed, and says by whom; at once if it already is. Cancel safe.
    ///
    /// # Errors
    /// The claim or the events cannot be read.
    pub async fn appeared(&mut self, epoch: Epoch) -> Result<InstanceId, FileError> {
        loop {
            if let Some(proposal) = self.claims.read(epoch)? {
                return Ok(proposal.instance);
            }
            let wrong = |source: io::Error| FileError {
                op: "watch",
                path: self.claims.dir.path().to_owned(),
                source,
            };
            let mut ready = self.events.readable().await.map_err(wrong)?;
            // which names came does not matter: only what the claim says does
            let mut bytes = [0; 4096];
            match nix::unistd::read(self.events.get_ref(), &mut bytes) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(wrong(e.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests;
