//! Traces: one span for each exchange, a child for each attempt, sent to an OpenTelemetry collector.
//!
//! OTLP over HTTP as JSON, by the dialer that everything else uses. Nothing is made before [`Keeper::trace_to`] was
//! called. A span says which method and which tool, how it ended and how long it waited; never an argument, an id of a
//! session or a header. Whether a trace is sampled is its parent's decision first; spans never hold up a call: what the
//! collector does not take in time is dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use jiff::Timestamp;
use relatch_core::Gen;
use relatch_core::input::Input;
use relatch_wire::params;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::desk::Arrival;
use crate::entropy;
use crate::keeper::Keeper;
use crate::upstream::dial::{ConnRule, Dialer, Target, Tls};

/// Spans that wait for the collector; more are dropped.
const QUEUE: usize = 2_048;
/// Spans that are sent together.
const BATCH: usize = 512;
/// A collector that asks to wait is asked once more after this.
const PAUSE: Duration = Duration::from_secs(1);
/// The end of a keeper waits no longer for its last spans.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Of a method or a tool's name.
const NAME: usize = 128;
/// The header by which a trace goes on (W3C trace context).
pub(crate) const TRACEPARENT: &str = "traceparent";

/// Where spans go, and which.
#[derive(Clone, Debug)]
pub struct Export {
    target: Target,
    headers: HeaderMap,
    resource: Vec<(String, String)>,
    sampler: Sampler,
    every: Duration,
    within: Duration,
}

/// Which traces are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sampler {
    /// The parent's decision counts, where there is one.
    parent: bool,
    /// Of the others, this part.
    ratio: f64,
}

/// A variable that can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{variable}` {what}")]
pub struct ExportError {
    /// Its name.
    pub variable: String,
    /// What is wrong with it; shows no value that may be secret.
    pub what: String,
}

impl Export {
    /// The same collector, reached this way.
    #[must_use]
    pub fn by(self, route: crate::upstream::route::Route) -> Export {
        Export { target: self.target.by(route), ..self }
    }

    /// What the standard variables of OpenTelemetry ask for; `None` when they ask for no traces.
    ///
    /// # Errors
    /// [`ExportError`] names the variable.
    pub fn of_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Export>, ExportError> {
        let set = |name: &str| get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        // The one for traces goes before the one for everything.
        let either = |rest: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_TRACES_{rest}");
            let all = format!("OTEL_EXPORTER_OTLP_{rest}");
            set(&own).map(|text| (own, text)).or_else(|| set(&all).map(|text| (all, text)))
        };
        let no = |variable: &str, what: String| ExportError { variable: variable.to_owned(), what };
        if set("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match set("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => {
                return Err(no("OTEL_TRACES_EXPORTER", format!("is `{other}`; there are `otlp` and `none`")));
            }
        }
        let Some((variable, endpoint)) = either("ENDPOINT") else { return Ok(None) };
        if let Some((variable, protocol)) = either("PROTOCOL").filter(|(_, protocol)| protocol != "http/json")
        {
            return Err(no(&variable, format!("is `{protocol}`; relatch speaks `http/json`")));
        }
        let url = match variable.contains("TRACES") {
            true => endpoint,
            false => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
        };
        let target = Target::parse(&url).map_err(|fault| no(&variable, format!("is no address: {fault}")))?;
        let mut headers = HeaderMap::new();
        if let Some((variable, text)) = either("HEADERS") {
            for (name, value) in pairs(&text) {
                let pair = HeaderName::try_from(name.as_str()).ok().zip(HeaderValue::try_from(value).ok());
                let (name, mut value) =
                    pair.ok_or_else(|| no(&variable, format!("has a header `{name}` that can't be sent")))?;
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let ms = |variable: &str, text: Option<String>, default: u64| match text {
            None => Ok(Duration::from_millis(default)),
            Some(text) => match text.parse::<u64>() {
                Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
                Ok(_) | Err(_) => Err(no(variable, format!("is `{text}`, no number of milliseconds"))),
            },
        };
        let (timeout, within) = either("TIMEOUT").unzip();
        let mut resource: Vec<(String, String)> =
            set("OTEL_RESOURCE_ATTRIBUTES").map(|text| pairs(&text)).unwrap_or_default();
        let named = set("OTEL_SERVICE_NAME");
        if named.is_some() || !resource.iter().any(|(name, _)| name == "service.name") {
            resource.retain(|(name, _)| name != "service.name");
            resource.push(("service.name".to_owned(), named.unwrap_or_else(|| "relatch".to_owned())));
        }
        Ok(Some(Export {
            target,
            headers,
            resource,
            sampler: Sampler::of_variables(&set)?,
            every: ms("OTEL_BSP_SCHEDULE_DELAY", set("OTEL_BSP_SCHEDULE_DELAY"), 5_000)?,
            within: ms(timeout.as_deref().unwrap_or_default(), within, 10_000)?,
        }))
    }

    /// The address as it may be shown.
    #[must_use]
    pub fn shown(&self) -> String {
        self.target.to_string()
    }
}

impl Sampler {
    fn of_variables(set: &dyn Fn(&str) -> Option<String>) -> Result<Sampler, ExportError> {
        let no = |variable: &str, what: String| ExportError { variable: variable.to_owned(), what };
        let name = set("OTEL_TRACES_SAMPLER").unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (parent, rest) = match name.strip_prefix("parentbased_") {
            Some(rest) => (true, rest),
            None => (false, name.as_str()),
        };
        let ratio = match rest {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let text = set("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned());
                text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| {
                    no("OTEL_TRACES_SAMPLER_ARG", format!("is `{text}`, no number from 0 to 1"))
                })?
            }
            _ => return Err(no("OTEL_TRACES_SAMPLER", format!("is `{name}`, which relatch does not know"))),
        };
        Ok(Sampler { parent, ratio })
    }

    /// Whether a trace is sent.
    fn takes(self, parent: Option<&Parent>, trace: &str) -> bool {
        if let Some(parent) = parent.filter(|_| self.parent) {
            return parent.sampled;
        }
        // By the trace's own id, so that everybody with this ratio decides alike.
        let low = trace.get(16..).and_then(|low| u64::from_str_radix(low, 16).ok()).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than a float's digits")]
        let place = (low >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.ratio
    }
}

/// `a=b,c=d`, values percent-encoded.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B").replace('&', "%26")).as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let pair =
        |part: &str| part.split_once('=').map(|(name, value)| (decoded(name.trim()), decoded(value.trim())));
    text.split(',').filter_map(pair).filter(|(name, _)| !name.is_empty()).collect()
}

/// Who has asked: W3C trace context.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parent {
    trace: String,
    span: String,
    sampled: bool,
}

impl Parent {
    /// Reads `00-<trace>-<span>-<flags>`; later versions may have more behind it.
    fn parse(text: &str) -> Option<Parent> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let real = |text: &str| text.bytes().any(|c| c != b'0');
        let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        (known && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && real(trace) && real(span)).then(|| {
            Parent {
                trace: trace.to_owned(),
                span: span.to_owned(),
                sampled: u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1),
            }
        })
    }
}

/// Makes spans.
#[derive(Debug)]
pub(crate) struct Spans {
    out: mpsc::Sender<Value>,
    sampler: Sampler,
    dropped: Arc<std::sync::atomic::AtomicU64>,
}

/// One span until it ends, which is when this is dropped.
#[derive(Debug)]
struct Open {
    spans: mpsc::Sender<Value>,
    dropped: Arc<std::sync::atomic::AtomicU64>,
    trace: String,
    span: String,
    parent: Option<String>,
    kind: u8,
    name: String,
    began: Timestamp,
    attributes: Vec<Value>,
    /// Why it failed, in the stable word.
    failed: Option<String>,
}

impl Open {
    fn set(&mut self, name: &str, value: Value) {
        let value = match value {
            Value::Number(number) => json!({"intValue": number.to_string()}),
            Value::Bool(_) => json!({"boolValue": value}),
            other => json!({"stringValue": other}),
        };
        self.attributes.push(json!({"key": name, "value": value}));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(word) = self.failed.take() {
            self.set("error.type", word.clone().into());
            self.failed = Some(word);
        }
        let nanos = |at: Timestamp| at.as_nanosecond().to_string();
        let span = json!({
            "traceId": self.trace,
            "spanId": self.span,
            "parentSpanId": self.parent.clone().unwrap_or_default(),
            "name": self.name,
            "kind": self.kind,
            "startTimeUnixNano": nanos(self.began),
            "endTimeUnixNano": nanos(Timestamp::now()),
            "attributes": std::mem::take(&mut self.attributes),
            "status": match &self.failed { Some(word) => json!({"code": 2, "message": word}), None => json!({}) },
        });
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// The span of an exchange.
#[derive(Debug)]
pub(crate) struct ExchangeSpan {
    open: Open,
    outcome: Option<String>,
    attempts: u32,
    generation: u32,
    /// Since when nothing is under way for it.
    idle: Option<Timestamp>,
    held_ms: i64,
}

/// The span of an attempt.
#[derive(Debug)]
pub(crate) struct AttemptSpan {
    open: Open,
    ended: bool,
}

const SERVER: u8 = 2;
const CLIENT: u8 = 3;

impl Spans {
    /// The span of a request that has just come, if its trace is sampled.
    pub(crate) fn begin(&self, upstream: &str, arrival: &Arrival) -> Option<Box<ExchangeSpan>> {
        let raw = arrival.envelope.params(&arrival.message).unwrap_or_default();
        let header =
            || arrival.headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // What stands in the message was put there for this very request.
        let parent =
            params::traceparent(raw).as_deref().and_then(Parent::parse).or_else(|| Parent::parse(&header()?));
        let trace = parent.as_ref().map_or_else(entropy::session_id, |parent| parent.trace.clone());
        if !self.sampler.takes(parent.as_ref(), &trace) {
            return None;
        }
        let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(NAME).collect::<String>();
        let method = short(arrival.envelope.method().unwrap_or_default());
        let called = method == relatch_wire::method::TOOLS_CALL;
        let tool = if called { arrival.envelope.param_name(&arrival.message) } else { None };
        let tool = tool.map(|tool| short(&tool));
        let mut open = Open {
            spans: self.out.clone(),
            dropped: Arc::clone(&self.dropped),
            trace,
            span: span_id(),
            parent: parent.map(|parent| parent.span),
            kind: SERVER,
            name: tool.as_ref().map_or_else(|| method.clone(), |tool| format!("{method} {tool}")),
            began: Timestamp::now(),
            attributes: Vec::new(),
            failed: None,
        };
        open.set("mcp.method.name", method.into());
        if let Some(tool) = tool {
            open.set("gen_ai.tool.name", tool.into());
        }
        open.set("relatch.upstream", upstream.into());
        let idle = Some(open.began);
        Some(Box::new(ExchangeSpan { open, outcome: None, attempts: 0, generation: 0, idle, held_ms: 0 }))
    }
}

impl ExchangeSpan {
    /// Something is sent for it: the attempt's span.
    pub(crate) fn attempt(&mut self, generation: Gen, resumes: bool) -> AttemptSpan {
        let now = Timestamp::now();
        if let Some(idle) = self.idle.take() {
            self.held_ms += (now.as_millisecond() - idle.as_millisecond()).max(0);
        }
        if !resumes {
            self.attempts += 1;
        }
        self.generation = generation.0;
        let mut open = Open {
            spans: self.open.spans.clone(),
            dropped: Arc::clone(&self.open.dropped),
            trace: self.open.trace.clone(),
            span: span_id(),
            parent: Some(self.open.span.clone()),
            kind: CLIENT,
            name: if resumes { "resume".to_owned() } else { format!("attempt {}", self.attempts) },
            began: now,
            attributes: Vec::new(),
            failed: None,
        };
        open.set("relatch.generation", generation.0.into());
        AttemptSpan { open, ended: false }
    }

    /// Nothing is under way for it any more.
    pub(crate) fn waits(&mut self) {
        self.idle.get_or_insert_with(Timestamp::now);
    }

    /// It is over; `failed` when the client got something else than an answer.
    pub(crate) fn ends(&mut self, outcome: &str, failed: bool) {
        self.outcome = Some(outcome.to_owned());
        self.open.failed = failed.then(|| outcome.to_owned());
    }
}

impl Drop for ExchangeSpan {
    fn drop(&mut self) {
        if let Some(idle) = self.idle.take() {
            self.held_ms += (Timestamp::now().as_millisecond() - idle.as_millisecond()).max(0);
        }
        let outcome = self.outcome.take().unwrap_or_else(|| "left".to_owned());
        self.open.set("relatch.outcome", outcome.into());
        self.open.set("relatch.held_ms", self.held_ms.into());
        self.open.set("relatch.attempts", self.attempts.into());
        self.open.set("relatch.resent", (self.attempts > 1).into());
        if self.generation > 0 {
            self.open.set("relatch.generation", self.generation.into());
        }
    }
}

impl AttemptSpan {
    /// What goes upstream, so that the server's own spans stand below this one.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.open.trace, self.open.span)
    }

    /// It has ended with this fact.
    pub(crate) fn ends(mut self, with: &Input<'_>) {
        let (outcome, status, failed) = match with {
            Input::Refused { refusal, .. } => ("refused", (!refusal.ended).then_some(refusal.status), true),
            Input::Cut { cut, .. } if cut.wrote => ("cut", None, true),
            Input::Cut { .. } => ("not-sent", None, true),
            _ => ("answered", None, false),
        };
        self.open.set("relatch.outcome", outcome.into());
        if let Some(status) = status {
            self.open.set("http.response.status_code", status.into());
        }
        self.open.failed = failed.then(|| outcome.to_owned());
        self.ended = true;
    }
}

impl Drop for AttemptSpan {
    fn drop(&mut self) {
        if !self.ended {
            self.open.set("relatch.outcome", "aborted".into());
            self.open.failed = Some("aborted".to_owned());
        }
    }
}

fn span_id() -> String {
    let mut id = entropy::session_id();
    id.truncate(16);
    id
}

/// Spans on their way to the collector.
#[derive(Debug)]
pub struct Exporting {
    task: JoinHandle<()>,
    stop: Arc<Notify>,
}

impl Exporting {
    /// Sends what is left, within bounds.
    pub async fn end(mut self) {
        self.stop.notify_one();
        if tokio::time::timeout(END_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Keeper {
    /// From now on, exchanges and attempts are told to this collector. The first one counts. Needs a running tokio
    /// runtime.
    #[must_use]
    pub fn trace_to(&self, export: Export, tls: Tls) -> Exporting {
        let (out, coming) = mpsc::channel(QUEUE);
        let dropped = Arc::default();
        let spans = Spans { out, sampler: export.sampler, dropped: Arc::clone(&dropped) };
        // A second one gets nothing and ends.
        drop(self.common.spans.set(spans));
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn(send_all(export, tls, coming, dropped, Arc::clone(&stop)));
        Exporting { task, stop }
    }
}

async fn send_all(
    export: Export,
    tls: Tls,
    mut coming: mpsc::Receiver<Value>,
    dropped: Arc<std::sync::atomic::AtomicU64>,
    stop: Arc<Notify>,
) {
    let dialer = Dialer::new(export.target.clone(), tls);
    let mut stopping = false;
    while !stopping {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            taken = coming.recv() => match taken {
                Some(span) => batch.push(span),
                None => return,
            },
            () = stop.notified() => stopping = true,
        }
        let due = tokio::time::sleep(export.every);
        tokio::pin!(due);
        while !stopping && batch.len() < BATCH {
            tokio::select! {
                biased;
                taken = coming.recv() => match taken {
                    Some(span) => batch.push(span),
                    None => stopping = true,
                },
                () = stop.notified() => stopping = true,
                () = &mut due => break,
            }
        }
        if stopping {
            coming.close();
            while let Ok(span) = coming.try_recv() {
                batch.push(span);
            }
        }
        while !batch.is_empty() {
            let part: Vec<Value> = batch.drain(..batch.len().min(BATCH)).collect();
            let count = part.len();
            if let Err(cause) = post(&dialer, &export, part).await {
                tracing::warn!(spans = count, %cause, "spans are lost: the collector did not take them");
            }
        }
        match dropped.swap(0, std::sync::atomic::Ordering::Relaxed) {
            0 => {}
            spans => tracing::warn!(spans, "spans are lost: more came than the collector took"),
        }
    }
}

async fn post(dialer: &Dialer, export: &Export, spans: Vec<Value>) -> Result<(), String> {
    let resource: Vec<Value> = export
        .resource
        .iter()
        .map(|(name, value)| json!({"key": name, "value": {"stringValue": value}}))
        .collect();
    let scope = json!({"name": "relatch", "version": env!("CARGO_PKG_VERSION")});
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]});
    let body = Bytes::from(body.to_string());
    for last in [false, true] {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(dialer.target().path_and_query())
            .body(Full::new(body.clone()))
            .map_err(|fault| fault.to_string())?;
        let headers = request.headers_mut();
        headers.extend(export.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let sent = tokio::time::timeout(export.within, dialer.send(request, ConnRule::Fresh)).await;
        let cause = match sent {
            Ok(Ok(reply)) if reply.head.status.is_success() => return Ok(()),
            Ok(Ok(reply)) => {
                let status = reply.head.status.as_u16();
                let again = matches!(status, 429 | 502 | 503 | 504);
                let words = format!("it answered {status}");
                if !again {
                    return Err(words);
                }
                words
            }
            Ok(Err(broken)) => broken.to_string(),
            Err(_) => format!("no answer within {} ms", export.within.as_millis()),
        };
        if last {
            return Err(cause);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Export>, ExportError> {
        let get =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        Export::of_variables(&get)
    }

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_named() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_SERVICE_NAME", "x")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), ("OTEL_SDK_DISABLED", "TRUE")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(variables).unwrap().is_none(), "{variables:?}");
        }
    }

    #[test]
    fn the_standard_variables_count_those_for_traces_first() {
        let export = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b%3D,x=1+1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment=lab"),
            ("OTEL_SERVICE_NAME", "mine"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(export.target.path_and_query(), "/v1/traces");
        assert_eq!(
            (&export.headers["api-key"], &export.headers["x"]),
            (&HeaderValue::from_static("a b="), &HeaderValue::from_static("1+1"))
        );
        assert_eq!((export.within, export.every), (Duration::from_millis(250), Duration::from_secs(5)));
        let own = |name: &str| {
            export
                .resource
                .iter()
                .filter(|(known, _)| known == name)
                .map(|(_, v)| v.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!((own("service.name"), own("deployment")), (vec!["mine"], vec!["lab"]));
        let export = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:2/in"),
        ]);
        assert_eq!(export.unwrap().unwrap().target.path_and_query(), "/in");
    }

    #[test]
    fn a_variable_that_can_not_be_followed_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nowhere"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ] {
            let fault = read(&[endpoint, (variable, value)]).unwrap_err();
            assert_eq!(fault.variable, variable);
        }
        let fault =
            read(&[endpoint, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")]);
        assert_eq!(fault.unwrap_err().variable, "OTEL_TRACES_SAMPLER_ARG");
    }

    #[test]
    fn a_parent_is_read_as_w3c_says_and_decides_for_its_trace() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = Parent::parse(&format!("00-{trace}-{span}-01")).unwrap();
        assert_eq!((good.trace.as_str(), good.span.as_str(), good.sampled), (trace, span, true));
        assert!(Parent::parse(&format!("cc-{trace}-{span}-01-more")).is_some());
        for bad in [
            String::new(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
        ] {
            assert_eq!(Parent::parse(&bad), None, "{bad}");
        }
        let unsampled = Parent { sampled: false, ..good.clone() };
        let by_parent = Sampler { parent: true, ratio: 0.0 };
        assert!(by_parent.takes(Some(&good), trace) && !by_parent.takes(Some(&unsampled), trace));
        assert!(!by_parent.takes(None, trace));
        let all = Sampler { parent: false, ratio: 1.0 };
        assert!(all.takes(Some(&unsampled), trace) && all.takes(None, &"f".repeat(32)));
        let half = Sampler { parent: false, ratio: 0.5 };
        assert!(half.takes(None, &"0".repeat(32)) && !half.takes(None, &"f".repeat(32)));
    }
}
