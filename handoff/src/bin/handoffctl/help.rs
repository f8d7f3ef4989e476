//! What `--help` says beside the options: how a command behaves, examples, exit codes.

pub(crate) const LONG_HELP: &str = "\
Examples:
  Start a server under a supervisor, with its data and one listener:
    handoffctl run --run-dir /run/kv --data-dir /var/lib/kv \\
        --listen resp=127.0.0.1:6379 -- /opt/kv/demo-server --data /var/lib/kv

  Replace it by the build that now lies at the same path, or at another one:
    handoffctl upgrade --run-dir /run/kv
    handoffctl upgrade --run-dir /run/kv --binary /opt/kv-2/demo-server

  Ask a script-friendly question:
    handoffctl upgrade --run-dir /run/kv --format json | jq .freeze_ms

Exit codes:
   0  done: committed, stopped and empty, or everything as it should be
   1  status: nothing serves
   2  usage: the command line is wrong; nothing was touched
   3  no supervisor answers in this run dir
  10  upgrade aborted, the old server serves on
  11  upgrade aborted, a server had to be started from disk
  12  outcome unknown: ask `handoffctl status`, which reads the claim files
  13  busy: another upgrade or a recovery is open; run: the directories are in use
  14  upgrade: preflight failed, the server was not touched; run: cannot start
  15  upgrade --wait-probation: the new server did not stand its probation, the build before serves again
  16  abort: nothing to abort, or too late
  70  internal error";

pub(crate) const UPGRADE_HELP: &str = "\
The command waits for the end. On a terminal it shows the phases on stderr as they happen; the result goes to
stdout, as one block or, with --format json, as one object on one line (for every exit code except 2).

After the commit the new server is on probation: if it dies, makes no progress for 6 s, or says that it is not healthy
within that time, the supervisor goes back to the build before, by a handoff or, where nobody can hand over, from
disk. `status` and `history` show it as rolled_back. The next upgrade ends a probation.

Without --binary the PROGRAM of `run` is resolved again: install the new build at the same path, then upgrade.
A relative --binary is relative to your directory. Arguments and environment are those of `run`.

With --canary one request is tried on the new server when it has loaded everything and before it takes over, on a
connection that no client has: it has to answer as expected, or the old server serves on (10) and no client has noticed
anything but the pause. The same is tried every 2 s on probation, where a wrong answer takes the service back. A server
with data refuses writes before it has taken over. The server has to know canaries (else 14).

With --supervisor the supervisor becomes the handoffctl that now lies at its path, or --binary: same process, same
servers, same listeners. The new one is checked first; if it cannot take over, the old one goes on (14).

With --no-supervisor it works where the supervisor is gone for good: the server that serves gives its listeners,
arguments and environment. Afterwards it is alone again; `handoffctl run` adopts it.

Examples:
  handoffctl upgrade --run-dir /run/kv
  handoffctl upgrade --run-dir /run/kv --binary ./target/release/demo-server --freeze-budget 500ms
  handoffctl upgrade --run-dir /run/kv --format json
  handoffctl upgrade --run-dir /run/kv --canary 'PING\\r\\n=>+PONG'
  handoffctl upgrade --run-dir /run/kv --supervisor --binary /opt/handoff-2/handoffctl

Exit codes:
   0  committed: the new server serves; the new supervisor supervises
   2  usage
   3  no supervisor answers in this run dir
  10  aborted, the old server serves on
  11  aborted, a server had to be started from disk
  12  unknown: the supervisor went away before it answered; `handoffctl status` reads the claim files
  13  another upgrade is running
  14  preflight failed, the old server was not touched
  15  with --wait-probation: committed, did not stand its probation, the build before serves again
  70  internal error";

pub(crate) const RUN_HELP: &str = "\
Binds the listeners, starts PROGRAM, watches it, starts it again from disk when it dies, and answers operators on
DIR/control.sock until SIGTERM or SIGINT. Then the server drains, everything is ended, and the exit code is 0; a second
signal shortens the grace. When a supervisor died (kill -9 too), start it again with the same arguments: it
takes over the running server.

ADDR is 127.0.0.1:6379, [::1]:6379, unix:/path or udp:127.0.0.1:53. The program finds its listeners the way systemd
passes them (LISTEN_FDS, LISTEN_FDNAMES). Its environment is what --env declares, nothing else. RUST_LOG sets what is
logged on stderr (default: info).

A server that dies is started again from disk: the first time at once, then after pauses that double. When the budget
is used up, `status` says `failed` and why; the listeners stay open, so that clients wait. A program that does not come
up when a service is started for the first time, or again after a clean stop, is not tried again: exit 14.

Examples:
  handoffctl run --run-dir /run/kv --data-dir /var/lib/kv --listen resp=127.0.0.1:6379 -- demo-server --data /var/lib/kv
  handoffctl run --run-dir /run/web --listen http=[::]:8080 --env RUST_LOG=info --env HOME -- ./web

Exit codes:
   0  stopped, nothing left behind
   2  usage
  13  run dir or data dir in use by another supervisor or lineage
  14  cannot start: a directory, an address or the program is not as it must be
  70  internal error";

pub(crate) const ROLLBACK_HELP: &str = "\
A handoff in the other direction: to the newest kept build that is not the one that serves, called as it was then, from
the copy that the supervisor keeps, whatever became of the file. Builds are kept as long as one of the last claims
names them. While an upgrade is on probation it goes back to the build before that upgrade.

With --to it goes to any build that is kept: named by the epoch of one of its tenures, or by its build, path or instance id
as `status` and `history` show them, where only one build is called so. What does not fit is refused, and says which
builds there are (14).

Examples:
  handoffctl rollback --run-dir /run/kv
  handoffctl rollback --run-dir /run/kv --to 7

Exit codes:
   0  rolled back: the build before serves
   2  usage
   3  no supervisor answers in this run dir
  10  aborted, the running server serves on
  11  aborted, a server had to be started from disk
  12  unknown: the supervisor went away before it answered
  13  another upgrade is running
  14  there is nothing to go back to, or it does not fit; the running server was not touched
  70  internal error";

pub(crate) const STATUS_HELP: &str = "\
Without a supervisor it still says what journal, claim files and control sockets say, with \"supervisor\": null.

Examples:
  handoffctl status --run-dir /run/kv
  handoffctl status --run-dir /run/kv --format json | jq -r .server.pid

Exit codes:
   0  a supervisor answers, a server serves, nothing is open
   1  nothing serves
   2  usage
   3  no supervisor answers
  13  a handoff or a recovery is open
  70  internal error";

pub(crate) const ABORT_HELP: &str = "\
The old server serves on, unless the new one has claimed already. The waiting `upgrade` prints how it ended.

Examples:
  handoffctl abort --run-dir /run/kv

Exit codes:
   0  taken
   2  usage
   3  no supervisor answers
  16  nothing to abort, or too late
  70  internal error";

pub(crate) const HISTORY_HELP: &str = "\
Reads the journal of the run dir, newest handoff first; no supervisor is needed. With --format json one object a line,
in the form that `upgrade` prints.

Examples:
  handoffctl history --run-dir /run/kv
  handoffctl history --run-dir /run/kv --format json | jq -r '[.handoff_id, .outcome, .freeze_ms] | @tsv'

Exit codes:
   0  printed (nothing when there was no upgrade yet)
   2  usage
   3  there is no such run dir
  70  the journal cannot be read";
