//! What a server is built with, and how it is mended there.
//!
//! Recognised by the words of its refusals, which no server changes, and not by its name, which every server chooses.
//! A hint holds a line of code only where the SDK's own documentation or source has it.

use super::facts::{Answer, Inside, Seen};

/// An SDK, as far as it can be told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// Session map of the SDK's examples, which refuses unknown ids by itself.
    TypeScriptMap,
    TypeScript,
    TypeScript2,
    PythonOld,
    Python1,
    Python2,
    FastMcp,
    RmcpOld,
    Rmcp,
    Go,
    McpGo,
    CSharp,
    Java,
    Kotlin,
    Ruby,
    Php,
    Swift,
}

/// What can be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ill {
    /// Unknown sessions are not answered 404.
    DeadSession,
    /// Pages of other sites may call.
    Origin,
    /// Streams can't be resumed.
    Resumption,
}

impl Sdk {
    /// Looks at every refusal; the most telling words first.
    pub(crate) fn recognise(inside: &Inside) -> Option<Sdk> {
        let session = inside.session.as_ref();
        let foreign = session.and_then(|session| session.foreign.answer());
        let missing = session.and_then(|session| session.missing.answer());
        let all: Vec<&Answer> = [
            session.map(|session| &session.foreign),
            session.map(|session| &session.missing),
            session.map(|session| &session.misshapen),
            session.map(|session| &session.ended),
            Some(&inside.accept_json),
            Some(&inside.accept_events),
            Some(&inside.version_unknown),
            Some(&inside.foreign_host),
            Some(&inside.discover),
        ]
        .into_iter()
        .flatten()
        .filter_map(Seen::answer)
        .filter(|answer| answer.status >= 400)
        .collect();
        let says = |words: &str| all.iter().any(|answer| answer.body.contains(words));
        let says_with =
            |code: i64, words: &str| all.iter().any(|a| a.rpc_code == Some(code) && a.body.contains(words));
        let plain = |words: &str| all.iter().any(|a| !a.json && a.body.trim() == words);
        let is = |answer: Option<&Answer>, status: u16, code: Option<i64>, words: &str| {
            answer.is_some_and(|a| a.status == status && a.rpc_code == code && a.body.contains(words))
        };
        if is_fastmcp(inside) {
            return Some(Sdk::FastMcp);
        }
        if says("can only be created by an initialize request")
            || says("not supported in stateless mode")
            || software(inside).contains("Kestrel")
        {
            return Some(Sdk::CSharp);
        }
        if says("expect initialize request") || plain("Unauthorized: Session not found") {
            return Some(Sdk::RmcpOld);
        }
        if says("Unsupported MCP-Protocol-Version")
            || plain("Not Found: Session not found")
            || plain("Forbidden: Host header is not allowed")
        {
            return Some(Sdk::Rmcp);
        }
        if says("in mcp-session-id header") || is(foreign, 404, None, "Session not found: ") {
            return Some(Sdk::Java);
        }
        if says("must be a valid UUID") || says("Session not found or has expired") {
            return Some(Sdk::Php);
        }
        if says("Invalid or expired session ID") {
            return Some(Sdk::Swift);
        }
        if plain("session not found") || says("Accept must contain") {
            return Some(Sdk::Go);
        }
        if plain("Invalid session ID") {
            return Some(Sdk::McpGo);
        }
        if foreign.is_some_and(|a| a.status == 400 && !a.json && a.body.contains("No valid session ID")) {
            return Some(Sdk::PythonOld);
        }
        let by_id = all.iter().any(|answer| answer.id.as_ref().is_some_and(|id| id == "server-error"));
        if by_id {
            return Some(Sdk::Python1);
        }
        if is(missing, 400, Some(-32600), "\"Missing session ID\"") {
            return Some(Sdk::Ruby);
        }
        if says("Bad Request: Missing session ID")
            || says_with(-32600, "Not Acceptable: Client must accept")
            || says("Invalid Host header")
        {
            return Some(Sdk::Python2);
        }
        if is(foreign, 404, Some(-32000), "Session not found") {
            return Some(Sdk::Kotlin);
        }
        if is(foreign, 400, Some(-32000), "No valid session ID provided") {
            return Some(Sdk::TypeScriptMap);
        }
        if says_with(-32000, "Not Acceptable: Client must accept")
            || says_with(-32000, "(supported versions:")
        {
            return Some(if inside.discover.worked() { Sdk::TypeScript2 } else { Sdk::TypeScript });
        }
        None
    }

    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sdk::TypeScriptMap => "TypeScript SDK with the session map of its examples",
            Sdk::TypeScript => "TypeScript SDK",
            Sdk::TypeScript2 => "TypeScript SDK v2",
            Sdk::PythonOld => "Python SDK before 1.26",
            Sdk::Python1 => "Python SDK 1.x",
            Sdk::Python2 => "Python SDK 2.x",
            Sdk::FastMcp => "FastMCP for Python",
            Sdk::RmcpOld => "an old Rust SDK (rmcp)",
            Sdk::Rmcp => "Rust SDK (rmcp)",
            Sdk::Go => "Go SDK",
            Sdk::McpGo => "mcp-go",
            Sdk::CSharp => "C# SDK",
            Sdk::Java => "Java SDK or Spring AI",
            Sdk::Kotlin => "Kotlin SDK",
            Sdk::Ruby => "Ruby SDK",
            Sdk::Php => "PHP SDK",
            Sdk::Swift => "Swift SDK",
        }
    }

    /// How it is mended in this SDK; none where nobody here knows for sure.
    pub(crate) fn mend(self, ill: Ill) -> Option<&'static str> {
        match (self, ill) {
            (Sdk::TypeScriptMap | Sdk::TypeScript, Ill::DeadSession) => Some(
                "Before you look for a transport: `if (sessionId && !transports[sessionId]) return res.status(404)\
.json({ jsonrpc: '2.0', error: { code: -32001, message: 'Session not found' }, id: null })`",
            ),
            (Sdk::PythonOld, Ill::DeadSession) => {
                Some("Take a newer SDK, which answers 404: `pip install 'mcp>=1.26'`")
            }
            (Sdk::RmcpOld, Ill::DeadSession) => {
                Some("Take a newer `rmcp`: it answers 404 since 0.17, and 400 without an id since 3.6")
            }
            (Sdk::CSharp, Ill::DeadSession) => {
                Some("Give the server sessions: `.WithHttpTransport(options => options.Stateless = false)`")
            }
            (Sdk::TypeScriptMap | Sdk::TypeScript, Ill::Origin) => Some(
                "With v1 and Express: `createMcpExpressApp()` from `@modelcontextprotocol/sdk/server/express.js` refuses \
a foreign `Host`. With v2: `localhostHostValidation()` and `localhostOriginValidation()` from `@modelcontextprotocol/node`",
            ),
            (Sdk::TypeScript2, Ill::Origin) => Some(
                "`localhostHostValidation()` and `localhostOriginValidation()` from `@modelcontextprotocol/node`, both \
asked before `handleRequest`",
            ),
            (Sdk::PythonOld | Sdk::Python1 | Sdk::Python2, Ill::Origin) => Some(
                "`TransportSecuritySettings(allowed_hosts=['127.0.0.1:*', 'localhost:*'], \
allowed_origins=['http://127.0.0.1:*', 'http://localhost:*'])` from `mcp.server.transport_security`, as \
`security_settings` of `StreamableHTTPSessionManager`, or as `transport_security` of `FastMCP` (1.x) or of \
`streamable_http_app` (2.x)",
            ),
            (Sdk::FastMcp, Ill::Origin) => Some(
                "With FastMCP 4: `mcp.run(transport='http', host_origin_protection=True)`, or the same option of \
`mcp.http_app()`",
            ),
            (Sdk::Rmcp | Sdk::RmcpOld, Ill::Origin) => Some(
                "`StreamableHttpServerConfig::default().with_allowed_origins([\"http://localhost:*\"])`; foreign hosts are \
refused by default",
            ),
            (Sdk::Go, Ill::Origin) => {
                Some("Put `http.NewCrossOriginProtection().Handler(handler)` around the handler (Go 1.25)")
            }
            (Sdk::CSharp, Ill::Origin) => {
                Some("Set `\"AllowedHosts\": \"localhost;127.0.0.1\"` in `appsettings.json`")
            }
            (Sdk::TypeScriptMap | Sdk::TypeScript | Sdk::TypeScript2, Ill::Resumption) => {
                Some("Give the transport an `eventStore`")
            }
            (Sdk::PythonOld | Sdk::Python1 | Sdk::Python2 | Sdk::FastMcp, Ill::Resumption) => {
                Some("Give the app an `event_store`")
            }
            (Sdk::CSharp, Ill::Resumption) => Some("Set `EventStreamStore` in `HttpServerTransportOptions`"),
            (
                Sdk::Kotlin
                | Sdk::Ruby
                | Sdk::Php
                | Sdk::Swift
                | Sdk::Java
                | Sdk::McpGo
                | Sdk::Go
                | Sdk::Rmcp
                | Sdk::RmcpOld
                | Sdk::FastMcp
                | Sdk::Python1
                | Sdk::Python2
                | Sdk::TypeScript2,
                _,
            ) => None,
        }
    }
}

fn is_fastmcp(inside: &Inside) -> bool {
    let tools = inside.tools.as_ref().and_then(|seen| seen.answer()?.result.as_ref()?["tools"].as_array());
    tools.is_some_and(|tools| {
        tools.iter().any(|tool| tool["_meta"].get("fastmcp").or(tool["_meta"].get("_fastmcp")).is_some())
    })
}

fn software(inside: &Inside) -> &str {
    inside.initialize.answer().and_then(|answer| answer.software.as_deref()).unwrap_or_default()
}
