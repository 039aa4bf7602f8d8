//! The service.

use http::Request;

use super::ClientAddrLayer;
use crate::{
    check::{Check, Checked, Refusal},
    context::{ClientAddr, RequestContext},
    forwarded,
    rejection::{Rejection, RejectionKind},
};

/// The service that [`ClientAddrLayer`] makes.
pub type ClientAddrService<S> = Checked<S, ClientAddrLayer>;

impl ClientAddrLayer {
    fn decide<B>(&self, request: &Request<B>) -> Result<ClientAddr, Rejection> {
        let peer = (self.peer)(request.extensions()).ok_or_else(|| {
            Rejection::new(RejectionKind::Misconfigured)
                .with_reason("no_peer_address")
                .with_detail("the server sets no peer address")
        })?;
        Ok(forwarded::client_addr(peer, request.headers(), self.field, &self.trusted))
    }
}

impl Check for ClientAddrLayer {
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        let client = self.decide(request)?;
        let context = RequestContext::of_mut(request.extensions_mut());
        context.set_client(client);
        if let Some(record) = context.record() {
            record.with(|r| r.client = Some(client));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Response;
    use tower::ServiceExt as _;
    use tower_layer::Layer as _;

    use super::*;
    use crate::{body::ResponseBody, reply::probe::Probe};

    #[derive(Clone)]
    struct Peer(SocketAddr);

    async fn send(peer: Option<&str>, forwarded: &str) -> (Response<ResponseBody<String>>, Option<ClientAddr>) {
        let probe = Probe::default();
        let service = ClientAddrLayer::peer::<Peer>(|p| p.0).trust(["10.0.0.0/8"]).unwrap().layer(probe.handle());
        let mut request = Request::get("/").header("x-forwarded-for", forwarded).body(()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        }
        let response = service.oneshot(request).await.unwrap();
        (response, probe.last().and_then(|parts| RequestContext::of(&parts.extensions)?.client().copied()))
    }

    #[tokio::test]
    async fn the_client_is_what_trusted_hops_say() {
        let (response, client) = send(Some("10.0.0.1:9"), "192.0.2.1").await;
        assert_eq!((response.status().as_u16(), client.unwrap().ip().to_string()), (200, "192.0.2.1".into()));
        assert!(client.unwrap().peer_is_trusted());
        let (_, client) = send(Some("192.0.2.9:9"), "192.0.2.1").await;
        assert_eq!(client.unwrap().ip().to_string(), "192.0.2.9");
        assert!(!client.unwrap().peer_is_trusted());
    }

    #[tokio::test]
    async fn without_a_peer_nothing_passes() {
        let (response, client) = send(None, "192.0.2.1").await;
        assert_eq!((response.status().as_u16(), client), (500, None));
    }
}
