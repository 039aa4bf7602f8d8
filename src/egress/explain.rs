//! What the policy thinks of a URL, rule by rule, for the operator.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    denial::{Denial, DenialReason},
    policy::{EgressPolicy, LOCALHOST, Resolution, Trace},
};
use crate::net::{Target, TargetError};

/// One rule that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    rule: &'static str,
    refused: bool,
    detail: Box<str>,
}

impl Step {
    /// The rule's name: `parse`, `scheme`, `port`, `deny_hosts`, `allow_hosts`, `name`, `keyword`, `answers`, `listener`,
    /// `deny_cidrs`, `exception` or `address`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// Whether it refused.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.refused
    }

    /// What it saw.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Malformed(TargetError),
    Denied(DenialReason),
    /// Allowed so far; the name has to be looked up.
    AskDns,
    Allowed(Vec<SocketAddr>),
}

/// Every rule that was asked and the one that decided. It names addresses: never show it to a client.
#[derive(Clone, Debug)]
pub struct Explanation {
    target: Option<Target>,
    steps: Vec<Step>,
    verdict: Verdict,
}

impl Trace for Vec<Step> {
    fn passed(&mut self, rule: &'static str, why: impl FnOnce() -> String) {
        self.push(Step { rule, refused: false, detail: why().into() });
    }

    fn refused(&mut self, rule: &'static str, denial: &Denial) {
        self.push(Step { rule, refused: true, detail: denial.detail().into() });
    }
}

impl Explanation {
    pub(super) fn of(policy: &EgressPolicy, url: &str, answers: Option<&[IpAddr]>) -> Self {
        let mut steps = Vec::new();
        let target = match Target::parse(url) {
            Ok(target) => target,
            Err(error) => {
                steps.push(Step { rule: "parse", refused: true, detail: error.to_string().into() });
                return Self { target: None, steps, verdict: Verdict::Malformed(error) };
            }
        };
        steps.passed("parse", || target.origin().to_string());
        let verdict = match decide(policy, &target, answers, &mut steps) {
            Ok(verdict) => verdict,
            Err(denial) => Verdict::Denied(denial.reason()),
        };
        Self { target: Some(target), steps, verdict }
    }

    /// What the URL was read as, if it is one.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Every rule that was asked, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step that decided: the refusal, or the last one asked.
    #[must_use]
    pub fn deciding(&self) -> Option<&Step> {
        self.steps.iter().find(|s| s.refused && self.is_refused()).or(self.steps.last())
    }

    /// Whether the target would be dialled, or at least asked of DNS.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        !self.is_refused()
    }

    fn is_refused(&self) -> bool {
        matches!(self.verdict, Verdict::Malformed(_) | Verdict::Denied(_))
    }

    /// Whether the answer still depends on a look-up.
    #[must_use]
    pub fn needs_dns(&self) -> bool {
        self.verdict == Verdict::AskDns
    }

    /// Why not: a reason of [`DenialReason`], or `invalid` for text that is no target.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match &self.verdict {
            Verdict::Malformed(_) => Some("invalid"),
            Verdict::Denied(reason) => Some(reason.as_str()),
            Verdict::AskDns | Verdict::Allowed(_) => None,
        }
    }

    /// The addresses that would be dialled.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        match &self.verdict {
            Verdict::Allowed(addrs) => addrs,
            _ => &[],
        }
    }
}

fn decide(policy: &EgressPolicy, target: &Target, answers: Option<&[IpAddr]>, steps: &mut Vec<Step>) -> Result<Verdict, Denial> {
    let origin = target.origin();
    policy.check_origin(origin, steps)?;
    let approved = match (EgressPolicy::resolution(origin.host()), answers) {
        (Resolution::Literal(ip), _) => {
            // Judged above already; once more without a trace, for the address that is dialled.
            policy.judge(origin, &[ip], &mut ())?
        }
        (Resolution::Localhost, _) => policy.judge(origin, &LOCALHOST, steps)?,
        (Resolution::Dns(_), Some(answers)) => policy.judge(origin, answers, steps)?,
        (Resolution::Dns(_), None) => return Ok(Verdict::AskDns),
    };
    Ok(Verdict::Allowed(approved.as_slice().to_vec()))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let mark = if step.refused { "no" } else { "ok" };
            writeln!(f, "  {mark}  {:<11} {}", step.rule, step.detail)?;
        }
        match (&self.verdict, self.reason()) {
            (_, Some(reason)) => write!(f, "=> refused: {reason}"),
            (Verdict::AskDns, _) => f.write_str("=> allowed if every answer of DNS is"),
            _ => {
                f.write_str("=> allowed:")?;
                self.addresses().iter().try_for_each(|addr| write!(f, " {addr}"))
            }
        }
    }
}
