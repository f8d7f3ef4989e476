//! One seed: what is played with, one schedule of many, and how it ends when nothing fails any more.
//!
//! The world, its moves and what is judged are those of the explorer. It walks deeper, and one way only.

use crate::apply::{Broken, Seen, apply, broken};
use crate::check::{self, Checked, Reached};
use crate::dice::Dice;
use crate::explore::{cuts, start};
use crate::moves::{Act, Cut, Move, Moves, Who, moves};
use crate::rules::{Formats, Kinds, Mutant, Rules};
use crate::tenure::{nobody_reads_old_data, somebody_serves};
use crate::world::{Mode, World};
use handoff::ids::InstanceId;
use handoff::machine::Outcome;
use handoff::wire::{Standing, Strategy};
use std::collections::BTreeMap;

/// What a seed plays with. A rate of n is once in n steps, 0 is never.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rules: Rules,
    /// How often a fault strikes.
    strikes: usize,
    /// The next one strikes soon after it.
    bursts: bool,
    /// None strikes but where it is being decided who serves.
    aims: bool,
    /// How often somebody who is stopped goes on.
    wakes: usize,
    /// How often a dead supervisor is started again.
    restarts: usize,
    /// Some are faster than others, and it changes who.
    uneven: bool,
    /// For how it ends.
    end: u64,
}

impl Plan {
    pub(crate) fn of(seed: u64, mutant: Option<Mutant>) -> Self {
        let dice = &mut Dice::new(seed);
        // an order that comes too early, alone: only then is everybody who lives healthy and in time
        let early = dice.one_in(8);
        let kinds = match dice.below(4) {
            _ if early => Kinds { hurry: true, ..Kinds::KILLS },
            0 => Kinds::ALL,
            1 => Kinds { power: dice.one_in(4), ..Kinds::KILLS },
            _ => Kinds {
                power: dice.one_in(4),
                errors: dice.one_in(2),
                drops: dice.one_in(2),
                stops: dice.one_in(2),
                votes: dice.one_in(2),
                hurry: dice.one_in(2),
            },
        };
        let probation = !early && dice.one_in(3);
        let rules = Rules {
            strategy: dice.of(&[Strategy::Exclusive, Strategy::Overlap]),
            upgrades: 1 + u8::try_from(dice.below(10)).expect("small"),
            probation,
            canary: dice.one_in(3),
            formats: if dice.one_in(5) { Formats::Newer } else { Formats::Both },
            stubborn: probation && dice.one_in(8),
            reduced: false,
            mutant,
            ..Rules::new(true, u8::try_from(dice.below(7)).expect("small"), kinds)
        };
        // as many again with every upgrade, which is ordered when nothing is left of the one before
        let each = !early && dice.one_in(3);
        let faults = match (early, each) {
            (true, _) => 1,
            (false, true) => 2 + rules.faults % 2,
            (false, false) => rules.faults,
        };
        Self {
            rules: Rules { each, faults, ..rules },
            bursts: dice.one_in(2),
            aims: dice.one_in(2),
            strikes: dice.of(&[4, 10, 30, 100]),
            wakes: dice.of(&[5, 50, 0]),
            restarts: dice.of(&[2, 20, 0]),
            uneven: dice.one_in(2),
            end: u64::try_from(dice.below(usize::MAX)).expect("64 bits"),
        }
    }
}

/// One move that was made, and how many faults it cost beside those that are inside of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) mv: Move,
    pub(crate) cost: u8,
}

/// What was seen over many seeds.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) steps: u64,
    pub(crate) quiet: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) ended: BTreeMap<String, u64>,
    pub(crate) processes: usize,
    pub(crate) leaving: usize,
    pub(crate) reached: Reached,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.steps += other.steps;
        self.quiet += other.quiet;
        for (name, n) in &other.faults {
            *self.faults.entry(name).or_default() += n;
        }
        for (name, n) in &other.ended {
            *self.ended.entry(name.clone()).or_default() += n;
        }
        self.processes = self.processes.max(other.processes);
        self.leaving = self.leaving.max(other.leaving);
        self.reached.add(&other.reached);
    }
}

/// In a burst, or where it aims, a fault strikes once in so many steps.
const BURST: usize = 6;

/// More steps than any walk that ends.
const STEPS: usize = 20_000;

/// A walk under way.
pub(crate) struct Walk<'a> {
    w: World,
    rules: Rules,
    pub(crate) seen: Seen,
    pub(crate) made: Vec<Made>,
    checked: &'a mut Checked,
    tally: &'a mut Tally,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(plan: &Plan, checked: &'a mut Checked, tally: &'a mut Tally) -> Self {
        let rules = plan.rules.clone();
        Self { w: start(&rules), rules, seen: Seen::default(), made: Vec::new(), checked, tally }
    }

    /// Makes the move and judges what comes of it.
    fn make(&mut self, made: Made) -> Result<(), Broken> {
        let Made { mv, cost } = made;
        self.made.push(made);
        let mut next = apply(&self.w, mv, &self.rules, &mut self.seen)?;
        next.faults -= cost;
        check::reach(&self.w, &next, mv, &self.seen, &mut self.tally.reached);
        if cost > 0 || mv.cut != Cut::None {
            *self.tally.faults.entry(kind(mv)).or_default() += 1;
        }
        for ended in &self.seen.ended {
            *self.tally.ended.entry(word(ended.outcome).to_owned()).or_default() += 1;
        }
        self.w = next;
        self.tally.steps += 1;
        self.tally.processes = self.tally.processes.max(self.w.procs.len());
        let leaving = self.w.running().map_or(0, |r| r.retiring.len());
        self.tally.leaving = self.tally.leaving.max(leaving);
        check::machines(&self.w, self.checked, &self.rules)?;
        somebody_serves(&self.w, &self.rules)?;
        nobody_reads_old_data(&self.w, &self.rules)?;
        check::nobody_healthy_is_ended(&self.w, &self.rules)?;
        if self.w.procs.len() > 60 {
            return broken("model", "more processes than bits");
        }
        Ok(())
    }

    /// The same move again, if it is one here.
    pub(crate) fn again(&mut self, made: Made) -> Result<(), Broken> {
        let Made { mv, cost } = made;
        let whole = Move { cut: Cut::None, ..mv };
        let list = moves(&self.w, &self.rules);
        let free = list.eager.iter().chain(&list.timers).chain(&list.lazy);
        let priced = if cost == 0 { free.copied().any(|m| m == whole) } else { list.faults.contains(&whole) };
        let affordable = self.w.faults >= cost + u8::from(mv.cut != Cut::None);
        if !priced || !affordable {
            return Ok(());
        }
        if mv.cut != Cut::None && !self.cuts_of(whole)?.contains(&mv) {
            return Ok(());
        }
        self.make(made)
    }

    /// Where a fault can strike inside of this move.
    fn cuts_of(&self, mv: Move) -> Result<Vec<Move>, Broken> {
        let mut seen = Seen::default();
        apply(&self.w, mv, &self.rules, &mut seen)?;
        Ok(cuts(mv, &seen.effects, &self.rules).collect())
    }

    /// Upgrades and faults, in an order that the seed decides.
    pub(crate) fn through(&mut self, plan: &Plan, dice: &mut Dice) -> Result<(), Broken> {
        let mut pace = Pace { even: !plan.uneven, of: Vec::new() };
        let mut soon = 0;
        for _ in 0..STEPS {
            let list = moves(&self.w, &self.rules);
            if list.eager.is_empty() && list.timers.is_empty() {
                if !self.quiet(list, dice)? {
                    return Ok(());
                }
                continue;
            }
            let rate = match soon > 0 || (plan.aims && is_open(&self.w)) {
                true => plan.strikes.min(BURST),
                false if plan.aims => 0,
                false => plan.strikes,
            };
            let strikes = self.w.faults > 0 && dice.one_in(rate);
            soon = if strikes && plan.bursts { 2 * BURST } else { soon.saturating_sub(1) };
            if strikes && dice.one_in(2) && !list.faults.is_empty() {
                let mv = fault(&list.faults, dice);
                self.make(Made { mv, cost: 1 })?;
                continue;
            }
            let mv = pace.choose(&list, plan, dice);
            let inside = if strikes { self.cuts_of(mv)? } else { Vec::new() };
            let mv = if inside.is_empty() { mv } else { dice.of(&inside) };
            self.make(Made { mv, cost: 0 })?;
        }
        broken("L1", format!("{STEPS} steps and no end: {}", check::describe(&self.w)))
    }

    /// Nothing happens any more by itself: that has to be good as it is. Then somebody goes on, or a fault strikes, or it
    /// is over (`false`).
    fn quiet(&mut self, list: Moves, dice: &mut Dice) -> Result<bool, Broken> {
        self.tally.quiet += 1;
        check::ends(&self.w, &mut self.tally.reached);
        check::terminal(&self.w)?;
        let Moves { lazy, faults, .. } = list;
        let lazy: Vec<_> = lazy.into_iter().filter(|mv| mv.act != Act::Write).collect();
        if !faults.is_empty() && dice.one_in(2) {
            let mv = fault(&faults, dice);
            self.make(Made { mv, cost: 1 })?;
        } else if !lazy.is_empty() && !dice.one_in(8) {
            let mv = dice.of(&lazy);
            self.make(Made { mv, cost: 0 })?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// What is judged when these were all moves.
    pub(crate) fn ends(&mut self, plan: &Plan) -> Result<(), Broken> {
        let list = moves(&self.w, &self.rules);
        if list.eager.is_empty() && list.timers.is_empty() {
            check::terminal(&self.w)?;
        }
        self.heal(plan)
    }

    /// Nothing fails any more, whoever is stopped goes on or is killed, the supervisor is started again: one server
    /// serves, and the next upgrade commits.
    pub(crate) fn heal(&mut self, plan: &Plan) -> Result<(), Broken> {
        let dice = &mut Dice::new(plan.end);
        self.rules = Rules { each: false, stubborn: false, ..self.rules.clone() };
        (self.w.faults, self.w.upgrades) = (0, 0);
        let stopped = |p: &crate::world::Proc| p.live.as_ref().is_some_and(|l| l.stopped && !l.doomed);
        let mut who: Vec<_> =
            (0..self.w.procs.len()).filter(|n| stopped(&self.w.procs[*n])).map(Who::P).collect();
        who.extend(self.w.sup.stopped.then_some(Who::S));
        for who in who {
            let act = dice.of(&[Act::Cont, Act::Kill]);
            self.make(Made { mv: Move { who, act, cut: Cut::None }, cost: 0 })?;
        }
        self.settle(plan, dice)?;
        check::terminal(&self.w)?;
        if matches!(self.w.sup.mode, Mode::Dead) {
            return broken("L1", "the supervisor was not started again");
        }
        let successor = InstanceId(100 + u128::from(self.w.rounds));
        self.w.upgrades = 1;
        self.settle(plan, dice)?;
        let serves = self.w.running().and_then(|r| r.machine.serving()).map(|(id, _)| id);
        if serves != Some(successor) {
            return broken("L4", format!("the next upgrade did not commit: {}", check::describe(&self.w)));
        }
        check::terminal(&self.w)
    }

    fn settle(&mut self, plan: &Plan, dice: &mut Dice) -> Result<(), Broken> {
        let mut pace = Pace { even: !plan.uneven, of: Vec::new() };
        for _ in 0..STEPS {
            let list = moves(&self.w, &self.rules);
            let restart = list.lazy.iter().find(|mv| mv.act == Act::Restart).copied();
            let mv = match restart {
                Some(mv) if list.eager.is_empty() && list.timers.is_empty() => mv,
                _ if list.eager.is_empty() && list.timers.is_empty() => return Ok(()),
                _ => pace.choose(&list, plan, dice),
            };
            self.make(Made { mv, cost: 0 })?;
        }
        broken("L1", format!("{STEPS} steps without faults and no end: {}", check::describe(&self.w)))
    }
}

/// Who is fast and who is slow.
struct Pace {
    even: bool,
    of: Vec<usize>,
}

impl Pace {
    /// A move that costs nothing.
    fn choose(&mut self, list: &Moves, plan: &Plan, dice: &mut Dice) -> Move {
        for mv in &list.lazy {
            let rate = match mv.act {
                Act::Restart => plan.restarts,
                Act::Cont => plan.wakes,
                _ => 20,
            };
            if dice.one_in(rate) {
                return *mv;
            }
        }
        let some = if list.eager.is_empty() { &list.timers } else { &list.eager };
        if self.even {
            return dice.of(some);
        }
        if self.of.is_empty() || dice.one_in(40) {
            self.of = (0..8).map(|_| dice.of(&[1, 8, 64])).collect();
        }
        let of = |mv: &Move| match mv.who {
            Who::S => self.of[0],
            Who::P(n) => self.of[1 + n % (self.of.len() - 1)],
            Who::World => 1,
        };
        let mut left = dice.below(some.iter().map(of).sum());
        for mv in some {
            match left.checked_sub(of(mv)) {
                None => return *mv,
                Some(rest) => left = rest,
            }
        }
        unreachable!("it is below the sum")
    }
}

/// From one server to the next, or one that has to prove itself.
fn is_open(w: &World) -> bool {
    let on_the_way = |standing| {
        matches!(standing, Standing::Sealed | Standing::Opening | Standing::Claimed | Standing::Starting)
    };
    let on_probation = w.running().is_some_and(|r| r.machine.state_name().starts_with("Probation"));
    on_probation || w.procs.iter().any(|p| p.live.as_ref().is_some_and(|l| on_the_way(l.machine.standing())))
}

/// A fault: first of which kind, for there are many timers and few servers.
fn fault(list: &[Move], dice: &mut Dice) -> Move {
    let mut kinds: Vec<_> = list.iter().map(|mv| kind(*mv)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let wanted = dice.of(&kinds);
    let some: Vec<_> = list.iter().copied().filter(|mv| kind(*mv) == wanted).collect();
    dice.of(&some)
}

fn kind(mv: Move) -> &'static str {
    match (mv.cut, mv.act) {
        (Cut::Kill(_), _) => "kill inside",
        (Cut::Stop(_), _) => "stop inside",
        (Cut::Fail(_) | Cut::FailDone(_), _) => "error inside",
        (Cut::None, Act::Kill) => "kill",
        (Cut::None, Act::Stop) => "stop",
        (Cut::None, Act::Drop) => "drop",
        (Cut::None, Act::Power { .. }) => "power",
        (Cut::None, Act::VotesItselfDown) => "vote",
        (Cut::None, Act::HookFails(_) | Act::Unhealthy | Act::Misread | Act::NoWayBack | Act::Hoarse) => {
            "error"
        }
        (Cut::None, _) => "hurry",
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Reclaimed => "reclaimed",
        Outcome::PreflightFailed => "preflight failed",
        Outcome::ColdStarted => "cold started",
        Outcome::RolledBack => "rolled back",
        Outcome::Unknown => "unknown",
    }
}

/// What it broke, and the moves that led there.
pub(crate) type Failure = (Broken, Vec<Made>);

/// A whole walk.
pub(crate) fn walk(
    seed: u64,
    mutant: Option<Mutant>,
    checked: &mut Checked,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let plan = Plan::of(seed, mutant);
    let mut walk = Walk::new(&plan, checked, tally);
    if let Err(b) = walk.through(&plan, &mut Dice::new(!seed)) {
        return Err((b, walk.made));
    }
    let made = walk.made.clone();
    walk.heal(&plan).map_err(|b| (b, made))
}
