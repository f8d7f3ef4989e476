//! Proofs of order, by what the processes ask of the kernel: durable first, then told. What kill -9 cannot show, since
//! the kernel keeps what was written and not synced, strace does.
//!
//! Each check is a function over the calls; its control takes away or moves what it looks for.

use handoff::wire::{HEADER, Message};
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::rig::{Rig, Setup};
use handoff_tests::strace::{Call, Strace};
use serde_json::Value;

const CALLS: &str = "%process,write,writev,pwrite64,read,readv,recvfrom,recvmsg,sendto,sendmsg,accept4,fsync,fdatasync,\
                     sync_file_range,linkat,renameat,renameat2,openat,unlinkat";

/// Rule 14: says what is missing, and fails where everything has to be there.
pub(crate) fn can_trace() -> bool {
    let Some(missing) = Strace::missing() else { return true };
    eprintln!("skipped: {missing}");
    assert!(std::env::var_os("HANDOFF_REQUIRE_ALL").is_none_or(|v| v != "1"), "{missing}");
    false
}

pub(crate) fn is_sync(call: &Call) -> bool {
    matches!(call.name.as_str(), "fsync" | "fdatasync") && call.succeeded()
}

/// Whether `path` was synced between the end of one call and the beginning of another.
fn synced_between(calls: &[Call], path: &str, after: &Call, before: &Call) -> bool {
    calls.iter().any(|c| is_sync(c) && c.target() == path && c.began > after.ended && c.ended < before.began)
}

fn is_write(call: &Call) -> bool {
    matches!(call.name.as_str(), "write" | "writev" | "pwrite64" | "sendto" | "sendmsg") && call.succeeded()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn last_component(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn file_name(call: &Call) -> &str {
    last_component(call.target())
}

/// The messages that a call sends: whole frames, one after the other.
fn messages(call: &Call) -> Vec<&'static str> {
    let mut found = Vec::new();
    if !is_write(call) || !call.target().starts_with("UNIX") {
        return found;
    }
    let bytes = call.bytes();
    let mut rest = &bytes[..];
    // strace shows the first bytes of a long frame only: a frame that is not there to its end is the last one
    while rest.len() >= HEADER {
        let length = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < HEADER {
            break;
        }
        found.extend(Message::name_of(u16::from_le_bytes([rest[6], rest[7]])));
        rest = rest.get(length..).unwrap_or_default();
    }
    found
}

/// The call by which this process sends this message for the first time.
fn sending<'a>(calls: &'a [Call], process: Option<u32>, message: &str) -> Result<&'a Call, String> {
    let by = |c: &&Call| process.is_none_or(|process| c.process == process);
    let mut found = calls.iter().filter(by).filter(|c| messages(c).contains(&message));
    found.next().ok_or_else(|| format!("nobody sends {message}"))
}

// --- acknowledgements

const WRITES: usize = 50;

/// One client, one write after the other, under strace; everything the server did meanwhile.
fn acknowledged_writes(fsync: &str) -> Vec<Call> {
    let rig = Setup::new(Programs::of(Build::Plain)).program_args(&["--fsync", fsync]).start();
    let strace = Strace::attach(&[rig.server_pid()], CALLS, &rig.dir().join("strace"));
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    for n in 0..WRITES {
        client.ask(&format!("SET order:{n}: value")).expect("is acknowledged");
    }
    strace.detach()
}

/// Every acknowledgement is sent after the record was written to the log, and the log synced.
fn acknowledged_when_durable(calls: &[Call]) -> Result<(), String> {
    // also the one whose end strace was not there to see: the client had its reply and it was told to detach
    let sends = |c: &&Call| matches!(c.name.as_str(), "write" | "writev" | "sendto" | "sendmsg");
    let to_client = |c: &&Call| c.target().starts_with("TCP") && c.bytes() == b"+OK\r\n";
    let replies: Vec<&Call> = calls.iter().filter(sends).filter(to_client).collect();
    for n in 0..WRITES {
        let key = format!("order:{n}:");
        let written = calls.iter().find(|c| is_write(c) && in_log(c) && contains(&c.bytes(), key.as_bytes()));
        let written = written.ok_or_else(|| format!("{key} is nowhere in the log"))?;
        let reply = replies.get(n).ok_or_else(|| format!("{key} was not acknowledged"))?;
        if reply.began < written.ended {
            return Err(format!("{key} acknowledged before it was written"));
        }
        if !synced_between(calls, written.target(), written, reply) {
            return Err(format!("{key} acknowledged before {} was synced", written.target()));
        }
    }
    Ok(())
}

pub(crate) fn in_log(call: &Call) -> bool {
    file_name(call).starts_with("log.")
}

#[test]
fn a_write_is_synced_before_it_is_acknowledged() {
    if can_trace() {
        let calls = acknowledged_writes("always");
        assert_eq!(acknowledged_when_durable(&calls), Ok(()));
    }
}

/// Control: a server that promises less must not pass.
#[test]
fn a_write_is_synced_before_it_is_acknowledged_control() {
    if can_trace() {
        let calls = acknowledged_writes("everysec");
        let wrong = acknowledged_when_durable(&calls).expect_err("the check is blind");
        assert!(wrong.contains("before") && wrong.contains("was synced"), "{wrong}");
    }
}

// --- an upgrade

/// An upgrade under strace.
struct Traced {
    calls: Vec<Call>,
    supervisor: u32,
    incumbent: u32,
    successor: u32,
    claim_dir: String,
    journal: String,
}

fn traced_upgrade() -> Traced {
    let rig: Rig = crate::rig();
    let (supervisor, incumbent) = (rig.supervisor_pid(), rig.server_pid());
    let strace = Strace::attach(&[supervisor, incumbent], CALLS, &rig.dir().join("strace"));
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    client.ask("SET before yes").expect("is acknowledged");
    let done = rig.upgrade(&["--freeze-budget", "20s"]);
    assert_eq!(done.code, Some(0), "{done:?}\n{}", rig.log());
    client.ask("SET after yes").expect("is acknowledged");
    let fresh = Client::connect(rig.addr.into()).and_then(|mut client| client.ask("GET before"));
    assert_eq!(fresh.expect("an answer").text().as_deref(), Some("yes"));
    let calls = strace.detach();
    let successor = pid(&done.json(), "new");
    assert_eq!(pid(&done.json(), "old"), incumbent);
    let real = |path: std::path::PathBuf| path.canonicalize().expect("it is there").display().to_string();
    let claim_dir = real(rig.data_dir.join(".handoff"));
    let journal = real(rig.run_dir.join("journal"));
    Traced { calls, supervisor, incumbent, successor, claim_dir, journal }
}

fn pid(report: &Value, side: &str) -> u32 {
    let pid = report[side]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.unwrap_or_else(|| panic!("{side} has no pid: {report}"))
}

impl Traced {
    fn by(&self, process: u32) -> Vec<Call> {
        self.calls.iter().filter(|c| c.process == process).cloned().collect()
    }

    /// The one link that this process makes to a name with this beginning and end.
    fn link(&self, process: u32, start: &str, end: &str) -> Result<Call, String> {
        let named = |c: &Call| {
            let to =
                c.strings().pop().map(|to| String::from_utf8_lossy(&to).into_owned()).unwrap_or_default();
            to.starts_with(start) && to.ends_with(end)
        };
        let mine = self.by(process);
        let mut links = mine.into_iter().filter(|c| c.name == "linkat" && c.succeeded() && named(c));
        links.next().ok_or_else(|| format!("process {process} links no {start}*{end}"))
    }

    /// Proposal: its content is synced, it gets its name, the name is synced, and only then `message` is sent.
    fn proposed_before(&self, process: u32, suffix: &str, message: &str) -> Result<(), String> {
        let link = self.link(process, "prop.", suffix)?;
        let temporary = String::from_utf8_lossy(&link.strings()[0]).into_owned();
        let calls = self.by(process);
        let sent = sending(&calls, Some(process), message)?;
        let path = format!("{}/{temporary}", self.claim_dir);
        let synced = calls.iter().any(|c| is_sync(c) && c.target() == path && c.ended < link.began);
        if !synced {
            return Err(format!("{path} gets its name before it is synced"));
        }
        if !synced_between(&calls, &self.claim_dir, &link, sent) {
            return Err(format!("{message} is sent before the name of {suffix} is synced"));
        }
        Ok(())
    }

    /// Claim: the link, the claim's fsync, the directory's fsync; then Started; then the first act of service.
    fn claimed_before_service(&self) -> Result<(), String> {
        let link = self.link(self.successor, "epoch.", "")?;
        let name = String::from_utf8_lossy(&link.strings()[1]).into_owned();
        let calls = self.by(self.successor);
        let started = sending(&calls, Some(self.successor), "Started")?;
        let claim = format!("{}/{name}", self.claim_dir);
        let file = calls.iter().find(|c| is_sync(c) && c.target() == claim && c.began > link.ended);
        let file = file.ok_or_else(|| format!("{claim} is not synced"))?;
        if file.ended > started.began {
            return Err(format!("Started is sent before {claim} is synced"));
        }
        if !synced_between(&calls, &self.claim_dir, &link, started) {
            return Err(format!("Started is sent before the name of {claim} is synced"));
        }
        let first = calls.iter().find(|c| serves(c)).ok_or("the successor never serves")?;
        if first.began < started.ended {
            return Err(format!("{} of {} comes before Started", first.name, first.target()));
        }
        Ok(())
    }

    /// Every record of the journal is synced before SealRequest is sent; that one is to come is among them.
    fn journalled_before_seal(&self) -> Result<(), String> {
        let calls = self.by(self.supervisor);
        let sent = sending(&calls, Some(self.supervisor), "SealRequest")?;
        let records =
            calls.iter().filter(|c| is_write(c) && c.target() == self.journal && c.ended < sent.began);
        let records: Vec<_> = records.collect();
        if records.len() < 2 {
            return Err(format!("{} records before SealRequest: intent and seal are two", records.len()));
        }
        match records.iter().find(|record| !synced_between(&calls, &self.journal, record, sent)) {
            Some(record) => {
                Err(format!("a record at {} is not synced when SealRequest is sent", record.began))
            }
            None => Ok(()),
        }
    }

    /// The supervisor syncs nothing while nobody serves: from SealRequest until Active was received.
    fn nothing_synced_in_the_freeze(&self) -> Result<(), String> {
        let sealing = sending(&self.calls, Some(self.supervisor), "SealRequest")?;
        let active = sending(&self.calls, Some(self.successor), "Active")?;
        let within = |c: &&Call| c.began > sealing.began && c.began < active.began;
        match self.by(self.supervisor).iter().filter(within).find(|c| is_sync(c)) {
            Some(sync) => Err(format!("the supervisor syncs {} in the freeze", sync.target())),
            None => Ok(()),
        }
    }

    /// The same calls without those that `taken` says.
    fn without(&self, taken: impl Fn(&Call) -> bool) -> Traced {
        let calls = self.calls.iter().filter(|c| !taken(c)).cloned().collect();
        let (claim_dir, journal) = (self.claim_dir.clone(), self.journal.clone());
        Traced { calls, claim_dir, journal, ..*self }
    }
}

/// What only who owns the epoch may do: accept, read from clients, answer them, write to the log.
fn serves(call: &Call) -> bool {
    let client = call.target().starts_with("TCP");
    match call.name.as_str() {
        "accept4" => call.succeeded(),
        "read" | "readv" | "recvfrom" | "recvmsg" | "write" | "writev" | "sendto" | "sendmsg" if client => {
            true
        }
        "write" | "writev" | "pwrite64" => in_log(call),
        _ => false,
    }
}

#[test]
fn everything_is_durable_before_it_is_told() {
    if !can_trace() {
        return;
    }
    let traced = traced_upgrade();
    let Traced { incumbent, successor, .. } = traced;
    assert_eq!(traced.proposed_before(successor, ".N", "Warmed"), Ok(()));
    assert_eq!(traced.proposed_before(incumbent, ".O", "Drained"), Ok(()));
    assert_eq!(traced.journalled_before_seal(), Ok(()));
    assert_eq!(traced.claimed_before_service(), Ok(()));
    assert_eq!(traced.nothing_synced_in_the_freeze(), Ok(()));

    // controls: without one of the syncs, or with the message too early, each check must say so
    let dir = traced.without(|c| is_sync(c) && c.target() == traced.claim_dir);
    let file = traced.without(|c| is_sync(c) && file_name(c).starts_with("epoch."));
    let temporary = traced.without(|c| is_sync(c) && file_name(c).starts_with("tmp."));
    let journal = traced.without(|c| is_sync(c) && c.target() == traced.journal);
    let mute = traced.without(|c| messages(c).contains(&"Started"));
    for (n, blind) in [
        dir.claimed_before_service(),
        file.claimed_before_service(),
        mute.claimed_before_service(),
        dir.proposed_before(successor, ".N", "Warmed"),
        dir.proposed_before(incumbent, ".O", "Drained"),
        temporary.proposed_before(successor, ".N", "Warmed"),
        temporary.proposed_before(incumbent, ".O", "Drained"),
        journal.journalled_before_seal(),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(blind.is_err(), "check {n} is blind");
    }
    let mut early = traced.without(|_| false);
    for call in early.calls.iter_mut().filter(|c| messages(c).contains(&"Started")) {
        (call.began, call.ended) = (0, 0);
    }
    assert!(early.claimed_before_service().is_err(), "Started before the claim is not seen");
}
