//! `GET /metrics` on its own listener.

use std::time::Duration;

use axum::{Router, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use portcullis::{audit::DURATION_BUCKETS, concurrency_limit::ConcurrencyLimitHandle, serve::Server};
use tokio::{net::TcpListener, runtime::Handle};

use crate::{
    config::{Config, Invalid},
    sink::Sink,
};

/// A recorder that is installed and a listener that is bound.
pub struct Figures {
    handle: PrometheusHandle,
    listener: TcpListener,
}

/// Installs the recorder if the configuration names a listener for it.
pub async fn install(config: &Config) -> Result<Option<Figures>, Invalid> {
    let Some(addr) = config.file.metrics.listen else { return Ok(None) };
    let at = |e: &dyn std::fmt::Display| Invalid::at("metrics.listen", e);
    let listener = TcpListener::bind(addr).await.map_err(|e| at(&e))?;
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), DURATION_BUCKETS);
    let handle = builder.map_err(|e| at(&e))?.install_recorder().map_err(|e| at(&e))?;
    if let Ok(addr) = listener.local_addr() {
        eprintln!("metrics on http://{addr}/metrics");
    }
    Ok(Some(Figures { handle, listener }))
}

impl Figures {
    /// Serves them as long as the process lives.
    pub fn serve(self, server: Server, sink: Sink, in_flight: ConcurrencyLimitHandle, timers: &Handle) {
        let (render, upkeep) = (self.handle.clone(), self.handle);
        let text = move || {
            server.stats().publish();
            sink.publish(in_flight.running());
            let text = render.render();
            async { ([("content-type", "text/plain; version=0.0.4")], text) }
        };
        let router = Router::new().route("/metrics", get(text));
        tokio::spawn(async move { axum::serve(self.listener, router).await });
        timers.spawn(async move {
            // Histograms keep their samples until somebody asks, or until this.
            let mut tick = tokio::time::interval(Duration::from_secs(5));
            loop {
                tick.tick().await;
                upkeep.run_upkeep();
            }
        });
    }
}
