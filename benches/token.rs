//! Whether the time of a refusal says that a token exists, and what the token layer costs.
//!
//! `cargo bench --bench token` prints, for a table of 10,000 tokens, the time of one request that passes, of one with an unknown
//! token, and of one with a token that exists but is switched off. The two refusals are what an outsider can compare: their
//! answers are the same, and the ratio of their times has to be 1 within the noise, which is measured by comparing the unknown
//! token with another unknown one in the same way.

#![allow(missing_docs, clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::cast_precision_loss)]

use std::{
    convert::Infallible,
    hint::black_box,
    time::{Duration, Instant},
};

use http::{Request, Response};
use portcullis::{
    proxy_token::ProxyTokenLayer,
    tokens::{StaticTokens, TokenHasher, TokenRecord},
};
use tower::{Layer as _, Service as _, ServiceExt as _};

const TOKENS: usize = 10_000;
const ROUNDS: usize = 400;
const BATCH: usize = 500;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let hasher = TokenHasher::plain();
    let token = |i: usize| format!("a-token-of-more-than-32-characters-{i:08}");
    let record = |i: usize| {
        let record = TokenRecord::new(&format!("t{i}")).and_then(|r| r.with_hash(hasher.hash(&token(i))?)).expect("a record");
        record.disabled(i % 2 == 1)
    };
    let table = StaticTokens::new(TokenHasher::plain(), (0..TOKENS).map(record)).expect("a table");
    let inner = tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
    let mut service = ProxyTokenLayer::new(table).layer(inner);

    // Kinds: a token that passes, one that is switched off, and two that nobody has. Those of the table come in no order: neighbours
    // of a table that was filled in order lie side by side in memory, which no stranger's guesses would.
    let any = |i: usize| i.wrapping_mul(2_654_435_761) % (TOKENS / 2) * 2;
    let kinds: [&dyn Fn(usize) -> String; 4] =
        [&|i| token(any(i)), &|i| token(any(i) + 1), &|i| token(TOKENS + i), &|i| token(5 * TOKENS + i)];
    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..ROUNDS {
        // The kinds take turns in every round, from another one each time, so that what drifts drifts for all.
        for turn in 0..kinds.len() {
            let kind = (round + turn) % kinds.len();
            let requests: Vec<Request<()>> = (0..BATCH)
                .map(|i| Request::get("/").header("x-proxy-token", kinds[kind](round * BATCH + i)).body(()).expect("a request"))
                .collect();
            let begun = Instant::now();
            runtime.block_on(async {
                for request in requests {
                    let response = service.ready().await.expect("ready").call(request).await.expect("infallible");
                    black_box(response.status());
                }
            });
            times[kind].push(begun.elapsed());
        }
    }
    let median = |kind: usize| {
        let mut sorted = times[kind].clone();
        sorted.sort();
        sorted[sorted.len() / 2].as_nanos() as f64 / BATCH as f64
    };
    let [passes, off, unknown, other] = [0, 1, 2, 3].map(median);
    println!("passes             {passes:8.0} ns a request");
    println!("exists, refused    {off:8.0} ns a request");
    println!("unknown, refused   {unknown:8.0} ns a request");
    println!("ratio exists/unknown  {:.3}   (noise, unknown/unknown: {:.3})", off / unknown, other / unknown);
}
