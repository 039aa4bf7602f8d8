//! The service.

use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderName, Request, Response};
use tower_service::Service;

use super::{ResponseFuture, future::Waiting};
use crate::{
    body::ResponseBody,
    context::RequestContext,
    net::Origin,
    rejection::{Rejection, RejectionKind},
    tokens::{Lookup, SessionKey, SessionStore, StoreUnavailable},
};

/// The session's field. A static, so that a look-up makes and drops no name.
pub(super) static SESSION_ID: HeaderName = crate::mcp_wire::SESSION_ID;

/// The service that [`McpSessionLayer`](super::McpSessionLayer) makes.
#[derive(Clone)]
pub struct McpSession<S> {
    inner: S,
    store: Arc<dyn SessionStore>,
    /// Those of the last request: a connection's requests are somebody's to some target, as a rule.
    latest: Option<Arc<Parties>>,
}

/// Who asks whom.
pub(super) struct Parties {
    pub(super) owner: Arc<str>,
    pub(super) origin: Arc<Origin>,
    pub(super) store: Arc<dyn SessionStore>,
}

impl<S> McpSession<S> {
    pub(super) fn new(inner: S, store: Arc<dyn SessionStore>) -> Self {
        Self { inner, store, latest: None }
    }

    fn parties<B>(&mut self, request: &Request<B>) -> Result<Arc<Parties>, Rejection> {
        let missing = |what| Rejection::new(RejectionKind::Misconfigured).with_reason(what);
        let context = RequestContext::of(request.extensions());
        let principal = context.and_then(RequestContext::principal).ok_or_else(|| missing("no_principal"))?;
        let target = context.and_then(RequestContext::target).ok_or_else(|| missing("no_target"))?;
        let (owner, origin) = (principal.id(), target.origin());
        if let Some(parties) = &self.latest
            && parties.owner == *owner
            && parties.origin == *origin
        {
            return Ok(Arc::clone(parties));
        }
        let store = Arc::clone(&self.store);
        Ok(Arc::clone(self.latest.insert(Arc::new(Parties { owner: Arc::clone(owner), origin: Arc::clone(origin), store }))))
    }
}

fn key<B>(request: &Request<B>, parties: &Parties) -> Result<Option<SessionKey>, Rejection> {
    // Most heads have fewer fields than the hash of a name costs.
    let mut values = request.headers().iter().filter(|(name, _)| **name == SESSION_ID).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(session), None) => Ok(Some(SessionKey::new(session.as_bytes(), &parties.origin))),
        (Some(_), Some(_)) => Err(Rejection::new(RejectionKind::MalformedRequest).with_reason("two_sessions")),
    }
}

/// Whether the session's owner is the one that asks.
pub(super) fn judge(parties: &Parties, owner: Result<Option<Arc<str>>, StoreUnavailable>) -> Result<(), Rejection> {
    match owner {
        Ok(Some(owner)) if owner == parties.owner => Ok(()),
        Ok(_) => Err(Rejection::new(RejectionKind::Denied).with_reason("session")),
        Err(StoreUnavailable) => {
            let rejection = Rejection::new(RejectionKind::Saturated).with_reason("session_store_unavailable");
            Err(rejection.with_retry_after(std::time::Duration::from_secs(1)))
        }
    }
}

impl<S, B, R> Service<Request<B>> for McpSession<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let decided = self.parties(&request).and_then(|parties| {
            let answer = key(&request, &parties)?.map(|key| parties.store.claim(key, &parties.owner));
            match answer {
                None => Ok((parties, None)),
                Some(Lookup::Ready(owner)) => judge(&parties, owner).map(|()| (parties, None)),
                Some(Lookup::Later(answer)) => Ok((parties, Some(answer))),
            }
        });
        match decided {
            Ok((parties, None)) => ResponseFuture::inner(self.inner.call(request), parties),
            Ok((parties, Some(answer))) => {
                // The one that was polled ready goes with the request; its clone waits for its own turn.
                let next = self.inner.clone();
                let inner = mem::replace(&mut self.inner, next);
                ResponseFuture::asking(answer, Waiting { inner, request, parties })
            }
            Err(rejection) => ResponseFuture::refused(rejection),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for McpSession<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpSession").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, convert::Infallible, sync::Mutex};

    use tower::ServiceExt as _;
    use tower_layer::Layer as _;

    use super::*;
    use crate::{mcp_session::McpSessionLayer, net::Target, reply::probe::Probe, tokens::Principal};

    /// A store in memory, at once or later; or one that is away.
    #[derive(Clone, Default)]
    struct Store {
        bound: Arc<Mutex<HashMap<SessionKey, Arc<str>>>>,
        later: bool,
        away: bool,
    }

    impl SessionStore for Store {
        fn claim(&self, key: SessionKey, owner: &Arc<str>) -> Lookup<Arc<str>> {
            let answer = if self.away {
                Err(StoreUnavailable)
            } else {
                Ok(Some(Arc::clone(self.bound.lock().unwrap().entry(key).or_insert_with(|| Arc::clone(owner)))))
            };
            if !self.later {
                return Lookup::Ready(answer);
            }
            Lookup::Later(Box::pin(async move {
                tokio::task::yield_now().await;
                answer
            }))
        }
    }

    fn request(principal: &str, target: &str, session: &[&str]) -> Request<()> {
        let mut request = Request::post("/");
        for id in session {
            request = request.header(&SESSION_ID, *id);
        }
        let mut request = request.body(()).unwrap();
        let context = RequestContext::of_mut(request.extensions_mut());
        context.set_principal(Principal::new(principal)).set_target(Target::parse(target).unwrap());
        request
    }

    async fn send(store: &Store, principal: &str, target: &str, session: &[&str]) -> (u16, &'static str) {
        let request = request(principal, target, session);
        let inner = tower::service_fn(|request: Request<()>| async move {
            let mut response = Response::new(String::new());
            if request.headers().get(&SESSION_ID).is_none() {
                response.headers_mut().insert(&SESSION_ID, http::HeaderValue::from_static("fresh"));
            }
            Ok::<_, Infallible>(response)
        });
        let response = McpSessionLayer::new(store.clone()).layer(inner).oneshot(request).await.unwrap();
        (response.status().as_u16(), response.extensions().get::<Rejection>().map_or("", Rejection::reason))
    }

    #[tokio::test]
    async fn a_session_belongs_to_the_one_it_was_issued_to() {
        for later in [false, true] {
            let store = Store { later, ..Store::default() };
            let (mine, other) = ("https://a.example/mcp", "https://b.example/mcp");
            assert_eq!(send(&store, "a", mine, &[]).await, (200, ""));
            assert_eq!(send(&store, "a", mine, &["fresh"]).await, (200, ""));
            assert_eq!(send(&store, "b", mine, &["fresh"]).await, (403, "session"));
            assert_eq!(send(&store, "b", other, &["fresh"]).await, (200, ""), "another target's session of the same name");
            assert_eq!(send(&store, "b", mine, &["older than this server"]).await, (200, ""));
            assert_eq!(send(&store, "a", mine, &["older than this server"]).await, (403, "session"));
            assert_eq!(send(&store, "a", mine, &["fresh", "fresh"]).await, (400, "two_sessions"));
        }
    }

    #[tokio::test]
    async fn one_connection_may_be_several_principals_and_ask_several_targets() {
        let mut service = McpSessionLayer::new(Store::default()).layer(Probe::default());
        let (one, other) = ("https://a.example/mcp", "https://b.example/mcp");
        for (principal, target, status) in [
            ("a", one, 200),
            ("a", one, 200),
            ("b", one, 403),
            ("b", other, 200),
            ("a", other, 403),
            ("a", one, 200),
            ("b", one, 403),
        ] {
            let request = request(principal, target, &["s"]);
            let ready = tower::ServiceExt::<Request<()>>::ready(&mut service).await.unwrap();
            let response = ready.call(request).await.unwrap();
            assert_eq!(response.status(), status, "{principal} {target}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_or_away_is_a_refusal() {
        for later in [false, true] {
            let store = Store { later, away: true, ..Store::default() };
            assert_eq!(send(&store, "a", "https://a.example/", &["s"]).await, (503, "session_store_unavailable"));
            assert_eq!(
                send(&store, "a", "https://a.example/", &[]).await,
                (503, "session_store_unavailable"),
                "it could not be bound"
            );
        }
        let service = McpSessionLayer::new(Store::default()).layer(Probe::default());
        assert_eq!(service.oneshot(Request::new(())).await.unwrap().status().as_u16(), 500);
    }

    #[tokio::test]
    async fn the_ready_service_is_the_one_that_is_called() {
        let probe = Probe::default();
        let mut request = Request::post("/").header(&SESSION_ID, "s").body(()).unwrap();
        let context = RequestContext::of_mut(request.extensions_mut());
        context.set_principal(Principal::new("a")).set_target(Target::parse("https://a.example/").unwrap());
        let store = Store { later: true, ..Store::default() };
        assert_eq!(McpSessionLayer::new(store).layer(probe.handle()).oneshot(request).await.unwrap().status().as_u16(), 200);
        assert!(probe.last().is_some());
    }
}
