//! HTTP, the command line and definitions as operators see them: one program of tests, so that there is one to link. A file each for what it is about; run one with
//! `cargo test --test http NAME::`.

mod common;

#[path = "http_audit.rs"]
mod audit;
#[path = "http_base.rs"]
mod base;
#[path = "cli_log.rs"]
mod cli_log;
#[path = "definitions.rs"]
mod definitions;
#[path = "definitions_import.rs"]
mod definitions_import;
#[path = "http_logins.rs"]
mod logins;
#[path = "http_management.rs"]
mod management;
#[path = "http_queues.rs"]
mod queues;
#[path = "http_roles.rs"]
mod roles;
#[path = "http_tokens.rs"]
mod tokens;
#[path = "http_users.rs"]
mod users;
