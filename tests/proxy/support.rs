//! The service on a real socket.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis::{
    context::{CloseRecord, Record, RecordHandle, RequestContext},
    egress::{EgressPolicy, Exception, PolicyHandle},
    net::{self, TargetStyle},
    proxy::{ProxyBody, ProxyService},
    rejection::{Rejection, RejectionKind},
    tokens::Principal,
    upstream::Upstream,
};
use tokio::net::TcpListener;
use tower::ServiceExt;

pub use crate::wire::*;

/// The service behind a plain hyper server, its target read from the path.
pub struct Proxy {
    pub addr: SocketAddr,
    pub policy: PolicyHandle,
    pub upstream: Upstream,
    pub records: Arc<Records>,
}

/// The records of what has ended.
#[derive(Default)]
pub struct Records(Mutex<Vec<Record>>);

impl CloseRecord for Records {
    fn close(&self, record: &mut Record) {
        self.0.lock().unwrap().push(record.clone());
    }
}

impl Records {
    pub async fn next(&self) -> Record {
        soon("a record", async {
            loop {
                if let Some(record) = self.0.lock().unwrap().pop() {
                    return record;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

pub fn policy() -> EgressPolicy {
    EgressPolicy::builder().with_exception(Exception::any_host(["127.0.0.1/32"]).unwrap()).build().unwrap()
}

impl Proxy {
    pub async fn new() -> Self {
        Self::with(|b| b, |b| b).await
    }

    pub async fn with(
        upstream: impl FnOnce(portcullis::upstream::UpstreamBuilder) -> portcullis::upstream::UpstreamBuilder,
        service: impl FnOnce(portcullis::proxy::ProxyServiceBuilder) -> portcullis::proxy::ProxyServiceBuilder,
    ) -> Self {
        let policy = PolicyHandle::new(policy());
        let upstream = upstream(Upstream::builder(policy.clone(), crate::connector())).build();
        let service = service(ProxyService::builder(upstream.clone())).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (handle, records) = (policy.clone(), Arc::<Records>::default());
        let kept = records.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, peer)) = listener.accept().await else { return };
                let (service, handle, records) = (service.clone(), handle.clone(), records.clone());
                let respond = service_fn(move |mut request: Request<Incoming>| {
                    let (service, handle) = (service.clone(), handle.clone());
                    let record = RecordHandle::closing(Record::default(), records.clone());
                    RequestContext::of_mut(request.extensions_mut()).set_record(record);
                    async move { Ok::<_, Infallible>(respond(request, peer, service, handle).await) }
                });
                tokio::spawn(async move {
                    let mut server = hyper::server::conn::http1::Builder::new();
                    server.timer(TokioTimer::new());
                    let _ = server.serve_connection(TokioIo::new(stream), respond).with_upgrades().await;
                });
            }
        });
        Self { addr, policy, upstream, records: kept }
    }

    /// Behind the hardened server, which looks at framing by the letter.
    pub async fn hardened() -> Self {
        let policy = PolicyHandle::new(policy());
        let upstream = Upstream::builder(policy.clone(), crate::connector()).build();
        let service = ProxyService::new(upstream.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let handle = policy.clone();
        let respond = tower::service_fn(move |request: Request<portcullis::serve::RequestBody>| {
            let (service, handle) = (service.clone(), handle.clone());
            async move { Ok::<_, Infallible>(respond(request, addr, service, handle).await) }
        });
        let stack = tower::ServiceBuilder::new().layer(portcullis::request_head::RequestHeadLayer::new()).service(respond);
        let server = portcullis::serve::Server::builder().build();
        tokio::spawn(async move { server.serve(listener, stack, std::future::pending()).await });
        Self { addr, policy, upstream, records: Arc::default() }
    }

    pub async fn client(&self) -> Wire {
        Wire::connect(self.addr).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Message {
        let mut client = self.client().await;
        client.send(request).await;
        client.response().await
    }

    pub async fn get(&self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n")).await
    }
}

async fn respond<B>(mut request: Request<B>, peer: SocketAddr, service: ProxyService, policy: PolicyHandle) -> Response<ProxyBody>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let line = request.uri().to_string();
    let target = if request.method() == http::Method::CONNECT {
        net::Target::parse_connect(&line).map(|t| t.with_style(TargetStyle::Connect))
    } else if let Some(url) = line.strip_prefix("/proxy/") {
        net::Target::parse(url).map(|t| t.with_style(TargetStyle::Path))
    } else if let Some(url) = line.strip_prefix("/fixed/") {
        net::Target::parse(url).map(|t| t.with_style(TargetStyle::Fixed))
    } else {
        net::Target::parse(&line).map(|t| t.with_style(TargetStyle::AbsoluteForm))
    };
    let permit = target.as_ref().ok().and_then(|t| policy.permit(t).ok());
    let tenant = request.headers_mut().remove("x-tenant");
    let context = RequestContext::of_mut(request.extensions_mut());
    context.set_client(portcullis::context::ClientAddr::new(peer.ip(), peer, false));
    if let Some(tenant) = tenant {
        context.set_principal(Principal::new(tenant.to_str().unwrap()));
    }
    match (target, permit) {
        (Ok(target), Some(permit)) => {
            context.set_target(target);
            context.set_permit(permit);
        }
        (Ok(_), None) => return Rejection::new(RejectionKind::Denied).into_response(),
        (Err(_), _) => return Rejection::new(RejectionKind::MalformedTarget).into_response(),
    }
    service.oneshot(request).await.unwrap()
}
