//! A response that began before its request was sent.
//!
//! The server above asks for a response body only as fast as its client reads, and that client may read only after it has sent
//! everything. So the rest of the upload cannot wait until somebody asks for the response: both go on in a task of their own, with
//! one part of the response on its way between the two.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use http_body::Frame;
use tokio::{sync::mpsc, time::timeout};

use super::H1;
use crate::upstream::error::Error;

/// Longest standstill of an upload whose answer is complete already: nobody waits for it any more.
const MAX_TAIL: Duration = Duration::from_secs(30);

/// A part of the body; `None` is its end, which a channel that just closes is not.
pub(in crate::upstream) type Part = Option<Result<Frame<Bytes>, Error>>;

/// Goes on with a connection whose response is not read to its end.
pub(in crate::upstream) fn both(conn: Box<H1>, idle: Duration) -> mpsc::Receiver<Part> {
    let (parts, reader) = mpsc::channel(1);
    tokio::spawn(run(conn, parts, idle));
    reader
}

/// Goes on with the upload of a connection whose response is complete.
pub(in crate::upstream) fn rest(conn: Box<H1>, idle: Duration) {
    if conn.has_tail() {
        tokio::spawn(tail(conn, idle));
    }
}

async fn run(mut conn: Box<H1>, parts: mpsc::Sender<Part>, idle: Duration) {
    loop {
        let permit = tokio::select! {
            biased;
            permit = parts.reserve() => permit,
            error = upload_failed(&mut conn) => {
                let _ = parts.send(Some(Err(error))).await;
                return;
            }
        };
        let Ok(permit) = permit else { break };
        let part = tokio::select! {
            biased;
            // Whoever reads has gone: the target is left at once, unless all was read and only the upload goes on.
            () = parts.closed() => break,
            part = poll_fn(|cx| {
                if let std::task::Poll::Ready(Err(error)) = conn.poll_upload(cx) {
                    return std::task::Poll::Ready(Some(Err(error)));
                }
                conn.poll_frame(cx)
            }) => part,
        };
        let goes_on = matches!(part, Some(Ok(_)));
        let failed = matches!(part, Some(Err(_)));
        permit.send(part);
        if failed {
            return;
        }
        if !goes_on {
            break;
        }
    }
    drop(parts);
    if conn.body_is_done() && conn.has_tail() {
        tail(conn, idle).await;
    }
}

/// Ready only if the upload fails in a way that the response cannot survive.
async fn upload_failed(conn: &mut H1) -> Error {
    poll_fn(|cx| match conn.poll_upload(cx) {
        std::task::Poll::Ready(Err(error)) => std::task::Poll::Ready(error),
        _ => std::task::Poll::Pending,
    })
    .await
}

/// A target that takes nothing of the rest for that long loses it.
async fn tail(mut conn: Box<H1>, idle: Duration) {
    let idle = idle.min(MAX_TAIL);
    let mut step = async || {
        timeout(idle, poll_fn(|cx| if conn.poll_upload(cx).is_ready() { std::task::Poll::Ready(()) } else { conn.poll_end(cx) }))
            .await
            .is_ok()
            || (!conn.upload.take_moved() && conn.upload.is_stuck())
    };
    while !step().await {}
}
