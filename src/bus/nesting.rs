//! How deep JSON is nested. Parsers end at some depth, Python's at about a thousand: one message that is
//! deeper would make a whole answer of `/receive` unreadable, and the messages beside it lost.

/// Lists and objects within each other that a payload may have.
pub const NESTING_MAX: usize = 500;

/// Whether valid JSON is nested deeper than [`NESTING_MAX`].
pub fn is_too_deep(json: &str) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match (in_text, byte) {
            _ if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > NESTING_MAX {
                    return true;
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_brackets_outside_of_texts_count() {
        let lists = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(!is_too_deep(&lists(NESTING_MAX)));
        assert!(is_too_deep(&lists(NESTING_MAX + 1)));
        assert!(!is_too_deep(&format!("[{}1]", "[{}],".repeat(NESTING_MAX))));
        assert!(!is_too_deep(&format!(
            "\"{}\"",
            "[".repeat(NESTING_MAX + 1)
        )));
        let quoted = format!("{{\"\\\"{}\":\"\\\\\"}}", "[".repeat(NESTING_MAX + 1));
        assert!(!is_too_deep(&quoted), "{quoted}");
        let after = format!("[\"\\\\\",{}]", lists(NESTING_MAX));
        assert!(is_too_deep(&after));
    }
}
