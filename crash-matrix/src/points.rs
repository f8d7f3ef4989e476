//! The points of an upgrade, found by recording some that nobody disturbs.

use crate::trial;
use handoff_tests::crashes::{Order, Point};
use std::collections::BTreeSet;

/// The places of an upgrade, in their order.
#[derive(Clone, Debug)]
pub struct Points {
    places: Vec<Place>,
}

/// A point and the order in which an upgrade always comes by it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) point: Point,
    pub(crate) order: Order,
}

impl Points {
    /// Records a few upgrades, in both orders in which the old server's end can be heard.
    ///
    /// # Errors
    /// An upgrade without faults does not commit, or a role has hardly any points: the harness is broken.
    pub fn record() -> Result<Points, String> {
        let orders = [Order::LeavesLast, Order::HeardLast];
        let mut recordings: Vec<(Order, Vec<Point>)> = Vec::new();
        std::thread::scope(|scope| {
            let all = orders.iter().flat_map(|order| [*order; 3]);
            let threads: Vec<_> =
                all.map(|order| (order, scope.spawn(move || trial::recording(order)))).collect();
            for (order, thread) in threads {
                recordings.push((order, thread.join().map_err(|_| "a recording panicked".to_owned())?));
            }
            Ok::<(), String>(())
        })?;
        Points::of(&recordings)
    }

    /// The points that every recording of an order has; those of the other order where they belong.
    fn of(recordings: &[(Order, Vec<Point>)]) -> Result<Points, String> {
        let mut places: Vec<Place> = Vec::new();
        let mut chance = BTreeSet::new();
        for order in [Order::LeavesLast, Order::HeardLast] {
            let of_order: Vec<&Vec<Point>> =
                recordings.iter().filter(|(o, _)| *o == order).map(|(_, r)| r).collect();
            for recording in &of_order {
                let mut at = 0;
                for point in *recording {
                    if let Some(known) = places.iter().position(|place| place.point == *point) {
                        at = known + 1;
                    } else if of_order.iter().all(|other| other.contains(point)) {
                        places.insert(at, Place { point: point.clone(), order });
                        at += 1;
                    } else {
                        // one more heartbeat, or three processes in a rare order
                        chance.insert(point.to_string());
                    }
                }
            }
        }
        for place in &places {
            chance.remove(&place.point.to_string());
        }
        eprintln!("{} points; by chance only, and left out: {chance:?}", places.len());
        for role in ["S", "O", "N"] {
            let count = places.iter().filter(|place| place.point.role() == role).count();
            if count <= 20 {
                return Err(format!("only {count} points of {role}"));
            }
        }
        Ok(Points { places })
    }

    /// All points, in the order of an upgrade.
    pub fn all(&self) -> impl Iterator<Item = &Point> {
        self.places.iter().map(|place| &place.point)
    }

    /// The order in which an upgrade comes by this point; any, for a point that only a second fault can be at.
    pub(crate) fn order(&self, point: &Point) -> Order {
        let place = self.places.iter().find(|place| place.point == *point);
        place.map_or(Order::LeavesLast, |place| place.order)
    }

    fn at(&self, name: &str) -> Option<usize> {
        self.places.iter().position(|place| place.point.name == name)
    }

    /// Whether the end of this process, the old server or not, may cost clients what was under way: it was the only
    /// server, or it held the only copies of the connections.
    pub(crate) fn costs(&self, point: &Point, is_old: bool) -> bool {
        match point.role() {
            "S" => false,
            // the successor: from here on the old server may have let go
            "N" if !is_old => self.at(&point.name) >= self.at("N.send.Started.after"),
            _ if is_old => self.at(&point.name) <= self.at("O.call.HandOver.after"),
            // serves already, or nobody else does
            _ => true,
        }
    }
}
