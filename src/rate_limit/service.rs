//! The service, and the decision apart from it.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::Guard;
use bytes::Bytes;
use http::{Extensions, HeaderValue, Request, Response, header};
use tower_service::Service;

use super::{
    body::{AmendBody, Charge},
    fields::{Answers, FieldValues},
    future::{Pending, ResponseFuture},
    layer::Shared,
    policy::PolicySet,
};
use crate::{
    body::ResponseBody,
    context::RequestContext,
    limiter::{Batch, PolicyId, RequestView},
    rejection::{Rejection, RejectionKind},
};

/// The service of [`RateLimitLayer`](super::RateLimitLayer).
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
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
        let set = shared.policies.load();
        let mut batch = Batch::new();
        let mask = match set.ask(&RequestView::of(&request), &mut batch) {
            Ok(mask) => mask,
            Err(rejection) => return ResponseFuture::refused(refusal(rejection, None, FieldValues::None)),
        };
        if batch.is_empty() {
            return ResponseFuture::inner(self.inner.call(request), Passed::default());
        }
        let now = shared.clock.monotonic();
        let charge = if set.amends { owed(shared, &set, &batch) } else { None };
        if shared.store.try_check(&mut batch, now) {
            let mut answers = Answers::default();
            for (place, ask) in places(mask).zip(batch.iter()) {
                if let Some(slot) = answers.get_mut(place) {
                    *slot = ask.decision;
                }
            }
            return match settle(shared, &set, &answers, charge, request.extensions_mut()) {
                Ok(passed) => ResponseFuture::inner(self.inner.call(request), passed),
                Err(response) => ResponseFuture::refused(*response),
            };
        }
        let check = Arc::clone(&shared.store).check(batch.to_owned_asks(), now);
        let shared = Arc::clone(shared);
        let set = Guard::into_inner(set);
        let clone = self.inner.clone();
        // The instance that was polled ready is the one that is called.
        let inner = std::mem::replace(&mut self.inner, clone);
        ResponseFuture::asking(check, Pending { inner, request, shared, set, mask, charge })
    }
}

/// What a request that passed carries to its answer.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) fields: FieldValues,
    pub(super) charge: Option<Box<Charge>>,
}

impl Default for Passed {
    fn default() -> Self {
        Self { fields: FieldValues::None, charge: None }
    }
}

/// The places of a set's policies that a mask names.
pub(super) fn places(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |place| mask & (1 << place) != 0)
}

fn owed(shared: &Shared, set: &PolicySet, batch: &Batch<'_>) -> Option<Box<Charge>> {
    let amends = |id: &PolicyId| set.policies.iter().find(|p| p.id == *id).and_then(|p| p.amend.clone());
    let asks = batch.to_owned_asks();
    let owed: Vec<_> = asks.into_iter().filter_map(|ask| amends(&ask.policy).map(|amend| (ask, amend))).collect();
    let (store, clock) = (Arc::clone(&shared.store), Arc::clone(&shared.clock));
    (!owed.is_empty()).then(|| Box::new(Charge { store, clock, owed, used: None }))
}

/// Turns the store's answers into a pass or a refusal, and notes them in the request's context.
pub(super) fn settle(
    shared: &Shared,
    set: &PolicySet,
    answers: &Answers,
    charge: Option<Box<Charge>>,
    extensions: &mut Extensions,
) -> Result<Passed, Box<Response<Bytes>>> {
    let said = || set.policies.iter().zip(answers).enumerate().filter_map(|(i, (p, d))| d.map(|d| (i, p, d)));
    let mut violated = said().filter(|(_, p, d)| !p.shadow && !d.allowed());
    let Some((place, policy, decision)) = violated.next() else {
        let context = RequestContext::of_mut(extensions);
        let mut state = context.take_rate_limit().unwrap_or_default();
        for (_, policy, decision) in said() {
            state.push(&policy.id, decision, policy.shadow);
            if policy.shadow && !decision.allowed() {
                note_shadow(context, policy.name());
            }
        }
        context.set_rate_limit(state);
        return Ok(Passed { fields: FieldValues::new(set, answers, false), charge });
    };
    let mut wait = decision.retry_after();
    let mut names: Vec<Box<str>> = vec![policy.name().into()];
    for (_, policy, decision) in violated {
        wait = wait.max(decision.retry_after());
        names.push(policy.name().into());
    }
    // The document of a single violation was written beforehand.
    let problem = if names.len() == 1 { set.problem(place).cloned() } else { None };
    let rejection = Rejection::new(RejectionKind::RateLimited)
        .with_retry_after(wait.saturating_add(jitter(shared.jitter, wait)))
        .with_violated_policies(names);
    Err(Box::new(refusal(rejection, problem, FieldValues::new(set, answers, true))))
}

/// Without `Content-Length`: the body's size hint says it.
fn refusal(rejection: Rejection, problem: Option<Bytes>, fields: FieldValues) -> Response<Bytes> {
    let mut response = Response::new(problem.unwrap_or_else(|| rejection.problem_json()));
    response.headers_mut().reserve(6);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    rejection.apply(&mut response);
    fields.apply(response.headers_mut());
    response
}

pub(super) fn unavailable() -> Response<Bytes> {
    let rejection =
        Rejection::new(RejectionKind::Saturated).with_reason("limit_store_unavailable").with_retry_after(Duration::from_secs(1));
    refusal(rejection, None, FieldValues::None)
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
