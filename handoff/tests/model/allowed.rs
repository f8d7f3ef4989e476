//! Which outcomes a single fault may have, for every crash point of an upgrade: what the crash matrix allows.
//!
//! Every order in which an upgrade without faults can go; at each effect, before it and after it, a process is killed or
//! stopped for ever; then every order in which it can go on. A supervisor that stands still is ended and started again,
//! as a service manager does it, or it never is.

use crate::apply::{Seen, apply};
use crate::explore::start;
use crate::moves::{Act, Cut, Move, Who, moves};
use crate::reduce::normal;
use crate::rules::{Kinds, Rules};
use crate::world::{Mode, World};
use handoff::journal::Record;
use handoff::machine::{Effect, Outcome};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

/// What the journal says of the upgrade, and the letter of who serves.
type End = (&'static str, &'static str);

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Reclaimed => "reclaimed",
        Outcome::PreflightFailed => "preflight_failed",
        Outcome::ColdStarted => "cold_started",
        Outcome::RolledBack => "rolled_back",
        Outcome::Unknown => "unknown",
    }
}

fn serves(w: &World) -> &'static str {
    let server =
        w.procs.iter().enumerate().find(|(_, p)| p.live.as_ref().is_some_and(|l| l.tenure.is_some()));
    match server {
        None => "nobody",
        Some((0, _)) => "O",
        Some((_, p)) if p.id.0 == 101 || p.id.0 == 100 => "N",
        Some(_) => "X",
    }
}

/// Everything that can follow without another fault.
#[derive(Default)]
struct Graph {
    index: HashMap<(u128, &'static str), usize>,
    worlds: Vec<(World, &'static str)>,
    next: Vec<Vec<usize>>,
    ends: Vec<BTreeSet<End>>,
}

impl Graph {
    fn node(&mut self, mut w: World, said: &'static str, rules: &Rules) -> usize {
        normal(&mut w, rules);
        let key = (w.fingerprint(), said);
        if let Some(n) = self.index.get(&key) {
            return *n;
        }
        let n = self.worlds.len();
        self.index.insert(key, n);
        self.worlds.push((w, said));
        self.next.push(Vec::new());
        self.ends.push(BTreeSet::new());
        n
    }

    fn explore(&mut self, rules: &Rules) {
        let mut seen = Seen::default();
        let mut at = 0;
        while at < self.worlds.len() {
            let (w, said) = self.worlds[at].clone();
            let list = moves(&w, rules);
            let mut all: Vec<Move> = list.eager.into_iter().chain(list.timers).collect();
            all.extend(list.lazy.into_iter().filter(|mv| mv.act != Act::Cont));
            if w.sup.stopped && rules.restartable {
                all.push(Move { who: Who::S, act: Act::Kill, cut: Cut::None });
            }
            if all.iter().all(|mv| mv.act == Act::Write) {
                self.ends[at].insert((said, serves(&w)));
            }
            for mv in all {
                let next = apply(&w, mv, rules, &mut seen).expect("one fault breaks no rule");
                let said = told(&seen, said);
                let n = self.node(next, said, rules);
                self.next[at].push(n);
            }
            at += 1;
        }
    }

    /// What is reached from each, by all ways.
    fn spread(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            for at in (0..self.next.len()).rev() {
                let mut all = self.ends[at].clone();
                for n in &self.next[at] {
                    all.extend(self.ends[*n].iter().copied());
                }
                if all.len() > self.ends[at].len() {
                    self.ends[at] = all;
                    changed = true;
                }
            }
        }
    }
}

fn told(seen: &Seen, before: &'static str) -> &'static str {
    let ended = |e: &Effect| match e {
        Effect::Persist(Record::Ended { outcome, .. }) => Some(word(*outcome)),
        _ => None,
    };
    seen.effects.iter().filter_map(ended).next_back().unwrap_or(before)
}

/// By policy, point and fault: the ends.
fn allowed(restartable: bool) -> BTreeMap<(String, &'static str), BTreeSet<End>> {
    let rules = Rules::new(restartable, 0, Kinds::STOPS);
    let mut happy = Graph::default();
    happy.node(start(&rules), "none", &rules);
    happy.explore(&rules);
    let mut graph = Graph::default();
    let mut roots = Vec::new();
    let mut seen = Seen::default();
    for (w, said) in &happy.worlds {
        if w.rounds == 0 && w.upgrades == 0 || matches!(w.sup.mode, Mode::Dead) {
            continue;
        }
        let list = moves(w, &rules);
        for mv in list.eager.into_iter().chain(list.timers) {
            let letter = match mv.who {
                Who::S => "S",
                Who::P(n) => w.procs[n].live.as_ref().map_or("?", |l| l.machine.letter()),
                Who::World => continue,
            };
            apply(w, mv, &rules, &mut seen).expect("no fault breaks no rule");
            let effects = std::mem::take(&mut seen.effects);
            for (k, effect) in effects.iter().enumerate() {
                for (at, side) in [(k, "before"), (k + 1, "after")] {
                    for (cut, fault) in [(Cut::Kill(at), "kill9"), (Cut::Stop(at), "stop")] {
                        let struck = World { faults: 1, ..w.clone() };
                        let next = apply(&struck, Move { cut, ..mv }, &rules, &mut seen)
                            .expect("one fault breaks no rule");
                        seen.effects.truncate(at);
                        let said = told(&seen, said);
                        let n = graph.node(next, said, &rules);
                        roots.push((format!("{letter}.{}.{side}", effect.point()), fault, n));
                    }
                }
            }
        }
    }
    graph.explore(&rules);
    graph.spread();
    let mut all: BTreeMap<_, BTreeSet<End>> = BTreeMap::new();
    for (point, fault, n) in roots {
        all.entry((point, fault)).or_default().extend(graph.ends[n].iter().copied());
    }
    all
}

#[test]
fn the_outcomes_that_the_crash_matrix_allows_are_those_of_the_model() {
    let mut text = "# written by the model (handoff/tests/model/allowed.rs): outcome in the journal / who serves in the end\n".to_owned();
    for (restartable, policy) in [(true, "restarted"), (false, "never")] {
        for ((point, fault), ends) in allowed(restartable) {
            let ends: Vec<_> = ends.iter().map(|(said, serves)| format!("{said}/{serves}")).collect();
            text += &format!("{policy}\t{point}\t{fault}\t{}\n", ends.join(" "));
        }
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crash-matrix/src/allowed.tsv");
    if std::env::var_os("HANDOFF_MODEL_PIN").is_some() {
        std::fs::write(&path, &text).expect("the table");
    }
    let there = std::fs::read_to_string(&path).expect("the table");
    assert!(
        there == text,
        "crash-matrix/src/allowed.tsv is not what the model says; HANDOFF_MODEL_PIN=1 cargo test -p handoff \
         --no-default-features --test model writes it"
    );
}
