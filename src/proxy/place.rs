//! Where the future of an exchange lies. It is large, so it has memory of its own, and the memory is used again: allocators have to
//! think about pieces of that size.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;

use super::service::{Config, ProxyBody, exchange};
use crate::{spare::Spare, upstream::Body};

thread_local! {
    /// Empty places, of somewhat more than 1 KiB each.
    static EMPTY: Spare<Pin<Box<dyn Exchange>>> = const { Spare::new() };
}

/// A future whose type has no name, and which can be begun anew where it is.
trait Exchange: Send {
    fn begin(self: Pin<&mut Self>, config: Arc<Config>, request: Request<Body>);
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<ProxyBody>>;
    fn clear(self: Pin<&mut Self>);
}

pin_project! {
    struct Slot<M, F> {
        make: M,
        #[pin]
        future: Option<F>,
    }
}

impl<M, F> Exchange for Slot<M, F>
where
    M: Fn(Arc<Config>, Request<Body>) -> F + Send,
    F: Future<Output = Response<ProxyBody>> + Send,
{
    fn begin(self: Pin<&mut Self>, config: Arc<Config>, request: Request<Body>) {
        let mut me = self.project();
        let future = (me.make)(config, request);
        me.future.set(Some(future));
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<ProxyBody>> {
        // Polled after completion: the caller's mistake, answered by silence rather than a panic.
        self.project().future.as_pin_mut().map_or(Poll::Pending, |future| future.poll(cx))
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().future.set(None);
    }
}

/// A future in its place. Dropping it drops the future at once and keeps the place.
pub(super) struct Place(Option<Pin<Box<dyn Exchange>>>);

impl Place {
    pub(super) fn of(config: Arc<Config>, request: Request<Body>) -> Self {
        let mut place = Spare::take(&EMPTY).unwrap_or_else(|| Box::pin(Slot { make: exchange, future: None }));
        place.as_mut().begin(config, request);
        Self(Some(place))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response<ProxyBody>> {
        let response = self.0.as_mut().map_or(Poll::Pending, |place| place.as_mut().poll(cx));
        if response.is_ready() {
            self.leave();
        }
        response
    }

    fn leave(&mut self) {
        let Some(mut place) = self.0.take() else { return };
        place.as_mut().clear();
        Spare::put(&EMPTY, place);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
