//! The time that is left of one exchange. It exists only where there is a limit.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Response, StatusCode, header};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    context::{Outcome, RecordHandle},
    mcp_wire::is_event_stream,
    rejection::RejectionKind,
};

#[derive(Debug)]
pub(super) struct Watch {
    limit: Duration,
    // tokio's clock, because it is tokio's timer that waits: both stand still together in tests.
    deadline: Instant,
    /// Made when there is something to wait for.
    sleep: Option<Pin<Box<Sleep>>>,
    record: Option<RecordHandle>,
    connect: bool,
    /// The answer's head is out, and its body is not at its end.
    in_body: bool,
    /// The body has ended early.
    cut: bool,
}

impl Watch {
    pub(super) fn new(limit: Duration, record: Option<RecordHandle>, connect: bool) -> Self {
        Self { limit, deadline: Instant::now() + limit, sleep: None, record, connect, in_body: false, cut: false }
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ready when the time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(cx)
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Whether the answer is one that may last as long as it likes.
    pub(super) fn spares<B>(&self, response: &Response<B>) -> bool {
        let status = response.status();
        status == StatusCode::SWITCHING_PROTOCOLS
            || (self.connect && status.is_success())
            || is_event_stream(response.headers().get(header::CONTENT_TYPE))
    }

    pub(super) fn body_begins(&mut self) {
        self.in_body = true;
    }

    pub(super) fn body_ended(&mut self) {
        self.in_body = false;
    }

    /// Ends the body because its time is over.
    pub(super) fn cut(&mut self) {
        self.cut = true;
        self.ends();
        self.sleep = None;
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    fn ends(&mut self) {
        let record = self.record.take();
        if !std::mem::take(&mut self.in_body) || !self.is_over() {
            return;
        }
        if let Some(record) = record {
            record.with(|record| {
                record.outcome = Outcome::Aborted;
                record.reason = Some(RejectionKind::TotalTimeout.reason());
                record.proxy_status = Some(RejectionKind::TotalTimeout.proxy_status());
            });
        }
    }
}

/// A body that goes before its end, after its time, went because of it, whoever let go of it: this layer, or a server that has
/// cut a slow reader.
impl Drop for Watch {
    fn drop(&mut self) {
        self.ends();
    }
}
