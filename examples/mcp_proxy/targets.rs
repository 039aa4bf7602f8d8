//! Where the hot routes name their target.

use http::{HeaderValue, Uri, header, request::Parts};
use portcullis::{
    ConfigError,
    net::{Target, TargetError},
    target::{FromHeader, FromQuery, PathPrefix, TargetExtractor, TargetParser},
};

/// `/proxy/<url>`, `/forward` with `X-Target-Url`, `/ws?mcp_server_url=`.
#[derive(Clone, Debug)]
pub struct Routes {
    path: PathPrefix,
    header: FromHeader,
    query: FromQuery,
}

impl Routes {
    pub fn new() -> Result<Self, ConfigError> {
        Ok(Self {
            path: PathPrefix::new("/proxy/")?,
            header: FromHeader::new("x-target-url")?,
            query: FromQuery::new("mcp_server_url"),
        })
    }
}

impl TargetExtractor for Routes {
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError> {
        match request.uri.path() {
            "/forward" => self.header.extract(request, parser),
            "/ws" => {
                target_token(request)?;
                self.query.extract(request, parser)
            }
            _ => self.path.extract(request, parser),
        }
    }

    fn extract_from_uri(&self, uri: &Uri, parser: &TargetParser) -> Option<Result<Target, TargetError>> {
        match uri.path() {
            "/forward" | "/ws" => None,
            _ => self.path.extract_from_uri(uri, parser),
        }
    }
}

/// `mcp_token` of a WebSocket is the target's credential.
fn target_token(request: &mut Parts) -> Result<(), TargetError> {
    let Some(query) = request.uri.query() else { return Ok(()) };
    let mut tokens = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "mcp_token");
    let Some((_, token)) = tokens.next() else { return Ok(()) };
    if tokens.next().is_some() {
        return Err(TargetError::Duplicate);
    }
    if token.is_empty() {
        return Ok(());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| TargetError::ControlCharacter)?;
    value.set_sensitive(true);
    request.headers.insert(header::AUTHORIZATION, value);
    Ok(())
}
