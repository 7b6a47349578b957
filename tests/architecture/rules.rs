//! The rules: who may import whom, what the pure crates may not touch, how long a file may be.

use std::path::Path;

use crate::source::PathUse;

/// The most lines of a file that gives no reason for more.
pub const LINES_MAX: usize = 600;
/// What a longer file says near its top.
const REASON: &str = "// Long because:";
/// Lines in which the reason or the mark of a generated file must stand.
const TOP_LINES: usize = 40;

/// Modules of `src` that anyone may import and that import nothing but each other.
const LEAVES: &[&str] = &["config", "runtime", "telemetry"];

/// What a module of `src` may import besides the leaves: modules, and crates of this workspace.
const MODULES: &[(&str, &[&str])] = &[
    // The names of the durability levels.
    ("config", &["backbone_broker"]),
    ("runtime", &[]),
    ("telemetry", &[]),
    ("actor", &[]),
    ("state", &[]),
    // Logins lead to what the broker lets them do.
    ("auth", &["state", "backbone_broker"]),
    ("amqp", &["auth", "backbone_broker", "backbone_wire"]),
    // The engine builds property lists, which is the codec's work.
    // And it shows the log's numbers.
    (
        "engine",
        &["backbone_broker", "backbone_log", "backbone_wire"],
    ),
    // A stream of the log.
    ("audit", &["engine"]),
    // Users, and everything that they made.
    ("definitions", &["auth", "engine", "state"]),
    ("bus", &["engine", "state", "actor", "auth"]),
    ("workers", &["engine", "state", "actor", "auth"]),
    ("connectors", &["engine", "state", "actor", "auth"]),
    (
        "orchestrator",
        &["engine", "state", "actor", "auth", "workers"],
    ),
    ("openc2", &["orchestrator", "workers", "engine", "state"]),
    (
        "http",
        &[
            // Its registry of connections.
            "amqp",
            "audit",
            "auth",
            "bus",
            "connectors",
            "definitions",
            "engine",
            "openc2",
            "orchestrator",
            "state",
            "workers",
        ],
    ),
];

/// Where everything is put together: these may import all, and nothing imports them.
const ROOTS: &[&str] = &["lib", "main", "storage", "cli"];

/// What the crates may import of this workspace.
const CRATES: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("log", &[]),
    ("broker", &["backbone_wire", "backbone_log"]),
];

/// Paths that the pure crates may not name outside of tests, with the reason.
const IMPURE: &[(&[&str], &str)] = &[
    (&["std", "net"], "does no I/O"),
    (&["std", "fs"], "does no I/O"),
    (&["std", "thread", "spawn"], "starts no threads"),
    (&["std", "thread", "scope"], "starts no threads"),
    (&["std", "thread", "Builder"], "starts no threads"),
    (&["std", "thread", "sleep"], "waits for nothing"),
    (
        &["std", "time", "Instant"],
        "reads no clock: time is an argument",
    ),
    (&["Instant", "now"], "reads no clock: time is an argument"),
    (
        &["std", "time", "SystemTime"],
        "reads no clock: time is an argument",
    ),
    (
        &["SystemTime", "now"],
        "reads no clock: time is an argument",
    ),
    (&["tokio"], "knows no runtime"),
    (&["actix"], "knows no runtime"),
    (&["actix_rt"], "knows no runtime"),
];
/// The crates without I/O and clock.
const PURE: &[&str] = &["broker", "wire"];

/// Whose code a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A crate under `crates/`.
    Crate(&'a str),
    /// A module of `src`; `lib` and `main` for the files themselves.
    Module(&'a str),
}

impl<'a> Owner<'a> {
    /// From the path of a source file below the root of the workspace.
    pub fn of(path: &'a Path) -> Option<Self> {
        let mut parts = path.iter().filter_map(|p| p.to_str());
        match parts.next()? {
            "crates" => Some(Owner::Crate(parts.next()?)),
            "src" => parts
                .next()
                .map(|name| Owner::Module(name.trim_end_matches(".rs"))),
            _ => None,
        }
    }
}

/// Why the path may not be named here, if it may not. `modules` are the modules of `src`.
pub fn forbids(owner: Owner<'_>, path: &PathUse, modules: &[String]) -> Option<String> {
    let first = path.words.first()?.as_str();
    match owner {
        Owner::Crate(name) => forbids_crate(name, path),
        Owner::Module(name) if ROOTS.contains(&name) => (name != "main" && name != "lib")
            .then(|| target_of(path, modules))
            .flatten()
            .filter(|target| ["http", "main"].contains(&target.as_str()))
            .map(|target| format!("`{name}` may not import `{target}`: nobody does")),
        Owner::Module(name) => {
            let Some((_, allowed)) = MODULES.iter().find(|(module, _)| *module == name) else {
                return Some(format!(
                    "`{name}` has no rule: say in tests/architecture/rules.rs what it may import"
                ));
            };
            if path.in_test && first == "crate" {
                return None;
            }
            let target = target_of(path, modules)?;
            let target = target.as_str();
            let fine = target == name || LEAVES.contains(&target) || allowed.contains(&target);
            (!fine).then(|| {
                let mut list: Vec<&str> = allowed.to_vec();
                list.extend(LEAVES.iter().filter(|leaf| **leaf != name));
                format!(
                    "`{name}` may not import `{target}`, only {}",
                    list.join(", ")
                )
            })
        }
    }
}

/// What of this project a path in `src` leads to.
fn target_of(path: &PathUse, modules: &[String]) -> Option<String> {
    let first = path.words.first()?.as_str();
    if first.starts_with("backbone_") {
        return Some(first.to_owned());
    }
    if first != "crate" && first != "backbone" {
        return None;
    }
    let second = path.words.get(1)?;
    // What is no module stands in lib.rs itself, the composition root.
    let is_module = modules.iter().any(|module| module == second);
    Some(if is_module {
        second.clone()
    } else {
        "lib".into()
    })
}

fn forbids_crate(name: &str, path: &PathUse) -> Option<String> {
    let Some((_, allowed)) = CRATES.iter().find(|(krate, _)| *krate == name) else {
        return Some(format!(
            "crate `{name}` has no rule: say in tests/architecture/rules.rs what it may import"
        ));
    };
    let first = path.words.first()?.as_str();
    if (first == "backbone" || first.starts_with("backbone_"))
        && first != format!("backbone_{name}")
        && !allowed.contains(&first)
    {
        return Some(format!("crate `{name}` may not import `{first}`"));
    }
    if !PURE.contains(&name) || path.in_test {
        return None;
    }
    let (words, reason) = IMPURE.iter().find(|(words, _)| {
        words.len() <= path.words.len() && words.iter().zip(&path.words).all(|(a, b)| a == b)
    })?;
    Some(format!("crate `{name}` {reason} (`{}`)", words.join("::")))
}

/// Why the crate may not depend on `dependency`, if it may not.
pub fn forbids_dependency(krate: &str, dependency: &str) -> Option<String> {
    let path = PathUse {
        line: 0,
        words: vec![dependency.replace('-', "_")],
        in_test: false,
    };
    forbids_crate(krate, &path)
}

/// Why the file is too long, if it is.
pub fn forbids_length(text: &str) -> Option<String> {
    let lines = text.lines().count();
    let excused = text.lines().take(TOP_LINES).any(|line| {
        let line = line.trim_start();
        line.starts_with(REASON)
            || (line.starts_with("//")
                && (line.contains("@generated") || line.contains("Generated from")))
    });
    (lines > LINES_MAX && !excused)
        .then(|| format!("{lines} lines, more than {LINES_MAX}, and no `{REASON}` near the top"))
}

/// A circle in who imports whom, if there is one.
pub fn circle(edges: &[(String, String)]) -> Option<Vec<String>> {
    fn visit(edges: &[(String, String)], way: &mut Vec<String>) -> Option<Vec<String>> {
        let here = way.last()?.clone();
        for (_, to) in edges.iter().filter(|(from, _)| *from == here) {
            if let Some(start) = way.iter().position(|seen| seen == to) {
                return Some(way[start..].to_vec());
            }
            way.push(to.clone());
            if let Some(found) = visit(edges, way) {
                return Some(found);
            }
            way.pop();
        }
        None
    }
    edges
        .iter()
        .find_map(|(from, _)| visit(edges, &mut vec![from.clone()]))
}

/// The edge that a path makes between two modules of `src`, outside of tests.
pub fn edge(owner: Owner<'_>, path: &PathUse, modules: &[String]) -> Option<(String, String)> {
    let Owner::Module(from) = owner else {
        return None;
    };
    let to = target_of(path, modules)?;
    let counts = !path.in_test && to != from && !ROOTS.contains(&from) && modules.contains(&to);
    counts.then(|| (from.to_owned(), to))
}
