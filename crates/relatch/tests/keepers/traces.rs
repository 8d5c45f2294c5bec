//! A build with the feature `otel`: it traces when the environment names a collector, and only then.

use std::process::Command;

use serde_json::{Value, json};

use crate::stage::{self, Home, Peer, Piped, reply_json};

fn collector() -> Peer {
    Peer::new(|_, stream| reply_json(stream, "200 OK", &json!({})))
}

/// A keeper with these variables is asked once and closed; the names of the spans that it sent, and its words.
fn traced(collector: &Peer, variables: &[(&str, &str)]) -> (Vec<String>, String) {
    let (server, home) = (stage::echo(), Home::new());
    let url = server.url();
    let mut command: Command = home.relatch(&["stdio", &url]);
    command.env("RELATCH_LOG", "info").envs(variables.iter().copied());
    let mut client = Piped::spawn(&mut command);
    client.initialize();
    assert!(client.call(1)["result"].is_object());
    let (status, said) = client.close();
    assert!(status.success(), "{said}");
    let spans = collector.got().into_iter().flat_map(|got| {
        let spans = got.message()["resourceSpans"][0]["scopeSpans"][0]["spans"].clone();
        spans.as_array().cloned().unwrap_or_default()
    });
    (spans.map(|span: Value| span["name"].as_str().unwrap_or_default().to_owned()).collect(), said)
}

#[test]
fn what_was_asked_is_at_the_collector_when_the_keeper_has_ended() {
    let collector = collector();
    let endpoint = format!("http://{}", collector.address);
    let (names, said) = traced(&collector, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    for name in ["initialize", "tools/call echo", "attempt 1"] {
        assert!(names.iter().any(|known| known == name), "{name} is not among {names:?}: {said}");
    }
    assert_eq!(collector.got()[0].target, "/v1/traces");
}

#[test]
fn a_variable_that_can_not_be_followed_costs_the_traces_and_nothing_else() {
    let collector = collector();
    let endpoint = format!("http://{}", collector.address);
    let (names, said) = traced(
        &collector,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
    );
    assert_eq!(names, Vec::<String>::new());
    assert!(said.contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `grpc`; relatch speaks `http/json`"), "{said}");
}
