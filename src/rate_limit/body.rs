//! The answer's body, which knows what is still to be charged for it.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::policy::{Amendment, Used};
use crate::{
    clock::Clock,
    limiter::{LimitStore, OwnedAsk},
};

pin_project! {
    /// A body whose bytes may be charged when it ends or is dropped.
    #[derive(Debug)]
    pub struct AmendBody<B> {
        #[pin]
        inner: B,
        charge: Option<Box<Charge>>,
    }
}

impl<B> AmendBody<B> {
    pub(super) fn new(inner: B, charge: Option<Box<Charge>>) -> Self {
        Self { inner, charge }
    }
}

/// What is charged, to whom; the charge is made when this is dropped.
pub(super) struct Charge {
    pub(super) store: Arc<dyn LimitStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) owed: Vec<(OwnedAsk, Amendment)>,
    pub(super) used: Option<Used>,
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // Without an answer there is nothing to charge for.
        let Some(used) = self.used else { return };
        let now = self.clock.monotonic();
        for (ask, amend) in &mut self.owed {
            ask.cost = amend(&used);
            if ask.cost > 0 {
                self.store.charge(ask, now);
            }
        }
    }
}

impl<B: Body<Data = Bytes>> Body for AmendBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        if let Some(charge) = this.charge {
            match &polled {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                    if let Some(used) = charge.used.as_mut() {
                        used.bytes += bytes;
                    }
                }
                Poll::Ready(None | Some(Err(_))) => *this.charge = None,
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
