//! Sends an event to webhooks that customers have registered: whatever their names resolve to, nothing internal is reached.
//!
//! ```sh
//! cargo run --example webhook_sender -- https://example.com/hook http://169.254.169.254/latest/meta-data/
//! ```
//!
//! `ALLOW_CIDR=127.0.0.0/8` lets it reach loopback as well, to try it against a receiver of one's own.

use std::{env, error::Error, time::Duration};

use bytes::Bytes;
use http::Request;
use portcullis::{
    connect::GuardedConnector,
    egress::{EgressPolicy, Exception, PolicyHandle},
    upstream::{self, Body, Redirects, Upstream},
};

/// A hook that redirects is not followed: the customer can register the place it leads to.
async fn deliver(client: &Upstream, url: &str, event: Bytes) -> Result<u16, upstream::Error> {
    let request = Request::post(url).header("content-type", "application/json").body(Body::from(event));
    let Ok(request) = request else { return Ok(0) };
    Ok(client.fetch(request, &Redirects::none()).await?.status().as_u16())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut policy = EgressPolicy::builder();
    if let Ok(cidr) = env::var("ALLOW_CIDR") {
        policy = policy.with_exception(Exception::any_host([cidr])?);
    }
    let client = Upstream::builder(PolicyHandle::new(policy.build()?), GuardedConnector::builder().build()?)
        .header_timeout(Duration::from_secs(10))
        .build();
    for url in env::args().skip(1) {
        match deliver(&client, &url, Bytes::from_static(br#"{"event":"ping"}"#)).await {
            Ok(0) => println!("invalid   {url}"),
            Ok(status) => println!("answered  {url} {status}"),
            // The reason is for this log; a customer is told no more than that the address is not allowed.
            Err(error) if error.is_denied() => println!("refused   {url} {error}"),
            Err(error) => println!("failed    {url} {error}"),
        }
    }
    Ok(())
}
