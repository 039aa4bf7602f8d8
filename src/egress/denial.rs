//! Why the guard says no.

use std::fmt;

use crate::rejection::{Rejection, RejectionKind};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $word:literal;)*) => {
        /// Why a target or an answer is refused: stable `snake_case` words for audit, metrics and machines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DenialReason { $($(#[$doc])* $name,)* }

        impl DenialReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $word,)* } }
        }
    };
}

reasons! {
    /// `scheme`: not TLS although the policy asks for it.
    Scheme "scheme";
    /// `port`: neither the policy nor an exception opens it, or it is one of the Fetch standard's bad ports.
    Port "port";
    /// `name`: a special-use name, a single label, or a name that only exists inside networks.
    Name "name";
    /// `keyword`: the coarse keyword rule.
    Keyword "keyword";
    /// `denied_host`: on the list of denied hosts.
    DeniedHost "denied_host";
    /// `not_listed`: there is an allow-list and the host is not on it.
    NotListed "not_listed";
    /// `address`: the literal, or one of the answers, is not globally reachable and no exception covers it.
    Address "address";
    /// `denied_address`: the literal, or one of the answers, lies in a denied network.
    DeniedAddress "denied_address";
    /// `listener`: one of the server's own listening addresses.
    Listener "listener";
    /// `no_such_name`: the name does not exist or has no address.
    NoSuchName "no_such_name";
    /// `peer`: the connection that the dialer returned leads somewhere else than where it was told to go.
    Peer "peer";
    /// `permit`: an answer that does not belong to the permit, such as another address than the literal.
    Permit "permit";
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal by the guard. Its text is for the operator; the client sees one constant answer for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    reason: DenialReason,
    detail: Box<str>,
}

impl Denial {
    /// A refusal and its detail for the operator.
    #[must_use]
    pub fn new(reason: DenialReason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> DenialReason {
        self.reason
    }

    /// More for the operator: addresses may be in it.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The answer for the client.
    #[must_use]
    pub fn into_rejection(self) -> Rejection {
        let error = match self.reason {
            DenialReason::Address | DenialReason::DeniedAddress | DenialReason::Listener | DenialReason::Peer => {
                "destination_ip_prohibited"
            }
            DenialReason::NoSuchName => "dns_error",
            _ => "http_request_denied",
        };
        Rejection::new(RejectionKind::Denied).with_reason(self.reason.as_str()).with_proxy_status(error).with_detail(self.detail)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Denial {}

impl From<Denial> for Rejection {
    fn from(denial: Denial) -> Self {
        denial.into_rejection()
    }
}
