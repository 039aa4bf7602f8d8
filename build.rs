//! Hands the order of functions in `examples/mcp_proxy/layout.ld` to the linker, for the bundled server in the release profile. It
//! changes where code lies and nothing else, and is not part of the published crate.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=examples/mcp_proxy/layout.ld");
    let is = |name, value| env::var(name).is_ok_and(|v| v == value);
    let here = is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    // The linkers that Rust and GCC bring know such scripts. Whoever has chosen another one, which may not, does without.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let other_linker = env::var_os("RUSTC_LINKER").is_some() || flags.contains("fuse-ld") || flags.contains("linker");
    if here && is("PROFILE", "release") && !other_linker {
        let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-examples=-T{root}/examples/mcp_proxy/layout.ld");
    }
}
