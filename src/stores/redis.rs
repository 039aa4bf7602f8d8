//! Limits that several servers share, in Redis 7 or Valkey.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::redis::{
    Client, Cmd, RedisResult, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use arc_swap::ArcSwap;
use tokio::{runtime::Handle, time::timeout};

use crate::{
    ConfigError,
    limiter::{Ask, Batch, CheckFuture, Decision, LimitStore, MemoryStore, OwnedAsk, PolicyId, StoreUnavailable},
};

/// How long a request waits for the store unless said otherwise: 20 ms less what a timer may be late.
const BUDGET: Duration = Duration::from_millis(18);
/// How often a store that is away is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_millis(250);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
/// After so many probes without an answer the connection is made anew: it may be half open.
const PROBES_A_CONNECTION: u32 = 4;
/// Charges under way in the background; more than this are kept locally.
const CHARGES: usize = 1024;

/// All policies of a request in one call, all or none, with the server's clock. Times are microseconds; the TAT is kept as a
/// number relative to 2020, which a double holds to a fraction of a microsecond.
///
/// KEYS: one a policy. ARGV: for each the units' time, the tolerance, and the mode (0 ask, 1 shadow, 2 take in any case).
/// Answer: for each whether it is allowed, the time to wait, and the time until the quota is whole.
const SCRIPT: &str = r"
local t = redis.call('TIME')
local now = (t[1] - 1577836800) * 1000000 + t[2]
local out, after, before, ok = {}, {}, {}, true
for i, key in ipairs(KEYS) do
  local need, most, mode = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), ARGV[3 * i]
  local used = math.max(0, (tonumber(redis.call('GET', key) or 0) or 0) - now)
  local filled = used + math.min(need, most)
  before[i] = used
  if mode == '2' or filled <= most + 1 + most / 1000000 then
    used = used + math.min(need, most + 3600000000)
    if need > 0 then after[i] = used end
    out[3 * i - 2], out[3 * i - 1], out[3 * i] = 1, 0, math.ceil(used)
  else
    if mode == '0' then ok = false end
    out[3 * i - 2], out[3 * i - 1], out[3 * i] = 0, math.ceil(filled - most), math.ceil(used)
  end
end
for i, key in ipairs(KEYS) do
  if not ok then
    if out[3 * i - 2] == 1 then out[3 * i] = math.ceil(before[i]) end
  elseif after[i] then
    redis.call('SET', key, string.format('%.3f', now + after[i]), 'PX', math.ceil(after[i] / 1000) + 1000)
  end
end
return out
";

/// What to do while the store is away or slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenAway {
    /// Each server grants its part of every quota by itself. `replicas` is how many servers there are.
    LocalShare {
        /// How many servers share the store.
        replicas: u64,
    },
    /// Refuse with 503.
    Refuse,
    /// Admit everything that is not known to be limited.
    Admit,
}

/// Builds a [`RedisStore`].
pub struct RedisStoreBuilder {
    client: Client,
    prefix: Box<[u8]>,
    budget: Duration,
    when_away: WhenAway,
    cells: usize,
}

/// A limit store in Redis 7 or Valkey.
///
/// * One script call decides all policies of a request, by the server's clock; a key lives no longer than its quota needs to
///   become whole.
/// * What the store has said is remembered: a key that is known to be limited costs no round trip.
/// * No request waits longer than the budget (18 ms, so that with a late timer it is 20). The first that has waited in vain opens
///   the breaker: from then on nobody asks, and a background task looks every 250 ms whether the store is back.
/// * While it is away, [`WhenAway`] rules; keys that are known to be limited stay so.
///
/// Needs a tokio runtime. Clones share the connection.
///
/// ```
/// use portcullis::stores::{RedisStore, WhenAway};
///
/// let store = RedisStore::builder("redis://127.0.0.1:6379")?.prefix("edge:").when_away(WhenAway::LocalShare { replicas: 3 }).build()?;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    client: Client,
    connection: ArcSwap<ConnectionManager>,
    script: Script,
    prefix: Box<[u8]>,
    budget: Duration,
    when_away: WhenAway,
    away: AtomicBool,
    /// What the store last said of each key: never more than the truth, so a refusal by it is one.
    seen: MemoryStore,
    /// What this server grants by itself.
    share: MemoryStore,
    charges: AtomicUsize,
}

impl RedisStoreBuilder {
    /// What every key in the store begins with; `portcullis:` unless said otherwise.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.as_bytes().into();
        self
    }

    /// How long a request waits for the store.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// What rules while the store is away; one local share of the whole unless said otherwise.
    #[must_use]
    pub fn when_away(mut self, choice: WhenAway) -> Self {
        self.when_away = choice;
        self
    }

    /// Cells of each of the two local tables (16 bytes a cell); 2^16 unless said otherwise.
    #[must_use]
    pub fn local_cells(mut self, cells: usize) -> Self {
        self.cells = cells;
        self
    }

    /// Makes the store. The connection is opened by the first request, or by [`RedisStore::connect`].
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub fn build(self) -> Result<RedisStore, ConfigError> {
        let connection = manager(&self.client).map_err(|_| ConfigError::new("redis", "the Redis client cannot be set up"))?;
        Ok(RedisStore(Arc::new(Inner {
            client: self.client,
            connection: ArcSwap::from_pointee(connection),
            script: Script::new(SCRIPT),
            prefix: self.prefix,
            budget: self.budget,
            when_away: self.when_away,
            away: AtomicBool::new(false),
            seen: MemoryStore::bounded(self.cells),
            share: MemoryStore::bounded(self.cells),
            charges: AtomicUsize::new(0),
        })))
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder").field("when_away", &self.when_away).finish_non_exhaustive()
    }
}

fn manager(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(PROBE_PATIENCE))
        .set_response_timeout(Some(PROBE_PATIENCE))
        .set_number_of_retries(1)
        .set_max_delay(PROBE_EVERY);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

impl RedisStore {
    /// A store at `redis://[user:password@]host[:port][/db]` or `unix:///path`. TLS is not built in: it belongs on a private
    /// network or behind a local tunnel.
    ///
    /// # Errors
    /// When the address does not parse. It is not repeated in the error, because a password may be in it.
    pub fn builder(url: &str) -> Result<RedisStoreBuilder, ConfigError> {
        let client = Client::open(url)
            .map_err(|_| ConfigError::new("redis", "the address is `redis://[user:password@]host[:port][/db]`"))?;
        let (prefix, budget, when_away) = (b"portcullis:".as_slice().into(), BUDGET, WhenAway::LocalShare { replicas: 1 });
        Ok(RedisStoreBuilder { client, prefix, budget, when_away, cells: 1 << 16 })
    }

    /// Opens the connection and loads the script, so that the first request does not pay for it. Returns whether that worked; if
    /// not, the store counts as away.
    pub async fn connect(&self) -> bool {
        let mut connection = self.connection();
        let works = matches!(timeout(PROBE_PATIENCE, self.0.script.load_async(&mut connection)).await, Ok(Ok(_)));
        if !works {
            self.went_away();
        }
        works
    }

    /// Whether the store is taken to be away.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    fn connection(&self) -> ConnectionManager {
        ConnectionManager::clone(&self.0.connection.load())
    }

    fn key(&self, policy: &PolicyId, key: &[u8]) -> Vec<u8> {
        [&*self.0.prefix, policy.name().as_bytes(), b":", key].concat()
    }

    async fn call(&self, asks: &[OwnedAsk], force: bool) -> Option<Vec<u64>> {
        let mut call = self.0.script.prepare_invoke();
        for ask in asks {
            let quota = ask.quota;
            let mode = match (force, ask.shadow) {
                (true, _) => "2",
                (false, true) => "1",
                (false, false) => "0",
            };
            call.key(self.key(&ask.policy, ask.key.as_bytes()))
                .arg(micros(quota.cost_nanos(ask.cost)))
                .arg(micros(quota.tolerance_nanos()))
                .arg(mode);
        }
        let mut connection = self.connection();
        match timeout(self.0.budget, call.invoke_async::<Vec<u64>>(&mut connection)).await {
            Ok(Ok(said)) if said.len() == 3 * asks.len() => Some(said),
            _ => None,
        }
    }

    /// Opens the breaker, and has somebody look when it can be closed.
    fn went_away(&self) {
        if self.0.away.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(rule = ?self.0.when_away, "the limit store is away");
        match Handle::try_current() {
            Ok(handle) => drop(handle.spawn(probe(Arc::downgrade(&self.0)))),
            // Without a runtime nobody can look, so the next request does.
            Err(_) => self.0.away.store(false, Ordering::Relaxed),
        }
    }

    /// Decides without the store. `false` where the choice is to refuse.
    fn decide_alone(&self, batch: &mut Batch<'_>, now: Duration) -> bool {
        match self.0.when_away {
            WhenAway::LocalShare { replicas } => {
                for ask in batch.iter_mut() {
                    ask.quota = ask.quota.share(replicas);
                }
                self.0.share.check_all(batch, now);
                true
            }
            WhenAway::Admit => {
                for ask in batch.iter_mut() {
                    ask.decision = Some(self.0.seen.noted(ask.policy, ask.quota, &ask.key, 0, now));
                }
                true
            }
            WhenAway::Refuse => false,
        }
    }

    async fn decide(self, asks: Box<[OwnedAsk]>, now: Duration) -> Result<Box<[Decision]>, StoreUnavailable> {
        if !self.is_away() {
            if let Some(said) = self.call(&asks, false).await {
                let (answers, _) = said.as_chunks::<3>();
                let decide = |(ask, [allowed, wait, used]): (&OwnedAsk, &[u64; 3])| {
                    let used = Duration::from_micros(*used);
                    self.0.seen.note(&ask.policy, &ask.key, now.saturating_add(used), now);
                    Decision::from_parts(ask.quota, *allowed == 1, Duration::from_micros(*wait), used)
                };
                return Ok(asks.iter().zip(answers).map(decide).collect());
            }
            self.went_away();
        }
        let mut batch = Batch::new();
        for OwnedAsk { policy, quota, key, cost, shadow } in &asks {
            batch.push(Ask { policy, quota: *quota, key: key.clone(), cost: *cost, shadow: *shadow, decision: None });
        }
        if !self.decide_alone(&mut batch, now) {
            return Err(StoreUnavailable);
        }
        Ok(batch.iter().filter_map(|ask| ask.decision).collect())
    }

    fn charge_alone(&self, ask: &OwnedAsk, now: Duration) {
        if let WhenAway::LocalShare { replicas } = self.0.when_away {
            self.0.share.charge(&ask.policy, ask.quota.share(replicas), &ask.key, ask.cost, now);
        }
    }
}

/// Microseconds with their fraction, as the script reads them.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

/// Closes the breaker when the store answers again.
async fn probe(store: Weak<Inner>) {
    let mut failed = 0u32;
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let Some(inner) = store.upgrade() else { return };
        if failed > 0
            && failed.is_multiple_of(PROBES_A_CONNECTION)
            && let Ok(fresh) = manager(&inner.client)
        {
            inner.connection.store(Arc::new(fresh));
        }
        let mut connection = ConnectionManager::clone(&inner.connection.load());
        let ping: Result<RedisResult<String>, _> =
            timeout(PROBE_PATIENCE, Cmd::new().arg("PING").query_async(&mut connection)).await;
        if matches!(ping, Ok(Ok(_))) {
            inner.away.store(false, Ordering::Relaxed);
            tracing::info!("the limit store is back");
            return;
        }
        failed += 1;
    }
}

impl LimitStore for RedisStore {
    fn try_check(&self, batch: &mut Batch<'_>, now: Duration) -> bool {
        let seen = |ask: &Ask<'_>, cost| self.0.seen.noted(ask.policy, ask.quota, &ask.key, cost, now);
        if batch.iter().any(|ask| !ask.shadow && !seen(ask, ask.cost).allowed()) {
            for ask in batch.iter_mut() {
                let decision = seen(ask, ask.cost);
                ask.decision = Some(if decision.allowed() { seen(ask, 0) } else { decision });
            }
            return true;
        }
        self.is_away() && self.decide_alone(batch, now)
    }

    fn check(self: Arc<Self>, asks: Box<[OwnedAsk]>, now: Duration) -> CheckFuture {
        Box::pin(Self::clone(&self).decide(asks, now))
    }

    fn charge(&self, ask: &OwnedAsk, now: Duration) {
        let Some(handle) = Handle::try_current().ok().filter(|_| !self.is_away()) else {
            return self.charge_alone(ask, now);
        };
        if self.0.charges.fetch_add(1, Ordering::AcqRel) >= CHARGES {
            self.0.charges.fetch_sub(1, Ordering::AcqRel);
            return self.charge_alone(ask, now);
        }
        let (store, ask) = (self.clone(), ask.clone());
        handle.spawn(async move {
            if store.call(std::slice::from_ref(&ask), true).await.is_none() {
                store.went_away();
                store.charge_alone(&ask, now);
            }
            store.0.charges.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("away", &self.is_away()).field("when_away", &self.0.when_away).finish_non_exhaustive()
    }
}
