//! Patterns of permissions and policies: RabbitMQ's regular expressions (PCRE), as far as they can be matched in
//! linear time. A pattern is found anywhere in a name unless it is anchored.
//!
//! Not taken: backreferences, and looking ahead or behind, but for what is common in policies: `^(?!…)` and `^(?=…)`
//! at the very beginning, of which there may be several.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4096;
/// The memory that one may take compiled, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A compiled pattern.
#[derive(Clone)]
pub struct Pattern(Matcher);

#[derive(Clone)]
enum Matcher {
    Anything,
    Found(Regex),
    /// All of these hold at the beginning: true, it has to match; false, it must not.
    Ahead(Vec<(bool, Regex)>),
}

/// A pattern that is not taken; says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// It is too long, too large or not understood.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(BadPattern(format!(
                "the pattern is longer than {PATTERN_BYTES_MAX} bytes"
            )));
        }
        if matches!(text, ".*" | "^.*" | "^.*$" | ".*$" | "^") {
            return Ok(Self(Matcher::Anything));
        }
        if let Some(parts) = parts_ahead(text) {
            let parts = parts.into_iter().map(|(holds, part)| {
                let anchored = format!("^(?:{part})");
                Ok((holds, compile(&anchored)?))
            });
            return Ok(Self(Matcher::Ahead(parts.collect::<Result<_, _>>()?)));
        }
        compile(text).map(Matcher::Found).map(Self)
    }

    /// Whether it is found in `name`.
    pub fn matches(&self, name: &[u8]) -> bool {
        match &self.0 {
            // `.` is no line feed, which no name can have.
            Matcher::Anything => true,
            Matcher::Found(regex) => regex.is_match(name),
            Matcher::Ahead(parts) => parts
                .iter()
                .all(|(holds, regex)| regex.is_match(name) == *holds),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Matcher::Anything => f.write_str("anything"),
            Matcher::Found(regex) => regex.fmt(f),
            Matcher::Ahead(parts) => parts.fmt(f),
        }
    }
}

fn compile(text: &str) -> Result<Regex, BadPattern> {
    let built = RegexBuilder::new(text)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .build();
    built.map_err(|error| {
        // The last line says what is wrong; those before draw where.
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        BadPattern(last.trim_start_matches("error: ").to_owned())
    })
}

/// Takes `^(?!a)(?=b)c` apart: each part, and whether it has to match at the beginning. `None`: the text does not begin so,
/// or has a choice at its outermost, to which the looking ahead belongs only half.
fn parts_ahead(text: &str) -> Option<Vec<(bool, &str)>> {
    let mut rest = text.strip_prefix('^')?;
    let mut parts = Vec::new();
    loop {
        let (holds, behind) = match (rest.strip_prefix("(?!"), rest.strip_prefix("(?=")) {
            (Some(behind), _) => (false, behind),
            (_, Some(behind)) => (true, behind),
            _ => break,
        };
        let end = end_of_group(behind)?;
        parts.push((holds, &behind[..end]));
        rest = &behind[end + 1..];
    }
    if parts.is_empty() || has_choice(rest) {
        return None;
    }
    parts.push((true, rest));
    Some(parts)
}

/// Where the parenthesis is that closes the group that `text` is in.
fn end_of_group(text: &str) -> Option<usize> {
    Outermost::of(text)
        .find(|(_, byte)| *byte == b')')
        .map(|(at, _)| at)
}

fn has_choice(text: &str) -> bool {
    Outermost::of(text).any(|(_, byte)| byte == b'|')
}

/// The bytes of a pattern that stand in no group, no class and behind no backslash.
struct Outermost<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    in_class: bool,
}

impl<'a> Outermost<'a> {
    fn of(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            at: 0,
            depth: 0,
            in_class: false,
        }
    }
}

impl Iterator for Outermost<'_> {
    type Item = (usize, u8);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.at;
            let byte = *self.text.get(at)?;
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b']' if self.in_class => self.in_class = false,
                _ if self.in_class => {}
                b'[' => self.in_class = true,
                b'(' => self.depth += 1,
                b')' if self.depth > 0 => self.depth -= 1,
                byte if self.depth == 0 => return Some((at, byte)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, names: &[&str]) -> Vec<bool> {
        let pattern = Pattern::new(pattern).expect("a good pattern");
        names
            .iter()
            .map(|it| pattern.matches(it.as_bytes()))
            .collect()
    }

    #[test]
    fn patterns_are_found_anywhere_unless_anchored() {
        let names = ["a", "ba", "b", ""];
        assert_eq!(matches("a", &names), [true, true, false, false]);
        assert_eq!(matches("^a", &names), [true, false, false, false]);
        assert_eq!(matches("^$", &names), [false, false, false, true]);
        for anything in ["", ".*", "^.*$", "^"] {
            assert_eq!(matches(anything, &names), [true; 4], "{anything}");
        }
        let any = Pattern::new("^a.*b$").expect("a good pattern");
        assert!(any.matches("aéb".as_bytes()) && !any.matches(b"a\xffc"));
    }

    #[test]
    fn looking_ahead_at_the_beginning_is_understood() {
        let names = ["amq.x", "a", "ab", "b", ""];
        assert_eq!(
            matches(r"^(?!amq\.).*", &names),
            [false, true, true, true, true]
        );
        assert_eq!(
            matches(r"^(?!amq\.)(?=a)[^)|]b$", &names),
            [false, false, true, false, false]
        );
        assert_eq!(
            matches(r"^(?!(amq|b)|a$)", &names),
            [false, false, true, false, true]
        );
    }

    #[test]
    fn what_cannot_be_matched_in_linear_time_or_is_too_large_is_refused() {
        let long = "a".repeat(PATTERN_BYTES_MAX + 1);
        let refused = [
            "(",
            "[",
            "a(?!b)",
            "^(?!a)b|c",
            "^(?!a",
            r"(a)\1",
            "(a{999}){999}",
            &long,
        ];
        for bad in refused {
            let error = Pattern::new(bad).expect_err("a bad pattern").to_string();
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
    }
}
