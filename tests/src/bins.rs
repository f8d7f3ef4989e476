//! The programs under test, built once per process. Nobody assumes a target folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the programs of one build lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// `handoffctl`
    pub handoffctl: PathBuf,
    /// `demo-server`
    pub demo_server: PathBuf,
    /// `bad-successor`, called by the name of one of its modes (see [`Programs::bad`]).
    pub bad_successor: PathBuf,
    /// `overlap-server`; called `overlap-mute` it takes no connections over.
    pub overlap_server: PathBuf,
    /// `exclusive-server`; what it is called by says what is wrong with it.
    pub exclusive_server: PathBuf,
}

/// Which build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// As the tests themselves are built.
    Plain,
    /// What users get.
    Release,
    /// With crash points, in a target folder of its own: features of one build must not leak into another.
    Crash,
}

impl Programs {
    /// Builds what is missing or old. Cheap from the second time on.
    ///
    /// # Panics
    /// When cargo cannot build them: there is nothing to test then.
    #[must_use]
    pub fn of(build: Build) -> &'static Programs {
        static PLAIN: OnceLock<Programs> = OnceLock::new();
        static RELEASE: OnceLock<Programs> = OnceLock::new();
        static CRASH: OnceLock<Programs> = OnceLock::new();
        match build {
            Build::Plain if cfg!(debug_assertions) => PLAIN.get_or_init(|| make(false, None)),
            Build::Plain | Build::Release => RELEASE.get_or_init(|| make(true, None)),
            Build::Crash => CRASH.get_or_init(|| {
                make(!cfg!(debug_assertions), Some("handoff/crash-points,demo-server/crash-points"))
            }),
        }
    }

    /// The bad successor that fails as `mode` says: a program chooses its fault by the name it is called by, since
    /// an upgrade keeps arguments and environment.
    ///
    /// # Panics
    /// When the link cannot be made.
    #[must_use]
    pub fn bad(&self, mode: &str) -> PathBuf {
        self.named(&self.bad_successor, &format!("bad-{mode}"))
    }

    /// The same program at another path, as after an installation.
    ///
    /// # Panics
    /// When the link cannot be made.
    #[must_use]
    pub fn named(&self, program: &Path, name: &str) -> PathBuf {
        static LINKS: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one_at_a_time = LINKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = program.parent().expect("a program lies in a directory").join("named");
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let link = dir.join(name);
        let temporary = dir.join(format!("{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        std::fs::hard_link(program, &temporary).unwrap_or_else(|e| panic!("{}: {e}", temporary.display()));
        std::fs::rename(&temporary, &link).unwrap_or_else(|e| panic!("{}: {e}", link.display()));
        // rename(2) does nothing when both are links to the same file
        let _ = std::fs::remove_file(&temporary);
        link
    }
}

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// The target folder of the cargo that runs us.
#[must_use]
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

fn make(release: bool, features: Option<&str>) -> Programs {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = if features.is_some() { target().join("crash") } else { target() };
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).arg("build").arg("--quiet").arg("--target-dir").arg(&target);
    for package in ["handoff", "demo-server", "handoff-tests"] {
        command.args(["--package", package]);
    }
    for program in ["handoffctl", "demo-server", "bad-successor", "overlap-server", "exclusive-server"] {
        command.args(["--bin", program]);
    }
    if release {
        command.arg("--release");
    }
    if let Some(features) = features {
        command.args(["--features", features]);
    }
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
    let dir = target.join(if release { "release" } else { "debug" });
    let program = |name: &str| {
        let path = dir.join(name);
        assert!(path.is_file(), "cargo build left no {}", path.display());
        path
    };
    Programs {
        handoffctl: program("handoffctl"),
        demo_server: program("demo-server"),
        bad_successor: program("bad-successor"),
        overlap_server: program("overlap-server"),
        exclusive_server: program("exclusive-server"),
    }
}
