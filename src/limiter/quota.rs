//! GCRA on a single number per key.

use std::{fmt, str::FromStr, time::Duration};

use crate::ConfigError;

/// A debt longer than this is not kept: a cell would be held for a client that has long gone.
const MAX_DEBT: u64 = 3600 * NANOS;
const NANOS: u64 = 1_000_000_000;

/// So much in such a time, and so much of it at once.
///
/// Without [`Quota::burst`] the whole count may come at once, and then flows back evenly. Text form: `600/min`, `10/s`,
/// `1000/hour burst 50`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    count: u64,
    period: u64,
    burst: u64,
    /// Nanoseconds that one unit costs, rounded down, at least 1.
    interval: u64,
    /// How far the TAT may lie in the future.
    tolerance: u64,
}

impl Quota {
    /// `count` units a second.
    #[must_use]
    pub const fn per_second(count: u64) -> Self {
        Self::with(count, NANOS, count)
    }

    /// `count` units a minute.
    #[must_use]
    pub const fn per_minute(count: u64) -> Self {
        Self::with(count, 60 * NANOS, count)
    }

    /// `count` units an hour.
    #[must_use]
    pub const fn per_hour(count: u64) -> Self {
        Self::with(count, 3600 * NANOS, count)
    }

    /// `count` units in `period`.
    ///
    /// # Errors
    /// When the count is zero or the period is zero or longer than 366 days.
    pub fn new(count: u64, period: Duration) -> Result<Self, ConfigError> {
        let wrong = |why: &str| Err(ConfigError::new(format!("{count} in {period:?}"), why));
        if count == 0 {
            return wrong("a quota is at least 1; refuse by policy, not by a quota of nothing");
        }
        if period.is_zero() || period.as_secs() > 366 * 86_400 {
            return wrong("a quota's period is longer than nothing and at most 366 days");
        }
        Ok(Self::with(count, nanos(period), count))
    }

    /// The same rate, with at most `burst` units at once. 0 is taken as 1.
    #[must_use]
    pub const fn burst(self, burst: u64) -> Self {
        Self::with(self.count, self.period, burst)
    }

    /// 0 is taken as 1 because a constant has no way to complain.
    const fn with(count: u64, period: u64, burst: u64) -> Self {
        let count = if count == 0 { 1 } else { count };
        let burst = if burst == 0 { 1 } else { burst };
        let interval = if period / count == 0 { 1 } else { period / count };
        Self { count, period, burst, interval, tolerance: scale(burst, period, count) }
    }

    /// Units in a period.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The period.
    #[must_use]
    pub const fn period(&self) -> Duration {
        Duration::from_nanos(self.period)
    }

    /// Units that may come at once.
    #[must_use]
    pub const fn burst_size(&self) -> u64 {
        self.burst
    }

    /// A part of the rate and the burst, each at least 1: what one of `shares` replicas grants by itself.
    #[must_use]
    pub const fn share(&self, shares: u64) -> Self {
        let shares = if shares == 0 { 1 } else { shares };
        let burst = self.burst / shares;
        let mut out = Self::with(self.count, self.period, burst);
        out.period = self.period.saturating_mul(shares);
        out.interval = self.interval.saturating_mul(shares);
        out.tolerance = scale(if burst == 0 { 1 } else { burst }, out.period, out.count);
        out
    }

    /// Nanoseconds that `cost` units take up, never less for more. Rounded down, so that `burst` single units always fit.
    pub(crate) const fn cost_nanos(&self, cost: u64) -> u64 {
        if cost == 1 { self.interval } else { scale(cost, self.period, self.count) }
    }

    pub(crate) const fn tolerance_nanos(&self) -> u64 {
        self.tolerance
    }

    /// Decides one request of `cost` units for a key whose TAT is `tat`. Returns the decision and the key's new TAT (the old one
    /// where it is refused).
    ///
    /// A cost of 0 looks without taking. A cost above the burst needs a full bucket and leaves a debt, so that the rate holds
    /// and such a request is still possible.
    #[must_use]
    #[inline]
    pub(crate) fn decide(&self, tat: u64, now: u64, cost: u64) -> (Decision, u64) {
        let before = tat.saturating_sub(now);
        let need = self.cost_nanos(cost);
        let filled = before.saturating_add(need.min(self.tolerance));
        let allowed = filled <= self.tolerance;
        let used = if allowed { before.saturating_add(need.min(self.tolerance.saturating_add(MAX_DEBT))) } else { before };
        let (slack, interval) = self.left(self.tolerance.saturating_sub(used));
        let decision = Decision { allowed, wait: filled.saturating_sub(self.tolerance), used, slack, interval };
        (decision, if allowed { now.saturating_add(used) } else { tat })
    }

    /// What is left in so many nanoseconds of the burst, and by what that is to be divided to be units.
    #[inline]
    fn left(&self, slack: u64) -> (u64, u64) {
        // One 64-bit division is exact enough while a unit takes a microsecond or more. It is not done before somebody asks.
        if self.interval >= 1000 {
            return (slack.min(self.interval.saturating_mul(self.burst)), self.interval);
        }
        (scale(slack, self.count, self.period).min(self.burst), 1)
    }

    /// The TAT after `cost` units were used that nobody asked for beforehand (bytes of an answer).
    #[must_use]
    pub(crate) fn charge(&self, tat: u64, now: u64, cost: u64) -> u64 {
        let used = tat.saturating_sub(now).saturating_add(self.cost_nanos(cost));
        now.saturating_add(used.min(self.tolerance.saturating_add(MAX_DEBT)))
    }
}

/// `a * b / c`, saturating.
#[expect(clippy::cast_possible_truncation, reason = "bounded by the comparison")]
const fn scale(a: u64, b: u64, c: u64) -> u64 {
    if let Some(product) = a.checked_mul(b) {
        return product / c;
    }
    let wide = a as u128 * b as u128 / c as u128;
    // A quarter of the range leaves room for sums.
    if wide > (u64::MAX / 4) as u128 { u64::MAX / 4 } else { wide as u64 }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(NANOS).saturating_add(u64::from(time.subsec_nanos()))
}

/// `600/min`, `10/s`, `1000/hour burst 50`; units are `s`, `min`, `h`, `d` and their longer names.
impl FromStr for Quota {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| ConfigError::new(text, why);
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) => (rate, Some(burst.trim_start_matches([' ', '='].as_slice()).trim())),
            None => (text, None),
        };
        let (count, unit) = rate.split_once('/').ok_or_else(|| wrong("a rate is written as `600/min`"))?;
        let number = |n: &str| n.trim().parse::<u64>().ok().filter(|n| *n > 0);
        let count = number(count).ok_or_else(|| wrong("the count is a whole number of at least 1"))?;
        let period = match unit.trim() {
            "s" | "sec" | "second" => NANOS,
            "m" | "min" | "minute" => 60 * NANOS,
            "h" | "hour" => 3600 * NANOS,
            "d" | "day" => 86_400 * NANOS,
            _ => return Err(wrong("the unit is one of `s`, `min`, `h`, `d`")),
        };
        let quota = Self::with(count, period, count);
        match burst {
            None => Ok(quota),
            Some(burst) => Ok(quota.burst(number(burst).ok_or_else(|| wrong("the burst is a whole number of at least 1"))?)),
        }
    }
}

/// As it is parsed.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.period / NANOS {
            1 => write!(f, "{}/s", self.count)?,
            60 => write!(f, "{}/min", self.count)?,
            3600 => write!(f, "{}/h", self.count)?,
            86_400 => write!(f, "{}/d", self.count)?,
            _ => write!(f, "{} in {:?}", self.count, self.period())?,
        }
        if self.burst == self.count { Ok(()) } else { write!(f, " burst {}", self.burst) }
    }
}

/// What a quota says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    allowed: bool,
    /// Nanoseconds until the same request would pass.
    wait: u64,
    /// Nanoseconds until the quota is whole again.
    used: u64,
    /// What is left of the burst, and by what that is to be divided to be units.
    slack: u64,
    interval: u64,
}

impl Decision {
    /// What stands in a place where nobody has decided yet.
    pub(crate) const NONE: Self = Self { allowed: false, wait: 0, used: 0, slack: 0, interval: 1 };

    /// A decision that was made elsewhere, by a store of one's own: whether the request passes, how long until it would (`wait`,
    /// which becomes `Retry-After`), and how long until the quota is whole again (`used`, from which the units that are left follow).
    #[must_use]
    pub fn from_parts(quota: Quota, allowed: bool, wait: Duration, used: Duration) -> Self {
        let used = nanos(used);
        let (slack, interval) = quota.left(quota.tolerance.saturating_sub(used));
        Self { allowed, wait: nanos(wait), used, slack, interval }
    }

    /// Whether the request may pass.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.allowed
    }

    /// Units that could be taken right now, after this request.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.slack / self.interval.max(1)
    }

    /// How long until the same request would pass; zero where it has.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        Duration::from_nanos(self.wait)
    }

    /// How long until the quota is whole again if nothing more is taken.
    #[must_use]
    pub fn reset(&self) -> Duration {
        Duration::from_nanos(self.used)
    }

    pub(crate) fn reset_nanos(&self) -> u64 {
        self.used
    }

    pub(crate) fn wait_nanos(&self) -> u64 {
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_forms() {
        let q: Quota = "600/min".parse().unwrap();
        assert_eq!(q, Quota::per_minute(600));
        assert_eq!("1000/hour burst 50".parse::<Quota>().unwrap(), Quota::per_hour(1000).burst(50));
        assert_eq!("10 / s burst=3".parse::<Quota>().unwrap().to_string(), "10/s burst 3");
        for bad in ["", "600", "0/min", "-1/s", "5/fortnight", "5/s burst 0", "5/s burst", "1e3/s"] {
            let err = bad.parse::<Quota>().unwrap_err();
            assert_eq!(err.entry(), bad);
        }
        assert!(Quota::new(0, Duration::from_secs(1)).is_err() && Quota::new(1, Duration::ZERO).is_err());
    }

    #[test]
    fn a_burst_then_the_rate() {
        let quota = Quota::per_minute(60).burst(5);
        let (mut tat, now) = (0, 7 * NANOS);
        for left in (0..5).rev() {
            let (decision, next) = quota.decide(tat, now, 1);
            assert!(decision.allowed());
            assert_eq!(decision.remaining(), left);
            tat = next;
        }
        let (refused, same) = quota.decide(tat, now, 1);
        assert!(!refused.allowed());
        assert_eq!(
            (refused.remaining(), refused.retry_after(), refused.reset(), same),
            (0, Duration::from_secs(1), Duration::from_secs(5), tat)
        );
        assert!(!quota.decide(tat, now + NANOS - 1, 1).0.allowed());
        assert!(quota.decide(tat, now + NANOS, 1).0.allowed());
    }

    #[test]
    fn odd_rates_grant_exactly_their_burst() {
        for count in [1, 3, 7, 11, 13, 999, 1001, 1_000_000] {
            let quota = Quota::per_second(count);
            let (mut tat, mut granted) = (0, 0);
            while granted <= count {
                let (decision, next) = quota.decide(tat, 0, 1);
                if !decision.allowed() {
                    break;
                }
                tat = next;
                granted += 1;
                assert_eq!(decision.remaining(), count - granted, "{count}");
            }
            assert_eq!(granted, count);
        }
    }

    #[test]
    fn a_cost_above_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() {
        let quota = Quota::per_second(10).burst(10);
        let (first, tat) = quota.decide(0, 0, 25);
        assert!(first.allowed());
        assert_eq!(first.remaining(), 0);
        let (second, _) = quota.decide(tat, NANOS, 1);
        assert!(!second.allowed());
        assert_eq!(second.retry_after(), Duration::from_millis(600));
        assert!(!quota.decide(quota.decide(0, 0, 1).1, 0, 25).0.allowed());
        let (_, tat) = quota.decide(0, 0, u64::MAX);
        assert!(tat <= MAX_DEBT + quota.tolerance, "a debt has an end");
    }

    #[test]
    fn a_share_is_a_share() {
        let third = Quota::per_minute(600).burst(30).share(3);
        assert_eq!(third.burst_size(), 10);
        assert_eq!(third.cost_nanos(1), 300_000_000);
        assert_eq!(Quota::per_second(10).share(100).burst_size(), 1);
    }

    /// The plain model: a bucket with a level in units of 1/(period) of a request, in 128 bits, that drains with time.
    struct Bucket {
        level: u128,
        at: u64,
    }

    impl Bucket {
        fn ask(&mut self, quota: &Quota, now: u64, cost: u64) -> bool {
            let (count, period) = (u128::from(quota.count), u128::from(quota.period));
            self.level = self.level.saturating_sub(u128::from(now - self.at) * count);
            self.at = now;
            let size = u128::from(quota.burst) * period;
            let need = u128::from(cost) * period;
            let fits = self.level + need.min(size) <= size;
            if fits {
                self.level += need;
            }
            fits
        }
    }

    proptest! {
        #[test]
        fn decides_like_a_plain_bucket(
            count in 1u64..500, seconds in 1u64..100, burst in 1u64..50,
            steps in prop::collection::vec((0u64..3_000, 0u64..60), 1..200),
        ) {
            // Periods that the count divides: the model has no rounding, GCRA in nanoseconds then has none either.
            let quota = Quota::new(count, Duration::from_nanos(seconds * count * 1000)).unwrap().burst(burst);
            let (mut tat, mut now, mut model) = (0u64, 0u64, Bucket { level: 0, at: 0 });
            for (wait, cost) in steps {
                now += wait * 1000;
                let (decision, next) = quota.decide(tat, now, cost);
                tat = next;
                prop_assert_eq!(decision.allowed(), model.ask(&quota, now, cost));
                let free = (u128::from(burst) * u128::from(quota.period)).saturating_sub(model.level) / u128::from(quota.period);
                prop_assert_eq!(u128::from(decision.remaining()), free);
                if !decision.allowed() {
                    prop_assert!(quota.decide(tat, now + decision.wait, cost).0.allowed());
                    prop_assert!(!quota.decide(tat, now + decision.wait - 1, cost).0.allowed());
                }
            }
        }

        #[test]
        fn never_more_than_the_burst_and_the_rate(
            count in 1u64..5_000, burst in 1u64..100, steps in prop::collection::vec(0u64..200_000_000, 1..400),
        ) {
            let quota = Quota::per_second(count).burst(burst);
            let (mut tat, mut now, mut granted) = (0u64, 0u64, 0u64);
            for wait in steps {
                now += wait;
                let (decision, next) = quota.decide(tat, now, 1);
                tat = next;
                granted += u64::from(decision.allowed());
            }
            // One more for the rounding of a unit to whole nanoseconds.
            prop_assert!(granted <= burst + scale(now, count, NANOS) + 1);
        }
    }
}
