//! The layer as a whole, against a probe that holds it to the readiness contract.

use std::time::{Duration, SystemTime};

use http::{Method, request::Parts};
use tower::ServiceExt as _;
use tower_layer::Layer as _;

use super::*;
use crate::{
    clock::{Clock as _, ManualClock},
    context::{ClientAddr, Record, RecordHandle},
    proxy_token::{FailureLimit, ProxyTokenLayer, TokenSource},
    reply::probe::Probe,
    tokens::{StaticTokens, TicketStore, TokenHasher, TokenRecord},
};

const TOKEN: &str = "a-token-of-more-than-32-characters-a";

fn start() -> SystemTime {
    ManualClock::default().wall()
}

fn tokens() -> StaticTokens {
    let record =
        |id: &str, text: &str| TokenRecord::new(id).unwrap().with_hash(TokenHasher::plain().weak(text).unwrap()).unwrap();
    let records = [record("ci", TOKEN), record("off", "disabled").disabled(true), record("old", "expired").expires(start())];
    StaticTokens::new(TokenHasher::plain(), records).unwrap()
}

/// A store that answers later, as a remote one does; or that is away.
struct Remote(StaticTokens, bool);

impl TokenStore for Remote {
    fn lookup(&self, digest: &TokenDigest) -> Lookup<Arc<LiveToken>> {
        let Lookup::Ready(answer) = self.0.lookup(digest) else { unreachable!() };
        let answer = if self.1 { Err(StoreUnavailable) } else { answer };
        Lookup::Later(Box::pin(async move {
            tokio::task::yield_now().await;
            answer
        }))
    }

    fn hasher(&self) -> &TokenHasher {
        self.0.hasher()
    }
}

struct OneTicket;

impl TicketStore for OneTicket {
    fn redeem(&self, ticket: &[u8]) -> Lookup<Principal> {
        let known = ticket == b"good-ticket";
        Lookup::Ready(Ok(known.then(|| Principal::new("ci"))))
    }
}

struct Outcome {
    response: Response<ResponseBody<String>>,
    inner: Option<Parts>,
    token: Option<String>,
}

impl Outcome {
    fn reason(&self) -> &'static str {
        self.response.extensions().get::<Rejection>().map_or("", Rejection::reason)
    }

    fn principal(&self) -> Option<String> {
        let context = RequestContext::of(&self.inner.as_ref()?.extensions)?;
        context.principal().map(|p| p.id().to_string())
    }
}

async fn send<T: TokenStore>(layer: ProxyTokenLayer<T>, mut request: Request<()>) -> Outcome {
    let (probe, record) = (Probe::default(), RecordHandle::new(Record::default()));
    let ip = "192.0.2.1".parse().unwrap();
    let context = RequestContext::of_mut(request.extensions_mut());
    context.set_record(record.clone()).set_client(ClientAddr::new(ip, (ip, 1).into(), false));
    let response = layer.clock(ManualClock::default()).layer(probe.handle()).oneshot(request).await.unwrap();
    Outcome { response, inner: probe.last(), token: record.with(|r| r.token.as_ref().map(ToString::to_string)) }
}

fn with_token(token: &str) -> Request<()> {
    Request::get("/").header("x-proxy-token", token).body(()).unwrap()
}

#[tokio::test]
async fn a_good_token_passes_and_is_gone() {
    for remote in [false, true] {
        let request = with_token(TOKEN);
        let out = if remote {
            send(ProxyTokenLayer::new(Remote(tokens(), false)), request).await
        } else {
            send(ProxyTokenLayer::new(tokens()), request).await
        };
        assert_eq!(
            (out.response.status().as_u16(), out.principal().as_deref(), out.token.as_deref()),
            (200, Some("ci"), Some("ci"))
        );
        let parts = out.inner.unwrap();
        assert!(parts.headers.is_empty());
        let context = RequestContext::of(&parts.extensions).unwrap();
        assert_eq!(&**context.credential_fields().unwrap(), ["x-proxy-token"]);
        assert!(!format!("{parts:?}").contains(TOKEN));
    }
}

#[tokio::test]
async fn every_fault_looks_the_same_to_the_client_and_not_to_the_audit() {
    let mut answers = Vec::new();
    let form = crate::tokens::generate("pcl").unwrap();
    let mangled = format!("{}!", &form.secret.expose()[..form.secret.expose().len() - 1]).replace('!', "x");
    let wrong_sum = if mangled == form.secret.expose() { mangled.replace('x', "y") } else { mangled };
    for (token, reason, id) in [
        ("", "missing_token", None),
        ("unknown", "unknown_token", None),
        ("disabled", "disabled_token", Some("off")),
        ("expired", "expired_token", Some("old")),
        (wrong_sum.as_str(), "token_checksum", None),
    ] {
        for remote in [false, true] {
            let out = if remote {
                send(ProxyTokenLayer::new(Remote(tokens(), false)), with_token(token)).await
            } else {
                send(ProxyTokenLayer::new(tokens()), with_token(token)).await
            };
            assert_eq!((out.reason(), out.token.as_deref()), (reason, id));
            assert!(out.inner.is_none());
            let rejection = out.response.extensions().get::<Rejection>().unwrap();
            answers.push((out.response.status().as_u16(), format!("{:?}", out.response.headers()), rejection.problem_json()));
        }
    }
    assert_eq!(answers.len(), 10);
    assert!(answers.iter().all(|a| a == &answers[0]));
    assert!(answers[0].0 == 401 && answers[0].1.contains("ProxyToken realm") && !answers[0].1.contains("Bearer"));
}

#[tokio::test]
async fn forward_proxy_requests_get_a_407() {
    for request in [Request::connect("h.example:443"), Request::get("http://h.example/")] {
        let out = send(ProxyTokenLayer::new(tokens()), request.body(()).unwrap()).await;
        assert_eq!(out.response.status().as_u16(), 407);
        assert_eq!(out.response.headers()["proxy-authenticate"], "Basic realm=\"portcullis\"");
        assert!(!out.response.headers().contains_key("www-authenticate"));
    }
}

#[tokio::test]
async fn a_store_that_is_away_lets_nobody_in() {
    let out = send(ProxyTokenLayer::new(Remote(tokens(), true)), with_token(TOKEN)).await;
    assert_eq!((out.response.status().as_u16(), out.reason(), out.inner.is_none()), (503, "token_store_unavailable", true));
}

#[tokio::test]
async fn tickets_need_a_store_and_an_upgrade() {
    let layer = || ProxyTokenLayer::new(tokens()).sources([TokenSource::ticket("ticket").unwrap()]);
    let upgrade = |uri: &str| Request::get(uri).header("connection", "upgrade").header("upgrade", "websocket").body(()).unwrap();
    assert_eq!(send(layer(), upgrade("/?ticket=good-ticket")).await.reason(), "unknown_ticket");
    assert_eq!(send(layer().tickets(OneTicket), upgrade("/?ticket=good-ticket")).await.principal().as_deref(), Some("ci"));
    assert_eq!(send(layer().tickets(OneTicket), upgrade("/?ticket=other")).await.reason(), "unknown_ticket");
    let plain = Request::get("/?ticket=good-ticket").body(()).unwrap();
    assert_eq!(send(layer().tickets(OneTicket), plain).await.reason(), "query_token_not_allowed");
}

#[tokio::test]
async fn failed_attempts_are_limited_before_the_store_is_asked() {
    struct Counting(StaticTokens, std::sync::atomic::AtomicU32);
    impl TokenStore for Counting {
        fn lookup(&self, digest: &TokenDigest) -> Lookup<Arc<LiveToken>> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.lookup(digest)
        }

        fn hasher(&self) -> &TokenHasher {
            self.0.hasher()
        }
    }
    let store = Arc::new(Counting(tokens(), 0.into()));
    let gate = FailureLimit::with(2, Duration::from_secs(60)).clock(ManualClock::default());
    let layer = ProxyTokenLayer::new(Arc::clone(&store)).failure_gate(gate);
    for want in [401, 401, 429] {
        assert_eq!(send(layer.clone(), with_token("guess")).await.response.status().as_u16(), want);
    }
    let out = send(layer.clone(), with_token(TOKEN)).await;
    assert_eq!((out.reason(), out.response.headers()["retry-after"].to_str().unwrap()), ("failed_attempts", "60"));
    assert_eq!(store.1.load(std::sync::atomic::Ordering::Relaxed), 2, "no look-up while held up");
    // A request without any credential is no attempt.
    assert_eq!(send(layer.clone(), with_token("")).await.reason(), "missing_token");

    let probe = Probe::default();
    let out = layer.layer(probe.handle()).oneshot(with_token(TOKEN)).await.unwrap();
    assert_eq!(
        out.extensions().get::<Rejection>().unwrap().kind(),
        RejectionKind::Misconfigured,
        "the gate needs the client's address"
    );
}

#[tokio::test]
async fn a_certificates_principal_counts_only_where_it_is_said() {
    let known = |mut request: Request<()>| {
        RequestContext::of_mut(request.extensions_mut()).set_principal(Principal::new("cert"));
        request
    };
    let none = || known(with_token(""));
    let both = || known(with_token(TOKEN));
    let layer = || ProxyTokenLayer::new(tokens());
    assert_eq!(send(layer(), none()).await.reason(), "missing_token");
    assert_eq!(send(layer().or_client_certificate(), none()).await.principal().as_deref(), Some("cert"));
    assert_eq!(send(layer().or_client_certificate(), both()).await.principal().as_deref(), Some("ci"));
    assert_eq!(send(layer().or_client_certificate(), known(with_token("unknown"))).await.reason(), "unknown_token");
    assert_eq!(send(layer().and_client_certificate(), none()).await.reason(), "missing_token");
    assert_eq!(send(layer().and_client_certificate(), with_token(TOKEN)).await.reason(), "client_certificate_required");
    assert_eq!(send(layer().and_client_certificate(), both()).await.principal().as_deref(), Some("ci"));
}

#[tokio::test]
async fn a_browser_that_offers_the_carrier_alone_sees_it_selected() {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    let carrier = format!("base64url.bearer.authorization.portcullis.{}", BASE64_URL_SAFE_NO_PAD.encode(TOKEN));
    let inner = tower::service_fn(|request: Request<()>| async move {
        assert!(!request.headers().contains_key("sec-websocket-protocol"));
        Ok::<_, std::convert::Infallible>(Response::builder().status(101).body(String::new()).unwrap())
    });
    let layer = ProxyTokenLayer::new(tokens()).sources([TokenSource::websocket_protocol()]);
    let request = Request::builder()
        .method(Method::GET)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-protocol", &carrier)
        .body(())
        .unwrap();
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], *carrier);
    assert!(!format!("{response:?}").contains(&carrier), "marked sensitive");
}
