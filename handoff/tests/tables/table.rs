//! What there is to ask a machine: also for random walks from each state (`../properties/machine.rs`).

use handoff::machine::Input;

/// One machine's table.
#[derive(Clone)]
pub(crate) struct Table<M> {
    /// Each state with the inputs that lead there, from the first state on.
    pub(crate) states: Vec<(&'static str, Vec<Input>)>,
    pub(crate) inputs: Vec<(&'static str, Input)>,
    pub(crate) first: M,
    pub(crate) name: fn(&M) -> &'static str,
}
