//! Text out of a message, kept without memory of its own where it is short.

use std::{fmt, ops::Deref, str};

/// Longest text that is kept in place.
const SHORT: usize = 22;

/// A method or a name out of a JSON-RPC message. It reads like a `str`. The protocol's own words and short names are kept in
/// place: they are read on one thread and given up on another, which makes memory of their own dear.
#[derive(Clone)]
pub struct McpText(Kind);

#[derive(Clone)]
enum Kind {
    Word(&'static str),
    /// The first `len` bytes are UTF-8.
    Short {
        len: u8,
        bytes: [u8; SHORT],
    },
    Long(Box<str>),
}

macro_rules! words {
    ($($word:literal)*) => {
        /// What most clients say most of the time.
        fn word(text: &[u8]) -> Option<&'static str> {
            $(if text.len() == $word.len() && text == $word.as_bytes() {
                return Some($word);
            })*
            None
        }
    };
}

words! { "tools/call" "tools/list" "initialize" "ping" "notifications/initialized" "server/discover" "resources/read" "prompts/get" }

impl McpText {
    /// The text that these bytes are, if they are UTF-8.
    pub(crate) fn from_utf8(bytes: &[u8]) -> Option<Self> {
        if let Some(word) = word(bytes) {
            return Some(Self(Kind::Word(word)));
        }
        // All of the place is looked at, which the compiler does many bytes at once; what was not written is zero.
        let short = place(bytes).filter(|place| place.iter().fold(0, |all, byte| all | byte) < 0x80);
        match short {
            Some(place) => Some(Self(Kind::Short { len: u8::try_from(bytes.len()).unwrap_or(0), bytes: place })),
            None => str::from_utf8(bytes).ok().map(|text| Self(Kind::any(text.into()))),
        }
    }

    /// The text as bytes, which are UTF-8.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Word(word) => word.as_bytes(),
            Kind::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Kind::Long(text) => text.as_bytes(),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Kind::Word(word) => word,
            Kind::Short { len, bytes } => {
                bytes.get(..usize::from(*len)).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default()
            }
            Kind::Long(text) => text,
        }
    }
}

impl Kind {
    fn any(text: Box<str>) -> Self {
        match place(text.as_bytes()) {
            Some(bytes) => Self::Short { len: u8::try_from(text.len()).unwrap_or(0), bytes },
            None => Self::Long(text),
        }
    }
}

/// A place with these bytes at its beginning, if they fit.
#[inline]
fn place(text: &[u8]) -> Option<[u8; SHORT]> {
    let mut bytes = [0; SHORT];
    bytes.get_mut(..text.len())?.copy_from_slice(text);
    Some(bytes)
}

impl Deref for McpText {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for McpText {
    fn as_ref(&self) -> &str {
        self
    }
}

impl From<Box<str>> for McpText {
    fn from(text: Box<str>) -> Self {
        Self(Kind::any(text))
    }
}

impl From<String> for McpText {
    fn from(text: String) -> Self {
        text.into_boxed_str().into()
    }
}

impl From<&str> for McpText {
    fn from(text: &str) -> Self {
        Self::from_utf8(text.as_bytes()).unwrap_or_else(|| Self(Kind::Long(text.into())))
    }
}

impl PartialEq for McpText {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for McpText {}

impl PartialEq<str> for McpText {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for McpText {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Debug for McpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for McpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kept_whole_whatever_its_length() {
        for text in [
            "",
            "x",
            "tools/call",
            "ping",
            "é",
            "ééééééééééé",
            "éééééééééééé",
            "a name of 22 bytes....",
            "a name of 23 bytes.....",
        ] {
            let long = text.repeat(3);
            for text in [text, &long] {
                assert_eq!(McpText::from(text), text);
                assert_eq!(McpText::from(text.to_owned()), McpText::from(text));
                assert_eq!(McpText::from_utf8(text.as_bytes()).unwrap(), *text);
                assert_eq!(format!("{} {:?}", McpText::from(text), McpText::from(text)), format!("{text} {text:?}"));
            }
        }
        assert_eq!(McpText::from_utf8(b"\xff"), None);
        assert_eq!(McpText::from_utf8(&[0xe9; 40]), None);
        assert!(size_of::<Option<McpText>>() <= 24);
    }
}
