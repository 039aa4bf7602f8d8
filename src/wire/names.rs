//! Names of fields that come again and again.

use http::{HeaderName, header::InvalidHeaderName};

/// So many names are remembered of each head.
const REMEMBERED: usize = 16;
/// Longer ones are not.
const LONGEST: usize = 24;

/// The names of the last head that came over a connection: the next one mostly has the same in the same order and spelling, and to see
/// that is less work than to look each of them up.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<Seen>);

#[derive(Debug)]
struct Seen {
    /// As it came.
    spelling: [u8; LONGEST],
    len: usize,
    name: HeaderName,
}

impl Names {
    /// The name that stands `at` that place of a head.
    ///
    /// # Errors
    /// If it is none.
    #[inline]
    pub(crate) fn read(&mut self, at: usize, text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
        match self.0.get(at) {
            Some(seen) if seen.len == text.len() && seen.spelling.starts_with(text) => Ok(seen.name.clone()),
            _ => self.read_anew(at, text),
        }
    }

    fn read_anew(&mut self, at: usize, text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
        let name = HeaderName::from_bytes(text)?;
        let mut spelling = [0; LONGEST];
        let Some(start) = spelling.get_mut(..text.len()) else { return Ok(name) };
        start.copy_from_slice(text);
        let seen = Seen { spelling, len: text.len(), name: name.clone() };
        if let Some(slot) = self.0.get_mut(at) {
            *slot = seen;
        } else if self.0.len() < REMEMBERED {
            // The next place, unless a long name has left a gap.
            self.0.push(seen);
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_remembered_is_what_would_be_read() {
        let mut names = Names::default();
        for head in [
            &["Host", "X-Token", "accept"][..],
            &["host", "x-token", "ACCEPT", "te"],
            &["accept", "host"],
            &["Host", "X-Tokem", "accept"],
        ] {
            for (at, name) in head.iter().enumerate() {
                let read = names.read(at, name.as_bytes()).unwrap();
                assert_eq!(read, HeaderName::from_bytes(name.as_bytes()).unwrap());
            }
        }
        assert!(names.read(0, b"a b").is_err());
        assert!(names.read(0, b"").is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let mut names = Names::default();
        for at in 0..1000 {
            names.read(at, format!("x-{at}").as_bytes()).unwrap();
            names.read(at, "y".repeat(LONGEST + 1).as_bytes()).unwrap();
        }
        assert_eq!(names.0.len(), REMEMBERED);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_without_memory(
            heads in proptest::collection::vec(proptest::collection::vec("[ -~]{0,5}|[aAbB-]{1,3}", 0..5), 0..8),
        ) {
            let mut names = Names::default();
            for head in heads {
                for (at, name) in head.iter().enumerate() {
                    let (read, want) = (names.read(at, name.as_bytes()), HeaderName::from_bytes(name.as_bytes()));
                    prop_assert_eq!(read.ok(), want.ok());
                }
            }
        }
    }
}
