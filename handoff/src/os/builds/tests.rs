use super::*;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

struct Place {
    dir: tempfile::TempDir,
    builds: Builds,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let builds = Builds::open(&Dir::open(dir.path()).expect("open"));
    Place { dir, builds }
}

impl Place {
    fn program(&self, name: &str, content: &[u8]) -> File {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        File::options().read(true).write(true).open(path).expect("open")
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.dir.path().join(BUILDS)).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
    }

    /// A new supervisor on the same directory.
    fn again(&self) -> Builds {
        Builds::open(&Dir::open(self.dir.path()).expect("open"))
    }
}

fn content(fd: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).expect("read");
    bytes
}

fn spec(digest: BuildDigest) -> KeptSpec {
    KeptSpec { digest, executable: b"/opt/kv".to_vec(), ..KeptSpec::default() }
}

#[test]
fn the_name_is_the_content() {
    let place = place();
    let kept = place.builds.keep(place.program("v1", b"abc")).expect("kept");
    // the test vector of FIPS 180
    let name = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(kept.digest.to_string(), name);
    assert_eq!(place.names(), [name.to_owned()].into());
    let mode =
        std::fs::metadata(place.dir.path().join(BUILDS).join(name)).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o500);
}

/// What a hard link would not survive.
#[test]
fn a_write_in_place_and_a_deletion_do_not_reach_the_copy() {
    let place = place();
    let program = place.program("v1", b"version one");
    let link = place.dir.path().join("link");
    std::fs::hard_link(place.dir.path().join("v1"), &link).expect("linked");
    let first = place.builds.keep(&program).expect("kept");
    program.write_all_at(b"VERSION", 0).expect("written");
    // the control: the link is the file
    assert_eq!(std::fs::read(link).expect("read"), b"VERSION one");
    let second = place.builds.keep(&program).expect("kept");
    assert_ne!(first.digest, second.digest);
    std::fs::remove_file(place.dir.path().join("v1")).expect("removed");
    assert_eq!(content(place.again().executable(first.digest).expect("kept")), b"version one");
    assert_eq!(content(first.copy.expect("a copy")), b"version one");
}

#[test]
fn a_damaged_copy_is_not_executed() {
    let place = place();
    let digest = place.builds.keep(place.program("v1", b"version one")).expect("kept").digest;
    let path = place.dir.path().join(BUILDS).join(digest.to_string());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("mode set");
    File::options().write(true).open(&path).expect("open").set_len(4).expect("cut");
    assert!(place.again().executable(digest).expect_err("torn").contains("damaged"));
    assert!(place.again().executable(BuildDigest([1; 32])).is_err());
}

#[test]
fn what_nobody_names_goes() {
    let place = place();
    let [one, two, three] = [1, 2, 3].map(InstanceId);
    let digests =
        ["v1", "v2", "v3"].map(|v| place.builds.keep(place.program(v, v.as_bytes())).expect("kept").digest);
    for (instance, digest) in [(one, digests[0]), (two, digests[1]), (three, digests[1])] {
        place.builds.describe(instance, &spec(digest)).expect("noted");
    }
    place.builds.tidy(&[one, two].into(), &[digests[2]].into()).expect("tidy");
    assert_eq!(place.builds.spec_of(three), None);
    assert_eq!(place.builds.spec_of(two), Some(spec(digests[1])));
    assert_eq!(place.names().len(), 5);
    place.builds.tidy(&[two].into(), &BTreeSet::new()).expect("tidy");
    assert_eq!(place.names(), [digests[1].to_string(), spec_name(two)].into());
}

#[test]
fn where_nothing_can_be_kept_the_digest_is_still_told() {
    let place = place();
    let at = place.dir.path().join("elsewhere");
    std::fs::create_dir(&at).expect("made");
    // a file in the place of the directory: no right is needed to be told apart from root's
    std::fs::write(at.join(BUILDS), b"").expect("written");
    let builds = Builds::open(&Dir::open(&at).expect("open"));
    let kept = builds.keep(place.program("v1", b"abc")).expect("read");
    assert!(kept.copy.is_none());
    assert_ne!(kept.digest, BuildDigest::UNKNOWN);
    builds.describe(InstanceId(1), &spec(kept.digest)).expect("nothing to do");
    assert_eq!(builds.spec_of(InstanceId(1)), None);
}
