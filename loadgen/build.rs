//! Tells the program which commit and which compiler it was built from, where that is known.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../.git/HEAD");
    let output = |command: &mut Command| {
        let output = command.output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let text = text.trim();
        (output.status.success() && !text.is_empty()).then(|| text.to_owned())
    };
    if let Some(commit) = output(Command::new("git").args(["rev-parse", "--short=12", "HEAD"])) {
        println!("cargo::rustc-env=LOADGEN_COMMIT={commit}");
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Some(version) = output(Command::new(rustc).arg("--version")) {
        println!("cargo::rustc-env=LOADGEN_RUSTC={version}");
    }
}
