//! The table of the design against what servers really say: each dialect by name, then the traps.

use super::*;
use Reading::{AboutRequest, Credentials, Gateway, Gone, Later, NotMcp, Redirected, Suspected, WrongPlace};

fn refusal(status: u16, body: &str) -> Refusal<'_> {
    Refusal {
        status,
        body,
        rpc_code: code_of(body),
        digest: 0,
        challenge: false,
        retry_after: None,
        location: None,
        ended: false,
    }
}

/// The code of a JSON-RPC error, as the shell reads it.
fn code_of(body: &str) -> Option<i64> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    value.get("jsonrpc")?;
    value.get("error")?.get("code")?.as_i64()
}

/// A JSON-RPC error with a null id.
fn rpc(code: i64, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{code},"message":"{message}"}}}}"#)
}

/// Server, status, body, what it means for a request that carried an id.
type Row = (&'static str, u16, String, Reading);

fn dialects() -> Vec<Row> {
    let text = str::to_owned;
    vec![
        (
            "TS v1 example pattern, server-everything 2026.8.31",
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#
                .to_owned(),
            Gone,
        ),
        ("TS v1 transport", 404, rpc(-32001, "Session not found"), Gone),
        ("TS v1 transport, not initialized", 400, rpc(-32000, "Bad Request: Server not initialized"), Gone),
        ("TS v1 transport, no header", 400, rpc(-32000, "Bad Request: Mcp-Session-Id header is required"), Gone),
        ("TS v2 sessionful fixture", 404, rpc(-32001, "Session not found"), Gone),
        ("TS v1 fixture, no id", 400, text("Invalid or missing session ID"), Gone),
        ("TS v2 fixture, no id", 400, rpc(-32000, "Bad Request: Session ID required"), Gone),
        ("Python mcp 1.8 to 1.25", 400, text("Bad Request: No valid session ID provided"), Gone),
        (
            "Python mcp 1.26 to 1.30, FastMCP 2 and 3, mcp-proxy",
            404,
            text(r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}"#),
            Gone,
        ),
        ("Python mcp 2.3, FastMCP 4.1", 404, rpc(-32600, "Session not found"), Gone),
        ("Python mcp, no id", 400, rpc(-32600, "Bad Request: Missing session ID"), Gone),
        ("rmcp 3.11", 404, text("Not Found: Session not found"), Gone),
        ("rmcp 3.11, no id", 400, text("Bad Request: Session ID is required"), Gone),
        ("rmcp before 3.6", 422, text("Unexpected message, expect initialize request"), Gone),
        ("rmcp up to 0.16", 401, text("Unauthorized: Session not found"), Gone),
        ("Go SDK stateful", 404, text("session not found\n"), Gone),
        ("Go SDK, closing", 404, text("session is closing"), Gone),
        ("Go SDK, another user's", 403, text("session user mismatch"), Suspected),
        ("C# stateful", 404, rpc(-32001, "Session not found"), Gone),
        ("C# stateful, another user's", 403, text("Forbidden"), Suspected),
        (
            "C# stateful, no id",
            400,
            rpc(-32000, "Bad Request: A new session can only be created by an initialize request"),
            Gone,
        ),
        (
            "C# stateless",
            400,
            rpc(-32000, "Bad Request: The Mcp-Session-Id header is not supported in stateless mode"),
            Gone,
        ),
        (
            "Java servlet, Spring",
            404,
            text(r#"{"jsonRpcError":{"code":-32603,"message":"Session not found: 6f0c"},"message":"Session not found: 6f0c"}"#),
            Gone,
        ),
        ("Java servlet, clean envelope", 404, rpc(-32603, "Session not found: 6f0c"), Gone),
        ("Java, no id", 400, rpc(-32601, "Session ID required in mcp-session-id header"), Gone),
        ("Java, stopping", 503, text("Server is shutting down"), Suspected),
        ("Kotlin 0.14", 404, rpc(-32000, "Session not found"), Gone),
        ("Kotlin 0.14, inner", 404, rpc(-32001, "Session not found"), Gone),
        ("Kotlin 0.14, no id", 400, rpc(-32000, "Bad Request: No valid session ID provided"), Gone),
        ("Ruby 1.3", 404, rpc(-32600, "Session not found"), Gone),
        ("Ruby 1.3, no id", 400, rpc(-32600, "Missing session ID"), Gone),
        ("Ruby 1.3, another owner's", 403, rpc(-32600, "Forbidden"), Suspected),
        ("PHP 0.8", 404, rpc(-32600, "Session not found or has expired."), Gone),
        ("PHP 0.8, id of another make", 400, rpc(-32600, "Mcp-Session-Id must be a valid UUID"), Gone),
        ("PHP 0.8, no id", 400, rpc(-32600, "A valid session id is REQUIRED for non-initialize requests"), Gone),
        ("Swift 0.12", 404, rpc(-32600, "Not Found: Invalid or expired session ID"), Gone),
        ("mcp-go", 404, text("Invalid session ID"), Gone),
        ("mcp-go before 2026", 400, text("Invalid session ID"), Gone),
        ("Cloudflare agents", 404, rpc(-32001, "Session not found"), Gone),
        ("Cloudflare agents, no object", 500, rpc(-32001, "Failed to establish WebSocket connection"), Suspected),
        ("Cloudflare agents, no header", 400, rpc(-32000, "Bad Request: Mcp-Session-Id header is required"), Gone),
        ("supergateway 3.4 stateful", 400, text("Bad Request: No valid session ID provided"), Gone),
        ("supergateway 4", 404, rpc(-32001, "Session not found"), Gone),
        ("npm mcp-proxy 6.7, TS FastMCP 4.20", 404, rpc(-32001, "Session not found"), Gone),
        ("Atlassian hosted", 404, text("Session not found"), Gone),
        ("Atlassian hosted, old address", 404, text("Missing sessionId parameter"), Gone),
        (
            "GitHub hosted",
            404,
            text(r#"{"jsonrpc":"2.0","id":"","error":{"code":-32001,"message":"Session not found"}}"#),
            Gone,
        ),
        ("keryx", 200, text(r#"{"error":"Session not found"}"#), Suspected),
        ("breeze", 403, rpc(-32001, "principal mismatch"), Suspected),
        ("TS SDK issue 1402", 410, text(""), Gone),
        ("OmniRoute", 400, text("Unknown Mcp-Session-Id header"), Gone),
        ("affine", 400, text("Session is missing or not an initialize request"), Gone),
        ("tower-mcp", 400, rpc(-32005, "Session not found"), Gone),
        ("HTTP+SSE of Python", 404, text("Could not find session"), Gone),
        ("HTTP+SSE of Python, bad id", 400, text("Invalid session ID"), Gone),
        ("HTTP+SSE of supergateway", 503, text("No active SSE connection for session 1"), Gone),
        ("HTTP+SSE of npm mcp-proxy", 400, text("No active transport"), Gone),
        ("HTTP+SSE of TS, its transport", 500, text("SSE connection not established"), Gone),
        ("HTTP+SSE of TS, as its examples have it", 400, text("No transport found for sessionId"), Gone),
        ("HTTP+SSE of TS, the same as 404", 404, text("No transport found for sessionId"), Gone),
        ("HTTP+SSE of n8n", 401, text("No transport found for sessionId"), Gone),
        ("HTTP+SSE of servers with one transport", 503, text("SSE connection not established"), Gone),
        ("HTTP+SSE of servers with one transport, 400", 400, text(r#"{"error":"No active SSE connection"}"#), Gone),
        ("HTTP+SSE of C#", 400, text("Session ID not found."), Gone),
        ("HTTP+SSE of Java", 404, text(r#"{"jsonRpcError":null,"message":"Session not found: 6f0c"}"#), Gone),
        ("HTTP+SSE of Java, no id", 400, text(r#"{"message":"Session ID missing in message endpoint"}"#), Gone),
        // Its gate uses the code of wrong arguments, so a question has to tell.
        ("HTTP+SSE of mcp-go", 400, rpc(-32602, "Invalid session ID"), Suspected),
        ("HTTP+SSE of Starlette, in the place of Streamable HTTP", 405, text("Method Not Allowed"), Suspected),
        ("an empty 404", 404, text(""), Gone),
        ("a route that is missing", 404, text("<html><head><title>404 Not Found</title></head></html>"), Gone),
        ("a JSON 404 of a framework", 404, text(r#"{"detail":"Not Found"}"#), Gone),
    ]
}

#[test]
fn every_dialect_of_a_dead_session_is_read_as_the_table_says() {
    for (server, status, body, expected) in dialects() {
        assert_eq!(read(&refusal(status, &body), true), expected, "{server}: {status} {body}");
    }
}

#[test]
fn what_is_not_about_the_session_is_not_taken_for_it() {
    let traps: Vec<Row> = vec![
        ("modern unknown method", 404, rpc(-32601, "Method not found"), AboutRequest),
        ("unknown task", 404, rpc(-32602, "Unknown task"), AboutRequest),
        (
            "TS, the version",
            400,
            rpc(-32000, "Bad Request: Unsupported protocol version (supported versions: 2025-11-25)"),
            AboutRequest,
        ),
        (
            "Python, the version",
            400,
            rpc(-32600, "Bad Request: Unsupported protocol version: 1. Supported versions: 2025-06-18"),
            AboutRequest,
        ),
        ("parse error", 400, rpc(-32700, "Parse error: Invalid JSON"), AboutRequest),
        ("header mismatch", 400, rpc(-32020, "Header mismatch"), AboutRequest),
        ("missing capability", 400, rpc(-32021, "Missing client capability"), AboutRequest),
        ("unsupported version, modern", 400, rpc(-32022, "Unsupported protocol version"), AboutRequest),
        ("an argument that is called a session", 400, rpc(-32602, "sessionId is required"), Suspected),
        ("validation of anything else", 400, rpc(-32602, "Invalid request parameters"), Suspected),
        ("wrong method", 405, rpc(-32000, "Method not allowed."), AboutRequest),
        ("wrong Accept", 406, rpc(-32000, "Not Acceptable: Client must accept both"), AboutRequest),
        ("too large", 413, String::new(), AboutRequest),
        ("wrong type", 415, rpc(-32000, "Unsupported Media Type"), AboutRequest),
        (
            "one stream only",
            409,
            rpc(-32000, "Conflict: Only one SSE stream is allowed per session"),
            Suspected,
        ),
        ("a body that does not fit", 422, r#"{"detail":"Field required"}"#.to_owned(), Suspected),
        ("too many requests", 429, String::new(), Later),
        ("misdirected", 421, String::new(), WrongPlace),
        ("bad gateway", 502, "<html>Bad Gateway</html>".to_owned(), Gateway),
        ("gateway time-out", 504, String::new(), Gateway),
        ("Cloudflare, origin unreachable", 523, String::new(), Gateway),
        ("service unavailable", 503, "<html>503</html>".to_owned(), Suspected),
        ("moved", 302, String::new(), Redirected),
        ("a page with 200", 200, "<!doctype html><title>Sign in</title>".to_owned(), NotMcp),
        ("a crash", 500, "Internal Server Error".to_owned(), Suspected),
        ("a handler that failed", 500, "order 7: SSE connection not established".to_owned(), Suspected),
        ("another handler that failed", 500, "No transport found for order 7".to_owned(), Suspected),
        ("a 401 without a challenge", 401, "token expired".to_owned(), Suspected),
        ("a 403 without a challenge", 403, "host not allowed".to_owned(), Suspected),
    ];
    for (trap, status, body, expected) in traps {
        assert_eq!(read(&refusal(status, &body), true), expected, "{trap}: {status} {body}");
    }
}

#[test]
fn a_challenge_is_about_credentials_whatever_the_body_says() {
    for status in [401, 403] {
        for body in ["", "Session not found", "insufficient_scope"] {
            let refused = Refusal { challenge: true, ..refusal(status, body) };
            assert_eq!(read(&refused, true), Credentials, "{status} {body}");
        }
    }
}

#[test]
fn a_server_that_says_when_to_come_back_has_run_nothing() {
    for status in [429, 503] {
        let refused = Refusal { retry_after: Some(5_000), ..refusal(status, "") };
        assert_eq!(read(&refused, true), Later, "{status}");
    }
}

#[test]
fn without_an_id_a_missing_page_means_a_missing_server() {
    assert_eq!(read(&refusal(404, "<html>404</html>"), false), NotMcp);
    assert_eq!(read(&refusal(404, ""), false), NotMcp);
    // A server that begins to keep sessions says so.
    assert_eq!(read(&refusal(404, "Session not found"), false), Gone);
    assert_eq!(read(&refusal(400, "Bad Request: Missing session ID"), false), Gone);
    assert_eq!(read(&refusal(200, "Session not found"), false), NotMcp);
}

#[test]
fn what_the_shell_itself_knows_to_have_ended_is_gone_whatever_else_is_said() {
    for (status, body) in [(404, ""), (503, "<html>"), (400, "the event stream has ended")] {
        assert_eq!(read(&Refusal { ended: true, ..refusal(status, body) }, true), Gone, "{status} {body}");
    }
}

#[test]
fn either_transport_is_offered_where_the_other_is_refused_as_by_a_server_that_lacks_it() {
    for (server, status, body, asks) in [
        ("Express, no route", 404, "<pre>Cannot POST /sse</pre>".to_owned(), true),
        ("Starlette", 405, "Method Not Allowed".to_owned(), true),
        ("a gate of its own", 400, "bad request".to_owned(), true),
        ("modern, another version", 400, rpc(-32022, "Unsupported protocol version"), false),
        ("credentials", 401, String::new(), false),
        ("a crash", 500, String::new(), false),
        ("no backend", 503, String::new(), false),
    ] {
        assert_eq!(may_speak_the_old_transport(status, code_of(&body)), asks, "{server}");
    }
    for (server, status, offers) in [
        ("Streamable HTTP, no id", 400, true),
        ("stateless, no stream", 405, true),
        ("no route any more", 404, true),
        ("another Accept", 406, true),
        ("a stream of another kind", 200, true),
        ("credentials", 401, false),
        ("later", 429, false),
        ("no backend", 502, false),
        ("starting", 503, false),
        ("moved", 302, false),
    ] {
        assert_eq!(may_speak_streamable_http(status), offers, "{server}");
    }
}

#[test]
fn a_server_that_offers_no_standing_stream_has_lost_nothing() {
    for body in ["", "Method Not Allowed"] {
        assert_eq!(read_stream(&refusal(405, body), true), AboutRequest);
        assert_eq!(read(&refusal(405, body), false), AboutRequest);
    }
    assert_eq!(read_stream(&refusal(404, "Session not found"), true), Gone);
}

#[test]
fn words_far_from_the_session_do_not_speak_of_it() {
    let page = format!("<p>Your session</p>{}<p>The page was not found</p>", " ".repeat(200));
    assert!(!speaks_of_session(&page));
    let echo = format!(r#"{{"error":"field `date` is required","echo":"{}session"}}"#, "x".repeat(100));
    assert!(!speaks_of_session(&echo));
    assert!(!speaks_of_session("The meeting was not found"));
    assert!(!speaks_of_session(""));
    assert!(speaks_of_session(
        "ΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩ session not found ΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩΩ"
    ));
}

#[test]
fn errors_in_a_200_raise_doubt_only_when_they_speak_of_the_session() {
    for (server, code, message) in [
        ("Go SDK", 0, "method \"tools/list\" is invalid during session initialization"),
        ("agent-wiki", -32600, "missing or invalid Mcp-Session-Id"),
        ("pi-mcp-adapter, claude-code#17412", -32000, "Server not initialized"),
        ("tower-mcp", -32005, "Session not found"),
        ("tower-mcp, second", -32006, "Session expired"),
        ("TS", -32001, "Session not found"),
    ] {
        assert!(error_raises_doubt(code, message), "{server}");
    }
    for (server, code, message) in [
        ("unknown tool", -32602, "Unknown tool: session_list"),
        ("missing argument", -32602, "sessionId is required"),
        ("unknown method", -32601, "Method not found: session/new"),
        ("a tool's failure", -32603, "The file was not found"),
        ("time-out", -32001, "Request timed out"),
        ("resource", -32002, "Resource not found"),
    ] {
        assert!(!error_raises_doubt(code, message), "{server}");
    }
}

#[test]
fn a_refused_handshake_tells_a_missing_server_from_one_that_says_no() {
    use Door::*;
    let table = [
        ("no route", 404, "<html>404</html>".to_owned(), Missing),
        ("no route, JSON", 404, r#"{"detail":"Not Found"}"#.to_owned(), Missing),
        ("another program", 405, String::new(), Missing),
        ("another program", 501, String::new(), Missing),
        ("no backend", 502, String::new(), Missing),
        ("no backend", 503, String::new(), Missing),
        ("Python at its session cap", 503, rpc(-32603, "Too many open sessions"), Missing),
        ("a crash", 500, String::new(), Missing),
        ("a page", 200, "<html>".to_owned(), Missing),
        ("a page with 400", 400, "<!DOCTYPE html><html>".to_owned(), Missing),
        ("credentials", 401, String::new(), Credentials),
        ("credentials", 403, String::new(), Credentials),
        ("too many requests", 429, String::new(), Later),
        ("moved", 301, String::new(), Redirected),
        ("says no", 400, rpc(-32600, "Server already initialized"), Refused),
        ("says no", 406, String::new(), Refused),
    ];
    for (what, status, body, expected) in table {
        assert_eq!(read_door(&refusal(status, &body)), expected, "{what}: {status}");
    }
    let starting = Refusal { retry_after: Some(1_000), ..refusal(503, "") };
    assert_eq!(read_door(&starting), Later);
}

#[test]
fn no_status_and_no_text_makes_it_panic() {
    for status in 0..=1_000 {
        for body in ["", "session", "\u{0}session\u{10ffff}expired"] {
            let _ = (read(&refusal(status, body), true), read_door(&refusal(status, body)));
        }
    }
}
