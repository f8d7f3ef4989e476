//! For tests of this layer.

/// A test cannot run here: says what is missing, and fails where everything has to be there.
///
/// # Panics
/// With `HANDOFF_REQUIRE_ALL=1`.
pub(crate) fn lacks(what: &str) {
    let text = format!("not tested here, needs {what}");
    assert!(std::env::var_os("HANDOFF_REQUIRE_ALL").is_none_or(|v| v != "1"), "{text}");
    eprintln!("{text}");
}
