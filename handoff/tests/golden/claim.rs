use crate::Golden;
use crate::samples::proposal;
use handoff::claim::Proposal;

#[test]
fn proposals() {
    let mut golden = Golden::of("claim");
    for (name, proposal) in [("proposal", proposal()), ("default", Proposal::default())] {
        let bytes = golden.check(name, &proposal.encode());
        assert_eq!(Proposal::decode(&bytes), Ok(proposal));
    }
    golden.finish();
}
