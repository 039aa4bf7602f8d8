//! Pings of the proxy's own in quiet WebSockets (RFC 6455 §5.5.2): when one is due, and how its answer is kept from the other end.

use std::time::Duration;

use tokio::time::Instant;

use super::frames::Position;

/// Pings that the proxy puts into WebSockets, towards each end by itself.
///
/// An end from which nothing has come for `interval` gets a Ping between two frames. It has then `timeout` to answer; any byte
/// from it begins that time anew, because a Pong may have to wait behind a long message. An end that stays silent ends the tunnel
/// with 1011. The Pong that answers is kept back, for the other end never asked; every other Pong passes, and so does everything
/// else, byte for byte.
///
/// A Ping that one end has sent to the other, and that is not answered yet, stands in for ours: the asked end may answer only the
/// latest of several (RFC 6455 §5.5.3), and the end that asked first would wait in vain. An end that takes no bytes is not asked,
/// and one that the proxy itself keeps waiting (for the sake of a rate, or of the other end) is not missed. Neither our Pings nor
/// their answers count as life for [`tunnel_idle_timeout`](super::ProxyServiceBuilder::tunnel_idle_timeout), in `bytes_in` and
/// `bytes_out`, or for [`WebSocketLimits`](super::WebSocketLimits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebSocketPing {
    /// The silence of an end after which it is asked.
    pub interval: Duration,
    /// How long it may stay silent after that.
    pub timeout: Duration,
}

impl WebSocketPing {
    /// Asks after that silence; the answer has 10 s. At least a millisecond.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { interval: interval.max(Duration::from_millis(1)), timeout: Duration::from_secs(10) }
    }

    /// How long an end may stay silent after the Ping.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// The application data by which the answer to a Ping of ours is known.
type Mark = [u8; 8];

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness the frames are still right; only an end that guesses the mark can have a Pong to itself swallowed.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// What an end and the other have done since the last look.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not exclude each other")]
pub(super) struct News {
    /// Bytes came from the end, or none could come because the proxy does not read.
    pub(super) heard: bool,
    /// A Pong came from it, ours or not.
    pub(super) answered: bool,
    /// The other end has sent it a Ping.
    pub(super) asked: bool,
    /// Our Ping is not yet on its way.
    pub(super) sending: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Look again then, if nothing happens before.
    Wait(Instant),
    /// A Ping is due; [`End::ping`] makes it.
    Ping,
    /// The end has not answered.
    Lost,
}

/// One end of a tunnel.
#[derive(Debug)]
pub(super) struct End {
    settings: WebSocketPing,
    mark: Mark,
    masked: bool,
    heard: Instant,
    /// Since when an answer is due.
    waiting: Option<Instant>,
    /// The other end waits for an answer to its own Ping.
    asked: bool,
}

impl End {
    /// `masked`: frames to it have to be, because it is the server.
    pub(super) fn new(settings: WebSocketPing, masked: bool, now: Instant) -> Self {
        Self { settings, mark: random(), masked, heard: now, waiting: None, asked: false }
    }

    pub(super) fn look(&mut self, now: Instant, news: News) -> Action {
        if news.heard {
            self.heard = now;
        }
        self.asked |= news.asked;
        if news.answered {
            self.waiting = None;
            self.asked = false;
        }
        if news.sending && self.waiting.is_some() {
            self.waiting = Some(now);
        }
        if self.waiting.is_none() {
            let due = self.heard + self.settings.interval;
            if now < due {
                return Action::Wait(due);
            }
            if !self.asked {
                return Action::Ping;
            }
            self.waiting = Some(now);
        }
        let since = self.waiting.map_or(self.heard, |waiting| waiting.max(self.heard));
        let due = since + self.settings.timeout;
        if now < due { Action::Wait(due) } else { Action::Lost }
    }

    /// A Ping to this end, whose answer is due from now on.
    pub(super) fn ping(&mut self, now: Instant) -> Vec<u8> {
        self.waiting = Some(now);
        let mut frame = vec![0x89, 0x08];
        if self.masked {
            let mask: [u8; 4] = random();
            frame = vec![0x89, 0x88];
            frame.extend_from_slice(&mask);
            frame.extend(self.mark.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            frame.extend_from_slice(&self.mark);
        }
        frame
    }

    /// What keeps this end's answers back, in a stream from it that stands at `position`.
    pub(super) fn filter(&self, position: Position) -> PongFilter {
        PongFilter { mark: self.mark, position, held: [0; HELD], len: 0 }
    }
}

const PONG: u8 = 0x8a;
/// Two bytes of header, a mask, and the mark.
const HELD: usize = 14;

/// Takes the Pongs that answer our Pings out of a stream, however it is cut.
#[derive(Debug)]
pub(super) struct PongFilter {
    mark: Mark,
    position: Position,
    /// The bytes of a Pong that may be ours, as long as that is open.
    held: [u8; HELD],
    len: usize,
}

enum Finding {
    Open,
    Ours,
    NotOurs,
}

impl PongFilter {
    /// What of `data`, and of what was held before it, passes; `out` is where that lies if it is not simply `data`. The flag says
    /// whether an answer was taken out.
    pub(super) fn filter<'a>(&mut self, data: &'a [u8], out: &'a mut Vec<u8>) -> (&'a [u8], bool) {
        let (mut at, mut from) = (0, 0);
        let (mut touched, mut answered) = (self.len > 0, false);
        while let Some(&byte) = data.get(at) {
            if self.len == 0 && !(byte == PONG && self.position.at_boundary()) {
                at += self.position.advance(data.get(at..).unwrap_or_default());
                continue;
            }
            if self.len == 0 {
                touched = true;
                out.extend_from_slice(data.get(from..at).unwrap_or_default());
            }
            if let Some(slot) = self.held.get_mut(self.len) {
                *slot = byte;
            }
            self.len += 1;
            self.position.advance(&[byte]);
            at += 1;
            from = at;
            match self.finding() {
                Finding::Open => {}
                Finding::Ours => {
                    answered = true;
                    self.len = 0;
                }
                Finding::NotOurs => out.extend_from_slice(self.release()),
            }
        }
        if !touched {
            return (data, false);
        }
        out.extend_from_slice(data.get(from..).unwrap_or_default());
        (out, answered)
    }

    /// What is held passes after all.
    pub(super) fn release(&mut self) -> &[u8] {
        let len = std::mem::take(&mut self.len);
        self.held.get(..len).unwrap_or_default()
    }

    fn finding(&self) -> Finding {
        let [_, second, mask @ ..] = self.held;
        if self.len < 2 {
            return Finding::Open;
        }
        let masked = second & 0x80 != 0;
        if second & 0x7f != 8 {
            return Finding::NotOurs;
        }
        let begin = if masked { 6 } else { 2 };
        if self.len < begin + 8 {
            return Finding::Open;
        }
        let payload = self.held.get(begin..begin + 8).unwrap_or_default();
        let mask = mask.iter().take(4).map(|m| if masked { *m } else { 0 }).cycle();
        let ours = payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask).eq(self.mark);
        if ours { Finding::Ours } else { Finding::NotOurs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = *b"\x8a\x88mark\x8a\x08";

    fn pong(mark: &[u8], masked: bool) -> Vec<u8> {
        let len = u8::try_from(mark.len()).unwrap();
        if !masked {
            return [&[PONG, len], mark].concat();
        }
        let veil = [7, 0x8a, 3, 4];
        let payload: Vec<_> = mark.iter().zip(veil.iter().cycle()).map(|(b, m)| b ^ m).collect();
        [&[PONG, 0x80 | len], &veil[..], &payload].concat()
    }

    fn end(masked: bool) -> (End, Instant) {
        let now = Instant::now();
        let settings = WebSocketPing::every(Duration::from_secs(30)).timeout(Duration::from_secs(5));
        (End { mark: MARK, ..End::new(settings, masked, now) }, now)
    }

    #[test]
    fn only_our_pongs_are_taken_out_however_the_stream_is_cut() {
        for masked in [false, true] {
            let other = pong(b"\x8a\x88mark\x8a\x09", masked);
            let payload_like_a_pong = [&[0x82, 10][..], &pong(&MARK, false)].concat();
            let pieces = [
                (&[0x81, 2, b'h', b'i'][..], true),
                (&pong(&MARK, masked), false),
                (&other, true),
                (&payload_like_a_pong, true),
                (&pong(b"", masked), true),
                (&pong(b"longer than eight", masked), true),
                (&pong(&MARK, masked), false),
                (&pong(&MARK, masked), false),
                (&[PONG, 0x7e, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8], true),
                (&[0x01, 0x7e, 0, 3, PONG, 8, 1], true),
                (&pong(&MARK, masked), false),
                (&[0x80, 0], true),
                (&[PONG, 8, MARK[0]], true),
            ];
            let stream: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
            let want: Vec<u8> =
                pieces.iter().filter(|(_, passes)| *passes).flat_map(|(bytes, _)| bytes.iter().copied()).collect();
            for cut in 1..=stream.len() {
                let mut filter = end(false).0.filter(Position::default());
                let (mut got, mut answers) = (Vec::new(), 0);
                for piece in stream.chunks(cut) {
                    let mut out = Vec::new();
                    let (passed, answered) = filter.filter(piece, &mut out);
                    got.extend_from_slice(passed);
                    answers += usize::from(answered);
                }
                got.extend_from_slice(filter.release());
                assert_eq!(got, want, "cut {cut}");
                assert!(answers > 0);
            }
        }
    }

    #[test]
    fn streams_without_pongs_are_not_copied() {
        let mut filter = end(false).0.filter(Position::default());
        let data = [0x82, 3, PONG, PONG, PONG, 0x89, 0];
        let mut out = Vec::new();
        let (passed, answered) = filter.filter(&data, &mut out);
        assert!(std::ptr::eq(passed, &raw const data[..]) && !answered);
    }

    #[test]
    fn pings_are_masked_towards_servers_only() {
        let (mut client, now) = end(false);
        assert_eq!(client.ping(now), [&[0x89, 8][..], &MARK].concat());
        let (mut target, now) = end(true);
        let (one, two) = (target.ping(now), target.ping(now));
        assert_eq!((&one[..2], one.len()), (&[0x89, 0x88][..], 14));
        assert!(one[6..].iter().zip(one[2..6].iter().cycle()).map(|(b, m)| b ^ m).eq(MARK));
        assert_ne!(one[2..6], two[2..6], "a fresh mask for each");
    }

    #[test]
    fn an_end_is_asked_after_its_silence_and_lost_after_no_answer() {
        let (mut end, start) = end(false);
        let at = |seconds| start + Duration::from_secs(seconds);
        let heard = News { heard: true, ..News::default() };
        assert_eq!(end.look(at(1), heard), Action::Wait(at(31)));
        assert_eq!(end.look(at(31), News::default()), Action::Ping);
        end.ping(at(31));
        assert_eq!(end.look(at(31), News { sending: true, ..News::default() }), Action::Wait(at(36)));
        // It cannot be written yet; and when it is, what comes from the end begins the time anew.
        assert_eq!(end.look(at(33), News { sending: true, ..News::default() }), Action::Wait(at(38)));
        assert_eq!(end.look(at(37), heard), Action::Wait(at(42)));
        assert_eq!(end.look(at(41), News { heard: true, answered: true, ..News::default() }), Action::Wait(at(71)));
        assert_eq!(end.look(at(71), News::default()), Action::Ping);
        end.ping(at(71));
        assert_eq!(end.look(at(76), News::default()), Action::Lost);
    }

    #[test]
    fn a_ping_of_the_other_end_stands_in_for_ours() {
        let (mut end, start) = end(false);
        let at = |seconds| start + Duration::from_secs(seconds);
        end.look(at(1), News { asked: true, ..News::default() });
        assert_eq!(end.look(at(30), News::default()), Action::Wait(at(35)));
        assert_eq!(end.look(at(31), News { heard: true, answered: true, ..News::default() }), Action::Wait(at(61)));
        assert_eq!(end.look(at(61), News::default()), Action::Ping);
        let (mut end, start) = self::end(false);
        let at = |seconds| start + Duration::from_secs(seconds);
        end.look(start, News { asked: true, ..News::default() });
        end.look(at(30), News::default());
        assert_eq!(end.look(at(36), News::default()), Action::Lost);
    }
}
