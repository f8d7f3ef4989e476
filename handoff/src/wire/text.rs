//! Text from peers: cut to a limit, and made harmless before a log, a terminal or JSON.

/// The most bytes of a build id.
pub const MAX_BUILD: usize = 128;
/// The most bytes of a service's name.
pub const MAX_SERVICE: usize = 64;
/// The most bytes of a reason, an error, or anything else that people read.
pub const MAX_REASON: usize = 1024;

/// The longest beginning of `text` that has at most `max` bytes and ends between two characters.
#[must_use]
pub fn clip(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// The text with everything made visible that could steer a terminal, break a line or reorder what is read.
///
/// Control characters, bidirectional controls, line separators, zero-width and byte-order marks become `\u{..}`.
/// Escaping twice is escaping once.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_gets_through() {
        let nasty = "a\u{1b}[31mb\nc\u{202e}d\u{9b}e\u{2066}f\u{200d}";
        let safe = escape(nasty);
        assert_eq!(safe, r"a\u{1b}[31mb\u{a}c\u{202e}d\u{9b}e\u{2066}f\u{200d}");
        assert_eq!(escape(&safe), safe);
        assert_eq!(escape("plain ü 漢 'text' {1}"), "plain ü 漢 'text' {1}");
    }

    #[test]
    fn a_cut_falls_between_characters() {
        assert_eq!(clip("äöü", 3), "ä");
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("äöü", 0), "");
    }
}
