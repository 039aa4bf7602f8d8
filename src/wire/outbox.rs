//! What waits for a socket.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

/// Pieces up to that size are copied behind what is to be written before them.
pub(crate) const TOGETHER: usize = 4 * 1024;

/// Small pieces put together in one buffer, so that a head with a small body is one write, and behind them one large piece, which is
/// written from where it is.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Written first: heads, sizes of chunks, small pieces.
    small: Vec<u8>,
    written: usize,
    /// Written next.
    large: Bytes,
    /// Written last: what ends the large piece. Empty without one.
    tail: &'static [u8],
}

impl Outbox {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// Whether more may be put in before something is written, if `most` bytes of small pieces are enough.
    #[inline]
    pub(crate) fn has_room(&self, most: usize) -> bool {
        self.large.is_empty() && self.small.len() - self.written < most
    }

    /// Where heads and sizes are written to: while there is room, for what is large comes behind them.
    #[inline]
    pub(crate) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// Data and what ends it, while there is room.
    pub(crate) fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= TOGETHER {
            self.small.extend_from_slice(&data);
            self.small.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    /// Ends a large piece otherwise. `false`: there is none.
    pub(crate) fn set_tail(&mut self, tail: &'static [u8]) -> bool {
        let large = !self.large.is_empty();
        if large {
            self.tail = tail;
        }
        large
    }

    /// Forgets everything but the memory of small pieces.
    pub(crate) fn clear(&mut self) {
        self.small.clear();
        self.written = 0;
        self.large = Bytes::new();
        self.tail = b"";
    }

    /// The pieces in order.
    pub(crate) fn pieces(&self) -> [&[u8]; 3] {
        [self.small.get(self.written..).unwrap_or_default(), &self.large, self.tail]
    }

    /// Writes once. A socket that takes nothing is an error.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(&mut self, io: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let [small, large, tail] = self.pieces();
        let n = if large.is_empty() {
            ready!(Pin::new(io).poll_write(cx, small))?
        } else {
            let pieces = [IoSlice::new(small), IoSlice::new(large), IoSlice::new(tail)];
            let pieces = pieces.get(usize::from(small.is_empty())..).unwrap_or_default();
            ready!(Pin::new(io).poll_write_vectored(cx, pieces))?
        };
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(n);
        Poll::Ready(Ok(()))
    }

    pub(crate) fn advance(&mut self, n: usize) {
        let first = n.min(self.small.len() - self.written);
        self.written += first;
        if self.written == self.small.len() {
            self.small.clear();
            self.written = 0;
        } else if self.written > TOGETHER {
            // More may be put behind the rest, however little is taken at a time.
            self.small.drain(..self.written);
            self.written = 0;
        }
        if self.large.is_empty() {
            return;
        }
        let second = (n - first).min(self.large.len());
        self.large.advance(second);
        if self.large.is_empty() {
            // An empty slice would keep the memory of the whole. What is left of its end is a small piece like others.
            self.large = Bytes::new();
            self.small.extend_from_slice(self.tail.get(n - first - second..).unwrap_or_default());
            self.tail = b"";
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_byte_goes_out_once_and_in_order(
            sizes in prop::collection::vec(prop_oneof![0usize..50, Just(TOGETHER), 4000usize..9000], 1..12),
            steps in prop::collection::vec(1usize..12_000, 1..6),
        ) {
            let (mut out, mut want, mut got) = (Outbox::default(), Vec::new(), Vec::new());
            let mut steps = steps.iter().cycle();
            let mut write = |out: &mut Outbox| {
                let all = out.pieces().concat();
                let n = all.len().min(*steps.next().unwrap());
                got.extend_from_slice(&all[..n]);
                out.advance(n);
            };
            for (i, size) in sizes.into_iter().enumerate() {
                while !out.has_room(2 * TOGETHER) {
                    write(&mut out);
                }
                let piece = vec![u8::try_from(i).unwrap(); size];
                want.extend_from_slice(&piece);
                want.extend_from_slice(b"tail");
                out.put(piece.into(), b"tail");
                prop_assert!(out.small().len() <= 4 * TOGETHER, "what is written goes");
            }
            while !out.is_empty() {
                write(&mut out);
            }
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn a_large_piece_is_not_copied_and_may_end_otherwise() {
        let piece = Bytes::from(vec![b'x'; TOGETHER + 1]);
        let mut out = Outbox::default();
        assert!(!out.set_tail(b"end"));
        out.put(piece.clone(), b"tail");
        assert_eq!(out.pieces()[1].as_ptr(), piece.as_ptr());
        assert!(out.set_tail(b"end"));
        out.advance(piece.len() + 1);
        assert_eq!(out.pieces().concat(), b"nd");
        out.clear();
        assert!(out.is_empty());
    }
}
