//! The fixture that the official conformance suite asks for, in revisions 2025-06-18 and 2025-11-25: its tools, prompts
//! and resources by the names that the suite calls. What the suite does not look at is not here.

#![expect(deprecated, reason = "sampling, logging and subscriptions are what the legacy era has")]

use std::{sync::Arc, time::Duration};

use clap::Parser;
use relatch_peers_rmcp::{client_refused, serve, text_argument, typed};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
        GetPromptRequestParams, GetPromptResponse, GetPromptResult, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult,
        ServerConfig, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams,
    },
    service::RequestContext,
    transport::{
        common::http_header::HEADER_SESSION_ID, streamable_http_server::session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};

/// One pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mMwSJgAAAHkASH0kQGeAAAAAElFTkSuQmCC";
/// Four samples.
const WAV: &str = "UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQgAAAAAAEAfAADA4A==";

/// Between two notifications, so that they travel apart.
const PAUSE: Duration = Duration::from_millis(50);
/// What a client is asked to wait before it takes up a closed stream again.
const RETRY: Duration = Duration::from_millis(100);
/// How long the answer to a closed stream is held back. rmcp 3.11 forgets an answer that it can't write, so this has
/// to be longer than any client takes to come back: relatch waits for `RETRY`, the suite does not wait at all.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(about = "The conformance suite's fixture on rmcp")]
struct Flags {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sessions = Arc::new(LocalSessionManager::default());
    let fixture = Fixture { sessions: sessions.clone() };
    serve(Flags::parse().port, false, sessions, move || fixture.clone()).await
}

#[derive(Clone)]
struct Fixture {
    sessions: Arc<LocalSessionManager>,
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let config = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {
                "completions": {},
                "logging": {},
                "prompts": {},
                "resources": {"subscribe": true},
                "tools": {},
            },
            "serverInfo": {"name": "rmcp-conformance-fixture", "version": "1.0.0"},
        });
        typed(config).unwrap_or_default()
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        typed(json!({"tools": tools()}))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let content = match request.name.as_ref() {
            "test_simple_text" => text("Plain text"),
            "test_image_content" => json!([image()]),
            "test_audio_content" => json!([{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]),
            "test_embedded_resource" => {
                json!([embedded("test://embedded-resource", "text/plain", "Embedded")])
            }
            "test_multiple_content_types" => json!([
                {"type": "text", "text": "Three kinds of content"},
                image(),
                embedded("test://mixed-content-resource", "application/json", r#"{"kinds":3}"#),
            ]),
            "test_tool_with_logging" => log_thrice(&context).await?,
            "test_tool_with_progress" => progress_thrice(&context).await?,
            "test_error_handling" => {
                return typed::<CallToolResult>(json!({"content": text("Fails as asked"), "isError": true}))
                    .map(Into::into);
            }
            "test_sampling" => sample(text_argument(&arguments, "prompt")?, &context).await?,
            "test_elicitation" => {
                elicit(text_argument(&arguments, "message")?, user_form(), &context).await?
            }
            "test_elicitation_sep1034_defaults" => elicit("With defaults", defaults_form(), &context).await?,
            "test_elicitation_sep1330_enums" => elicit("Choose", choices_form(), &context).await?,
            "test_reconnection" => self.answer_on_another_stream(&context).await?,
            "json_schema_2020_12_tool" => text("Nothing to do"),
            unknown => return Err(ErrorData::invalid_params(format!("no tool `{unknown}`"), None)),
        };
        typed::<CallToolResult>(json!({"content": content})).map(Into::into)
    }

    async fn list_prompts(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let argument = |name: &str| json!({"name": name, "description": "A text", "required": true});
        typed(json!({"prompts": [
            {"name": "test_simple_prompt", "description": "Takes nothing"},
            {
                "name": "test_prompt_with_arguments",
                "description": "Says both arguments",
                "arguments": [argument("arg1"), argument("arg2")],
            },
            {
                "name": "test_prompt_with_embedded_resource",
                "description": "Carries a resource",
                "arguments": [argument("resourceUri")],
            },
            {"name": "test_prompt_with_image", "description": "Carries an image"},
        ]}))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let says = |text: String| json!({"type": "text", "text": text});
        let parts = match request.name.as_str() {
            "test_simple_prompt" => vec![says("A simple prompt".to_owned())],
            "test_prompt_with_arguments" => {
                let (first, second) =
                    (text_argument(&arguments, "arg1")?, text_argument(&arguments, "arg2")?);
                vec![says(format!("The arguments are {first} and {second}"))]
            }
            "test_prompt_with_embedded_resource" => {
                let uri = text_argument(&arguments, "resourceUri")?;
                vec![embedded(uri, "text/plain", "Embedded"), says("Read the resource".to_owned())]
            }
            "test_prompt_with_image" => vec![image(), says("Look at the image".to_owned())],
            unknown => return Err(ErrorData::invalid_params(format!("no prompt `{unknown}`"), None)),
        };
        let messages: Vec<Value> =
            parts.into_iter().map(|content| json!({"role": "user", "content": content})).collect();
        typed::<GetPromptResult>(json!({"messages": messages})).map(Into::into)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let begun = request.argument.value;
        let values: Vec<&str> =
            ["test", "testing", "tested"].into_iter().filter(|value| value.starts_with(&begun)).collect();
        typed(json!({"completion": {"total": values.len(), "values": values, "hasMore": false}}))
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resource =
            |uri: &str, kind: &str| json!({"uri": uri, "name": uri, "description": uri, "mimeType": kind});
        typed(json!({"resources": [
            resource("test://static-text", "text/plain"),
            resource("test://static-binary", "image/png"),
            resource("test://watched-resource", "text/plain"),
        ]}))
    }

    async fn list_resource_templates(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        typed(json!({"resourceTemplates": [
            {"uriTemplate": "test://template/{id}/data", "name": "data", "mimeType": "application/json"},
        ]}))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
        let contents = match (uri.as_str(), id) {
            ("test://static-text" | "test://watched-resource", _) => {
                json!({"uri": uri, "mimeType": "text/plain", "text": "It never changes"})
            }
            ("test://static-binary", _) => json!({"uri": uri, "mimeType": "image/png", "blob": PNG}),
            (_, Some(id)) => {
                let data = json!({"id": id, "data": format!("Data of {id}")});
                json!({"uri": uri, "mimeType": "application/json", "text": data.to_string()})
            }
            (_, None) => {
                return Err(ErrorData::resource_not_found("no such resource", Some(json!({"uri": uri}))));
            }
        };
        typed::<ReadResourceResult>(json!({"contents": [contents]})).map(Into::into)
    }

    async fn subscribe(
        &self,
        _request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn set_level(
        &self,
        _request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }
}

impl Fixture {
    /// Closes the stream of this call before it is answered, so that the client has to come back for the answer.
    async fn answer_on_another_stream(
        &self,
        context: &RequestContext<RoleServer>,
    ) -> Result<Value, ErrorData> {
        let session = context
            .extensions
            .get::<http::request::Parts>()
            .and_then(|parts| parts.headers.get(HEADER_SESSION_ID)?.to_str().ok());
        let Some(session) = session else {
            return Err(ErrorData::invalid_request("this tool needs a session", None));
        };
        let open = self.sessions.sessions.read().await.get(session).cloned();
        let Some(open) = open else {
            return Err(ErrorData::internal_error("the session is not listed", None));
        };
        // rmcp tells a tool neither its stream's number nor which are open. The suite has one call in flight and few
        // before it in the session, so: close whatever is open among the first.
        let mut closed = 0;
        for stream in 0..64 {
            closed += u32::from(open.close_sse_stream(stream, Some(RETRY)).await.is_ok());
        }
        tokio::time::sleep(COMES_BACK_WITHIN).await;
        Ok(text(&format!("Answered after closing {closed} stream")))
    }
}

async fn log_thrice(context: &RequestContext<RoleServer>) -> Result<Value, ErrorData> {
    for step in ["begun", "under way", "done"] {
        let log = typed(json!({"level": "info", "logger": "fixture", "data": step}))?;
        context.peer.notify_logging_message(log).await.map_err(client_refused)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(text("Logged three times"))
}

async fn progress_thrice(context: &RequestContext<RoleServer>) -> Result<Value, ErrorData> {
    for done in [0.0, 50.0, 100.0] {
        if let Some(token) = context.meta.get_progress_token() {
            let progress = ProgressNotificationParam::new(token, done).with_total(100.0);
            context.peer.notify_progress(progress).await.map_err(client_refused)?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(text("Told three times"))
}

async fn sample(prompt: &str, context: &RequestContext<RoleServer>) -> Result<Value, ErrorData> {
    let request = json!({
        "messages": [{"role": "user", "content": {"type": "text", "text": prompt}}],
        "maxTokens": 100,
    });
    let answer = context.peer.create_message(typed(request)?).await.map_err(client_refused)?;
    let answer = serde_json::to_value(answer).unwrap_or_default();
    Ok(text(&format!("The model said: {}", answer["content"]["text"])))
}

async fn elicit(
    message: &str,
    form: Value,
    context: &RequestContext<RoleServer>,
) -> Result<Value, ErrorData> {
    let request = typed(json!({"mode": "form", "message": message, "requestedSchema": form}))?;
    let answer = context.peer.create_elicitation(request).await.map_err(client_refused)?;
    Ok(text(&format!("The user said: {}", serde_json::to_value(answer).unwrap_or_default())))
}

fn text(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

fn image() -> Value {
    json!({"type": "image", "data": PNG, "mimeType": "image/png"})
}

fn embedded(uri: &str, kind: &str, text: &str) -> Value {
    json!({"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": text}})
}

fn user_form() -> Value {
    let field = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "properties": {"username": field("A name"), "email": field("An address")},
        "required": ["username", "email"],
    })
}

/// A default for every primitive type (SEP-1034).
fn defaults_form() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": true},
        },
    })
}

/// Every way to write a choice (SEP-1330).
fn choices_form() -> Value {
    let plain = json!(["option1", "option2", "option3"]);
    let titled = json!([
        {"const": "value1", "title": "First"},
        {"const": "value2", "title": "Second"},
        {"const": "value3", "title": "Third"},
    ]);
    json!({
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["First", "Second", "Third"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        },
    })
}

fn tools() -> Vec<Value> {
    let mut tools = vec![
        tool("test_simple_text", "Returns text", None),
        tool("test_image_content", "Returns an image", None),
        tool("test_audio_content", "Returns a sound", None),
        tool("test_embedded_resource", "Returns a resource", None),
        tool("test_multiple_content_types", "Returns text, an image and a resource", None),
        tool("test_tool_with_logging", "Logs while it runs", None),
        tool("test_tool_with_progress", "Tells its progress", None),
        tool("test_error_handling", "Always fails", None),
        tool("test_sampling", "Asks the client's model", Some("prompt")),
        tool("test_elicitation", "Asks the client's user", Some("message")),
        tool("test_elicitation_sep1034_defaults", "Asks with default values", None),
        tool("test_elicitation_sep1330_enums", "Asks for choices", None),
        tool("test_reconnection", "Closes its stream before it answers", None),
    ];
    tools.push(json!({
        "name": "json_schema_2020_12_tool",
        "description": "Has a schema with many keywords",
        "inputSchema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {"address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }},
            "properties": {
                "name": {"type": "string"},
                "address": {"$ref": "#/$defs/address"},
                "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                "phone": {"type": "string"},
                "email": {"type": "string"},
            },
            "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
            "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
            "then": {"required": ["phone"]},
            "else": {"required": ["email"]},
            "additionalProperties": false,
        },
    }));
    tools
}

fn tool(name: &str, description: &str, argument: Option<&str>) -> Value {
    let properties: serde_json::Map<String, Value> =
        argument.into_iter().map(|name| (name.to_owned(), json!({"type": "string"}))).collect();
    let required: Vec<&str> = argument.into_iter().collect();
    json!({
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": properties, "required": required},
    })
}
