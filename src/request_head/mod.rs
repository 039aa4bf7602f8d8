//! Refuses request heads that are too large or do not say which host they are for.
//!
//! ```
//! use http::{Request, StatusCode};
//! use portcullis::request_head::RequestHeadLayer;
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::convert::Infallible> {
//! let service = ServiceBuilder::new()
//!     .layer(RequestHeadLayer::new().max_uri(64))
//!     .service(service_fn(|_: Request<String>| async { Ok::<_, std::convert::Infallible>(http::Response::new(String::new())) }));
//! let request = Request::get(format!("/{}", "a".repeat(64))).header("host", "example.com").body(String::new()).unwrap();
//! assert_eq!(service.oneshot(request).await?.status(), StatusCode::URI_TOO_LONG);
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//! 1. More than 100 header fields, or a header section of more than 64 KiB: 431 (RFC 6585 §5).
//! 2. A request target of more than 8 KiB: 414 (RFC 9110 §15.5.15).
//! 3. HTTP/1.1 without exactly one `Host` field with a syntactically valid value: 400 (RFC 9112 §3.2). hyper does not look.
//!    Under HTTP/2 the `:authority` stands for it, and a `Host` that differs is malformed (RFC 9113 §8.3.1).
//! 4. A fragment in the request line, or chunked framing that is not by the letter (RFC 9112 §7.1): 400. [`serve`](crate::serve)
//!    finds it; hyper drops the one and repairs the other.
//! 5. An `Expect` other than one `100-continue`: 417 (RFC 9110 §10.1.1).
//!
//! # Where it stands
//! Right inside [`AuditLayer`](crate::audit::AuditLayer), outside of everything that reads a header, so that the refusals are
//! recorded and no other layer meets a monstrous head. A server's parser must have its own caps above these, as
//! [`serve`](crate::serve) does.
//!
//! # Cost
//! One walk over the header fields, no allocation.
//!
//! Which hosts are served here is not decided here; that is `browser`'s list.

mod check;
mod layer;

pub use layer::{RequestHead, RequestHeadLayer};
