//! What the metrics show, and that dashboard and alert rules ask for nothing else.

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

use std::{collections::BTreeSet, time::Duration};

use http::{Method, StatusCode};
use metrics_exporter_prometheus::PrometheusBuilder;
use portcullis::{
    audit::{AuditSink as _, DURATION_BUCKETS, MetricsSink},
    context::{McpCall, Outcome, Record},
    net::Target,
    serve::Server,
};

fn record(target: Option<&str>, status: u16, outcome: Outcome) -> Record {
    let mut r = Record::default();
    r.method = Some(Method::POST);
    r.target = target.map(|t| Target::parse(t).unwrap());
    r.status = StatusCode::from_u16(status).ok();
    r.outcome = outcome;
    (r.bytes_in, r.bytes_out) = (10, 200);
    (r.head_after, r.duration) = (Some(Duration::from_millis(2)), Some(Duration::from_millis(30)));
    r.token = Some("ci".into());
    r
}

/// The text of a scrape after a few requests.
fn scrape() -> String {
    let recorder = PrometheusBuilder::new().set_buckets(DURATION_BUCKETS).unwrap().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let sink = MetricsSink::new();
        let secret = Some("https://secret-host.example/secret-path?secret-query");
        sink.record(&record(secret, 200, Outcome::Complete));
        let mut mcp = record(secret, 200, Outcome::Complete);
        mcp.mcp = Some(McpCall::default().into());
        sink.record(&mcp);
        for reason in ["address_denied", "address_denied", "unauthenticated"] {
            let mut refused = record(None, 403, Outcome::Refused);
            refused.reason = Some(reason);
            sink.record(&refused);
        }
        let mut tunnel = record(secret, 101, Outcome::Complete);
        tunnel.tunnel = true;
        tunnel.arrived = Duration::from_secs(100);
        sink.record(&tunnel);
        sink.publish(7, 3);
        Server::builder().build().stats().publish();
    });
    handle.render()
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn records_are_counted() {
    let text = scrape();
    let count = |kind, outcome, status| {
        value(&text, &format!("portcullis_requests_total{{kind=\"{kind}\",outcome=\"{outcome}\",status=\"{status}\"}}"))
    };
    assert_eq!(count("http", "complete", "2xx"), Some(1.0), "{text}");
    assert_eq!(count("mcp", "complete", "2xx"), Some(1.0));
    assert_eq!(count("websocket", "complete", "1xx"), Some(1.0));
    assert_eq!(count("local", "refused", "4xx"), Some(3.0));
    assert_eq!(count("connect", "aborted", "none"), Some(0.0), "series exist before their first event");
    assert_eq!(value(&text, "portcullis_rejections_total{reason=\"address_denied\"}"), Some(2.0));
    assert_eq!(value(&text, "portcullis_bytes_total{kind=\"http\",direction=\"out\"}"), Some(200.0));
    assert_eq!(value(&text, "portcullis_requests_in_flight"), Some(7.0));
    assert_eq!(value(&text, "portcullis_audit_dropped_total"), Some(3.0));
    // The first minute's busiest token: five records before the tunnel's, which began the next window.
    assert_eq!(value(&text, "portcullis_busiest_token_requests"), Some(5.0));
    assert_eq!(value(&text, "portcullis_busiest_token_bytes"), Some(1050.0));
    assert_eq!(value(&text, "portcullis_response_head_seconds_bucket{kind=\"http\",le=\"0.0025\"}"), Some(1.0));
    assert_eq!(value(&text, "portcullis_connection_events_total{event=\"shed\"}"), Some(0.0));
}

#[test]
fn records_reach_the_recorder_without_being_asked_for() {
    let recorder = PrometheusBuilder::new().set_buckets(DURATION_BUCKETS).unwrap().build_recorder();
    let handle = recorder.handle();
    let sink = metrics::with_local_recorder(&recorder, MetricsSink::new);
    let all = || {
        let text = handle.render();
        let number = |series| text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0);
        [
            number("portcullis_requests_total{kind=\"http\",outcome=\"complete\",status=\"2xx\"}"),
            number("portcullis_bytes_total{kind=\"http\",direction=\"in\"}") / 10,
            number("portcullis_request_duration_seconds_count{kind=\"http\"}"),
            number("portcullis_response_head_seconds_count{kind=\"http\"}"),
        ]
    };
    let mut one = record(Some("http://a.example/"), 200, Outcome::Complete);
    sink.record(&one);
    assert_eq!(all(), [1_u64; 4], "the first one at once");
    sink.record(&one);
    assert_eq!(all(), [1_u64; 4]);
    one.arrived += Duration::from_secs(1);
    sink.record(&one);
    assert_eq!(all(), [3_u64; 4], "after a second");
    for n in 1..=64 {
        sink.record(&one);
        assert_eq!(all(), if n < 64 { [3_u64; 4] } else { [67_u64; 4] }, "after {n}");
    }
    sink.record(&one);
    sink.publish(0, 0);
    assert_eq!(all(), [68_u64; 4], "when a scrape is announced");
    sink.publish(0, 0);
    assert_eq!(all(), [68_u64; 4], "each once");
}

#[test]
fn labels_are_bounded() {
    let text = scrape();
    assert!(!text.contains("secret") && !text.contains("ci\""), "{text}");
    let labels: BTreeSet<&str> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once('{')?.1.split_once('}'))
        .flat_map(|(labels, _)| labels.split(','))
        .filter_map(|label| label.split_once('=').map(|(name, _)| name))
        .collect();
    assert_eq!(labels, BTreeSet::from(["direction", "event", "kind", "le", "outcome", "reason", "status"]));
}

/// Every word that begins like one of our metrics.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|w| w.starts_with("portcullis_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_exist() {
    let scraped = scrape();
    let exist: BTreeSet<String> = names(&scraped);
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../dashboards/grafana.json")).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    assert!(expressions.len() >= 10);
    expressions.push(include_str!("../dashboards/alerts.yml").to_owned());
    for text in &expressions {
        let asked = names(text);
        assert!(!asked.is_empty(), "{text}");
        for name in asked {
            assert!(exist.contains(&name), "no metric is called {name}");
        }
    }
    // And the values they select by.
    for (label, known) in [
        ("outcome", &["complete", "refused", "failed", "client_gone", "upstream_failed", "aborted", "open"][..]),
        ("status", &["none", "1xx", "2xx", "3xx", "4xx", "5xx"]),
        ("kind", &["http", "mcp", "websocket", "connect", "local"]),
    ] {
        for text in &expressions {
            for part in text.split(&format!("{label}=")).skip(1).chain(text.split(&format!("{label}!=")).skip(1)) {
                let values = part.trim_start_matches('~').trim_start_matches('"').split('"').next().unwrap();
                for value in values.split('|') {
                    assert!(known.contains(&value), "no {label} is called {value}");
                }
            }
        }
    }
    // Reasons are words of the source.
    let alerts = include_str!("../dashboards/alerts.yml");
    let source = concat!(
        include_str!("../src/rejection.rs"),
        include_str!("../src/proxy_token/mod.rs"),
        include_str!("../src/proxy_token/service.rs")
    );
    let reasons: Vec<&str> =
        alerts.split("reason=").skip(1).flat_map(|p| p.trim_start_matches('~').split('"').nth(1).unwrap().split('|')).collect();
    assert!(reasons.len() > 3);
    for reason in reasons {
        assert!(
            source.contains(&format!("\"{reason}\"")) || source.contains(&format!("`{reason}`")),
            "no reason is called {reason}"
        );
    }
    let stats = Server::builder().build().stats();
    let events: Vec<_> = stats.counters().map(|(name, _)| name).collect();
    for event in ["shed", "header_timeouts", "body_stalls", "write_stalls"] {
        assert!(events.contains(&event));
    }
}
