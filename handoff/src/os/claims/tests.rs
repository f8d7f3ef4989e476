use super::*;
use crate::ids::BuildId;
use std::process::Command;
use std::sync::Barrier;

fn data() -> (tempfile::TempDir, Claims) {
    let root = tempfile::tempdir().unwrap();
    let claims = Claims::open(root.path()).unwrap();
    (root, claims)
}

fn proposal(handoff: u128, instance: u128) -> Proposal {
    Proposal {
        handoff: HandoffId(handoff),
        instance: InstanceId(instance),
        build: BuildId(format!("build {instance}")),
        ..Proposal::default()
    }
}

fn successor(handoff: u128) -> ProposalName {
    ProposalName::Successor(HandoffId(handoff))
}

fn names(claims: &Claims) -> Vec<String> {
    let mut names = claims.dir().list().unwrap();
    names.sort();
    names
}

#[test]
fn of_many_that_claim_one_epoch_one_wins_and_all_know_it() {
    let (_root, claims) = data();
    for epoch in (1..=50).map(Epoch) {
        let barrier = Barrier::new(8);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=8_u128)
                .map(|n| {
                    let (barrier, claims) = (&barrier, &claims);
                    scope.spawn(move || {
                        let me = u128::from(epoch.0) << 64 | n;
                        let name = ProposalName::Cold(InstanceId(me));
                        claims.propose(name, &proposal(0, me)).unwrap();
                        barrier.wait();
                        claims.claim(epoch, name, InstanceId(me)).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let owner = claims.read(epoch).unwrap().map(|p| p.instance);
        assert!(owner.is_some());
        assert!(answers.iter().all(|a| *a == owner), "{answers:?}");
        claims.tidy(HandoffId::NIL).unwrap();
    }
    assert_eq!(claims.highest().unwrap().map(|(epoch, _)| epoch), Some(Epoch(50)));
}

/// The control of the test above: with `rename` in the place of `link` two would both take themselves for the owner.
#[test]
fn without_the_link_two_would_win() {
    let (_root, claims) = data();
    let mut winners = 0;
    for n in 1..=2 {
        claims.propose(successor(n), &proposal(n, n)).unwrap();
        claims.dir().rename(&successor(n).to_string(), &FileName::Claim(Epoch(1)).to_string()).unwrap();
        winners += usize::from(claims.read(Epoch(1)).unwrap().unwrap().instance == InstanceId(n));
    }
    assert_eq!(winners, 2);
}

#[test]
fn one_proposal_serves_several_epochs() {
    let (_root, claims) = data();
    let name = ProposalName::Incumbent(HandoffId(1));
    claims.propose(name, &proposal(1, 1)).unwrap();
    for epoch in [Epoch(2), Epoch(3)] {
        assert_eq!(claims.claim(epoch, name, InstanceId(1)).unwrap(), Some(InstanceId(1)));
        assert_eq!(claims.claim(epoch, name, InstanceId(1)).unwrap(), Some(InstanceId(1)), "again");
        claims.sync_claim(epoch).unwrap();
    }
    assert_eq!(claims.highest().unwrap(), Some((Epoch(3), proposal(1, 1))));
    assert_eq!(claims.claimed().unwrap(), [Epoch(2), Epoch(3)]);
}

// a successor that was killed while warming left its proposal for as long as no handoff was prepared: the incumbent
// had never heard of it, so fifty bad binaries left fifty files
#[test]
fn the_proposals_of_an_abort_go_and_those_of_others_stay() {
    let (_root, claims) = data();
    let incumbent = ProposalName::Incumbent(HandoffId(7));
    for (name, instance) in [(successor(7), 1), (incumbent, 2), (successor(8), 3)] {
        claims.propose(name, &proposal(7, instance)).unwrap();
    }
    claims.withdraw(HandoffId(7), false).unwrap();
    assert_eq!(names(&claims), [incumbent.to_string(), successor(8).to_string(), "reserve".to_owned()]);
    assert_eq!(
        claims.claim(Epoch(1), incumbent, InstanceId(2)).unwrap(),
        Some(InstanceId(2)),
        "it can claim"
    );
    claims.withdraw(HandoffId(7), true).unwrap();
    assert_eq!(
        names(&claims),
        [FileName::Claim(Epoch(1)).to_string(), successor(8).to_string(), "reserve".to_owned()]
    );
}

/// A successor that had lost its channels was ended while it wrote its proposal: the temporary file stayed until the
/// next supervisor began (`N.propose.before/drop` of the crash matrix).
#[test]
fn what_an_ended_successor_wrote_by_half_goes_with_its_proposal() {
    let (_root, claims) = data();
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    claims.dir().write_new(&format!("tmp.{}.0", child.id()), b"half", 0o600).unwrap();
    claims.withdraw(HandoffId(7), false).unwrap();
    assert_eq!(names(&claims), ["reserve"]);
}

#[test]
fn a_proposal_is_written_once() {
    let (_root, claims) = data();
    claims.propose(successor(1), &proposal(1, 1)).unwrap();
    claims.propose(successor(1), &proposal(1, 1)).unwrap();
    let error = claims.propose(successor(1), &proposal(1, 2)).unwrap_err().to_string();
    assert!(error.contains("two processes play the same role"), "{error}");
    let error = claims.claim(Epoch(1), successor(1), InstanceId(2)).unwrap_err().to_string();
    assert!(error.contains("must not claim with it"), "{error}");
    assert_eq!(claims.read(Epoch(1)).unwrap(), None);
}

#[test]
fn damage_is_an_error_that_names_the_file() {
    let (root, claims) = data();
    claims.propose(successor(1), &proposal(1, 1)).unwrap();
    std::fs::write(root.path().join(".handoff/epoch.00000000000000000001"), b"HANDPROP and then not")
        .unwrap();
    for error in [
        claims.read(Epoch(1)).unwrap_err(),
        claims.claim(Epoch(1), successor(1), InstanceId(1)).unwrap_err(),
        claims.highest().unwrap_err(),
    ] {
        assert!(error.to_string().contains(".handoff/epoch.00000000000000000001: "), "{error}");
    }
}

#[test]
fn tidying_ends_the_past_and_nothing_else() {
    let (_root, claims) = data();
    for n in 1..=20 {
        claims.propose(successor(n), &proposal(n, n)).unwrap();
        let epoch = Epoch(u64::try_from(n).unwrap());
        assert_eq!(claims.claim(epoch, successor(n), InstanceId(n)).unwrap(), Some(InstanceId(n)));
    }
    // a handoff that was aborted, one that is open, a cold start that lost
    claims.propose(successor(21), &proposal(21, 21)).unwrap();
    claims.propose(ProposalName::Incumbent(HandoffId(22)), &proposal(22, 20)).unwrap();
    claims.propose(successor(22), &proposal(22, 22)).unwrap();
    claims.propose(ProposalName::Cold(InstanceId(99)), &proposal(0, 99)).unwrap();
    claims.tidy(HandoffId(21)).unwrap();

    let kept: Vec<_> = (5..=20).map(Epoch).collect();
    assert_eq!(claims.claimed().unwrap(), kept);
    let left = names(&claims);
    let proposals: Vec<_> = left.iter().filter(|name| name.starts_with("prop.")).collect();
    assert_eq!(
        proposals,
        [&ProposalName::Successor(HandoffId(22)), &ProposalName::Incumbent(HandoffId(22))]
            .map(ToString::to_string)
            .iter()
            .collect::<Vec<_>>()
    );
    // a successor that was stopped since then and goes on now does not win its old epoch again
    assert_eq!(claims.claim(Epoch(1), successor(1), InstanceId(1)).unwrap(), None);
    assert_eq!(claims.claim(Epoch(20), successor(1), InstanceId(1)).unwrap(), Some(InstanceId(20)));
}

/// The control of the end of the test above: in the other order the stopped successor would win.
#[test]
fn a_proposal_that_outlives_its_claim_would_win_again() {
    let (_root, claims) = data();
    for n in 1..=2 {
        claims.propose(successor(n), &proposal(n, n)).unwrap();
    }
    assert_eq!(claims.claim(Epoch(1), successor(2), InstanceId(2)).unwrap(), Some(InstanceId(2)));
    claims.dir().unlink(&FileName::Claim(Epoch(1)).to_string()).unwrap();
    assert_eq!(claims.claim(Epoch(1), successor(1), InstanceId(1)).unwrap(), Some(InstanceId(1)));
}

#[test]
fn tidying_takes_the_last_handoff_from_the_claims() {
    let (_root, claims) = data();
    claims.propose(successor(5), &proposal(5, 5)).unwrap();
    claims.propose(successor(6), &proposal(6, 6)).unwrap();
    claims.claim(Epoch(1), successor(5), InstanceId(5)).unwrap();
    claims.tidy(HandoffId::NIL).unwrap();
    assert_eq!(claims.proposal(successor(5)).unwrap(), None);
    assert_eq!(claims.proposal(successor(6)).unwrap(), Some(proposal(6, 6)));
}

#[test]
fn looking_changes_nothing() {
    let (root, claims) = data();
    claims.propose(successor(1), &proposal(1, 1)).unwrap();
    claims.dir().unlink(RESERVE).unwrap();
    let before = names(&claims);
    let looking = Claims::observe(&root.path().join(Claims::IN_DATA)).unwrap();
    assert_eq!(looking.highest().unwrap(), None);
    assert!(!looking.has_reserve().unwrap());
    assert_eq!(names(&claims), before);
    let empty = tempfile::tempdir().unwrap();
    assert!(Claims::observe(&empty.path().join(Claims::IN_DATA)).unwrap_err().is_not_found());
}

#[test]
fn a_probe_leaves_nothing() {
    let (_root, claims) = data();
    claims.probe_link().unwrap();
    assert_eq!(names(&claims), [RESERVE]);
}

#[tokio::test]
async fn a_watch_tells_of_claims_that_are_there_and_that_come() {
    use std::future::Future as _;
    use std::task::{Context, Waker};
    let (root, claims) = data();
    claims.propose(successor(1), &proposal(1, 1)).unwrap();
    claims.claim(Epoch(1), successor(1), InstanceId(1)).unwrap();
    let mut watch = Claims::observe(&root.path().join(Claims::IN_DATA)).unwrap().watch().unwrap();
    assert_eq!(watch.appeared(Epoch(1)).await.unwrap(), InstanceId(1));

    let mut waiting = Box::pin(watch.appeared(Epoch(2)));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    claims.propose(successor(2), &proposal(2, 2)).unwrap();
    assert!(
        waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(),
        "a proposal is no claim"
    );
    let claiming = std::thread::spawn(move || claims.claim(Epoch(2), successor(2), InstanceId(2)).unwrap());
    assert_eq!(waiting.await.unwrap(), InstanceId(2));
    assert_eq!(claiming.join().unwrap(), Some(InstanceId(2)));
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Runs `test` with a data directory on a tmpfs of its own, which goes with the thread's mount namespace.
fn on_tmpfs(options: &str, test: impl FnOnce(&Path) + Send + 'static) {
    let options = options.to_owned();
    let thread = std::thread::spawn(move || {
        let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS);
        let mount = |args: &[&str]| Command::new("mount").args(args).status().is_ok_and(|s| s.success());
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_str().unwrap();
        if unshared.is_err()
            || !mount(&["--make-rprivate", "/"])
            || !mount(&["-t", "tmpfs", "-o", &options, "tmpfs", path])
        {
            return crate::os::test::lacks("root and the right to mount a tmpfs");
        }
        // before `root` is removed, also when the test panics
        let _mounted = Mounted(root.path());
        test(root.path());
    });
    thread.join().unwrap();
}

/// Fills the filesystem to the last page.
fn fill(path: &Path) {
    let error = std::fs::write(path.join("ballast"), vec![1; 1 << 20]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
}

#[test]
fn on_a_full_disk_the_reserve_makes_room_for_a_proposal() {
    on_tmpfs("size=256k", |path| {
        let claims = Claims::open(path).unwrap();
        assert!(claims.has_reserve().unwrap());
        fill(path);
        claims.propose(successor(1), &proposal(1, 1)).unwrap();
        assert!(!claims.has_reserve().unwrap());
        // the control: with the reserve used up a full disk is an error, and nothing half-written stays
        std::fs::write(path.join("more"), vec![1; 1 << 20]).unwrap_err();
        let error = claims.propose(successor(2), &proposal(2, 2)).unwrap_err();
        assert!(error.is_full(), "{error}");
        assert_eq!(names(&claims), [successor(1).to_string()]);
        // a server can still open it, and the reserve comes back when there is room
        Claims::open(path).unwrap();
        assert!(!claims.has_reserve().unwrap());
        std::fs::remove_file(path.join("ballast")).unwrap();
        claims.tidy(HandoffId::NIL).unwrap();
        assert!(claims.has_reserve().unwrap());
    });
}

#[test]
fn without_inodes_the_reserve_makes_room_for_a_claim() {
    on_tmpfs("size=1m,nr_inodes=8", |path| {
        let claims = Claims::open(path).unwrap();
        claims.propose(successor(1), &proposal(1, 1)).unwrap();
        let inodes = (0..).take_while(|n| std::fs::File::create(path.join(format!("f{n}"))).is_ok()).count();
        assert!(inodes > 0);
        assert_eq!(claims.claim(Epoch(1), successor(1), InstanceId(1)).unwrap(), Some(InstanceId(1)));
        assert!(!claims.has_reserve().unwrap());
        assert!(claims.claim(Epoch(2), successor(1), InstanceId(1)).unwrap_err().is_full());
        assert_eq!(claims.read(Epoch(2)).unwrap(), None);
    });
}

#[test]
fn on_a_read_only_filesystem_claims_are_read_but_not_made() {
    on_tmpfs("size=1m", |path| {
        let claims = Claims::open(path).unwrap();
        claims.propose(successor(1), &proposal(1, 1)).unwrap();
        claims.claim(Epoch(1), successor(1), InstanceId(1)).unwrap();
        let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(path).status().unwrap();
        assert!(remounted.success());
        let error = claims.claim(Epoch(2), successor(1), InstanceId(1)).unwrap_err();
        assert!(error.is(Errno::EROFS), "{error}");
        assert_eq!(claims.claim(Epoch(1), successor(1), InstanceId(1)).unwrap(), Some(InstanceId(1)));
        assert_eq!(claims.highest().unwrap().map(|(epoch, _)| epoch), Some(Epoch(1)), "looking works");
        assert!(claims.probe_link().unwrap_err().is(Errno::EROFS));
    });
}
