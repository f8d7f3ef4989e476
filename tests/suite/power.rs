//! A power loss that takes with it what nobody had synced. It cannot be made here: which bytes of the log were synced
//! is read from what the server asked of the kernel, and the others are cut off.

use crate::order::{can_trace, in_log, is_sync};
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::rig::{PATIENCE, Rig, Setup, wait_gone};
use handoff_tests::strace::{Call, Strace};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const CALLS: &str = "%process,pwrite64,fsync,fdatasync,sync_file_range,ftruncate";
/// How many writes are acknowledged before the power goes.
const WRITES: usize = 100;

/// Where a write to a log ends: `pwrite64(9</data/log.1>, ".."..., 60, 120) = 60`.
fn end_of(call: &Call) -> Option<u64> {
    let offset: u64 = call.args.rsplit(", ").next()?.trim_end_matches(')').parse().ok()?;
    let written: u64 = call.result.split(' ').next()?.parse().ok()?;
    Some(offset + written)
}

/// How long each log would be without what was not synced.
fn synced(calls: &[Call]) -> BTreeMap<String, u64> {
    let mut lengths = BTreeMap::new();
    for sync in calls.iter().filter(|c| is_sync(c) && in_log(c)) {
        let before = calls.iter().filter(|c| {
            c.name == "pwrite64" && c.succeeded() && c.target() == sync.target() && c.ended < sync.began
        });
        let end = before.filter_map(end_of).max().unwrap_or(0);
        let length = lengths.entry(sync.target().to_owned()).or_insert(0);
        *length = end.max(*length);
    }
    lengths
}

fn logs(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the data").map(|entry| entry.expect("an entry").path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.")))
        .collect()
}

/// Two clients write until the power goes; gives the service that was started again, how many of each client's writes
/// were acknowledged, and how many bytes were lost.
fn power_loss(fsync: &str) -> (Rig, [usize; 2], u64) {
    let mut rig = Setup::new(Programs::of(Build::Plain)).program_args(&["--fsync", fsync]).start();
    let server = rig.server_pid();
    let length = |path: &Path| path.metadata().expect("a log").len();
    // what was written before the tracer came counts as synced
    let before: BTreeMap<_, _> =
        logs(&rig.data_dir).into_iter().map(|path| (path.clone(), length(&path))).collect();
    let strace = Strace::attach(&[server], CALLS, &rig.dir().join("strace"));
    let acknowledged = [AtomicUsize::new(0), AtomicUsize::new(0)];
    std::thread::scope(|scope| {
        for (who, count) in acknowledged.iter().enumerate() {
            let mut client = Client::connect(rig.addr.into()).expect("connects");
            scope.spawn(move || {
                for n in 0.. {
                    if client.ask(&format!("SET key:{who}:{n} {n}")).is_err() {
                        break;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while acknowledged.iter().any(|count| count.load(Ordering::Relaxed) < WRITES) {
            std::thread::yield_now();
        }
        rig.kill_supervisor();
        kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGKILL)
            .expect("a process of ours");
    });
    wait_gone(server);
    let synced = synced(&strace.detach());
    let mut lost = 0;
    for path in logs(&rig.data_dir) {
        let real = path.canonicalize().expect("a log").display().to_string();
        let kept = synced.get(&real).copied().unwrap_or(0).max(before.get(&path).copied().unwrap_or(0));
        lost += length(&path).saturating_sub(kept);
        if length(&path) > kept {
            std::fs::File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(kept))
                .expect("a log");
        }
    }
    rig.run();
    (rig, acknowledged.map(AtomicUsize::into_inner), lost)
}

fn missing(rig: &Rig, acknowledged: [usize; 2]) -> usize {
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    let mut there = |who: usize, n: usize| {
        let value = client.ask(&format!("GET key:{who}:{n}")).expect("is answered").text();
        value.as_deref() == Some(n.to_string().as_str())
    };
    let all = acknowledged.iter().enumerate().flat_map(|(who, count)| (0..*count).map(move |n| (who, n)));
    all.filter(|(who, n)| !there(*who, *n)).count()
}

#[test]
fn nothing_acknowledged_goes_with_what_was_not_synced() {
    if can_trace() {
        let (rig, acknowledged, _) = power_loss("always");
        assert_eq!(missing(&rig, acknowledged), 0, "of {acknowledged:?}");
        rig.upgrade_commits();
    }
}

/// The control: a server that promises less loses something, and it is seen.
///
/// This failed once, on a busy machine: the power went before anything had been acknowledged since the last sync. Then
/// nothing is lost, rightly, and it goes again.
#[test]
fn nothing_acknowledged_goes_with_what_was_not_synced_control() {
    if !can_trace() {
        return;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (rig, acknowledged, lost) = power_loss("everysec");
        let missing = missing(&rig, acknowledged);
        rig.upgrade_commits();
        if lost > 0 && missing > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the check is blind: {missing} of {acknowledged:?}, {lost} bytes");
    }
}
