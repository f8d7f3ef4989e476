use crate::Golden;
use crate::samples::proposal;
use handoff::claim::{KeptSpec, Proposal};

#[test]
fn proposals() {
    let mut golden = Golden::of("claim");
    for (name, proposal) in [("proposal", proposal()), ("default", Proposal::default())] {
        let bytes = golden.check(name, &proposal.encode());
        assert_eq!(Proposal::decode(&bytes), Ok(proposal));
    }
    let spec = KeptSpec {
        digest: proposal().build_digest,
        executable: proposal().executable,
        args: vec![b"--data".to_vec(), b"/var/lib/kv\xff".to_vec(), Vec::new()],
        env: vec![(b"RUST_LOG".to_vec(), b"info".to_vec())],
    };
    let bytes = golden.check("spec", &spec.encode().expect("a short one"));
    assert_eq!(KeptSpec::decode(&bytes), Ok(spec));
    golden.finish();
}
