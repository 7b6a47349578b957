//! Licences: every package in the tree can be used under licences that we accept.

/// Licences that ask for no more than notices, or for changes to their own files only.
const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Whether an SPDX expression can be met with the licences that we accept. A slash means `OR`, as
/// in old manifests. An exception (`WITH`) only ever permits more.
pub fn acceptable(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at) == Some(true) && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut met = all_of(words, at)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at)?;
    }
    Some(met)
}

fn all_of(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut met = one(words, at)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at)?;
    }
    Some(met)
}

fn one(words: &[&str], at: &mut usize) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        let met = any_of(words, at)?;
        return (words.get(*at) == Some(&")")).then(|| {
            *at += 1;
            met
        });
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    (!matches!(word, "AND" | "OR" | "WITH" | ")")).then(|| ALLOWED.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::acceptable;

    #[test]
    fn expressions_are_read_as_spdx_has_them() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "Unlicense OR MIT",
        ] {
            assert!(acceptable(good), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "GPL-2.0 OR AGPL-3.0",
            "MIT OR GPL-3.0 AND LGPL-3.0 AND (",
            "",
            "MIT Apache-2.0",
            "AND",
        ] {
            assert!(!acceptable(bad), "{bad}");
        }
    }
}
