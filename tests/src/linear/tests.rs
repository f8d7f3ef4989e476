//! The checker is somebody else's: here it is held against histories whose verdict is known, and against a search that
//! simply tries every order.

use super::*;
use proptest::prelude::*;
use std::time::Instant;

fn operation(client: usize, asked: u64, answered: Option<u64>, deed: Deed, answer: Answer) -> Operation {
    let answer = answered.map(|at| (Duration::from_nanos(at), answer));
    Operation { client, key: "k".into(), deed, asked: Duration::from_nanos(asked), answer }
}

fn read(asked: u64, answered: u64, value: &str) -> Operation {
    let value = (!value.is_empty()).then(|| value.to_owned());
    operation(0, asked, Some(answered), Deed::Read, Answer::Value(value))
}

fn append(asked: u64, answered: impl Into<Option<u64>>, text: &str, length: usize) -> Operation {
    operation(1, asked, answered.into(), Deed::Append(text.into()), Answer::Length(length))
}

fn set(asked: u64, answered: impl Into<Option<u64>>, old: &str, new: &str, is_set: bool) -> Operation {
    let deed = Deed::CompareAndSet { old: old.into(), new: new.into() };
    operation(2, asked, answered.into(), deed, Answer::Set(is_set))
}

fn holds(operations: &[Operation]) -> bool {
    contradictions(operations).is_empty()
}

#[test]
fn what_a_string_could_have_answered_is_linearizable() {
    assert!(holds(&[]));
    assert!(holds(&[append(0, 1, "a", 1), read(2, 3, "a"), set(4, 5, "a", "b", true), read(6, 7, "b")]));
    // at once: in either order
    assert!(holds(&[append(0, 9, "a", 2), append(1, 8, "b", 1), read(10, 11, "ba")]));
    assert!(holds(&[append(0, 9, "a", 1), read(1, 2, ""), read(3, 4, "a")]));
    // the request of one and the answer of the other at the same instant
    assert!(holds(&[append(0, 5, "a", 1), read(5, 6, "")]));
    // of two who compare with the same one sets
    assert!(holds(&[
        append(0, 1, "a", 1),
        set(2, 9, "a", "b", true),
        set(3, 8, "a", "c", false),
        read(10, 11, "b")
    ]));
    // absent is no value
    assert!(holds(&[set(0, 1, "", "b", false), read(2, 3, "")]));
}

#[test]
fn what_no_string_could_have_answered_is_not() {
    for (what, planted) in [
        ("a write is lost", vec![append(0, 1, "a", 1), read(2, 3, "")]),
        ("applied twice", vec![append(0, 1, "a", 1), read(2, 3, "aa")]),
        ("applied twice, by its length", vec![append(0, 1, "a", 1), append(2, 3, "b", 3)]),
        ("a stale read", vec![append(0, 1, "a", 1), append(2, 3, "b", 2), read(4, 5, "a")]),
        ("there, and away again", vec![append(0, 9, "a", 1), read(1, 2, "a"), read(3, 4, "")]),
        ("from nowhere", vec![read(0, 1, "x")]),
        ("two winners", vec![append(0, 1, "a", 1), set(2, 9, "a", "b", true), set(3, 8, "a", "c", true)]),
        ("no winner", vec![append(0, 1, "a", 1), set(2, 9, "a", "b", false), read(10, 11, "a")]),
        ("set, and not there", vec![append(0, 1, "a", 1), set(2, 3, "a", "b", true), read(4, 5, "a")]),
    ] {
        assert!(!holds(&planted), "{what}: {planted:?}");
    }
}

#[test]
fn an_operation_without_an_answer_may_be_done_later_or_never_and_once() {
    let open = append(2, None, "b", 0);
    let before = append(0, 1, "a", 1);
    assert!(holds(&[before.clone(), open.clone(), read(3, 4, "a"), read(90, 91, "a")]));
    assert!(holds(&[before.clone(), open.clone(), read(3, 4, "a"), read(90, 91, "ab")]));
    assert!(holds(&[before.clone(), open.clone(), append(3, 4, "c", 2), read(5, 6, "acb")]));
    // not before it was asked for, not twice, and not undone
    assert!(!holds(&[before.clone(), read(1, 1, "ab"), open.clone()]));
    assert!(!holds(&[before.clone(), open.clone(), read(3, 4, "abb")]));
    assert!(!holds(&[before.clone(), open, read(3, 4, "ab"), read(5, 6, "a")]));
    assert!(holds(&[before.clone(), set(2, None, "a", "b", false), read(3, 4, "a"), read(5, 6, "b")]));
    assert!(!holds(&[before, set(2, None, "x", "b", false), read(3, 4, "b")]));
}

#[test]
fn the_first_answer_that_no_order_explains_is_named() {
    let mut operations: Vec<Operation> =
        (0..40).map(|n| append(10 * n, 10 * n + 1, "x", 1 + usize::try_from(n).unwrap_or(0))).collect();
    operations.push(read(401, 402, "stale"));
    operations.push(read(403, 404, "more of it"));
    operations.push(append(400, None, "open", 0));
    let told = contradictions(&operations);
    assert_eq!(told.len(), 1);
    let culprit = r#"after 40 answers no order explains this one: -0.000 to +0.000 ms, client 0: Read: Value(Some("stale"))"#;
    assert!(told[0].contains(culprit) && !told[0].contains("more of it"), "{}", told[0]);
    assert!(told[0].contains("never answered"), "{}", told[0]);
}

#[test]
fn keys_are_independent_of_each_other() {
    let elsewhere = |operation: Operation| Operation { key: "other".into(), ..operation };
    assert!(holds(&[append(0, 1, "a", 1), elsewhere(read(2, 3, ""))]));
    let told = contradictions(&[append(0, 1, "a", 1), elsewhere(read(2, 3, "a"))]);
    assert!(told.len() == 1 && told[0].starts_with("other: "), "{told:?}");
}

/// Every order, and every choice of what was done of what was not answered.
fn any_order_explains(left: &[Operation], value: Option<&str>) -> bool {
    let answered = |o: &Operation| o.answer.as_ref().map_or(Duration::MAX, |(at, _)| *at);
    if left.iter().all(|o| o.answer.is_none()) {
        return true;
    }
    let first = left.iter().map(answered).min().unwrap_or(Duration::MAX);
    (0..left.len()).filter(|n| left[*n].asked <= first).any(|n| {
        let (answer, after) = match &left[n].deed {
            Deed::Read => (Answer::Value(value.map(str::to_owned)), value.map(str::to_owned)),
            Deed::Append(text) => {
                let longer = format!("{}{text}", value.unwrap_or(""));
                (Answer::Length(longer.len()), Some(longer))
            }
            Deed::CompareAndSet { old, new } if value == Some(old) => (Answer::Set(true), Some(new.clone())),
            Deed::CompareAndSet { .. } => (Answer::Set(false), value.map(str::to_owned)),
        };
        let told = left[n].answer.as_ref().is_none_or(|(_, told)| *told == answer);
        let rest = [&left[..n], &left[n + 1..]].concat();
        told && any_order_explains(&rest, after.as_deref())
    })
}

/// Few values and few instants, so that most answers are possible in some order and many in none.
fn any_operation() -> impl Strategy<Value = Operation> {
    let text = || prop::sample::select(vec!["a", "b", "ab"]);
    let deed = prop_oneof![
        prop::option::of(text()).prop_map(|v| (Deed::Read, Answer::Value(v.map(str::to_owned)))),
        (prop::sample::select(vec!["a", "b"]), 1..4_usize)
            .prop_map(|(t, n)| (Deed::Append(t.into()), Answer::Length(n))),
        (text(), text(), any::<bool>()).prop_map(|(old, new, is_set)| {
            (Deed::CompareAndSet { old: old.into(), new: new.into() }, Answer::Set(is_set))
        }),
    ];
    (deed, 0..12_u64, prop::option::weighted(0.8, 1..8_u64)).prop_map(|((deed, answer), asked, took)| {
        operation(0, asked, took.map(|took| asked + took), deed, answer)
    })
}

/// What a string answers to clients whose requests overlap, some of them without an answer: linearizable by making.
fn served(seed: u64, count: usize, clients: usize) -> Vec<Operation> {
    let mut state = seed;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut value: Option<String> = None;
    // each operation takes effect at 100 * n; requests and answers lie around that, as far as its client is free
    let mut free = vec![0; clients];
    let mut operations = Vec::new();
    for n in 0..count as u64 {
        let at = 100 * (n + 1);
        let client = usize::try_from(below(clients as u64)).unwrap_or(0);
        if free[client] >= at {
            continue;
        }
        let asked = free[client].max(at.saturating_sub(below(600)));
        let text = format!("{n};");
        let is_unknown = below(50) == 0;
        let is_done = !is_unknown || below(2) == 0;
        let (deed, answer) = match below(3) {
            0 => (Deed::Read, Answer::Value(value.clone())),
            1 => {
                let longer = value.clone().unwrap_or_default() + &text;
                let length = longer.len();
                if is_done {
                    value = Some(longer);
                }
                (Deed::Append(text), Answer::Length(length))
            }
            _ => {
                let old = value.clone().filter(|_| below(3) > 0).unwrap_or_else(|| "other".into());
                let is_set = value.as_ref() == Some(&old);
                if is_set && is_done {
                    value = Some(text.clone());
                }
                (Deed::CompareAndSet { old, new: text }, Answer::Set(is_set))
            }
        };
        let answered = at + below(600);
        free[client] = answered + 1;
        operations.push(operation(client, asked, (!is_unknown).then_some(answered), deed, answer));
    }
    operations
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn the_checker_agrees_with_a_search_of_every_order(operations in prop::collection::vec(any_operation(), 0..7)) {
        prop_assert_eq!(holds(&operations), any_order_explains(&operations, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn what_a_string_answered_to_eight_clients_is_linearizable(seed in any::<u64>()) {
        prop_assert!(holds(&served(seed, 90, 8)));
    }

    #[test]
    fn one_answer_that_came_from_elsewhere_is_seen(seed in any::<u64>(), which in any::<prop::sample::Index>()) {
        let mut operations = served(seed, 60, 8);
        let lengths: Vec<usize> = (0..operations.len())
            .filter(|n| matches!(operations[*n].answer, Some((_, Answer::Length(_)))))
            .collect();
        prop_assume!(!lengths.is_empty());
        if let Some((_, Answer::Length(length))) = &mut operations[lengths[which.index(lengths.len())]].answer {
            // longer than everything together
            *length += 10_000;
        }
        prop_assert!(!holds(&operations));
    }
}

/// How long it takes is printed, and not judged: `cargo test -p handoff-tests --lib linear -- --nocapture`.
#[test]
fn a_long_history_is_judged_too() {
    for count in [100, 400] {
        let operations = served(7, count, 8);
        let began = Instant::now();
        assert!(holds(&operations));
        println!("{} operations: {:?}", operations.len(), began.elapsed());
    }
}
