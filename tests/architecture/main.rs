//! Keeps the architecture: import directions, lengths of files, licences.
//!
//! Each finding names the file, the line and the rule; the rules themselves are in `rules.rs`. The
//! last tests break every rule in a snippet, so that a rule that no longer bites is noticed.

mod licences;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rules::Owner;

/// A source file, by its path below the root of the workspace.
struct File {
    path: PathBuf,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of `src` and of the crates' `src`.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    for krate in children(&root().join("crates")) {
        collect(&krate.join("src"), &mut files);
    }
    assert!(files.len() >= 5, "only {} files found", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    for path in children(folder) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("source files are readable text");
            let path = path.strip_prefix(root()).expect("below the root").into();
            files.push(File { path, text });
        }
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    paths.sort();
    paths
}

/// The module of a file below its `src`, without `crate`: `bus/client.rs` is `bus::client`.
fn module_of(path: &Path) -> Vec<&str> {
    let below = path.iter().filter_map(|p| p.to_str());
    let mut parts: Vec<&str> = below.skip_while(|p| *p != "src").skip(1).collect();
    let last = parts.pop().unwrap_or_default().trim_end_matches(".rs");
    if !matches!(last, "mod" | "lib" | "main") {
        parts.push(last);
    }
    parts
}

/// All findings about imports.
fn check_imports(files: &[File]) -> Vec<String> {
    let modules: BTreeSet<String> = files
        .iter()
        .filter(|f| f.path.starts_with("src"))
        .filter_map(|f| module_of(&f.path).first().map(ToString::to_string))
        .collect();
    let modules: Vec<String> = modules.into_iter().collect();
    let sources: Vec<_> = files
        .iter()
        .map(|f| source::read(&f.text, &module_of(&f.path)))
        .collect();
    let test_folders = test_modules(files, &sources);
    let (mut findings, mut edges) = (Vec::new(), Vec::new());
    for (file, source) in files.iter().zip(sources) {
        let Some(owner) = Owner::of(&file.path) else {
            continue;
        };
        let module = file.path.with_extension("");
        let is_test = test_folders.iter().any(|test| module.starts_with(test));
        for mut path in source.paths {
            path.in_test |= is_test;
            if let Some(rule) = rules::forbids(owner, &path, &modules) {
                findings.push(format!("{}:{}: {rule}", file.path.display(), path.line));
            }
            edges.extend(rules::edge(owner, &path, &modules));
        }
    }
    if let Some(circle) = rules::circle(&edges) {
        findings.push(format!("src: a circle: {}", circle.join(" → ")));
    }
    findings
}

/// Modules in files of their own that exist in tests only, as paths without `.rs`.
fn test_modules(files: &[File], sources: &[source::Source]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (file, source) in files.iter().zip(sources) {
        let stem = file.path.file_stem().and_then(|s| s.to_str());
        let folder = match stem {
            Some("mod" | "lib" | "main") => file.path.parent().map(Path::to_path_buf),
            _ => Some(file.path.with_extension("")),
        };
        let Some(folder) = folder else { continue };
        found.extend(source.test_modules.iter().map(|name| folder.join(name)));
    }
    found
}

/// All findings about what the manifest of a crate names.
fn check_manifest(krate: &str, text: &str) -> Vec<String> {
    let manifest: toml::Table = text.parse().expect("manifests are valid TOML");
    let mut tables = vec![&manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let mut findings = Vec::new();
    for dependencies in tables
        .iter()
        .flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()))
    {
        for (name, value) in dependencies {
            let package = value.get("package").and_then(toml::Value::as_str);
            let package = package.unwrap_or(name);
            if let Some(rule) = rules::forbids_dependency(krate, package) {
                let line = text.lines().position(|l| l.starts_with(name.as_str()));
                let line = line.map_or(0, |l| l + 1);
                findings.push(format!("crates/{krate}/Cargo.toml:{line}: {rule}"));
            }
        }
    }
    findings
}

fn assert_none(findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

#[test]
fn imports_go_in_the_agreed_directions_only() {
    assert_none(&check_imports(&files()));
}

#[test]
fn crates_depend_on_what_they_may() {
    let mut findings = Vec::new();
    for krate in children(&root().join("crates")) {
        let name = krate.file_name().and_then(|n| n.to_str());
        let text = fs::read_to_string(krate.join("Cargo.toml")).expect("each crate has a manifest");
        findings.extend(check_manifest(
            name.expect("crates have plain names"),
            &text,
        ));
    }
    assert_none(&findings);
}

#[test]
fn no_file_is_long_without_a_reason() {
    let findings: Vec<String> = files()
        .iter()
        .filter_map(|f| {
            Some(format!(
                "{}:1: {}",
                f.path.display(),
                rules::forbids_length(&f.text)?
            ))
        })
        .collect();
    assert_none(&findings);
}

#[test]
fn every_package_has_an_acceptable_licence() {
    let host = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let host = String::from_utf8(host.stdout).expect("rustc writes text");
    let host = host.lines().find_map(|l| l.strip_prefix("host: "));
    // Packages for other platforms need not be on this machine.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", host.expect("rustc names its host")])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    assert!(packages.len() > 5, "only {} packages", packages.len());
    let findings: Vec<String> = packages
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(licences::acceptable))
        .map(|p| format!("{} {}: licence {}", p["name"], p["version"], p["license"]))
        .collect();
    assert_none(&findings);
}

mod violations {
    use super::*;

    /// Findings about a tree that consists of these files only.
    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = files
            .iter()
            .map(|(path, text)| File {
                path: path.into(),
                text: (*text).to_owned(),
            })
            .collect();
        check_imports(&files)
    }

    #[test]
    fn every_forbidden_import_is_caught_with_its_file_and_line() {
        for (path, text, wanted) in [
            (
                "src/bus/client.rs",
                "\nuse crate::http::Server;",
                "src/bus/client.rs:2: `bus` may not import `http`",
            ),
            (
                "src/bus/client.rs",
                "use crate::{engine, cli::Args};",
                "`bus` may not import `cli`",
            ),
            (
                "src/bus/mod.rs",
                "fn f() { super::amqp::listen(); }",
                "`bus` may not import `amqp`",
            ),
            (
                "src/bus/mod.rs",
                "use backbone_broker::Queue;",
                "`bus` may not import `backbone_broker`",
            ),
            (
                "src/bus/mod.rs",
                "use crate::run;",
                "`bus` may not import `lib`",
            ),
            (
                "src/amqp/mod.rs",
                "use crate::state::Store;",
                "`amqp` may not import `state`",
            ),
            (
                "src/amqp/mod.rs",
                "use backbone_log::Arena;",
                "`amqp` may not import `backbone_log`",
            ),
            (
                "src/config.rs",
                "use crate::auth::User;",
                "`config` may not import `auth`",
            ),
            (
                "src/bus/mod.rs",
                "use crate::amqp::Listener;",
                "`bus` may not import `amqp`",
            ),
            (
                "src/cli/mod.rs",
                "use crate::http::Server;",
                "`cli` may not import `http`",
            ),
            (
                "src/novel/mod.rs",
                "use crate::bus::X;",
                "`novel` has no rule",
            ),
            (
                "crates/wire/src/lib.rs",
                "use backbone_broker::X;",
                "crate `wire` may not import `backbone_broker`",
            ),
            (
                "crates/log/src/lib.rs",
                "use backbone_wire::X;",
                "crate `log` may not import `backbone_wire`",
            ),
            (
                "crates/broker/src/a.rs",
                "use backbone::bus;",
                "crate `broker` may not import `backbone`",
            ),
            (
                "crates/broker/src/a.rs",
                "use std::{net::TcpStream};",
                "does no I/O",
            ),
            (
                "crates/broker/src/a.rs",
                "let now = std::time::Instant::now();",
                "reads no clock",
            ),
            (
                "crates/wire/src/a.rs",
                "let now = Instant::now();",
                "reads no clock",
            ),
            (
                "crates/extra/src/lib.rs",
                "use std::fmt;",
                "crate `extra` has no rule",
            ),
        ] {
            let modules = ["amqp", "auth", "bus", "cli", "engine", "http", "state"];
            let mut tree: Vec<(String, &str)> = modules
                .iter()
                .map(|module| (format!("src/{module}/empty.rs"), ""))
                .collect();
            tree.push((path.to_owned(), text));
            let tree: Vec<(&str, &str)> = tree.iter().map(|(p, t)| (p.as_str(), *t)).collect();
            let found = findings(&tree);
            assert!(
                found.len() == 1 && found[0].contains(wanted) && found[0].starts_with(path),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_allowed_is_not_caught() {
        let tree = [
            (
                "src/lib.rs",
                "pub mod http; use crate::http::X; use backbone_log::Arena;",
            ),
            ("src/main.rs", "fn main() { backbone::cli::main(); }"),
            (
                "src/cli/mod.rs",
                "use crate::config::Config; fn f() { crate::run(); }",
            ),
            ("src/config/mod.rs", ""),
            (
                "src/http/mod.rs",
                "use crate::{bus, telemetry}; #[cfg(test)] mod tests { use crate::amqp::X; }",
            ),
            (
                "src/bus/mod.rs",
                "#[cfg(test)] mod model; mod client; use client::X; // crate::http",
            ),
            ("src/bus/model.rs", "use crate::http::Server;"),
            ("src/bus/client.rs", "use super::X; use crate::bus::Y;"),
            (
                "src/amqp/mod.rs",
                "use backbone_broker::X; use crate::auth::Y;",
            ),
            ("src/auth/mod.rs", ""),
            ("src/telemetry/mod.rs", ""),
            (
                "crates/broker/src/lib.rs",
                "use backbone_wire::X; #[cfg(test)] use std::thread;",
            ),
        ];
        assert_eq!(findings(&tree), [""; 0]);
    }

    #[test]
    fn a_circle_among_the_leaves_is_caught() {
        let tree = [
            ("src/config/mod.rs", "use crate::telemetry::X;"),
            ("src/telemetry/mod.rs", "use crate::runtime::X;"),
            ("src/runtime/mod.rs", "use crate::config::X;"),
        ];
        let found = findings(&tree);
        assert!(found.len() == 1 && found[0].contains("circle"), "{found:?}");
    }

    #[test]
    fn a_forbidden_dependency_is_caught_under_any_name_and_in_any_table() {
        let found = check_manifest("wire", "[dependencies]\nbackbone-broker.workspace = true");
        assert_eq!(
            found,
            ["crates/wire/Cargo.toml:2: crate `wire` may not import `backbone_broker`"]
        );
        for text in [
            "[dev-dependencies]\nb = { package = \"backbone-broker\", path = \"\" }",
            "[target.'cfg(unix)'.dependencies]\nbackbone-log = \"1\"",
            "[build-dependencies]\ntokio = \"1\"",
        ] {
            assert_eq!(check_manifest("wire", text).len(), 1, "{text}");
        }
        let fine = "[dependencies]\nbackbone-wire.workspace = true\nserde = \"1\"";
        assert_eq!(check_manifest("broker", fine), [""; 0]);
    }

    #[test]
    fn a_long_file_needs_a_reason_or_the_mark_of_a_generator() {
        let long = "fn f() {}\n".repeat(rules::LINES_MAX + 1);
        assert!(rules::forbids_length(&long).is_some());
        assert!(rules::forbids_length(&long[10..]).is_none());
        for top in [
            "// Long because: one table.",
            "//! Methods. Generated from `spec`.",
            "// @generated",
        ] {
            assert!(rules::forbids_length(&format!("{top}\n{long}")).is_none());
        }
        let late = format!("{long}// Long because: too late.\n");
        assert!(rules::forbids_length(&late).is_some());
    }
}
