//! What a rig is made of.

use super::Rig;
use crate::bins::Programs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a [`Rig`] is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(super) programs: &'static Programs,
    pub(super) program: PathBuf,
    pub(super) program_args: Vec<String>,
    pub(super) run_args: Vec<String>,
    pub(super) supervisor_env: Vec<(String, String)>,
    pub(super) stateless: bool,
}

impl Setup {
    /// demo-server under `handoffctl run`, from this build.
    #[must_use]
    pub fn new(programs: &'static Programs) -> Setup {
        Setup {
            programs,
            program: programs.demo_server.clone(),
            program_args: Vec::new(),
            run_args: Vec::new(),
            supervisor_env: Vec::new(),
            stateless: false,
        }
    }

    /// Another server program.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Setup {
        self.program = program.into();
        self
    }

    /// More arguments for the server.
    #[must_use]
    pub fn program_args(mut self, args: &[&str]) -> Setup {
        self.program_args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// More arguments for `handoffctl run`.
    #[must_use]
    pub fn run_args(mut self, args: &[&str]) -> Setup {
        self.run_args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// Without a data directory: the overlap strategy.
    #[must_use]
    pub fn stateless(mut self) -> Setup {
        self.stateless = true;
        self
    }

    /// A variable of the supervisor's own environment (crash points).
    #[must_use]
    pub fn supervisor_env(mut self, key: &str, value: &str) -> Setup {
        self.supervisor_env.push((key.into(), value.into()));
        self
    }

    /// Makes the directories and starts; returns when the server answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(self) -> Rig {
        let mut rig = self.idle();
        rig.run();
        rig
    }

    /// Makes the directories and starts nothing.
    ///
    /// # Panics
    /// When the directories cannot be made.
    #[must_use]
    pub fn idle(self) -> Rig {
        let dir = tempfile::Builder::new().prefix("handoff-").tempdir().expect("a temporary directory");
        let (run_dir, data_dir, marks) =
            (dir.path().join("run"), dir.path().join("data"), dir.path().join("marks"));
        for path in [&run_dir, &data_dir, &marks] {
            std::fs::create_dir(path).expect("a directory of ours");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(path, private).expect("a directory of ours");
        }
        Rig { setup: self, addr: free_port(), run_dir, data_dir, marks, supervisor: None, starts: 0, dir }
    }
}

/// A loopback port below the range that outgoing connections take theirs from.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> SocketAddrV4 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..10_000 {
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = 20_000 + u16::try_from(n).unwrap_or(0);
        let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port on the loopback");
}
