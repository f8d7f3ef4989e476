//! The life of a guardian: it listens to its owner until that ends, and then ends what it guards.
//!
//! The process was forked by a thread of many, so nothing here allocates, locks or unwinds, and every call is a raw syscall.

use super::child::write_decimal;
use super::guardian::{FORGET, MARK_BYTES, Message, Record, SLOTS, WATCH_CGROUP, WATCH_TREE, Ward};
use super::marked::end_trees;
use std::ffi::{c_int, c_long, c_void};
use std::mem::{MaybeUninit, size_of};
use std::ptr;

/// The guardian's life. Returns when it has nothing to guard, or has ended what it guarded.
///
/// # Safety
/// Only in a process of its own; `record` must be that of [`start_guardian`].
pub(super) unsafe fn guard(record: *mut Record) {
    // SAFETY: the record is in this process's own memory, and nobody else uses it. What is unmapped is by construction none
    // of what is used here. Everything else is a plain syscall on memory of this frame.
    unsafe {
        libc::syscall(libc::SYS_setsid);
        libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, c"pk-guardian".as_ptr(), 0, 0, 0);
        libc::syscall(libc::SYS_chdir, c"/".as_ptr()); // holds no file system busy
        let (socket, owner) = ((*record).socket, (*record).owner);
        close_others(socket.min(owner) as u32, socket.max(owner) as u32);
        let mut index = 0;
        while index < (*record).unmap_len {
            let (start, end) = *(&raw const (*record).unmap).cast::<(usize, usize)>().add(index);
            libc::syscall(libc::SYS_munmap, start, end - start);
            index += 1;
        }
        allow_all_descriptors();

        loop {
            let mut polled = [
                libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: owner, events: libc::POLLIN, revents: 0 },
            ];
            if poll(polled.as_mut_ptr(), 2, None) < 0 {
                continue; // EINTR
            }
            // What the owner said before its end counts.
            let mut heard = Heard::Something;
            while matches!(heard, Heard::Something) {
                heard = listen(record);
                if matches!(heard, Heard::Something) && (*record).watched == 0 {
                    return;
                }
            }
            if matches!(heard, Heard::End) || polled[1].revents != 0 {
                end_all(record);
                return;
            }
        }
    }
}

enum Heard {
    Something,
    Nothing,
    /// The owner has ended, or executes another program.
    End,
}

/// Take one message and answer it.
///
/// # Safety
/// As for [`guard`].
unsafe fn listen(record: *mut Record) -> Heard {
    // SAFETY: as for `guard`; every buffer outlives the call it is passed to, and only what the kernel filled in is read.
    unsafe {
        let mut message = MaybeUninit::<Message>::zeroed();
        let mut control = [0u64; 8];
        let mut part = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: size_of::<Message>() };
        let mut header: libc::msghdr = MaybeUninit::zeroed().assume_init();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let length = libc::syscall(libc::SYS_recvmsg, (*record).socket, &raw mut header, flags);
        if length < 0 {
            return match *libc::__errno_location() {
                libc::EAGAIN | libc::EINTR => Heard::Nothing,
                _ => Heard::End,
            };
        }
        if length as usize != size_of::<Message>() {
            return Heard::End;
        }
        let mut passed: c_int = -1;
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        if !first.is_null() && (*first).cmsg_type == libc::SCM_RIGHTS {
            passed = ptr::read_unaligned(libc::CMSG_DATA(first).cast());
        }
        let answer = obey(record, &message.assume_init(), passed);
        let bytes = (&raw const answer).cast::<c_void>();
        let null = ptr::null::<c_void>();
        libc::syscall(
            libc::SYS_sendto,
            (*record).socket,
            bytes,
            size_of::<c_int>(),
            libc::MSG_NOSIGNAL,
            null,
            0,
        );
        Heard::Something
    }
}

/// Do what a message says. The answer is an errno.
///
/// # Safety
/// As for [`guard`].
unsafe fn obey(record: *mut Record, message: &Message, passed: c_int) -> c_int {
    if message.slot >= SLOTS || message.mark_len as usize > MARK_BYTES {
        return libc::EINVAL;
    }
    // SAFETY: the slot was checked; descriptors in the table are this process's own.
    unsafe {
        let ward = ward(record, message.slot);
        if (*ward).kind == WATCH_CGROUP {
            libc::syscall(libc::SYS_close, (*ward).kill);
        }
        if (*ward).kind != 0 {
            (*ward).kind = 0;
            (*record).watched -= 1;
        }
        match message.act {
            FORGET => return 0,
            WATCH_CGROUP if passed < 0 => return libc::EMFILE,
            WATCH_CGROUP | WATCH_TREE => {}
            _ => return libc::EINVAL,
        }
        (*ward).kind = message.act;
        (*ward).kill = passed;
        (*ward).mark_len = message.mark_len;
        (*ward).mark = message.mark;
        (*record).watched += 1;
        0
    }
}

/// # Safety
/// As for [`guard`]; `slot` must be below [`SLOTS`].
pub(super) unsafe fn ward(record: *mut Record, slot: u32) -> *mut Ward {
    // SAFETY: within the table.
    unsafe { (&raw mut (*record).wards).cast::<Ward>().add(slot as usize) }
}

/// # Safety
/// As for [`guard`].
unsafe fn end_all(record: *mut Record) {
    // SAFETY: as for `guard`.
    unsafe {
        let mut trees = false;
        for slot in 0..SLOTS {
            let ward = ward(record, slot);
            trees |= (*ward).kind == WATCH_TREE;
            if (*ward).kind == WATCH_CGROUP {
                libc::syscall(libc::SYS_write, (*ward).kill, c"1".as_ptr(), 1usize);
            }
        }
        if trees {
            end_trees(record);
        }
        for slot in 0..SLOTS {
            let ward = ward(record, slot);
            if (*ward).kind == WATCH_CGROUP {
                clear_away((*ward).kill);
            }
        }
    }
}

const PATH_BYTES: usize = 4096;

/// Remove the directory of a killed group, and the one above if it is empty now. Best effort: what stays is swept by the
/// next program that makes a group.
///
/// # Safety
/// `kill` must be an open `cgroup.kill`.
unsafe fn clear_away(kill: c_int) {
    /// How long a killed process may take to be gone.
    const PATIENCE_MS: i64 = 10_000;
    let mut link = [0u8; 32];
    let mut path = [0u8; PATH_BYTES];
    // SAFETY: every buffer is larger than what is written, the names end in zeros, and so do the paths made of them.
    unsafe {
        let prefix = b"/proc/self/fd/";
        ptr::copy_nonoverlapping(prefix.as_ptr(), link.as_mut_ptr(), prefix.len());
        write_decimal(kill as u32, link.as_mut_ptr().add(prefix.len()));
        let at = path.as_mut_ptr();
        let cwd = libc::AT_FDCWD;
        let length = libc::syscall(libc::SYS_readlinkat, cwd, link.as_ptr(), at, PATH_BYTES - 32);
        let suffix = b"/cgroup.kill";
        if length <= suffix.len() as c_long || !ends_with(at, length as usize, suffix) {
            return; // removed already
        }
        let directory = length as usize - suffix.len();
        let name = c"/cgroup.events".to_bytes_with_nul();
        ptr::copy_nonoverlapping(name.as_ptr(), at.add(directory), name.len());
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let events = libc::syscall(libc::SYS_openat, cwd, at, flags, 0) as c_int;
        if events < 0 {
            return;
        }
        // The first words of the file are `populated 1`; reading arms the poll.
        let mut text = [0u8; 16];
        loop {
            let read = libc::syscall(libc::SYS_pread64, events, text.as_mut_ptr(), 11usize, 0usize);
            if read < 11 || text[10] == b'0' {
                break;
            }
            let mut polled = libc::pollfd { fd: events, events: libc::POLLPRI, revents: 0 };
            if poll(&raw mut polled, 1, Some(PATIENCE_MS)) == 0 {
                break;
            }
        }
        libc::syscall(libc::SYS_close, events);
        *at.add(directory) = 0;
        libc::syscall(libc::SYS_unlinkat, cwd, at, libc::AT_REMOVEDIR);
        let mut above = directory;
        while above > 0 && *at.add(above) != b'/' {
            above -= 1;
        }
        *at.add(above) = 0;
        if ends_with(at, above, b"/processkit") {
            libc::syscall(libc::SYS_unlinkat, cwd, at, libc::AT_REMOVEDIR);
        }
    }
}

/// # Safety
/// There must be `length` bytes at `text`.
unsafe fn ends_with(text: *const u8, length: usize, suffix: &[u8]) -> bool {
    // SAFETY: by contract.
    unsafe { length >= suffix.len() && equal(text.add(length - suffix.len()), suffix.as_ptr(), suffix.len()) }
}

/// # Safety
/// There must be `length` bytes at both.
pub(super) unsafe fn equal(one: *const u8, other: *const u8, length: usize) -> bool {
    let mut index = 0;
    // SAFETY: by contract.
    while index < length && unsafe { *one.add(index) == *other.add(index) } {
        index += 1;
    }
    index == length
}

/// ppoll(2), for at most this long.
///
/// # Safety
/// There must be `count` entries at `polled`.
pub(super) unsafe fn poll(polled: *mut libc::pollfd, count: usize, limit_ms: Option<i64>) -> c_long {
    let limit =
        limit_ms.map(|ms| libc::timespec { tv_sec: (ms / 1000) as _, tv_nsec: (ms % 1000 * 1_000_000) as _ });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mask = ptr::null::<c_void>();
    // SAFETY: by contract; the limit outlives the call, and a null mask changes none.
    unsafe { libc::syscall(libc::SYS_ppoll, polled, count, limit, mask, 0) }
}

/// Close every descriptor but these two.
///
/// # Safety
/// Nothing may rely on the others.
unsafe fn close_others(low: u32, high: u32) {
    // SAFETY: by contract, and no pointers are passed.
    unsafe {
        close_range(0, low.wrapping_sub(1));
        close_range(low + 1, high.wrapping_sub(1));
        close_range(high + 1, u32::MAX);
    }
}

/// # Safety
/// As for [`close_others`].
unsafe fn close_range(first: u32, last: u32) {
    if last == u32::MAX && first == 0 || first > last {
        return; // an empty range
    }
    // SAFETY: by contract.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, 0) < 0 {
            let mut limit = [0u64; 2]; // a kernel before 5.9
            let null = ptr::null::<c_void>();
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, null, limit.as_mut_ptr());
            let mut fd = first;
            while fd <= last && u64::from(fd) < limit[0] {
                libc::syscall(libc::SYS_close, fd);
                fd += 1;
            }
        }
    }
}

/// As many descriptors as the administrator allows: one for each group.
///
/// # Safety
/// None: it is unsafe only for the syscalls.
unsafe fn allow_all_descriptors() {
    let mut limit = [0u64; 2];
    let null = ptr::null_mut::<c_void>();
    // SAFETY: `limit` is as large as a struct rlimit64.
    unsafe {
        if libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, null, limit.as_mut_ptr()) == 0 {
            limit[0] = limit[1];
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, limit.as_ptr(), null);
        }
    }
}
