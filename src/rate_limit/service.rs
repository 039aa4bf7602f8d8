//! The service, and the decision apart from it.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;
use http::{Extensions, HeaderValue, Request, Response, header};
use tower_service::Service;

use super::{
    body::{AmendBody, Charge},
    fields::{self, FieldValues},
    future::{Pending, ResponseFuture},
    layer::Shared,
    policy::{PolicySet, Problem, Used, places},
};
use crate::{
    body::ResponseBody,
    context::RequestContext,
    limiter::{Batch, Decision, MAX_POLICIES, PolicyId, RequestView, Told},
    rejection::{Rejection, RejectionKind},
};

/// The service of [`RateLimitLayer`](super::RateLimitLayer).
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    shared: Arc<Shared>,
    policies: Cache<Arc<ArcSwap<PolicySet>>, Arc<PolicySet>>,
}

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        let policies = Cache::new(Arc::clone(&shared.policies));
        Self { inner, shared, policies }
    }
}

impl<S: fmt::Debug> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The inner service is cloned only where a remote store has to be waited for.
impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RateLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<AmendBody<ResBody>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let shared = &self.shared;
        let set = self.policies.load();
        let mut batch = Batch::new();
        let asked = match set.ask(&RequestView::of(&request), &mut batch) {
            Ok(asked) => asked,
            Err(rejection) => {
                let document = rejection.problem_json();
                return ResponseFuture::refused(refusal(rejection, document, FieldValues::None));
            }
        };
        if batch.is_empty() {
            return ResponseFuture::inner(self.inner.call(request), Passed::Nothing);
        }
        let now = shared.clock.monotonic();
        let charge = if set.amends { owed(shared, set, &batch) } else { None };
        if shared.store.try_check(&mut batch, now) {
            let extensions = request.extensions_mut();
            let settled = if let Some(said) = batch.only_answer() {
                settle(shared, set, asked, &[said], charge, extensions)
            } else {
                let (mut said, mut count) = ([Decision::NONE; MAX_POLICIES], 0);
                for (to, decision) in said.iter_mut().zip(batch.iter().filter_map(|ask| ask.decision)) {
                    *to = decision;
                    count += 1;
                }
                settle(shared, set, asked, said.get(..count).unwrap_or_default(), charge, extensions)
            };
            return match settled {
                Settled::Passed(passed) => ResponseFuture::inner(self.inner.call(request), passed),
                Settled::Refused(response) => ResponseFuture::refused(response),
            };
        }
        let check = Arc::clone(&shared.store).check(batch.to_owned_asks(), now);
        let shared = Arc::clone(shared);
        let set = Arc::clone(set);
        let clone = self.inner.clone();
        // The instance that was polled ready is the one that is called.
        let inner = std::mem::replace(&mut self.inner, clone);
        ResponseFuture::asking(check, Pending { inner, request, shared, set, asked, charge })
    }
}

/// What a request that passed carries to its answer. Small, because it lies in the future.
pub(super) enum Passed {
    Nothing,
    Told(Arc<Told>),
    More(Box<(FieldValues, Option<Box<Charge>>)>),
}

impl Passed {
    fn new(fields: FieldValues, charge: Option<Box<Charge>>) -> Self {
        match (fields, charge) {
            (FieldValues::None, None) => Self::Nothing,
            (FieldValues::Draft11(told), None) => Self::Told(told),
            more => Self::More(Box::new(more)),
        }
    }

    /// Completes the answer's head; what is returned is what is to be charged for its body.
    pub(super) fn apply<B>(self, response: &mut Response<B>) -> Option<Box<Charge>> {
        match self {
            Self::Nothing => None,
            Self::Told(told) => {
                fields::append(response.headers_mut(), &told);
                None
            }
            Self::More(more) => {
                let (fields, mut charge) = *more;
                if let Some(charge) = &mut charge {
                    charge.used = Some(Used { status: response.status(), bytes: 0 });
                }
                fields.apply(response.headers_mut());
                charge
            }
        }
    }
}

fn owed(shared: &Shared, set: &PolicySet, batch: &Batch<'_>) -> Option<Box<Charge>> {
    let amends = |id: &PolicyId| set.policies.iter().find(|p| p.id == *id).and_then(|p| p.amend.clone());
    let asks = batch.to_owned_asks();
    let owed: Vec<_> = asks.into_iter().filter_map(|ask| amends(&ask.policy).map(|amend| (ask, amend))).collect();
    let (store, clock) = (Arc::clone(&shared.store), Arc::clone(&shared.clock));
    (!owed.is_empty()).then(|| Box::new(Charge { store, clock, owed, used: None }))
}

/// What becomes of a request.
pub(super) enum Settled {
    Passed(Passed),
    Refused(Response<Bytes>),
}

/// Turns the decisions of the policies in `asked` into a pass or a refusal, and notes a pass in the request's context.
pub(super) fn settle(
    shared: &Shared,
    set: &PolicySet,
    asked: u8,
    said: &[Decision],
    charge: Option<Box<Charge>>,
    extensions: &mut Extensions,
) -> Settled {
    if said.len() < asked.count_ones() as usize {
        // A store that leaves a question open has not allowed the request.
        return Settled::Refused(unavailable());
    }
    let (mut violated, mut wait) = (0u8, Duration::ZERO);
    for (place, decision) in places(asked).zip(said) {
        if !decision.allowed() && set.policies.get(place).is_none_or(|p| !p.shadow) {
            violated |= 1 << place;
            wait = wait.max(decision.retry_after());
        }
    }
    if violated == 0 {
        let context = RequestContext::of_mut(extensions);
        let state = context.rate_limit_mut();
        let told = state.told();
        let fields = FieldValues::new(set, asked, said, false, told.as_ref());
        fields.leave(told);
        let mut refusing = None;
        for (policy, decision) in set.named(asked).zip(said) {
            state.push(&policy.id, *decision, policy.shadow);
            if policy.shadow && !decision.allowed() {
                refusing = refusing.or(Some(policy));
            }
        }
        if let Some(policy) = refusing {
            note_shadow(context, policy.name());
        }
        return Settled::Passed(Passed::new(fields, charge));
    }
    let outer = RequestContext::of_mut(extensions).rate_limit_mut().told().as_ref();
    let fields = FieldValues::new(set, asked, said, true, outer);
    let Problem { names, document } = set.problem(violated);
    let rejection = Rejection::new(RejectionKind::RateLimited)
        .with_retry_after(wait.saturating_add(jitter(shared.jitter, wait)))
        .with_violated_policies(names);
    Settled::Refused(refusal(rejection, document, fields))
}

/// Without `Content-Length`: the body's size hint says it.
fn refusal(rejection: Rejection, document: Bytes, fields: FieldValues) -> Response<Bytes> {
    let mut response = Response::new(document);
    let headers = response.headers_mut();
    headers.reserve(6);
    headers.insert(header::CONTENT_TYPE, const { HeaderValue::from_static("application/problem+json") });
    fields.apply(headers);
    rejection.apply(&mut response);
    response
}

pub(super) fn unavailable() -> Response<Bytes> {
    let rejection =
        Rejection::new(RejectionKind::Saturated).with_reason("limit_store_unavailable").with_retry_after(Duration::from_secs(1));
    let document = rejection.problem_json();
    refusal(rejection, document, FieldValues::None)
}

#[cold]
fn note_shadow(context: &RequestContext, policy: &str) {
    if let Some(record) = context.record() {
        record.with(|record| {
            record.detail.get_or_insert_with(|| format!("rate limit policy `{policy}` would have refused (shadow)").into());
        });
    }
}

/// Spreads clients, hides nothing: a hash with the process's random key is random enough.
fn jitter(most: Duration, salt: Duration) -> Duration {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    if most == 0 {
        return Duration::ZERO;
    }
    Duration::from_nanos(HASHER.hash_one(salt) % most)
}
