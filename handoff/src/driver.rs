//! One loop: wait for one input, step, perform the effects in order.
//!
//! The loop knows no phase and no message. Before and after each effect stands a crash point
//! (`<role>.<effect>.before` / `.after`, see [`crate::crash`]); there are none in the logic.

use crate::crash;
use crate::machine::{Effect, Ending, Input, Machine, Step};
use std::collections::VecDeque;
use std::future::Future;

/// What a driver does effects with and waits for inputs on: the supervisor's world, or an instance's.
pub trait World: Send {
    /// `S`, `O`, `N` or `X`, as of now: the first part of a crash point's name.
    fn role(&self) -> &'static str;

    /// The epoch as of now, for traces.
    fn epoch(&self) -> u64;

    /// Waits for the next fact. Frames that are readable come before an expired timer. Cancel safe: a fact that was
    /// taken is returned.
    fn next(&mut self) -> impl Future<Output = Input> + Send;

    /// Performs one effect. `Ok(Some(input))` is an answer that is delivered before anything else.
    ///
    /// # Errors
    /// The step that failed and why; the driver drops the rest of the list and delivers [`Input::Failed`].
    fn perform(&mut self, effect: Effect) -> impl Future<Output = Result<Option<Input>, Failure>> + Send;

    /// Told after each step that was performed whole, with the machine as it is now.
    fn stepped(&mut self) {}
}

/// An effect that could not be performed.
#[derive(Debug)]
pub struct Failure {
    /// Which kind.
    pub step: Step,
    /// Why, naming the file or peer.
    pub why: String,
}

/// Drives the machine in its world until it finishes.
pub async fn drive<M: Machine, W: World>(machine: &mut M, world: &mut W) -> Ending {
    let mut answers = VecDeque::new();
    loop {
        let input = match answers.pop_front() {
            Some(input) => input,
            None => world.next().await,
        };
        tracing::trace!(role = world.role(), ?input, "input");
        for effect in machine.handle(input) {
            tracing::trace!(role = world.role(), ?effect, "effect");
            if let Effect::Finish(ending) = effect {
                crash::point(world.role(), "finish", crash::Side::Before, world.epoch());
                return ending;
            }
            let point = crash::ENABLED.then(|| effect.point());
            if let Some(point) = &point {
                crash::point(world.role(), point, crash::Side::Before, world.epoch());
            }
            match world.perform(effect).await {
                Ok(answer) => answers.extend(answer),
                Err(Failure { step, why }) => {
                    tracing::warn!(role = world.role(), ?step, why, "effect failed");
                    answers.push_back(Input::Failed(step, why));
                    break;
                }
            }
            if let Some(point) = &point {
                crash::point(world.role(), point, crash::Side::After, world.epoch());
            }
        }
        world.stepped();
    }
}
