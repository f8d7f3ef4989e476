//! TERM, grace, KILL, gone: the escalation as a state machine without a clock.
//!
//! The caller performs the orders in the order given and reports what happened. Nothing here waits.

/// Where on the ladder a teardown stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ladder {
    /// Nothing was done yet.
    Ground { escalate: bool },
    /// Asked to end, and the grace runs.
    Grace { escalate: bool },
    /// Killed; only the emptying is awaited.
    Killing,
    /// Nothing lives any more.
    Gone { killed: bool },
    /// The grace is over, and the owner does not want a kill.
    Spared,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The teardown was asked for.
    Begin,
    /// Nothing lives any more.
    Empty,
    /// The grace ran out.
    GraceOver,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// Ask everything to end.
    Terminate,
    /// Start the clock of the grace, and watch for emptiness.
    ArmGrace,
    /// End everything now.
    Kill,
}

impl Ladder {
    pub(crate) fn new(escalate: bool) -> Self {
        Ladder::Ground { escalate }
    }

    /// One event, the next rung and the orders that lead there. An event that is late for its rung changes nothing.
    pub(crate) fn step(self, event: Event) -> (Ladder, &'static [Order]) {
        match self {
            Ladder::Ground { escalate } => match event {
                Event::Begin => (Ladder::Grace { escalate }, &[Order::Terminate, Order::ArmGrace]),
                Event::Empty => (Ladder::Gone { killed: false }, &[]),
                Event::GraceOver => (self, &[]),
            },
            Ladder::Grace { escalate } => match event {
                Event::Begin => (self, &[]),
                Event::Empty => (Ladder::Gone { killed: false }, &[]),
                Event::GraceOver if escalate => (Ladder::Killing, &[Order::Kill]),
                Event::GraceOver => (Ladder::Spared, &[]),
            },
            Ladder::Killing => match event {
                Event::Begin | Event::GraceOver => (self, &[]),
                Event::Empty => (Ladder::Gone { killed: true }, &[]),
            },
            Ladder::Gone { .. } | Ladder::Spared => match event {
                Event::Begin | Event::Empty | Event::GraceOver => (self, &[]),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn climb(escalate: bool, events: &[Event]) -> (Ladder, Vec<Order>) {
        let mut orders = Vec::new();
        let ladder = events.iter().fold(Ladder::new(escalate), |ladder, event| {
            let (next, ordered) = ladder.step(*event);
            orders.extend_from_slice(ordered);
            next
        });
        (ladder, orders)
    }

    #[test]
    fn a_kill_is_for_one_that_does_not_obey() {
        use Event::*;
        let asked = vec![Order::Terminate, Order::ArmGrace];
        let killed = vec![Order::Terminate, Order::ArmGrace, Order::Kill];
        assert_eq!(climb(true, &[Begin, Empty]), (Ladder::Gone { killed: false }, asked.clone()));
        assert_eq!(climb(true, &[Begin, GraceOver, Empty]), (Ladder::Gone { killed: true }, killed));
        assert_eq!(climb(false, &[Begin, GraceOver]), (Ladder::Spared, asked));
    }

    /// Every sequence up to five events: at most one TERM and one KILL, a KILL only with escalation, the end is final.
    #[test]
    fn no_sequence_kills_twice_or_against_the_will() {
        const ALL: [Event; 3] = [Event::Begin, Event::Empty, Event::GraceOver];
        for escalate in [true, false] {
            for code in 0..3usize.pow(5) {
                let events: Vec<Event> = (0..5).map(|place| ALL[code / 3usize.pow(place) % 3]).collect();
                let (end, orders) = climb(escalate, &events);
                assert!(orders.iter().filter(|order| **order == Order::Terminate).count() <= 1);
                let kills = orders.iter().filter(|order| **order == Order::Kill).count();
                assert!(kills <= usize::from(escalate), "{events:?}");
                if let Ladder::Gone { .. } | Ladder::Spared = end {
                    assert!(ALL.iter().all(|event| end.step(*event) == (end, &[][..])));
                }
            }
        }
    }
}
