//! Reads Rust source as far as the rules need it: which paths a file names, on which line, and
//! whether that is test code.
//!
//! A small lexer instead of a parser: comments, strings and character literals are dropped, what is
//! left becomes words and punctuation. It reads `use` groups, paths in the middle of code, `super::`
//! through files and inline modules, and code under `#[cfg(test)]`. What macros make is not seen.

/// A path that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathUse {
    /// The line of its last known word, from 1.
    pub line: usize,
    /// The first words, absolute: a crate's name, or `crate` and the words behind it.
    pub words: Vec<String>,
    /// Whether it stands under `#[cfg(test)]`.
    pub in_test: bool,
}

/// What one file says.
#[derive(Debug, Default)]
pub struct Source {
    /// Paths that start with `crate`, `self`, `super` or any word that another `::` follows.
    pub paths: Vec<PathUse>,
    /// Modules that are declared without a body under `#[cfg(test)]`.
    pub test_modules: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// Reads the text of the file whose module is `module` (without `crate`).
pub fn read(text: &str, module: &[&str]) -> Source {
    let tokens = lex(text);
    let mut reader = Reader {
        tokens: &tokens,
        inline: Vec::new(),
        module,
        test_until: 0,
        source: Source::default(),
    };
    reader.read();
    reader.source
}

struct Reader<'a> {
    tokens: &'a [Token],
    module: &'a [&'a str],
    /// Inline modules around the present position: their name and where they end.
    inline: Vec<(String, usize)>,
    /// Where the present test code ends.
    test_until: usize,
    source: Source,
}

impl Reader<'_> {
    fn read(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            self.inline.retain(|(_, end)| at < *end);
            at = self.step(at);
        }
    }

    /// Looks at the token at `at`; gives where to go on.
    fn step(&mut self, at: usize) -> usize {
        if self.is(at, "#") {
            return self.attribute(at);
        }
        if self.is(at, "mod") && self.is_word(at + 1) {
            let name = self.tokens[at + 1].text.clone();
            if self.is(at + 2, "{") {
                self.inline.push((name, self.closing(at + 2)));
            } else if self.is(at + 2, ";") && at < self.test_until {
                self.source.test_modules.push(name);
            }
            return at + 2;
        }
        if self.is(at, "use") {
            let start = at + 1 + usize::from(self.is(at + 1, "::"));
            return self.tree(start, &[], true);
        }
        let starts_path = self.is_word(at) && self.is(at + 1, "::");
        if starts_path && !(at > 0 && self.is(at - 1, "::") && at > 1 && self.is_word(at - 2)) {
            return self.tree(at, &[], false);
        }
        at + 1
    }

    /// Reads a path, or a group of them, behind `prefix`; gives where it ends.
    fn tree(&mut self, mut at: usize, prefix: &[String], is_use: bool) -> usize {
        let mut words = prefix.to_vec();
        let mut line = self.tokens.get(at).map_or(0, |t| t.line);
        loop {
            if self.is(at, "{") {
                return self.group(at, &words, is_use);
            }
            if !self.is_word(at) && !self.is(at, "*") {
                break;
            }
            line = self.tokens[at].line;
            words.push(self.tokens[at].text.clone());
            at += 1;
            if !self.is(at, "::") {
                break;
            }
            // `Vec::<T>::new`: what stands in the angle brackets is read as code.
            if self.is(at + 1, "<") {
                break;
            }
            at += 1;
        }
        self.note(&words, line, at);
        at
    }

    fn group(&mut self, open: usize, prefix: &[String], is_use: bool) -> usize {
        let end = self.closing(open);
        let mut at = open + 1;
        while at < end - 1 {
            let next = self.tree(at, prefix, is_use);
            // Over `as name` and the comma.
            at = next.max(at + 1);
            while at < end - 1 && !self.is(at - 1, ",") {
                at += 1;
            }
        }
        end
    }

    fn note(&mut self, words: &[String], line: usize, at: usize) {
        if let Some(words) = self.absolute(words) {
            self.source.paths.push(PathUse {
                line,
                words,
                in_test: at <= self.test_until,
            });
        }
    }

    /// Turns `self` and `super` into `crate` and the words behind it.
    fn absolute(&self, words: &[String]) -> Option<Vec<String>> {
        let first = words.first()?;
        if first != "self" && first != "super" {
            return Some(words.to_vec());
        }
        let inline = self.inline.iter().map(|(name, _)| name.clone());
        let mut base: Vec<String> = self.module.iter().map(|m| (*m).to_owned()).collect();
        base.extend(inline);
        let mut rest = words;
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            rest = others;
        }
        let mut all = vec!["crate".to_owned()];
        all.extend(base);
        all.extend(rest.iter().cloned());
        Some(all)
    }

    /// Reads an attribute; `#[cfg(test)]` makes test code of the next item, `#![cfg(test)]` of all.
    fn attribute(&mut self, at: usize) -> usize {
        let inner = self.is(at + 1, "!");
        let open = at + 1 + usize::from(inner);
        if !self.is(open, "[") {
            return at + 1;
        }
        let end = self.closing(open);
        let words: Vec<&str> = self.tokens[open + 1..end - 1]
            .iter()
            .map(|t| t.text.as_str())
            .collect();
        let is_test = matches!(words[..], ["cfg", "(", "test", ")"] | ["test"])
            || matches!(words[..], ["cfg", "(", "all", "(", "test", ",", ..]);
        if is_test {
            let until = if inner {
                self.tokens.len()
            } else {
                self.item_end(end)
            };
            self.test_until = self.test_until.max(until);
        }
        end
    }

    /// Where the item that starts at `at` ends: behind its `;` or its block.
    fn item_end(&self, mut at: usize) -> usize {
        while at < self.tokens.len() {
            match self.tokens[at].text.as_str() {
                ";" => return at + 1,
                "{" if !self.is(at - 1, "::") => return self.closing(at),
                "(" | "[" | "{" => at = self.closing(at),
                _ => at += 1,
            }
        }
        at
    }

    /// Behind the bracket that closes the one at `open`.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at + 1;
            }
        }
        self.tokens.len()
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| t.text == text)
    }

    fn is_word(&self, at: usize) -> bool {
        self.tokens
            .get(at)
            .is_some_and(|t| t.text.starts_with(|c: char| c.is_alphabetic() || c == '_'))
    }
}

/// Splits source into words, `::` and single characters, without comments and literals.
fn lex(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let rest = &chars[at..];
        match rest {
            ['/', '/', ..] => at += until(rest, |r| r.starts_with(&['\n'])),
            ['/', '*', ..] => at += block_comment(rest),
            ['"', ..] => at += string(rest),
            ['b' | 'c', '"', ..] => at += 1 + string(&rest[1..]),
            ['\'', ..] => at += quote(rest),
            ['b', '\'', ..] => at += 1 + quote(&rest[1..]),
            [c, ..] if c.is_alphabetic() || *c == '_' => {
                if let Some(length) = raw_string(rest) {
                    at += length;
                } else {
                    let raw = if rest.starts_with(&['r', '#']) { 2 } else { 0 };
                    let length = until(&rest[raw..], |r| !(r[0].is_alphanumeric() || r[0] == '_'));
                    let text = rest[raw..raw + length].iter().collect();
                    tokens.push(Token { text, line });
                    at += raw + length.max(1);
                }
            }
            [':', ':', ..] => {
                let text = "::".to_owned();
                tokens.push(Token { text, line });
                at += 2;
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    let text = c.to_string();
                    tokens.push(Token { text, line });
                }
                at += 1;
            }
            [] => break,
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// How many characters come before `stop` holds, or the end.
fn until(chars: &[char], stop: impl Fn(&[char]) -> bool) -> usize {
    (0..chars.len())
        .find(|at| stop(&chars[*at..]))
        .unwrap_or(chars.len())
}

fn block_comment(chars: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the string literal at the front.
fn string(chars: &[char]) -> usize {
    let mut at = 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// The length of the raw string at the front, if there is one.
fn raw_string(chars: &[char]) -> Option<usize> {
    let prefix = chars
        .iter()
        .take_while(|c| matches!(c, 'b' | 'c' | 'r'))
        .count();
    let hashes = chars[prefix..].iter().take_while(|c| **c == '#').count();
    let start = prefix + hashes;
    let is_raw = (1..=2).contains(&prefix) && chars[prefix - 1] == 'r';
    if !is_raw || chars.get(start) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(vec!['#'; hashes]);
    let length = start + 1 + until(&chars[start + 1..], |r| r.starts_with(&end));
    Some((length + end.len()).min(chars.len()))
}

/// The length of the character literal at the front, or of the quote of a lifetime.
fn quote(chars: &[char]) -> usize {
    match chars {
        ['\'', '\\', _, rest @ ..] => 3 + until(rest, |r| r[0] == '\'') + 1,
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let source = read(text, &["bus", "client"]);
        source
            .paths
            .iter()
            .map(|p| {
                let mark = if p.in_test { " (test)" } else { "" };
                format!("{}:{}{mark}", p.line, p.words.join("::"))
            })
            .collect()
    }

    #[test]
    fn paths_are_found_wherever_they_stand() {
        assert_eq!(paths("use crate::http::Server;"), ["1:crate::http::Server"]);
        assert_eq!(
            paths("use crate::{\n  http,\n  bus::{self as b, Client as C},\n};"),
            [
                "2:crate::http",
                "3:crate::bus::self",
                "3:crate::bus::Client"
            ]
        );
        assert_eq!(paths("fn f() -> crate::cli::X { }"), ["1:crate::cli::X"]);
        assert_eq!(
            paths("pub use ::backbone_broker as b;"),
            ["1:backbone_broker"]
        );
        assert_eq!(
            paths("let x = Vec::<crate::http::A>::new();"),
            ["1:Vec", "1:crate::http::A"]
        );
        assert_eq!(paths("pub(crate) fn f() {}"), [""; 0]);
    }

    #[test]
    fn relative_paths_become_absolute() {
        assert_eq!(paths("use super::super::http;"), ["1:crate::http"]);
        assert_eq!(paths("use super::flow;"), ["1:crate::bus::flow"]);
        assert_eq!(
            paths("mod a { use super::super::x; }\nuse self::y;"),
            ["1:crate::bus::x", "2:crate::bus::client::y"]
        );
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "// crate::http\n/* crate::a /* crate::b */ crate::c */\n\
                    let a = \"crate::d \\\" crate::e\"; let b = r#\"crate::f \" \"#;\n\
                    let c: &'static str = '\"'; let d = b'\\''; let e = '\\u{1F600}'; crate::g::h();";
        assert_eq!(paths(text), ["4:crate::g::h"]);
    }

    #[test]
    fn test_code_is_marked_up_to_its_end() {
        let text =
            "#[cfg(test)]\n#[path = \"x\"]\nmod tests {\n use crate::a::b;\n}\nuse crate::c::d;";
        assert_eq!(paths(text), ["4:crate::a::b (test)", "6:crate::c::d"]);
        let text = "#[cfg(test)]\nuse crate::{a, b};\nuse crate::c;";
        assert_eq!(
            paths(text),
            ["2:crate::a (test)", "2:crate::b (test)", "3:crate::c"]
        );
        let text = "#[cfg(not(test))]\nuse crate::a;";
        assert_eq!(paths(text), ["2:crate::a"]);
        let text = "#![cfg(test)]\nuse crate::a;";
        assert_eq!(paths(text), ["2:crate::a (test)"]);
    }

    #[test]
    fn test_modules_in_files_of_their_own_are_known() {
        let source = read("#[cfg(test)]\nmod model;\nmod real;", &[]);
        assert_eq!(source.test_modules, ["model"]);
    }
}
