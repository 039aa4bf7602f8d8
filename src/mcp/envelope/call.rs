//! One message to a server, and its answer.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use serde_json::{Map, Value, json};
use tower_service::Service;

use super::{
    body::{EnvelopeBody, ReadError, read},
    sessions::Session,
};
use crate::{
    Secret,
    context::{McpCall, RequestContext},
    mcp_wire::{self, SseParser, is_event_stream, is_json},
    net::{Target, TargetStyle},
    rejection::{Rejection, RejectionKind},
};

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// What came back.
pub(super) enum Reply {
    /// The JSON-RPC response.
    Message { status: StatusCode, headers: HeaderMap, message: Map<String, Value> },
    /// A success without a message.
    Accepted(StatusCode),
    /// A failure without a message.
    Failed { status: StatusCode, headers: HeaderMap },
    /// A refusal of the stack, or of this service.
    Rejected(Box<(Rejection, HeaderMap)>),
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Message { status, .. } | Self::Accepted(status) | Self::Failed { status, .. } => *status,
            Self::Rejected(rejection) => rejection.0.status(),
        }
    }

    pub(super) fn result(&self) -> Option<&Value> {
        match self {
            Self::Message { message, .. } => message.get("result"),
            _ => None,
        }
    }

    fn rejected(rejection: Rejection) -> Self {
        Self::Rejected(Box::new((rejection, HeaderMap::new())))
    }
}

/// In which revision's manner a message is sent.
pub(super) enum Manner<'a> {
    /// The first message of a session.
    Opening,
    /// Within a session.
    Session(&'a Session),
    /// Each message for itself; the version goes into fields and `_meta`.
    Stateless(&'a str),
}

/// The stack with everything that stays the same for the messages of one envelope.
pub(super) struct Caller<'a, S> {
    pub(super) service: S,
    pub(super) context: RequestContext,
    pub(super) target: &'a Target,
    pub(super) token: Option<&'a Secret>,
    pub(super) ids: &'a AtomicU64,
    pub(super) max: usize,
}

/// The version that a caller writes into `_meta` itself.
pub(super) fn own_version(params: Option<&Value>) -> Option<&str> {
    params?.get("_meta")?.get(META_VERSION)?.as_str()
}

pub(super) fn client_info() -> Value {
    json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")})
}

impl<S, RB> Caller<'_, S>
where
    S: Service<Request<EnvelopeBody>, Response = Response<RB>> + Clone,
    RB: Body<Data = Bytes>,
{
    /// Sends one message and reads its answer. A notification has `request` false.
    pub(super) async fn send(
        &mut self,
        method: &str,
        params: Option<&Value>,
        request: bool,
        manner: &Manner<'_>,
    ) -> Result<Reply, S::Error> {
        let id = request.then(|| self.ids.fetch_add(1, Ordering::Relaxed) + 1);
        let http_request = match self.request(method, params, id, manner) {
            Ok(http_request) => http_request,
            Err(rejection) => return Ok(Reply::rejected(*rejection)),
        };
        // A second message of the same envelope needs a service that is ready again.
        poll_fn(|cx| self.service.poll_ready(cx)).await?;
        let response = self.service.call(http_request).await?;
        Ok(reply(response, id, self.max).await)
    }

    fn request(
        &self,
        method: &str,
        params: Option<&Value>,
        id: Option<u64>,
        manner: &Manner<'_>,
    ) -> Result<Request<EnvelopeBody>, Box<Rejection>> {
        let malformed = |what: &'static str| Box::new(Rejection::new(RejectionKind::MalformedRequest).with_public_detail(what));
        let mut params = params.cloned();
        if let Manner::Stateless(version) = manner {
            add_meta(&mut params, version);
        }
        let name = mcp_wire::name_source(method).and_then(|source| params.as_ref()?.get(source)?.as_str());
        let mut request = Request::new(EnvelopeBody::default());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(self.target.path_and_query().clone());
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(token) = self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| malformed("mcp_token"))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        match manner {
            Manner::Opening => {}
            Manner::Session(session) => {
                if let Some(id) = &session.id {
                    headers.insert(mcp_wire::SESSION_ID, id.clone());
                }
                if let Some(version) = &session.version {
                    headers.insert(mcp_wire::PROTOCOL_VERSION, version.clone());
                }
            }
            Manner::Stateless(version) => {
                let version = HeaderValue::from_str(version).map_err(|_| malformed("the protocol version is not valid"))?;
                headers.insert(mcp_wire::PROTOCOL_VERSION, version);
                let method = HeaderValue::from_str(method).map_err(|_| malformed("the method is not valid"))?;
                headers.insert(mcp_wire::METHOD, method);
                if let Some(name) = name {
                    headers
                        .insert(mcp_wire::NAME, mcp_wire::header_text(name).ok_or_else(|| malformed("the name is not valid"))?);
                }
            }
        }
        let call = McpCall { method: Some(method.into()), name: name.map(Into::into), id: id.map(Value::from) };
        let mut context = self.context.clone();
        context.set_target(self.target.clone().with_style(TargetStyle::Header)).set_mcp(call);
        request.extensions_mut().insert(context);
        let mut message = Map::new();
        message.insert("jsonrpc".into(), "2.0".into());
        if let Some(id) = id {
            message.insert("id".into(), id.into());
        }
        message.insert("method".into(), method.into());
        if let Some(params) = params {
            message.insert("params".into(), params);
        }
        *request.body_mut() = Bytes::from(Value::Object(message).to_string()).into();
        Ok(request)
    }
}

async fn reply<RB: Body<Data = Bytes>>(mut response: Response<RB>, id: Option<u64>, max: usize) -> Reply {
    if let Some(rejection) = response.extensions_mut().remove::<Rejection>() {
        return Reply::Rejected(Box::new((rejection, response.headers().clone())));
    }
    let (parts, body) = response.into_parts();
    let (status, headers) = (parts.status, parts.headers);
    let content_type = headers.get(header::CONTENT_TYPE);
    let message = if is_event_stream(content_type) {
        match id {
            Some(id) => from_stream(body, id, max).await,
            None => Ok(None),
        }
    } else if is_json(content_type) && !matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
        match read(body, max).await {
            Ok(bytes) => Ok(from_json(&bytes, id)),
            Err(ReadError::TooLarge) => Err(Rejection::new(RejectionKind::ResponseTooLarge)),
            Err(ReadError::Broken(_)) => Err(Rejection::new(RejectionKind::ConnectionTerminated)),
        }
    } else {
        Ok(None)
    };
    match message {
        Err(rejection) => Reply::rejected(rejection),
        Ok(Some(message)) => Reply::Message { status, headers, message },
        Ok(None) if status.is_success() => Reply::Accepted(status),
        Ok(None) => Reply::Failed { status, headers },
    }
}

/// Reads events up to the answer. What the server asks or tells in between is skipped.
async fn from_stream<RB: Body<Data = Bytes>>(body: RB, id: u64, max: usize) -> Result<Option<Map<String, Value>>, Rejection> {
    let mut body = pin!(body);
    let mut parser = SseParser::new(max);
    let mut found = None;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| Rejection::new(RejectionKind::ConnectionTerminated))?;
        let Ok(data) = frame.into_data() else { continue };
        let pushed = parser.push(&data, |event| {
            if found.is_none() {
                found = from_json(event.data.as_bytes(), Some(id));
            }
        });
        if found.is_some() {
            return Ok(found);
        }
        pushed.map_err(|_| Rejection::new(RejectionKind::ResponseTooLarge))?;
    }
    Err(Rejection::new(RejectionKind::ConnectionTerminated).with_reason("stream_without_answer"))
}

/// The response to `id` in a document: the document itself or, in a batch, one of its members. An error without an id counts.
fn from_json(bytes: &[u8], id: Option<u64>) -> Option<Map<String, Value>> {
    let fits = |message: &Map<String, Value>| {
        let error = message.get("error").is_some_and(Value::is_object);
        match message.get("id") {
            Some(Value::Number(n)) => id.is_some() && n.as_u64() == id && (error || message.contains_key("result")),
            None | Some(Value::Null) => error,
            Some(_) => false,
        }
    };
    match serde_json::from_slice(bytes).ok()? {
        Value::Object(message) => fits(&message).then_some(message),
        Value::Array(messages) => messages.into_iter().find_map(|m| match m {
            Value::Object(message) if fits(&message) => Some(message),
            _ => None,
        }),
        _ => None,
    }
}

fn add_meta(params: &mut Option<Value>, version: &str) {
    let Value::Object(params) = params.get_or_insert_with(|| json!({})) else { return };
    let meta = params.entry("_meta").or_insert_with(|| json!({}));
    let Value::Object(meta) = meta else { return };
    meta.entry(META_VERSION).or_insert_with(|| version.into());
    meta.entry(META_CLIENT).or_insert_with(client_info);
    meta.entry(META_CAPABILITIES).or_insert_with(|| json!({}));
}
