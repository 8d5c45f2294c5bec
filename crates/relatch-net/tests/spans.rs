//! Traces at a collector of the tests' own: one span for each exchange, a child for each attempt, and no secret.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod world;

use std::sync::Arc;

use relatch_net::keeper::Keeper;
use relatch_net::spans::{Export, Exporting};
use relatch_net::upstream::dial::Tls;
use serde_json::Value;
use world::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

async fn collector() -> Server {
    Server::start(|_| async { json("{}") }).await
}

fn traced(keeper: &Arc<Keeper>, collector: &Server) -> Exporting {
    let at = collector.at;
    let get = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://{at}")),
        "OTEL_EXPORTER_OTLP_HEADERS" => Some("api-key=to-the-collector".to_owned()),
        _ => None,
    };
    let export = Export::of_variables(&get).unwrap().expect("an endpoint is named");
    keeper.trace_to(export, Tls::platform())
}

async fn answering(at: std::net::SocketAddr) -> Server {
    Server::ordinary_at(at, |seen| async move {
        json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, seen.id()))
    })
    .await
}

/// Everything that the collector got.
fn spans(collector: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for seen in collector.seen(|seen| seen.path == "/v1/traces") {
        assert_eq!(seen.header("content-type"), Some("application/json"));
        assert_eq!(seen.header("api-key"), Some("to-the-collector"));
        let body = seen.json();
        let resource = &body["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(
            (&resource["key"], &resource["value"]["stringValue"]),
            (&"service.name".into(), &"relatch".into())
        );
        all.extend(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
    }
    all
}

fn attribute(span: &Value, name: &str) -> String {
    let found = span["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == name);
    let value = found.map(|found| found["value"].as_object().unwrap().values().next().unwrap().clone());
    match value {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// The one exchange of this name, and its attempts in their order.
fn story(spans: &[Value], name: &str) -> (Value, Vec<Value>) {
    let found: Vec<_> = spans.iter().filter(|span| span["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    let mut attempts: Vec<_> =
        spans.iter().filter(|span| span["parentSpanId"] == found[0]["spanId"]).cloned().collect();
    attempts.sort_by_key(|span| span["startTimeUnixNano"].as_str().unwrap().to_owned());
    (found[0].clone(), attempts)
}

fn secret_call(id: u64, more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"pay","arguments":{{"card":"s3cret-argument"}}{more}}}}}"#
    )
}

#[tokio::test]
async fn a_call_over_a_restart_is_one_span_with_two_attempts_under_its_clients() {
    let (collector, server) = (collector().await, answering("127.0.0.1:0".parse().unwrap()).await);
    let world = World::before(&server).await;
    let exporting = traced(&world.keeper, &collector);
    let mut client = world.opened().await;
    let at = server.kill().await;
    let server = answering(at).await;
    let sent = format!("00-{TRACE}-{SPAN}-01");
    client.more = vec![("traceparent", sent.clone()), ("authorization", "Bearer s3cret-token".to_owned())];
    let body = secret_call(1, "");
    assert_eq!(client.post(&body).await.json().await["id"], 1);
    exporting.end().await;

    let spans = spans(&collector);
    let (exchange, attempts) = story(&spans, "tools/call pay");
    assert_eq!((&exchange["traceId"], &exchange["parentSpanId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!((&exchange["kind"], &exchange["status"]), (&2.into(), &serde_json::json!({})));
    for (name, value) in [
        ("mcp.method.name", "tools/call"),
        ("gen_ai.tool.name", "pay"),
        ("relatch.upstream", "x"),
        ("relatch.outcome", "answered"),
        ("relatch.attempts", "2"),
        ("relatch.resent", "true"),
        ("relatch.generation", "2"),
    ] {
        assert_eq!(attribute(&exchange, name), value, "{name}");
    }
    assert!(attribute(&exchange, "relatch.held_ms").parse::<u64>().is_ok());
    let outcomes: Vec<_> = attempts.iter().map(|span| attribute(span, "relatch.outcome")).collect();
    assert_eq!(outcomes, ["refused", "answered"], "{attempts:#?}");
    assert_eq!(attribute(&attempts[0], "http.response.status_code"), "404");
    let generations: Vec<_> = attempts.iter().map(|span| attribute(span, "relatch.generation")).collect();
    assert_eq!(generations, ["1", "2"]);
    let within = |span: &Value| span["startTimeUnixNano"].as_str() <= span["endTimeUnixNano"].as_str();
    assert!(spans.iter().all(within));
    assert!(attempts.iter().all(|span| span["kind"] == 3 && span["traceId"] == TRACE));

    // The server is told of the attempt, and its message is what the client sent.
    let calls = server.seen(|seen| seen.method() == "tools/call");
    let expected: Vec<_> =
        attempts.iter().map(|span| format!("00-{TRACE}-{}-01", span["spanId"].as_str().unwrap())).collect();
    let headers: Vec<_> = calls.iter().map(|seen| seen.header("traceparent").unwrap().to_owned()).collect();
    assert_eq!(headers, expected);
    assert_eq!(calls[1].body, body);

    let everything: String = spans.iter().map(Value::to_string).collect();
    let sid = client.sid.clone().unwrap();
    for secret in ["s3cret", sid.as_str(), "upstream-", "card"] {
        assert!(!everything.contains(secret), "{secret} is in {everything}");
    }
    // The client's own handshake came without a parent: a trace of its own.
    let (opening, attempts) = story(&spans, "initialize");
    assert_eq!((attempts.len(), &opening["parentSpanId"]), (1, &"".into()));
    assert_ne!(opening["traceId"], TRACE);
}

#[tokio::test]
async fn the_trace_named_in_the_message_goes_first_and_one_that_is_not_sampled_is_let_be() {
    let (collector, server) = (collector().await, answering("127.0.0.1:0".parse().unwrap()).await);
    let world = World::before(&server).await;
    let exporting = traced(&world.keeper, &collector);
    let mut client = world.opened().await;
    let other = "00-11111111111111111111111111111111-2222222222222222-00";
    client.more = vec![("traceparent", other.to_owned())];
    let meta = format!(r#","_meta":{{"traceparent":"00-{TRACE}-{SPAN}-01"}}"#);
    client.post(&secret_call(1, &meta)).await.json().await;
    client.post(&secret_call(2, "")).await.json().await;
    exporting.end().await;
    let spans = spans(&collector);
    let (exchange, _) = story(&spans, "tools/call pay");
    assert_eq!((&exchange["traceId"], &exchange["parentSpanId"]), (&TRACE.into(), &SPAN.into()));
    let calls = server.seen(|seen| seen.method() == "tools/call");
    assert!(calls[0].header("traceparent").unwrap().starts_with(&format!("00-{TRACE}-")));
    assert!(String::from_utf8(calls[0].body.to_vec()).unwrap().contains(&meta));
    assert_eq!(calls[1].header("traceparent"), Some(other));
}

#[tokio::test]
async fn a_call_that_is_given_back_says_so_and_how_long_it_waited() {
    let (collector, server) = (collector().await, answering("127.0.0.1:0".parse().unwrap()).await);
    let world = World::with(&server.url(), |policy| policy.hold_ms = 200, None).await;
    let exporting = traced(&world.keeper, &collector);
    let client = world.opened().await;
    server.kill().await;
    let answer = client.post(&secret_call(1, "")).await.json().await;
    assert_eq!(answer["error"]["data"]["relatch"]["code"], "upstream-down");
    exporting.end().await;
    let (exchange, _) = story(&spans(&collector), "tools/call pay");
    assert_eq!(attribute(&exchange, "relatch.outcome"), "upstream-down");
    assert_eq!(
        (&exchange["status"]["code"], attribute(&exchange, "error.type")),
        (&2.into(), "upstream-down".to_owned())
    );
    assert!(attribute(&exchange, "relatch.held_ms").parse::<u64>().unwrap() >= 150, "{exchange:#}");
}

#[tokio::test]
async fn without_a_collector_the_header_goes_on_as_it_came() {
    let server = answering("127.0.0.1:0".parse().unwrap()).await;
    let world = World::before(&server).await;
    let mut client = world.opened().await;
    let sent = format!("00-{TRACE}-{SPAN}-01");
    client.more = vec![("traceparent", sent.clone()), ("tracestate", "a=1,b=2".to_owned())];
    client.post(&secret_call(1, "")).await.json().await;
    let call = &server.seen(|seen| seen.method() == "tools/call")[0];
    assert_eq!(
        (call.header("traceparent"), call.header("tracestate")),
        (Some(sent.as_str()), Some("a=1,b=2"))
    );
    let opened = &server.seen(|seen| seen.method() == "initialize")[0];
    assert_eq!(opened.header("traceparent"), None);
}
