//! The birth of a guardian's process: a fork of its owner on a stack of its own. Its life is in [`super::guard`].

use super::blocked_signals::BlockedSignals;
use super::guard::guard;
use super::{check, pidfd_open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// How many groups one guardian has room for.
pub(crate) const SLOTS: u32 = 16_384;
/// The longest mark.
pub(crate) const MARK_BYTES: usize = 64;

/// What the owner says. A cgroup's `cgroup.kill` comes along with [`WATCH_CGROUP`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Message {
    pub(crate) act: u32,
    pub(crate) slot: u32,
    pub(crate) mark_len: u32,
    pub(crate) mark: [u8; MARK_BYTES],
}

pub(crate) const WATCH_CGROUP: u32 = 1;
pub(crate) const WATCH_TREE: u32 = 2;
pub(crate) const FORGET: u32 = 3;

impl Message {
    /// As it goes over the socket.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: plain integers without padding: three of four bytes, and an array of bytes that is a multiple of four.
        unsafe { std::slice::from_raw_parts(ptr::from_ref(self).cast(), size_of::<Message>()) }
    }
}

/// A guardian that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    /// Takes messages, answers each with an errno.
    pub(crate) socket: OwnedFd,
}

/// Fork a guardian. It is no child in the sense of a plain wait(2): it ends without a signal, and only a wait for its pidfd
/// reaps it.
pub(crate) fn start_guardian() -> io::Result<Started> {
    let (socket, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let owner = pidfd_open(std::process::id())?;
    let arena = Arena::new()?;
    let mut unmap = foreign_mappings(&std::fs::read("/proc/self/maps")?, &arena);
    unmap.truncate(RANGES); // more than that stays mapped, which costs memory only
    // SAFETY: the arena is ours alone, zeroed, and large enough for the record it is laid out as.
    unsafe {
        let record = arena.record();
        (*record).socket = theirs.as_raw_fd();
        (*record).owner = owner.as_raw_fd();
        (*record).unmap_len = unmap.len();
        for (index, range) in unmap.iter().enumerate() {
            (*record).unmap[index] = (range.start, range.end);
        }
    }
    let mut pidfd: c_int = -1;
    let pid = {
        let _blocked = BlockedSignals::new(); // in the guardian, for good
        // SAFETY: without CLONE_VM the child has a copy of everything, and runs `entry` on a stack nobody else uses.
        unsafe {
            libc::clone(entry, arena.stack_end(), libc::CLONE_PIDFD, arena.record().cast(), &raw mut pidfd)
        }
    };
    check(c_long::from(pid))?;
    // SAFETY: the kernel stored a fresh descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Started { pid: pid as u32, pidfd, socket })
}

const RANGES: usize = 16_384;
const STACK_BYTES: usize = 128 * 1024;

/// All that the guardian knows.
#[repr(C)]
pub(super) struct Record {
    pub(super) socket: c_int,
    pub(super) owner: c_int,
    pub(super) watched: u32,
    pub(super) unmap_len: usize,
    pub(super) unmap: [(usize, usize); RANGES],
    pub(super) wards: [Ward; SLOTS as usize],
}

/// One group. Zeros are a free slot.
#[repr(C)]
pub(super) struct Ward {
    pub(super) kind: u32,
    pub(super) kill: c_int,
    pub(super) mark_len: u32,
    pub(super) mark: [u8; MARK_BYTES],
}

/// A stack and a [`Record`], in one mapping. Pages are there once they are touched.
struct Arena {
    base: *mut c_void,
}

impl Arena {
    const BYTES: usize = STACK_BYTES + size_of::<Record>();

    fn new() -> io::Result<Arena> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::BYTES, access, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Arena { base }) }
    }

    fn stack_end(&self) -> *mut c_void {
        self.base.wrapping_byte_add(STACK_BYTES)
    }

    fn record(&self) -> *mut Record {
        self.stack_end().cast()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; the guardian has its own copy.
        unsafe { libc::munmap(self.base, Self::BYTES) };
    }
}

/// Everything the guardian does not need, or it would hold on to each page that the owner changes later: all but the files
/// that code runs from, the arena, and this thread's static storage (errno, and what rseq(2) writes to).
fn foreign_mappings(maps: &[u8], arena: &Arena) -> Vec<Range<usize>> {
    /// Thread-local storage lies within this distance of errno.
    const AROUND_ERRNO: usize = 256 * 1024;
    // SAFETY: always valid.
    let errno = unsafe { libc::__errno_location() }.addr() & !0xffff;
    let start = arena.base.addr();
    let mut kept =
        [start..start + Arena::BYTES.next_multiple_of(4096), errno - AROUND_ERRNO..errno + AROUND_ERRNO];
    kept.sort_by_key(|range| range.start);

    // proc_pid_maps(5): `start-end perms offset dev inode path`
    let lines: Vec<Vec<&[u8]>> = maps
        .split(|b| *b == b'\n')
        .map(|line| line.split(|b| *b == b' ').filter(|field| !field.is_empty()).collect())
        .collect();
    let file = |line: &[&[u8]]| Some((line.get(3)?.to_vec(), line.get(4)?.to_vec()));
    let code: std::collections::HashSet<_> = lines
        .iter()
        .filter(|line| line.get(1).is_some_and(|perms| perms.contains(&b'x')))
        .filter_map(|line| file(line))
        .collect();
    let mut foreign = Vec::new();
    for line in &lines {
        let inode = line.get(4).copied().unwrap_or(b"0");
        let own = inode != b"0" && file(line).is_some_and(|file| code.contains(&file));
        let kernels = line.get(5).is_some_and(|name| name.starts_with(b"[v")); // vdso, vvar, vsyscall
        let Some(mut range) = line.first().and_then(|range| parse_range(range)) else { continue };
        if own || kernels {
            continue;
        }
        for keep in &kept {
            if keep.start < range.end && keep.end > range.start {
                if keep.start > range.start {
                    foreign.push(range.start..keep.start);
                }
                range.start = range.start.max(keep.end);
            }
        }
        if range.start < range.end {
            foreign.push(range);
        }
    }
    foreign
}

fn parse_range(text: &[u8]) -> Option<Range<usize>> {
    let (start, end) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

extern "C" fn entry(record: *mut c_void) -> c_int {
    // SAFETY: called in the guardian, with the record it was given.
    unsafe {
        guard(record.cast());
        loop {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_and_the_arena_stay() {
        let arena = Arena::new().expect("an arena");
        let base = arena.base.addr();
        let text = format!(
            "1000-2000 r-xp 00000000 fe:00 12 /bin/x\n2000-3000 rw-p 00001000 fe:00 12 /bin/x\n3000-4000 rw-p 0 00:00 0\n\
             4000-5000 rw-s 0 fe:00 13 /data\n6000-7000 r-xp 0 00:00 0 [vdso]\n{:x}-{:x} rw-p 0 00:00 0\n",
            base - 4096,
            base + Arena::BYTES.next_multiple_of(4096),
        );
        let foreign = foreign_mappings(text.as_bytes(), &arena);
        assert_eq!(foreign, [0x3000..0x4000, 0x4000..0x5000, base - 4096..base]);
    }
}
