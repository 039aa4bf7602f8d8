//! The service, and the decision apart from its plumbing.

use std::{
    fmt, mem,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use tower_service::Service;

use super::{
    ResponseFuture,
    extract::{self, Credential, Extracted},
    future::{Asked, Waiting},
    layer::{Certificate, Config},
};
use crate::{
    body::ResponseBody,
    context::{ClientAddr, RequestContext},
    rejection::{Rejection, RejectionKind},
    request_form::is_forward_form,
    tokens::{Checksum, LiveToken, Lookup, Principal, StoreUnavailable, TokenDigest, TokenFault, TokenStore, checksum, verify},
};

/// The service that [`ProxyTokenLayer`](super::ProxyTokenLayer) makes.
pub struct ProxyToken<S, T> {
    pub(super) inner: S,
    pub(super) config: Arc<Config<T>>,
}

/// What the head of a request leads to.
enum Decision {
    /// Let through; with the subprotocol to select, if the client offered the carrier alone.
    Pass(Option<Box<HeaderValue>>),
    /// The store has to be waited for.
    Ask(Box<(Asked, Verdict)>),
}

/// What is needed to judge an answer that comes later.
pub(super) struct Verdict {
    forward: bool,
    client: Option<IpAddr>,
    pub(super) carrier: Option<Box<HeaderValue>>,
}

impl<T: TokenStore> Config<T> {
    fn decide<B>(&self, request: &mut Request<B>) -> Result<Decision, Rejection> {
        let forward = is_forward_form(request);
        let Extracted { credential, query_not_allowed, carrier_only: carrier } = extract::extract(&self.sources, request)?;
        let context = RequestContext::of_mut(request.extensions_mut());
        context.set_credential_fields(Arc::clone(&self.fields));
        let client = context.client().map(ClientAddr::ip);
        // Whoever was named before counts only where the operator says so.
        let certificate = context.take_principal();
        let verdict = Verdict { forward, client, carrier };
        if self.certificate == Certificate::AsWell && certificate.is_none() {
            return Err(self.refusal(forward, "client_certificate_required"));
        }
        let Some(credential) = credential else {
            return match certificate {
                Some(principal) if self.certificate == Certificate::Instead && !query_not_allowed => {
                    accept(context, principal);
                    Ok(Decision::Pass(verdict.carrier))
                }
                _ if query_not_allowed => Err(self.refusal(forward, "query_token_not_allowed")),
                _ => Err(self.refusal(forward, "missing_token")),
            };
        };
        self.admit(client)?;
        if credential.is_ticket {
            return self.redeem(context, &credential, verdict);
        }
        if checksum(credential.text()) == Checksum::Wrong {
            return Err(self.failed(&verdict, TokenFault::Checksum.reason()));
        }
        let digest = self.store.hasher().digest(credential.text());
        match self.store.lookup(&digest) {
            Lookup::Ready(answer) => self.judge(context, &verdict, &digest, answer).map(|()| Decision::Pass(verdict.carrier)),
            Lookup::Later(answer) => Ok(Decision::Ask(Box::new((Asked::Token { answer, digest }, verdict)))),
        }
    }

    #[cold]
    fn redeem(&self, context: &mut RequestContext, ticket: &Credential, verdict: Verdict) -> Result<Decision, Rejection> {
        let Some(tickets) = &self.tickets else { return Err(self.failed(&verdict, "unknown_ticket")) };
        match tickets.redeem(ticket.text()) {
            Lookup::Ready(answer) => self.judge_ticket(context, &verdict, answer).map(|()| Decision::Pass(verdict.carrier)),
            Lookup::Later(answer) => Ok(Decision::Ask(Box::new((Asked::Ticket { answer }, verdict)))),
        }
    }

    fn admit(&self, client: Option<IpAddr>) -> Result<(), Rejection> {
        let Some(gate) = &self.gate else { return Ok(()) };
        let Some(client) = client else {
            return Err(Rejection::new(RejectionKind::Misconfigured).with_reason("no_client_address"));
        };
        gate.admit(client)
            .map_err(|wait| Rejection::new(RejectionKind::RateLimited).with_reason("failed_attempts").with_retry_after(wait))
    }

    /// Judges what the store has answered and, if it is good, says who it is.
    #[inline]
    pub(super) fn judge(
        &self,
        context: &mut RequestContext,
        verdict: &Verdict,
        digest: &TokenDigest,
        answer: Result<Option<Arc<LiveToken>>, StoreUnavailable>,
    ) -> Result<(), Rejection> {
        let found = answer.map_err(|_| unavailable())?;
        match verify(found.as_deref(), digest, self.clock.wall()) {
            Ok(principal) => {
                accept(context, principal.clone());
                Ok(())
            }
            Err(fault) => {
                // The record is looked for in any case, found or not: an unknown token takes the same way.
                if let (Some(record), Some(token)) = (context.record(), &found) {
                    record.with(|r| r.token = Some(Arc::clone(token.record().id())));
                }
                Err(self.failed(verdict, fault.reason()))
            }
        }
    }

    /// The same for a ticket.
    pub(super) fn judge_ticket(
        &self,
        context: &mut RequestContext,
        verdict: &Verdict,
        answer: Result<Option<Principal>, StoreUnavailable>,
    ) -> Result<(), Rejection> {
        match answer.map_err(|_| unavailable())? {
            Some(principal) if principal.revoked().is_none_or(|signal| signal.get().is_none()) => {
                accept(context, principal);
                Ok(())
            }
            _ => Err(self.failed(verdict, "unknown_ticket")),
        }
    }

    fn failed(&self, verdict: &Verdict, reason: &'static str) -> Rejection {
        if let (Some(gate), Some(client)) = (&self.gate, verdict.client) {
            gate.failed(client);
        }
        self.refusal(verdict.forward, reason)
    }

    fn refusal(&self, forward: bool, reason: &'static str) -> Rejection {
        let rejection = if forward {
            Rejection::new(RejectionKind::ProxyUnauthenticated).with_challenge(self.proxy_challenge.clone())
        } else {
            Rejection::new(RejectionKind::Unauthenticated).with_challenge(self.challenge.clone())
        };
        rejection.with_reason(reason)
    }
}

fn unavailable() -> Rejection {
    Rejection::new(RejectionKind::Saturated).with_reason("token_store_unavailable").with_retry_after(Duration::from_secs(1))
}

fn accept(context: &mut RequestContext, principal: Principal) {
    if let Some(record) = context.record() {
        record.with(|r| r.token = Some(Arc::clone(principal.id())));
    }
    context.set_principal(principal);
}

impl<S, T, B, R> Service<Request<B>> for ProxyToken<S, T>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    T: TokenStore,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, T, B, S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.config.decide(&mut request) {
            Ok(Decision::Pass(carrier)) => ResponseFuture::inner(self.inner.call(request), carrier),
            Ok(Decision::Ask(ask)) => {
                let (asked, verdict) = *ask;
                // The one that was polled ready goes with the request; its clone waits for its own turn.
                let next = self.inner.clone();
                let inner = mem::replace(&mut self.inner, next);
                ResponseFuture::asking(Waiting { asked, inner, request, verdict, config: Arc::clone(&self.config) })
            }
            Err(rejection) => ResponseFuture::refused(rejection),
        }
    }
}

impl<S: Clone, T> Clone for ProxyToken<S, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), config: Arc::clone(&self.config) }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for ProxyToken<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyToken").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
