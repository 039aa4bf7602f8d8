//! Keeps this server's credentials out of the trailers that are forwarded.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A request body whose trailers lose these fields.
    pub(super) struct WithoutFields<B> {
        #[pin]
        body: B,
        fields: Arc<[HeaderName]>,
    }
}

impl<B> WithoutFields<B> {
    pub(super) fn new(body: B, fields: Arc<[HeaderName]>) -> Self {
        Self { body, fields }
    }
}

/// Whether one of the fields is of the operator's choice: the usual ones are never forwarded as trailers, whoever names them.
pub(super) fn has_own(fields: &[HeaderName]) -> bool {
    let usual =
        |f: &HeaderName| f.as_str().starts_with("x-proxy-") || *f == header::AUTHORIZATION || *f == header::PROXY_AUTHORIZATION;
    !fields.iter().all(usual)
}

impl<B: Body<Data = Bytes>> Body for WithoutFields<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        this.body.poll_frame(cx).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                for field in this.fields.iter() {
                    trailers.remove(field);
                }
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
