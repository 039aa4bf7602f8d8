//! HTTP/1.1 towards targets: one exchange at a time over a judged connection, polled by the task of the request.
//!
//! This is the crate's own code, because it is the forwarder's core. hyper's client connection is made to be a task of its own: a
//! request crosses a channel to it, the response another one back, the body a third, and each has wakers; polled in line it still
//! cost about 16,000 instructions a request, three times what is spent here. And hyper relays what a proxy towards
//! hostile targets must not. Field parsing is `httparse`'s, as in hyper.
//!
//! 1. A response is framed by RFC 9112 §6.3 to the letter. Stricter than hyper: a bare LF ends no line, nothing precedes the status
//!    line, a coding other than `chunked` once is refused (hyper relays such a body until the connection ends, without its label),
//!    `Content-Length` is judged also where there is no body, blanks after a chunk size need an extension after them, and control
//!    characters in chunk extensions are refused.
//! 2. Where a coding and a length are both there, the length is dropped and the connection ends with the response.
//! 3. Interim responses are read and dropped, up to [`MAX_INTERIM`] of them and four header sections' worth of bytes. A `101` is
//!    the caller's to judge.
//! 4. A stream that ends early is an error in every state; only a body without a length ends with the stream.
//! 5. Bytes after a response, or while the connection rests, end its use; so do both ends' `close`, HTTP/1.0 without `keep-alive`,
//!    an answer before the request was sent, and a `204` that announces a body.
//! 6. A request body is counted: what is longer or shorter than promised breaks the connection.
//! 7. A request that expects a `100` keeps its body back until the target asks for it, or long enough has passed. A final answer
//!    before that means the body is never asked for.
//! 8. An answer that comes during the upload is relayed while the upload goes on, by a task of its own: only then may neither
//!    direction wait for the other ([`relay`]).
//! 9. Buffers start small, grow only while reads fill them, and go when the connection rests for long. Data is handed on as it was
//!    read.

mod conn;
mod decode;
mod encode;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod head;
mod length;
pub(super) mod relay;
#[cfg(test)]
mod tests;
mod upload;

use std::time::Duration;

pub(crate) use conn::H1;

use super::error::Error;

/// Interim responses that one request puts up with.
const MAX_INTERIM: u32 = 100;

/// What a target may send and how long it may take until its final header section is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// From the last byte of the request to the last byte of the header section.
    pub(crate) timeout: Duration,
    /// Size of one header section, in bytes.
    pub(crate) max_bytes: usize,
    /// Number of fields.
    pub(crate) max_count: usize,
    /// How long an `Expect: 100-continue` is waited on before the body is sent anyway (RFC 9110 §10.1.1).
    pub(crate) continue_wait: Duration,
}

/// Why an exchange gave no response.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Nothing of the request has been written, and it is back with the caller.
    pub(crate) unsent: bool,
    /// Not a byte of an answer was seen.
    pub(crate) silent: bool,
}
