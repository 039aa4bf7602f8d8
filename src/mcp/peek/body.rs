//! A body whose beginning has been looked at.

use std::{
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The frames that were held, then the rest.
pub struct PeekedBody<B: Body> {
    held: vec::IntoIter<Frame<Bytes>>,
    held_len: u64,
    rest: Option<B>,
    error: Option<B::Error>,
}

impl<B: Body> std::fmt::Debug for PeekedBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeekedBody").field("held_len", &self.held_len).finish_non_exhaustive()
    }
}

impl<B: Body> PeekedBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self { held: Vec::new().into_iter(), held_len: 0, rest: Some(body), error: None }
    }

    pub(super) fn held(held: Vec<Frame<Bytes>>, rest: Option<B>, error: Option<B::Error>) -> Self {
        let held_len = held.iter().filter_map(Frame::data_ref).map(|d| d.len() as u64).sum();
        Self { held: held.into_iter(), held_len, rest, error }
    }
}

impl<B> Body for PeekedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(frame) = this.held.next() {
            this.held_len -= frame.data_ref().map_or(0, |d| d.len() as u64);
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match &mut this.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.len() == 0 && self.error.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = match (&self.rest, &self.error) {
            (Some(rest), _) => rest.size_hint(),
            (None, None) => SizeHint::with_exact(0),
            (None, Some(_)) => SizeHint::default(),
        };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + self.held_len);
        }
        hint.set_lower(hint.lower() + self.held_len);
        hint
    }
}
