//! A server of the exclusive strategy, on the real SDK, with no data but its connections: answers each PING with its
//! process id.
//!
//! What it is called by chooses what is wrong with it once it serves: `exclusive-ill` says that it is not healthy,
//! `exclusive-votes` votes itself down, `exclusive-stuck` never finishes its own check. A file `<called>.fail-warm` or
//! `<called>.fail-seal` in `REACHED_DIR` lets that hook fail: once, or always if that is what the file says.
//! `exclusive-newer` writes state format 2 and reads 1 too.

use handoff::sdk::{
    Connection, Context, Digest, Disk, HookError, HookResult, Incumbent, Launch, Opened, Parked, SealGuard,
    Sealed, Service, Successor, Tenure, serve,
};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinSet;

const PING: &[u8] = b"PING\r\n";

/// The name it is called by.
fn called() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether this hook is to fail now.
fn fault(hook: &str) -> HookResult<()> {
    let dir = PathBuf::from(std::env::var_os("REACHED_DIR").unwrap_or_default());
    let file = dir.join(format!("{}.fail-{hook}", called()));
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
    if text != "always" {
        std::fs::remove_file(&file)?;
    }
    Err(HookError::new(format!("this build cannot {hook}")))
}

#[derive(Debug)]
struct Before<const FORMAT: u32>(Context<()>);

type Conversations = Arc<Mutex<JoinSet<Option<Parked>>>>;

#[derive(Debug)]
struct Serving {
    context: Context<()>,
    stop: watch::Sender<bool>,
    conversations: Conversations,
}

fn start(of: &Conversations, connection: Connection, rest: Vec<u8>, stop: watch::Receiver<bool>) {
    let mut conversations = of.lock().unwrap_or_else(PoisonError::into_inner);
    while conversations.try_join_next().is_some() {}
    conversations.spawn(converse(connection, rest, stop));
}

/// Gives the connection when it is told to stop, nothing when the client has left.
async fn converse(
    connection: Connection,
    mut rest: Vec<u8>,
    mut stop: watch::Receiver<bool>,
) -> Option<Parked> {
    let mut buffer = [0; 4096];
    loop {
        while let Some(at) = rest.windows(PING.len()).position(|window| window == PING) {
            rest.drain(..at + PING.len());
            let answer = format!("+{}\r\n", std::process::id());
            // an answer of a few bytes to a client that waits for it
            connection.try_write(answer.as_bytes()).ok()?;
        }
        tokio::select! {
            stopped = stop.wait_for(|stop| *stop) => {
                stopped.ok()?;
                return Parked::park(connection, rest).ok();
            }
            ready = connection.readable() => {
                ready.ok()?;
                match connection.try_read(&mut buffer) {
                    Ok(0) => return None,
                    Ok(n) => rest.extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        }
    }
}

impl Serving {
    fn begin(&self, tenure: &Tenure, parked: Vec<Parked>) -> HookResult<()> {
        self.stop.send_replace(false);
        for parked in parked {
            // whoever left meanwhile is no fault
            if let Ok((connection, rest)) = parked.take() {
                start(&self.conversations, connection, rest, self.stop.subscribe());
            }
        }
        let (listener, conversations, stop) =
            (tenure.listener("resp")?, Arc::clone(&self.conversations), self.stop.clone());
        tokio::spawn(async move {
            while let Ok(Some((connection, guard))) = listener.accept().await {
                start(&conversations, connection, Vec::new(), stop.subscribe());
                drop(guard);
            }
        });
        Ok(())
    }
}

impl<const FORMAT: u32> Successor for Before<FORMAT> {
    type Config = ();
    type Incumbent = Serving;
    const SERVICE: Service = Service {
        state_reads: &[1, FORMAT],
        state_writes: FORMAT,
        connection_reads: &[1],
        connection_writes: 1,
        ..Service::new("exclusive-server")
    };

    async fn warm(context: Context<()>) -> HookResult<Self> {
        fault("warm")?;
        Ok(Before(context))
    }

    async fn open(&mut self, _: Disk) -> HookResult<Opened> {
        Ok(Opened::healthy(Digest::default()))
    }

    async fn serve(self, tenure: Tenure, parked: Vec<Parked>) -> HookResult<Serving> {
        let serving =
            Serving { context: self.0, stop: watch::Sender::new(false), conversations: Arc::default() };
        serving.begin(&tenure, parked)?;
        Ok(serving)
    }
}

impl Incumbent for Serving {
    async fn seal(&mut self, guard: SealGuard) -> HookResult<Sealed> {
        fault("seal")?;
        self.stop.send_replace(true);
        let mut conversations =
            std::mem::take(&mut *self.conversations.lock().unwrap_or_else(PoisonError::into_inner));
        let mut parked = Vec::new();
        while let Some(stopped) = conversations.join_next().await {
            parked.extend(stopped.ok().flatten());
        }
        Ok(guard.complete(Digest::default(), parked))
    }

    async fn verify(&mut self, _: Disk) -> HookResult<Digest> {
        Ok(Digest::default())
    }

    async fn resume(&mut self, tenure: Tenure, parked: Vec<Parked>) -> HookResult<()> {
        self.begin(&tenure, parked)
    }

    async fn health(&mut self) -> HookResult<()> {
        let called = called();
        if called.ends_with("stuck") {
            std::future::pending::<()>().await;
        }
        if called.ends_with("votes") {
            self.context.vote_down("this build was voted down");
        }
        if called.ends_with("ill") { Err(HookError::new("this build feels ill")) } else { Ok(()) }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let served = match called().ends_with("newer") {
        false => serve::<Before<1>>(Launch::new(())).await,
        true => serve::<Before<2>>(Launch::new(())).await,
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exclusive-server: {error}");
            error.exit_code().into()
        }
    }
}
