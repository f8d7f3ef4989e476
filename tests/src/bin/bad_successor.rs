//! A successor of demo-server that fails in one way, chosen by the name it is called by: `bad-<mode>`.
//!
//! It is built on the real SDK, so that it fails where a real server with that mistake would. Just before its fault
//! it leaves a file named after the mode in `REACHED_DIR`: a test that never came to the fault proves nothing.

use handoff::sdk::{
    Context, Digest, Disk, DrainReport, HookError, HookResult, Incumbent, Launch, Leaving, Opened, Parked,
    SealGuard, Sealed, Service, ShardDigest, Strategy, Successor, Tenure,
};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    ExitsAtOnce,
    HangsBeforeHello,
    GarbageInsteadOfHello,
    HangsInWarm,
    CrashesInWarm,
    FailsInWarm,
    GarbageInWarm,
    CrashesInOpen,
    HangsInOpen,
    OtherDigest,
    Unhealthy,
    OtherDataDir,
    OtherListeners,
    OtherStateFormat,
    NewerStateFormat,
}

const MODES: [(&str, Mode); 15] = [
    ("exits-at-once", Mode::ExitsAtOnce),
    ("hangs-before-hello", Mode::HangsBeforeHello),
    ("garbage-instead-of-hello", Mode::GarbageInsteadOfHello),
    ("hangs-in-warm", Mode::HangsInWarm),
    ("crashes-in-warm", Mode::CrashesInWarm),
    ("fails-in-warm", Mode::FailsInWarm),
    ("garbage-in-warm", Mode::GarbageInWarm),
    ("crashes-in-open", Mode::CrashesInOpen),
    ("hangs-in-open", Mode::HangsInOpen),
    ("other-digest", Mode::OtherDigest),
    ("unhealthy", Mode::Unhealthy),
    ("other-data-dir", Mode::OtherDataDir),
    ("other-listeners", Mode::OtherListeners),
    ("other-state-format", Mode::OtherStateFormat),
    ("newer-state-format", Mode::NewerStateFormat),
];

/// Set when the program has started itself again with another environment.
const AGAIN: &str = "BAD_SUCCESSOR_AGAIN";

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let mode = name.strip_prefix("bad-").and_then(|wanted| MODES.iter().find(|(text, _)| *text == wanted));
    let Some(&(text, mode)) = mode else {
        eprintln!("{name}: call me bad-<mode>; modes: {}", MODES.map(|(text, _)| text).join(", "));
        return ExitCode::from(2);
    };
    let bad = Bad { text, mode };
    match mode {
        Mode::ExitsAtOnce => {
            bad.reached();
            return ExitCode::from(3);
        }
        Mode::HangsBeforeHello => {
            bad.reached();
            loop {
                std::thread::park();
            }
        }
        Mode::GarbageInsteadOfHello => {
            bad.reached();
            talk_garbage();
            loop {
                std::thread::park();
            }
        }
        Mode::OtherDataDir => {
            let dir = std::path::PathBuf::from(std::env::var_os("REACHED_DIR").unwrap_or_default())
                .join("other-data");
            if let Err(e) = std::fs::create_dir_all(&dir) {
                eprintln!("{}: {e}", dir.display());
            }
            if let Some(code) = bad.again("HANDOFF_DATA_DIR", &dir.to_string_lossy()) {
                return code;
            }
        }
        Mode::OtherListeners => {
            // as many names as there are descriptors: fewer would be another fault
            let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default().replace("resp", "elsewhere");
            if let Some(code) = bad.again("LISTEN_FDNAMES", &names) {
                return code;
            }
        }
        Mode::HangsInWarm
        | Mode::CrashesInWarm
        | Mode::FailsInWarm
        | Mode::GarbageInWarm
        | Mode::CrashesInOpen
        | Mode::HangsInOpen
        | Mode::OtherDigest
        | Mode::Unhealthy
        | Mode::OtherStateFormat
        | Mode::NewerStateFormat => {}
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("{name}: {e}");
            return ExitCode::FAILURE;
        }
    };
    let ended = if mode == Mode::OtherStateFormat {
        // no build that is compared with it reads this format, and it reads none of theirs
        bad.reached();
        runtime.block_on(handoff::sdk::serve::<Broken<4711, 4711>>(Launch::new(bad).build_id(text)))
    } else if mode == Mode::NewerStateFormat {
        // it reads what is there, and nobody else reads what it writes
        runtime.block_on(handoff::sdk::serve::<Broken<1, 4711>>(Launch::new(bad).build_id(text)))
    } else {
        runtime.block_on(handoff::sdk::serve::<Broken<1, 1>>(Launch::new(bad).build_id(text)))
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bad {
    text: &'static str,
    mode: Mode,
}

impl Bad {
    /// Leaves word that the fault comes now.
    fn reached(&self) {
        if let Some(dir) = std::env::var_os("REACHED_DIR") {
            let path = Path::new(&dir).join(self.text);
            if let Err(e) = std::fs::write(&path, b"") {
                eprintln!("{}: {e}", path.display());
            }
        }
    }

    /// Becomes itself with one variable changed; `None` when that has already happened.
    fn again(&self, key: &str, value: &str) -> Option<ExitCode> {
        if std::env::var_os(AGAIN).is_some() {
            return None;
        }
        self.reached();
        let own = std::env::args_os().next().unwrap_or_default();
        let e = Command::new("/proc/self/exe")
            .arg0(own)
            .args(std::env::args_os().skip(1))
            .env(key, value)
            .env(AGAIN, "1")
            .exec();
        eprintln!("{}: exec: {e}", self.text);
        Some(ExitCode::FAILURE)
    }
}

/// Writes what is no frame to the supervisor.
fn talk_garbage() {
    let fd = std::env::var("HANDOFF_SOCK_FD").ok().and_then(|text| text.parse().ok());
    match fd.map(|fd| nix::sys::socket::send(fd, &[0xff; 4096], nix::sys::socket::MsgFlags::empty())) {
        Some(Ok(_)) => {}
        other => eprintln!("nobody to talk garbage to: {other:?}"),
    }
}

/// The service as demo-server declares it, but for the state format.
struct Broken<const READS: u32, const WRITES: u32>(Bad);

impl<const READS: u32, const WRITES: u32> Successor for Broken<READS, WRITES> {
    type Config = Bad;
    type Incumbent = Never;
    const SERVICE: Service = Service {
        name: "demo-server",
        strategy: Strategy::Exclusive,
        state_reads: &[READS, WRITES],
        state_writes: WRITES,
        connection_reads: &[1],
        connection_writes: 1,
    };

    async fn warm(ctx: Context<Bad>) -> HookResult<Self> {
        let bad = *ctx.config();
        match bad.mode {
            Mode::HangsInWarm => {
                bad.reached();
                std::future::pending().await
            }
            Mode::CrashesInWarm => {
                bad.reached();
                std::process::abort()
            }
            Mode::FailsInWarm => {
                bad.reached();
                Err(HookError::new("this build cannot load anything"))
            }
            Mode::GarbageInWarm => {
                bad.reached();
                talk_garbage();
                std::future::pending().await
            }
            Mode::ExitsAtOnce
            | Mode::HangsBeforeHello
            | Mode::GarbageInsteadOfHello
            | Mode::CrashesInOpen
            | Mode::HangsInOpen
            | Mode::OtherDigest
            | Mode::Unhealthy
            | Mode::OtherDataDir
            | Mode::OtherListeners
            | Mode::OtherStateFormat
            | Mode::NewerStateFormat => Ok(Self(bad)),
        }
    }

    async fn open(&mut self, _disk: Disk) -> HookResult<Opened> {
        let bad = self.0;
        bad.reached();
        match bad.mode {
            Mode::CrashesInOpen => std::process::abort(),
            Mode::HangsInOpen => std::future::pending().await,
            // right in everything else: demo-server's digest of a store that nobody has written to
            Mode::Unhealthy => Ok(Opened {
                digest: Digest { format: READS, generation: 1, shards: vec![ShardDigest::default(); 2] },
                healthy: false,
                ..Opened::default()
            }),
            _ => Ok(Opened {
                digest: Digest { format: READS, generation: 4711, shards: Vec::new() },
                ..Opened::default()
            }),
        }
    }

    async fn serve(self, _tenure: Tenure, _parked: Vec<Parked>) -> HookResult<Never> {
        Err(HookError::new("a bad successor never serves"))
    }
}

/// What a bad successor never becomes.
#[derive(Debug)]
struct Never;

impl Incumbent for Never {
    async fn drain(&mut self, _grace: Duration) -> HookResult<DrainReport> {
        Err(HookError::new("never serves"))
    }

    async fn seal(&mut self, _guard: SealGuard) -> HookResult<Sealed> {
        Err(HookError::new("never serves"))
    }

    async fn verify(&mut self, _disk: Disk) -> HookResult<Digest> {
        Err(HookError::new("never serves"))
    }

    async fn resume(&mut self, _tenure: Tenure, _parked: Vec<Parked>) -> HookResult<()> {
        Err(HookError::new("never serves"))
    }

    async fn retire(self, _: Leaving) -> HookResult<()> {
        Ok(())
    }
}
