//! New connections at a steady rate, whether or not the ones before have been answered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A stream of clients.
#[derive(Debug)]
pub struct Arrivals {
    runtime: tokio::runtime::Runtime,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
    answered: watch::Sender<u64>,
    began: Instant,
}

/// What they saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Clients that arrived.
    pub arrived: u64,
    /// Clients that were answered.
    pub answered: u64,
    /// Refused connections.
    pub refused: u64,
    /// Connections that were reset or closed.
    pub reset: u64,
    /// Anything else that went wrong.
    pub failed: u64,
    /// Connections that took as long as a lost SYN takes.
    pub retransmitted: u64,
    /// The longest time to connect.
    pub longest_connect: Duration,
    /// The longest time from arriving to the answer.
    pub longest_answer: Duration,
    /// For how long clients came.
    pub time: Duration,
    /// The first faults.
    pub faults: Vec<String>,
}

impl Seen {
    /// Clients a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.time.as_secs_f64()
    }

    /// Whether everybody was let in and answered.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.refused == 0 && self.reset == 0 && self.failed == 0 && self.answered == self.arrived
    }
}

/// The first retransmission of a SYN comes after this (tcp(7), RFC 6298).
const RETRANSMISSION: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// As many at a time: a machine too busy for the rate had thousands wait, which took the descriptors of all tests, and
/// all the patience. An upgrade alone keeps a few hundred waiting.
const MOST: usize = 500;
const TICK: Duration = Duration::from_millis(5);
/// So many addresses of our own that ports do not run out: a closed connection keeps its port for a minute.
const SOURCES: u64 = 16;

impl Arrivals {
    /// Lets this many clients a second come.
    ///
    /// # Panics
    /// When no runtime can be made.
    #[must_use]
    pub fn start(addr: SocketAddrV4, per_second: u32) -> Arrivals {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let (stop, stopped) = watch::channel(false);
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let answered = watch::Sender::new(0);
        let account = Account { seen: Arc::clone(&seen), answered: answered.clone() };
        let task = runtime.spawn(arrive(addr.into(), per_second, stopped, account));
        Arrivals { runtime, stop, task, seen, answered, began: Instant::now() }
    }

    /// Waits until this many more have been answered; false when that takes longer than `patience`.
    #[must_use]
    pub fn wait_for(&self, more: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.runtime.block_on(async {
            let mut answered = self.answered.subscribe();
            let goal = *answered.borrow_and_update() + more;
            let reached = answered.wait_for(|answered| *answered >= goal);
            tokio::time::timeout_at(deadline.into(), reached).await.is_ok_and(|waited| waited.is_ok())
        })
    }

    /// Lets nobody come any more, waits for those who are there, and says what they saw.
    ///
    /// # Panics
    /// When the task did.
    #[must_use]
    pub fn finish(self) -> Seen {
        let time = self.began.elapsed();
        let _ = self.stop.send(true);
        self.runtime.block_on(self.task).expect("no panic");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.time = time;
        seen
    }
}

/// Where visitors write down what they saw.
#[derive(Clone)]
struct Account {
    seen: Arc<Mutex<Seen>>,
    answered: watch::Sender<u64>,
}

async fn arrive(addr: SocketAddr, per_second: u32, stopped: watch::Receiver<bool>, account: Account) {
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    let mut arrived = 0_u64;
    while !*stopped.borrow() {
        tick.tick().await;
        // who is late is made up for: the rate is what the server sees, not what this thread manages
        let due = (began.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        while clients.try_join_next().is_some() {}
        let room = MOST.saturating_sub(clients.len()) as u64;
        let now = due.clamp(arrived, arrived + room);
        for n in arrived..now {
            clients.spawn(visit(addr, n, account.clone()));
        }
        arrived = now;
    }
    while clients.join_next().await.is_some() {}
}

async fn visit(addr: SocketAddr, n: u64, account: Account) {
    let began = Instant::now();
    let outcome = tokio::time::timeout(PATIENCE, talk(addr, n)).await;
    let took = began.elapsed();
    let mut seen = account.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.arrived += 1;
    seen.longest_answer = seen.longest_answer.max(took);
    let error = match outcome {
        Ok(Ok(connect)) => {
            seen.answered += 1;
            seen.longest_connect = seen.longest_connect.max(connect);
            seen.retransmitted += u64::from(connect >= RETRANSMISSION);
            account.answered.send_replace(seen.answered);
            return;
        }
        Ok(Err(error)) => error,
        Err(_) => std::io::ErrorKind::TimedOut.into(),
    };
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => seen.refused += 1,
        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => seen.reset += 1,
        _ => seen.failed += 1,
    }
    if seen.faults.len() < 10 {
        seen.faults.push(error.to_string());
    }
}

/// Connects, asks once, leaves; how long the connecting took.
async fn talk(addr: SocketAddr, n: u64) -> std::io::Result<Duration> {
    let socket = TcpSocket::new_v4()?;
    let source = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(n % SOURCES).unwrap_or(0));
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    let began = Instant::now();
    let mut stream = socket.connect(addr).await?;
    let connect = began.elapsed();
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await?;
    if &answer == b"+PONG\r\n" { Ok(connect) } else { Err(std::io::Error::other("no PONG")) }
}
