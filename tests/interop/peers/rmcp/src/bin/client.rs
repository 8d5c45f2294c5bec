//! A client that is led by JSON lines: one command a line on standard input, one answer a line on standard output,
//! and events between them. Commands run side by side, except `connect` and `close`, which finish before the next
//! line is read. It uses rmcp as it comes: the legacy handshake and the SDK's own recovery.

#![expect(deprecated, reason = "sampling, logging and subscriptions are what the legacy era has")]

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rmcp::{
    ClientHandler, ErrorData, Peer, RoleClient, ServiceError, ServiceExt,
    model::{
        CallToolRequest, CallToolRequestParams, CancelledNotificationParam, ClientConfig, ClientRequest,
        CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams, ElicitResult, Implementation,
        LoggingMessageNotificationParam, PingRequest, ProgressNotificationParam, ProgressToken,
        ResourceUpdatedNotificationParam,
    },
    service::{
        NotificationContext, PeerRequestOptions, QuitReason, RequestContext, RunningServiceCancellationToken,
    },
    transport::{
        StreamableHttpClientTransport, TokioChildProcess,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::oneshot,
};

/// Progress kept for a call whose token is not known here yet; it comes within one turn of the runtime.
const EARLY_KEPT: usize = 64;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let calls = Calls::default();
    let mut connection = None;
    while let Some(line) = lines.next_line().await? {
        if line.trim().is_empty() {
            continue;
        }
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        let n = line["n"].clone();
        let op = match Op::deserialize(line) {
            Ok(op) => op,
            Err(cause) => {
                answer(&n, Err(failure(format!("not a command: {cause}"))));
                continue;
            }
        };
        match op {
            Op::Connect(to) => {
                if let Some(old) = connection.take() {
                    close(old).await;
                }
                let opened = connect(to, calls.clone()).await;
                answer(
                    &n,
                    opened.map(|(opened, server)| {
                        connection = Some(opened);
                        server
                    }),
                );
            }
            Op::Close => {
                if let Some(old) = connection.take() {
                    close(old).await;
                }
                answer(&n, Ok(Value::Null));
            }
            Op::Cancel { of } => {
                let known = calls.lock().cancels.remove(&of.to_string());
                let outcome = match known.map(|cancel| cancel.send(())) {
                    Some(Ok(())) => Ok(Value::Null),
                    Some(Err(())) | None => Err(failure(format!("no call {of} is running"))),
                };
                answer(&n, outcome);
            }
            Op::Ask(ask) => {
                let Some(Connection { peer, .. }) = &connection else {
                    answer(&n, Err(failure("not connected".to_owned())));
                    continue;
                };
                // Made known before the next line is read, which may cancel it.
                let (cancel, cancelled) = oneshot::channel();
                calls.lock().cancels.insert(n.to_string(), cancel);
                let (peer, calls) = (peer.clone(), calls.clone());
                tokio::spawn(async move {
                    let outcome = perform(&n, ask, &peer, &calls, cancelled).await;
                    calls.lock().cancels.remove(&n.to_string());
                    answer(&n, outcome);
                });
            }
        }
    }
    if let Some(old) = connection.take() {
        close(old).await;
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Op {
    Connect(Connect),
    Close,
    Cancel {
        of: Value,
    },
    #[serde(untagged)]
    Ask(Ask),
}

#[derive(Deserialize)]
struct Connect {
    url: Option<String>,
    command: Option<Vec<String>>,
    #[serde(default)]
    headers: HashMap<String, String>,
}

/// What is asked of the server. `timeout_ms` of a call is the SDK's own time limit, which cancels at the server.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Ask {
    Call {
        tool: String,
        #[serde(default)]
        args: serde_json::Map<String, Value>,
        #[serde(default)]
        progress: bool,
        timeout_ms: Option<u64>,
    },
    ListTools,
    ListPrompts,
    ListResources,
    ReadResource {
        uri: String,
    },
    GetPrompt {
        name: String,
        #[serde(default)]
        args: serde_json::Map<String, Value>,
    },
    Ping,
    SetLevel {
        level: Value,
    },
    Subscribe {
        uri: String,
    },
    Unsubscribe {
        uri: String,
    },
}

struct Connection {
    peer: Peer<RoleClient>,
    stop: RunningServiceCancellationToken,
    ended: oneshot::Receiver<()>,
}

/// Calls under way, shared with the tasks that serve them.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<CallTable>>);

#[derive(Default)]
struct CallTable {
    cancels: HashMap<String, oneshot::Sender<()>>,
    /// Which command wants the progress told under a token.
    progress: HashMap<ProgressToken, Value>,
    /// Progress that came before its token was known here.
    early: Vec<ProgressNotificationParam>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, CallTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, token: ProgressToken, n: &Value) {
        let mut table = self.lock();
        for early in table.early.extract_if(.., |early| early.progress_token == token) {
            say_progress(n, &early);
        }
        table.progress.insert(token, n.clone());
    }
}

async fn connect(to: Connect, calls: Calls) -> Result<(Connection, Value), Value> {
    let client = Listener { calls };
    let started = match (to.url, to.command) {
        (Some(url), None) => {
            let mut headers = HashMap::new();
            for (name, value) in to.headers {
                let name = name.parse().map_err(|cause| failure(format!("header name: {cause}")))?;
                headers
                    .insert(name, value.parse().map_err(|cause| failure(format!("header value: {cause}")))?);
            }
            let config = StreamableHttpClientTransportConfig::with_uri(url).custom_headers(headers);
            client.serve(StreamableHttpClientTransport::from_config(config)).await
        }
        (None, Some(command)) => {
            let Some((program, arguments)) = command.split_first() else {
                return Err(failure("`command` is empty".to_owned()));
            };
            let mut child = tokio::process::Command::new(program);
            child.args(arguments).kill_on_drop(true);
            let child =
                TokioChildProcess::new(child).map_err(|cause| failure(format!("{program}: {cause}")))?;
            client.serve(child).await
        }
        (Some(_), Some(_)) | (None, None) => return Err(failure("give `url` or `command`".to_owned())),
    };
    let running = started.map_err(|cause| match cause {
        rmcp::service::ClientInitializeError::JsonRpcError(error) => protocol_failure(&error),
        other => failure(chain(&other)),
    })?;
    let peer = running.peer().clone();
    let stop = running.cancellation_token();
    let server =
        peer.peer_info().and_then(|server| serde_json::to_value(server.as_ref()).ok()).unwrap_or_default();
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        match running.waiting().await {
            Ok(QuitReason::Cancelled) => {}
            Ok(reason) => say(&json!({"event": "stream_error", "message": format!("{reason:?}")})),
            Err(cause) => say(&json!({"event": "stream_error", "message": cause.to_string()})),
        }
        let _ = end.send(());
    });
    Ok((Connection { peer, stop, ended }, server))
}

async fn close(connection: Connection) {
    connection.stop.cancel();
    // The SDK says goodbye with a DELETE, or closes the child's input; it bounds both itself.
    let _ = tokio::time::timeout(Duration::from_secs(10), connection.ended).await;
}

async fn perform(
    n: &Value,
    ask: Ask,
    peer: &Peer<RoleClient>,
    calls: &Calls,
    cancelled: oneshot::Receiver<()>,
) -> Result<Value, Value> {
    match ask {
        Ask::Call { tool, args, progress, timeout_ms } => {
            let mut options = PeerRequestOptions::no_options();
            options.timeout = timeout_ms.map(Duration::from_millis);
            let params = CallToolRequestParams::new(tool).with_arguments(args);
            let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
            let sent = peer.send_cancellable_request(request, options).await.map_err(refusal)?;
            if progress {
                calls.watch(sent.progress_token.clone(), n);
            }
            let id = sent.id.clone();
            tokio::select! {
                answer = sent.await_response() => wire(answer),
                Ok(()) = cancelled => {
                    let notice = CancelledNotificationParam::new(Some(id), Some("cancelled by command".to_owned()));
                    peer.notify_cancelled(notice).await.map_err(refusal)?;
                    Err(failure("cancelled".to_owned()))
                }
            }
        }
        Ask::ListTools => wire(peer.list_tools(None).await),
        Ask::ListPrompts => wire(peer.list_prompts(None).await),
        Ask::ListResources => wire(peer.list_resources(None).await),
        Ask::ReadResource { uri } => wire(peer.read_resource(params(json!({"uri": uri}))?).await),
        Ask::GetPrompt { name, args } => {
            wire(peer.get_prompt(params(json!({"name": name, "arguments": args}))?).await)
        }
        Ask::Ping => {
            let ping = PingRequest { method: Default::default(), extensions: Default::default() };
            wire(peer.send_request(ClientRequest::PingRequest(ping)).await)
        }
        Ask::SetLevel { level } => wire(peer.set_level(params(json!({"level": level}))?).await),
        Ask::Subscribe { uri } => wire(peer.subscribe(params(json!({"uri": uri}))?).await),
        Ask::Unsubscribe { uri } => wire(peer.unsubscribe(params(json!({"uri": uri}))?).await),
    }
}

/// Tells what the server sends of itself, and answers what it asks.
struct Listener {
    calls: Calls,
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let capabilities =
            serde_json::from_value(json!({"sampling": {}, "elicitation": {}})).unwrap_or_default();
        ClientConfig::new(capabilities, Implementation::new("rmcp-peer-client", "1.0.0"))
    }

    async fn create_message(
        &self,
        request: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let messages = serde_json::to_value(&request.messages).unwrap_or_default();
        let prompt = messages[0]["content"]["text"].as_str().unwrap_or_default();
        say(&json!({"event": "sampling", "prompt": prompt}));
        let content = json!({"type": "text", "text": format!("sampled: {prompt}")});
        serde_json::from_value(json!({"role": "assistant", "model": "none", "content": content}))
            .map_err(|cause| ErrorData::internal_error(cause.to_string(), None))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let request = serde_json::to_value(&request).unwrap_or_default();
        say(&json!({"event": "elicitation", "message": request["message"]}));
        serde_json::from_value(json!({"action": "accept", "content": {"name": "relatch"}}))
            .map_err(|cause| ErrorData::internal_error(cause.to_string(), None))
    }

    async fn on_cancelled(
        &self,
        notice: CancelledNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        say(&json!({"event": "cancelled", "id": notice.request_id, "reason": notice.reason}));
    }

    async fn on_progress(&self, told: ProgressNotificationParam, _context: NotificationContext<RoleClient>) {
        let mut table = self.calls.lock();
        match table.progress.get(&told.progress_token) {
            Some(n) => say_progress(n, &told),
            None => {
                // Most is for calls that did not ask for it: the SDK puts a token on every call.
                if table.early.len() == EARLY_KEPT {
                    table.early.remove(0);
                }
                table.early.push(told);
            }
        }
    }

    async fn on_logging_message(
        &self,
        log: LoggingMessageNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        say(&json!({"event": "log", "level": log.level, "logger": log.logger, "data": log.data}));
    }

    async fn on_resource_updated(
        &self,
        at: ResourceUpdatedNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        say(&json!({"event": "resource_updated", "uri": at.uri}));
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        say(&json!({"event": "list_changed", "kind": "tools"}));
    }

    async fn on_prompt_list_changed(&self, _context: NotificationContext<RoleClient>) {
        say(&json!({"event": "list_changed", "kind": "prompts"}));
    }

    async fn on_resource_list_changed(&self, _context: NotificationContext<RoleClient>) {
        say(&json!({"event": "list_changed", "kind": "resources"}));
    }
}

fn say_progress(n: &Value, told: &ProgressNotificationParam) {
    let (progress, total) = (told.progress, told.total);
    say(&json!({"event": "progress", "n": n, "progress": progress, "total": total, "message": told.message}));
}

fn answer(n: &Value, outcome: Result<Value, Value>) {
    match outcome {
        Ok(result) => say(&json!({"n": n, "ok": true, "result": result})),
        Err(error) => say(&json!({"n": n, "ok": false, "error": error})),
    }
}

/// One line, whole. Whoever started this process is gone if it can't be written, and standard input will end too.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn params<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Value> {
    serde_json::from_value(value).map_err(|cause| failure(format!("arguments: {cause}")))
}

fn wire<T: serde::Serialize>(answer: Result<T, ServiceError>) -> Result<Value, Value> {
    let answer = answer.map_err(refusal)?;
    serde_json::to_value(answer).map_err(|cause| failure(cause.to_string()))
}

fn refusal(cause: ServiceError) -> Value {
    match cause {
        ServiceError::McpError(error) => protocol_failure(&error),
        other => failure(chain(&other)),
    }
}

fn protocol_failure(error: &ErrorData) -> Value {
    json!({"message": error.message, "code": error.code.0, "data": error.data})
}

fn failure(message: String) -> Value {
    json!({"message": message, "code": null, "data": null})
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        message = format!("{message}: {deeper}");
        cause = deeper.source();
    }
    message
}
