//! How a guardian ends groups without a cgroup: by the mark in the environment of their processes.
//!
//! The process was forked by a thread of many, so nothing here allocates, locks or unwinds, and every call is a raw syscall.

use super::guard::{equal, poll, ward};
use super::guardian::{MARK_BYTES, Record, SLOTS, WATCH_TREE};
use std::ffi::{c_char, c_int};
use std::mem::offset_of;
use std::ptr;

/// What the mark follows.
const PREFIX: &[u8] = b"PROCESSKIT_GROUP=";

/// Kill whatever carries a watched mark, until three looks in a row find nobody.
///
/// # Safety
/// As for [`guard`](super::guard::guard).
pub(super) unsafe fn end_trees(record: *mut Record) {
    /// A tree that forks faster than it can be killed would keep us here for ever.
    const PASSES: u32 = 10_000;
    let mut quiet = 0;
    for _ in 0..PASSES {
        // SAFETY: as for `guard`.
        quiet = if unsafe { walk(record) } { 0 } else { quiet + 1 };
        if quiet == 3 {
            break;
        }
    }
}

/// One look at all processes; whether somebody was killed.
///
/// # Safety
/// As for [`guard`](super::guard::guard).
unsafe fn walk(record: *mut Record) -> bool {
    /// `struct linux_dirent64`.
    #[repr(C)]
    struct Entry {
        inode: u64,
        offset: i64,
        length: u16,
        kind: u8,
        name: [u8; 0],
    }
    let mut killed = false;
    let mut entries = [0u64; 512];
    // SAFETY: the kernel fills in whole entries, each with its length, and names end in zeros.
    unsafe {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let processes = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/proc".as_ptr(), flags, 0);
        if processes < 0 {
            return false;
        }
        loop {
            let at = entries.as_mut_ptr().cast::<u8>();
            let length = libc::syscall(libc::SYS_getdents64, processes, at, size_of_val(&entries));
            if length <= 0 {
                break;
            }
            let mut offset = 0;
            while offset < length as usize {
                let entry = at.add(offset);
                let name = entry.add(offset_of!(Entry, name));
                offset +=
                    usize::from(ptr::read_unaligned(entry.add(offset_of!(Entry, length)).cast::<u16>()));
                killed |= (*name).is_ascii_digit() && kill_if_marked(record, name);
            }
        }
        libc::syscall(libc::SYS_close, processes);
    }
    killed
}

/// Kill the process with this number if it carries a watched mark, and wait for its end.
///
/// # Safety
/// As for [`guard`](super::guard::guard); `name` must end in a zero.
unsafe fn kill_if_marked(record: *mut Record, name: *const u8) -> bool {
    /// A killed process that is still there then is asked again.
    const PATIENCE_MS: i64 = 1_000;
    let mut path = [0u8; 48];
    let mut number: c_int = 0;
    // SAFETY: a number of /proc has at most ten digits, so the path fits.
    unsafe {
        let mut index = 0;
        while index < 10 && (*name.add(index)).is_ascii_digit() {
            number = number.wrapping_mul(10).wrapping_add(c_int::from(*name.add(index) - b'0'));
            index += 1;
        }
        let at = path.as_mut_ptr();
        ptr::copy_nonoverlapping(b"/proc/".as_ptr(), at, 6);
        ptr::copy_nonoverlapping(name, at.add(6), index);
        ptr::copy_nonoverlapping(c"/environ".as_ptr().cast(), at.add(6 + index), 9);
        if !is_marked(record, at.cast()) {
            return false;
        }
        let pidfd = libc::syscall(libc::SYS_pidfd_open, number, 0) as c_int;
        if pidfd < 0 {
            return false;
        }
        // Marked still: the descriptor is the member's, not somebody's who got its number.
        let marked = is_marked(record, at.cast());
        if marked {
            let info = ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, info, 0);
            let mut polled = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
            poll(&raw mut polled, 1, Some(PATIENCE_MS));
        }
        libc::syscall(libc::SYS_close, pidfd);
        marked
    }
}

/// Whether an initial environment has a watched mark.
///
/// # Safety
/// As for [`guard`](super::guard::guard); `path` must be a C string.
unsafe fn is_marked(record: *mut Record, path: *const c_char) -> bool {
    let mut text = [0u8; 4096];
    let mut value = [0u8; MARK_BYTES];
    // The place in the entry, and whether it is ours so far.
    let (mut place, mut ours) = (0, true);
    let mut found = false;
    // SAFETY: only what was read is looked at; every index is checked against its buffer.
    unsafe {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, 0);
        if file < 0 {
            return false;
        }
        loop {
            let length = libc::syscall(libc::SYS_read, file, text.as_mut_ptr(), text.len());
            if length <= 0 {
                break;
            }
            for byte in text.iter().take(length as usize) {
                if *byte == 0 {
                    found |= ours && place > PREFIX.len() && is_watched(record, &value, place - PREFIX.len());
                    (place, ours) = (0, true);
                    continue;
                }
                match (PREFIX.get(place), value.get_mut(place.wrapping_sub(PREFIX.len()))) {
                    (Some(expected), _) => ours &= expected == byte,
                    (None, Some(room)) => *room = *byte,
                    (None, None) => ours = false, // longer than any mark
                }
                place += 1;
            }
        }
        libc::syscall(libc::SYS_close, file);
    }
    found
}

/// # Safety
/// As for [`guard`](super::guard::guard).
unsafe fn is_watched(record: *mut Record, mark: &[u8; MARK_BYTES], length: usize) -> bool {
    for slot in 0..SLOTS {
        // SAFETY: as for `guard`; both arrays are at least as long as `length`.
        unsafe {
            let ward = ward(record, slot);
            if (*ward).kind == WATCH_TREE
                && (*ward).mark_len as usize == length
                && equal((&raw const (*ward).mark).cast(), mark.as_ptr(), length)
            {
                return true;
            }
        }
    }
    false
}
