//! What processes ask of the kernel, in the order in which they ask it: strace(1), attached, and its output as types.
//!
//! One tracer sees all threads, and a thread goes on only when the tracer has seen the end of its call. So a call that
//! *ended* in the output before another one *began* had ended before it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use crate::rig::PATIENCE;

/// One call of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The thread.
    pub thread: u32,
    /// The process it belongs to, as far as it is known: else the thread.
    pub process: u32,
    /// `fsync`
    pub name: String,
    /// What stands between the parentheses.
    pub args: String,
    /// What it returned, with the name of the error.
    pub result: String,
    /// Where in the output it began.
    pub began: usize,
    /// Where in the output it ended.
    pub ended: usize,
}

impl Call {
    /// Whether it did what was asked for.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        !self.result.starts_with('-') && !self.result.starts_with('?')
    }

    /// The path or the kind of socket of the descriptor that is its first argument: `fsync(3</here>)`.
    #[must_use]
    pub fn target(&self) -> &str {
        let digits = self.args.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.args.len());
        let Some(rest) = self.args[digits..].strip_prefix('<') else { return "" };
        // `TCP:[127.0.0.1:1->127.0.0.1:2]`: the end is the `>` that an argument or the end follows
        let end = rest.match_indices('>').map(|(at, _)| at).find(|at| {
            let after = &rest[at + 1..];
            after.is_empty() || after.starts_with([',', '<', '(', ' '])
        });
        end.map_or("", |end| &rest[..end])
    }

    /// The strings among its arguments, in order, as bytes.
    #[must_use]
    pub fn strings(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut rest = self.args.as_bytes();
        while let Some(start) = rest.iter().position(|b| *b == b'"') {
            let (string, used) = unescape(&rest[start + 1..]);
            found.push(string);
            rest = &rest[start + 1 + used..];
        }
        found
    }

    /// Its strings one after the other: what a `write` or a `sendmsg` carries.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.strings().concat()
    }
}

/// The content of a C string up to its closing quote, and how many bytes that took, the quote included.
fn unescape(text: &[u8]) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => break,
            b'\\' => {
                let Some(&escaped) = text.get(at) else { break };
                at += 1;
                match escaped {
                    b'n' => out.push(b'\n'),
                    b'r' => out.push(b'\r'),
                    b't' => out.push(b'\t'),
                    b'v' => out.push(0x0b),
                    b'f' => out.push(0x0c),
                    b'x' => at += number(&text[at..], 2, 16, &mut out),
                    b'0'..=b'7' => at += number(&text[at - 1..], 3, 8, &mut out) - 1,
                    other => out.push(other),
                }
            }
            other => out.push(other),
        }
    }
    (out, at)
}

fn number(text: &[u8], most: usize, radix: u32, out: &mut Vec<u8>) -> usize {
    let digits = text.iter().take(most).take_while(|b| char::from(**b).is_digit(radix)).count();
    let value =
        text[..digits].iter().filter_map(|b| char::from(*b).to_digit(radix)).fold(0, |n, d| n * radix + d);
    out.push(u8::try_from(value & 0xff).unwrap_or(0));
    digits.max(1)
}

/// An attached tracer.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    output: PathBuf,
    said: mpsc::Receiver<String>,
    threads: BTreeMap<u32, u32>,
}

impl Strace {
    /// What keeps this machine from tracing, `None` if nothing does.
    #[must_use]
    pub fn missing() -> Option<String> {
        let tried = Command::new("strace").args(["-f", "-e", "trace=none", "true"]).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                Some(format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Err(e) => Some(format!("strace is not installed ({e}); apt-get install strace")),
        }
    }

    /// Attaches to these processes, all their threads and all that they start from now on. Returns when it has.
    ///
    /// # Panics
    /// When it cannot be started or does not attach.
    #[must_use]
    pub fn attach(pids: &[u32], calls: &str, output: &Path) -> Strace {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-yy", "-s", "400", "-e", &format!("trace={calls}"), "-e", "signal=none", "-o"])
            .arg(output);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stderr = child.stderr.take().expect("it is piped");
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        let threads =
            pids.iter().flat_map(|pid| threads_of(*pid).into_iter().map(|thread| (thread, *pid))).collect();
        let mut strace = Strace { child, output: output.to_owned(), said, threads };
        strace.wait_until_attached(pids);
        strace
    }

    fn wait_until_attached(&mut self, pids: &[u32]) {
        let mut left: BTreeSet<u32> = pids.iter().copied().collect();
        let deadline = Instant::now() + PATIENCE;
        while !left.is_empty() {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                // "strace: Process 123 attached with 4 threads"
                Ok(line) if line.contains(" attached") => {
                    left.retain(|pid| !line.contains(&format!("Process {pid} attached")));
                }
                Ok(line) => eprintln!("{line}"),
                Err(e) => {
                    let _ = self.child.kill();
                    panic!("strace did not attach to {left:?}: {e}");
                }
            }
        }
    }

    /// Detaches and gives what was seen, in order of beginning.
    ///
    /// # Panics
    /// When it does not end or its output cannot be read.
    #[must_use]
    pub fn detach(mut self) -> Vec<Call> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, Signal::SIGINT).expect("a child of ours");
        self.child.wait().expect("a child of ours");
        let text = std::fs::read(&self.output).unwrap_or_else(|e| panic!("{}: {e}", self.output.display()));
        parse(&String::from_utf8_lossy(&text), std::mem::take(&mut self.threads))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // a test that failed: nothing may stay under a tracer
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn threads_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The calls in an output of `strace -f -o`.
fn parse(text: &str, mut threads: BTreeMap<u32, u32>) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse::<u32>(), rest.trim_start()) else { continue };
        if let Some(rest) = rest.strip_prefix("<... ") {
            let Some(call) = open.remove(&thread).and_then(|n| calls.get_mut(n)) else { continue };
            let Some((_, rest)) = rest.split_once(" resumed>") else { continue };
            let (args, result) = ended(rest);
            call.args.push_str(args);
            call.result = result.to_owned();
            call.ended = at;
        } else if let Some((name, rest)) = rest.split_once('(').filter(|(name, _)| is_name(name)) {
            let unfinished = rest.strip_suffix(" <unfinished ...>");
            let (args, result) = unfinished.map_or_else(|| ended(rest), |args| (args, "?"));
            if unfinished.is_some() {
                open.insert(thread, calls.len());
            }
            calls.push(Call {
                thread,
                process: thread,
                name: name.to_owned(),
                args: args.to_owned(),
                result: result.to_owned(),
                began: at,
                // one that never came back has not ended
                ended: if unfinished.is_some() { usize::MAX } else { at },
            });
        }
    }
    // a thread's number is known when the call that made it returns, which may be after its first call
    for call in calls.iter().filter(|c| c.args.contains("CLONE_THREAD")) {
        let made = call.result.split(' ').next().and_then(|n| n.parse().ok());
        let process = threads.get(&call.thread).copied().unwrap_or(call.thread);
        threads.extend(made.map(|made: u32| (made, process)));
    }
    for call in &mut calls {
        call.process = threads.get(&call.thread).copied().unwrap_or(call.thread);
    }
    calls
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// `args) = result`
fn ended(text: &str) -> (&str, &str) {
    // strace pads with spaces before the sign
    match text.rfind(" = ") {
        Some(at) => (text[..at].trim_end().trim_end_matches(')'), text[at + 3..].trim()),
        None => (text, "?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"10 clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x1} => {parent_tid=[12]}, 88 <unfinished ...>
12 fdatasync(9</data/log.1> <unfinished ...>
10 <... clone3 resumed>) = 12
10 sendto(14<TCP:[127.0.0.1:2->127.0.0.1:1]>, "+OK\r\n", 5, MSG_NOSIGNAL, NULL, 0) = 5
12 <... fdatasync resumed>)        = 0
11 linkat(8</d>, "prop.1", 8</d>, "epoch.2", 0) = -1 EEXIST (File exists)
11 sendmsg(7<UNIX-STREAM:[1->2]>, {msg_name=NULL, msg_iov=[{iov_base="\"\0\0\0\1\0\17\0a\x41", iov_len=10}], msg_iovlen=1}, 0) = 10
11 +++ exited with 0 +++
"#;

    #[test]
    fn calls_that_were_interrupted_are_put_together() {
        let calls = parse(OUTPUT, BTreeMap::from([(10, 10)]));
        assert_eq!(calls.len(), 5);
        let (sync, sent) = (&calls[1], &calls[2]);
        assert_eq!((sync.name.as_str(), sync.target(), sync.process), ("fdatasync", "/data/log.1", 10));
        assert!(sync.succeeded() && sync.began < sent.began && sync.ended > sent.ended, "{sync:?} {sent:?}");
        assert_eq!((sent.target(), sent.bytes()), ("TCP:[127.0.0.1:2->127.0.0.1:1]", b"+OK\r\n".to_vec()));
        assert!(!calls[3].succeeded());
        assert_eq!(calls[3].strings(), [b"prop.1".to_vec(), b"epoch.2".to_vec()]);
        assert_eq!((calls[3].process, calls[4].bytes()), (11, b"\"\0\0\0\x01\0\x0f\0aA".to_vec()));
    }
}
