//! Every rule that a URL meets, in the order in which the server asks.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::time::Instant;

use portcullis::{
    connect::{ConnectError, GuardedConnector, RecordingDialer},
    egress::{Explanation, PolicyHandle},
    net::Name,
    resolve::{Resolve, Resolving},
    tokens::Principal,
};
use serde_json::{Value, json};

use crate::config::{Config, Invalid};

tokio::task_local! {
    /// What the resolver has answered in this explanation.
    static SEEN: RefCell<Option<Vec<IpAddr>>>;
}

/// The server's resolver, and a note of what it answers: an explanation is of one look-up, not of two.
#[derive(Debug)]
struct Noting(Box<dyn Resolve>);

impl Resolve for Noting {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        Box::pin(async move {
            let answers = self.0.resolve(name).await;
            let _ = SEEN.try_with(|seen| seen.replace(answers.as_ref().ok().map(|a| a.addrs().to_vec())));
            answers
        })
    }
}

/// Policy, resolve step and connector as the server has them; nothing is dialled.
#[derive(Clone)]
pub struct Explainer {
    policy: PolicyHandle,
    connector: Arc<GuardedConnector>,
}

impl Explainer {
    pub fn new(config: &Config, policy: PolicyHandle) -> Result<Self, Invalid> {
        let resolver = config.file.dns.resolver().map_err(|e| Invalid::at("dns", e))?;
        let connector = GuardedConnector::builder().resolver(Noting(Box::new(resolver))).dialer(RecordingDialer::default());
        Ok(Self { policy, connector: Arc::new(connector.build().map_err(|e| Invalid::at("connector", e))?) })
    }

    /// The decision, and whether the scopes of the one who asks would let this target through.
    pub async fn explain(&self, url: &str, principal: &Principal) -> Value {
        let generation = self.policy.load();
        let policy = generation.policy();
        let first = policy.explain(url);
        let in_scope = first.target().map(|target| principal.scopes().allows_target(target));
        let Some(Ok(permit)) = first.target().map(|target| generation.permit(target)) else {
            return answer(url, &first, in_scope, &Looked::default());
        };
        let asked = Instant::now();
        let (planned, answers) = SEEN
            .scope(RefCell::default(), async {
                let planned = self.connector.plan(&permit).await;
                (planned, SEEN.with(RefCell::take))
            })
            .await;
        let mut looked = Looked { asked: first.needs_dns(), millis: asked.elapsed().as_secs_f64() * 1000.0, ..Looked::default() };
        match planned {
            Ok(addrs) => looked.addrs = addrs,
            Err(error) if error.is_dns() => looked.failed = Some(error),
            // A denial of the answers: the rules tell it below.
            Err(_) => {}
        }
        if looked.failed.is_some() || !looked.asked {
            return answer(url, &first, in_scope, &looked);
        }
        // A name without answers does not exist, which is a denial like the others.
        looked.answers = answers.unwrap_or_default();
        answer(url, &policy.explain_with_answers(url, &looked.answers), in_scope, &looked)
    }
}

/// What the look-up has added.
#[derive(Default)]
struct Looked {
    asked: bool,
    millis: f64,
    answers: Vec<IpAddr>,
    addrs: Vec<SocketAddr>,
    failed: Option<ConnectError>,
}

fn answer(url: &str, explanation: &Explanation, in_scope: Option<bool>, looked: &Looked) -> Value {
    let deciding = if looked.failed.is_some() { None } else { explanation.deciding() };
    let mut steps: Vec<Value> = explanation
        .steps()
        .iter()
        .map(|step| {
            let decides = deciding.is_some_and(|d| std::ptr::eq(d, step));
            json!({"rule": step.rule(), "refused": step.is_refusal(), "decides": decides, "detail": step.detail()})
        })
        .collect();
    let reason = match &looked.failed {
        None => explanation.reason(),
        Some(error) => {
            steps.push(json!({"rule": "dns", "refused": true, "decides": true, "detail": error.to_string()}));
            Some(if error.is_timeout() { "dns_timeout" } else { "dns_failed" })
        }
    };
    let dns = looked.asked.then(|| {
        let answers: Vec<String> = looked.answers.iter().map(ToString::to_string).collect();
        json!({"answers": answers, "ms": (looked.millis * 1000.0).round() / 1000.0})
    });
    json!({
        "url": url,
        "target": explanation.target().map(|t| t.origin().to_string()),
        "allowed": reason.is_none(),
        "reason": reason,
        "steps": steps,
        "dns": dns,
        "addresses": looked.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "token_allows": in_scope,
    })
}
