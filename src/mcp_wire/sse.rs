//! An event stream reader (WHATWG HTML §9.2.6) for chunks of any size.

use std::fmt;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct SseEvent {
    /// The type; empty means `message`.
    pub(crate) event: String,
    /// The data lines, joined with line feeds. Bytes that are not UTF-8 became U+FFFD.
    pub(crate) data: String,
    /// The last event id, if this event sets one.
    pub(crate) id: Option<String>,
}

/// An event is longer than the reader's bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SseTooLong;

impl fmt::Display for SseTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event of the stream is too long")
    }
}

impl std::error::Error for SseTooLong {}

/// Reads events out of bytes. Comments and `retry` are skipped, an event that the stream's end cuts off is dropped.
#[derive(Debug)]
pub(crate) struct SseParser {
    lines: Lines,
    max: usize,
    used: usize,
    event: String,
    data: Vec<u8>,
    has_data: bool,
    id: Option<String>,
}

impl SseParser {
    /// `max` bounds one event in bytes, its comments included.
    #[must_use]
    pub(crate) fn new(max: usize) -> Self {
        Self { lines: Lines::default(), max, used: 0, event: String::new(), data: Vec::new(), has_data: false, id: None }
    }

    /// Takes a chunk and hands every event that it completes to `each`.
    ///
    /// # Errors
    /// [`SseTooLong`]; the parser is of no use afterwards.
    pub(crate) fn push(&mut self, mut chunk: &[u8], mut each: impl FnMut(SseEvent)) -> Result<(), SseTooLong> {
        while !chunk.is_empty() {
            let step = self.lines.step(chunk);
            chunk = chunk.get(step.used..).unwrap_or_default();
            self.used += step.used;
            if self.used > self.max {
                return Err(SseTooLong);
            }
            if step.ended {
                let line = std::mem::take(&mut self.lines.line);
                self.line(&line, &mut each);
                self.lines.reuse(line);
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(SseEvent)) {
        if line.is_empty() {
            self.used = 0;
            let event = std::mem::take(&mut self.event);
            let data = std::mem::take(&mut self.data);
            let id = self.id.take();
            if std::mem::take(&mut self.has_data) {
                each(SseEvent { event, data: String::from_utf8_lossy(&data).into_owned(), id });
            }
            return;
        }
        match field(line) {
            (b"event", value) => self.event = String::from_utf8_lossy(value).into_owned(),
            (b"data", value) => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            (b"id", value) if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
    }
}

/// Name and value of a line; a comment has an empty name.
pub(super) fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b':', line) {
        Some(at) => {
            let (name, rest) = line.split_at(at);
            let value = rest.get(1..).unwrap_or_default();
            (name, value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, &[]),
    }
}

/// Cuts bytes into lines that end with CR, LF or CRLF, whatever the chunks; a byte order mark in front is no part of the first.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) line: Vec<u8>,
    after_cr: bool,
    begun: bool,
}

/// What a step took from the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) used: usize,
    pub(super) ended: bool,
}

impl Lines {
    /// Takes bytes up to and with the next line end, or all; `line` holds the line's text so far. The caller empties it.
    pub(super) fn step(&mut self, chunk: &[u8]) -> Step {
        if std::mem::take(&mut self.after_cr) && chunk.first() == Some(&b'\n') {
            return Step { used: 1, ended: false };
        }
        let end = memchr::memchr2(b'\r', b'\n', chunk);
        self.line.extend_from_slice(chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default());
        let Some(end) = end else { return Step { used: chunk.len(), ended: false } };
        self.after_cr = chunk.get(end) == Some(&b'\r');
        if !std::mem::replace(&mut self.begun, true) && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        Step { used: end + 1, ended: true }
    }

    /// Gives a taken line's memory back.
    pub(super) fn reuse(&mut self, mut line: Vec<u8>) {
        line.clear();
        if line.capacity() <= 64 * 1024 {
            self.line = line;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut parser = SseParser::new(1000);
        let mut out = Vec::new();
        for chunk in chunks {
            parser.push(chunk, |e| out.push((e.event, e.data))).unwrap();
        }
        out
    }

    const STREAM: &[u8] =
        b"\xef\xbb\xbf: hi\r\ndata: a\rdata:b\n\nevent: x\r\ndata\r\n\r\nevent: lost\n\nretry: 5\nid: 7\ndata:  c\n\ndata: cut";

    #[test]
    fn every_line_end_comment_and_mark() {
        let want = [("", "a\nb"), ("x", ""), ("", " c")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(events(&[STREAM]), want);
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(events(&bytes), want);
        for at in 0..STREAM.len() {
            let (a, b) = STREAM.split_at(at);
            assert_eq!(events(&[a, b]), want, "cut at {at}");
        }
    }

    #[test]
    fn ids() {
        let mut parser = SseParser::new(1000);
        let mut ids = Vec::new();
        parser.push(b"id: 1\ndata: x\n\ndata: y\n\nid: a\0b\ndata: z\n\n", |e| ids.push(e.id)).unwrap();
        assert_eq!(ids, [Some("1".to_owned()), None, None]);
    }

    #[test]
    fn the_bound_is_for_one_event() {
        let mut parser = SseParser::new(20);
        for _ in 0..100 {
            parser.push(b"data: 123456\n\n", |_| {}).unwrap();
        }
        assert_eq!(parser.push(&[b'x'; 30], |_| {}), Err(SseTooLong));
    }
}
