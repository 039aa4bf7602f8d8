//! Reading WebSocket frame headers beside the byte stream (RFC 6455 §5.2), without touching payloads.

use std::time::Duration;

/// Limits of one direction of a WebSocket. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct WebSocketLimits {
    /// Largest message in bytes, over all its fragments. Exceeding it closes with 1009.
    pub max_message: Option<u64>,
    /// Frames a second; a burst of as many is allowed. Exceeding it for long closes with 1008.
    pub frames_per_second: Option<u32>,
    /// Payload bytes a second; a burst of as many is allowed. The stream is slowed down to it.
    pub bytes_per_second: Option<u64>,
}

impl WebSocketLimits {
    /// No limits.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The largest message, in bytes.
    #[must_use]
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.max_message = Some(bytes);
        self
    }

    /// Frames a second.
    #[must_use]
    pub fn frames_per_second(mut self, frames: u32) -> Self {
        self.frames_per_second = Some(frames);
        self
    }

    /// Payload bytes a second.
    #[must_use]
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }
}

/// What the reader makes of a piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All of it may pass.
    Pass,
    /// Only the first `usize` bytes may pass, up to a frame's boundary; then the tunnel closes with the code.
    Stop(usize, u16),
}

/// Where a stream stands: between two frames, in a frame's header, or in its payload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    header: [u8; 14],
    have: usize,
    /// Payload bytes of the current frame still to come.
    payload: u64,
}

/// What a complete header says.
struct Header {
    first: u8,
    length: u64,
    mask: Option<[u8; 4]>,
}

impl Position {
    /// Whether the stream stands between two frames.
    pub(super) fn at_boundary(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// Follows `data` up to the end of a header or of a frame at most; returns how much that was.
    pub(super) fn advance(&mut self, data: &[u8]) -> usize {
        if self.payload > 0 {
            return self.skip(data.len());
        }
        for (taken, byte) in data.iter().enumerate() {
            if self.header_byte(*byte).is_some() {
                return taken + 1;
            }
        }
        data.len()
    }

    /// Leaves behind as much of the payload as there is.
    fn skip(&mut self, available: usize) -> usize {
        let take = usize::try_from(self.payload).unwrap_or(usize::MAX).min(available);
        self.payload -= take as u64;
        take
    }

    fn header_byte(&mut self, byte: u8) -> Option<Header> {
        if let Some(slot) = self.header.get_mut(self.have) {
            *slot = byte;
        }
        self.have += 1;
        if self.have < self.header_len() {
            return None;
        }
        self.have = 0;
        let [first, second, ext @ ..] = self.header;
        let (length, mask_at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes([ext[0], ext[1]])), 2),
            127 => (u64::from_be_bytes([ext[0], ext[1], ext[2], ext[3], ext[4], ext[5], ext[6], ext[7]]), 8),
            short => (u64::from(short), 0),
        };
        self.payload = length;
        let mask = (second & 0x80 != 0).then(|| ext.get(mask_at..mask_at + 4).and_then(|m| m.try_into().ok())).flatten();
        Some(Header { first, length, mask })
    }

    fn header_len(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let second = self.header[1];
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if second & 0x80 == 0 { 0 } else { 4 }
    }
}

/// Follows the frames of one direction.
#[derive(Debug)]
pub(crate) struct FrameReader {
    limits: WebSocketLimits,
    position: Position,
    mask: Option<[u8; 4]>,
    is_close: bool,
    close: [u8; 2],
    close_have: usize,
    message: u64,
    tokens: f64,
    allowance: f64,
    last: Option<Duration>,
    pub(crate) close_code: Option<u16>,
    /// Pings and Pongs so far. They wrap: only that they have changed says something.
    pub(super) pings: u32,
    pub(super) pongs: u32,
}

impl FrameReader {
    pub(crate) fn new(limits: WebSocketLimits) -> Self {
        Self {
            limits,
            position: Position::default(),
            mask: None,
            is_close: false,
            close: [0; 2],
            close_have: 0,
            message: 0,
            tokens: f64::from(limits.frames_per_second.unwrap_or(0)),
            allowance: as_float(limits.bytes_per_second.unwrap_or(0)),
            last: None,
            close_code: None,
            pings: 0,
            pongs: 0,
        }
    }

    /// Whether the stream stands between two frames.
    pub(crate) fn at_boundary(&self) -> bool {
        self.position.at_boundary()
    }

    /// Where the stream stands.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Whether rates are limited, so that [`Self::read`] needs the time.
    pub(crate) fn is_metered(&self) -> bool {
        self.limits.frames_per_second.is_some() || self.limits.bytes_per_second.is_some()
    }

    /// Follows `data`. `now` is any monotonic time.
    pub(crate) fn read(&mut self, data: &[u8], now: Duration) -> Verdict {
        self.refill(now);
        let mut at = 0;
        // Where the frame that is being read begins in `data`; a frame that began earlier has passed in part already.
        let mut frame_start = None;
        while at < data.len() {
            if self.position.payload > 0 {
                let rest = data.get(at..).unwrap_or_default();
                let take = self.position.skip(rest.len());
                self.note_close(rest.get(..take).unwrap_or_default());
                self.allowance -= as_float(take as u64);
                at += take;
                if self.position.payload == 0 {
                    self.end_frame();
                }
                continue;
            }
            if self.position.at_boundary() {
                frame_start = Some(at);
            }
            let header = data.get(at).and_then(|byte| self.position.header_byte(*byte));
            at += 1;
            if let Some(header) = header {
                if let Some(code) = self.begin_frame(&header) {
                    // If nothing of the frame has passed, what has passed ends at a boundary; if a part of its header has, it does not.
                    self.position = Position { have: usize::from(frame_start.is_none()), ..Position::default() };
                    return Verdict::Stop(frame_start.unwrap_or(0), code);
                }
                if header.length == 0 {
                    self.end_frame();
                }
            }
        }
        Verdict::Pass
    }

    /// How long the sender has to wait before more may pass.
    pub(crate) fn delay(&self) -> Option<Duration> {
        let rate = self.limits.bytes_per_second?;
        (self.allowance < 0.0).then(|| Duration::from_secs_f64((-self.allowance / as_float(rate.max(1))).min(60.0)))
    }

    /// The header is complete. Returns the close code if a limit is exceeded.
    fn begin_frame(&mut self, header: &Header) -> Option<u16> {
        let &Header { first, length, mask } = header;
        self.mask = mask;
        let opcode = first & 0x0f;
        let control = opcode & 0x08 != 0;
        self.is_close = opcode == 0x08;
        self.close_have = 0;
        match opcode {
            0x09 => self.pings = self.pings.wrapping_add(1),
            0x0a => self.pongs = self.pongs.wrapping_add(1),
            _ => {}
        }
        if !control {
            if opcode != 0 {
                self.message = 0;
            }
            self.message = self.message.saturating_add(length);
            if self.limits.max_message.is_some_and(|max| self.message > max) {
                return Some(1009);
            }
        }
        if let Some(rate) = self.limits.frames_per_second {
            self.tokens -= 1.0;
            if self.tokens < -f64::from(rate) {
                return Some(1008);
            }
        }
        None
    }

    fn end_frame(&mut self) {
        if self.is_close {
            let code = if self.close_have == 2 { u16::from_be_bytes(self.close) } else { 1005 };
            self.close_code.get_or_insert(code);
            self.is_close = false;
        }
    }

    fn note_close(&mut self, payload: &[u8]) {
        if !self.is_close {
            return;
        }
        for byte in payload {
            let index = self.close_have;
            if index >= 2 {
                break;
            }
            let mask = self.mask.and_then(|m| m.get(index).copied()).unwrap_or(0);
            if let Some(slot) = self.close.get_mut(index) {
                *slot = byte ^ mask;
            }
            self.close_have += 1;
        }
    }

    fn refill(&mut self, now: Duration) {
        let passed = self.last.replace(now).map_or(0.0, |last| now.saturating_sub(last).as_secs_f64());
        if let Some(rate) = self.limits.frames_per_second {
            let rate = f64::from(rate);
            self.tokens = (self.tokens + passed * rate).min(rate);
        }
        if let Some(rate) = self.limits.bytes_per_second {
            let rate = as_float(rate);
            self.allowance = (self.allowance + passed * rate).min(rate);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates and sizes far below 2^52")]
fn as_float(value: u64) -> f64 {
    value as f64
}

/// A close frame (RFC 6455 §5.5.1). Frames to a server have to be masked; a mask of zeros is one.
pub(crate) fn close_frame(code: u16, masked: bool) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    if masked { vec![0x88, 0x82, 0, 0, 0, 0, high, low] } else { vec![0x88, 0x02, high, low] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mut out = vec![first];
        let bit = if masked { 0x80 } else { 0 };
        match payload {
            0..=125 => out.push(bit | u8::try_from(payload).unwrap()),
            126..=0xffff => {
                out.push(bit | 0x7e);
                out.extend_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                out.push(bit | 0x7f);
                out.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        if masked {
            out.extend_from_slice(&[1, 2, 3, 4]);
        }
        out.resize(out.len() + payload, 7);
        out
    }

    #[test]
    fn boundaries_are_found_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        for (first, size, masked) in
            [(0x81, 5, true), (0x02, 200, false), (0x80, 70_000, true), (0x89, 0, false), (0x81, 126, true)]
        {
            stream.extend(frame(first, size, masked));
        }
        for cut in [1, 2, 3, 7, 64, 1000, stream.len()] {
            let mut reader = FrameReader::new(WebSocketLimits::none());
            for piece in stream.chunks(cut) {
                assert_eq!(reader.read(piece, Duration::ZERO), Verdict::Pass);
            }
            assert!(reader.at_boundary(), "cut {cut}");
        }
    }

    #[test]
    fn close_codes_are_seen_through_the_mask() {
        for masked in [false, true] {
            let mut reader = FrameReader::new(WebSocketLimits::none());
            let mut close = close_frame(4321, masked);
            if masked {
                close[2..6].copy_from_slice(&[9, 8, 7, 6]);
                close[6] ^= 9;
                close[7] ^= 8;
            }
            for byte in close {
                reader.read(&[byte], Duration::ZERO);
            }
            assert_eq!(reader.close_code, Some(4321));
        }
    }

    #[test]
    fn a_message_too_large_stops_at_the_boundary_before_its_frame() {
        let mut reader = FrameReader::new(WebSocketLimits::none().max_message(10));
        let mut stream = frame(0x01, 6, true);
        let boundary = stream.len();
        stream.extend(frame(0x80, 5, true));
        assert_eq!(reader.read(&stream, Duration::ZERO), Verdict::Stop(boundary, 1009));
    }

    #[test]
    fn a_length_near_the_end_of_the_number_range_does_not_wrap() {
        let mut reader = FrameReader::new(WebSocketLimits::none().max_message(10));
        assert_eq!(reader.read(&[0x01, 5, 0, 0, 0, 0, 0], Duration::ZERO), Verdict::Pass);
        let mut huge = vec![0x80, 127];
        huge.extend_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(reader.read(&huge, Duration::ZERO), Verdict::Stop(0, 1009));
    }

    #[test]
    fn a_frame_that_has_passed_in_part_leaves_no_boundary() {
        let mut reader = FrameReader::new(WebSocketLimits::none().frames_per_second(1));
        let ping = frame(0x89, 0, true);
        for _ in 0..2 {
            assert_eq!(reader.read(&ping, Duration::ZERO), Verdict::Pass);
        }
        assert_eq!(reader.read(&ping[..3], Duration::ZERO), Verdict::Pass);
        assert_eq!(reader.read(&ping[3..], Duration::ZERO), Verdict::Stop(0, 1008));
        assert!(!reader.at_boundary());
    }

    #[test]
    fn pings_and_pongs_are_counted() {
        let mut reader = FrameReader::new(WebSocketLimits::none());
        for first in [0x89, 0x8a, 0x01, 0x89, 0x80] {
            for byte in frame(first, 3, true) {
                reader.read(&[byte], Duration::ZERO);
            }
        }
        assert_eq!((reader.pings, reader.pongs), (2, 1));
    }

    #[test]
    fn rates() {
        let mut reader = FrameReader::new(WebSocketLimits::none().frames_per_second(2));
        let ping = frame(0x89, 0, true);
        for _ in 0..4 {
            assert_eq!(reader.read(&ping, Duration::ZERO), Verdict::Pass);
        }
        assert_eq!(reader.read(&ping, Duration::ZERO), Verdict::Stop(0, 1008));

        let mut reader = FrameReader::new(WebSocketLimits::none().bytes_per_second(100));
        assert_eq!(reader.read(&frame(0x82, 100, true), Duration::ZERO), Verdict::Pass);
        assert_eq!(reader.delay(), None);
        reader.read(&frame(0x82, 50, true), Duration::ZERO);
        assert_eq!(reader.delay(), Some(Duration::from_millis(500)));
    }
}
