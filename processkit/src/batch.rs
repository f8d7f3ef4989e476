//! Many commands, so many at a time.

use crate::command::Command;
use crate::error::Result;
use crate::result::ProcessResult;
use crate::runner::ProcessRunner;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// How many places are opened before others have their turn: a start may hold the thread for most of a millisecond.
const AT_A_TIME: usize = 8;

/// Run commands, at most `concurrency` at a time, and give their results in the order of the commands.
///
/// Each result stands for itself: an error in one stops no other. A concurrency of 0 counts as 1, one larger than the number
/// of commands as that number. The cost is linear: a run that is not ready is not looked at.
///
/// Dropping the future ends what runs, as far as the runner's [`output`](ProcessRunner::output) does when dropped, and starts
/// nothing more.
///
/// ```
/// use processkit::{Command, JobRunner, output_all};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let commands = ["one", "two", "three"].map(|word| Command::new("echo").arg(word));
/// let results = output_all(commands, 2, &JobRunner).await;
/// let words: Vec<&str> = results.iter().flatten().map(|result| result.stdout().trim()).collect();
/// assert_eq!(words, ["one", "two", "three"]);
/// # }
/// ```
pub async fn output_all<R, I>(
    commands: I,
    concurrency: usize,
    runner: &R,
) -> Vec<Result<ProcessResult<String>>>
where
    R: ProcessRunner + ?Sized,
    I: IntoIterator<Item = Command>,
{
    let commands: Vec<Command> = commands.into_iter().collect();
    let runs = commands.iter().map(|command| runner.output(command));
    Batch::new(runs, commands.len(), concurrency).await
}

/// Futures in places, of which only those are polled that were woken.
pub(crate) struct Batch<I, F: Future> {
    /// Those that have no place yet.
    waiting: I,
    places: Vec<Place<F>>,
    /// How many places were opened.
    open: usize,
    results: Vec<Option<F::Output>>,
    begun: usize,
    ended: usize,
    woken: Arc<Mutex<Woken>>,
}

struct Place<F> {
    /// With the number of its result.
    occupant: Option<(usize, F)>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Which places were woken since the last look.
#[derive(Default)]
struct Woken {
    places: Vec<usize>,
    task: Option<Waker>,
}

/// The waker of one place.
struct Bell {
    place: usize,
    rung: AtomicBool,
    woken: Arc<Mutex<Woken>>,
}

fn lock(woken: &Mutex<Woken>) -> MutexGuard<'_, Woken> {
    woken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let task = {
            let mut woken = lock(&self.woken);
            woken.places.push(self.place);
            woken.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<I, F> Batch<I, F>
where
    I: Iterator<Item = F>,
    F: Future + Unpin,
{
    /// At most `concurrency` of `count` futures at a time, but at least one.
    pub(crate) fn new(waiting: I, count: usize, concurrency: usize) -> Self {
        let woken = Arc::<Mutex<Woken>>::default();
        let place = |place| {
            let bell = Arc::new(Bell { place, rung: AtomicBool::new(false), woken: Arc::clone(&woken) });
            Place { occupant: None, waker: Waker::from(Arc::clone(&bell)), bell }
        };
        let places = (0..concurrency.max(1).min(count)).map(place).collect();
        let results = std::iter::repeat_with(|| None).take(count).collect();
        Batch { waiting, places, open: 0, results, begun: 0, ended: 0, woken }
    }

    /// Poll the future in a place, or the next one if the place is free.
    fn visit(&mut self, index: usize) {
        let place = &mut self.places[index];
        // Before the poll: what happens in it may ring again. A swap, since the poll must see what was done before any ring
        // until now: one that comes while it has rung already does nothing else to be seen by.
        place.bell.rung.swap(false, Ordering::AcqRel);
        if place.occupant.is_none() {
            let Some(future) = self.waiting.next() else { return };
            place.occupant = Some((self.begun, future));
            self.begun += 1;
        }
        if let Some((number, future)) = &mut place.occupant
            && let Poll::Ready(result) = Pin::new(future).poll(&mut Context::from_waker(&place.waker))
        {
            self.results[*number] = Some(result);
            self.ended += 1;
            place.occupant = None;
            place.waker.wake_by_ref(); // for the next one
        }
    }
}

// Nothing in it is pinned: the futures are `Unpin`, and results may move.
impl<I, F: Future> Unpin for Batch<I, F> {}

impl<I, F> Future for Batch<I, F>
where
    I: Iterator<Item = F>,
    F: Future + Unpin,
{
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.open < self.places.len() {
            let until = self.places.len().min(self.open + AT_A_TIME);
            while self.open < until {
                let index = self.open;
                self.open += 1;
                self.visit(index);
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let woken = {
            let mut woken = lock(&self.woken);
            woken.task = Some(context.waker().clone());
            std::mem::take(&mut woken.places)
        };
        for index in woken {
            self.visit(index);
        }
        if self.ended < self.results.len() {
            return Poll::Pending;
        }
        Poll::Ready(self.results.drain(..).flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    /// A future that is ready when its waker was called by somebody else, and counts how often it is asked.
    struct Counted {
        number: usize,
        bells: Rc<RefCell<Vec<Option<Waker>>>>,
        polls: Rc<Cell<usize>>,
    }

    impl Future for Counted {
        type Output = usize;

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<usize> {
            self.polls.set(self.polls.get() + 1);
            let mut bells = self.bells.borrow_mut();
            match bells.get(self.number) {
                Some(Some(_)) => Poll::Ready(self.number),
                _ => {
                    let length = bells.len().max(self.number + 1);
                    bells.resize(length, None);
                    bells[self.number] = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        }
    }

    /// Each of a thousand futures is looked at twice, and not again whenever another one is woken.
    #[tokio::test]
    async fn only_those_that_were_woken_are_polled() {
        const COUNT: usize = 1000;
        let bells = Rc::<RefCell<Vec<Option<Waker>>>>::default();
        let polls = Rc::<Cell<usize>>::default();
        let counted = |number| Counted { number, bells: Rc::clone(&bells), polls: Rc::clone(&polls) };
        let ring = async {
            while bells.borrow().iter().flatten().count() < COUNT {
                tokio::task::yield_now().await;
            }
            for number in (0..COUNT).rev() {
                bells.borrow()[number].as_ref().expect("there").wake_by_ref();
                tokio::task::yield_now().await;
            }
        };
        let (results, ()) = tokio::join!(Batch::new((0..COUNT).map(counted), COUNT, usize::MAX), ring);
        assert_eq!(results, (0..COUNT).collect::<Vec<_>>());
        assert_eq!(polls.get(), 2 * COUNT);
    }
}
