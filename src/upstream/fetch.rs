//! The guarded client by itself: URLs in, responses out, redirects only where they are asked for.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri, header};

use super::{Body, Error, ErrorKind, USER_AGENT, Upstream, UpstreamBody};
use crate::net::{Target, TargetError};

/// Whether redirects are followed by [`Upstream::fetch`], and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirects {
    limit: usize,
    kept: Vec<HeaderName>,
}

impl Redirects {
    /// Redirects are returned as they are. The default.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Up to `limit` hops are followed, each judged like a new URL. Never from `https` to `http`. `303`, and `301` or `302` after
    /// a `POST`, become a `GET` without a body; `307` and `308` are followed only for requests without a body, because the body of
    /// a stream is gone (RFC 9110 §15.4).
    #[must_use]
    pub fn follow(limit: usize) -> Self {
        Self { limit, kept: Vec::new() }
    }

    /// Further fields that go along when the origin is left. Without this, only content negotiation, `Range`, `User-Agent` and what
    /// describes a body that goes along do: a list of what to drop would miss the next API key's name.
    #[must_use]
    pub fn keep_on_leaving(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.kept.extend(names);
        self
    }

    fn leave(&self, headers: &mut HeaderMap) {
        const HARMLESS: &[HeaderName] = &[
            header::ACCEPT,
            header::ACCEPT_CHARSET,
            header::ACCEPT_ENCODING,
            header::ACCEPT_LANGUAGE,
            header::RANGE,
            header::USER_AGENT,
            header::CONTENT_TYPE,
            header::CONTENT_LENGTH,
            header::CONTENT_ENCODING,
            header::CONTENT_LANGUAGE,
        ];
        let left = std::mem::take(headers);
        let mut name = None;
        for (next, value) in left {
            name = next.or(name);
            if let Some(name) = name.as_ref().filter(|n| HARMLESS.contains(n) || self.kept.contains(n)) {
                headers.append(name, value);
            }
        }
    }
}

impl Upstream {
    /// Fetches an absolute URL through the guard: the request's URI is parsed once, judged by the policy in force, resolved and
    /// dialled by the guard.
    ///
    /// # Errors
    /// [`Error::is_denied`] where the policy refuses a hop, [`Error`] for everything else that fails.
    pub async fn fetch(&self, request: Request<Body>, redirects: &Redirects) -> Result<Response<UpstreamBody>, Error> {
        let (mut parts, mut body) = request.into_parts();
        parts.headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
        for name in [header::CONNECTION, header::UPGRADE, header::TE, header::TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let mut target = parse(&parts.uri.to_string())?;
        let mut hops = 0;
        loop {
            // A policy that was swapped meanwhile applies from the next hop on.
            let permit = self.policy().load().permit(&target)?;
            let replayable = body.is_empty();
            let mut next = Request::new(std::mem::replace(&mut body, Body::empty()));
            *next.method_mut() = parts.method.clone();
            *next.uri_mut() = Uri::from(target.path_and_query().clone());
            *next.headers_mut() = parts.headers.clone();
            let (mut response, info) = self.send(&permit, None, next).await?;
            let Some(location) = redirect(&response).filter(|_| redirects.limit > 0) else {
                response.extensions_mut().insert(info);
                return Ok(response);
            };
            if hops == redirects.limit {
                return Err(Error::new(ErrorKind::Redirects).with_detail("too many redirects"));
            }
            hops += 1;
            let status = response.status();
            let leaving = resolve(&target, &location)?;
            if target.scheme().is_secure() && !leaving.scheme().is_secure() {
                return Err(Error::new(ErrorKind::Redirects).with_detail("from https to http"));
            }
            if leaving.scheme().is_websocket() {
                return Err(Error::new(ErrorKind::Redirects).with_detail("to a WebSocket"));
            }
            let to_get = status == StatusCode::SEE_OTHER
                || (matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND) && parts.method == Method::POST);
            if to_get && parts.method != Method::HEAD {
                parts.method = Method::GET;
            } else if !replayable {
                response.extensions_mut().insert(info);
                return Ok(response);
            }
            if to_get || !replayable {
                drop_content(&mut parts.headers);
            }
            if leaving.origin() != target.origin() {
                redirects.leave(&mut parts.headers);
            }
            target = leaving;
        }
    }

    /// The longest silence that [`Upstream::fetch`] bears in a body; see [`UpstreamBody::set_idle_timeout`] for one response.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        self.0.idle
    }
}

fn parse(url: &str) -> Result<Target, Error> {
    Target::parse(url).map_err(malformed)
}

fn malformed(error: TargetError) -> Error {
    Error::new(ErrorKind::MalformedTarget).with_detail(error.to_string())
}

fn redirect(response: &Response<UpstreamBody>) -> Option<Box<str>> {
    use StatusCode as S;
    if !matches!(
        response.status(),
        S::MOVED_PERMANENTLY | S::FOUND | S::SEE_OTHER | S::TEMPORARY_REDIRECT | S::PERMANENT_REDIRECT
    ) {
        return None;
    }
    response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).map(Into::into)
}

/// Resolves a `Location` against the target (RFC 3986 §5). A fragment is the reader's, not the server's.
fn resolve(base: &Target, location: &str) -> Result<Target, Error> {
    let joined =
        url::Url::parse(&base.to_string()).and_then(|base| base.join(location)).map_err(|_| malformed(TargetError::Host))?;
    let text = joined.as_str();
    parse(text.split_once('#').map_or(text, |(before, _)| before))
}

fn drop_content(headers: &mut HeaderMap) {
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LOCATION,
        header::EXPECT,
    ] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_and_lose_their_fragment() {
        let base = Target::parse("https://a.example.com/x/y?q").unwrap();
        for (location, want) in [
            ("../z", "https://a.example.com/z"),
            ("//b.example.com/#f", "https://b.example.com/"),
            ("http://127.1/", "http://127.0.0.1/"),
            ("?p", "https://a.example.com/x/y?p"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), want);
        }
        assert!(resolve(&base, "ftp://example.com/").is_err());
        assert!(resolve(&base, "http://u@example.com/").is_err());
    }
}
