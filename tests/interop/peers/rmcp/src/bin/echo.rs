//! The server that measurements call: three tools that do next to nothing, over sockets with `TCP_NODELAY`, since an
//! answer in two writes would cost 44 ms without it and hide everything else.
//!
//! By default rmcp answers as it does to a session: as events. With `--json` it keeps no session and answers in JSON.

use std::sync::Arc;

use anyhow::Context;
use axum::serve::ListenerExt as _;
use clap::Parser;
use relatch_peers_rmcp::{number_argument, text_argument, typed};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, ErrorCode, ListToolsResult, PaginatedRequestParams,
        ProgressNotificationParam, ServerConfig,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};

/// As many messages may wait in a session as one call sends.
const MANY: usize = 65_536;

#[derive(Parser)]
#[command(about = "An MCP server on rmcp, made to be measured against")]
struct Flags {
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Without sessions, answers in JSON
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(!flags.json)
        .with_json_response(flags.json);
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.channel_capacity = MANY;
    let service = StreamableHttpService::new(|| Ok(Echo), Arc::new(sessions), config);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", flags.port))
        .await
        .with_context(|| format!("port {} can't be listened on", flags.port))?
        .tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(listener, axum::Router::new().route_service("/mcp", service)).await?;
    Ok(())
}

#[derive(Clone)]
struct Echo;

impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        let config = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {"listChanged": true}},
            "serverInfo": {"name": "rmcp-echo", "version": "1.0.0"},
        });
        typed(config).unwrap_or_default()
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
        let tools = ["echo", "fill", "events"].map(tool);
        typed(json!({ "tools": tools }))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let text = match &*request.name {
            "echo" => text_argument(&arguments, "text")?.to_owned(),
            "fill" => "x".repeat(usize::try_from(number_argument(&arguments, "bytes")?).unwrap_or(0)),
            "events" => events(number_argument(&arguments, "events")?, &context).await?,
            name => return Err(ErrorData::new(ErrorCode::INVALID_PARAMS, format!("no tool `{name}`"), None)),
        };
        typed::<rmcp::model::CallToolResult>(json!({"content": [{"type": "text", "text": text}]}))
            .map(Into::into)
    }
}

/// So many small messages ahead of the answer.
async fn events(count: u64, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
    let token = context
        .meta
        .get_progress_token()
        .ok_or_else(|| ErrorData::invalid_params("a progress token is needed", None))?;
    for step in 1..=count {
        let progress = ProgressNotificationParam::new(token.clone(), step as f64);
        context.peer.notify_progress(progress).await.map_err(relatch_peers_rmcp::client_refused)?;
    }
    Ok(format!("{count} events"))
}
