//! Response bodies: where the data is in the bytes that have been read (RFC 9112 §6 and §7.1).
//!
//! The decoder looks and does not copy: it says how many bytes of framing to skip and how many bytes of data follow.

use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;

use super::{
    super::error::{Error, Kind},
    HeadLimits,
    head::{Framing, bad, check_line_ends},
};

/// Bytes of chunk extensions in one body, which nobody reads.
const MAX_EXTENSIONS: u32 = 16 * 1024;

/// Bytes of a trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

/// What comes next, after `skip` bytes of framing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// That much data.
    Data { skip: usize, len: usize },
    /// The body's end.
    End { skip: usize, trailers: Option<Box<HeaderMap>> },
    /// Nothing yet.
    More { skip: usize },
}

/// The state of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// That much is left; nothing is the end.
    Length(u64),
    Chunked(Chunked),
    /// Until the connection ends.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    state: State,
    /// Of the chunk: as far as it is read, then what is left of it.
    size: u64,
    extensions: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Start,
    Size,
    /// A blank after the size: an extension has to follow.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

impl Decoder {
    pub(super) const DONE: Self = Self::Length(0);

    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Chunked(Chunked { state: State::Start, size: 0, extensions: 0 }),
            Framing::Close => Self::Close,
        }
    }

    /// Whether the body is over.
    pub(super) fn is_done(&self) -> bool {
        *self == Self::DONE
    }

    /// How much is still to come, if that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(n) => Some(*n),
            Self::Chunked(_) | Self::Close => None,
        }
    }

    /// Whether the end of the stream is the end of the body.
    pub(super) fn ends_with_stream(&self) -> bool {
        matches!(self, Self::Close)
    }

    /// Looks at what has been read and not yet been skipped or taken.
    pub(super) fn step(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Step, Error> {
        match self {
            Self::Length(0) => Ok(Step::End { skip: 0, trailers: None }),
            _ if buf.is_empty() => Ok(Step::More { skip: 0 }),
            Self::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= len as u64;
                Ok(Step::Data { skip: 0, len })
            }
            Self::Close => Ok(Step::Data { skip: 0, len: buf.len() }),
            Self::Chunked(chunked) => {
                let step = chunked.step(buf, limits)?;
                if matches!(step, Step::End { .. }) {
                    *self = Self::DONE;
                }
                Ok(step)
            }
        }
    }
}

impl Chunked {
    fn step(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Step, Error> {
        let mut skip = 0;
        while self.state != State::Trailers {
            if self.state == State::Data {
                let left = buf.len() - skip;
                if left == 0 {
                    break;
                }
                let len = usize::try_from(self.size).unwrap_or(usize::MAX).min(left);
                self.size -= len as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step::Data { skip, len });
            }
            let Some(&byte) = buf.get(skip) else { break };
            skip += 1;
            self.state = self.framing(byte)?;
        }
        if self.state != State::Trailers {
            return Ok(Step::More { skip });
        }
        match trailers(buf.get(skip..).unwrap_or_default(), limits)? {
            Some((size, trailers)) => Ok(Step::End { skip: skip + size, trailers }),
            None => Ok(Step::More { skip }),
        }
    }

    /// One byte of framing.
    fn framing(&mut self, byte: u8) -> Result<State, Error> {
        Ok(match (self.state, byte) {
            (State::Start | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.state == State::Size && self.size == 0 {
                    // Leading zeros say nothing and could go on for ever.
                    self.extension()?;
                }
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                let size = self.size.checked_mul(16).ok_or_else(|| bad("a chunk size that overflows"))?;
                self.size = size | u64::from(digit);
                State::Size
            }
            (State::Size | State::Extension, b'\r') => State::SizeLf,
            (State::Size | State::Blank, b';') => State::Extension,
            (State::Size | State::Blank, b' ' | b'\t') => {
                self.extension()?;
                State::Blank
            }
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extension()?;
                State::Extension
            }
            (State::SizeLf, b'\n') if self.size == 0 => State::Trailers,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Start,
            _ => return Err(bad("chunk framing")),
        })
    }

    fn extension(&mut self) -> Result<(), Error> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS { Err(bad("chunk extensions without end")) } else { Ok(()) }
    }
}

/// The size of a trailer section, and its fields if there are any.
type Section = (usize, Option<Box<HeaderMap>>);

/// The trailer section with the empty line after it, once it is complete.
fn trailers(buf: &[u8], limits: &HeadLimits) -> Result<Option<Section>, Error> {
    if buf.starts_with(b"\r\n") {
        return Ok(Some((2, None)));
    }
    let max = limits.max_bytes.min(MAX_TRAILERS);
    let Some(end) = memchr::memmem::find(buf.get(..max).unwrap_or(buf), b"\r\n\r\n") else {
        return if buf.len() >= max { Err(Error::new(Kind::HeadTooLarge)) } else { Ok(None) };
    };
    let section = buf.get(..end + 4).unwrap_or_default();
    check_line_ends(section)?;
    let mut fields = vec![httparse::EMPTY_HEADER; limits.max_count];
    let fields = match httparse::parse_headers(section, &mut fields) {
        Ok(Status::Complete((size, fields))) if size == section.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(Error::new(Kind::HeadTooLarge)),
        Ok(_) | Err(_) => return Err(bad("not a trailer section")),
    };
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| bad("not a field name"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| bad("not a field value"))?;
        map.append(name, value);
    }
    Ok(Some((section.len(), Some(Box::new(map)))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::tests::LIMITS, *};
    use crate::wire;

    type Read = (Vec<u8>, Option<HeaderMap>, usize);

    /// Feeds pieces; data, trailers and the number of bytes used up, `None` if the end has not come.
    fn read<'a>(framing: Framing, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Read>, Kind> {
        let (mut decoder, mut buf, mut data, mut used) = (Decoder::new(framing), Vec::new(), Vec::new(), 0);
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match decoder.step(&buf, &LIMITS).map_err(|e| e.kind())? {
                    Step::Data { skip, len } => {
                        assert!(len > 0);
                        data.extend_from_slice(&buf[skip..skip + len]);
                        buf.drain(..skip + len);
                        used += skip + len;
                    }
                    Step::End { skip, trailers } => {
                        assert!(decoder.is_done());
                        return Ok(Some((data, trailers.map(|t| *t), used + skip)));
                    }
                    Step::More { skip } => {
                        buf.drain(..skip);
                        used += skip;
                        break;
                    }
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn chunk_table() {
        for (bytes, want) in [
            ("5\r\nhello\r\n0\r\n\r\n", Some("hello")),
            ("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nHTTP/1.1", Some("hello")),
            ("0005\r\nhello\r\n0000\r\n\r\n", Some("hello")),
            ("A\r\nhello12345\r\n0\r\n\r\n", Some("hello12345")),
            ("a\r\nhello12345\r\n0\r\n\r\n", Some("hello12345")),
            ("5;a=b\r\nhello\r\n0;c\r\n\r\n", Some("hello")),
            ("5 ; a=\"b c\"\r\nhello\r\n0\t;c\r\n\r\n", Some("hello")),
            ("5;\r\nhello\r\n0\r\n\r\n", Some("hello")),
            ("0\r\n\r\n", Some("")),
            ("00000000000000000005\r\nhello\r\n0\r\n\r\n", Some("hello")),
            ("5\r\nhello\r\n0\r\nX-A: b\r\n\r\n", Some("hello")),
        ] {
            let got = read(Framing::Chunked, [bytes.as_bytes()]).unwrap().map(|(data, ..)| String::from_utf8(data).unwrap());
            assert_eq!(got.as_deref(), want, "{bytes:?}");
        }
        for bytes in [
            "",
            "5",
            "5\r",
            "5\r\n",
            "5\r\nhel",
            "5\r\nhello",
            "5\r\nhello\r\n",
            "5\r\nhello\r\n0",
            "0\r\n",
            "0\r\n\r",
            "0\r\nX: y\r\n",
        ] {
            assert_eq!(read(Framing::Chunked, [bytes.as_bytes()]), Ok(None), "{bytes:?} is not the end");
        }
    }

    #[test]
    fn what_is_refused() {
        for bytes in [
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0_5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\t\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            ";a\r\nhello\r\n0\r\n\r\n",
            "g\r\nhello\r\n0\r\n\r\n",
            "5,a\r\nhello\r\n0\r\n\r\n",
            "10000000000000000\r\nhello\r\n0\r\n\r\n",
            "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "5\r\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r0\r\n\r\n",
            "3\r\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "5;a\0b\r\nhello\r\n0\r\n\r\n",
            "0\r\n\n\r\n\r\n",
            "0\r\nX-A\r\n\r\n",
            "0\r\nX-A : b\r\n\r\n",
            "0\r\nX-A: b\nY: c\r\n\r\n",
            "0\r\nX-A: b\0\r\n\r\n",
            "0\r\nX-A: b\r\n c\r\n\r\n",
            "0\r\n : b\r\n\r\n",
        ] {
            assert_eq!(read(Framing::Chunked, [bytes.as_bytes()]), Err(Kind::BadResponse), "{bytes:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let max = MAX_EXTENSIONS as usize;
        let extended = |n: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(n));
        assert!(read(Framing::Chunked, [extended(max).as_bytes()]).unwrap().is_some());
        assert_eq!(read(Framing::Chunked, [extended(max + 1).as_bytes()]), Err(Kind::BadResponse));
        let spread = "1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(max / 15 + 1);
        assert_eq!(read(Framing::Chunked, [spread.as_bytes()]), Err(Kind::BadResponse), "over all chunks");
        for section in [format!("X: {}", "y".repeat(MAX_TRAILERS)), "X: y\r\n".repeat(LIMITS.max_count + 1)] {
            assert_eq!(read(Framing::Chunked, [format!("0\r\n{section}\r\n\r\n").as_bytes()]), Err(Kind::HeadTooLarge));
        }
    }

    #[test]
    fn trailers_and_what_follows_them() {
        let (data, trailers, used) =
            read(Framing::Chunked, [&b"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\nmore"[..]]).unwrap().unwrap();
        assert_eq!((data.as_slice(), used), (&b"ok"[..], 32));
        assert_eq!(trailers.unwrap().get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn lengths_and_ends_of_streams() {
        assert_eq!(read(Framing::Length(5), [&b"hel"[..], b"lomore"]), Ok(Some((b"hello".to_vec(), None, 5))));
        assert_eq!(read(Framing::Length(0), [&b"more"[..]]), Ok(Some((Vec::new(), None, 0))));
        assert_eq!(read(Framing::Length(5), [&b"hell"[..]]), Ok(None));
        assert_eq!(read(Framing::Close, [&b"hell"[..], b"o"]), Ok(None));
        assert!(Decoder::new(Framing::Close).ends_with_stream() && !Decoder::new(Framing::Length(1)).ends_with_stream());
    }

    fn valid() -> impl Strategy<Value = String> {
        let chunk = ("[!-~\r\n]{1,30}", "(;[a-z]{1,5})?").prop_map(|(data, ext)| format!("{:x}{ext}\r\n{data}\r\n", data.len()));
        let trailer = prop::collection::vec("X-[a-z]{1,5}: [a-z]{0,5}\r\n", 0..3).prop_map(|t| t.concat());
        (prop::collection::vec(chunk, 0..6), trailer).prop_map(|(chunks, t)| format!("{}0\r\n{t}\r\n", chunks.concat()))
    }

    fn pieces(bytes: &[u8], cuts: Vec<usize>) -> Vec<&[u8]> {
        let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_body(body in valid(), rest in "[ -~]{0,20}", cuts in prop::collection::vec(0usize..300, 0..12)) {
            let bytes = [body.as_bytes(), rest.as_bytes()].concat();
            let whole = read(Framing::Chunked, [bytes.as_slice()]).unwrap().unwrap();
            prop_assert_eq!(whole.2, body.len());
            prop_assert_eq!(read(Framing::Chunked, pieces(&bytes, cuts)).unwrap().unwrap(), whole);
        }

        #[test]
        fn any_split_of_anything_gives_the_same_verdict(
            bytes in "([0-9a-f;x \r\n]|\r\n|5\r\nhello\r\n){0,40}",
            cuts in prop::collection::vec(0usize..80, 0..12),
        ) {
            let whole = read(Framing::Chunked, [bytes.as_bytes()]);
            prop_assert_eq!(read(Framing::Chunked, pieces(bytes.as_bytes(), cuts)), whole);
        }

        #[test]
        fn what_is_encoded_is_decoded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..6)) {
            let mut out = Vec::new();
            for chunk in &chunks {
                wire::chunk_size(&mut out, chunk.len());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            wire::last_chunk(&mut out, None);
            let (data, trailers, used) = read(Framing::Chunked, [out.as_slice()]).unwrap().unwrap();
            prop_assert_eq!((data, trailers, used), (chunks.concat(), None, out.len()));
        }
    }
}
