//! The service and the conversation that it keeps.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use serde_json::{Map, Value, json};
use tower_service::Service;

use super::{
    body::{EnvelopeBody, ReadError, read},
    call::{Caller, Manner, Reply, client_info, own_version},
    sessions::{Key, Mode, Session, Sessions, Slot},
};
use crate::{
    body::ResponseBody,
    clock::{Clock, SystemClock},
    context::{McpCall, RequestContext},
    mcp_wire::{self, Envelope, SESSION_REVISION, STATELESS_REVISION, error_body, is_json},
    rejection::{self, Rejection, RejectionKind},
};

type Answer = Response<ResponseBody<EnvelopeBody>>;

/// Answers `POST /proxy`; see the [module's rules](super).
#[derive(Clone, Debug)]
pub struct EnvelopeService<S> {
    inner: S,
    max: MaxBodies,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, Debug)]
struct MaxBodies {
    request: usize,
    response: usize,
}

#[derive(Debug)]
struct Shared {
    sessions: Sessions,
    clock: Arc<dyn Clock>,
    ids: AtomicU64,
    serials: AtomicU64,
}

impl<S> EnvelopeService<S> {
    /// `inner` is the guarded stack from the scopes on: it takes requests whose context has principal and target.
    ///
    /// Requests may have 4 MiB, answers 16 MiB; 10,000 sessions are kept, each for an hour after its last use.
    #[must_use]
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            max: MaxBodies { request: 4 << 20, response: 16 << 20 },
            shared: Arc::new(Shared {
                sessions: Sessions::new(10_000, Duration::from_secs(3600)),
                clock: Arc::new(SystemClock),
                ids: AtomicU64::new(0),
                serials: AtomicU64::new(0),
            }),
        }
    }

    /// Most bytes of a request body (413) and of an answer or one event of it (502).
    #[must_use]
    pub fn max_bodies(mut self, request: usize, response: usize) -> Self {
        self.max = MaxBodies { request, response };
        self
    }

    /// The same service over another inner one: it goes on with the sessions that are open. For a stack that is built anew while
    /// its server runs.
    #[must_use]
    pub fn with_inner<T>(&self, inner: T) -> EnvelopeService<T> {
        EnvelopeService { inner, max: self.max, shared: Arc::clone(&self.shared) }
    }

    /// How many sessions are kept, and how long without use. The longest unused makes room.
    #[must_use]
    pub fn sessions(self, capacity: usize, idle: Duration) -> Self {
        self.with(|shared| shared.sessions = Sessions::new(capacity, idle))
    }

    /// Another clock for the sessions' idle time.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.with(|shared| shared.clock = Arc::new(clock))
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        // Only a service that has been cloned already shares this, and a builder's has not.
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            change(shared);
        }
        self
    }
}

impl<S, B, RB> Service<Request<B>> for EnvelopeService<S>
where
    S: Service<Request<EnvelopeBody>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes> + Send,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = EnvelopeFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let (shared, max) = (Arc::clone(&self.shared), self.max);
        EnvelopeFuture { future: Box::pin(async move { answer(&shared, max, inner, request).await }) }
    }
}

/// The future of [`EnvelopeService`]. A conversation has several requests, so that its inside is boxed.
pub struct EnvelopeFuture<E> {
    future: Pin<Box<dyn Future<Output = Result<Answer, E>> + Send>>,
}

impl<E> fmt::Debug for EnvelopeFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeFuture").finish_non_exhaustive()
    }
}

impl<E> Future for EnvelopeFuture<E> {
    type Output = Result<Answer, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

async fn answer<S, B, RB>(shared: &Shared, max: MaxBodies, service: S, request: Request<B>) -> Result<Answer, S::Error>
where
    S: Service<Request<EnvelopeBody>, Response = Response<RB>> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes>,
{
    let (mut parts, body) = request.into_parts();
    let context = parts.extensions.remove::<RequestContext>().unwrap_or_default();
    let (key, envelope) = match open(max.request, &context, &parts, body).await {
        Ok(opened) => opened,
        Err(refusal) => return Ok(refuse(refusal.0, refusal.1.as_ref())),
    };
    note(&context, &envelope);
    let slot = shared.sessions.slot(&key, shared.clock.monotonic());
    let caller = Caller {
        service,
        context,
        target: &envelope.target,
        token: envelope.token.as_ref(),
        ids: &shared.ids,
        max: max.response,
    };
    let mut conversation = Conversation { caller, slot, serials: &shared.serials };
    let reply = conversation.run(&envelope).await?;
    Ok(render(reply, envelope.id))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Refusal = Box<(Rejection, Option<Value>)>;

async fn open<B>(max: usize, context: &RequestContext, parts: &http::request::Parts, body: B) -> Result<(Key, Envelope), Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let fail = |kind, why: &'static str| Box::new((Rejection::new(kind).with_public_detail(why), None));
    let Some(principal) = context.principal() else {
        return Err(Box::new((Rejection::new(RejectionKind::Misconfigured).with_reason("no_principal"), None)));
    };
    if parts.method != Method::POST {
        return Err(Box::new((Rejection::new(RejectionKind::MethodNotAllowed), None)));
    }
    // A form or a text can be posted across origins without asking; JSON cannot.
    if !is_json(parts.headers.get(header::CONTENT_TYPE)) {
        return Err(fail(RejectionKind::MalformedRequest, "the content type is not JSON"));
    }
    let bytes = read(body, max).await.map_err(|error| match error {
        ReadError::TooLarge => Box::new((Rejection::new(RejectionKind::BodyTooLarge), None)),
        ReadError::Broken(error) => match rejection::find_in(error.into().as_ref()) {
            Some(rejection) => Box::new((rejection.clone(), None)),
            None => fail(RejectionKind::MalformedRequest, "the body could not be read"),
        },
    })?;
    let envelope = Envelope::parse(&bytes).map_err(|error| {
        let kind = if error.target { RejectionKind::MalformedTarget } else { RejectionKind::MalformedRequest };
        Box::new((Rejection::new(kind).with_public_detail(error.why), error.id))
    })?;
    let key = Key::new(principal.id(), envelope.target.to_string(), envelope.token.as_ref());
    Ok((key, envelope))
}

fn note(context: &RequestContext, envelope: &Envelope) {
    let Some(record) = context.record() else { return };
    let name = mcp_wire::name_source(&envelope.method).and_then(|source| envelope.params.as_ref()?.get(source)?.as_str());
    let call = McpCall { method: Some((*envelope.method).into()), name: name.map(Into::into), id: envelope.id.clone() };
    record.with(|r| {
        r.target = Some(envelope.target.clone());
        r.mcp = Some(call.into());
    });
}

struct Conversation<'a, S> {
    caller: Caller<'a, S>,
    slot: Slot,
    serials: &'a AtomicU64,
}

impl<S, RB> Conversation<'_, S>
where
    S: Service<Request<EnvelopeBody>, Response = Response<RB>> + Clone,
    RB: Body<Data = Bytes>,
{
    async fn run(&mut self, envelope: &Envelope) -> Result<Reply, S::Error> {
        let (method, params, request) = (&*envelope.method, envelope.params.as_ref(), envelope.id.is_some());
        if let Some(version) = own_version(params) {
            let version = version.to_owned();
            return self.caller.send(method, params, request, &Manner::Stateless(&version)).await;
        }
        match method {
            "initialize" => return self.initialize(params, request).await,
            "server/discover" => return self.caller.send(method, params, request, &Manner::Stateless(STATELESS_REVISION)).await,
            _ => {}
        }
        let mode = match self.opened(method).await? {
            Ok(mode) => mode,
            Err(failed) => return Ok(failed),
        };
        let session = match mode {
            Mode::Stateless(version) => return self.caller.send(method, params, request, &Manner::Stateless(&version)).await,
            Mode::Session(session) => session,
            // `opened` has sent the very notification that opens it.
            Mode::Unknown => return Ok(Reply::Accepted(StatusCode::ACCEPTED)),
        };
        let reply = self.caller.send(method, params, request, &Manner::Session(&session)).await?;
        if session.id.is_none() || matches!(reply, Reply::Rejected(_)) {
            return Ok(reply);
        }
        match reply.status() {
            StatusCode::NOT_FOUND => {}
            // Some servers answer 400 where the revision says 404; whether the message was looked at is not certain, so that it
            // is not sent again, but the next one opens a new session.
            StatusCode::BAD_REQUEST => {
                self.forget(&session).await;
                return Ok(reply);
            }
            _ => return Ok(reply),
        }
        self.forget(&session).await;
        match self.opened(method).await? {
            Ok(Mode::Session(session)) => self.caller.send(method, params, request, &Manner::Session(&session)).await,
            Ok(Mode::Stateless(version)) => self.caller.send(method, params, request, &Manner::Stateless(&version)).await,
            Ok(Mode::Unknown) => Ok(Reply::Accepted(StatusCode::ACCEPTED)),
            Err(failed) => Ok(failed),
        }
    }

    /// The caller's own `initialize`: passed on; the session is kept.
    async fn initialize(&mut self, params: Option<&Value>, request: bool) -> Result<Reply, S::Error> {
        let slot = Arc::clone(&self.slot);
        let mut mode = slot.lock().await;
        let reply = self.caller.send("initialize", params, request, &Manner::Opening).await?;
        if let Some(session) = self.session_of(&reply) {
            *mode = Mode::Session(session);
        }
        Ok(reply)
    }

    /// The conversation, opened now if it is not yet; or what the server said to the attempt. For the notification that opens a
    /// session the caller's own counts as ours: the answer is then [`Mode::Unknown`], nothing is left to send.
    async fn opened(&mut self, method: &str) -> Result<Result<Mode, Reply>, S::Error> {
        let slot = Arc::clone(&self.slot);
        let mut mode = slot.lock().await;
        if matches!(*mode, Mode::Unknown) {
            match self.open().await? {
                Ok(opened) => *mode = opened,
                Err(failed) => return Ok(Err(failed)),
            }
        }
        if let Mode::Session(session) = &mut *mode {
            let announce = !session.initialized;
            if announce {
                let reply = self.caller.send("notifications/initialized", None, false, &Manner::Session(session)).await?;
                if matches!(reply, Reply::Rejected(_)) {
                    return Ok(Err(reply));
                }
                session.initialized = true;
            }
            if method == "notifications/initialized" {
                return Ok(Ok(Mode::Unknown));
            }
        }
        Ok(Ok(mode.clone()))
    }

    async fn open(&mut self) -> Result<Result<Mode, Reply>, S::Error> {
        let params = json!({"protocolVersion": SESSION_REVISION, "capabilities": {}, "clientInfo": client_info()});
        let reply = self.caller.send("initialize", Some(&params), true, &Manner::Opening).await?;
        if let Some(session) = self.session_of(&reply) {
            return Ok(Ok(Mode::Session(session)));
        }
        if !may_be_stateless(&reply) {
            return Ok(Err(reply));
        }
        let discovered = self.caller.send("server/discover", None, true, &Manner::Stateless(STATELESS_REVISION)).await?;
        match discovered.result() {
            Some(result) => Ok(Ok(Mode::Stateless(version_of(result).into()))),
            // What the server said to the usual opening tells more.
            None => Ok(Err(reply)),
        }
    }

    fn session_of(&self, reply: &Reply) -> Option<Session> {
        let Reply::Message { headers, .. } = reply else { return None };
        let version = reply.result()?.get("protocolVersion").and_then(Value::as_str);
        Some(Session {
            serial: self.serials.fetch_add(1, Ordering::Relaxed),
            id: headers.get(mcp_wire::SESSION_ID).cloned(),
            version: version.and_then(|v| HeaderValue::from_str(v).ok()),
            initialized: false,
        })
    }

    async fn forget(&mut self, session: &Session) {
        let mut mode = self.slot.lock().await;
        if matches!(&*mode, Mode::Session(current) if current.serial == session.serial) {
            *mode = Mode::Unknown;
        }
    }
}

/// Whether a failed `initialize` may come from a server that has none.
fn may_be_stateless(reply: &Reply) -> bool {
    match reply {
        Reply::Message { .. } | Reply::Failed { .. } => {
            let status = reply.status();
            status.is_success() || (status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 429))
        }
        Reply::Accepted(_) | Reply::Rejected(_) => false,
    }
}

fn version_of(discovered: &Value) -> &str {
    let versions = discovered.get("supportedVersions").and_then(Value::as_array);
    let mut names = versions.into_iter().flatten().filter_map(Value::as_str);
    let first = names.clone().find(|v| *v >= STATELESS_REVISION);
    if names.any(|v| v == STATELESS_REVISION) { STATELESS_REVISION } else { first.unwrap_or(STATELESS_REVISION) }
}

/// The answer to the caller.
fn render(reply: Reply, id: Option<Value>) -> Answer {
    match reply {
        Reply::Message { status, headers, mut message } => {
            message.insert("id".into(), id.unwrap_or_default());
            json_answer(own_status(status), &headers, message)
        }
        Reply::Accepted(_) if id.is_none() => {
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
        Reply::Accepted(status) => refuse(unanswered(status), id.as_ref()),
        Reply::Failed { status, headers } => {
            let mut response = refuse(unanswered(status), id.as_ref());
            keep_retry_after(&headers, response.headers_mut());
            response
        }
        Reply::Rejected(rejection) => {
            let (rejection, headers) = *rejection;
            let mut response = refuse(rejection, id.as_ref());
            for (name, value) in &headers {
                if !response.headers().contains_key(name) && !matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
                {
                    response.headers_mut().append(name, value.clone());
                }
            }
            response
        }
    }
}

fn unanswered(status: StatusCode) -> Rejection {
    Rejection::new(RejectionKind::BadResponse)
        .with_reason("no_json_rpc_answer")
        .with_public_detail(format!("the target answered with status {} and no JSON-RPC message", status.as_u16()))
}

/// 401 and 407 would be about our own token.
fn own_status(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => StatusCode::BAD_GATEWAY,
        status if status.is_success() => StatusCode::OK,
        status if status.is_client_error() || status.is_server_error() => status,
        _ => StatusCode::BAD_GATEWAY,
    }
}

fn json_answer(status: StatusCode, from: &HeaderMap, message: Map<String, Value>) -> Answer {
    let mut response = Response::new(ResponseBody::full(Value::Object(message).to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    keep_retry_after(from, headers);
    response
}

fn keep_retry_after(from: &HeaderMap, to: &mut HeaderMap) {
    if let Some(value) = from.get(header::RETRY_AFTER) {
        to.insert(header::RETRY_AFTER, value.clone());
    }
}

fn refuse(rejection: Rejection, id: Option<&Value>) -> Answer {
    let mut response = Response::new(ResponseBody::full(error_body(&rejection, id)));
    rejection.apply(&mut response);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
