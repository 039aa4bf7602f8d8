//! The reading half without a socket, for property tests and the fuzzer.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};

use super::{
    HeadLimits,
    decode::{Decoder, Step},
    head::HeadReader,
};

const LIMITS: HeadLimits =
    HeadLimits { timeout: Duration::from_secs(1), max_bytes: 4096, max_count: 20, continue_wait: Duration::from_secs(1) };

/// One response: status, number of fields, body, number of trailers, and whether it came to its end.
type Seen = (u16, usize, Vec<u8>, usize, bool);

/// Reads responses from a stream that arrives in pieces of the given sizes, then the rest; and whether that was all there was.
fn read_all(bytes: &[u8], sizes: &[u8], to_head: bool) -> (Vec<Seen>, bool) {
    let (mut reader, mut buf, mut seen) = (HeadReader::default(), BytesMut::new(), Vec::new());
    let mut rest = bytes;
    let mut sizes = sizes.iter().map(|s| usize::from(*s) + 1);
    let mut more = move |buf: &mut BytesMut| {
        let (now, later) = rest.split_at(sizes.next().unwrap_or(usize::MAX).min(rest.len()));
        buf.extend_from_slice(now);
        rest = later;
        !now.is_empty()
    };
    let mut headers = http::HeaderMap::new();
    loop {
        let head = loop {
            if !buf.is_empty() {
                match reader.take(&mut buf, &LIMITS, to_head, &mut headers) {
                    Ok(Some(head)) => break head,
                    Ok(None) => {}
                    Err(_) => return (seen, false),
                }
            }
            if !more(&mut buf) {
                return (seen, buf.is_empty());
            }
        };
        let mut decoder = Decoder::new(head.framing);
        let (mut body, mut trailers) = (Vec::new(), 0);
        let end = loop {
            match decoder.step(&buf, &LIMITS) {
                Ok(Step::Data { skip, len }) => {
                    buf.advance(skip);
                    body.extend_from_slice(&buf.split_to(len));
                }
                Ok(Step::End { skip, trailers: fields }) => {
                    buf.advance(skip);
                    trailers = fields.map_or(0, |t| t.len());
                    break true;
                }
                Ok(Step::More { skip }) => {
                    buf.advance(skip);
                    if !more(&mut buf) {
                        break decoder.ends_with_stream();
                    }
                }
                Err(_) => break false,
            }
        };
        let go_on = head.keep_alive && end;
        seen.push((head.status.as_u16(), headers.len(), body, trailers, end));
        if !go_on {
            return (seen, buf.is_empty() && !more(&mut buf));
        }
    }
}

/// A stream of responses gives the same, in whatever pieces it arrives, and nothing panics.
///
/// # Panics
/// If it does not.
pub(crate) fn check(bytes: &[u8], sizes: &[u8], to_head: bool) {
    let whole = read_all(bytes, &[], to_head);
    assert_eq!(whole, read_all(bytes, sizes, to_head), "in pieces");
    assert_eq!(whole, read_all(bytes, &vec![0; bytes.len()], to_head), "byte by byte");
    for (status, _, body, _, _) in &whole.0 {
        assert!(!(to_head || matches!(status, 100..=199 | 204 | 304)) || body.is_empty(), "a body where none can be");
    }
}
