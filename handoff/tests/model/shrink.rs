//! A walk that broke a rule, without the moves that it takes not.

use crate::apply::Seen;
use crate::check::Checked;
use crate::walk::{Failure, Made, Plan, Tally, Walk};

/// How often less is tried.
const TRIES: usize = 3000;

/// These moves once more, as far as they are possible, and what is told of them.
pub(crate) fn replay(plan: &Plan, made: &[Made], telling: bool) -> (Result<(), Failure>, Vec<String>) {
    let (checked, tally) = (&mut Checked::default(), &mut Tally::default());
    let mut walk = Walk::new(plan, checked, tally);
    walk.seen = Seen { telling, ..Seen::default() };
    for step in made {
        if let Err(b) = walk.again(*step) {
            return (Err((b, walk.made)), walk.seen.lines);
        }
    }
    let made = walk.made.clone();
    let result = walk.ends(plan).map_err(|b| (b, made));
    (result, walk.seen.lines)
}

/// As few moves as are found that break the same rule.
pub(crate) fn shrink(plan: &Plan, made: Vec<Made>, rule: &str) -> Vec<Made> {
    let mut left = made;
    let mut size = left.len() / 2;
    let mut tries = TRIES;
    while size > 0 {
        let mut at = 0;
        let before = left.len();
        while at < left.len() {
            if tries == 0 {
                return left;
            }
            tries -= 1;
            let end = (at + size).min(left.len());
            let less = [&left[..at], &left[end..]].concat();
            match replay(plan, &less, false).0 {
                Err((b, made)) if b.rule == rule => left = made,
                Ok(()) | Err(_) => at += size,
            }
        }
        if size > 1 || left.len() == before {
            size /= 2;
        }
    }
    left
}
