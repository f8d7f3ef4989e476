//! Waiting for several processes.

use crate::error::Result;
use crate::running::RunningProcess;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

/// Wait until one of these has ended: which, and its exit code as for [`RunningProcess::wait`]. The first in the list if
/// there are several. The handles are borrowed only: the process can be asked again, and the others go on.
///
/// Cancel safe.
///
/// # Errors
/// `InvalidInput` for an empty list; otherwise as for [`RunningProcess::wait`].
pub async fn wait_any(processes: &mut [&mut RunningProcess]) -> Result<(usize, Option<i32>)> {
    if processes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no process to wait for").into());
    }
    let mut waits: Vec<Wait<'_>> = processes.iter_mut().map(|process| wait(process)).collect();
    poll_fn(|context| {
        for (index, wait) in waits.iter_mut().enumerate() {
            if let Poll::Ready(code) = wait.as_mut().poll(context) {
                return Poll::Ready(code.map(|code| (index, code)));
            }
        }
        Poll::Pending
    })
    .await
}

/// Wait until all of these have ended: their exit codes as for [`RunningProcess::wait`], in the order of the list. The
/// handles are borrowed only.
///
/// Cancel safe.
///
/// # Errors
/// As for [`RunningProcess::wait`], for the first in the list it happened to, once all have ended.
pub async fn wait_all(processes: &mut [&mut RunningProcess]) -> Result<Vec<Option<i32>>> {
    processes.iter_mut().for_each(|process| process.awaken());
    let mut codes = Vec::with_capacity(processes.len());
    for process in processes {
        codes.push(wait(process).await); // the runtime watches only one at a time, and no end is lost
    }
    codes.into_iter().collect()
}

type Wait<'a> = Pin<Box<dyn Future<Output = Result<Option<i32>>> + Send + 'a>>;

fn wait<'a>(process: &'a mut RunningProcess) -> Wait<'a> {
    Box::pin(async {
        let exit = process.exit().await?;
        process.run.check_cancelled()?;
        Ok(process.own_code(exit))
    })
}
