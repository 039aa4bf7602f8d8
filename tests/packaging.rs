//! What the README and the manifest say about dependencies, features and the oldest Rust, held against what cargo says.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The README counts for this target.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn text(file: &str) -> String {
    std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The packages that ship with these features, build scripts and procedural macros included; this one left out.
fn shipped(features: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET])
        .args(features)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let array = |value: &Value| value.as_array().unwrap().clone();
    let nodes: BTreeMap<String, Value> =
        array(&metadata["resolve"]["nodes"]).into_iter().map(|node| (node["id"].to_string(), node)).collect();
    let root = metadata["resolve"]["root"].to_string();
    let (mut reached, mut open) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = open.pop() {
        if !reached.insert(id.clone()) {
            continue;
        }
        for dep in array(&nodes[&id]["deps"]) {
            if array(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev") {
                open.push(dep["pkg"].to_string());
            }
        }
    }
    reached.remove(&root);
    array(&metadata["packages"]).into_iter().filter(|package| reached.contains(&package["id"].to_string())).collect()
}

/// Cargo switches the features of the dev-dependency on this crate itself on in `metadata`, so the tree is asked.
fn count(features: &[&str]) -> usize {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--locked", "--target", TARGET, "--edges", "normal,build", "--prefix", "none", "--no-dedupe"])
        .args(["--format", "{p}"])
        .args(features)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> = tree.lines().map(|line| line.replace(" (proc-macro)", "")).collect();
    crates.len() - 1
}

#[test]
fn the_readme_counts_dependencies_rightly() {
    let counted = format!(
        "the default features bring {} crates, `tls` without `hickory` {}, none {}",
        count(&[]),
        count(&["--no-default-features", "--features", "tls"]),
        count(&["--no-default-features"]),
    );
    let readme = text("README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(readme.contains(&counted), "README.md does not say: {counted}");
}

#[test]
fn no_dependency_needs_a_newer_rust_than_this_crate() {
    let minor = |version: &str| version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
    let ours = minor(env!("CARGO_PKG_RUST_VERSION"));
    let packages = shipped(&["--all-features"]);
    assert!(packages.len() > 100, "only {} packages were found", packages.len());
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| package["rust_version"].as_str().is_some_and(|needed| minor(needed) > ours))
        .map(|package| format!("{} {} needs {}", package["name"], package["version"], package["rust_version"]))
        .collect();
    assert!(newer.is_empty(), "{newer:#?}");
}

#[test]
fn every_feature_is_documented_in_both_tables() {
    let manifest: toml::Table = text("Cargo.toml").parse().unwrap();
    let features: BTreeSet<_> =
        manifest["features"].as_table().unwrap().keys().filter(|name| *name != "default").cloned().collect();
    let default: BTreeSet<_> = manifest["features"]["default"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    for file in ["README.md", "src/lib.rs"] {
        let page = text(file);
        let rows: BTreeMap<_, _> = page
            .lines()
            .map(|line| line.trim_start_matches("//! "))
            .skip_while(|line| !line.starts_with("| feature | default |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| `"))
            .map(|row| (row.split('`').next().unwrap().to_owned(), row.contains("` | yes |")))
            .collect();
        let listed: BTreeSet<_> = rows.keys().cloned().collect();
        assert_eq!(listed, features, "{file}");
        for (name, on) in rows {
            assert_eq!(on, default.contains(name.as_str()), "{file}: {name}");
        }
    }
}

/// The table beside others repeats a few figures and names what holds each line.
#[test]
fn the_readme_claims_what_the_repository_holds() {
    let (readme, benches) = (text("README.md"), text("benches/README.md"));
    let table = readme.split_once("## Beside others").unwrap().1.split_once("\n## ").unwrap().0;
    for figure in ["16.4 MiB", "528 MiB", "54.9", "47.0", "0.97", "0.93"] {
        assert!(table.contains(figure) && benches.contains(figure), "{figure} stands in one of the two only");
    }
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 5, "{table}");
    for row in rows {
        let proof = row.rsplit('`').nth(1).unwrap();
        assert!(!text(proof).is_empty(), "{row}");
    }
}
