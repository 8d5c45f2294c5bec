//! Asks each server once whether it wants credentials that only its client can get: a 401 with a challenge.
//!
//! The question is a `ping` without a session: no server opens a session for it, and one that wants a login says so first. A
//! server of the old transport is asked for its stream, which is let go at once.
//! A server that is away, or says anything else, is no reason not to be adopted.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use relatch_core::policy::Transport;
use relatch_net::upstream::dial::{ConnRule, Dialer, Target, Tls};
use tokio::task::JoinSet;

/// One answer is waited for so long; all are asked at once.
const WITHIN: Duration = Duration::from_secs(3);
/// So many are asked at a time.
const AT_ONCE: usize = 16;

/// A server to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) url: String,
    /// By the old transport its stream is asked for.
    pub(crate) transport: Transport,
    pub(crate) headers: Vec<(String, String)>,
}

/// Which of the servers answer with a challenge.
pub(crate) async fn challenged(questions: Vec<Question>) -> Vec<bool> {
    let mut found = vec![false; questions.len()];
    let mut asked = JoinSet::new();
    let mut waiting = questions.into_iter().enumerate();
    loop {
        while asked.len() < AT_ONCE {
            let Some((at, question)) = waiting.next() else { break };
            asked.spawn(async move {
                (at, tokio::time::timeout(WITHIN, is_challenged(&question)).await.unwrap_or(false))
            });
        }
        match asked.join_next().await {
            Some(Ok((at, challenged))) => found[at] = challenged,
            Some(Err(_)) => {}
            None => return found,
        }
    }
}

async fn is_challenged(question: &Question) -> bool {
    let Ok(target) = Target::parse(&question.url) else { return false };
    let target = target.by(crate::ways::usual());
    let ping = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"relatch-adopt","method":"ping"}"#);
    let mut request = Request::builder().uri(target.path_and_query());
    let body = if question.transport == Transport::Sse {
        request = request.method(Method::GET).header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        Bytes::new()
    } else {
        request = request
            .method(Method::POST)
            .header(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(CONTENT_LENGTH, ping.len());
        ping
    };
    for (name, value) in &question.headers {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) else {
            continue;
        };
        if name != ACCEPT && name != CONTENT_TYPE {
            request = request.header(name, value);
        }
    }
    let Ok(request) = request.body(Full::new(body)) else { return false };
    let dialer = Dialer::new(target, Tls::platform());
    match dialer.send(request, ConnRule::Fresh).await {
        Ok(reply) => {
            reply.head.status == StatusCode::UNAUTHORIZED && reply.head.headers.contains_key(WWW_AUTHENTICATE)
        }
        Err(_) => false,
    }
}
