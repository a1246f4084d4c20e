//! What comes with the library: nothing that is an application's to choose.

use std::{collections::BTreeSet, process::Command};

/// What only a binary has a use for.
const OF_BINARIES: &[&str] = &[
    "clap",
    "libmimalloc-sys",
    "mimalloc",
    "serde_json",
    "signal-hook",
    "toml",
    "tracing-subscriber",
];

/// Packages that the library is built of under these features, itself among them.
fn packages(features: &[&str]) -> BTreeSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--quiet", "--locked", "--package", "ringwire"])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tree.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_library_brings_nothing_of_a_binarys() {
    for (features, most) in [
        (&["--no-default-features"][..], 55),
        (&["--no-default-features", "--features", "tls"], 85),
        (&[], 100),
    ] {
        let packages = packages(features);
        println!("{features:?}: {} packages", packages.len());
        assert!(packages.contains("ringwire"), "{packages:?}");
        assert!(packages.len() <= most, "{}: {packages:#?}", packages.len());
        for of_binaries in OF_BINARIES {
            assert!(
                !packages.contains(*of_binaries),
                "{of_binaries} under {features:?}"
            );
        }
    }
}
