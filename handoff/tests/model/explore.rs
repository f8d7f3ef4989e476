//! Breadth first over every schedule and every fault that the budget allows: the first violation has a shortest trace.
//!
//! One level after the other, each by all cores; what is found does not depend on how many there are.

use crate::apply::{Broken, Seen, apply, broken};
use crate::check::{self, Checked, Reached};
use crate::life::first;
use crate::moves::{Act, Cut, Move, Moves, Who, moves};
use crate::part::{Identity, Pool};
use crate::reduce::normal;
use crate::rules::Rules;
use crate::tenure::{nobody_reads_old_data, somebody_serves};
use crate::world::World;
use handoff::machine::Effect;
use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    // a mutant may not even start
    let rules = &Rules { mutant: None, ..rules.clone() };
    let mut w = first(rules);
    w.faults = 0;
    w.upgrades = 0;
    let mut w = check::settle(w, rules).expect("a cold start without faults");
    if rules.reduced && !rules.overlaps() {
        // a server that was never written to seals like one that was, but for the number of the revision
        let write = Move { who: Who::P(0), act: Act::Write, cut: Cut::None };
        w = apply(&w, write, rules, &mut Seen::default()).expect("a write");
    }
    World { faults: rules.faults, upgrades: rules.upgrades, ..w }
}

/// How a state was found first: from which one, and by the how manyeth of its moves.
type Node = (u32, u32);

/// What one core keeps over the levels.
#[derive(Default)]
struct Worker {
    checked: Checked,
    seen: Seen,
}

/// What was found from some states of a level.
#[derive(Default)]
struct Batch {
    news: Vec<(u128, Node, World)>,
    terminal: usize,
    reached: Reached,
    broken: Option<(u32, Option<Move>, Broken)>,
}

/// States that one core takes at a time.
const CHUNK: usize = 128;

/// So many times as much is explored before what was found is put together.
const SLICE: usize = 64;

pub(crate) fn explore(rules: &Rules) -> Found {
    let mut initial = start(rules);
    if rules.reduced {
        normal(&mut initial, rules);
    }
    let mut visited = Set::default();
    visited.insert(initial.fingerprint());
    let mut nodes: Vec<Node> = vec![(0, 0)];
    let mut level = vec![vec![(0u32, initial.clone())]];
    let mut pool = Pool::default();
    let mut depth = 0;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut workers: Vec<Worker> = (0..cores).map(|_| Worker::default()).collect();
    let mut found =
        Found { states: 1, terminal: 0, reached: Reached::default(), violation: None, cut_short: false };
    while !level.is_empty() {
        let mut chunks = std::mem::take(&mut level).into_iter();
        let mut last = Vec::with_capacity(CHUNK);
        // so many at a time that what is found twice among them takes no room
        loop {
            let some: Vec<_> = chunks.by_ref().take(SLICE).collect();
            if some.is_empty() {
                break;
            }
            for batch in expand(some, rules, &visited, &mut workers) {
                found.terminal += batch.terminal;
                found.reached.add(&batch.reached);
                if let Some((node, mv, b)) = batch.broken {
                    found.violation = Some(violation(&nodes, node, mv, &initial, rules, b));
                    return found;
                }
                for (key, node, mut world) in batch.news {
                    if visited.insert(key) {
                        let n = u32::try_from(nodes.len()).expect("fewer than 2^32 states");
                        nodes.push(node);
                        pool.keep(&mut world);
                        last.push((n, world));
                        if last.len() == CHUNK {
                            level.push(std::mem::replace(&mut last, Vec::with_capacity(CHUNK)));
                        }
                    }
                }
            }
        }
        if !last.is_empty() {
            level.push(last);
        }
        pool.forget();
        found.states = nodes.len();
        depth += 1;
        if rules.faults > 2 && rules.mutant.is_none() {
            let waiting: usize = level.iter().map(Vec::len).sum();
            eprintln!("{depth} moves deep: {} states, {waiting} of them wait", found.states);
        }
        if found.states > rules.limit {
            found.cut_short = true;
            return found;
        }
    }
    found
}

/// Everything that these states of a level lead to, in the order of the level.
fn expand(
    chunks: Vec<Vec<(u32, World)>>,
    rules: &Rules,
    visited: &Set,
    workers: &mut [Worker],
) -> impl Iterator<Item = Batch> + use<> {
    let chunks: Vec<_> = chunks.into_iter().map(|chunk| Mutex::new((chunk, None))).collect();
    let next = AtomicUsize::new(0);
    let work = |worker: &mut Worker| {
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut chunk = chunk.lock().expect("nobody panicked");
            let states = std::mem::take(&mut chunk.0);
            chunk.1 = Some(expand_some(&states, rules, visited, worker));
        }
    };
    if chunks.len() == 1 {
        work(&mut workers[0]);
    } else {
        std::thread::scope(|scope| {
            for worker in workers {
                scope.spawn(|| work(worker));
            }
        });
    }
    chunks.into_iter().filter_map(|chunk| chunk.into_inner().expect("nobody panicked").1)
}

fn expand_some(states: &[(u32, World)], rules: &Rules, visited: &Set, worker: &mut Worker) -> Batch {
    let mut batch = Batch::default();
    let mut own = Set::default();
    for (node, w) in states {
        let list = moves(w, rules);
        if let Err(b) = judge(w, &list, rules, &mut worker.checked, &mut batch) {
            batch.broken = Some((*node, None, b));
            return batch;
        }
        let Worker { seen, .. } = worker;
        let result = each(w, list, rules, seen, |ordinal, mv, next, seen| {
            check::reach(w, &next, mv, seen, &mut batch.reached);
            let mut next = next;
            if rules.reduced {
                normal(&mut next, rules);
            }
            let key = next.fingerprint();
            if !visited.contains(&key) && own.insert(key) {
                batch.news.push((key, (*node, ordinal), next));
            }
        });
        if let Err(broken) = result {
            let (mv, b) = *broken;
            batch.broken = Some((*node, Some(mv), b));
            return batch;
        }
    }
    batch
}

/// Every move, and every place inside of it where a fault can strike, each with its number.
fn each(
    w: &World,
    list: Moves,
    rules: &Rules,
    seen: &mut Seen,
    mut told: impl FnMut(u32, Move, World, &Seen),
) -> Result<(), Box<(Move, Broken)>> {
    let Moves { eager, timers, lazy, faults } = list;
    let free = eager.into_iter().chain(timers).chain(lazy).map(|mv| (mv, 0));
    let mut ordinal = 0;
    for (mv, cost) in free.chain(faults.into_iter().map(|mv| (mv, 1))) {
        let mut variants = vec![(mv, cost)];
        while let Some((mv, cost)) = variants.pop() {
            let mut next = apply(w, mv, rules, seen).map_err(|b| Box::new((mv, b)))?;
            next.faults -= cost;
            if mv.cut == Cut::None && w.faults > cost {
                variants.extend(cuts(mv, &seen.effects, rules).map(|mv| (mv, cost)));
            }
            told(ordinal, mv, next, seen);
            ordinal += 1;
        }
    }
    Ok(())
}

fn judge(
    w: &World,
    list: &Moves,
    rules: &Rules,
    checked: &mut Checked,
    batch: &mut Batch,
) -> Result<(), Broken> {
    check::machines(w, checked, rules)?;
    somebody_serves(w, rules)?;
    nobody_reads_old_data(w, rules)?;
    check::nobody_healthy_is_ended(w, rules)?;
    if list.eager.is_empty() && list.timers.is_empty() {
        let restarts = list.lazy.iter().any(|mv| mv.act == Act::Restart);
        if !restarts {
            batch.terminal += 1;
            check::ends(w, &mut batch.reached);
            if !rules.safety_only {
                check::terminal(w)?;
                check::next_upgrade(w, rules, checked)?;
            }
        }
    }
    if w.procs.len() > 60 {
        return broken("model", "more processes than bits");
    }
    Ok(())
}

/// Where a fault can strike inside a step.
pub(crate) fn cuts<'a>(mv: Move, effects: &'a [Effect], rules: &'a Rules) -> impl Iterator<Item = Move> + 'a {
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
    nodes: &[Node],
    node: u32,
    last: Option<Move>,
    initial: &World,
    rules: &Rules,
    b: Broken,
) -> Violation {
    let mut path = Vec::new();
    let mut at = node;
    while at != 0 {
        let (parent, ordinal) = nodes[at as usize];
        path.push(ordinal);
        at = parent;
    }
    let mut told = Seen { telling: true, ..Seen::default() };
    let mut seen = Seen::default();
    let mut w = initial.clone();
    for wanted in path.into_iter().rev() {
        let mut found = None;
        let all = each(&w, moves(&w, rules), rules, &mut seen, |ordinal, mv, next, _| {
            if ordinal == wanted {
                found = Some((mv, next));
            }
        });
        let Some((mv, mut next)) = found else {
            told.lines.push(format!("the trace cannot be told any further: {all:?}"));
            break;
        };
        if rules.reduced {
            normal(&mut next, rules);
        }
        if apply(&World { faults: u8::MAX, ..w.clone() }, mv, rules, &mut told).is_err() {
            break;
        }
        w = next;
    }
    if let Some(mv) = last
        && let Ok(after) = apply(&World { faults: u8::MAX, ..w.clone() }, mv, rules, &mut told)
    {
        w = after;
    }
    told.lines.push(format!("at the end: {}", check::describe(&w)));
    Violation { rule: b.rule, how: b.how, trace: told.lines }
}
