//! A bounded memory of answers.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Answers, Resolve, Resolving};
use crate::{
    clock::{Clock, SystemClock},
    net::Name,
};

/// Longest time that an answer is remembered, whatever its TTL says.
const MAX_AGE: Duration = Duration::from_secs(60);
/// How many names are remembered.
const MAX_NAMES: usize = 4096;

/// Remembers positive answers for their TTL, at most 60 s. What is remembered is judged again for every connection.
pub struct CachingResolver<R> {
    inner: R,
    clock: Arc<dyn Clock>,
    names: Mutex<HashMap<Name, (Duration, Answers)>>,
    capacity: usize,
}

impl<R: Resolve> CachingResolver<R> {
    /// A memory of 4096 names in front of `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, clock: Arc::new(SystemClock), names: Mutex::default(), capacity: MAX_NAMES }
    }

    /// Another clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Another number of names; zero remembers nothing.
    #[must_use]
    pub fn capacity(mut self, names: usize) -> Self {
        self.capacity = names;
        self
    }

    fn recall(&self, name: &Name, now: Duration) -> Option<Answers> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, answers) = names.get(name)?;
        let left = until.checked_sub(now).filter(|left| !left.is_zero())?;
        Some(Answers::new(answers.addrs().to_vec(), left))
    }

    fn remember(&self, name: &Name, answers: &Answers, now: Duration) {
        let age = answers.valid_for().min(MAX_AGE);
        if age.is_zero() || self.capacity == 0 {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= self.capacity && !names.contains_key(name) {
            names.retain(|_, (until, _)| *until > now);
            // Still full of living answers: forgetting them all costs look-ups, never correctness.
            if names.len() >= self.capacity {
                names.clear();
            }
        }
        names.insert(name.clone(), (now + age, answers.clone()));
    }
}

impl<R: Resolve> Resolve for CachingResolver<R> {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        if let Some(answers) = self.recall(name, self.clock.monotonic()) {
            return Box::pin(std::future::ready(Ok(answers)));
        }
        Box::pin(async move {
            // The TTL counts from the question: a slow answer is an old one.
            let asked = self.clock.monotonic();
            let answers = self.inner.resolve(name).await?;
            self.remember(name, &answers, asked);
            Ok(answers)
        })
    }
}

impl<R: fmt::Debug> fmt::Debug for CachingResolver<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachingResolver").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::{clock::ManualClock, resolve::ResolveError};

    /// Answers 192.0.2.n at the n-th question, with this TTL.
    #[derive(Debug)]
    struct Counting(AtomicU32, Duration);

    impl Resolve for Counting {
        fn resolve<'a>(&'a self, _: &'a Name) -> Resolving<'a> {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            let ip = IpAddr::V4((0xc000_0200 + n).into());
            Box::pin(std::future::ready(Ok(Answers::new(vec![ip], self.1))))
        }
    }

    async fn ask(r: &impl Resolve, name: &str) -> Result<String, ResolveError> {
        let name = Name::parse_ascii(name).unwrap();
        r.resolve(&name).await.map(|a| a.addrs()[0].to_string())
    }

    #[tokio::test]
    async fn a_ttl_is_honoured_and_capped_and_zero_is_never_kept() {
        for (ttl, kept_for) in [(0, 0), (5, 5), (3600, 60)] {
            let clock = ManualClock::default();
            let r = CachingResolver::new(Counting(AtomicU32::new(0), Duration::from_secs(ttl))).clock(Arc::new(clock.clone()));
            assert_eq!(ask(&r, "a.example").await.unwrap(), "192.0.2.0");
            if kept_for > 0 {
                clock.advance(Duration::from_nanos(kept_for * 1_000_000_000 - 1));
                assert_eq!(ask(&r, "a.example").await.unwrap(), "192.0.2.0", "{ttl}");
                clock.advance(Duration::from_nanos(1));
            }
            assert_eq!(ask(&r, "a.example").await.unwrap(), "192.0.2.1", "{ttl}");
        }
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let r = CachingResolver::new(Counting(AtomicU32::new(0), MAX_AGE)).capacity(8);
        for i in 0..100 {
            ask(&r, &format!("n{i}.example")).await.unwrap();
            assert!(r.names.lock().unwrap().len() <= 8);
        }
    }
}
