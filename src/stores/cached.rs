//! A remote token store, with its answers remembered for a few seconds.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::OnceCell;

use crate::{
    clock::{Clock, SystemClock},
    tokens::{LiveToken, Lookup, StoreUnavailable, TokenDigest, TokenHasher, TokenRecord, TokenStore},
};

/// Longest time for which an answer may be remembered.
const MAX_TTL: Duration = Duration::from_secs(10);
/// Most questions that are open at once.
const MAX_OPEN: usize = 1024;

type Fetch = Pin<Box<dyn Future<Output = Result<Option<TokenRecord>, StoreUnavailable>> + Send>>;

/// A store on another machine.
pub trait RemoteTokens: Send + Sync + 'static {
    /// Asks for the record that has this digest.
    fn fetch(&self, digest: TokenDigest) -> Fetch;
}

/// Remembers what a remote store has answered.
///
/// * An answer is good for at most 10 seconds, known and unknown tokens alike; then the store is asked again, once for all who wait.
/// * Unknown tokens have a table of their own: a flood of them pushes out nothing but each other.
/// * A store that does not answer in time lets nobody in whose answer is not fresh.
/// * A token that has gone at the remote store ends what is open under it when [`Self::refresh`] finds out; call that every few
///   seconds. A token that the cache has no room for any more ends it too, so give it room for all tokens in use.
pub struct CachedTokens<R>(Arc<Inner<R>>);

struct Inner<R> {
    remote: R,
    hasher: TokenHasher,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    timeout: Duration,
    capacity: usize,
    cache: Mutex<Cache>,
}

type Cell = Arc<OnceCell<Option<Arc<LiveToken>>>>;

#[derive(Default)]
struct Cache {
    known: Bounded<(Arc<LiveToken>, Duration)>,
    unknown: Bounded<Duration>,
    open: HashMap<TokenDigest, Cell>,
}

/// A map in which the first entry to come is the first to go.
struct Bounded<V> {
    map: HashMap<TokenDigest, V>,
    order: VecDeque<TokenDigest>,
}

impl<V> Default for Bounded<V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Bounded<V> {
    /// Puts an entry in; answers with what had to go for it.
    fn put(&mut self, key: TokenDigest, value: V, capacity: usize) -> Option<V> {
        if self.map.insert(key, value).is_some() {
            return None;
        }
        self.order.push_back(key);
        if self.map.len() <= capacity {
            return None;
        }
        self.order.pop_front().and_then(|oldest| self.map.remove(&oldest))
    }

    fn remove(&mut self, key: &TokenDigest) -> Option<V> {
        let value = self.map.remove(key)?;
        self.order.retain(|k| k != key);
        Some(value)
    }
}

impl<R: RemoteTokens> CachedTokens<R> {
    /// Remembers at most `capacity` known and as many unknown tokens, for `ttl` (at most 10 seconds). Digests are made by `hasher`.
    #[must_use]
    pub fn new(remote: R, hasher: TokenHasher, ttl: Duration, capacity: usize) -> Self {
        Self::with_clock(remote, hasher, ttl, capacity, SystemClock)
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(remote: R, hasher: TokenHasher, ttl: Duration, capacity: usize, clock: impl Clock) -> Self {
        let (clock, cache) = (Arc::new(clock), Mutex::default());
        let (ttl, timeout, capacity) = (ttl.min(MAX_TTL), Duration::from_secs(2), capacity.max(1));
        Self(Arc::new(Inner { remote, hasher, clock, ttl, timeout, capacity, cache }))
    }

    /// Asks again about every known token, one after the other, and ends what is open under those that have gone. A store that is
    /// away ends nothing.
    pub async fn refresh(&self) {
        let known: Vec<TokenDigest> = self.0.cache().known.map.keys().copied().collect();
        for digest in known {
            if let Ok(answer) = self.0.ask(digest).await {
                self.0.remember(digest, answer);
            }
        }
        let now = self.0.clock.wall();
        for (token, _) in self.0.cache().known.map.values() {
            token.revoke_expired(now);
        }
    }
}

impl<R: RemoteTokens> Inner<R> {
    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, digest: TokenDigest) -> Result<Option<TokenRecord>, StoreUnavailable> {
        tokio::time::timeout(self.timeout, self.remote.fetch(digest)).await.unwrap_or(Err(StoreUnavailable))
    }

    fn remember(&self, digest: TokenDigest, answer: Option<TokenRecord>) -> Option<Arc<LiveToken>> {
        let until = self.clock.monotonic() + self.ttl;
        let mut cache = self.cache();
        cache.open.remove(&digest);
        let before = cache.known.map.get(&digest).map(|(token, _)| Arc::clone(token));
        let Some(record) = answer else {
            if let Some((gone, _)) = cache.known.remove(&digest) {
                gone.revoke();
            }
            cache.unknown.put(digest, until, self.capacity);
            return None;
        };
        cache.unknown.remove(&digest);
        let token = Arc::new(match &before {
            Some(before) => before.successor(record),
            None => LiveToken::new(record),
        });
        if let Some((evicted, _)) = cache.known.put(digest, (Arc::clone(&token), until), self.capacity) {
            evicted.revoke();
        }
        if let Some(before) = before {
            before.superseded_by(&token);
        }
        Some(token)
    }
}

impl<R: RemoteTokens> TokenStore for CachedTokens<R> {
    fn lookup(&self, digest: &TokenDigest) -> Lookup<Arc<LiveToken>> {
        let now = self.0.clock.monotonic();
        let mut cache = self.0.cache();
        if let Some((token, _)) = cache.known.map.get(digest).filter(|(_, until)| now < *until) {
            return Lookup::Ready(Ok(Some(Arc::clone(token))));
        }
        if cache.unknown.map.get(digest).is_some_and(|until| now < *until) {
            return Lookup::Ready(Ok(None));
        }
        let cell = match cache.open.get(digest) {
            Some(cell) => Arc::clone(cell),
            None if cache.open.len() >= MAX_OPEN => {
                // Questions whose askers have all gone away leave their cell behind.
                cache.open.retain(|_, cell| Arc::strong_count(cell) > 1);
                if cache.open.len() >= MAX_OPEN {
                    return Lookup::Ready(Err(StoreUnavailable));
                }
                Arc::clone(cache.open.entry(*digest).or_default())
            }
            None => Arc::clone(cache.open.entry(*digest).or_default()),
        };
        drop(cache);
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        Lookup::Later(Box::pin(async move {
            // The first to come asks, for all who wait; if it goes away, the next one does.
            let found =
                cell.get_or_try_init(|| async { inner.ask(digest).await.map(|answer| inner.remember(digest, answer)) }).await;
            found.cloned()
        }))
    }

    fn hasher(&self) -> &TokenHasher {
        &self.0.hasher
    }
}

// By hand: a derive would ask the remote store to be `Clone`.
impl<R> Clone for CachedTokens<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> fmt::Debug for CachedTokens<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedTokens").field("ttl", &self.0.ttl).field("capacity", &self.0.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::{clock::ManualClock, tokens::verify};

    #[derive(Default)]
    struct Remote {
        asked: AtomicU32,
        away: AtomicBool,
        records: Mutex<HashMap<TokenDigest, TokenRecord>>,
    }

    impl RemoteTokens for Arc<Remote> {
        fn fetch(&self, digest: TokenDigest) -> Fetch {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let remote = Arc::clone(self);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if remote.away.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                Ok(remote.records.lock().unwrap().get(&digest).cloned())
            })
        }
    }

    struct Bench {
        remote: Arc<Remote>,
        clock: ManualClock,
        cached: CachedTokens<Arc<Remote>>,
    }

    impl Bench {
        fn new(capacity: usize) -> Self {
            let (remote, clock) = (Arc::<Remote>::default(), ManualClock::default());
            let ttl = Duration::from_secs(60);
            let cached = CachedTokens::with_clock(Arc::clone(&remote), TokenHasher::plain(), ttl, capacity, clock.clone());
            Self { remote, clock, cached }
        }

        fn record(&self, text: &str) {
            let hash = TokenHasher::plain().weak(text).unwrap();
            let record = TokenRecord::new(text).unwrap().with_hash(hash.clone()).unwrap();
            self.remote.records.lock().unwrap().insert(*hash.digest(), record);
        }

        async fn find(&self, text: &str) -> Result<Option<Arc<LiveToken>>, StoreUnavailable> {
            match self.cached.lookup(&digest(text)) {
                Lookup::Ready(answer) => answer,
                Lookup::Later(answer) => answer.await,
            }
        }

        fn asked(&self) -> u32 {
            self.remote.asked.load(Ordering::Relaxed)
        }
    }

    fn digest(text: &str) -> TokenDigest {
        TokenHasher::plain().digest(text.as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_remembered_for_ten_seconds_at_most() {
        let bench = Bench::new(10);
        bench.record("known");
        for _ in 0..3 {
            assert!(bench.find("known").await.unwrap().is_some() && bench.find("unknown").await.unwrap().is_none());
        }
        assert_eq!(bench.asked(), 2);
        bench.clock.advance(Duration::from_secs(10));
        assert!(bench.find("known").await.unwrap().is_some() && bench.find("unknown").await.unwrap().is_none());
        assert_eq!(bench.asked(), 4);
        bench.record("unknown");
        assert!(bench.find("unknown").await.unwrap().is_none());
        bench.clock.advance(Duration::from_secs(10));
        assert!(bench.find("unknown").await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_wait_ask_once_and_survive_the_first_ones_leaving() {
        let bench = Bench::new(10);
        bench.record("known");
        let Lookup::Later(first) = bench.cached.lookup(&digest("known")) else { panic!("not later") };
        let rest: Vec<_> = (0..50).map(|_| bench.find("known")).collect();
        assert!(tokio::time::timeout(Duration::from_millis(5), first).await.is_err(), "the first one goes away");
        for found in futures_util::future::join_all(rest).await {
            assert!(found.unwrap().is_some());
        }
        assert_eq!(bench.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_lets_nobody_in_and_is_asked_again() {
        let bench = Bench::new(10);
        bench.record("known");
        bench.remote.away.store(true, Ordering::Relaxed);
        assert_eq!(bench.find("known").await.unwrap_err(), StoreUnavailable);
        bench.remote.away.store(false, Ordering::Relaxed);
        assert!(bench.find("known").await.unwrap().is_some());
        bench.remote.away.store(true, Ordering::Relaxed);
        assert!(bench.find("known").await.unwrap().is_some(), "fresh");
        bench.clock.advance(Duration::from_secs(10));
        assert_eq!(bench.find("known").await.unwrap_err(), StoreUnavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_unknown_tokens_stays_bounded_and_pushes_no_known_one_out() {
        let bench = Bench::new(10);
        bench.record("known");
        bench.find("known").await.unwrap();
        for i in 0..500 {
            assert!(bench.find(&format!("guess-{i}")).await.unwrap().is_none());
        }
        let asked = bench.asked();
        assert!(bench.find("known").await.unwrap().is_some());
        assert_eq!(bench.asked(), asked);
        let cache = bench.cached.0.cache();
        assert_eq!((cache.known.map.len(), cache.unknown.map.len(), cache.unknown.order.len(), cache.open.len()), (1, 10, 10, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_open_questions_are_refused() {
        let bench = Bench::new(10);
        let waiting: Vec<_> = (0..MAX_OPEN).map(|i| bench.cached.lookup(&digest(&i.to_string()))).collect();
        assert!(matches!(bench.cached.lookup(&digest("one more")), Lookup::Ready(Err(StoreUnavailable))));
        drop(waiting);
        assert!(bench.find("one more").await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_ends_what_was_open_under_a_token_that_is_gone() {
        let bench = Bench::new(10);
        bench.record("stays");
        bench.record("goes");
        let mut signals = Vec::new();
        for name in ["stays", "goes"] {
            let token = bench.find(name).await.unwrap().unwrap();
            signals.push(verify(Some(&token), &digest(name), bench.clock.wall()).unwrap().revoked().unwrap().clone());
        }
        bench.cached.refresh().await;
        assert!(signals.iter().all(|s| s.get().is_none()));
        bench.remote.records.lock().unwrap().remove(&digest("goes"));
        bench.cached.refresh().await;
        assert!(signals[0].get().is_none() && signals[1].get().is_some());
        assert!(bench.find("goes").await.unwrap().is_none());
    }
}
