//! One audit record for every request and tunnel, whatever becomes of it.
//!
//! ```
//! use portcullis::audit::{AuditLayer, ChannelSink};
//! use http::{Request, Response};
//! use http_body_util::{BodyExt as _, Full};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::convert::Infallible> {
//! let (sink, mut records) = ChannelSink::new(100);
//! let service = ServiceBuilder::new().layer(AuditLayer::new(sink)).service(service_fn(|_| async {
//!     Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes::Bytes::from("hello"))))
//! }));
//! let response = service.oneshot(Request::new(Full::new(bytes::Bytes::new()))).await?;
//! response.into_body().collect().await?;
//! let record = records.recv().await.unwrap();
//! assert_eq!((record.status, record.bytes_out), (Some(http::StatusCode::OK), 5));
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//! 1. The record is opened before anything else looks at the request and is put into the
//!    [`RequestContext`](crate::context::RequestContext) as a [`RecordHandle`](crate::context::RecordHandle); inner layers fill in
//!    what they learn.
//! 2. It is closed when the response body has ended or was dropped, and when nobody holds a handle any more: the task of a
//!    tunnel keeps one, so a tunnel's record has the tunnel's duration and bytes.
//! 3. A client that leaves before the response head leaves a record with outcome `client_gone` and no status.
//! 4. A [`Rejection`](crate::rejection::Rejection) in the response's extensions gives reason, detail and Proxy-Status error.
//! 5. A sink never blocks a request. [`JsonLinesSink`] and [`ChannelSink`] have bounded queues and count what they drop.
//!
//! # Where it stands
//! Outermost: refusals of every other layer are recorded too.
//!
//! # Cost
//! About 0.3 µs with [`JsonLinesSink`], whose file a thread of its own writes. As a rule no allocation: the record lies where an
//! earlier one of its thread has lain. Below this layer [`SystemClock`](crate::clock::SystemClock) is read once for each call and poll
//! of the service. A body is wrapped, not copied.
//!
//! # The JSON line
//! One object per line, UTF-8, `\n` at the end. Control characters, line separators and bidirectional controls are escaped in
//! every field. Fields that are not known are left out. Queries are left out unless [`JsonFormat::with_query`] asks for them,
//! since tokens travel there.
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `time` | string | arrival of the request head, RFC 3339, UTC, microseconds |
//! | `request_id` | string | 32 hex digits |
//! | `outcome` | string | `complete`, `refused`, `failed`, `client_gone`, `upstream_failed`, `aborted`, `open` (never ended) |
//! | `duration_ms` | number | from arrival to the end of body or tunnel |
//! | `head_ms` | number | from arrival to the response head |
//! | `client` | string | client address |
//! | `peer` | string | other end of the connection, if it is not the client itself |
//! | `token` | string | id of the token, never the token |
//! | `method` | string | request method |
//! | `request_path` | string | the request's own path, if no target was understood |
//! | `scheme`, `host`, `port`, `path` | string, number | the target |
//! | `status` | number | status sent to the client |
//! | `reason` | string | the rule that decided, for refusals and failures; `ping_unanswered` for a WebSocket whose end was gone |
//! | `proxy_status` | string | RFC 9209 error |
//! | `detail` | string | the operator's sentence about it |
//! | `dialed` | string | address that was dialled |
//! | `reused` | bool | over a pooled connection; only with `dialed` |
//! | `bytes_in`, `bytes_out` | number | body or tunnel bytes from and to the client |
//! | `mcp_method`, `mcp_name` | string | what was asked of an MCP server |
//! | `tunnel` | bool | `true` for upgrades and `CONNECT` |
//! | `close_code` | number | WebSocket close code |
//! | `closed_by` | string | `client`, `target`, `proxy` |
//!
//! A line `{"time":…,"audit_dropped":N}` says that N records were lost at that point because the sink was too slow.

mod body;
mod channel;
mod future;
mod json;
mod json_lines;
mod layer;
#[cfg(feature = "metrics")]
mod metrics;
mod service;
mod sink;
mod summary;

pub use body::{AuditBody, AuditRequestBody};
pub use channel::{ChannelSink, Records};
pub use future::AuditFuture;
pub use json::JsonFormat;
pub use json_lines::{JsonLinesBuilder, JsonLinesSink};
pub use layer::AuditLayer;
#[cfg(feature = "metrics")]
pub use metrics::{DURATION_BUCKETS, Metered, MetricsSink};
pub use service::Audit;
pub use sink::{AuditSink, TracingSink};
pub use summary::{Filter, Summary, SummaryError, Traffic};
