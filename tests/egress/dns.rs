//! A name server of our own on loopback that answers by script and writes down what it was asked.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Metadata, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::{TcpListener, UdpSocket};

/// What the server does with a question.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Records(Vec<Record>),
    Code(ResponseCode),
    /// Never answers.
    Silence,
    After(Duration, Box<Reply>),
}

/// Name (with the root dot), type, and how often that was asked before.
type Script = dyn Fn(&str, RecordType, usize) -> Reply + Send + Sync;

/// The running server; it ends with its runtime.
pub(crate) struct DnsServer {
    pub(crate) addr: SocketAddr,
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<(String, RecordType)>>>;

struct Handler {
    script: Box<Script>,
    asked: Asked,
}

impl DnsServer {
    pub(crate) async fn start(script: impl Fn(&str, RecordType, usize) -> Reply + Send + Sync + 'static) -> Self {
        let asked = Asked::default();
        let mut server = Server::new(Handler { script: Box::new(script), asked: Arc::clone(&asked) });
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The same port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 64 * 1024);
        tokio::spawn(async move { server.block_until_done().await });
        Self { addr, asked }
    }

    /// Every question, in order.
    pub(crate) fn asked(&self) -> Vec<(String, RecordType)> {
        self.asked.lock().unwrap().clone()
    }

    /// How often each type was asked.
    pub(crate) fn counts(&self) -> HashMap<RecordType, usize> {
        self.asked().into_iter().fold(HashMap::new(), |mut all, (_, kind)| {
            *all.entry(kind).or_default() += 1;
            all
        })
    }
}

impl RequestHandler for Handler {
    fn handle_request<'a, 'b, 'f, R, T>(
        &'a self,
        request: &'b Request,
        mut response: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'f>>
    where
        R: ResponseHandler + 'f,
        T: Time + 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let info = request.request_info().unwrap();
            let question = (Name::from(info.query.name()).to_ascii(), info.query.query_type());
            let before = {
                let mut asked = self.asked.lock().unwrap();
                let before = asked.iter().filter(|q| **q == question).count();
                asked.push(question.clone());
                before
            };
            let mut reply = (self.script)(&question.0, question.1, before);
            while let Reply::After(wait, then) = reply {
                tokio::time::sleep(wait).await;
                reply = *then;
            }
            let (code, records) = match reply {
                Reply::Records(records) => (ResponseCode::NoError, records),
                Reply::Code(code) => (code, Vec::new()),
                Reply::Silence | Reply::After(..) => std::future::pending().await,
            };
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = code;
            let message = MessageResponseBuilder::from_message_request(request).build(metadata, &records, [], [], []);
            response.send_response(message).await.unwrap()
        })
    }
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

/// An A or AAAA record.
pub(crate) fn addr(name: &str, ttl: u32, ip: &str) -> Record {
    let data = match crate::ip(ip) {
        std::net::IpAddr::V4(ip) => RData::A(rdata::A(ip)),
        std::net::IpAddr::V6(ip) => RData::AAAA(rdata::AAAA(ip)),
    };
    record(name, ttl, data)
}

pub(crate) fn cname(name: &str, ttl: u32, to: &str) -> Record {
    record(name, ttl, RData::CNAME(rdata::CNAME(Name::from_ascii(to).unwrap())))
}

/// The records of the asked type only.
pub(crate) fn zone(kind: RecordType, records: impl IntoIterator<Item = Record>) -> Reply {
    Reply::Records(records.into_iter().filter(|r| r.record_type() == kind || r.record_type() == RecordType::CNAME).collect())
}
