//! Breadth first over every schedule and every fault that the budget allows: the first violation has a shortest trace.

use crate::apply::{Broken, Seen, apply, broken};
use crate::check::{self, Checked, Reached};
use crate::life::first;
use crate::moves::{Act, Cut, Move, Moves, Who, moves};
use crate::rules::Rules;
use crate::tenure::somebody_serves;
use crate::world::World;
use handoff::machine::Effect;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The keys are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }
}

pub(crate) type Set = HashSet<u128, BuildHasherDefault<Identity>>;

/// What a run found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) terminal: usize,
    pub(crate) reached: Reached,
    pub(crate) violation: Option<Violation>,
    /// The limit was hit before everything was seen.
    pub(crate) cut_short: bool,
}

#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) how: String,
    pub(crate) trace: Vec<String>,
}

/// The state from which everything is explored: a server under epoch 1, a supervisor that has nothing to do.
pub(crate) fn start(rules: &Rules) -> World {
    let mut w = first(rules);
    w.faults = 0;
    w.upgrades = 0;
    let w = check::settle(w, rules).expect("a cold start without faults");
    World { faults: rules.faults, upgrades: rules.upgrades, ..w }
}

pub(crate) fn explore(rules: &Rules) -> Found {
    let initial = start(rules);
    let mut visited = Set::default();
    visited.insert(initial.fingerprint());
    let mut nodes: Vec<(u32, Move)> = vec![(0, Move { who: Who::World, act: Act::Answer, cut: Cut::None })];
    let mut queue = VecDeque::from([(0u32, initial.clone())]);
    let mut checked = Checked::default();
    let mut found =
        Found { states: 1, terminal: 0, reached: Reached::default(), violation: None, cut_short: false };
    let mut seen = Seen::default();
    while let Some((node, w)) = queue.pop_front() {
        let list = moves(&w, rules);
        if let Err(b) = judge(&w, &list, rules, &mut checked, &mut found) {
            found.violation = Some(violation(&nodes, node, None, &initial, rules, b));
            return found;
        }
        let Moves { eager, timers, lazy, faults } = list;
        let free = eager.into_iter().chain(timers).chain(lazy).map(|mv| (mv, 0));
        for (mv, cost) in free.chain(faults.into_iter().map(|mv| (mv, 1))) {
            let mut variants = vec![(mv, cost)];
            while let Some((mv, cost)) = variants.pop() {
                let next = apply(&w, mv, rules, &mut seen);
                let mut next = match next {
                    Ok(next) => next,
                    Err(b) => {
                        found.violation = Some(violation(&nodes, node, Some(mv), &initial, rules, b));
                        return found;
                    }
                };
                next.faults -= cost;
                check::reach(&w, &next, mv, &seen, &mut found.reached);
                if mv.cut == Cut::None && next.faults > 0 {
                    variants.extend(cuts(mv, &seen.effects, rules).map(|mv| (mv, cost)));
                }
                if visited.insert(next.fingerprint()) {
                    found.states += 1;
                    let n = u32::try_from(nodes.len()).expect("fewer than 2^32 states");
                    nodes.push((node, mv));
                    queue.push_back((n, next));
                }
            }
        }
        if found.states > rules.limit {
            found.cut_short = true;
            return found;
        }
    }
    found
}

fn judge(
    w: &World,
    list: &Moves,
    rules: &Rules,
    checked: &mut Checked,
    found: &mut Found,
) -> Result<(), Broken> {
    check::machines(w, checked)?;
    somebody_serves(w, rules)?;
    if list.eager.is_empty() && list.timers.is_empty() {
        let restarts = list.lazy.iter().any(|mv| mv.act == Act::Restart);
        if !restarts {
            found.terminal += 1;
            check::ends(w, &mut found.reached);
            if !rules.safety_only {
                check::terminal(w)?;
                check::next_upgrade(w, rules, checked)?;
            }
        }
    }
    if found.states > u32::MAX as usize {
        return broken("model", "too many states");
    }
    Ok(())
}

/// Where a fault can strike inside a step.
fn cuts<'a>(mv: Move, effects: &'a [Effect], rules: &'a Rules) -> impl Iterator<Item = Move> + 'a {
    let n = effects.len();
    let seen_outside = |e: &Effect| {
        !matches!(e, Effect::Arm(..) | Effect::Disarm(_) | Effect::Cancel(_) | Effect::ReadClaim(_))
    };
    let inside = (1..n)
        .filter(move |k| seen_outside(&effects[k - 1]) && effects[*k..].iter().any(seen_outside))
        .flat_map(move |k| {
            [Some(Cut::Kill(k)), rules.kinds.stops.then_some(Cut::Stop(k))].into_iter().flatten()
        });
    let failing = (0..n).flat_map(move |k| match &effects[k] {
        _ if !rules.kinds.errors => Vec::new(),
        Effect::Propose | Effect::SyncClaim(_) | Effect::Spawn(..) => vec![Cut::Fail(k)],
        Effect::Persist(record) if record.is_essential() => vec![Cut::Fail(k)],
        Effect::Claim(_) => vec![Cut::Fail(k), Cut::FailDone(k)],
        _ => Vec::new(),
    });
    inside.chain(failing).map(move |cut| Move { cut, ..mv })
}

fn violation(
    nodes: &[(u32, Move)],
    node: u32,
    last: Option<Move>,
    initial: &World,
    rules: &Rules,
    b: Broken,
) -> Violation {
    let mut path: Vec<Move> = last.into_iter().collect();
    let mut at = node;
    while at != 0 {
        let (parent, mv) = nodes[at as usize];
        path.push(mv);
        at = parent;
    }
    path.reverse();
    let mut seen = Seen { telling: true, ..Seen::default() };
    let mut w = initial.clone();
    // costs were checked when the path was found
    w.faults = u8::MAX;
    for mv in path {
        match apply(&w, mv, rules, &mut seen) {
            Ok(next) => w = next,
            Err(_) => break,
        }
    }
    seen.lines.push(format!("at the end: {}", check::describe(&w)));
    Violation { rule: b.rule, how: b.how, trace: seen.lines }
}
