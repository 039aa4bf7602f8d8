//! Connection events that no request record can show: what ended before, or without, a request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident $field:ident;)*) => {
        #[derive(Clone, Copy, Debug)]
        #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "without TLS no handshake fails"))]
        pub(super) enum Counter { $($variant,)* }

        #[derive(Debug, Default)]
        pub(super) struct Counters { $($field: AtomicU64,)* }

        impl Counters {
            pub(super) fn add(&self, counter: Counter) {
                self.add_many(counter, 1);
            }

            pub(super) fn add_many(&self, counter: Counter, n: u64) {
                match counter { $(Counter::$variant => self.$field.fetch_add(n, Relaxed),)* };
            }

            pub(super) fn snapshot(&self) -> ConnectionStats {
                ConnectionStats { open: 0, tunnels: 0, $($field: self.$field.load(Relaxed),)* }
            }
        }

        /// What the listener has counted since it started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ConnectionStats {
            /// Connections that are open now.
            pub open: usize,
            /// Tunnels that are open now.
            pub tunnels: usize,
            $($(#[$doc])* pub $field: u64,)*
        }

        impl ConnectionStats {
            /// Publishes them through the `metrics` facade, before a scrape: `portcullis_connections_open`,
            /// `portcullis_tunnels_open`, and `portcullis_connection_events_total` with the label `event`.
            #[cfg(feature = "metrics")]
            pub fn publish(&self) {
                #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
                {
                    metrics::gauge!("portcullis_connections_open").set(self.open as f64);
                    metrics::gauge!("portcullis_tunnels_open").set(self.tunnels as f64);
                }
                for (event, n) in self.counters() {
                    metrics::counter!("portcullis_connection_events_total", "event" => event).absolute(n);
                }
            }

            /// The counters by name, for metrics.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Accepted.
    Accepted accepted;
    /// Turned away with 503 because the connection cap was reached.
    Shed shed;
    /// `accept` failed, mostly for want of file descriptors.
    AcceptErrors accept_errors;
    /// TLS handshakes that failed or took too long.
    TlsFailures tls_failures;
    /// PROXY headers that were missing, wrong or not allowed.
    ProxyHeaderErrors proxy_header_errors;
    /// No complete request head in time.
    HeaderTimeouts header_timeouts;
    /// Closed after the keep-alive time.
    IdleCloses idle_closes;
    /// Request bodies that stalled or dripped.
    BodyStalls body_stalls;
    /// Clients that did not take their reply.
    WriteStalls write_stalls;
    /// Replies that had to be at their end, and that the client had not taken: see
    /// [`TotalTimeoutLayer`](crate::total_timeout::TotalTimeoutLayer).
    Overdue overdue;
    /// Clients that kept sending after the final answer.
    LingerTimeouts linger_timeouts;
    /// Requests that hyper's parser refused (400, 414, 431 without a body).
    ParseErrors parse_errors;
    /// Connections that broke otherwise.
    Broken broken;
}
