//! Names of fields that come again and again.

use std::cell::RefCell;

use http::{HeaderName, header::InvalidHeaderName};

/// Names that each thread remembers.
const REMEMBERED: usize = 64;
/// Longer ones are not.
const LONGEST: usize = 24;

/// Names that were read, each in the one place that its spelling has. Most heads are made of the same few, and to see that is less work
/// than to look each of them up; a name of one's own would be allocated each time. What falls into the same place is displaced.
struct Names(Vec<Option<Seen>>);

struct Seen {
    /// As it came, and zeros behind it.
    spelling: [u8; LONGEST],
    len: usize,
    name: HeaderName,
}

/// Ends and length tell the usual names apart.
#[inline]
fn place(text: &[u8]) -> usize {
    let ends = text.first().zip(text.last()).map_or(0, |(a, z)| usize::from(*a) + usize::from(*z) * 11);
    (ends + text.len() * 15) % REMEMBERED
}

impl Names {
    const fn new() -> Self {
        Self(Vec::new())
    }

    #[inline]
    fn read(&mut self, text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
        match self.0.get(place(text)) {
            Some(Some(seen)) if seen.len == text.len() && seen.spelling.starts_with(text) => Ok(seen.name.clone()),
            _ => self.read_anew(text),
        }
    }

    fn read_anew(&mut self, text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
        let name = HeaderName::from_bytes(text)?;
        let mut spelling = [0; LONGEST];
        let Some(start) = spelling.get_mut(..text.len()) else { return Ok(name) };
        start.copy_from_slice(text);
        if self.0.is_empty() {
            self.0.resize_with(REMEMBERED, || None);
        }
        if let Some(slot) = self.0.get_mut(place(text)) {
            *slot = Some(Seen { spelling, len: text.len(), name: name.clone() });
        }
        Ok(name)
    }
}

/// Reads a field name, in any case.
///
/// # Errors
/// If it is none.
#[inline]
pub(crate) fn field_name(text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    thread_local! {
        static NAMES: RefCell<Names> = const { RefCell::new(Names::new()) };
    }
    NAMES.with_borrow_mut(|names| names.read(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_remembered_is_what_would_be_read() {
        let mut names = Names::new();
        for name in ["Host", "X-Token", "accept", "host", "x-token", "ACCEPT", "te", "Host", "X-Tokem", "x-token"] {
            assert_eq!(names.read(name.as_bytes()).unwrap(), HeaderName::from_bytes(name.as_bytes()).unwrap());
        }
        assert!(names.read(b"a b").is_err());
        assert!(names.read(b"").is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let mut names = Names::new();
        for i in 0..1000 {
            names.read(format!("x-{i}").as_bytes()).unwrap();
            names.read(format!("{}{i}", "y".repeat(LONGEST)).as_bytes()).unwrap();
        }
        assert_eq!(names.0.len(), REMEMBERED);
        assert!(names.0.iter().flatten().all(|seen| seen.len <= LONGEST && seen.name.as_str().starts_with("x-")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_without_memory(
            texts in proptest::collection::vec(prop_oneof!["[ -~]{0,5}", "[aAbB-]{1,3}", "[a-zA-Z-]{20,30}"], 0..40),
        ) {
            let mut names = Names::new();
            for text in texts.iter().chain(&texts) {
                let (read, want) = (names.read(text.as_bytes()), HeaderName::from_bytes(text.as_bytes()));
                prop_assert_eq!(read.ok(), want.ok());
            }
        }
    }
}
