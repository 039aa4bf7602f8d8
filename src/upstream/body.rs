//! Request bodies on their way to a target.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::h2::Shared;
use crate::{
    net::{belongs_in_head, connection_options, is_hop_by_hop, is_identity, speaks_for_our_origin},
    rejection::Rejection,
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// A request body of any origin: empty, bytes, or a stream that is forwarded as it arrives.
pub struct Body {
    kind: Kind,
    /// For the task that waits for an answer over HTTP/2.
    shared: Option<Arc<Shared>>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>),
}

/// The client's side of an upload failed.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// A limit of this server was reached.
    TooLarge,
    /// An outer part of this server says how to answer: the body's error has a [`Rejection`] among its sources.
    Rejected(Box<Rejection>),
    /// The client's framing is wrong, or it went away.
    Broken(Box<str>),
}

impl Body {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { kind: Kind::Empty, shared: None }
    }

    /// Streams another body. Nothing is buffered.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self { kind: Kind::Stream(Box::pin(Erased { body })), shared: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    pub(super) fn watched(mut self, shared: Arc<Shared>) -> Self {
        self.shared = Some(shared);
        self
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { kind: if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) }, shared: None }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Empty => "Body(empty)",
            Kind::Full(_) => "Body(bytes)",
            Kind::Stream(_) => "Body(stream)",
        })
    }
}

pin_project_lite::pin_project! {
    struct Erased<B> { #[pin] body: B }
}

impl<B> HttpBody for Erased<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Empty => None,
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Some(Ok(Frame::data(bytes)))
            }
            Kind::Stream(body) => {
                let frame = body.as_mut().poll_frame(cx);
                if let Some(shared) = &this.shared {
                    shared.set_client_owes(frame.is_pending());
                }
                let Poll::Ready(frame) = frame else { return Poll::Pending };
                frame.map(|f| f.map(without_forbidden_trailers))
            }
        };
        if let Some(shared) = &this.shared {
            shared.upload_moved();
            if let Some(Err(error)) = &frame {
                shared.upload_failed(classify(error.as_ref()));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

pub(super) fn classify(error: &(dyn StdError + 'static)) -> UploadError {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<crate::body_limit::LengthLimitError>() {
            return UploadError::TooLarge;
        }
        if let Some(rejection) = cause.downcast_ref::<Rejection>() {
            return UploadError::Rejected(Box::new(rejection.clone()));
        }
        next = cause.source();
    }
    UploadError::Broken(error.to_string().into())
}

/// Fields that decide framing, routing or identity have no business in a trailer section (RFC 9110 §6.5.1).
pub(crate) fn without_forbidden_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    if frame.is_data() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// Who is asking, where from, and what a target says for a whole origin: as in the header section, in any spelling, and a little
/// more, because no trailer needs these families.
fn is_about_hops_or_origins(name: &str) -> bool {
    is_hop_by_hop(name)
        || is_identity(name)
        || speaks_for_our_origin(name)
        || name.starts_with("x-forwarded")
        || name.starts_with("x-proxy-")
        || matches!(name, "proxy-status" | "via" | "host" | "content-length")
}

fn clean_trailers(trailers: &mut HeaderMap) {
    let named = connection_options(trailers);
    let doomed: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            belongs_in_head(name)
                || matches!(name, "cookie" | "location" | "www-authenticate")
                || named.iter().any(|n| n.eq_ignore_ascii_case(name))
                || is_about_hops_or_origins(&name.replace(['_', '.'], "-"))
        })
        .cloned()
        .collect();
    for name in doomed {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_that_frame_route_or_identify_are_dropped() {
        let mut t = HeaderMap::new();
        for name in
            ["content-length", "transfer-encoding", "host", "authorization", "set-cookie", "connection", "x-forwarded-for"]
        {
            t.insert(HeaderName::from_static(name), "x-named".parse().unwrap());
        }
        t.insert("x-named", "1".parse().unwrap());
        for name in ["x-proxy-token", "x_forwarded_for", "x.real.ip", "proxy-status", "strict-transport-security", "ratelimit"] {
            t.insert(HeaderName::from_static(name), "1".parse().unwrap());
        }
        for name in [
            "te",
            "trailer",
            "upgrade",
            "proxy-authorization",
            "proxy-authenticate",
            "cookie",
            "content-type",
            "content-encoding",
            "content-range",
            "cache-control",
            "location",
            "www-authenticate",
            "forwarded",
            "via",
        ] {
            t.insert(HeaderName::from_static(name), "1".parse().unwrap());
        }
        t.insert("x-checksum", "1".parse().unwrap());
        clean_trailers(&mut t);
        assert_eq!(t.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-checksum"]);
    }
}
