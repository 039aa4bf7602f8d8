//! `tests/public-api.txt` is the whole public surface, one item a line. A change of it is seen in review, and nothing gets into it
//! or out of it by accident. To write it anew after a change that is meant:
//!
//! ```sh
//! UPDATE_API=1 cargo test --all-features --test public_api -- --ignored
//! ```

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::process::Command;

const LISTING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/public-api.txt");
const REFRESH: &str = "UPDATE_API=1 cargo test --all-features --test public_api -- --ignored";

/// Crates whose types may stand in a signature: an application has them already, or has to speak them to use this crate at all.
/// `rustls_pki_types` is `rustls::pki_types`.
const MAY_BE_NAMED: &[&str] = &[
    "portcullis",
    "std",
    "core",
    "alloc",
    "http",
    "http_body",
    "bytes",
    "tower_layer",
    "tower_service",
    "ipnet",
    "rustls",
    "rustls_pki_types",
    "tokio",
];

#[test]
#[ignore = "reads rustdoc's JSON, whose form belongs to one version of Rust (1.95): `cargo test --test public_api -- --ignored`"]
fn the_listing_is_the_public_api() {
    let listed = std::fs::read_to_string(LISTING).unwrap_or_default();
    let now = listing(&rustdoc_json());
    if std::env::var_os("UPDATE_API").is_some() {
        std::fs::write(LISTING, now).unwrap();
        return;
    }
    let (listed_lines, now_lines): (BTreeSet<_>, BTreeSet<_>) = (listed.lines().collect(), now.lines().collect());
    let gone = listed_lines.difference(&now_lines).map(|line| format!("- {line}"));
    let new = now_lines.difference(&listed_lines).map(|line| format!("+ {line}"));
    let changes: Vec<_> = gone.chain(new).collect();
    assert!(
        changes.is_empty(),
        "the public API is not what {LISTING} lists:\n{}\n\nIf that is meant, name it in CHANGELOG.md and run\n    {REFRESH}",
        changes.join("\n"),
    );
    assert_eq!(listed, now, "the same items in another order; run\n    {REFRESH}");
}

#[test]
fn signatures_name_only_crates_that_everybody_has() {
    let listing = std::fs::read_to_string(LISTING).unwrap();
    assert!(listing.lines().count() > 1000, "{LISTING} has shrunk");
    let mut seen = BTreeMap::new();
    for line in listing.lines() {
        for root in crates_named(line) {
            seen.entry(root).or_insert(line);
        }
    }
    for expected in ["http", "http_body", "bytes", "tower_layer", "tower_service", "tokio"] {
        assert!(seen.contains_key(expected), "the reader of paths finds no `{expected}`");
    }
    let foreign: Vec<_> = seen.iter().filter(|(root, _)| !MAY_BE_NAMED.contains(root)).collect();
    assert!(foreign.is_empty(), "types of other crates stand in public signatures: {foreign:#?}");
}

#[test]
fn the_reader_of_paths_finds_what_a_path_begins_with() {
    let line =
        "pub fn portcullis::a::B::c<S: tower_service::Service<http::Request<X>>>(&self, <S as d_e::F>::Error) -> Option<g::H>";
    assert_eq!(crates_named(line).collect::<Vec<_>>(), ["portcullis", "tower_service", "http", "d_e", "g"]);
}

/// What the paths in this line begin with. A path that begins with a capital letter is a generic parameter's.
fn crates_named(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    line.split(move |c| !is_word(c))
        .filter_map(|path| path.split_once("::"))
        .map(|(root, _)| root)
        .filter(|root| root.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Runs rustdoc in a target directory of its own, so that the build of the tests stays as it is.
fn rustdoc_json() -> std::path::PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("public-api");
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["rustdoc", "--quiet", "--lib", "--all-features", "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTDOCFLAGS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("doc/portcullis.json")
}

/// Items, without what only repeats: the methods of trait implementations, and what `pin-project-lite` adds.
fn listing(json: &Path) -> String {
    let api =
        public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).omit_auto_trait_impls(true).build().unwrap_or_else(
            |error| panic!("{error}\n`public-api` in Cargo.toml reads the JSON of Rust 1.95; the two change together"),
        );
    let is_trait_impl = |line: &str| line.starts_with("impl") && line.contains(" for ");
    let trait_impls: HashSet<_> =
        api.items().filter(|item| is_trait_impl(&item.to_string())).map(public_api::PublicItem::id).collect();
    let mut seen = HashSet::new();
    let mut text = String::new();
    for item in api.items() {
        let line = item.to_string();
        let repeats = line.contains("pin_project_lite")
            || line.starts_with("pub fn") && item.parent_id().is_some_and(|parent| trait_impls.contains(&parent));
        if !repeats && seen.insert(line.clone()) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}
