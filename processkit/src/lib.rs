//! Process trees that contain and reap what they start.
