use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Response, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    body::ResponseBody,
    rejection::{Rejection, RejectionKind},
};

/// More than any refusal's body of this crate; the rest is cut off.
const MAX_BODY: usize = 64 * 1024;

pin_project! {
    /// Response future of [`DenialFloor`](super::DenialFloor).
    pub struct ResponseFuture<F, B> {
        arrived: Instant,
        // In nanoseconds: half the size of a `Duration`.
        step: u64,
        #[pin]
        state: State<F, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        // The inner service works.
        Inner { #[pin] future: F },
        // It has denied: its body is read, so that nothing of the inner service is left while we wait.
        Read { parts: Option<Box<Parts>>, #[pin] body: B, read: BytesMut },
        // The denial waits for its moment. Boxed: a timer is large and denials are rare.
        Wait { parts: Option<Box<Parts>>, read: Bytes, sleep: Pin<Box<Sleep>> },
    }
}

impl<F, B> ResponseFuture<F, B> {
    pub(super) fn new(future: F, arrived: Instant, step: Duration) -> Self {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        Self { arrived, step, state: State::Inner { future } }
    }
}

fn is_denial<B>(response: &Response<B>) -> bool {
    response.extensions().get::<Rejection>().is_some_and(|r| r.kind() == RejectionKind::Denied)
}

/// The first multiple of `step` after `arrived` that is not before `now`, and not `arrived` itself.
fn leave_at(arrived: Instant, now: Instant, step: Duration) -> Instant {
    let steps = now.saturating_duration_since(arrived).as_nanos().div_ceil(step.as_nanos().max(1)).max(1);
    u32::try_from(steps).ok().and_then(|n| step.checked_mul(n)).and_then(|wait| arrived.checked_add(wait)).unwrap_or(now)
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Inner { future } => {
                    // In place: a response is large, and one that is taken out first is moved once more.
                    let polled = future.poll(cx);
                    let denied = |r: &Response<B>| *this.step > 0 && is_denial(r);
                    if !matches!(&polled, Poll::Ready(Ok(response)) if denied(response)) {
                        return polled.map_ok(|response| response.map(ResponseBody::inner));
                    }
                    let response = ready!(polled)?;
                    let (parts, body) = response.into_parts();
                    State::Read { parts: Some(Box::new(parts)), body, read: BytesMut::new() }
                }
                StateProj::Read { parts, body, read } => {
                    match ready!(body.poll_frame(cx)) {
                        Some(Ok(frame)) if read.len() < MAX_BODY => {
                            if let Ok(data) = frame.into_data() {
                                read.extend_from_slice(&data);
                            }
                            continue;
                        }
                        Some(_) | None => {}
                    }
                    let at = leave_at(*this.arrived, Instant::now(), Duration::from_nanos(*this.step));
                    State::Wait { parts: parts.take(), read: read.split().freeze(), sleep: Box::pin(sleep_until(at)) }
                }
                StateProj::Wait { parts, read, sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let parts = parts.take().expect("a response future is not polled after it has finished");
                    return Poll::Ready(Ok(Response::from_parts(*parts, ResponseBody::full(std::mem::take(read)))));
                }
            };
            this.state.set(next);
        }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid() {
        let (t, ms) = (Instant::now(), Duration::from_millis);
        for (elapsed, leaves) in [(0, 100), (1, 100), (99, 100), (100, 100), (101, 200), (250, 300)] {
            assert_eq!(leave_at(t, t + ms(elapsed), ms(100)), t + ms(leaves), "{elapsed}");
        }
    }
}
