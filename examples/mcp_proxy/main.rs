//! placeholder
#![allow(unreachable_pub, reason = "a program has no public interface")]
mod cli;
mod config;
mod demo;
use clap::Parser as _;
#[tokio::main]
async fn main() {
    let _ = cli::Cli::parse();
    let _ = config::Overrides::from_env(None, None).and_then(|o| config::Config::load(&o));
    let d = demo::start().await.unwrap();
    eprintln!("{}", d.lines("http://x", "t"));
}
