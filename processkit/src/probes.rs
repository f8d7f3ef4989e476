//! Waiting until a process is ready, whatever that means for it.

use crate::error::Result;
use crate::running::{DRAIN, RunningProcess};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// How often a question is asked again that nothing tells the answer to.
const AGAIN: Duration = Duration::from_millis(20);

/// Probes wait for readiness and never end the process. Each gives up with [`Error::NotReady`](crate::Error::NotReady) when
/// its time is over, and at once when the process ends. Cancel safe, except that the lines looked at are taken.
impl RunningProcess {
    /// Wait for a line of its standard output, and give it. The lines up to and including it are taken: neither a stream nor
    /// a result has them.
    ///
    /// # Errors
    /// [`Error::NotReady`](crate::Error::NotReady); [`Error::Cancelled`](crate::Error::Cancelled);
    /// [`Error::Io`](crate::Error::Io) if the runtime cannot watch it.
    pub async fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool, within: Duration) -> Result<String> {
        let stdout = Arc::clone(&self.outputs[0]);
        self.ready(within, DRAIN, async move {
            while let Some(line) = stdout.next_line().await {
                if wanted(&line) {
                    return Some(line);
                }
            }
            None
        })
        .await
    }

    /// Wait until the check says yes. It is asked at once and then every 20 ms.
    ///
    /// # Errors
    /// As for [`wait_for_line`](RunningProcess::wait_for_line).
    pub async fn wait_for<F, Fut>(&mut self, mut check: F, within: Duration) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        self.ready(within, Duration::ZERO, async {
            while !check().await {
                tokio::time::sleep(AGAIN).await;
            }
            Some(())
        })
        .await
    }

    /// Wait until somebody accepts connections at this address (whoever that is). Tried at once and then every 20 ms.
    ///
    /// # Errors
    /// As for [`wait_for_line`](RunningProcess::wait_for_line).
    pub async fn wait_for_port(&mut self, address: SocketAddr, within: Duration) -> Result<()> {
        self.wait_for(|| async move { TcpStream::connect(address).await.is_ok() }, within).await
    }

    /// What is asked for, unless time or process end first. `after` is what is granted after the end of the process.
    async fn ready<T>(
        &mut self,
        within: Duration,
        after: Duration,
        asked: impl Future<Output = Option<T>>,
    ) -> Result<T> {
        self.awaken();
        let ended = async {
            self.run.exit().await?;
            tokio::time::sleep(after).await;
            Result::Ok(None)
        };
        let answer = tokio::select! {
            biased;
            answer = asked => answer,
            ended = ended => ended?,
            () = tokio::time::sleep(within) => None,
        };
        match answer {
            Some(answer) => Ok(answer),
            // a cancelled process ends, and so does its output: that is the cause to name
            None => self.run.check_cancelled().and(Err(self.run.not_ready(within))),
        }
    }
}
