//! What the two servers of this workspace share: serving rmcp over loopback HTTP, reading arguments, and the ledger
//! in which executions are counted. It knows nothing of relatch, and neither does anything else here.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use rmcp::{
    ErrorData, ServerHandler, ServiceError,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Serves `make` at `/mcp` on 127.0.0.1 until the process ends, with a session for every `initialize`.
///
/// Prints `listening on URL` once connections are taken; port 0 takes a free one. `json` asks for plain JSON answers,
/// which rmcp 3.11 gives only to clients that have no session, so that it changes nothing for ours.
pub async fn serve<S>(
    port: u16,
    json: bool,
    sessions: Arc<LocalSessionManager>,
    make: impl Fn() -> S + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    S: ServerHandler,
{
    let config = StreamableHttpServerConfig::default().with_json_response(json).with_allowed_origins([
        "http://127.0.0.1:*",
        "http://localhost:*",
        "http://[::1]:*",
    ]);
    let service = StreamableHttpService::new(move || Ok(make()), sessions, config);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .with_context(|| format!("port {port} can't be listened on"))?;
    writeln!(std::io::stdout(), "listening on http://{}/mcp", listener.local_addr()?)?;
    axum::serve(listener, axum::Router::new().route_service("/mcp", service)).await?;
    Ok(())
}

/// Reads a value of the SDK's from the JSON that it has on the wire.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value)
        .map_err(|cause| ErrorData::internal_error(format!("a value of this server's own: {cause}"), None))
}

/// The string argument `name` of a call.
pub fn text_argument<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, ErrorData> {
    arguments[name]
        .as_str()
        .ok_or_else(|| ErrorData::invalid_params(format!("`{name}` must be a string"), None))
}

/// The whole-number argument `name` of a call, 0 if absent.
pub fn number_argument(arguments: &Value, name: &str) -> Result<u64, ErrorData> {
    match &arguments[name] {
        Value::Null => Ok(0),
        given => given
            .as_u64()
            .ok_or_else(|| ErrorData::invalid_params(format!("`{name}` must be a whole number"), None)),
    }
}

/// A failed request to the client, as the tool's own error.
pub fn client_refused(cause: ServiceError) -> ErrorData {
    ErrorData::internal_error(format!("the client did not answer: {cause}"), None)
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

/// A file of JSON lines that outlives the process: what really ran, however often the server was killed.
#[derive(Clone)]
pub struct Ledger(Option<Arc<Mutex<File>>>);

impl Ledger {
    /// Opens `path` for appending; without a path nothing is kept.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("the ledger {} can't be opened", path.display()))?;
        Ok(Self(Some(Arc::new(Mutex::new(file)))))
    }

    /// Appends one line in a single write, so that lines of several processes never mix.
    pub fn append(&self, entry: &Value) -> Result<(), ErrorData> {
        let Some(file) = &self.0 else { return Ok(()) };
        let line = format!("{entry}\n");
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .map_err(|cause| ErrorData::internal_error(format!("the ledger can't be written: {cause}"), None))
    }
}
