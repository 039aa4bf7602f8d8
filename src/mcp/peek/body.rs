//! A body whose beginning has been looked at.

use std::{
    borrow::Cow,
    collections::VecDeque,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Many tiny frames cost more than their bytes.
const MAX_FRAMES: usize = 1024;

/// The frames that were held, then the rest.
pub struct PeekedBody<B: Body> {
    kind: Kind<B>,
}

enum Kind<B: Body> {
    Untouched(B),
    /// What nearly every body is: it came in one frame.
    Whole(Option<Bytes>),
    /// Boxed, because the body travels through all inner layers.
    Mixed(Box<Mixed<B>>),
}

struct Mixed<B: Body> {
    held: VecDeque<Frame<Bytes>>,
    held_len: usize,
    rest: Option<B>,
    error: Option<B::Error>,
}

impl<B: Body> std::fmt::Debug for PeekedBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeekedBody").field("held_len", &self.held_len()).finish_non_exhaustive()
    }
}

impl<B: Body> PeekedBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self { kind: Kind::Untouched(body) }
    }

    fn held_len(&self) -> usize {
        match &self.kind {
            Kind::Untouched(_) => 0,
            Kind::Whole(data) => data.as_ref().map_or(0, Bytes::len),
            Kind::Mixed(mixed) => mixed.held_len,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> PeekedBody<B> {
    /// Holds frames until the body has ended, has failed or is longer than `max`. Then it says whether all of it is held.
    pub(super) fn poll_hold(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<bool> {
        if let Kind::Untouched(body) = &mut self.kind {
            let frame = if body.is_end_stream() { None } else { ready!(Pin::new(&mut *body).poll_frame(cx)) };
            match frame {
                None => {
                    self.kind = Kind::Whole(None);
                    return Poll::Ready(true);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.len() <= max && body.is_end_stream() => {
                        self.kind = Kind::Whole(Some(data));
                        return Poll::Ready(true);
                    }
                    Ok(data) => self.mix(Some(Frame::data(data)), None),
                    Err(frame) => self.mix(Some(frame), None),
                },
                Some(Err(error)) => self.mix(None, Some(error)),
            }
        }
        match &mut self.kind {
            Kind::Mixed(mixed) => mixed.poll_hold(cx, max),
            Kind::Untouched(_) | Kind::Whole(_) => Poll::Ready(true),
        }
    }

    /// Begins to hold more than one frame, or less.
    #[cold]
    fn mix(&mut self, frame: Option<Frame<Bytes>>, error: Option<B::Error>) {
        let rest = match mem::replace(&mut self.kind, Kind::Whole(None)) {
            Kind::Untouched(body) => Some(body),
            Kind::Whole(_) | Kind::Mixed(_) => None,
        };
        let held_len = frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
        self.kind = Kind::Mixed(Box::new(Mixed { held: frame.into_iter().collect(), held_len, rest, error }));
    }

    /// The data that is held, if there is any.
    pub(super) fn data(&self) -> Option<Cow<'_, [u8]>> {
        match &self.kind {
            Kind::Untouched(_) => None,
            Kind::Whole(data) => data.as_deref().map(Cow::Borrowed),
            Kind::Mixed(mixed) => {
                let parts: Vec<&[u8]> = mixed.held.iter().filter_map(Frame::data_ref).map(|d| &d[..]).collect();
                (!parts.is_empty()).then(|| Cow::Owned(parts.concat()))
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Mixed<B> {
    fn poll_hold(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<bool> {
        loop {
            if self.error.is_some() {
                self.rest = None;
                return Poll::Ready(false);
            }
            if self.held_len > max || self.held.len() > MAX_FRAMES {
                return Poll::Ready(false);
            }
            let frame = match &mut self.rest {
                Some(rest) if !rest.is_end_stream() => ready!(Pin::new(rest).poll_frame(cx)),
                _ => None,
            };
            match frame {
                None => {
                    self.rest = None;
                    return Poll::Ready(true);
                }
                Some(Ok(frame)) => {
                    self.held_len += frame.data_ref().map_or(0, Bytes::len);
                    self.held.push_back(frame);
                }
                Some(Err(error)) => self.error = Some(error),
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.held.pop_front() {
            self.held_len -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = match (&self.rest, &self.error) {
            (Some(rest), _) => rest.size_hint(),
            (None, None) => SizeHint::with_exact(0),
            (None, Some(_)) => SizeHint::default(),
        };
        let held = self.held_len as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + held);
        }
        hint.set_lower(hint.lower() + held);
        hint
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
        match &mut self.get_mut().kind {
            Kind::Untouched(body) => Pin::new(body).poll_frame(cx),
            Kind::Whole(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Kind::Mixed(mixed) => mixed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched(body) => body.is_end_stream(),
            Kind::Whole(data) => data.is_none(),
            Kind::Mixed(m) => m.held.is_empty() && m.error.is_none() && m.rest.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched(body) => body.size_hint(),
            Kind::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Kind::Mixed(mixed) => mixed.size_hint(),
        }
    }
}
