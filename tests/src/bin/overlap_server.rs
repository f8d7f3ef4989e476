//! A stateless server of the overlap strategy, on the real SDK: answers each PING with its process id. When it
//! retires it hands every connection over as soon as that is idle.
//!
//! What it is called by chooses what is wrong with it: `overlap-mute` takes no connections over; `overlap-ill`
//! says that it is not healthy once it serves, `overlap-votes` votes itself down, `overlap-stuck` never finishes its own check; `overlap-hoarse` answers SING well until it
//! serves, `overlap-croaks` dies of a canary.

use handoff::sdk::{
    Connection, Context, Digest, Disk, HookError, HookResult, Incumbent, Launch, Leaving, Opened, Parked,
    SealGuard, Sealed, Service, Strategy, Successor, Tenure, serve,
};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Before it serves there is nothing to know but the format of its connections.
#[derive(Debug)]
struct Before<const FORMAT: u32>(Context<()>);

/// What is wrong with it.
fn called(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|called| called.to_string_lossy().ends_with(name))
}

#[derive(Clone, Debug)]
struct Serving {
    context: Context<()>,
    leaving: watch::Sender<Option<Leaving>>,
    conversations: Arc<Mutex<JoinSet<()>>>,
}

impl Serving {
    fn start(&self, connection: Connection, rest: Vec<u8>) {
        let mut conversations = self.conversations.lock().unwrap_or_else(PoisonError::into_inner);
        while conversations.try_join_next().is_some() {}
        conversations.spawn(converse(connection, rest, self.leaving.subscribe(), true));
    }
}

async fn asked(leaving: &mut watch::Receiver<Option<Leaving>>) {
    if leaving.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

async fn let_go(connection: Connection, rest: Vec<u8>, leaving: &watch::Receiver<Option<Leaving>>) {
    let now = leaving.borrow().clone();
    let Some(leaving) = now else { return };
    let Ok(parked) = Parked::park(connection, rest) else { return };
    if let Err(parked) = leaving.hand_over(parked).await
        && let Ok((connection, _)) = parked.take()
    {
        let _ = connection.try_write(b"-ERR the server leaves\r\n");
    }
}

/// Between two reads a connection is idle: nothing is owed but what stands in `rest`.
async fn converse(
    connection: Connection,
    mut rest: Vec<u8>,
    mut leaving: watch::Receiver<Option<Leaving>>,
    serves: bool,
) {
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            () = asked(&mut leaving) => return let_go(connection, rest, &leaving).await,
            ready = connection.readable() => {
                let Ok(()) = ready else { return };
                match connection.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(n) => rest.extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(_) => return,
                }
            }
        }
        while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
            let line: Vec<u8> = rest.drain(..at + 2).collect();
            let answer = match &line[..at] {
                // how many words of how many bytes: each of them has a line
                [b'*' | b'$', ..] => continue,
                b"PING" => format!("+{}\r\n", std::process::id()),
                b"SING" if serves && called("overlap-hoarse") => "-hoarse\r\n".to_owned(),
                b"SING" => "+tirili\r\n".to_owned(),
                _ => "-what\r\n".to_owned(),
            };
            // an answer of a few bytes to a client that waits for it
            if connection.try_write(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

impl<const FORMAT: u32> Successor for Before<FORMAT> {
    type Config = ();
    type Incumbent = Serving;
    const CANARY: bool = true;
    const SERVICE: Service = Service {
        strategy: Strategy::Overlap,
        connection_reads: &[FORMAT],
        connection_writes: FORMAT,
        ..Service::new("overlap-server")
    };

    async fn warm(context: Context<()>) -> HookResult<Self> {
        Ok(Before(context))
    }

    async fn open(&mut self, _: Disk) -> HookResult<Opened> {
        Ok(Opened::healthy(Digest::default()))
    }

    async fn canary(&mut self, connection: Connection) -> HookResult<()> {
        let nobody_leaves = watch::Sender::new(None);
        if called("overlap-croaks") {
            std::process::abort();
        }
        converse(connection, Vec::new(), nobody_leaves.subscribe(), false).await;
        Ok(())
    }

    async fn serve(self, tenure: Tenure, _: Vec<Parked>) -> HookResult<Serving> {
        let (leaving, conversations) = (watch::Sender::new(None), Arc::default());
        let serving = Serving { context: self.0, leaving, conversations };
        let listener = tenure.listener("resp")?;
        let accepting = serving.clone();
        tokio::spawn(async move {
            while let Ok(Some((connection, guard))) = listener.accept().await {
                accepting.start(connection, Vec::new());
                drop(guard);
            }
        });
        let (mut arrivals, taking) = (tenure.arrivals(), serving.clone());
        tokio::spawn(async move {
            while let Some(parked) = arrivals.next().await {
                if let Ok((connection, rest)) = parked.take() {
                    taking.start(connection, rest);
                }
            }
        });
        Ok(serving)
    }
}

impl Incumbent for Serving {
    async fn seal(&mut self, _: SealGuard) -> HookResult<Sealed> {
        Err(HookError::new("there is nothing to seal"))
    }

    async fn verify(&mut self, _: Disk) -> HookResult<Digest> {
        Ok(Digest::default())
    }

    async fn resume(&mut self, _: Tenure, _: Vec<Parked>) -> HookResult<()> {
        Ok(())
    }

    async fn health(&mut self) -> HookResult<()> {
        if called("overlap-stuck") {
            std::future::pending::<()>().await;
        }
        if called("overlap-votes") {
            self.context.vote_down("this build was voted down");
        }
        if called("overlap-ill") { Err(HookError::new("this build feels ill")) } else { Ok(()) }
    }

    async fn retire(self, leaving: Leaving) -> HookResult<()> {
        self.leaving.send_replace(Some(leaving));
        let mut conversations =
            std::mem::take(&mut *self.conversations.lock().unwrap_or_else(PoisonError::into_inner));
        while conversations.join_next().await.is_some() {}
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let served = match called("overlap-mute") {
        false => serve::<Before<1>>(Launch::new(())).await,
        true => serve::<Before<2>>(Launch::new(())).await,
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlap-server: {error}");
            error.exit_code().into()
        }
    }
}
