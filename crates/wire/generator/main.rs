//! Writes the generated sources of this crate: `cargo run -p backbone-wire --example generate`.
//!
//! The input is `spec/amqp-0-9-1.txt`, the output `src/method` and `src/properties/list.rs`. Both are checked
//! in, and the test `tests/generated.rs` fails when they differ.

mod emit;
mod spec;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let spec = spec::parse(&std::fs::read_to_string(root.join(spec::PATH))?);
    for (path, text) in emit::files(&spec) {
        std::fs::write(root.join(&path), text)?;
        println!("{path}");
    }
    Ok(())
}
