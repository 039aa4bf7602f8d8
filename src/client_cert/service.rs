//! The service.

use http::Request;

use super::{CertRule, ClientCertLayer, rule};
use crate::{
    check::{Check, Checked, Refusal},
    context::RequestContext,
    rejection::{Rejection, RejectionKind},
};

/// The service that [`ClientCertLayer`](super::ClientCertLayer) makes.
pub type ClientCert<S> = Checked<S, ClientCertLayer>;

fn name(rules: &[CertRule], context: &mut RequestContext) -> Result<(), Rejection> {
    let connection = context.connection();
    let connection = connection.ok_or_else(|| Rejection::new(RejectionKind::Misconfigured).with_reason("no_connection"))?;
    let own = connection.client_certs().and_then(<[_]>::first);
    let principal = own.and_then(|der| rule::principal(rules, der));
    // Whoever was named before, it was not by this connection.
    context.take_principal();
    if let Some(principal) = principal {
        context.set_principal(principal);
    }
    Ok(())
}

impl Check for ClientCertLayer {
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        name(&self.rules, RequestContext::of_mut(request.extensions_mut())).map_err(Refusal::from)
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;
    use tower_layer::Layer as _;

    use super::*;
    use crate::{
        client_cert::{ClientCertLayer, rule::tests::cert},
        context::ConnectionInfo,
        reply::probe::Probe,
        tokens::Principal,
    };

    async fn send(connection: Option<ConnectionInfo>) -> (u16, Option<String>) {
        let probe = Probe::default();
        let mut request = Request::get("/").header("client-cert", ":AAAA:").body(()).unwrap();
        let context = RequestContext::of_mut(request.extensions_mut());
        context.set_principal(Principal::new("somebody before"));
        if let Some(connection) = connection {
            context.set_connection(connection);
        }
        let layer = ClientCertLayer::new([CertRule::dns("ci.example").unwrap()]);
        let status = layer.layer(probe.handle()).oneshot(request).await.unwrap().status().as_u16();
        let principal = probe.last().and_then(|p| RequestContext::of(&p.extensions)?.principal().map(|p| p.id().to_string()));
        (status, principal)
    }

    #[tokio::test]
    async fn the_connections_own_certificate_names_the_principal() {
        let tls = |chain: Vec<Vec<u8>>| {
            let chain = chain.into_iter().map(Vec::into_boxed_slice).collect();
            Some(ConnectionInfo::new(([127, 0, 0, 1], 1).into()).with_tls(Some(chain)))
        };
        assert_eq!(send(tls(vec![cert(&[], &["ci.example"])])).await, (200, Some("cert:ci.example".into())));
        assert_eq!(
            send(tls(vec![cert(&[], &["x.example"]), cert(&[], &["ci.example"])])).await,
            (200, None),
            "an issuer names nobody"
        );
        assert_eq!(send(Some(ConnectionInfo::new(([127, 0, 0, 1], 1).into()))).await, (200, None), "a field is only text");
        assert_eq!(send(None).await.0, 500);
    }
}
