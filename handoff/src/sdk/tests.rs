//! Whole instances in one process, with a scripted supervisor: what they say, and what their clients see.

use super::entry::{live, prepare};
use super::environment::Supervised;
use super::world::Line;
use super::*;
use crate::ids::{HandoffId, ListenerName};
use crate::os::channel::{Channel, Received};
use crate::os::listeners::{self, Address};
use crate::os::lock::LineageLock;
use crate::wire::{Hello, HelloAck, Message, Role, Stamped, Standing};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const LIMIT: Duration = Duration::from_secs(30);

/// Answers each byte with the epoch it serves under.
#[derive(Default)]
struct Echo(Option<Serving>);

struct Serving {
    seal: watch::Sender<bool>,
    accepting: JoinHandle<JoinSet<Option<Parked>>>,
}

/// How a test wants the hooks to behave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mood {
    #[default]
    Good,
    SealPanics,
    DrainHangs,
}

static MOOD: std::sync::Mutex<Vec<(InstanceId, Mood)>> = std::sync::Mutex::new(Vec::new());

struct Moody {
    echo: Echo,
    mood: Mood,
}

impl Moody {
    async fn begin(&mut self, tenure: &Tenure, parked: Vec<Parked>) -> HookResult<()> {
        let listener = tenure.listener("echo")?;
        let (seal, mut all) = match self.echo.0.take() {
            Some(serving) => (serving.seal, serving.accepting.await?),
            None => (watch::Sender::new(false), JoinSet::new()),
        };
        let epoch = tenure.epoch().0 as u8;
        for parked in parked {
            let (connection, state) = parked.take()?;
            all.spawn(echo(connection, state, epoch, seal.subscribe()));
        }
        let sealed = seal.clone();
        let accepting = tokio::spawn(async move {
            while let Ok(Some((connection, _guard))) = listener.accept().await {
                all.spawn(echo(connection, Vec::new(), epoch, sealed.subscribe()));
            }
            all
        });
        self.echo.0 = Some(Serving { seal, accepting });
        Ok(())
    }
}

/// The state is what was received so far: each answer counts it.
async fn echo(
    mut connection: Connection,
    mut state: Vec<u8>,
    epoch: u8,
    mut seal: watch::Receiver<bool>,
) -> Option<Parked> {
    loop {
        let mut byte = [0];
        tokio::select! {
            () = sealed(&mut seal) => return Parked::park(connection, state).ok(),
            read = connection.read(&mut byte) => {
                if read.ok()? == 0 {
                    return None;
                }
                state.push(byte[0]);
                connection.write_all(&[epoch, state.len() as u8]).await.ok()?;
            }
        }
    }
}

async fn sealed(seal: &mut watch::Receiver<bool>) {
    let _ = seal.wait_for(|sealed| *sealed).await;
}

impl Successor for Moody {
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
    async fn warm(context: Context<()>) -> HookResult<Self> {
        let moods = MOOD.lock().expect("moods");
        let mood =
            moods.iter().find(|(of, _)| *of == context.instance()).map_or(Mood::Good, |(_, mood)| *mood);
        Ok(Self { echo: Echo::default(), mood })
    }
    async fn open(&mut self, _: Disk) -> HookResult<Opened> {
        Ok(Opened { healthy: true, ..Opened::default() })
    }
    async fn serve(mut self, tenure: Tenure, parked: Vec<Parked>) -> HookResult<Self> {
        self.begin(&tenure, parked).await?;
        Ok(self)
    }
}

impl Incumbent for Moody {
    async fn drain(&mut self, _: Duration) -> HookResult<DrainReport> {
        if self.mood == Mood::DrainHangs {
            std::future::pending::<()>().await;
        }
        Ok(DrainReport { open_connections: 1 })
    }
    async fn seal(&mut self, guard: SealGuard) -> HookResult<Sealed> {
        assert_ne!(self.mood, Mood::SealPanics, "as the test wants it");
        let mut parked = Vec::new();
        if let Some(serving) = self.echo.0.take() {
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
    async fn retire(self, _: Leaving) -> HookResult<()> {
        Ok(())
    }
}

/// One service: data, listener, lineage.
struct Rig {
    dir: tempfile::TempDir,
    listener: OwnedFd,
    address: std::net::SocketAddr,
    lineage: LineageLock,
}

/// One instance with the supervisor's end of its channel.
struct Started {
    channel: Channel,
    task: JoinHandle<Result<(), Error>>,
    control: PathBuf,
}

impl Started {
    async fn heard(&mut self) -> Received {
        loop {
            let received =
                tokio::time::timeout(LIMIT, self.channel.recv()).await.expect("in time").expect("a frame");
            if !matches!(received.frame.message, Message::Heartbeat { .. }) {
                return received;
            }
        }
    }

    async fn hears(&mut self) -> Message {
        self.heard().await.frame.message
    }

    fn say(&self, handoff: u128, epoch: u64, message: Message, fds: Vec<OwnedFd>) {
        let frame = Stamped { handoff: HandoffId(handoff), epoch: Epoch(epoch), message };
        self.channel.send(&frame, fds.into_iter().map(Arc::new).collect());
    }

    async fn ended(self) -> Result<(), Error> {
        tokio::time::timeout(LIMIT, self.task).await.expect("in time").expect("no panic")
    }
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let listener = listeners::bind(&"127.0.0.1:0".parse().expect("address")).expect("bind");
        let Address::Tcp(address) = listeners::address_of(listener.as_fd()).expect("address") else {
            panic!("tcp");
        };
        let claims = crate::os::claims::Claims::open(dir.path()).expect("claims");
        let lineage = LineageLock::acquire(claims.dir()).expect("ours");
        Self { dir, listener, address, lineage }
    }

    fn start(&self, role: Role, n: u128, mood: Mood) -> Started {
        let (ours, theirs) = Channel::pair().expect("pair");
        let control = self.dir.path().join(format!("{n}.sock"));
        let instance = InstanceId((self.address.port() as u128) << 32 | n);
        MOOD.lock().expect("moods").push((instance, mood));
        let supervised = Supervised {
            build: crate::claim::BuildDigest::UNKNOWN,
            role,
            instance,
            lineage: Some(self.lineage.try_clone().expect("dup")),
            control: Some(listeners::bind(&Address::Unix(control.clone())).expect("bind")),
            run_dir: None,
            data_dir: Some(self.dir.path().to_owned()),
        };
        let name = ListenerName::new("echo").expect("name");
        let listeners = vec![(name, self.listener.try_clone().expect("dup"))];
        let mut world = prepare::<Moody>(Launch::new(()), Some(supervised), listeners).expect("starts");
        world.supervisor = Some(Line::new(Channel::from_fd(theirs).expect("channel")));
        let task = tokio::spawn(live(world));
        Started { channel: Channel::from_fd(ours).expect("channel"), task, control }
    }

    async fn cold(&self, mood: Mood) -> Started {
        let mut x = self.start(Role::Cold, 1, mood);
        assert!(
            matches!(x.hears().await, Message::Hello(h) if h.role == Role::Cold && h.owner_lock.is_some())
        );
        x.say(0, 0, ack(), vec![]);
        assert_eq!(x.hears().await, Message::Active { epoch: Epoch(1) });
        x
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// A successor that is warm, with O draining for it; `process` stands in for N's.
    async fn prepare(&self, o: &Started, process: &Child) -> Started {
        let mut n = self.start(Role::Successor, 2, Mood::Good);
        let (to_o, to_n) = Channel::pair().expect("pair");
        assert!(
            matches!(n.hears().await, Message::Hello(h) if h.role == Role::Successor && h.epoch == Epoch(1))
        );
        n.say(H, 1, ack(), vec![to_n]);
        assert!(matches!(n.hears().await, Message::Warmed { .. }));
        let pidfd = processkit::pidfd_open(process.id()).expect("pidfd");
        let successor = InstanceId((self.address.port() as u128) << 32 | 2);
        let prepare = Message::PrepareHandoff {
            successor,
            deadline_ms: 30_000,
            drain_grace_ms: 1000,
            freeze_budget_ms: 20_000,
            connection_format: 1,
        };
        o.say(H, 1, prepare, vec![pidfd, to_o]);
        n
    }
}

const H: u128 = 77;

fn ack() -> Message {
    Message::HelloAck(HelloAck {
        version: 1,
        lease_ms: 60_000,
        freeze_budget_ms: 20_000,
        deadline_ms: 60_000,
        generation: 1,
        incumbent: InstanceId::NIL,
        connection_format: 1,
    })
}

fn stand_in() -> Child {
    Command::new("sleep").arg("1000").spawn().expect("sleep")
}

async fn ask(client: &mut TcpStream) -> (u8, u8) {
    client.write_all(b"x").await.expect("write");
    let mut answer = [0; 2];
    tokio::time::timeout(LIMIT, client.read_exact(&mut answer)).await.expect("in time").expect("answered");
    (answer[0], answer[1])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_commits_and_the_connection_goes_on() {
    let rig = Rig::new();
    let mut o = rig.cold(Mood::Good).await;
    let mut client = rig.connect().await;
    assert_eq!(ask(&mut client).await, (1, 1));
    let mut process = stand_in();
    let mut n = rig.prepare(&o, &process).await;
    assert_eq!(o.hears().await, Message::Drained { open: 1 });
    assert_eq!(ask(&mut client).await, (1, 2), "served until the seal");
    o.say(H, 1, Message::SealRequest, vec![]);
    let Message::SealComplete { digest, connections: 1 } = o.hears().await else { panic!("one connection") };
    // in the kernel's queue until somebody may accept
    let mut fresh = rig.connect().await;
    n.say(H, 1, Message::Begin { digest: Some(digest) }, vec![]);
    let ready = n.hears().await;
    assert!(matches!(ready, Message::Ready { healthy: true, connections: 1, .. }), "{ready:?}");
    n.say(H, 1, Message::Commit, vec![]);
    assert_eq!(n.hears().await, Message::Active { epoch: Epoch(2) });
    assert_eq!(o.hears().await, Message::Retiring);
    o.say(H, 1, Message::Retire { grace_ms: 1000 }, vec![]);
    o.ended().await.expect("retired");
    assert_eq!(ask(&mut client).await, (2, 3), "same connection, same state, next epoch");
    assert_eq!(ask(&mut fresh).await, (2, 1));
    process.kill().expect("kill");
    process.wait().expect("reaped");
    n.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_incumbent_ends_the_successor_and_resumes_with_its_connections() {
    let rig = Rig::new();
    let mut o = rig.cold(Mood::Good).await;
    let mut client = rig.connect().await;
    assert_eq!(ask(&mut client).await, (1, 1));
    let mut process = stand_in();
    let n = rig.prepare(&o, &process).await;
    assert_eq!(o.hears().await, Message::Drained { open: 1 });
    o.say(H, 1, Message::SealRequest, vec![]);
    assert!(matches!(o.hears().await, Message::SealComplete { connections: 1, .. }));
    // asked while it is sealed: no answer before the decision
    client.write_all(b"x").await.expect("write");
    o.say(H, 1, Message::Resolve, vec![]);
    // n is in this process; what O ends is its stand-in
    n.task.abort();
    tokio::task::spawn_blocking(move || process.wait()).await.expect("task").expect("ended by O");
    assert_eq!(o.hears().await, Message::Resumed { epoch: Epoch(2) });
    let mut answer = [0; 2];
    tokio::time::timeout(LIMIT, client.read_exact(&mut answer)).await.expect("in time").expect("answered");
    assert_eq!(answer, [2, 2]);
    assert_eq!(ask(&mut rig.connect().await).await, (2, 1));
    o.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_seal_it_goes_on_and_the_next_handoff_is_taken() {
    for mood in [Mood::DrainHangs, Mood::SealPanics] {
        let rig = Rig::new();
        let mut o = rig.cold(mood).await;
        let mut client = rig.connect().await;
        assert_eq!(ask(&mut client).await, (1, 1));
        let mut process = stand_in();
        let n = rig.prepare(&o, &process).await;
        if mood == Mood::DrainHangs {
            o.say(H, 1, Message::Resolve, vec![]);
            assert_eq!(o.hears().await, Message::Resumed { epoch: Epoch(1) });
        } else {
            assert_eq!(o.hears().await, Message::Drained { open: 1 });
            o.say(H, 1, Message::SealRequest, vec![]);
            let said = o.hears().await;
            assert!(
                matches!(&said, Message::SealFailed { error } if error.contains("as the test wants")),
                "{said:?}"
            );
        }
        assert_eq!(ask(&mut client).await, (1, 2));
        assert_eq!(ask(&mut rig.connect().await).await, (1, 1));
        // what is over is over
        o.say(H, 1, Message::SealRequest, vec![]);
        assert!(matches!(o.hears().await, Message::Refused(_)));
        assert_eq!(ask(&mut client).await, (1, 3));
        n.task.abort();
        process.kill().expect("kill");
        process.wait().expect("reaped");
        o.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_supervisor_finds_it_and_garbage_disturbs_nobody() {
    let rig = Rig::new();
    let o = rig.cold(Mood::Good).await;
    let mut client = rig.connect().await;
    let control = o.control.clone();
    let connect = || listeners::connect_unix(&control).expect("connected");
    // garbage, silence, a connection that goes at once
    let mut garbage = std::os::unix::net::UnixStream::from(connect());
    std::io::Write::write_all(&mut garbage, &[0xee; 500]).expect("write");
    let _silent: Vec<_> = (0..4).map(|_| connect()).collect();
    drop(connect());

    let adopt = async |generation: u64| {
        let mut s = Channel::from_fd(connect()).expect("channel");
        let hello = tokio::time::timeout(LIMIT, s.recv()).await.expect("in time").expect("hello").frame;
        let Message::Hello(hello) = hello.message else { panic!("{hello:?}") };
        let message = Message::Adopt { generation };
        s.send(&Stamped { handoff: HandoffId::NIL, epoch: Epoch::ZERO, message }, vec![]);
        let answer = tokio::time::timeout(LIMIT, s.recv()).await.expect("in time").expect("an answer");
        (hello, answer, s)
    };
    let (hello, refused, _s) = adopt(1).await;
    let Hello { role: Role::Incumbent, epoch: Epoch(1), generation: 1, .. } = *hello else {
        panic!("{hello:?}")
    };
    assert!(matches!(refused.frame.message, Message::Refused(_)), "the first supervisor is still there");
    let (_, adopted, _s) = adopt(2).await;
    let standing = Message::Adopted {
        standing: Standing::Active,
        epoch: Epoch(1),
        handoff: HandoffId::NIL,
        peer: InstanceId::NIL,
    };
    assert_eq!(adopted.frame.message, standing);
    let identities: Vec<_> = adopted.fds.iter().map(|fd| listeners::identity(fd).expect("open")).collect();
    let expected = [listeners::identity(&rig.listener), listeners::identity(&rig.lineage)];
    assert_eq!(identities, expected.map(|id| id.expect("open")));
    // the one before is cut off
    let mut o = o;
    let old = tokio::time::timeout(LIMIT, async { while o.channel.recv().await.is_ok() {} }).await;
    old.expect("the old connection ends");
    assert_eq!(ask(&mut client).await, (1, 1));
    o.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_by_hand_is_told_who_owns_the_data() {
    let dir = tempfile::tempdir().expect("tempdir");
    let launch = || Launch::new(()).data_dir(dir.path()).bind("echo", "127.0.0.1:0").build_id("one");
    let first = prepare::<Moody>(launch(), None, Vec::new()).expect("starts");
    let why = prepare::<Moody>(launch(), None, Vec::new()).expect_err("refused").to_string();
    assert!(why.contains("lineage.lock") && why.contains(&std::process::id().to_string()), "{why}");
    drop(first);
    // other tests start processes: between fork and exec each has a copy of every descriptor
    let free_again = async {
        while prepare::<Moody>(launch(), None, Vec::new()).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, free_again).await.expect("free again");
}
