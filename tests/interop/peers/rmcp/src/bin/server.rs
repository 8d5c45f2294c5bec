//! The server that interoperation tests kill and start again. Every tool that does something writes it to the ledger,
//! so that a test can count executions over many lives of the process. It keeps nothing else.

#![expect(deprecated, reason = "sampling, logging and subscriptions are what the legacy era has")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use relatch_peers_rmcp::{Ledger, client_refused, now_ms, number_argument, serve, text_argument, typed};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, ErrorCode, GetPromptRequestParams, GetPromptResponse,
        ListPromptsResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse, ServerConfig,
        SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams,
    },
    service::RequestContext,
    transport::streamable_http_server::session::local::LocalSessionManager,
};
use serde_json::{Value, json};

/// The one resource; `emit` says that it changed.
const RESOURCE: &str = "test://one";

#[derive(Parser)]
#[command(about = "An MCP server on rmcp, made to be killed")]
struct Flags {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// File to which executions are appended
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// 2 and above have one more tool
    #[arg(long, default_value_t = 1)]
    variant: u32,
    /// Answer in JSON where rmcp can
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let peer = Peer { ledger: Ledger::open(flags.ledger.as_deref())?, variant: flags.variant };
    serve(flags.port, flags.json, Arc::new(LocalSessionManager::default()), move || peer.clone()).await
}

#[derive(Clone)]
struct Peer {
    ledger: Ledger,
    variant: u32,
}

impl ServerHandler for Peer {
    fn get_info(&self) -> ServerConfig {
        let config = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {
                "logging": {},
                "prompts": {"listChanged": true},
                "resources": {"subscribe": true, "listChanged": true},
                "tools": {"listChanged": true},
            },
            "serverInfo": {"name": "rmcp-peer", "version": format!("1.0.{}", self.variant)},
        });
        typed(config).unwrap_or_default()
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        typed(json!({"tools": tools(self.variant)}))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let text = self.run(&request.name, &arguments, &context).await?;
        typed::<rmcp::model::CallToolResult>(json!({"content": [{"type": "text", "text": text}]}))
            .map(Into::into)
    }

    async fn list_prompts(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        typed(
            json!({"prompts": [{"name": "greet", "description": "Greets", "arguments": [{"name": "who"}]}]}),
        )
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name != "greet" {
            return Err(ErrorData::invalid_params(format!("no prompt `{}`", request.name), None));
        }
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let who = arguments["who"].as_str().unwrap_or("world");
        typed::<rmcp::model::GetPromptResult>(
            json!({"messages": [{"role": "user", "content": {"type": "text", "text": format!("Hello, {who}")}}]}),
        )
        .map(Into::into)
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        typed(json!({"resources": [{"uri": RESOURCE, "name": "one", "mimeType": "text/plain"}]}))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != RESOURCE {
            return Err(ErrorData::resource_not_found("no such resource", Some(json!({"uri": request.uri}))));
        }
        let text = format!("one, from {}", std::process::id());
        typed::<rmcp::model::ReadResourceResult>(
            json!({"contents": [{"uri": RESOURCE, "mimeType": "text/plain", "text": text}]}),
        )
        .map(Into::into)
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.note(json!({"event": "subscribe", "uri": request.uri}))
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.note(json!({"event": "unsubscribe", "uri": request.uri}))
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.note(json!({"event": "set_level", "level": request.level}))
    }
}

impl Peer {
    async fn run(
        &self,
        tool: &str,
        arguments: &Value,
        context: &RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        match tool {
            "echo" => Ok(text_argument(arguments, "text")?.to_owned()),
            "count" | "read" => {
                let key = text_argument(arguments, "key")?;
                self.note(json!({"key": key}))?;
                Ok(format!("{tool} {key} by {}", std::process::id()))
            }
            "slow" => self.slow(arguments, context).await,
            "sleep_cancellable" => self.sleep_cancellable(arguments, context).await,
            "sample" => sample(text_argument(arguments, "prompt")?, context).await,
            "elicit" => elicit(text_argument(arguments, "message")?, context).await,
            "log" => {
                let text = text_argument(arguments, "text")?;
                let log = json!({"level": "info", "logger": "rmcp-peer", "data": text});
                context.peer.notify_logging_message(typed(log)?).await.map_err(client_refused)?;
                Ok("logged".to_owned())
            }
            "emit" => {
                let updated = typed(json!({"uri": RESOURCE}))?;
                context.peer.notify_resource_updated(updated).await.map_err(client_refused)?;
                context.peer.notify_tool_list_changed().await.map_err(client_refused)?;
                Ok("emitted".to_owned())
            }
            "extra" if self.variant >= 2 => Ok(format!("extra by {}", std::process::id())),
            _ => Err(ErrorData::new(ErrorCode::INVALID_PARAMS, format!("no tool `{tool}`"), None)),
        }
    }

    async fn slow(
        &self,
        arguments: &Value,
        context: &RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        let key = text_argument(arguments, "key")?;
        let ms = number_argument(arguments, "ms")?;
        let steps = number_argument(arguments, "steps")?;
        self.note(json!({"key": key}))?;
        let token = context.meta.get_progress_token();
        let pieces = steps.max(1);
        for step in 1..=pieces {
            tokio::time::sleep(Duration::from_millis(ms / pieces)).await;
            if let Some(token) = token.clone().filter(|_| steps > 0) {
                let progress = ProgressNotificationParam::new(token, step as f64).with_total(steps as f64);
                context.peer.notify_progress(progress).await.map_err(client_refused)?;
            }
        }
        Ok(format!("slow {key} by {}", std::process::id()))
    }

    async fn sleep_cancellable(
        &self,
        arguments: &Value,
        context: &RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        let key = text_argument(arguments, "key")?;
        let ms = number_argument(arguments, "ms")?;
        self.note(json!({"key": key}))?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(format!("slept {key}")),
            () = context.ct.cancelled() => {
                self.note(json!({"key": key, "cancelled": true}))?;
                Ok(format!("cancelled {key}"))
            }
        }
    }

    fn note(&self, mut entry: Value) -> Result<(), ErrorData> {
        entry["pid"] = std::process::id().into();
        entry["at"] = now_ms().into();
        self.ledger.append(&entry)
    }
}

async fn sample(prompt: &str, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
    let request = json!({
        "messages": [{"role": "user", "content": {"type": "text", "text": prompt}}],
        "maxTokens": 100,
    });
    let answer = context.peer.create_message(typed(request)?).await.map_err(client_refused)?;
    let answer = serde_json::to_value(answer).unwrap_or_default();
    Ok(text_argument(&answer["content"], "text")?.to_owned())
}

async fn elicit(message: &str, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
    let request = json!({
        "mode": "form",
        "message": message,
        "requestedSchema": {
            "type": "object",
            "properties": {"name": {"type": "string", "description": "A name"}},
            "required": ["name"],
        },
    });
    let answer = context.peer.create_elicitation(typed(request)?).await.map_err(client_refused)?;
    Ok(serde_json::to_string(&answer).unwrap_or_default())
}

fn tools(variant: u32) -> Vec<Value> {
    let mut tools = vec![
        tool("echo", "Says the text again", &["text"], &[]),
        tool("count", "Counts one execution", &["key"], &[]),
        tool("slow", "Counts at its start and answers late", &["key"], &["ms", "steps"]),
        tool("read", "Counts one execution, and is marked as reading only", &["key"], &[]),
        tool("sample", "Asks the client's model", &["prompt"], &[]),
        tool("elicit", "Asks the client's user", &["message"], &[]),
        tool("log", "Sends a log message", &["text"], &[]),
        tool("emit", "Says that the resource and the tools changed", &[], &[]),
        tool("sleep_cancellable", "Sleeps, and counts a cancellation that it sees", &["key"], &["ms"]),
    ];
    if let Some(read) = tools.iter_mut().find(|tool| tool["name"] == "read") {
        read["annotations"] = json!({"readOnlyHint": true});
    }
    if variant >= 2 {
        tools.push(tool("extra", "Came with variant 2", &[], &[]));
    }
    tools
}

fn tool(name: &str, description: &str, texts: &[&str], numbers: &[&str]) -> Value {
    let texts_and_types = texts.iter().map(|name| (name, "string"));
    let properties: serde_json::Map<String, Value> = texts_and_types
        .chain(numbers.iter().map(|name| (name, "integer")))
        .map(|(name, kind)| ((*name).to_owned(), json!({"type": kind})))
        .collect();
    json!({
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": properties, "required": texts},
    })
}
