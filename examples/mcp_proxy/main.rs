//! An MCP forwarding proxy: REST, event streams and WebSocket, behind tokens and an egress policy.
//!
//! ```sh
//! cargo run --release --example mcp_proxy -- --demo
//! ```
//!
//! | route | what it does |
//! |---|---|
//! | `ANY /proxy/<absolute url>` | forwards; `endpoint` events and `Location` of the same origin lead back through here |
//! | `ANY /forward` with `X-Target-Url` | forwards |
//! | `GET /ws?proxy_token&mcp_server_url&mcp_token` | a WebSocket, authenticated and judged before 101 |
//! | `POST /proxy` | one JSON-RPC message in an envelope; the session is kept |
//! | `POST /tickets` with `{"target": …}` | a single-use credential for the query parameter `proxy_ticket` |
//! | `GET /console` | a page to try targets, MCP servers and WebSockets; decisions explained and live, for operators' tokens |
//! | `GET /`, `/health`, `/ready` | who it is, that it lives, that it takes requests |
//! | `GET /metrics` on a listener of its own | Prometheus text |
//!
//! The token is in `X-Proxy-Token`, for WebSocket upgrades and event streams also in the query parameter `proxy_token`. Without any
//! token in the configuration or in `PROXY_TOKEN` one is made and printed once; the server never runs open. Every key of the
//! configuration is in `mcp_proxy.toml` beside this file. Command line beats environment (`HOST`, `PORT`, `PROXY_TOKEN`) beats file.
#![allow(unreachable_pub, reason = "a program has no public interface")]

mod app;
mod audit_cmd;
mod check;
mod cli;
mod config;
mod console;
mod demo;
mod front;
mod metrics;
mod pages;
mod parts;
mod reload;
mod rotate;
mod sink;
mod stack;
mod swap;
mod targets;
mod tokens;

use std::{future::pending, process::ExitCode, thread, time::Duration};

use clap::Parser as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    app::{App, Extras},
    cli::{Cli, Command, TokenCommand},
    config::{Config, Invalid, Overrides},
    sink::Sink,
};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mcp_proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Invalid> {
    match cli.command {
        Some(Command::Token { command: TokenCommand::New(args) }) => {
            println!("{}", tokens::new(&args)?);
            return Ok(());
        }
        Some(Command::Audit(args)) => {
            println!("{}", audit_cmd::run(&args)?);
            return Ok(());
        }
        None => {}
    }
    let overrides = Overrides::from_env(cli.config, cli.listen)?;
    let config = Config::load(&overrides)?;
    // With one processor, workers would only hand tasks to each other.
    let one = thread::available_parallelism().is_ok_and(|n| n.get() == 1);
    let mut runtime = if one { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let runtime = runtime.enable_all().build().map_err(|e| Invalid::at("runtime", e))?;
    if cli.check_config {
        let _inside = runtime.enter();
        app::check(&config)?;
        print!("{}", check::explain(&config));
        return Ok(());
    }
    let timers = timers().map_err(|e| Invalid::at("runtime", e))?;
    portcullis::clock::set_timer_runtime(timers.clone()).map_err(|_| Invalid::at("runtime", "it has timers already"))?;
    let result = runtime.block_on(serve(overrides, config, timers, cli.demo));
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// A thread for whatever has to happen at some time: the runtime that serves then waits for nothing but sockets, and that costs less.
fn timers() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("timers".into()).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}

async fn serve(overrides: Overrides, config: Config, timers: Handle, demo: bool) -> Result<(), Invalid> {
    // Before anybody can know that the server runs: a signal that nobody waits for ends the process as it is.
    let signals = |kind| signal(kind).map_err(|e| Invalid::at("signals", e));
    let (hangup, term, interrupt) =
        (signals(SignalKind::hangup())?, signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let mut extras = Extras::default();
    if demo {
        extras.demo = Some(demo::start().await.map_err(|e| Invalid::at("--demo", e))?);
    }
    // Tokens that the operator did not write are printed, once, and nowhere else.
    let mut made = None;
    if demo || (config.file.token.is_empty() && config.env_token.is_none()) {
        let (token, record) = tokens::make()?;
        extras.made.push(record);
        made = Some(token);
    }
    let demo = extras.demo;
    let listener = TcpListener::bind(config.listen).await.map_err(|e| Invalid::at(&format!("listen: {}", config.listen), e))?;
    let listen = listener.local_addr().map_err(|e| Invalid::at("listen", e))?;
    let figures = metrics::install(&config).await?;
    let (App { server, live, sink, in_flight }, service) = app::build(&config, listen, extras)?;
    flush_on_panic(sink.clone());
    if let Some(figures) = figures {
        figures.serve(server.clone(), sink.clone(), in_flight, &timers);
    }

    let scheme = if config.file.tls.is_some() { "https" } else { "http" };
    let base = format!("{scheme}://{listen}");
    eprintln!("listening on {base}");
    eprintln!("the console is {base}/console");
    if let Some(token) = &made {
        let token = token.secret.expose();
        match demo {
            Some(demo) => eprintln!("{}", demo.lines(&base, token)),
            None => eprintln!(
                "no token is configured; this one lasts as long as this process:\n\n  {token}\n\n\
                 curl -sS -H 'X-Proxy-Token: {token}' '{base}/proxy/https://example.com/'\n"
            ),
        }
    }
    drop(made);

    let reopen = sink.clone();
    let looks = {
        let _inside = timers.enter();
        tokio::time::interval(reload::EVERY)
    };
    tokio::spawn(reload::watch(looks, hangup, overrides, config, live, move || {
        reopen.reopen();
    }));
    let drained = server.serve(listener, service, stopped(term, interrupt)).await;
    if !sink.flush(Duration::from_secs(2)) {
        eprintln!("the audit is not written to its end");
    }
    eprintln!("stopped{}", if drained.is_clean() { "" } else { "; what had not ended in time was cut" });
    Ok(())
}

/// In a release build a panic ends the process, but not before what is already known has been written.
fn flush_on_panic(sink: Sink) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        sink.flush(Duration::from_secs(1));
    }));
}

async fn stopped(mut term: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
