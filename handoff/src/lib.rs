//! Replace the binary of a running, stateful server while clients keep their connections.
