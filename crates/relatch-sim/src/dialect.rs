//! How servers of the field refuse a session that they don't know.
//!
//! Facts only: status, body and code as the wire shows them. What they mean is for the core to find out.

/// A refusal as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) status: u16,
    pub(crate) code: Option<i64>,
    pub(crate) body: &'static str,
}

/// One server's way to refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    pub(crate) name: &'static str,
    pub(crate) post: Words,
    pub(crate) get: Words,
}

const fn words(status: u16, code: Option<i64>, body: &'static str) -> Words {
    Words { status, code, body }
}

const fn same(name: &'static str, status: u16, code: Option<i64>, body: &'static str) -> Dialect {
    Dialect { name, post: words(status, code, body), get: words(status, code, body) }
}

/// Every dialect that says so by a status of its own, before anything runs.
pub(crate) const PLAIN: &[Dialect] = &[
    same("empty", 404, None, ""),
    same("a page", 404, None, "<html><h1>404 Not Found</h1></html>"),
    same("ts transport", 404, Some(-32001), "Session not found"),
    Dialect {
        name: "ts fixture",
        post: words(404, Some(-32001), "Session not found"),
        get: words(400, None, "<pre>Invalid or missing session ID</pre>"),
    },
    same("server-everything", 400, Some(-32000), "Bad Request: No valid session ID provided"),
    same("python to 1.25", 400, None, "Bad Request: No valid session ID provided"),
    same("python", 404, Some(-32600), "Session not found"),
    same("rmcp", 404, None, "Not Found: Session not found"),
    Dialect {
        name: "rmcp to 3.5",
        post: words(422, None, "Unexpected message, expect initialize request"),
        get: words(404, None, "Not Found: Session not found"),
    },
    same("rmcp to 0.16", 401, None, "Unauthorized: Session not found"),
    same("go", 404, None, "session not found\n"),
    same(
        "c# stateless",
        400,
        Some(-32000),
        "Bad Request: The Mcp-Session-Id header is not supported in stateless mode",
    ),
    Dialect {
        name: "java",
        post: words(404, None, r#"{"jsonRpcError":{"code":-32603,"message":"Session not found: 1f"}}"#),
        get: words(404, None, ""),
    },
    same("kotlin", 404, Some(-32000), "Session not found"),
    same("php", 404, Some(-32600), "Session not found or has expired."),
    same("swift", 404, Some(-32600), "Not Found: Invalid or expired session ID"),
    same("mcp-go to 2025", 400, None, "Invalid session ID"),
    same("vs code's find", 404, Some(-32601), "Invalid session ID"),
    same("gone", 410, None, "Gone"),
];

/// Those that only a question can tell from a trouble of another kind.
pub(crate) const ODD: &[Dialect] = &[
    same("principal", 403, Some(-32001), "principal mismatch"),
    same("conflict", 409, None, "Unknown Mcp-Session-Id"),
    same("unavailable", 503, None, "session unknown"),
    same("durable object", 500, Some(-32001), "Failed to establish WebSocket connection"),
    Dialect {
        name: "200 -32000",
        post: words(200, Some(-32000), "Server not initialized"),
        get: words(404, None, ""),
    },
    Dialect {
        name: "200 -32600",
        post: words(200, Some(-32600), "missing or invalid Mcp-Session-Id"),
        get: words(405, None, ""),
    },
];
