//! `--demo`: a small MCP server and a WebSocket echo, both on loopback, and the lines to try them with.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler,
    handler::server::{router::tool::ToolRouter, wrapper::Parameters},
    model::{ProgressNotificationParam, RequestMetaObject, ServerCapabilities, ServerConfig},
    schemars, tool, tool_handler, tool_router,
    transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{
    self, Message,
    handshake::server::{Request, Response},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// What has been started.
#[derive(Clone, Copy, Debug)]
pub struct Demo {
    pub mcp: SocketAddr,
    pub websocket: SocketAddr,
}

/// Starts both servers on ports of their own.
pub async fn start() -> std::io::Result<Demo> {
    let mcp = TcpListener::bind("127.0.0.1:0").await?;
    let websocket = TcpListener::bind("127.0.0.1:0").await?;
    let demo = Demo { mcp: mcp.local_addr()?, websocket: websocket.local_addr()? };
    let service: StreamableHttpService<DemoServer, LocalSessionManager> =
        StreamableHttpService::new(|| Ok(DemoServer::new()), std::sync::Arc::default(), StreamableHttpServerConfig::default());
    let router = axum::Router::new().route_service("/mcp", service);
    tokio::spawn(async move { axum::serve(mcp, router).await });
    tokio::spawn(async move {
        while let Ok((stream, _)) = websocket.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    Ok(demo)
}

impl Demo {
    /// Lines that work when they are pasted into a shell.
    pub fn lines(&self, base: &str, token: &str) -> String {
        let (mcp, ws) = (format!("http://{}/mcp", self.mcp), format!("ws://{}/hello", self.websocket));
        let json = "-H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream'";
        let key = format!("-H 'X-Proxy-Token: {token}'");
        let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}"#;
        let call = |id: u32, tool: &str, arguments: &str| {
            format!(
                r#"{{"mcp_server_url":"{mcp}","jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
            )
        };
        format!(
            "\n# the target in the path\n\
             curl -sS {key} {json} -d '{initialize}' '{base}/proxy/{mcp}'\n\
             \n# the target in a header\n\
             curl -sS {key} -H 'X-Target-Url: {mcp}' {json} -d '{initialize}' '{base}/forward'\n\
             \n# one message in an envelope; the session is kept for you\n\
             curl -sS {key} -H 'Content-Type: application/json' -d '{}' '{base}/proxy'\n\
             curl -sS {key} -H 'Content-Type: application/json' -d '{}' '{base}/proxy'\n\
             \n# a WebSocket: 101, a greeting, the end\n\
             curl -sS -i -N --http1.1 -m 5 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
             -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' '{base}/ws?proxy_token={token}&mcp_server_url={ws}'\n",
            call(1, "echo", r#"{"message":"hello"}"#),
            call(2, "add", r#"{"a":2,"b":3}"#),
        )
    }
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Echo {
    message: String,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Add {
    a: f64,
    b: f64,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Count {
    steps: u32,
    milliseconds: u64,
}

#[derive(Debug, Clone)]
struct DemoServer {
    tool_router: ToolRouter<Self>,
}

impl DemoServer {
    fn new() -> Self {
        Self { tool_router: Self::tool_router() }
    }
}

#[tool_router]
impl DemoServer {
    #[tool(description = "Says a message again")]
    fn echo(Parameters(Echo { message }): Parameters<Echo>) -> String {
        message
    }

    #[tool(description = "Adds two numbers")]
    fn add(Parameters(Add { a, b }): Parameters<Add>) -> String {
        (a + b).to_string()
    }

    #[tool(description = "Counts slowly and tells its progress")]
    async fn count(
        &self,
        Parameters(Count { steps, milliseconds }): Parameters<Count>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> Result<String, ErrorData> {
        let steps = steps.min(1000);
        for step in 1..=steps {
            tokio::time::sleep(Duration::from_millis(milliseconds.min(60_000))).await;
            if let Some(token) = meta.get_progress_token() {
                let progress = ProgressNotificationParam::new(token, f64::from(step)).with_total(f64::from(steps));
                let _ = client.notify_progress(progress).await;
            }
        }
        Ok(format!("counted to {steps}"))
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for DemoServer {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

/// Echoes frames and the close code; takes the first subprotocol that is offered. `/hello` greets and closes.
async fn echo(stream: TcpStream) {
    let mut hello = false;
    #[expect(clippy::result_large_err, reason = "the callback's signature is not ours")]
    let accept = |request: &Request, mut response: Response| {
        hello = request.uri().path() == "/hello";
        let offered = request.headers().get("sec-websocket-protocol").and_then(|v| v.to_str().ok());
        if let Some(first) = offered.and_then(|v| v.split(',').next()).and_then(|v| v.trim().parse().ok()) {
            response.headers_mut().insert("sec-websocket-protocol", first);
        }
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, accept).await else { return };
    if hello {
        let _ = socket.send(Message::text("hello from the demo")).await;
        let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
        let _ = socket.close(Some(frame)).await;
        return;
    }
    while let Some(Ok(message)) = socket.next().await {
        let sent = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        };
        if matches!(sent, Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::Io(_))) {
            return;
        }
    }
}
