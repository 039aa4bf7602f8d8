//! `--check-config`: the configuration in words.

use std::fmt::Write as _;

use crate::config::{Config, RESTART, Rotate};

pub fn explain(config: &Config) -> String {
    let (file, limits, rates) = (&config.file, &config.file.limits, &config.file.rate_limit);
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(out, "{key:<20} {value}");
    };
    let list = |items: &[String], none: &str| if items.is_empty() { none.to_owned() } else { items.join(", ") };
    line("listen", format!("{}{}", config.listen, if file.tls.is_some() { " (TLS)" } else { "" }));
    line("public_url", file.public_url.clone().unwrap_or_else(|| "as the client writes it".into()));
    line("allowed_hosts", list(&file.allowed_hosts, if config.listen.ip().is_loopback() { "loopback names" } else { "none" }));
    line("allowed_origins", list(&file.allowed_origins, "none"));
    line("clients", list(&file.clients.allow_cidrs, "every network"));
    line("trusted_proxies", list(&file.clients.trusted_proxies, "none"));
    let mut tokens: Vec<String> = file
        .token
        .iter()
        .map(|t| {
            let mut text = t.id.clone();
            if t.disabled {
                text.push_str(" (disabled)");
            }
            if t.operator {
                text.push_str(" (operator)");
            }
            if let Some(targets) = &t.targets {
                let _ = write!(text, " for {}", targets.join(" "));
            }
            text
        })
        .collect();
    if config.env_token.is_some() {
        tokens.push("env".into());
    }
    line("tokens", list(&tokens, "none: one is made at the start"));
    let egress = &file.egress;
    line(
        "egress",
        if egress.allow_hosts.is_empty() {
            "every public host".into()
        } else {
            format!("only {}", egress.allow_hosts.join(", "))
        },
    );
    if !egress.deny_hosts.is_empty() || !egress.deny_cidrs.is_empty() {
        line("  denied", list(&[egress.deny_hosts.clone(), egress.deny_cidrs.clone()].concat(), ""));
    }
    for e in &egress.exception {
        line("  exception", format!("{} -> {}", e.host.as_deref().unwrap_or("any host"), e.cidrs.join(", ")));
    }
    line("dns", file.dns.servers.as_ref().map_or_else(|| "the system's".into(), |s| s.join(", ")));
    line("request_body", limits.request_body.to_string());
    line("response_body", limits.response_body.to_string());
    line("event", limits.event.to_string());
    line(
        "timeouts",
        format!(
            "connect {}, header {}, idle {}, event streams and tunnels {}",
            limits.connect_timeout, limits.header_timeout, limits.idle_timeout, limits.stream_idle_timeout
        ),
    );
    line(
        "total_timeout",
        match limits.total_timeout.get() {
            None => "off".into(),
            Some(time) => format!("{time} from arrival to the last byte; not for event streams, WebSockets and tunnels"),
        },
    );
    line("at once", format!("{} in all, {} for a token", limits.in_flight, limits.per_token));
    line("rates", format!("{} for a client, {} for a token, {} for its probes", rates.per_client, rates.per_token, rates.probes));
    let kept = file.audit.keep.map_or_else(|| "all".into(), |n| n.to_string());
    line(
        "audit",
        match file.audit.rotate {
            Rotate::Never => file.audit.path.clone(),
            Rotate::Hourly => format!("{}, a new file every hour, {kept} kept", file.audit.path),
            Rotate::Daily => format!("{}, a new file every day, {kept} kept", file.audit.path),
        },
    );
    line("at a reload", format!("everything, but for {} and whether there is [tls]", RESTART.join(", ")));
    out
}
