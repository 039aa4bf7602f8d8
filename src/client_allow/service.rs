//! The service.

use http::{Extensions, Request};

use super::{ClientAllowLayer, ClientNetworks};
use crate::{
    check::{Check, Checked, Refusal},
    context::RequestContext,
    rejection::{Rejection, RejectionKind},
};

/// The service that [`ClientAllowLayer`](super::ClientAllowLayer) makes.
pub type ClientAllow<S> = Checked<S, ClientAllowLayer>;

fn decide(networks: &ClientNetworks, extensions: &Extensions) -> Result<(), Rejection> {
    let Some(networks) = networks.now().filter(|networks| !networks.is_empty()) else { return Ok(()) };
    match RequestContext::of(extensions).and_then(RequestContext::client) {
        Some(client) if networks.contains(client.ip()) => Ok(()),
        Some(_) => Err(Rejection::new(RejectionKind::ClientDenied)),
        None => Err(Rejection::new(RejectionKind::Misconfigured).with_reason("no_client_address")),
    }
}

impl Check for ClientAllowLayer {
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        decide(&self.networks, request.extensions()).map_err(Refusal::from)
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;
    use tower_layer::Layer as _;

    use super::*;
    use crate::{client_allow::ClientAllowLayer, context::ClientAddr, reply::probe::Probe};

    async fn send(networks: &ClientNetworks, client: Option<&str>) -> (u16, bool) {
        let probe = Probe::default();
        let service = ClientAllowLayer::new(networks.clone()).layer(probe.handle());
        let mut request = Request::new(());
        if let Some(ip) = client {
            let ip = ip.parse().unwrap();
            RequestContext::of_mut(request.extensions_mut()).set_client(ClientAddr::new(ip, (ip, 1).into(), false));
        }
        let status = service.oneshot(request).await.unwrap().status().as_u16();
        (status, probe.last().is_some())
    }

    #[tokio::test]
    async fn only_networks_on_the_list_get_through() {
        let networks = ClientNetworks::new([""; 0]).unwrap();
        assert_eq!(send(&networks, Some("192.0.2.1")).await, (200, true));
        assert_eq!(send(&networks, None).await, (200, true));
        networks.replace(["10.0.0.0/8", "fd00::/8"]).unwrap();
        assert_eq!(send(&networks, Some("10.9.9.9")).await, (200, true));
        assert_eq!(send(&networks, Some("::ffff:10.9.9.9")).await, (200, true));
        assert_eq!(send(&networks, Some("192.0.2.1")).await, (403, false));
        assert_eq!(send(&networks, None).await, (500, false));
        assert!(networks.replace(["not a network"]).is_err());
        assert_eq!(send(&networks, Some("192.0.2.1")).await, (403, false));
    }
}
