//! The fields that tell a client what is left.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::Entry};

use super::policy::{Policy, PolicySet};
use crate::{
    limiter::{Decision, Quota, ShortText, Told},
    wire::decimal,
};

const NANOS: u64 = 1_000_000_000;

/// `RateLimit-Policy`.
pub(super) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `RateLimit`.
pub(super) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Which fields answers carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fields {
    /// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-11: `q` is what may come at once, `w` the
    /// seconds in which it comes back, `r` what is left, `t` the seconds until the quota is whole (in a refusal: until the
    /// request would pass).
    #[default]
    Draft11,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining`, `X-RateLimit-Reset` (seconds from now) of the tightest policy.
    Legacy,
    /// None. `Retry-After` stays.
    Off,
}

/// What one answer says, written when the decision falls.
#[derive(Debug)]
pub(super) enum FieldValues {
    /// What outer layers have left to this one, and its own. It becomes a value when the answer is there, unless an inner layer
    /// has said all of it.
    Short(Told),
    /// The same where it is long. Inner layers are not asked to say it.
    Long(Box<(HeaderValue, HeaderValue)>),
    Legacy {
        limit: u64,
        remaining: u64,
        seconds: u64,
    },
    None,
}

/// What may come at once, and the whole seconds in which it comes back. Where that is less than a second, a second's worth.
fn window(quota: Quota) -> (u64, u64) {
    let refill = quota.tolerance_nanos();
    if refill >= NANOS {
        return (quota.burst_size(), refill.div_ceil(NANOS));
    }
    let a_second = u128::from(quota.count()) * u128::from(NANOS) / quota.period().as_nanos().max(1);
    (u64::try_from(a_second).unwrap_or(u64::MAX).max(1), 1)
}

/// One policy's member of `RateLimit-Policy` (RFC 9651 syntax; the name was checked when it was parsed).
pub(super) fn policy_member(policy: &Policy) -> String {
    let (q, w) = window(policy.quota);
    let unit = if policy.unit.is_empty() { String::new() } else { format!(";qu=\"{}\"", policy.unit) };
    format!("\"{}\";q={q}{unit};w={w}", policy.name())
}

pub(super) fn join(members: impl IntoIterator<Item = String>) -> Option<HeaderValue> {
    let text = members.into_iter().collect::<Vec<_>>().join(", ");
    if text.is_empty() { None } else { HeaderValue::from_maybe_shared(Bytes::from(text)).ok() }
}

impl FieldValues {
    /// `said` are the decisions of the policies in `asked`, in their order; `outer` is what outer layers have to say.
    pub(super) fn new(
        set: &PolicySet,
        asked: u8,
        said: &(impl Iterator<Item = Decision> + Clone),
        refused: bool,
        outer: Option<&Told>,
    ) -> Self {
        let shown = || set.named(asked).zip(said.clone()).filter(|(p, _)| !p.shadow);
        match set.fields {
            Fields::Off => Self::None,
            Fields::Legacy => {
                let tightest = shown().min_by_key(|(_, d)| (d.allowed(), d.remaining()));
                tightest.map_or(Self::None, |(p, d)| Self::Legacy {
                    limit: window(p.quota).0,
                    remaining: d.remaining(),
                    seconds: seconds(&d, refused),
                })
            }
            Fields::Draft11 => {
                let places = asked & set.shown;
                if places == 0 {
                    return Self::None;
                }
                let mut text = Text::default();
                if let Some(told) = outer {
                    text.push(told.limit.as_bytes());
                }
                for (p, d) in shown() {
                    text.member(p.name(), d.remaining(), seconds(&d, refused));
                }
                let policy = outer.map_or_else(|| set.policy_field(places), |told| set.joined_field(&told.policy, places));
                let Some(policy) = policy else { return Self::None };
                match ShortText::of(text.as_bytes()) {
                    Some(limit) => Self::Short(Told { policy, limit }),
                    None => {
                        HeaderValue::from_bytes(text.as_bytes()).map_or(Self::None, |limit| Self::Long(Box::new((policy, limit))))
                    }
                }
            }
        }
    }

    /// Leaves it to inner layers to say this, too.
    pub(super) fn leave(&self, told: &mut Option<Told>) {
        match self {
            Self::Short(own) => *told = Some(own.clone()),
            Self::Long(_) => *told = None,
            Self::Legacy { .. } | Self::None => {}
        }
    }

    /// Appended, not inserted: the fields are lists, and an inner layer may have written its own members.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        match self {
            Self::None => {}
            Self::Short(Told { policy, limit }) => append(headers, limit, ShortText::as_bytes, |limit| {
                Some((policy, HeaderValue::from_bytes(limit.as_bytes()).ok()?))
            }),
            Self::Long(fields) => {
                let (policy, limit) = *fields;
                append(headers, limit, HeaderValue::as_bytes, |limit| Some((policy, limit)));
            }
            Self::Legacy { limit, remaining, seconds } => {
                let inner = headers.get(&X_REMAINING).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
                if inner.is_some_and(|inner| inner <= remaining) {
                    return;
                }
                headers.insert(X_LIMIT, HeaderValue::from(limit));
                headers.insert(X_REMAINING, HeaderValue::from(remaining));
                headers.insert(X_RESET, HeaderValue::from(seconds));
            }
        }
    }
}

/// Appends `RateLimit-Policy` and `RateLimit`, unless an inner layer has told all of it already.
fn append<T>(
    headers: &mut HeaderMap,
    limit: T,
    text: impl Fn(&T) -> &[u8],
    fields: impl FnOnce(T) -> Option<(HeaderValue, HeaderValue)>,
) {
    let policy = match headers.entry(RATELIMIT) {
        Entry::Vacant(vacant) => {
            let Some((policy, limit)) = fields(limit) else { return };
            vacant.insert(limit);
            policy
        }
        Entry::Occupied(mut there) => {
            if there.iter().any(|value| tells(value.as_bytes(), text(&limit))) {
                return;
            }
            let Some((policy, limit)) = fields(limit) else { return };
            there.append(limit);
            policy
        }
    };
    headers.append(RATELIMIT_POLICY, policy);
}

/// Whether these members are in a list.
fn tells(list: &[u8], members: &[u8]) -> bool {
    let ends = |rest: &[u8]| matches!(rest.first(), None | Some(b','));
    // An inner layer writes those of the outermost one first.
    list.strip_prefix(members).is_some_and(ends)
        || memchr::memmem::find_iter(list, members).any(|at| list.get(at + members.len()..).is_some_and(ends))
}

fn seconds(decision: &Decision, refused: bool) -> u64 {
    let nanos = if refused && !decision.allowed() { decision.wait_nanos() } else { decision.reset_nanos() };
    nanos.div_ceil(NANOS)
}

const TEXT: usize = 120;

/// A short text on the stack, which moves to the heap when it grows long: the value's own allocation is then the only one.
struct Text {
    buf: [u8; TEXT],
    len: usize,
    heap: Vec<u8>,
}

impl Default for Text {
    fn default() -> Self {
        Self { buf: [0; TEXT], len: 0, heap: Vec::new() }
    }
}

impl Text {
    fn is_empty(&self) -> bool {
        self.len == 0 && self.heap.is_empty()
    }

    fn as_bytes(&self) -> &[u8] {
        if self.heap.is_empty() { self.buf.get(..self.len).unwrap_or_default() } else { &self.heap }
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        if self.heap.is_empty() {
            if let Some(room) = self.buf.get_mut(self.len..self.len + bytes.len()) {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
                return;
            }
            self.heap.extend_from_slice(self.buf.get(..self.len).unwrap_or_default());
        }
        self.heap.extend_from_slice(bytes);
    }

    fn member(&mut self, name: &str, remaining: u64, seconds: u64) {
        self.push(if self.is_empty() { b"\"" } else { b", \"" });
        self.push(name.as_bytes());
        self.push(b"\";r=");
        self.number(remaining);
        self.push(b";t=");
        self.number(seconds);
    }

    fn number(&mut self, n: u64) {
        decimal(n, |digits| self.push(digits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_they_are() {
        let (mut text, mut want) = (Text::default(), String::new());
        assert!(text.is_empty());
        for n in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, 7] {
            text.number(n);
            text.push(b";");
            want += &n.to_string();
            want += ";";
            assert_eq!(text.as_bytes(), want.as_bytes());
        }
        assert!(want.len() > TEXT);
    }

    #[test]
    fn members_are_found_whole() {
        let list = br#""a";r=1;t=12, "b,c";r=0;t=3"#;
        for told in [&br#""a";r=1;t=12"#[..], br#""b,c";r=0;t=3"#, list] {
            assert!(tells(list, told));
        }
        for other in [&br#""a";r=1;t=1"#[..], br#""a";r=1;t=123"#, br#""b,c";r=0;t=33"#, br#""c";r=0;t=3"#] {
            assert!(!tells(list, other), "{other:?}");
        }
    }

    #[test]
    fn windows_say_what_comes_back_when() {
        assert_eq!(window(Quota::per_minute(600).burst(50)), (50, 5));
        assert_eq!(window(Quota::per_minute(100)), (100, 60));
        assert_eq!(window(Quota::per_minute(600).burst(1)), (10, 1));
        assert_eq!(window(Quota::per_hour(1)), (1, 3600));
    }
}
