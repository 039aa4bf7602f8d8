//! Pings of the proxy's own in WebSockets, byte by byte on both sides.

use std::time::{Duration, Instant};

use portcullis::{
    context::{ClosedBy, Outcome},
    proxy::WebSocketPing,
};
use tokio::sync::oneshot;

use crate::{
    support::*,
    websocket::{handshake, switch},
};

const INTERVAL: Duration = Duration::from_millis(60);
/// Several times what a Ping needs to come, if one comes.
const QUIET: Duration = Duration::from_millis(400);

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
}

impl Frame {
    fn new(first: u8, payload: impl AsRef<[u8]>) -> Self {
        Self { first, masked: false, payload: payload.as_ref().to_vec() }
    }

    /// As a client sends it, or a server.
    fn bytes(&self, masked: bool) -> Vec<u8> {
        let mut out = vec![self.first];
        let bit = if masked { 0x80 } else { 0 };
        match self.payload.len() {
            len @ 0..=125 => out.push(bit | u8::try_from(len).unwrap()),
            len => {
                out.push(bit | 0x7e);
                out.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            }
        }
        let mask = if masked { [0x8a, 2, 0x88, 4] } else { [0; 4] };
        if masked {
            out.extend_from_slice(&mask);
        }
        out.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }
}

/// One end of a WebSocket that looks at every frame.
struct End {
    wire: Wire,
    client: bool,
}

impl End {
    /// The next frame; `None` at the end of the stream.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.wire.buf) {
                self.wire.buf.drain(..length);
                assert_eq!(frame.masked, !self.client, "to servers frames are masked, to clients they are not");
                return Some(frame);
            }
            if !self.wire.fill().await {
                assert!(self.wire.buf.is_empty(), "it ended within a frame: {:?}", self.wire.buf);
                return None;
            }
        }
    }

    async fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let bytes = Frame::new(first, payload).bytes(self.client);
        self.wire.send(bytes).await;
    }

    /// Waits for a Ping of the proxy; returns its mark.
    async fn pinged(&mut self) -> Vec<u8> {
        let frame = self.frame().await.expect("a Ping");
        assert_eq!((frame.first, frame.payload.len()), (0x89, 8), "{frame:?}");
        frame.payload
    }

    /// Answers Pings of eight bytes; the first other frame.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.first != 0x89 || frame.payload.len() != 8 {
                return Some(frame);
            }
            self.send(0x8a, &frame.payload).await;
        }
    }

    /// What else comes in a while is nothing.
    async fn hears_nothing(&mut self) {
        let more = tokio::time::timeout(QUIET, self.wire.fill()).await;
        assert!(more.is_err(), "{:?}", self.wire.buf);
    }
}

fn parse(buf: &[u8]) -> Option<(Frame, usize)> {
    let (first, second) = (*buf.first()?, *buf.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(buf.get(2..4)?.try_into().unwrap())), 4),
        127 => panic!("no frame here is that long"),
        short => (usize::from(short), 2),
    };
    let masked = second & 0x80 != 0;
    let mask = if masked { buf.get(at..at + 4)?.to_vec() } else { vec![0; 4] };
    at += if masked { 4 } else { 0 };
    let payload = buf.get(at..at + length)?.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
    Some((Frame { first, masked, payload }, at + length))
}

/// Both ends of an open tunnel.
async fn open(ping: WebSocketPing, idle: Duration) -> (Proxy, End, End) {
    let (give, take) = oneshot::channel();
    let give = std::sync::Mutex::new(Some(give));
    let origin = Target::recording(move |mut wire| {
        let give = give.lock().unwrap().take().unwrap();
        async move {
            wire.head().await.unwrap();
            wire.send(switch("Sec-WebSocket-Extensions: permessage-deflate\r\n")).await;
            assert!(give.send(wire).is_ok());
        }
    })
    .await;
    let proxy = Proxy::with(|b| b, |b| b.websocket_ping(Some(ping)).tunnel_idle_timeout(idle)).await;
    let mut client = proxy.client().await;
    client.send(handshake(&origin, "Sec-WebSocket-Extensions: permessage-deflate\r\n")).await;
    assert!(client.head().await.unwrap().contains(" 101 "));
    let target = soon("the target's end", take).await.unwrap();
    (proxy, End { wire: client, client: true }, End { wire: target, client: false })
}

fn ping() -> WebSocketPing {
    WebSocketPing::every(INTERVAL).timeout(PATIENCE)
}

#[tokio::test]
async fn quiet_ends_are_asked_and_their_answers_kept_back() {
    let (proxy, mut client, mut target) = open(ping(), PATIENCE).await;
    for _ in 0..3 {
        let (one, two) = tokio::join!(client.pinged(), target.pinged());
        assert_ne!(one, two, "each end has its own mark");
        client.send(0x8a, &one).await;
        target.send(0x8a, &two).await;
    }
    // The marks are no secret between an end and the proxy; to the other end they are ordinary data.
    let (one, two) = tokio::join!(client.pinged(), target.pinged());
    client.send(0x8a, &two).await;
    target.send(0x8a, &one).await;
    client.send(0x81, "hello").await;
    assert_eq!(target.next().await.unwrap(), Frame { masked: true, ..Frame::new(0x8a, &two) }, "no answer to our Ping");
    assert_eq!(target.next().await.unwrap().payload, b"hello");
    assert_eq!(client.next().await.unwrap(), Frame::new(0x8a, &one));
    client.send(0x88, [3, 0xe8]).await;
    assert_eq!(target.next().await.unwrap().first, 0x88);
    target.send(0x88, [3, 0xe8]).await;
    drop(target);
    assert_eq!(client.next().await.unwrap().first, 0x88);
    assert_eq!(client.next().await, None);
    drop(client);
    let record = proxy.records.next().await;
    assert_eq!((record.close_code, record.outcome, record.reason), (Some(1000), Outcome::Complete, None));
    assert_eq!((record.bytes_in, record.bytes_out), (14 + 11 + 8, 10 + 4), "our Pings and their answers are not counted");
}

#[tokio::test]
async fn pings_and_pongs_of_the_ends_pass() {
    let (_proxy, mut client, mut target) = open(ping(), PATIENCE).await;
    // Unasked, before and after a Ping of ours.
    for payload in ["", "early", "12345678"] {
        client.send(0x8a, payload).await;
        assert_eq!(target.next().await.unwrap(), Frame { masked: true, ..Frame::new(0x8a, payload) });
        let mark = client.pinged().await;
        client.send(0x8a, &mark).await;
    }
    // The other end's own, answered in their order.
    target.send(0x89, "one").await;
    assert_eq!(client.next().await.unwrap(), Frame::new(0x89, "one"));
    client.send(0x8a, "one").await;
    assert_eq!(target.next().await.unwrap(), Frame { masked: true, ..Frame::new(0x8a, "one") });
}

#[tokio::test]
async fn a_ping_that_waits_for_its_answer_stands_in_for_ours() {
    let (_proxy, mut client, mut target) = open(ping(), PATIENCE).await;
    target.send(0x89, "theirs").await;
    assert_eq!(client.next().await.unwrap(), Frame::new(0x89, "theirs"));
    // The client may answer only the latest Ping; were there one of ours, the target would wait in vain.
    client.hears_nothing().await;
    client.send(0x8a, "theirs").await;
    assert_eq!(target.next().await.unwrap().payload, b"theirs");
    client.pinged().await;
}

#[tokio::test]
async fn pings_go_between_frames_only_also_between_fragments() {
    let (_proxy, mut client, mut target) = open(ping(), PATIENCE).await;
    let first = Frame::new(0x41, "a compressed fragment").bytes(false);
    for cut in [1, 2, 9] {
        client.wire.buf.clear();
        target.wire.send(&first[..cut]).await;
        let mark = loop {
            client.wire.fill().await;
            // Pings that came before the cut frame.
            while let Some((frame, length)) = parse(&client.wire.buf).filter(|(frame, _)| frame.first == 0x89) {
                client.wire.buf.drain(..length);
                client.send(0x8a, frame.payload).await;
            }
            if client.wire.buf == first[..cut] {
                client.hears_nothing().await;
                target.wire.send(&first[cut..]).await;
                assert_eq!(client.frame().await.unwrap().payload, b"a compressed fragment");
                break client.pinged().await;
            }
        };
        client.send(0x8a, mark).await;
        target.send(0x80, "the rest").await;
        assert_eq!(client.next().await.unwrap(), Frame::new(0x80, "the rest"));
    }
}

#[tokio::test]
async fn an_end_that_does_not_answer_ends_the_tunnel_with_1011() {
    for silent_client in [true, false] {
        let settings = WebSocketPing::every(INTERVAL).timeout(Duration::from_millis(300));
        let (proxy, mut client, mut target) = open(settings, PATIENCE).await;
        let (silent, other) = if silent_client { (&mut client, &mut target) } else { (&mut target, &mut client) };
        let begun = Instant::now();
        assert_eq!(other.next().await.unwrap().payload, [0x03, 0xf3]);
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(other.next().await, None);
        silent.pinged().await;
        assert_eq!(silent.frame().await.unwrap().payload, [0x03, 0xf3]);
        assert_eq!(silent.frame().await, None);
        let record = proxy.records.next().await;
        assert_eq!((record.close_code, record.closed_by), (Some(1011), Some(ClosedBy::Proxy)));
        assert_eq!((record.outcome, record.reason), (Outcome::Aborted, Some("ping_unanswered")));
    }
}

#[tokio::test]
async fn our_pings_keep_no_tunnel_alive() {
    let (_proxy, mut client, mut target) = open(ping(), Duration::from_millis(500)).await;
    let begun = Instant::now();
    let (one, two) = tokio::join!(client.next(), target.next());
    assert_eq!((one.unwrap().payload, two.unwrap().payload), (vec![0x03, 0xe9], vec![0x03, 0xe9]));
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn an_answer_cut_off_by_the_end_of_the_stream_passes() {
    let (_proxy, mut client, mut target) = open(ping(), PATIENCE).await;
    let mark = target.pinged().await;
    let answer = Frame::new(0x8a, mark).bytes(false);
    target.wire.send(&answer[..7]).await;
    drop(target);
    client.wire.gone().await;
    while let Some((frame, length)) = parse(&client.wire.buf).filter(|(frame, _)| frame.first == 0x89) {
        assert_eq!(frame.payload.len(), 8);
        client.wire.buf.drain(..length);
    }
    assert_eq!(client.wire.buf, answer[..7]);
}

/// Frames with all kinds of first bytes and sizes, cut anywhere, with pauses in which the proxy puts Pings in.
#[tokio::test]
async fn everything_else_crosses_byte_for_byte() {
    let settings = WebSocketPing::every(Duration::from_millis(2)).timeout(PATIENCE);
    let (_proxy, client, target) = open(settings, PATIENCE).await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let frames = |next: &mut dyn FnMut(usize) -> usize| {
        (0..400)
            .map(|_| {
                let first = [0xc1, 0x41, 0x00, 0x80, 0x82, 0x8a, 0xca][next(7)];
                let size = if first & 8 == 0 { [next(9), next(200), next(3000)][next(3)] } else { [8, next(126)][next(2)] };
                Frame::new(first, (0..size).map(|_| [0x8a, 0x88, 8, 0, 0x89][next(5)]).collect::<Vec<_>>())
            })
            .collect::<Vec<_>>()
    };
    let (up, down) = (frames(&mut next), frames(&mut next));
    let mut ends = Vec::new();
    for (end, sends, receives) in [(client, up.clone(), down.clone()), (target, down, up)] {
        let cuts: Vec<_> = (0..100).map(|_| (next(40) + 1, next(12) == 0)).collect();
        ends.push(tokio::spawn(exchange(end, sends, receives, cuts)));
    }
    for end in ends {
        let pings = soon("the exchange", end).await.unwrap();
        assert!(pings > 3, "{pings} Pings only: nothing was tested");
    }
}

async fn exchange(mut end: End, sends: Vec<Frame>, receives: Vec<Frame>, cuts: Vec<(usize, bool)>) -> usize {
    let (mut pings, mut got, mut mark) = (0, Vec::new(), None);
    let mut cuts = cuts.into_iter().cycle();
    let mut sends = sends.into_iter();
    while got.len() < receives.len() || sends.len() > 0 {
        if let Some(frame) = sends.next() {
            let bytes = frame.bytes(end.client);
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (cut, pause) = cuts.next().unwrap();
                let (piece, more) = rest.split_at(rest.len().min(if rest.len() > 200 { cut * 20 } else { cut }));
                end.wire.send(piece).await;
                rest = more;
                if pause {
                    tokio::time::sleep(Duration::from_millis(4)).await;
                }
            }
        } else if parse(&end.wire.buf).is_none() {
            assert!(end.wire.fill().await, "the end came early");
        }
        // What has come meanwhile.
        while tokio::time::timeout(Duration::from_micros(10), end.wire.fill()).await.is_ok_and(|more| more) {}
        while parse(&end.wire.buf).is_some() {
            let frame = end.frame().await.unwrap();
            if frame.first == 0x89 {
                assert_eq!(*mark.get_or_insert_with(|| frame.payload.clone()), frame.payload, "a Ping of ours");
                pings += 1;
                end.send(0x8a, &frame.payload).await;
            } else {
                got.push(Frame { masked: false, ..frame });
            }
        }
    }
    assert_eq!(got.len(), receives.len());
    for (index, (got, want)) in got.iter().zip(&receives).enumerate() {
        assert_eq!(got, want, "frame {index}");
    }
    pings
}
