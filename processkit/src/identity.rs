//! Which process exactly: a pid alone is reused, with the start time and the boot it is not.

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;

/// One process of one boot. Two equal identities are the same process, also across restarts of whoever compares.
///
/// Valid within one pid namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: u32,
    /// Clock ticks between boot and its start (field 22 of `/proc/<pid>/stat`); 0 where that could not be read.
    pub start_time_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`; empty where that could not be read.
    pub boot_id: String,
}

/// The identity of a process that exists now, as a zombie too.
///
/// # Errors
/// `NotFound` if there is no such process.
pub fn identity_of(pid: u32) -> io::Result<ProcessIdentity> {
    let stat = Stat::read(pid)?;
    Ok(ProcessIdentity { pid, start_time_ticks: stat.start, boot_id: boot_id()?.to_owned() })
}

/// This boot.
pub(crate) fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT.get() {
        return Ok(id);
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(BOOT.get_or_init(|| id))
}

/// What we need of `/proc/<pid>/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    pub(crate) start: u64,
    /// The status word of a zombie; 0 where the kernel hides it.
    pub(crate) status: i32,
    threads: u32,
    pub(crate) image: Image,
}

/// Where a process has what execve(2) gave it. Zeros without memory (zombies), and as far as they are not ours to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    code: u64,
    stack: u64,
    environment: (u64, u64),
}

impl Image {
    /// Whether so many bytes are the whole initial environment. Within execve the new memory has none for a while, then an
    /// empty one; where the code lies is told last, and stands before it in the line that is read.
    pub(crate) fn has_environment_of(&self, bytes: usize) -> bool {
        let (start, end) = self.environment;
        self.is_complete() && end.checked_sub(start) == Some(bytes as u64)
    }

    /// Whether execve has told all of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.code != 0 && self.environment.1 != 0
    }
}

impl Stat {
    pub(crate) fn read(pid: u32) -> io::Result<Stat> {
        // 52 numbers and a name: one read takes it all, and the kernel prints the line only once
        let mut text = [0; 2048];
        let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut text));
        let text = &text[..length.map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => io::Error::from(io::ErrorKind::NotFound), // gone between open and read
            _ => error,
        })?];
        Stat::parse(text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/<pid>/stat"))
    }

    fn parse(text: &[u8]) -> Option<Stat> {
        // The name may contain anything, closing parentheses too; the last one ends it.
        let open = text.iter().position(|b| *b == b'(')?;
        let close = text.iter().rposition(|b| *b == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let state = *text.get(close + 2)?;
        let (fields, count) = numbers(text.get(close + 4..)?);
        let field = |number: usize| fields[number - 4];
        (count > 22 - 4).then(|| Stat {
            pid,
            state,
            parent: field(4) as u32,
            group: field(5) as u32,
            session: field(6) as u32,
            start: field(22),
            threads: field(20) as u32,
            image: Image { code: field(26), stack: field(28), environment: (field(50), field(51)) },
            status: field(52) as i32,
        })
    }

    /// Ended, and not reaped yet. (One whose first thread has ended before the others looks like it, and lives.)
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// By a signal. What a tracer stops (`t`) it lets go on: strace(1) does both at every syscall.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == b'T'
    }

    /// Whether there is nothing to be read of its memory through its first thread.
    pub(crate) fn has_no_memory(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// The numbers from field 4 on, and how many there are; 0 for what is missing or negative. By hand, because a walk reads
/// them of every process of the machine.
fn numbers(text: &[u8]) -> ([u64; 49], usize) {
    let mut fields = [0u64; 49];
    let (mut count, mut index, mut negative) = (0, 0, false);
    while index < text.len() && count < fields.len() {
        let byte = text[index];
        if byte.is_ascii_digit() {
            if !negative {
                fields[count] = fields[count].wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            }
        } else if byte == b'-' {
            negative = true;
        } else {
            (count, negative) = (count + 1, false);
        }
        index += 1;
    }
    (fields, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_contain_anything() {
        let tail = "5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 4242 0 0";
        let stat = Stat::parse(format!("77 (a) b) S 3 {tail}").as_bytes()).expect("a stat line");
        assert_eq!((stat.pid, stat.state, stat.parent, stat.group), (77, b'S', 3, 5));
        assert_eq!(stat.start, 4242);
        assert_eq!(Stat::parse(b"77 a S"), None);
        assert_eq!(Stat::parse(b"77 (a) S 1"), None);
    }

    #[test]
    fn own_identity_is_stable() {
        let one = identity_of(std::process::id()).expect("our own identity");
        assert_eq!(one, identity_of(std::process::id()).expect("our own identity"));
        assert!(one.start_time_ticks > 0);
        assert!(!one.boot_id.is_empty());
    }
}
