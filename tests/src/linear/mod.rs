//! Histories of keys that many clients share, judged by somebody who knows nothing of us.
//!
//! A history is linearizable when there is one order of its operations, each at one instant between its request and its
//! answer, in which a plain string would have given these answers (Herlihy and Wing 1990). Whether there is one is
//! found out by `todc_utils::WGLChecker`: the search of Wing and Gong (1993) with the memory of Lowe (2017), as Horn
//! and Kroening (2015) describe it. Keys are independent of each other, so each has a history of its own (locality:
//! that is what keeps the search small). An operation without an answer may have been done at any time after its
//! request, or never: it stays open, which means that its answer comes after everything else.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

/// What one client asked for, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// Of which key.
    pub key: String,
    /// What for.
    pub deed: Deed,
    /// When, on the machine's monotonic clock: before the first byte was sent.
    pub asked: Duration,
    /// When the answer was there, and what it is. `None`: nobody knows whether it was done.
    pub answer: Option<(Duration, Answer)>,
}

/// What is done with the value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// GET
    Read,
    /// APPEND
    Append(String),
    /// SET key new IFEQ old
    CompareAndSet {
        /// What has to be there.
        old: String,
        /// What is there then.
        new: String,
    },
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value, if there is one.
    Value(Option<String>),
    /// How long the value is now.
    Length(usize),
    /// Whether it was set.
    Set(bool),
}

impl Operation {
    /// In milliseconds from `zero`.
    fn told(&self, zero: Duration) -> String {
        let ms = |time: Duration| (time.as_secs_f64() - zero.as_secs_f64()) * 1e3;
        let (client, asked) = (self.client, ms(self.asked));
        match &self.answer {
            Some((at, answer)) => {
                format!("{asked:+.3} to {:+.3} ms, client {client}: {:?}: {answer:?}", ms(*at), self.deed)
            }
            None => format!("{asked:+.3} ms, client {client}: {:?}: never answered", self.deed),
        }
    }
}

/// A key: no value at first.
struct Key;

impl Specification for Key {
    type State = Option<Rc<str>>;
    type Operation = Rc<Operation>;

    fn init() -> Self::State {
        None
    }

    fn apply(operation: &Self::Operation, state: &Self::State) -> (bool, Self::State) {
        let told = operation.answer.as_ref().map(|(_, answer)| answer);
        let fits = |answer: Answer| told.is_none_or(|told| *told == answer);
        match &operation.deed {
            Deed::Read => (fits(Answer::Value(state.as_deref().map(str::to_owned))), state.clone()),
            Deed::Append(text) => {
                let value = state.as_deref().unwrap_or_default().to_owned() + text;
                (fits(Answer::Length(value.len())), Some(value.into()))
            }
            Deed::CompareAndSet { old, new } => {
                let is_set = state.as_deref() == Some(old.as_str());
                let value = if is_set { Some(new.as_str().into()) } else { state.clone() };
                (fits(Answer::Set(is_set)), value)
            }
        }
    }
}

/// The keys whose history is not linearizable: each with the answer up to which it was, and what led there.
#[must_use]
pub fn contradictions(operations: &[Operation]) -> Vec<String> {
    let mut keys: BTreeMap<&str, Vec<Rc<Operation>>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(Rc::new(operation.clone()));
    }
    let wrong = keys.into_iter().filter(|(_, operations)| !is_linearizable(operations));
    wrong.map(|(key, operations)| explained(key, operations)).collect()
}

/// Of one key.
fn is_linearizable(operations: &[Rc<Operation>]) -> bool {
    // requests before answers at the same instant: they may have met
    let mut events: Vec<(Duration, bool, usize)> = Vec::with_capacity(2 * operations.len());
    for (n, operation) in operations.iter().enumerate() {
        match &operation.answer {
            Some((at, _)) => events.extend([(operation.asked, false, n), (*at, true, n)]),
            // changes nothing, whenever it happens
            None if operation.deed == Deed::Read => {}
            None => events.extend([(operation.asked, false, n), (Duration::MAX, true, n)]),
        }
    }
    if events.is_empty() {
        return true;
    }
    events.sort_unstable();
    // each operation is a process of its own to the checker: a client whose connection died goes on
    let actions = events.into_iter().map(|(_, is_answer, n)| {
        let operation = Rc::clone(&operations[n]);
        (n, if is_answer { Action::Response(operation) } else { Action::Call(operation) })
    });
    WGLChecker::<Key>::is_linearizable(History::from_actions(actions.collect()))
}

/// How many answers before the impossible one are told.
const TOLD: usize = 5;

fn explained(key: &str, mut operations: Vec<Rc<Operation>>) -> String {
    let answered = |operation: &Operation| operation.answer.as_ref().map_or(Duration::MAX, |(at, _)| *at);
    operations.sort_by_key(|operation| answered(operation));
    // the beginning of a linearizable history is linearizable: the first that is not ends with the culprit
    let (mut good, mut bad) = (0, operations.len());
    while good + 1 < bad {
        let middle = good.midpoint(bad);
        if is_linearizable(&until(&operations, answered(&operations[middle - 1]))) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    let end = answered(&operations[bad - 1]);
    let known = until(&operations, end);
    let (answered, open): (Vec<_>, Vec<_>) = known.iter().partition(|operation| operation.answer.is_some());
    let told: Vec<String> = answered.iter().map(|operation| operation.told(end)).collect();
    let open: Vec<String> = open.iter().map(|operation| operation.told(end)).collect();
    let (culprit, before) =
        told.split_last().map_or((String::new(), &told[..]), |(last, b)| (last.clone(), b));
    format!(
        "{key}: after {} answers no order explains this one: {culprit}\n  under way: {open:?}\n  {}",
        before.len(),
        before[before.len().saturating_sub(TOLD)..].join("\n  "),
    )
}

/// What was known at this instant.
fn until(operations: &[Rc<Operation>], end: Duration) -> Vec<Rc<Operation>> {
    let known = operations.iter().filter(|operation| operation.asked <= end);
    known
        .map(|operation| match &operation.answer {
            Some((at, _)) if *at > end => Rc::new(Operation { answer: None, ..Operation::clone(operation) }),
            _ => Rc::clone(operation),
        })
        .collect()
}
