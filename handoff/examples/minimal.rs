//! The smallest upgradable server: it echoes, and every connection survives the replacement of its program.
//!
//! ```text
//! handoffctl run --run-dir run --data-dir data --listen echo=127.0.0.1:7777 -- target/debug/examples/minimal
//! nc 127.0.0.1 7777        # leave it open
//! handoffctl upgrade --run-dir run
//! ```

use handoff::sdk::{
    Connection, Context, Digest, Disk, HookResult, Incumbent, Launch, Opened, Parked, SealGuard, Sealed,
    Service, Strategy, Successor, Tenure, serve,
};
use tokio::{sync::watch, task::JoinSet};

#[derive(Default)]
struct Echo(Option<Serving>);

struct Serving {
    seal: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<JoinSet<Option<Parked>>>,
}

impl Echo {
    async fn begin(&mut self, tenure: &Tenure, parked: Vec<Parked>) -> HookResult<()> {
        let listener = tenure.listener("echo")?;
        // a drain that was called off: the earlier tenure's listener is closed, its connections go on
        let (seal, mut all) = match self.0.take() {
            Some(serving) => (serving.seal, serving.accepting.await?),
            None => (watch::Sender::new(false), JoinSet::new()),
        };
        for (connection, rest) in parked.into_iter().flat_map(Parked::take) {
            all.spawn(echo(connection, rest, seal.subscribe()));
        }
        let sealed = seal.clone();
        let accepting = tokio::spawn(async move {
            while let Ok(Some((connection, _guard))) = listener.accept().await {
                while all.try_join_next().is_some() {}
                all.spawn(echo(connection, Vec::new(), sealed.subscribe()));
            }
            all
        });
        self.0 = Some(Serving { seal, accepting });
        Ok(())
    }
}

/// Echoes until the client leaves or the seal asks for the connection.
async fn echo(connection: Connection, mut rest: Vec<u8>, mut seal: watch::Receiver<bool>) -> Option<Parked> {
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            _ = seal.wait_for(|sealed| *sealed) => return Parked::park(connection, rest).ok(),
            ready = connection.writable(), if !rest.is_empty() => {
                ready.ok()?;
                match connection.try_write(&rest) {
                    Ok(n) => drop(rest.drain(..n)),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
            ready = connection.readable(), if rest.is_empty() => {
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

impl Successor for Echo {
    type Config = ();
    type Incumbent = Self;
    const SERVICE: Service = Service {
        name: "echo",
        strategy: Strategy::Exclusive,
        state_reads: &[1],
        state_writes: 1,
        connection_reads: &[1],
        connection_writes: 1,
    };
    async fn warm(_: Context<()>) -> HookResult<Self> {
        Ok(Self::default())
    }
    async fn open(&mut self, _: Disk) -> HookResult<Opened> {
        Ok(Opened { healthy: true, ..Opened::default() })
    }
    async fn serve(mut self, tenure: Tenure, parked: Vec<Parked>) -> HookResult<Self> {
        self.begin(&tenure, parked).await?;
        Ok(self)
    }
}

impl Incumbent for Echo {
    async fn seal(&mut self, guard: SealGuard) -> HookResult<Sealed> {
        let mut parked = Vec::new();
        if let Some(serving) = self.0.take() {
            serving.seal.send_replace(true);
            parked = serving.accepting.await?.join_all().await.into_iter().flatten().collect();
        }
        Ok(guard.complete(Digest::default(), parked))
    }
    async fn verify(&mut self, _: Disk) -> HookResult<Digest> {
        Ok(Digest::default())
    }
    async fn resume(&mut self, tenure: Tenure, parked: Vec<Parked>) -> HookResult<()> {
        self.begin(&tenure, parked).await
    }
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let data = std::env::var_os("HANDOFF_DATA_DIR").unwrap_or_else(|| ".".into());
    match serve::<Echo>(Launch::new(()).data_dir(data).bind("echo", "127.0.0.1:7777")).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minimal: {error}");
            error.exit_code().into()
        }
    }
}
