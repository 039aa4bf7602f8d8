//! The `endpoint` event of the 2024-11-05 transport, rewritten in passing.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{
    link::{LinkBase, LinkError},
    sse::{Lines, field},
};

/// Most bytes of one event that are held back until its type is known.
const MAX_HELD: usize = 16 * 1024;

/// Why a stream has to end: a client that followed the event would send its credentials somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointError {
    /// The event names another origin, or nothing that is a URL.
    Link(LinkError),
    /// The event is longer than what is held back.
    TooLong,
    /// The event's type came after its data had been passed on.
    Late,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(error) => write!(f, "the endpoint event names {error}"),
            Self::TooLong => f.write_str("the endpoint event is too long"),
            Self::Late => f.write_str("the endpoint event says so too late"),
        }
    }
}

impl std::error::Error for EndpointError {}

/// Passes the bytes of an event stream on and rewrites `endpoint` events to lead through this server.
///
/// An event whose first field is another `event:` passes byte for byte as it arrives. Any other is held until it is complete
/// (an incomplete event means nothing to a client) or longer than 16 KiB. As the last `event:` of an event rules, one that turns into
/// an `endpoint` after bytes of it have been passed ends the stream.
#[derive(Debug)]
pub(crate) struct EndpointRewriter {
    base: LinkBase,
    lines: Lines,
    held: BytesMut,
    state: State,
    is_endpoint: bool,
    data: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing of the event is decided: its bytes are held.
    Held,
    /// Bytes of the event have been passed on.
    Passing,
    /// The same, and it was over-long.
    PassingLong,
}

impl EndpointRewriter {
    /// A rewriter for one stream.
    #[must_use]
    pub(crate) fn new(base: LinkBase) -> Self {
        Self { base, lines: Lines::default(), held: BytesMut::new(), state: State::Held, is_endpoint: false, data: None }
    }

    /// Takes a chunk; what may go on is returned (it may be empty).
    ///
    /// # Errors
    /// [`EndpointError`]: the stream has to end here with an error and without another byte.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, EndpointError> {
        let mut out = BytesMut::new();
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let step = self.lines.step(rest);
            let (bytes, tail) = rest.split_at(step.used.min(rest.len()));
            rest = tail;
            if self.state == State::Held {
                self.held.extend_from_slice(bytes);
            } else {
                out.extend_from_slice(bytes);
            }
            if step.ended {
                self.line_ended(&mut out)?;
            } else {
                self.line_grows();
            }
            if self.state == State::Held && self.held.len() > MAX_HELD {
                if self.is_endpoint {
                    return Err(EndpointError::TooLong);
                }
                self.release(&mut out);
                self.state = State::PassingLong;
                self.data = None;
            }
        }
        // Between events nothing is held: a lone LF after a CR belongs to a line that has been passed.
        if self.lines.line.is_empty() && self.data.is_none() && !self.is_endpoint && self.state == State::Held {
            self.release(&mut out);
        }
        Ok(out.freeze())
    }

    /// What is left when the stream ends: an event that was cut off, which no client looks at.
    #[must_use]
    pub(crate) fn finish(&mut self) -> Bytes {
        if self.is_endpoint { Bytes::new() } else { self.held.split().freeze() }
    }

    /// While passing, only the beginning of a line matters.
    fn line_grows(&mut self) {
        if self.state != State::Held && self.lines.line.len() > 64 {
            self.lines.line.truncate(64);
        }
    }

    fn line_ended(&mut self, out: &mut BytesMut) -> Result<(), EndpointError> {
        let line = std::mem::take(&mut self.lines.line);
        let result = self.line(&line, out);
        self.lines.reuse(line);
        result
    }

    fn line(&mut self, line: &[u8], out: &mut BytesMut) -> Result<(), EndpointError> {
        if line.is_empty() {
            return self.event_ended(out);
        }
        match field(line) {
            (b"event", b"endpoint") => match self.state {
                State::Held => self.is_endpoint = true,
                State::Passing => return Err(EndpointError::Late),
                State::PassingLong => return Err(EndpointError::TooLong),
            },
            (b"event", _) => {
                self.is_endpoint = false;
                if self.state == State::Held {
                    self.release(out);
                    self.state = State::Passing;
                    self.data = None;
                }
            }
            (b"data", value) if self.state == State::Held => match &mut self.data {
                // What the URL parser of a client does with a line feed inside: it is dropped.
                Some(data) => data.extend_from_slice(value),
                None => self.data = Some(value.to_vec()),
            },
            _ => {}
        }
        Ok(())
    }

    fn event_ended(&mut self, out: &mut BytesMut) -> Result<(), EndpointError> {
        self.state = State::Held;
        let data = self.data.take();
        if !std::mem::take(&mut self.is_endpoint) {
            self.release(out);
            return Ok(());
        }
        // An event without data is not dispatched.
        let Some(data) = data else {
            self.release(out);
            return Ok(());
        };
        let text = std::str::from_utf8(&data).map_err(|_| EndpointError::Link(LinkError::Invalid))?;
        let (reference, _fragment) = text.split_once('#').unwrap_or((text, ""));
        let url = self.base.rewrite(reference).map_err(EndpointError::Link)?;
        self.held.clear();
        out.extend_from_slice(b"event: endpoint\ndata: ");
        out.extend_from_slice(url.as_bytes());
        out.extend_from_slice(b"\n\n");
        Ok(())
    }

    fn release(&mut self, out: &mut BytesMut) {
        out.unsplit(self.held.split());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Target;

    fn rewriter() -> EndpointRewriter {
        let target = Target::parse("http://127.0.0.1:3001/sse").unwrap();
        EndpointRewriter::new(LinkBase::new("https://p.example/proxy/", &target).unwrap())
    }

    fn run(stream: &[u8], size: usize) -> Result<Vec<u8>, EndpointError> {
        let mut rewriter = rewriter();
        let mut out = Vec::new();
        for chunk in stream.chunks(size) {
            out.extend_from_slice(&rewriter.push(&Bytes::copy_from_slice(chunk))?);
        }
        out.extend_from_slice(&rewriter.finish());
        Ok(out)
    }

    fn all_sizes(stream: &[u8]) -> Result<String, EndpointError> {
        let whole = run(stream, stream.len());
        for size in 1..stream.len() {
            assert_eq!(run(stream, size), whole, "chunks of {size}");
        }
        whole.map(|w| String::from_utf8(w).unwrap())
    }

    const REWRITTEN: &str = "event: endpoint\ndata: https://p.example/proxy/http://127.0.0.1:3001/message?s=1\n\n";

    #[test]
    fn endpoint_events_in_every_shape() {
        for event in [
            "event: endpoint\ndata: /message?s=1\n\n",
            "event:endpoint\r\ndata:/message?s=1\r\n\r\n",
            "data: /message?s=1\revent: endpoint\r\r",
            "id: 1\ndata: message?s=1\n: c\nevent: message2\nevent: endpoint\ndata: x\n\n",
            "event: endpoint\ndata: http://127.0.0.1:3001/mess\ndata: age?s=1#frag\n\n",
        ] {
            let got = all_sizes(event.as_bytes());
            if event.contains("message2") {
                assert_eq!(got, Err(EndpointError::Late));
            } else {
                assert_eq!(got.unwrap().trim_end_matches('\n'), REWRITTEN.trim_end_matches('\n'), "{event:?}");
            }
        }
    }

    #[test]
    fn everything_else_is_byte_for_byte() {
        for stream in [
            "\u{feff}: hello\r\n\r\nretry: 3\n\nevent: message\ndata: {}\n\ndata: x\r\rdata: cut",
            "event: endpoint2\ndata: http://evil.example/\n\nendpoint\ndata: endpoint\n\n",
            "event: endpoint\nevent: message\ndata: http://evil.example/\n\n",
            "event: endpoint\n\n",
            "junk\n\n\n\r\n\r",
        ] {
            assert_eq!(all_sizes(stream.as_bytes()).unwrap(), stream, "{stream:?}");
        }
        let late = format!(": a\n\nevent: message\ndata: x\n\n{REWRITTEN}");
        let source = ": a\n\nevent: message\ndata: x\n\nevent: endpoint\ndata: /message?s=1\n\n";
        assert_eq!(all_sizes(source.as_bytes()).unwrap(), late);
    }

    #[test]
    fn a_foreign_endpoint_ends_the_stream() {
        for data in [
            "http://evil.example/",
            "//evil.example/m",
            "https://127.0.0.1:3001/m",
            "http://127.0.0.1:3002/m",
            "http://u@127.0.0.1:3001/",
        ] {
            let stream = format!("event: endpoint\ndata: {data}\n\n");
            assert_eq!(all_sizes(stream.as_bytes()), Err(EndpointError::Link(LinkError::Foreign)), "{data}");
        }
        assert_eq!(
            all_sizes(b"\xef\xbb\xbfdata: //e.example/\nevent: endpoint\n\n"),
            Err(EndpointError::Link(LinkError::Foreign))
        );
        assert_eq!(all_sizes(b"event: message\ndata: //e.example/\nevent: endpoint\n\n"), Err(EndpointError::Late));
    }

    #[test]
    fn a_named_event_passes_at_once_and_a_huge_one_still_streams() {
        let mut rewriter = rewriter();
        assert_eq!(rewriter.push(&Bytes::from_static(b": ping\n")).unwrap(), ": ping\n");
        assert_eq!(rewriter.push(&Bytes::from_static(b"event: message\ndata: par")).unwrap(), "event: message\ndata: par");
        assert_eq!(rewriter.push(&Bytes::from_static(b"tial\n\n")).unwrap(), "tial\n\n");
        let mut passed = 0;
        let big = Bytes::from(vec![b'x'; 1024]);
        passed += rewriter.push(&Bytes::from_static(b"data: ")).unwrap().len();
        for _ in 0..4096 {
            passed += rewriter.push(&big).unwrap().len();
            assert!(rewriter.held.capacity() + rewriter.lines.line.capacity() < 128 * 1024);
        }
        assert_eq!(passed, 6 + 4096 * 1024);
        assert_eq!(rewriter.push(&Bytes::from_static(b"\nevent: endpoint\n")), Err(EndpointError::TooLong));
    }

    #[test]
    fn an_over_long_endpoint_event_ends_the_stream() {
        let stream = format!("event: endpoint\ndata: /{}", "x".repeat(20_000));
        assert_eq!(run(stream.as_bytes(), 1000), Err(EndpointError::TooLong));
    }
}
