//! What the layers ask of a store.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{Decision, Key, Quota};
use crate::ConfigError;

/// Most policies that one layer can hold; they are decided together. Up to two need no heap allocation.
pub const MAX_POLICIES: usize = 8;

/// The name of a policy. A key's state belongs to the name, so it outlives a reload that changes the quota.
#[derive(Clone, PartialEq, Eq)]
pub struct PolicyId {
    name: Arc<str>,
    hash: u64,
}

impl PolicyId {
    /// A policy of that name: 1 to 64 visible ASCII characters without `"` and `\`, because it is sent to clients as a string
    /// of RFC 9651.
    ///
    /// # Errors
    /// When the name is anything else.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, ConfigError> {
        let name = name.into();
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
            return Err(ConfigError::new(
                &*name,
                "a policy's name is 1 to 64 visible ASCII characters without quotes and backslashes",
            ));
        }
        Ok(Self::of(name))
    }

    pub(crate) fn of(name: Arc<str>) -> Self {
        // FNV-1a: names come from the operator; the store's own hash is the keyed one.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Self { name, hash }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl fmt::Debug for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

/// One policy's question about one request.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The policy.
    pub policy: &'a PolicyId,
    /// Its quota.
    pub quota: Quota,
    /// Whose quota.
    pub key: Key,
    /// How many units the request takes; 0 looks without taking.
    pub cost: u64,
    /// A refusal of this policy is only noted.
    pub shadow: bool,
    /// The store's answer.
    pub decision: Option<Decision>,
}

/// The questions of all policies about one request, decided all or none: where one refuses (and is not a shadow), none takes.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    first: [Option<Ask<'a>>; 2],
    more: Vec<Ask<'a>>,
}

impl<'a> Batch<'a> {
    /// No question yet.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        Self { first: [None, None], more: Vec::new() }
    }

    /// Adds a question; `false` when there are [`MAX_POLICIES`] already.
    #[inline]
    pub fn push(&mut self, ask: Ask<'a>) -> bool {
        let [one, two] = &mut self.first;
        match (&one, &two) {
            (None, _) => *one = Some(ask),
            (_, None) => *two = Some(ask),
            _ if self.more.len() + 2 < MAX_POLICIES => self.more.push(ask),
            _ => return false,
        }
        true
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.iter().flatten().count() + self.more.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let [one, _] = &self.first;
        one.is_none()
    }

    /// The only question, if there is one only.
    pub(super) fn only(&mut self) -> Option<&mut Ask<'a>> {
        match &mut self.first {
            [Some(ask), None] => Some(ask),
            _ => None,
        }
    }

    /// The answer to the only question, if there is one only.
    pub(crate) fn only_answer(&self) -> Option<Decision> {
        match &self.first {
            [Some(ask), None] => ask.decision,
            _ => None,
        }
    }

    /// The questions.
    pub fn iter(&self) -> impl Iterator<Item = &Ask<'a>> + Clone {
        self.first.iter().flatten().chain(&self.more)
    }

    /// The questions, to be answered.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Ask<'a>> {
        self.first.iter_mut().flatten().chain(&mut self.more)
    }

    /// Whether every policy that is not a shadow has allowed the request. An unanswered one has not.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.iter().all(|ask| ask.shadow || ask.decision.is_some_and(|d| d.allowed()))
    }

    /// The questions as values that can travel.
    #[must_use]
    pub fn to_owned_asks(&self) -> Box<[OwnedAsk]> {
        self.iter()
            .map(|ask| OwnedAsk {
                policy: ask.policy.clone(),
                quota: ask.quota,
                key: ask.key.clone(),
                cost: ask.cost,
                shadow: ask.shadow,
            })
            .collect()
    }
}

/// An [`Ask`] that owns its parts.
#[derive(Clone, Debug)]
pub struct OwnedAsk {
    /// The policy.
    pub policy: PolicyId,
    /// Its quota.
    pub quota: Quota,
    /// Whose quota.
    pub key: Key,
    /// How many units.
    pub cost: u64,
    /// A refusal of this policy is only noted.
    pub shadow: bool,
}

/// The store could not be asked, and the operator chose to refuse then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreUnavailable;

impl fmt::Display for StoreUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the limit store is not available")
    }
}

impl std::error::Error for StoreUnavailable {}

/// The answers of a remote store, in the order of the questions.
pub type CheckFuture = Pin<Box<dyn Future<Output = Result<Box<[Decision]>, StoreUnavailable>> + Send>>;

/// Where the state of quotas is kept.
///
/// `now` is [`Clock::monotonic`](crate::clock::Clock::monotonic); a store shared by machines uses its own clock instead.
pub trait LimitStore: fmt::Debug + Send + Sync + 'static {
    /// Decides without waiting, if it can: writes a decision into each question and returns `true`. Where it returns `false`,
    /// nothing has been taken and [`LimitStore::check`] has to be asked.
    fn try_check(&self, batch: &mut Batch<'_>, now: Duration) -> bool;

    /// Decides with a wait. Only called after [`LimitStore::try_check`] said `false`; a store that never does has no need of its own.
    fn check(self: Arc<Self>, asks: Box<[OwnedAsk]>, now: Duration) -> CheckFuture {
        let mut batch = Batch::new();
        for OwnedAsk { policy, quota, key, cost, shadow } in &asks {
            batch.push(Ask { policy, quota: *quota, key: key.clone(), cost: *cost, shadow: *shadow, decision: None });
        }
        let decided = self.try_check(&mut batch, now).then(|| batch.iter().filter_map(|ask| ask.decision).collect());
        Box::pin(std::future::ready(decided.ok_or(StoreUnavailable)))
    }

    /// Takes units after the fact (the bytes of an answer), whether or not they are there. Must not block; a remote store sends
    /// it in the background.
    fn charge(&self, ask: &OwnedAsk, now: Duration);
}
