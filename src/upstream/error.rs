//! What can go wrong between here and a target's answer.

use std::fmt;

use crate::{
    connect::ConnectError,
    rejection::{Rejection, RejectionKind},
};

/// A request that got no response, or a response body that broke off.
///
/// The wording is for the operator and not stable. [`Error::into_rejection`] gives the status and what the client may know.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    detail: Option<Box<str>>,
    connect: Option<ConnectError>,
    rejection: Option<Rejection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    Denied,
    MalformedTarget,
    RequestTooLarge,
    RequestBroken,
    Terminated,
    Incomplete,
    BadResponse,
    HeadTooLarge,
    HeadTimeout,
    Idle,
    Redirects,
    UpgradeFailed,
}

impl Error {
    #[cold]
    pub(crate) fn new(kind: Kind) -> Self {
        Self(Box::new(Inner { kind, detail: None, connect: None, rejection: None }))
    }

    /// The request body failed with an answer of its own.
    pub(crate) fn rejected(rejection: Rejection) -> Self {
        let mut error = Self::new(Kind::RequestBroken);
        error.0.rejection = Some(rejection);
        error
    }

    pub(crate) fn with_detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn from_hyper(error: &hyper::Error) -> Self {
        let kind = if error.is_parse_too_large() {
            Kind::HeadTooLarge
        } else if error.is_parse() || error.is_parse_status() {
            Kind::BadResponse
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() || error.is_body_write_aborted() {
            Kind::Terminated
        } else if error.is_user() {
            Kind::RequestBroken
        } else {
            Kind::Terminated
        };
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(kind).with_detail(text)
    }

    /// Whether the policy refused the target, or its name does not exist.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.0.kind == Kind::Denied || self.0.connect.as_ref().is_some_and(ConnectError::is_denied)
    }

    /// Whether a time limit was reached.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::HeadTimeout | Kind::Idle) || self.0.connect.as_ref().is_some_and(ConnectError::is_timeout)
    }

    /// Whether no connection could be opened.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.0.kind == Kind::Connect
    }

    /// The answer to give: status, Proxy-Status error, and the detail for the operator.
    #[must_use]
    pub fn into_rejection(self) -> Rejection {
        let inner = *self.0;
        if let Some(connect) = inner.connect {
            return connect.into_rejection();
        }
        if let Some(rejection) = inner.rejection {
            return rejection;
        }
        let kind = match inner.kind {
            Kind::Connect => RejectionKind::ConnectFailed,
            Kind::Denied => RejectionKind::Denied,
            Kind::MalformedTarget => RejectionKind::MalformedTarget,
            Kind::RequestTooLarge => RejectionKind::BodyTooLarge,
            Kind::RequestBroken => RejectionKind::MalformedRequest,
            Kind::Terminated | Kind::Incomplete => RejectionKind::ConnectionTerminated,
            Kind::BadResponse | Kind::Redirects => RejectionKind::BadResponse,
            Kind::HeadTooLarge => RejectionKind::ResponseHeadersTooLarge,
            Kind::HeadTimeout | Kind::Idle => RejectionKind::HeaderTimeout,
            Kind::UpgradeFailed => RejectionKind::UpgradeFailed,
        };
        let rejection = Rejection::new(kind);
        match inner.detail {
            Some(detail) => rejection.with_detail(detail),
            None => rejection,
        }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self(Box::new(Inner { kind: Kind::Connect, detail: None, connect: Some(error), rejection: None }))
    }
}

impl From<crate::egress::Denial> for Error {
    fn from(denial: crate::egress::Denial) -> Self {
        Self::new(Kind::Denied).with_detail(denial.to_string())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("detail", &self.0.detail)
            .field("connect", &self.0.connect)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(connect) = &self.0.connect {
            return connect.fmt(f);
        }
        f.write_str(match self.0.kind {
            Kind::Connect => "no connection to the target",
            Kind::Denied => "the target is not allowed",
            Kind::MalformedTarget => "the target is not a URL that can be fetched",
            Kind::RequestTooLarge => "the request body is larger than the limit",
            Kind::RequestBroken => "the request body broke off",
            Kind::Terminated => "the target closed the connection",
            Kind::Incomplete => "the response is incomplete",
            Kind::BadResponse => "the response is not valid HTTP",
            Kind::HeadTooLarge => "the response's header section is too large",
            Kind::HeadTimeout => "no response header section in time",
            Kind::Idle => "nothing was received for too long",
            Kind::Redirects => "too many or forbidden redirects",
            Kind::UpgradeFailed => "the upgrade failed",
        })?;
        if let Some(detail) = &self.0.detail { write!(f, ": {detail}") } else { Ok(()) }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.connect.as_ref().map(|e| e as _)
    }
}
