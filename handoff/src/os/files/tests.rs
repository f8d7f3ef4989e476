use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_private_directory_is_made_and_an_open_one_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    Dir::open_private(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    chmod(&path, 0o755);
    let message = Dir::open_private(&path).unwrap_err().to_string();
    let path_text = path.canonicalize().unwrap().display().to_string();
    assert!(
        message.contains("mode 0755") && message.ends_with(&format!("chmod 700 {path_text}")),
        "{message}"
    );
}

#[test]
fn a_parent_that_others_may_write_to_is_refused_unless_sticky() {
    let root = tempfile::tempdir().unwrap();
    let shared = root.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    chmod(&shared, 0o777);
    let message = Dir::open_private(&shared.join("run")).unwrap_err().to_string();
    assert!(message.contains("mode 0777") && message.contains("chmod go-w"), "{message}");
    chmod(&shared, 0o1777);
    Dir::open_private(&shared.join("run")).unwrap();
}

#[test]
fn the_wrong_owner_is_refused() {
    if !geteuid().is_root() {
        return crate::os::test::lacks("root, to make a directory of somebody else");
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    Dir::open_private(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    let message = Dir::open_private(&path).unwrap_err().to_string();
    assert!(message.contains("belongs to uid 12345"), "{message}");
}

#[test]
fn links_are_not_followed_and_names_do_not_leave() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    symlink("/etc/passwd", root.path().join("link")).unwrap();
    symlink("/tmp", root.path().join("dirlink")).unwrap();
    assert!(dir.read("link", 1 << 20).unwrap_err().is(Errno::ELOOP));
    assert!(dir.create("link", 0o600).is_err());
    assert!(dir.sub_private("dirlink").is_err());
    for name in ["../x", "a/b", "..", ".", ""] {
        assert!(dir.read(name, 10).is_err(), "{name:?}");
    }
}

#[test]
fn reading_is_limited_and_only_regular_files_are_read() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    dir.write_new("f", b"12345", 0o600).unwrap();
    assert_eq!(dir.read("f", 5).unwrap(), b"12345");
    assert!(dir.read("f", 4).unwrap_err().to_string().contains("longer than 4 bytes"));
    assert!(dir.write_new("f", b"", 0o600).unwrap_err().is(Errno::EEXIST));
    nix::unistd::mkfifo(&root.path().join("fifo"), Mode::S_IRWXU).unwrap();
    assert!(dir.read("fifo", 4).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn replacing_leaves_one_whole_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    dir.replace("f", b"one", 0o600).unwrap();
    dir.replace("f", b"two", 0o600).unwrap();
    assert_eq!(dir.read("f", 10).unwrap(), b"two");
    assert_eq!(dir.list().unwrap(), ["f"]);
}

#[test]
fn temps_of_the_dead_are_swept_those_of_the_living_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = format!("tmp.{}.0", child.id());
    child.wait().unwrap();
    let mine = Dir::temp_name();
    // it has ended, and is not waited for yet
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let id = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(ended.id().cast_signed()));
    let unreaped = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(id, unreaped).unwrap();
    let zombies = format!("tmp.{}.0", ended.id());
    for name in [dead.as_str(), &zombies, &mine, "tmp.x.0", "other"] {
        dir.write_new(name, b"", 0o600).unwrap();
    }
    dir.sweep_temps().unwrap();
    ended.wait().unwrap();
    let mut left = dir.list().unwrap();
    left.sort();
    let mut kept = [mine, "tmp.x.0".into(), "other".into()];
    kept.sort();
    assert_eq!(left, kept);
}

/// After a boot a server got the pid of the one before it, whose half-written proposal was still there: no upgrade
/// could begin.
#[test]
fn a_temporary_name_that_is_taken_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let first = dir.write_temp(b"one", 0o600).unwrap();
    let number: u64 = first.rsplit_once('.').unwrap().1.parse().unwrap();
    for n in number + 1..number + 40 {
        std::fs::write(root.path().join(format!("tmp.{}.{n}", std::process::id())), b"taken").unwrap();
    }
    let second = dir.write_temp(b"two", 0o600).unwrap();
    assert_eq!((dir.read(&first, 9).unwrap(), dir.read(&second, 9).unwrap()), (b"one".into(), b"two".into()));
    assert_eq!(dir.list().unwrap().len(), 41);
}
