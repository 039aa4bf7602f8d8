//! Holds the floors that `src/lib.rs` names: imports point down, and the layers (floor 2) do not know each other.
//!
//! The test reads the source itself. A room is a module directly under the crate's root; its floor is the `// F<n>:`
//! comment above it in `src/lib.rs`. Code under `#[cfg(test)]` does not ship and is not judged.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail by panicking, and measure real time"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Imports that break a rule and are meant to: (room, imported room, why). An entry that nothing uses fails the test.
const ALLOWED: &[(&str, &str, &str)] = &[];

/// What the pure floors must not be built on.
const IMPURE: &[&str] =
    &["tower", "tower_layer", "tower_service", "tokio", "tokio_rustls", "hyper", "hyper_util", "hickory_resolver", "redis"];
const PURE_FLOOR: u8 = 1;
const LAYER_FLOOR: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    to: String,
    file: String,
}

struct House {
    /// Room to floor.
    floors: BTreeMap<String, u8>,
    /// Names that the root re-exports, each to the room it comes from.
    reexports: BTreeMap<String, String>,
}

#[test]
fn imports_point_down() {
    let house = House::read();
    assert!(house.floors.len() > 20, "src/lib.rs names too few rooms: {:?}", house.floors);
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for import in house.imports() {
        let (Some(&from), Some(&to)) = (house.floors.get(&import.from), house.floors.get(&import.to)) else {
            wrong.push(format!("{}: `{}` is on no floor", import.file, import.to));
            continue;
        };
        let fault = if to > from {
            "points up"
        } else if from == LAYER_FLOOR && to == LAYER_FLOOR {
            "is one layer's of another"
        } else {
            continue;
        };
        if let Some(entry) = ALLOWED.iter().find(|(a, b, _)| (*a, *b) == (&import.from, &import.to)) {
            used.insert((entry.0, entry.1));
        } else {
            wrong.push(format!("{}: the import of `{}` (F{to}) in `{}` (F{from}) {fault}", import.file, import.to, import.from));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unused: Vec<_> = ALLOWED.iter().filter(|(a, b, _)| !used.contains(&(*a, *b))).collect();
    assert!(unused.is_empty(), "allowed, but nothing needs it: {unused:?}");
}

#[test]
fn the_pure_floors_are_pure() {
    let house = House::read();
    let mut wrong = Vec::new();
    for (file, room) in house.files() {
        if house.floors.get(&room) != Some(&PURE_FLOOR) {
            continue;
        }
        let tokens = shipped_tokens(&fs::read_to_string(&file).unwrap());
        for (at, token) in tokens.iter().enumerate() {
            let path_root = tokens.get(at + 1).is_some_and(|next| next == "::") && (at == 0 || tokens[at - 1] != "::");
            if path_root && IMPURE.contains(&token.as_str()) {
                wrong.push(format!("{}: `{token}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "floor {PURE_FLOOR} decides, it does not do:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_sees_every_form_of_import() {
    let found = |source: &str, module: &[&str]| {
        let module: Vec<String> = module.iter().map(ToString::to_string).collect();
        rooms_named(&shipped_tokens(source), &module)
    };
    assert_eq!(found("use crate::net::Target;", &["a"]), ["net"]);
    assert_eq!(found("use crate::{net::{Host, Target}, egress, tokens::*};", &["a"]), ["net", "egress", "tokens"]);
    assert_eq!(found("fn f() -> crate::Secret { super::audit::x() }", &["a"]), ["Secret", "audit"]);
    assert_eq!(found("use super::layer; use super::super::audit;", &["a", "b"]), ["a", "audit"]);
    assert_eq!(found("mod inner { use super::super::audit; use super::mine; }", &["a"]), ["audit", "a"]);
    assert_eq!(found("// use crate::net;\n/* crate::x */ const S: &str = \"crate::y\"; const C: char = '\"';", &["a"]), [""; 0]);
    assert_eq!(found("#[cfg(test)]\nmod tests { use crate::proxy; }\nuse crate::net;", &["a"]), ["net"]);
    assert_eq!(found("#[cfg(test)] use crate::proxy; use crate::net;", &["a"]), ["net"]);
    assert_eq!(found("const R: &str = r#\"crate::z \"quoted\" \"#; fn f<'a>(x: &'a str) { crate::net::g(x) }", &["a"]), ["net"]);
}

impl House {
    fn read() -> Self {
        let source = fs::read_to_string(root().join("lib.rs")).unwrap();
        let mut floors = BTreeMap::new();
        let mut floor = None;
        for line in source.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("// F") {
                floor = rest.split(':').next().and_then(|n| n.parse::<u8>().ok()).or(floor);
            }
            let module = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ").and_then(|m| m.strip_suffix(';'));
            if let Some(module) = module {
                floors.insert(module.to_owned(), floor.unwrap_or_else(|| panic!("`{module}` stands above the first floor")));
            }
        }
        let mut reexports = BTreeMap::new();
        let tokens = shipped_tokens(&source);
        for (at, token) in tokens.iter().enumerate() {
            if token != "use" || at == 0 || tokens[at - 1] != "pub" {
                continue;
            }
            let tree: Vec<&String> = tokens[at + 1..].iter().take_while(|t| *t != ";").collect();
            let Some(room) = tree.iter().find(|t| floors.contains_key(**t)) else { continue };
            for name in &tree {
                reexports.insert((*name).clone(), (*room).clone());
            }
        }
        reexports.retain(|name, _| !floors.contains_key(name));
        Self { floors, reexports }
    }

    /// Every source file but the root, with its room.
    fn files(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut open = vec![root()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") && path != root().join("lib.rs") {
                    let room = module_of(&path).remove(0);
                    assert!(self.floors.contains_key(&room), "src/lib.rs puts `{room}` on no floor");
                    found.push((path, room));
                }
            }
        }
        found.sort();
        found
    }

    /// The imports of one room by another, re-exported names followed to their room.
    fn imports(&self) -> BTreeSet<Import> {
        let mut found = BTreeSet::new();
        for (path, from) in self.files() {
            let tokens = shipped_tokens(&fs::read_to_string(&path).unwrap());
            for name in rooms_named(&tokens, &module_of(&path)) {
                let to = self.reexports.get(&name).cloned().unwrap_or(name);
                if to != from {
                    let file = path.strip_prefix(root()).unwrap().display().to_string();
                    found.insert(Import { from: from.clone(), to, file });
                }
            }
        }
        found
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// `src/a/b.rs` is `[a, b]`, `src/a/mod.rs` is `[a]`.
fn module_of(path: &Path) -> Vec<String> {
    let relative = path.strip_prefix(root()).unwrap().with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// The rooms (or names at the crate's root) that paths beginning with `crate` or `super` lead to.
fn rooms_named(tokens: &[String], module: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => {
                depth += 1;
                if at >= 2 && tokens[at - 2] == "mod" {
                    inline.push((tokens[at - 1].clone(), depth));
                }
            }
            "}" => {
                inline.retain(|(_, d)| *d < depth);
                depth = depth.saturating_sub(1);
            }
            "crate" | "super" if tokens.get(at + 1).is_some_and(|t| t == "::") && (at == 0 || tokens[at - 1] != "::") => {
                let mut base: Vec<String> = module.iter().cloned().chain(inline.iter().map(|(m, _)| m.clone())).collect();
                let mut next = at;
                if token == "crate" {
                    base.clear();
                    next += 2;
                }
                while tokens.get(next).is_some_and(|t| t == "super") {
                    base.pop();
                    next += 2;
                }
                match base.first() {
                    Some(room) => found.push(room.clone()),
                    None => first_segments(tokens, next, &mut found),
                }
            }
            _ => {}
        }
    }
    found
}

/// The first segment of a path, or of each branch of a use tree in braces.
fn first_segments(tokens: &[String], at: usize, found: &mut Vec<String>) {
    if tokens.get(at).is_none_or(|t| t != "{") {
        found.extend(tokens.get(at).cloned());
        return;
    }
    let mut depth = 0;
    let mut fresh = false;
    for token in &tokens[at..] {
        match token.as_str() {
            "{" => {
                depth += 1;
                fresh = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
            "," => fresh = depth == 1,
            name if fresh => {
                found.push(name.to_owned());
                fresh = false;
            }
            _ => {}
        }
    }
}

/// The source as words and signs, without comments, literals and whatever stands under `#[cfg(test)]`.
fn shipped_tokens(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&["#", "[", "cfg", "(", "test", ")", "]"].map(str::to_owned)) {
            at = end_of_item(&tokens, at + 7);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Past the item at `at`: its closing brace, or its semicolon where it has no body.
fn end_of_item(tokens: &[String], mut at: usize) -> usize {
    let mut depth = 0_i32;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth -= 1;
                // The tree of a `use` closes with a brace too, and its semicolon follows.
                if depth == 0 && tokens[at] == "}" && tokens.get(at + 1).is_none_or(|t| t != ";") {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied().unwrap_or(' '));
        if c == '/' && next == '/' {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if c == '/' && next == '*' {
            let mut depth = 0;
            while at < chars.len() {
                let pair = (chars[at], chars.get(at + 1).copied().unwrap_or(' '));
                depth += i32::from(pair == ('/', '*')) - i32::from(pair == ('*', '/'));
                at += if pair == ('/', '*') || pair == ('*', '/') { 2 } else { 1 };
                if depth == 0 {
                    break;
                }
            }
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' {
            // A character literal ends with a quote soon; a lifetime does not.
            if next == '\\' {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            } else if chars.get(at + 2) == Some(&'\'') {
                at += 3;
            } else {
                at += 1;
            }
        } else if is_word(c) {
            let start = at;
            while at < chars.len() && is_word(chars[at]) {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br" | "cr") && chars.get(at + hashes) == Some(&'"') {
                let close: String = std::iter::once('"').chain("#".repeat(hashes).chars()).collect();
                let rest: String = chars[at + hashes + 1..].iter().collect();
                let end = rest.find(&close).map_or(rest.len(), |end| end + close.len());
                at += hashes + 1 + rest[..end].chars().count();
            } else {
                found.push(word);
            }
        } else if c == ':' && next == ':' {
            found.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            at += 1;
        }
    }
    found
}

#[test]
fn security_md_names_tests_that_exist() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(package.join("SECURITY.md")).unwrap();
    let named: Vec<_> = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect();
    assert!(named.len() > 30, "the table has shrunk to {} names", named.len());
    for row in text.split_once("| guarantee |").unwrap().1.lines().skip(2).take_while(|line| line.starts_with("| ")) {
        assert!(row.contains("::"), "SECURITY.md: no test holds {row}");
    }
    for (file, test) in named {
        let source = fs::read_to_string(package.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.contains(&format!("fn {test}(")), "SECURITY.md: {file} has no test `{test}`");
    }
}

/// The page of a layer is read by somebody who wants to use it: an example first, then the rules with their numbers, where it
/// stands in the stack, and what it costs.
#[test]
fn every_layer_has_a_whole_page() {
    let house = House::read();
    let mcp = ["envelope", "event_stream", "json_errors", "peek"].map(|name| format!("mcp/{name}"));
    let layers = house.floors.iter().filter(|(_, floor)| **floor == LAYER_FLOOR).map(|(room, _)| room.clone());
    let mut wrong = Vec::new();
    for layer in layers.chain(mcp) {
        let source = fs::read_to_string(root().join(&layer).join("mod.rs")).unwrap();
        let page: Vec<_> = source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim_start).collect();
        let page = page.join("\n");
        let at = |what: &str| page.find(what);
        let parts = [at("\n```\n"), at("\n# Rules\n"), at("\n1. "), at("\n# Where it stands\n"), at("\n# Cost\n")];
        if !parts.iter().all(Option::is_some) || !parts.is_sorted() {
            wrong.push(format!("{layer}: example, `# Rules`, `1.`, `# Where it stands`, `# Cost` stand at {parts:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
