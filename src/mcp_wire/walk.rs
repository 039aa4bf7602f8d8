//! A walk over JSON text that touches every byte once and checks strings and brackets, no more.

use super::jsonrpc::PeekError;

/// Deepest nesting that is followed: one bit each.
const MAX_DEPTH: u32 = u128::BITS;
/// A byte of value one in every place.
const ONES: u64 = u64::MAX / 0xff;
/// The high bit of every byte.
const HIGH: u64 = ONES << 7;
const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
const BACKSLASHES: u64 = u64::from_ne_bytes([b'\\'; 8]);
const SPACES: u64 = u64::from_ne_bytes([b' '; 8]);

/// What numbers, `true`, `false` and `null` consist of.
macro_rules! scalar {
    () => {
        b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E'
    };
}

/// Where a walk stands. The bytes are known to be UTF-8. It is small and made to live in registers: what is not inlined takes
/// bytes and place and gives a place back.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Eight bytes, the first one lowest.
#[derive(Clone, Copy)]
pub(super) struct Ahead(u64);

/// A key as it is written.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    /// Between its quotes; it stands for itself.
    Plain(&'a [u8]),
    /// With its quotes, because it has to be decoded.
    Escaped(&'a [u8]),
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    pub(super) fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(super) fn space(&mut self) {
        // Most messages have none between their parts.
        if self.byte().is_some_and(|byte| byte <= b' ') {
            self.at = space_end(self.bytes, self.at);
        }
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Result<(), PeekError> {
        if self.byte() != Some(byte) {
            return Err(PeekError::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// Enters an object or a list; says whether there is anything in it.
    #[inline]
    pub(super) fn enter(&mut self, open: u8, close: u8) -> Result<bool, PeekError> {
        self.take(open)?;
        self.space();
        let empty = self.byte() == Some(close);
        self.at += usize::from(empty);
        Ok(!empty)
    }

    /// Behind a member or an element: says whether another one follows.
    #[inline]
    pub(super) fn next(&mut self, close: u8) -> Result<bool, PeekError> {
        self.space();
        match self.byte() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(PeekError::Malformed),
        }
    }

    /// The next eight bytes; behind the end there are zeros.
    #[inline]
    pub(super) fn ahead(&self) -> Ahead {
        Ahead(word(self.bytes, self.at).unwrap_or(0))
    }

    /// Steps over these bytes, if they are there. `ahead` is what is ahead.
    #[inline]
    pub(super) fn skip<const N: usize>(&mut self, ahead: Ahead, expected: &[u8; N]) -> bool {
        let (head, rest) = expected.split_at(N.min(8));
        let unused = 64 - 8 * head.len();
        let head = head.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let there = ahead.0 << unused == head << unused
            && (rest.is_empty() || self.bytes.get(self.at + 8..).is_some_and(|bytes| bytes.starts_with(rest)));
        self.at += if there { N } else { 0 };
        there
    }

    /// Any key.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Key<'a>, PeekError> {
        let from = self.at;
        self.take(b'"')?;
        let (end, escaped) = string_end(self.bytes, self.at).ok_or(PeekError::Malformed)?;
        self.at = end + 1;
        Ok(if escaped {
            Key::Escaped(self.bytes.get(from..=end).unwrap_or_default())
        } else {
            Key::Plain(self.bytes.get(from + 1..end).unwrap_or_default())
        })
    }

    /// What stands between a key and its value.
    #[inline]
    pub(super) fn colon(&mut self) -> Result<(), PeekError> {
        self.space();
        self.take(b':')?;
        self.space();
        Ok(())
    }

    /// Steps over a string that stands for itself, without escapes and control characters; stays where it is at anything else.
    #[inline]
    pub(super) fn plain(&mut self) -> Option<&'a [u8]> {
        if self.byte() != Some(b'"') {
            return None;
        }
        let from = self.at + 1;
        let mut at = from;
        loop {
            let word = word(self.bytes, at)?;
            // Control characters are those that borrow when a space is taken away and have no high bit of their own.
            let controls = word.wrapping_sub(SPACES) & !word & HIGH;
            let hits = quotes_and_backslashes(word) | controls;
            if hits != 0 {
                at += first(hits);
                break;
            }
            at += 8;
        }
        if self.bytes.get(at) != Some(&b'"') {
            return None;
        }
        self.at = at + 1;
        self.bytes.get(from..at)
    }

    /// Steps over a number from 0 to 10^18 - 1 as it has to be written; stays where it is at anything else.
    #[inline]
    pub(super) fn counter(&mut self) -> Option<u64> {
        let (mut at, mut n) = (self.at, 0_u64);
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(at)
            && at - self.at < 18
        {
            n = n * 10 + u64::from(digit - b'0');
            at += 1;
        }
        let digits = at - self.at;
        let leading_zero = digits > 1 && self.byte() == Some(b'0');
        if digits == 0 || leading_zero || matches!(self.bytes.get(at), Some(scalar!())) {
            return None;
        }
        self.at = at;
        Some(n)
    }

    /// Any value, as it is written.
    #[inline]
    pub(super) fn value(&mut self) -> Result<&'a [u8], PeekError> {
        let from = self.at;
        self.at = value_end(self.bytes, from)?;
        Ok(self.bytes.get(from..self.at).unwrap_or_default())
    }
}

#[cold]
#[inline(never)]
fn space_end(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

fn value_end(bytes: &[u8], from: usize) -> Result<usize, PeekError> {
    let mut at = from;
    // What is open, innermost in the lowest bit: set for a list.
    let (mut lists, mut depth) = (0_u128, 0);
    loop {
        match bytes.get(at) {
            Some(b'"') => at = string_end(bytes, at + 1).ok_or(PeekError::Malformed)?.0 + 1,
            Some(b @ (b'{' | b'[')) => {
                if depth == MAX_DEPTH {
                    return Err(PeekError::TooComplex);
                }
                depth += 1;
                lists = lists << 1 | u128::from(*b == b'[');
                at += 1;
                continue;
            }
            Some(b @ (b'}' | b']')) => {
                if depth == 0 || (lists & 1 == 1) != (*b == b']') {
                    return Err(PeekError::Malformed);
                }
                depth -= 1;
                lists >>= 1;
                at += 1;
            }
            Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') if depth > 0 => {
                at += 1;
                continue;
            }
            Some(scalar!()) => {
                while let Some(scalar!()) = bytes.get(at) {
                    at += 1;
                }
            }
            _ => return Err(PeekError::Malformed),
        }
        if depth == 0 {
            return Ok(at);
        }
    }
}

/// The eight bytes at a place, the first one lowest; behind the end there are zeros.
#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let rest = bytes.get(at..)?;
    Some(rest.first_chunk().map_or_else(|| last_word(rest), |word| u64::from_le_bytes(*word)))
}

#[cold]
#[inline(never)]
fn last_word(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The high bit of the first byte that is a quote or a backslash, and perhaps bits of bytes behind it.
#[inline]
fn quotes_and_backslashes(word: u64) -> u64 {
    let quotes = word ^ QUOTES;
    let backslashes = word ^ BACKSLASHES;
    // A byte of value zero borrows from its high bit; a false hit needs a true one below it.
    (quotes.wrapping_sub(ONES) & !quotes | backslashes.wrapping_sub(ONES) & !backslashes) & HIGH
}

#[inline]
fn first(hits: u64) -> usize {
    (hits.trailing_zeros() / 8) as usize
}

/// Where the quote stands that ends a string, and whether there are escapes before it.
#[inline]
fn string_end(bytes: &[u8], from: usize) -> Option<(usize, bool)> {
    // Keys and names are short: looking at a word or two is then cheaper than starting a search.
    match search::<2>(bytes, from)? {
        Ok(at) => end_at(bytes, at),
        Err(at) => near_end(bytes, at),
    }
}

/// The same for a sentence: block by block, until one has an end in it.
#[inline(never)]
fn near_end(bytes: &[u8], from: usize) -> Option<(usize, bool)> {
    let mut at = from;
    for _ in 0..8 {
        let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<32>) else { break };
        // Without a way out in the middle the compiler compares all bytes at once.
        if block.iter().fold(0, |any, byte| any | u8::from(*byte == b'"') | u8::from(*byte == b'\\')) != 0 {
            break;
        }
        at += 32;
    }
    match search::<4>(bytes, at)? {
        Ok(at) => end_at(bytes, at),
        Err(at) => far_end(bytes, at),
    }
}

/// The first quote or backslash in so many words, or the place behind them.
#[inline]
fn search<const WORDS: usize>(bytes: &[u8], from: usize) -> Option<Result<usize, usize>> {
    let mut at = from;
    for _ in 0..WORDS {
        let hits = quotes_and_backslashes(word(bytes, at)?);
        if hits != 0 {
            return Some(Ok(at + first(hits)));
        }
        at += 8;
    }
    Some(Err(at))
}

/// The end where the first quote or backslash is.
#[inline]
fn end_at(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    if bytes.get(at) == Some(&b'"') { Some((at, false)) } else { far_end(bytes, at) }
}

/// The same for what is long or has escapes. No escape is cut in two at `from`.
#[inline(never)]
fn far_end(bytes: &[u8], from: usize) -> Option<(usize, bool)> {
    let (mut at, mut escaped) = (from, false);
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some((at, escaped));
        }
        escaped = true;
        at += 2;
    }
}
