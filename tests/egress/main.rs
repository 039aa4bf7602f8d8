//! The egress guard from outside: every rule, trap and advisory that it is built against, by name.
//!
//! Nothing here opens a socket outside 127.0.0.0/8 and `::1`: what must not be dialled is shown by a dialer that only records.
#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::many_single_char_names,
    clippy::match_same_arms,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tests"
)]

mod addresses;
#[allow(dead_code, reason = "the program's own entry point is not used")]
#[path = "../../examples/check_url.rs"]
mod check_url;
mod check_url_tests;
mod connector;
mod dns;
mod dns_tests;
mod layers;
mod policies;
mod props;
mod urls;

use std::net::{IpAddr, SocketAddr};

use portcullis::{
    connect::{ConnectError, GuardedConnector, RecordingDialer},
    egress::{EgressPolicy, EgressPolicyBuilder, PolicyHandle},
    net::Target,
    resolve::FixedResolver,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

fn sock(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

fn builder() -> EgressPolicyBuilder {
    EgressPolicy::builder()
}

/// One address, in public space, that every name has unless a test says otherwise.
const PUBLIC: &str = "93.184.215.14";

/// What the whole guard says: the reason, or `ok` and what was given to the dialer.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    reason: &'static str,
    dialled: Vec<SocketAddr>,
}

/// Parse, permit, look-up, judgement and dial, with a dialer that only records.
async fn run(policy: &EgressPolicy, url: &str, answers: &[&str]) -> Verdict {
    let dialer = RecordingDialer::default();
    let resolver = FixedResolver::new(answers.iter().map(|a| ip(a)));
    let connector = GuardedConnector::builder().resolver(resolver).dialer(dialer.clone()).build().unwrap();
    let Ok(target) = Target::parse(url) else { return Verdict { reason: "invalid", dialled: Vec::new() } };
    let denial = match PolicyHandle::new(policy.clone()).permit(&target) {
        Err(denial) => Some(denial),
        Ok(permit) => connector.connect(&permit, false).await.err().as_ref().and_then(ConnectError::denial).cloned(),
    };
    Verdict { reason: denial.map_or("ok", |d| d.reason().as_str()), dialled: dialer.dials() }
}

/// A runtime a test, for tables that are walked in a plain loop.
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
