//! The two grammars: `X-Forwarded-For`, which nobody has written down, and `Forwarded` (RFC 7239 §4).

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::ForwardedField;
use crate::net::unwrap_mapped;

/// The entries of one line, the last one first.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    rest: Option<&'a str>,
    quoted: bool,
    unreadable: bool,
}

impl Entries<'_> {
    pub(super) fn unreadable() -> Self {
        Self { rest: None, quoted: false, unreadable: true }
    }
}

/// Splits a line at its commas, the last entry first. A line that could be split in more than one way is unreadable as a whole.
pub(super) fn split_from_the_right(line: &str, field: ForwardedField) -> Entries<'_> {
    match field {
        ForwardedField::XForwardedFor => Entries { rest: Some(line), quoted: false, unreadable: false },
        ForwardedField::Forwarded if quotes_are_closed(line) => Entries { rest: Some(line), quoted: true, unreadable: false },
        ForwardedField::Forwarded => Entries::unreadable(),
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Option<&'a str>;

    fn next(&mut self) -> Option<Option<&'a str>> {
        if self.unreadable {
            self.unreadable = false;
            return Some(None);
        }
        let rest = self.rest.take()?;
        let comma = if self.quoted { last_comma_outside_quotes(rest) } else { rest.rfind(',') };
        let entry = match comma {
            None => rest,
            Some(at) => {
                self.rest = rest.get(..at);
                rest.get(at + 1..).unwrap_or_default()
            }
        };
        Some(Some(entry.trim_matches([' ', '\t'])))
    }
}

/// Walks over the characters outside quoted strings (RFC 9110 §5.6.4); `None` if a quote is left open.
fn outside_quotes(text: &str, mut visit: impl FnMut(usize, u8)) -> Option<()> {
    let mut quoted = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => drop(bytes.next()?),
            _ if quoted => {}
            _ => visit(at, byte),
        }
    }
    (!quoted).then_some(())
}

fn quotes_are_closed(line: &str) -> bool {
    outside_quotes(line, |_, _| {}).is_some()
}

fn last_comma_outside_quotes(text: &str) -> Option<usize> {
    let mut last = None;
    outside_quotes(text, |at, byte| {
        if byte == b',' {
            last = Some(at);
        }
    })?;
    last
}

/// The address that an entry names.
pub(super) fn address(entry: &str, field: ForwardedField) -> Option<IpAddr> {
    match field {
        ForwardedField::XForwardedFor => node(entry),
        ForwardedField::Forwarded => node(&unquote(the_for(entry)?)?),
    }
}

/// The one `for` parameter of an element; none or two say nothing.
fn the_for(element: &str) -> Option<&str> {
    let mut starts = vec![0];
    outside_quotes(element, |at, byte| {
        if byte == b';' {
            starts.push(at + 1);
        }
    })?;
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([element.len()]);
    let pairs = starts.iter().zip(ends).filter_map(|(start, end)| element.get(*start..end)?.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for")).map(|(_, value)| value.trim());
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

fn unquote(value: &str) -> Option<Cow<'_, str>> {
    let Some(quoted) = value.strip_prefix('"') else { return Some(Cow::Borrowed(value)) };
    let inner = quoted.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?),
            '"' => return None,
            c => out.push(c),
        }
    }
    Some(Cow::Owned(out))
}

/// An address with or without a port (RFC 7239 §6), IPv6 in brackets or, as `X-Forwarded-For` has it, bare.
fn node(text: &str) -> Option<IpAddr> {
    let is_port = |t: &str| !t.is_empty() && t.len() <= 5 && t.bytes().all(|b| b.is_ascii_digit());
    let ip = if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once(']')?;
        if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
            return None;
        }
        IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        ip
    } else {
        let (ip, port) = text.split_once(':')?;
        if !is_port(port) {
            return None;
        }
        IpAddr::V4(ip.parse::<Ipv4Addr>().ok()?)
    };
    Some(unwrap_mapped(ip))
}
