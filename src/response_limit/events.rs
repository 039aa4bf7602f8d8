//! The size of one event of an event stream.

use memchr::memchr2;

/// Counts the bytes of the event that is being received (WHATWG HTML §9.2.6: lines end with LF, CR or CR LF; an empty line ends
/// the event).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EventSize {
    event: u64,
    line: u64,
    after_cr: bool,
}

impl EventSize {
    /// Takes the next bytes of the stream. Returns whether an event in them was larger than `limit`.
    pub(super) fn exceeds(&mut self, mut data: &[u8], limit: u64) -> bool {
        while let Some(first) = data.first() {
            if self.after_cr && *first == b'\n' {
                // The second half of a CR LF belongs to the line that has ended.
                self.after_cr = false;
                data = data.get(1..).unwrap_or_default();
                continue;
            }
            self.after_cr = false;
            let end = memchr2(b'\n', b'\r', data);
            let text = end.unwrap_or(data.len()) as u64;
            self.line += text;
            self.event += text;
            if self.event > limit {
                return true;
            }
            let Some(end) = end else { return false };
            self.after_cr = data.get(end) == Some(&b'\r');
            self.event = if self.line == 0 { 0 } else { self.event + 1 };
            self.line = 0;
            data = data.get(end + 1..).unwrap_or_default();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_are_measured_alone() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = format!("data: 12345{end}{end}").repeat(50);
            assert!(!EventSize::default().exceeds(stream.as_bytes(), 12));
            let lines = format!("data: 12345{end}").repeat(2);
            assert!(EventSize::default().exceeds(lines.as_bytes(), 20), "{end:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(stream in "[a\r\n]{0,60}", cuts in prop::collection::vec(1usize..8, 0..40), limit in 0u64..20) {
            let whole = EventSize::default().exceeds(stream.as_bytes(), limit);
            let (mut meter, mut rest, mut over) = (EventSize::default(), stream.as_bytes(), false);
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                over |= meter.exceeds(head, limit);
                rest = tail;
                if over { break; }
            }
            over = over || meter.exceeds(rest, limit);
            prop_assert_eq!(over, whole);
        }
    }
}
