//! HTTP/2 towards targets: hyper's, with one task a connection.

use std::{
    pin::pin,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Request, Uri, Version, header, uri};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::{
    Answer, Inner,
    body::{Body, UploadError},
    error::{Error, Kind},
    h1::Failed,
    response::UpstreamBody,
    take,
};
use crate::{connect::ConnectedIo, egress::EgressPermit};

/// What [`Shared::moved_at`] counts from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What a request body lets the wait for its answer know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The request body failed on the client's side; the upstream is not to blame.
    upload_failed: Mutex<Option<UploadError>>,
    /// The request body was asked for more, and its sender has not delivered yet.
    client_owes: AtomicBool,
    /// When the request body last moved, in milliseconds from `EPOCH` plus one; zero if it has not.
    moved_at: AtomicU64,
}

impl Shared {
    /// The request body waits for its sender, or no longer does.
    pub(super) fn set_client_owes(&self, owes: bool) {
        self.client_owes.store(owes, Ordering::Relaxed);
    }

    /// Part of the request body, or its end, goes to the target now.
    pub(super) fn upload_moved(&self) {
        let since = u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.moved_at.store(since + 1, Ordering::Relaxed);
    }

    /// The request body has failed.
    pub(super) fn upload_failed(&self, error: UploadError) {
        *self.upload_failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// When the answer is due, if that is later than now: the time for it counts from the last byte of the request, and a client
    /// that pauses its upload is not the target's fault. `None`: it is overdue.
    pub(super) fn due(&self, timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.client_owes.load(Ordering::Relaxed) {
            return Some(now + timeout);
        }
        let moved = self.moved_at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(*EPOCH + Duration::from_millis(moved) + timeout).filter(|due| *due > now)
    }

    /// An error of the request body is the client's, whatever the connection makes of it.
    pub(super) fn blame(&self, error: Error) -> Error {
        self.upload_failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(error, Error::from)
    }
}

impl Inner {
    pub(super) async fn handshake_h2(&self, io: ConnectedIo) -> Result<http2::SendRequest<Body>, Error> {
        let (sender, conn) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_header_list_size(u32::try_from(self.head.max_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(256 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| Error::from_hyper(&e))?;
        tokio::spawn(async move {
            let _ = conn.await;
        });
        Ok(sender)
    }

    pub(super) async fn send_h2(
        &self,
        mut sender: http2::SendRequest<Body>,
        request: &mut Request<Body>,
        permit: &EgressPermit,
    ) -> Result<Answer, Failed> {
        let fail = |error| Failed { error, unsent: false, silent: false };
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        request.headers_mut().remove(header::HOST);
        let uri = Uri::builder()
            .scheme(if permit.origin().scheme().is_secure() { "https" } else { "http" })
            .authority(permit.origin().authority().as_bytes())
            .path_and_query(path)
            .build()
            .map_err(|e| fail(Error::new(Kind::MalformedTarget).with_detail(e.to_string())))?;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            request.headers_mut().remove(name);
        }
        // HTTP/2 multiplexes, so a body that waits costs nobody else anything: no need to hold it back for a `100`.
        request.headers_mut().remove(header::EXPECT);
        let shared = Arc::new(Shared::default());
        let watched = take(request).map(|body| if body.is_empty() { body } else { body.watched(shared.clone()) });
        let mut deadline = Instant::now() + self.head.timeout;
        let mut answer = pin!(sender.try_send_request(watched));
        let answer = loop {
            match tokio::time::timeout_at(deadline, answer.as_mut()).await {
                Ok(answer) => break answer,
                Err(_) => match shared.due(self.head.timeout) {
                    Some(due) => deadline = due,
                    None => return Err(fail(Error::new(Kind::HeadTimeout))),
                },
            }
        };
        match answer {
            Ok(response) => {
                let (parts, incoming) = response.into_parts();
                if parts.headers.len() > self.head.max_count {
                    return Err(fail(Error::new(Kind::HeadTooLarge)));
                }
                *request.headers_mut() = parts.headers;
                let body = UpstreamBody::http2(incoming, self.idle);
                Ok(Answer { status: parts.status, version: parts.version, body, at: Instant::now() })
            }
            Err(mut e) => {
                let message = e.take_message();
                let unsent = message.is_some();
                if let Some(message) = message {
                    *request = message;
                }
                // No head has come, which is all that the retry rule asks.
                Err(Failed { error: shared.blame(Error::from_hyper(&e.into_error())), unsent, silent: true })
            }
        }
    }
}
