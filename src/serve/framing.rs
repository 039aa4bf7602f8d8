//! A second look at HTTP/1.1 framing, beside hyper's.
//!
//! hyper reads chunk extensions leniently (RFC 9112 §7.1.1) and drops a fragment from the request target before anybody sees it.
//! Neither travels on, because bodies are framed anew; but a request on whose framing two readers may differ is refused, not
//! repaired. The bytes of a head are kept until hyper has parsed it and says what follows; bodies of known length are only counted.

use memchr::memchr;

/// Most bytes that are kept for one head; hyper's own limit stands below.
const MAX_KEPT: usize = 256 * 1024;
/// Longest line in chunked framing: a size with its extensions, or a trailer field.
const MAX_LINE: usize = 8 * 1024;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// A body of that many bytes; 0 for none.
    Length(u64),
    Chunks,
    /// Something else than HTTP may follow: nothing more is looked at on this connection.
    Anything,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Fragment,
    Chunk,
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunks(Chunks),
    Off,
}

#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    kept: Vec<u8>,
}

impl Default for Framing {
    fn default() -> Self {
        Self { state: State::Head, kept: Vec::new() }
    }
}

impl Framing {
    pub(super) fn off(&mut self) {
        *self = Self { state: State::Off, kept: Vec::new() };
    }

    /// Bytes as they came from the socket.
    pub(super) fn read(&mut self, mut data: &[u8]) -> Result<(), Fault> {
        loop {
            match &mut self.state {
                State::Off => return Ok(()),
                State::Head => {
                    if self.kept.len() + data.len() > MAX_KEPT {
                        self.off();
                    } else {
                        self.kept.extend_from_slice(data);
                    }
                    return Ok(());
                }
                State::Length(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                    *left -= n as u64;
                    data = data.get(n..).unwrap_or_default();
                    if *left > 0 || data.is_empty() {
                        if *left == 0 {
                            self.state = State::Head;
                        }
                        return Ok(());
                    }
                    self.state = State::Head;
                }
                State::Chunks(chunks) => {
                    let used = chunks.read(data);
                    match used {
                        Err(fault) => {
                            self.off();
                            return Err(fault);
                        }
                        Ok(None) => return Ok(()),
                        Ok(Some(n)) => {
                            data = data.get(n..).unwrap_or_default();
                            self.state = State::Head;
                        }
                    }
                }
            }
        }
    }

    /// hyper has parsed the head whose bytes came first.
    pub(super) fn head(&mut self, follows: Follows) -> Result<(), Fault> {
        if !matches!(self.state, State::Head) {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.kept);
        let Some((line_end, end)) = head_end(&kept) else {
            self.off();
            return Ok(());
        };
        let fragment = kept.get(..line_end).is_some_and(|line| memchr(b'#', line).is_some());
        self.state = match follows {
            Follows::Length(n) => State::Length(n),
            Follows::Chunks => State::Chunks(Chunks::default()),
            Follows::Anything => State::Off,
        };
        let rest = self.read(kept.get(end..).unwrap_or_default());
        // The buffer serves the next head too.
        if self.kept.is_empty() && kept.capacity() <= 4096 && !matches!(self.state, State::Off) {
            self.kept = kept;
            self.kept.clear();
        }
        if fragment { Err(Fault::Fragment) } else { rest }
    }
}

/// Where the request line and the whole head end. Lines may end in a bare LF, as hyper takes it; empty lines in front are skipped.
fn head_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let skipped = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let mut at = skipped;
    let mut line_end = None;
    loop {
        let rest = bytes.get(at..)?;
        let n = memchr(b'\n', rest)?;
        line_end.get_or_insert(at + n);
        at += n + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some((line_end?, at + 1)),
            [b'\r', b'\n', ..] => return Some((line_end?, at + 2)),
            _ => {}
        }
    }
}

/// Chunked framing by the letter.
#[derive(Debug, Default)]
struct Chunks {
    line: Vec<u8>,
    /// Bytes of the current chunk and its line end still to come.
    data: u64,
    trailers: bool,
}

impl Chunks {
    /// How many bytes of `data` belong to the body, if it ends in them.
    fn read(&mut self, data: &[u8]) -> Result<Option<usize>, Fault> {
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|r| !r.is_empty()) {
            if self.data > 0 {
                let n = usize::try_from(self.data).unwrap_or(usize::MAX).min(rest.len());
                self.data -= n as u64;
                at += n;
                continue;
            }
            let Some(n) = memchr(b'\n', rest) else {
                self.keep(rest)?;
                return Ok(None);
            };
            self.keep(rest.get(..n).unwrap_or_default())?;
            at += n + 1;
            if self.line()? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.line.len() + bytes.len() > MAX_LINE {
            return Err(Fault::Chunk);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// A line is complete. Whether it ends the body.
    fn line(&mut self) -> Result<bool, Fault> {
        let line = std::mem::take(&mut self.line);
        let Some((b'\r', line)) = line.split_last() else { return Err(Fault::Chunk) };
        if self.trailers {
            return Ok(line.is_empty());
        }
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extensions) = line.split_at(digits);
        let size = std::str::from_utf8(size).ok().and_then(|s| u64::from_str_radix(s, 16).ok()).ok_or(Fault::Chunk)?;
        if !are_extensions(extensions) {
            return Err(Fault::Chunk);
        }
        match size.checked_add(2) {
            Some(2) => self.trailers = true,
            Some(n) => self.data = n,
            None => return Err(Fault::Chunk),
        }
        Ok(false)
    }
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
fn are_extensions(mut rest: &[u8]) -> bool {
    fn blanks(rest: &[u8]) -> &[u8] {
        let n = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        rest.get(n..).unwrap_or_default()
    }
    fn token(rest: &[u8]) -> Option<&[u8]> {
        let n = rest.iter().take_while(|b| is_token_byte(**b)).count();
        rest.get(n..).filter(|_| n > 0)
    }
    fn quoted(rest: &[u8]) -> Option<&[u8]> {
        let mut bytes = rest.iter().enumerate().skip(1);
        while let Some((i, b)) = bytes.next() {
            match b {
                b'"' => return rest.get(i + 1..),
                b'\\' => drop(bytes.next()?),
                b'\t' | b' '..=b'~' | 0x80.. => {}
                _ => return None,
            }
        }
        None
    }
    while !rest.is_empty() {
        let Some((b';', after)) = blanks(rest).split_first() else { return false };
        let Some(after) = token(blanks(after)) else { return false };
        rest = match blanks(after).split_first() {
            Some((b'=', value)) => {
                let value = blanks(value);
                let end = if value.first() == Some(&b'"') { quoted(value) } else { token(value) };
                let Some(end) = end else { return false };
                end
            }
            _ => after,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_by_the_grammar() {
        for good in ["", ";a", ";a=b", " ; a = \"b\\\"c\"", ";a;b=c"] {
            assert!(are_extensions(good.as_bytes()), "{good:?}");
        }
        for bad in [";", " ", "x", ";a=", ";bad[=x", ";a=\"b", ";a=b c", ";;a", ";a=\"\u{1}\""] {
            assert!(!are_extensions(bad.as_bytes()), "{bad:?}");
        }
    }

    /// Feeds the stream in pieces; every head is announced as soon as its bytes are there.
    fn run(stream: &[u8], cut: usize, follows: &[Follows]) -> Result<usize, Fault> {
        let (mut framing, mut heads) = (Framing::default(), 0);
        for piece in stream.chunks(cut) {
            framing.read(piece)?;
            while matches!(framing.state, State::Head) && head_end(&framing.kept).is_some() {
                framing.head(follows[heads])?;
                heads += 1;
            }
        }
        Ok(heads)
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let stream = b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\n\r\nhello\
            POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: 1\r\n\r\n\
            GET /c HTTP/1.1\n\nGET /d HTTP/1.1\r\n\r\n";
        let follows = [Follows::Length(5), Follows::Chunks, Follows::Length(0), Follows::Length(0)];
        for cut in [1, 2, 3, 7, 40, stream.len()] {
            assert_eq!(run(stream, cut, &follows), Ok(4), "cut {cut}");
        }
    }

    #[test]
    fn what_hyper_lets_pass_is_found() {
        for body in
            ["5;\r\nhello\r\n0\r\n\r\n", "5;bad[=x\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n"]
        {
            let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            for cut in [1, stream.len()] {
                assert_eq!(run(stream.as_bytes(), cut, &[Follows::Chunks]), Err(Fault::Chunk), "{body:?}");
            }
        }
        assert_eq!(run(b"GET /x#y HTTP/1.1\r\n\r\n", 100, &[Follows::Length(0)]), Err(Fault::Fragment));
        assert_eq!(run(b"GET /x HTTP/1.1\r\nX: #\r\n\r\n", 100, &[Follows::Length(0)]), Ok(1));
    }

    #[test]
    fn a_tunnel_is_not_looked_at() {
        let mut framing = Framing::default();
        framing.read(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").unwrap();
        framing.head(Follows::Anything).unwrap();
        for _ in 0..100 {
            framing.read(&[0; 8 * 1024]).unwrap();
        }
        assert_eq!(framing.kept.capacity(), 0);
    }
}
