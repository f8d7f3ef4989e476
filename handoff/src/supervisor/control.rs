//! The operator socket: many clients at once, each in a task of its own, so that a silent one blocks nobody.

use super::orders::{Aborted, Handle, Order, PhaseEvent, Refusal, Times, Wanted};
use super::protocol::{CanaryRequest, MAX_LINE, Reply, Request};
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Clients that are served at the same time; a further one is told so.
const MAX_CLIENTS: usize = 256;
/// How long a client may take for its request, and for reading an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after an accept that the kernel refused (descriptors used up): without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves operators until the task is dropped.
pub(super) async fn serve(listener: UnixListener, handle: Handle) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = tokio::task::JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "operator socket: accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned();
        let handle = handle.clone();
        clients.spawn(async move {
            let Ok(_place) = place else {
                let message = format!("{MAX_CLIENTS} operators are connected: try again later");
                return say(stream, &Reply::Error { message }).await;
            };
            client(stream, &handle).await
        });
    }
}

async fn say(mut stream: UnixStream, reply: &Reply) -> io::Result<()> {
    write(&mut stream, reply).await?;
    stream.shutdown().await
}

async fn client(mut stream: UnixStream, handle: &Handle) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if !allowed(peer.uid()) {
        let message = format!("uid {} may not operate this supervisor: use its own user or root", peer.uid());
        return say(stream, &Reply::Error { message }).await;
    }
    let request = match timeout(PATIENCE, read(&mut stream)).await {
        Ok(Ok(Some(line))) => Request::read(&line),
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
        Ok(Err(error)) => return Err(error),
        Err(_) => Err(format!("no request within {} s", PATIENCE.as_secs())),
    };
    let last = match request {
        Err(message) => Reply::Error { message },
        Ok(Request::Status) => match handle.status().await {
            Ok(status) => Reply::Status { status },
            Err(error) => Reply::Error { message: error.to_string() },
        },
        Ok(Request::Abort) => match handle.abort().await {
            Ok(Aborted::Aborting(id)) => Reply::Aborting { handoff_id: id.to_string() },
            Ok(Aborted::Nothing(why)) => Reply::NothingToAbort { why },
            Err(error) => Reply::Error { message: error.to_string() },
        },
        Ok(Request::Upgrade {
            binary,
            drain_grace_ms,
            freeze_budget_ms,
            deadline_ms,
            probation_ms,
            one_way,
            wait_probation: wait,
            canary,
        }) => {
            let times = times(drain_grace_ms, freeze_budget_ms, deadline_ms);
            let probation = Duration::from_millis(probation_ms);
            match canary.map(CanaryRequest::parse).transpose() {
                Ok(canary) => {
                    let wanted = Wanted::Operator { binary, times, probation, one_way, wait, canary };
                    upgrade(&mut stream, handle, wanted).await?
                }
                Err(why) => Reply::Error { message: format!("canary: {why}") },
            }
        }
        Ok(Request::Rollback { drain_grace_ms, freeze_budget_ms, deadline_ms, to }) => {
            let times = times(drain_grace_ms, freeze_budget_ms, deadline_ms);
            upgrade(&mut stream, handle, Wanted::Back { times, to }).await?
        }
        Ok(Request::ReplaceSupervisor { binary }) => replace(&stream, handle, binary).await?,
    };
    say(stream, &last).await
}

fn times(drain_grace_ms: u64, freeze_budget_ms: u64, deadline_ms: u64) -> Times {
    Times {
        drain_grace: Duration::from_millis(drain_grace_ms),
        freeze_budget: Duration::from_millis(freeze_budget_ms),
        deadline: Duration::from_millis(deadline_ms),
    }
}

fn allowed(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// Reads one line, at most [`MAX_LINE`] long; `None` when the client closed without a word.
async fn read(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        if stream.read_buf(&mut line).await? == 0 {
            return Ok(if line.is_empty() { None } else { Some(line) });
        }
        if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            line.truncate(end);
            return Ok(Some(line));
        }
        if line.len() > MAX_LINE {
            let why = format!("a request is one line of at most {MAX_LINE} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    }
}

async fn write(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    match timeout(PATIENCE, stream.write_all(&line)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Sees an upgrade through. An error means that the client is gone, and the upgrade goes on without it; or that nobody
/// is there who could answer, and the client is left without one.
async fn upgrade(stream: &mut UnixStream, handle: &Handle, wanted: Wanted) -> io::Result<Reply> {
    let (phases, mut events) = mpsc::unbounded_channel();
    let (reply, mut answer) = oneshot::channel();
    if let Err(error) = handle.send(Order::Upgrade { wanted, phases, reply }).await {
        return Ok(Reply::Error { message: error.to_string() });
    }
    let answer = loop {
        tokio::select! {
            // every phase was sent before the answer
            biased;
            Some(event) = events.recv() => write(stream, &phase(event)).await?,
            answer = &mut answer => break answer,
        }
    };
    Ok(match answer {
        Ok(Ok(done)) => Reply::Result { report: Box::new(done.report) },
        Ok(Err(Refusal::Busy(id))) => Reply::Busy { handoff_id: id.to_string() },
        Ok(Err(Refusal::Error(error))) => Reply::Error { message: error.to_string() },
        // nobody supervises any more, so nobody knows here how it ends: the same as a supervisor that is killed
        Err(_) => return Err(io::Error::other("the supervisor came to its end")),
    })
}

/// Returns only when this supervisor goes on: the one that replaces it answers on a copy of the connection.
async fn replace(stream: &UnixStream, handle: &Handle, binary: Option<PathBuf>) -> io::Result<Reply> {
    let client = stream.as_fd().try_clone_to_owned()?;
    let (reply, answer) = oneshot::channel();
    let sent = handle.send(Order::Replace { binary, client, reply }).await;
    Ok(match sent.map(|()| answer) {
        Ok(answer) => match answer.await {
            Ok(report) => Reply::Supervisor { report: Box::new(report) },
            Err(_) => Reply::Error { message: "the supervisor stops: ask status later".to_owned() },
        },
        Err(error) => Reply::Error { message: error.to_string() },
    })
}

fn phase(event: PhaseEvent) -> Reply {
    let at_ms = event.at.as_secs_f64() * 1000.0;
    Reply::Phase { phase: event.phase.name().to_owned(), at_ms, note: event.note }
}

#[cfg(test)]
mod tests {
    use super::super::orders::Done;
    use super::super::report::{HandoffReport, StatusReport};
    use super::*;
    use crate::ids::HandoffId;
    use crate::machine::Outcome;
    use crate::phase::Phase;
    use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};

    struct Rig {
        dir: tempfile::TempDir,
        orders: mpsc::Receiver<Order>,
        server: tokio::task::JoinHandle<()>,
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            self.server.abort();
        }
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bound");
        let (sender, orders) = mpsc::channel(8);
        let server = tokio::spawn(serve(listener, Handle(sender)));
        Rig { dir, orders, server }
    }

    impl Rig {
        async fn connect(&self) -> UnixStream {
            UnixStream::connect(self.dir.path().join("s")).await.expect("connected")
        }

        async fn ask(&self, request: &[u8]) -> Lines<BufReader<UnixStream>> {
            let mut stream = self.connect().await;
            stream.write_all(request).await.expect("written");
            BufReader::new(stream).lines()
        }
    }

    async fn reply(lines: &mut Lines<BufReader<UnixStream>>) -> Option<Reply> {
        let line =
            timeout(Duration::from_secs(20), lines.next_line()).await.expect("in time").expect("read")?;
        Some(serde_json::from_str(&line).expect("a reply"))
    }

    async fn order(rig: &mut Rig) -> Order {
        timeout(Duration::from_secs(20), rig.orders.recv()).await.expect("in time").expect("an order")
    }

    #[tokio::test]
    async fn garbage_is_answered_and_closed() {
        let rig = rig();
        let long = [b'x'; MAX_LINE + 2];
        for garbage in [&b"GET / HTTP/1.1\r\n"[..], b"{\"op\":\"dance\"}\n", b"\0\xff\n", b"\n", &long] {
            let mut lines = rig.ask(garbage).await;
            assert!(matches!(reply(&mut lines).await, Some(Reply::Error { .. })));
            // closed: the end, or a reset when more was sent than was read
            let end = timeout(Duration::from_secs(20), lines.next_line()).await.expect("in time");
            assert!(!matches!(end, Ok(Some(_))));
        }
    }

    #[tokio::test]
    async fn silent_clients_block_nobody() {
        let mut rig = rig();
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(rig.connect().await);
        }
        let mut asked = Vec::new();
        for _ in 0..20 {
            asked.push(rig.ask(b"{\"op\":\"status\"}\n").await);
        }
        for _ in 0..20 {
            let Order::Status { reply } = order(&mut rig).await else { panic!("not a status") };
            let _ = reply.send(Box::new(StatusReport { state: "serving".into(), ..StatusReport::default() }));
        }
        for mut lines in asked {
            let Some(Reply::Status { status }) = reply(&mut lines).await else { panic!("no status") };
            assert_eq!(status.state, "serving");
            assert_eq!(reply(&mut lines).await, None);
        }
    }

    #[tokio::test]
    async fn too_many_clients_are_told_so() {
        let rig = rig();
        let mut held = Vec::new();
        for _ in 0..MAX_CLIENTS {
            held.push(rig.connect().await);
        }
        let mut lines = BufReader::new(rig.connect().await).lines();
        let Some(Reply::Error { message }) = reply(&mut lines).await else { panic!("not refused") };
        assert!(message.contains("try again"), "{message}");
    }

    fn committed(id: HandoffId) -> HandoffReport {
        let mut report = super::super::progress::Progress::nothing("no reason");
        report.handoff_id = Some(id.to_string());
        report.outcome = Outcome::Committed;
        report.reason = None;
        report
    }

    #[tokio::test]
    async fn an_upgrade_shows_its_phases_then_its_result() {
        let mut rig = rig();
        let ask =
            br#"{"op":"upgrade","binary":"/x","drain_grace_ms":1,"freeze_budget_ms":2,"deadline_ms":3}"#;
        let mut lines = rig.ask(&[&ask[..], b"\n"].concat()).await;
        let Order::Upgrade { wanted: Wanted::Operator { binary, times, .. }, phases, reply: answer } =
            order(&mut rig).await
        else {
            panic!("not an upgrade")
        };
        assert_eq!((binary, times.deadline), (Some("/x".into()), Duration::from_millis(3)));
        for phase in [Phase::Spawn, Phase::Warm] {
            let event =
                PhaseEvent { handoff_id: HandoffId(1), phase, at: Duration::ZERO, note: String::new() };
            phases.send(event).expect("the client listens");
        }
        let _ = answer.send(Ok(Box::new(Done { report: committed(HandoffId(1)), child: None })));
        let mut seen = Vec::new();
        while let Some(reply) = reply(&mut lines).await {
            seen.push(match reply {
                Reply::Phase { phase, .. } => phase,
                Reply::Result { report } => format!("{:?}", report.outcome),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(seen, ["spawn", "warm", "Committed"]);
    }

    #[tokio::test]
    async fn busy_and_abort_are_final() {
        let mut rig = rig();
        let ask =
            br#"{"op":"upgrade","binary":null,"drain_grace_ms":1,"freeze_budget_ms":2,"deadline_ms":3}"#;
        let mut lines = rig.ask(&[&ask[..], b"\n"].concat()).await;
        let Order::Upgrade { reply: answer, .. } = order(&mut rig).await else { panic!("not an upgrade") };
        let _ = answer.send(Err(Refusal::Busy(HandoffId(7))));
        assert_eq!(reply(&mut lines).await, Some(Reply::Busy { handoff_id: HandoffId(7).to_string() }));

        let mut lines = rig.ask(b"{\"op\":\"abort\"}\n").await;
        let Order::Abort { reply: answer } = order(&mut rig).await else { panic!("not an abort") };
        let _ = answer.send(Aborted::Nothing("no handoff is open".into()));
        assert_eq!(reply(&mut lines).await, Some(Reply::NothingToAbort { why: "no handoff is open".into() }));
    }
}
