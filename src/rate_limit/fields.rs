//! The fields that tell a client what is left.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::policy::{Policy, PolicySet};
use crate::{
    limiter::{Decision, MAX_POLICIES, Quota, Told},
    wire::push_decimal,
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

/// Longest `RateLimit` value that is left to inner layers to say.
const LEFT: usize = 63;

/// What one answer says, written when the decision falls.
#[derive(Debug)]
pub(super) enum FieldValues {
    /// What outer layers have left to this one, and its own; unless an inner layer has said all of it.
    Draft11(Arc<Told>),
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
    pub(super) fn new(set: &PolicySet, asked: u8, said: &[Decision], refused: bool, outer: Option<&Arc<Told>>) -> Self {
        let shown = set.named(asked).zip(said).filter(|(p, _)| !p.shadow);
        match set.fields {
            Fields::Off => Self::None,
            Fields::Legacy => {
                let tightest = shown.min_by_key(|(_, d)| (d.allowed(), d.remaining()));
                tightest.map_or(Self::None, |(p, d)| Self::Legacy {
                    limit: window(p.quota).0,
                    remaining: d.remaining(),
                    seconds: seconds(d, refused),
                })
            }
            Fields::Draft11 => {
                let places = asked & set.shown;
                if places == 0 {
                    return Self::None;
                }
                let mut numbers = Numbers::default();
                for (to, (_, decision)) in numbers.iter_mut().zip(shown) {
                    *to = (decision.remaining(), seconds(decision, refused));
                }
                said_again(set, places, &numbers, outer).map_or(Self::None, Self::Draft11)
            }
        }
    }

    /// Leaves it to inner layers to say this, too, unless it is long.
    pub(super) fn leave(&self, told: &mut Option<Arc<Told>>) {
        if let Self::Draft11(own) = self {
            *told = (own.limit.len() <= LEFT).then(|| Arc::clone(own));
        }
    }

    /// Appended, not inserted: the fields are lists, and an inner layer may have written its own members.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        match self {
            Self::None => {}
            Self::Draft11(told) => append(headers, &told),
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
pub(super) fn append(headers: &mut HeaderMap, told: &Told) {
    // A walk over the names costs less than the hash of a look-up.
    let name = &RATELIMIT;
    if headers.iter().any(|(n, value)| n == name && tells(value.as_bytes(), told.limit.as_bytes())) {
        return;
    }
    headers.append(RATELIMIT, told.limit.clone());
    headers.append(RATELIMIT_POLICY, told.policy.clone());
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

/// What is left, and in how many seconds, of each policy that is shown.
type Numbers = [(u64, u64); MAX_POLICIES];

/// The words of so many policies are kept.
const FEW: usize = 2;

/// What a layer has said last, and what it depends on.
struct Last {
    set: u64,
    places: u8,
    numbers: [(u64, u64); FEW],
    outer: Option<Arc<Told>>,
    told: Arc<Told>,
}

thread_local! {
    /// What the layers on this thread have said last: most clients are told the same, that nearly all is left.
    static LAST: RefCell<[Option<Last>; 4]> = const { RefCell::new([const { None }; 4]) };
}

/// The words of these policies: the last ones, if they are still true.
fn said_again(set: &PolicySet, places: u8, numbers: &Numbers, outer: Option<&Arc<Told>>) -> Option<Arc<Told>> {
    let fresh = || write(set, places, numbers, outer).map(Arc::new);
    let few = numbers.first_chunk::<FEW>()?;
    if places.count_ones() as usize > FEW {
        return fresh();
    }
    let kept = LAST.try_with(|slots| {
        let mut slots = slots.borrow_mut();
        let slot = slots.get_mut(usize::try_from(set.id % 4).unwrap_or(0))?;
        if let Some(last) = slot
            && last.set == set.id
            && last.places == places
            && last.numbers == *few
            && same(last.outer.as_ref(), outer)
        {
            return Some(Arc::clone(&last.told));
        }
        let told = fresh()?;
        *slot = Some(Last { set: set.id, places, numbers: *few, outer: outer.cloned(), told: Arc::clone(&told) });
        Some(told)
    });
    kept.unwrap_or_else(|_| fresh())
}

fn same(one: Option<&Arc<Told>>, other: Option<&Arc<Told>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || (one.limit == other.limit && one.policy == other.policy),
        _ => false,
    }
}

#[inline(never)]
fn write(set: &PolicySet, places: u8, numbers: &Numbers, outer: Option<&Arc<Told>>) -> Option<Told> {
    let mut text = Vec::with_capacity(LEFT);
    if let Some(told) = outer {
        text.extend_from_slice(told.limit.as_bytes());
    }
    for (policy, (remaining, seconds)) in set.named(places).zip(numbers) {
        member(&mut text, policy.name(), *remaining, *seconds);
    }
    let policy = outer.map_or_else(|| set.policy_field(places), |told| set.joined_field(&told.policy, places))?;
    Some(Told { policy, limit: HeaderValue::from_maybe_shared(Bytes::from(text)).ok()? })
}

/// One policy's member of `RateLimit`.
fn member(text: &mut Vec<u8>, name: &str, remaining: u64, seconds: u64) {
    text.extend_from_slice(if text.is_empty() { b"\"" } else { b", \"" });
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"\";r=");
    push_decimal(text, remaining);
    text.extend_from_slice(b";t=");
    push_decimal(text, seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_they_are() {
        let (mut text, mut want) = (Vec::new(), Vec::new());
        for n in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, 7] {
            member(&mut text, "a b", n, n / 2);
            want.push(format!("\"a b\";r={n};t={}", n / 2));
            assert_eq!(text, want.join(", ").as_bytes());
        }
    }

    #[test]
    fn the_last_words_are_said_again_while_they_are_true() {
        let set = |name: &str, more: &[&str]| {
            let policy = |name: &str| Policy::new(name, Quota::per_hour(10)).unwrap();
            PolicySet::new([name].iter().chain(more).map(|name| policy(name)).collect(), Fields::Draft11)
        };
        let words = |set: &PolicySet, numbers: &[(u64, u64)], outer: Option<&Arc<Told>>| {
            let places = u8::try_from((1_u32 << numbers.len()) - 1).unwrap();
            let mut all = Numbers::default();
            all[..numbers.len()].copy_from_slice(numbers);
            said_again(set, places, &all, outer).unwrap()
        };
        let text = |told: &Told| (told.limit.to_str().unwrap().to_owned(), told.policy.to_str().unwrap().to_owned());
        let (a, b) = (set("a", &["a2", "a3"]), set("b", &[]));
        let one = words(&a, &[(9, 360)], None);
        assert_eq!(text(&one), (r#""a";r=9;t=360"#.into(), r#""a";q=10;w=3600"#.into()));
        assert!(Arc::ptr_eq(&one, &words(&a, &[(9, 360)], None)));
        for (numbers, want) in [
            (&[(8, 360)][..], r#""a";r=8;t=360"#),
            (&[(8, 361)], r#""a";r=8;t=361"#),
            (&[(8, 361), (0, 0)], r#""a";r=8;t=361, "a2";r=0;t=0"#),
            (&[(8, 361), (0, 0), (1, 1)], r#""a";r=8;t=361, "a2";r=0;t=0, "a3";r=1;t=1"#),
            (&[(8, 361), (0, 0), (1, 2)], r#""a";r=8;t=361, "a2";r=0;t=0, "a3";r=1;t=2"#),
        ] {
            assert_eq!(text(&words(&a, numbers, None)).0, want);
        }
        let inner = words(&b, &[(1, 2)], Some(&one));
        let want = (r#""a";r=9;t=360, "b";r=1;t=2"#.to_owned(), r#""a";q=10;w=3600, "b";q=10;w=3600"#.to_owned());
        assert_eq!(text(&inner), want);
        // The same words of others, from another thread perhaps.
        assert!(Arc::ptr_eq(&inner, &words(&b, &[(1, 2)], Some(&words(&a, &[(9, 360)], None)))));
        assert_eq!(text(&words(&b, &[(1, 2)], Some(&words(&a, &[(7, 360)], None)))).0, r#""a";r=7;t=360, "b";r=1;t=2"#);
        assert_eq!(text(&words(&b, &[(1, 2)], None)).0, r#""b";r=1;t=2"#);
        // Sets that share a place do not take each other's words.
        for name in ["c", "d", "e", "f", "g"] {
            assert_eq!(text(&words(&set(name, &[]), &[(1, 2)], None)).0, format!("\"{name}\";r=1;t=2"));
        }
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
