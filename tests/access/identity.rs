//! Client networks, and client certificates over real TLS.

use std::sync::Arc;

use portcullis::{
    client_cert::CertRule,
    serve::{ClientAuth, Tls, TlsFiles},
};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    },
};

use crate::support::{Answer, House, Plan, ask_on, record, token};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(issuer: &Issuer, name: SanType) -> (Certificate, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![name];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

async fn connect(
    house: &House,
    server_ca: &Issuer,
    own: Option<&(Certificate, KeyPair)>,
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(server_ca.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![cert.der().clone()], key).unwrap()
        }
    };
    let name = ServerName::try_from("proxy.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, house.connect().await).await
}

async fn get(house: &House, server_ca: &Issuer, own: Option<&(Certificate, KeyPair)>, fields: &str) -> Answer {
    let stream = connect(house, server_ca, own).await.unwrap();
    ask_on(stream, &format!("GET {}", house.to("/tls")), fields, "").await
}

fn tls(server_ca: &Issuer, client_ca: &Issuer) -> Tls {
    let (cert, key) = leaf(server_ca, SanType::DnsName("proxy.example".try_into().unwrap()));
    Tls::new(&TlsFiles::new(cert.pem(), key.serialize_pem()).client_ca(client_ca.pem(), ClientAuth::Optional)).unwrap()
}

#[tokio::test]
async fn a_client_certificate_names_the_principal_and_a_field_never_does() {
    let (server_ca, client_ca, foreign_ca) = (authority(), authority(), authority());
    let good = token();
    let mut plan = Plan::new([record("ci", &good)]);
    plan.tls = Some(tls(&server_ca, &client_ca));
    plan.certs = vec![CertRule::uri("spiffe://corp.example/app/*").unwrap(), CertRule::dns("ops.clients.example").unwrap()];
    plan.tokens = |layer| layer.or_client_certificate();
    let house = plan.build().await;

    let app = leaf(&client_ca, uri("spiffe://corp.example/app/one"));
    let ops = leaf(&client_ca, SanType::DnsName("ops.clients.example".try_into().unwrap()));
    let nobody = leaf(&client_ca, uri("spiffe://corp.example/other"));
    let forged = leaf(&foreign_ca, uri("spiffe://corp.example/app/one"));
    assert_eq!(get(&house, &server_ca, Some(&app), "").await.status, 200);
    house.audited("cert:spiffe://corp.example/app/one").await;
    assert_eq!(get(&house, &server_ca, Some(&ops), "").await.status, 200);
    house.audited("cert:ops.clients.example").await;
    assert_eq!(get(&house, &server_ca, Some(&nobody), "").await.status, 401);
    assert_eq!(get(&house, &server_ca, None, "").await.status, 401);
    let with_token = format!("X-Proxy-Token: {good}\r\n");
    assert_eq!(get(&house, &server_ca, None, &with_token).await.status, 200);
    assert_eq!(
        get(&house, &server_ca, Some(&app), "X-Proxy-Token: wrong\r\n").await.status,
        401,
        "a token that is sent has to be good"
    );

    // Another authority's certificate does not get through the handshake (in TLS 1.3 the client learns it at its first read).
    if let Ok(stream) = connect(&house, &server_ca, Some(&forged)).await {
        assert_eq!(ask_on(stream, &format!("GET {}", house.to("/tls")), "", "").await.status, 0);
    }

    // RFC 9440 fields and their relatives from outside: neither believed nor passed on.
    let der = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, app.0.der());
    let fields = format!(
        "Client-Cert: :{der}:\r\nClient-Cert-Chain: :{der}:\r\nX-Forwarded-Client-Cert: By=x;URI=spiffe://corp.example/app/one\r\nX-SSL-Client-Cert: {der}\r\n"
    );
    assert_eq!(get(&house, &server_ca, None, &fields).await.status, 401);
    assert_eq!(get(&house, &server_ca, None, &format!("{fields}{with_token}")).await.status, 200);
    let seen = house.seen.text().to_lowercase();
    assert!(!seen.contains("client-cert") && !seen.contains("x-ssl") && !seen.contains(&der.to_lowercase()));
    house.assert_unseen(&[&good]);
}

#[tokio::test]
async fn a_certificate_can_be_asked_for_beside_the_token() {
    let (server_ca, client_ca) = (authority(), authority());
    let good = token();
    let app = leaf(&client_ca, uri("spiffe://corp.example/app/one"));
    let mut plan = Plan::new([record("ci", &good)]);
    plan.tls = Some(tls(&server_ca, &client_ca));
    plan.certs = vec![CertRule::uri("spiffe://corp.example/app/*").unwrap()];
    plan.tokens = |layer| layer.and_client_certificate();
    let house = plan.build().await;
    let with_token = format!("X-Proxy-Token: {good}\r\n");
    assert_eq!(get(&house, &server_ca, Some(&app), &with_token).await.status, 200);
    assert!(house.audited("\"status\":200").await.contains("\"token\":\"ci\""), "the token says who it is");
    assert_eq!(get(&house, &server_ca, None, &with_token).await.status, 401);
    house.audited("client_certificate_required").await;
    assert_eq!(get(&house, &server_ca, Some(&app), "").await.status, 401);
    house.assert_unseen(&[&good]);
}

#[tokio::test]
async fn without_a_word_about_certificates_they_count_for_nothing() {
    let (server_ca, client_ca) = (authority(), authority());
    let app = leaf(&client_ca, uri("spiffe://corp.example/app/one"));
    let mut plan = Plan::new([record("ci", &token())]);
    plan.tls = Some(tls(&server_ca, &client_ca));
    plan.certs = vec![CertRule::uri("spiffe://corp.example/app/*").unwrap()];
    let house = plan.build().await;
    assert_eq!(get(&house, &server_ca, Some(&app), "").await.status, 401);
}

#[tokio::test]
async fn only_listed_networks_get_in_judged_on_the_trusted_address() {
    let good = token();
    let mut plan = Plan::new([record("ci", &good)]);
    plan.networks = &["192.0.2.0/24"];
    plan.trusted = &["127.0.0.1/32"];
    let house = plan.build().await;
    let from = |chain: &str| format!("X-Forwarded-For: {chain}\r\nX-Proxy-Token: {good}\r\n");
    assert_eq!(house.get("/", &from("192.0.2.9")).await.status, 200);
    assert_eq!(house.get("/", &from("192.0.2.9, 198.51.100.1")).await.status, 403, "the leftmost value is the client's own word");
    assert_eq!(house.get("/", &from("198.51.100.1, 192.0.2.9")).await.status, 200);
    assert_eq!(house.get("/", &format!("X-Proxy-Token: {good}\r\n")).await.status, 403, "the hop itself is not on the list");
    assert!(house.audited("client_denied").await.contains("\"client\":\"198.51.100.1\""));
    house.assert_unseen(&[&good]);

    let mut plan = Plan::new([record("ci", &good)]);
    plan.networks = &["192.0.2.0/24"];
    let house = plan.build().await;
    assert_eq!(house.get("/", &from("192.0.2.9")).await.status, 403, "nobody is trusted to say it");
}
