//! The stable JSON of `status --json` and `/api/status`: fields are added, never renamed.
//!
//! Everything is drawn from one [`HealthReport`] by [`server_status`]; nothing is computed here but dates and the
//! address without its secrets.

use jiff::Timestamp;
use relatch_core::health::{Facets, HealthReport, State, Totals};
use relatch_core::{At, LatchId};
use serde::{Deserialize, Serialize};

/// The version of the schema; it changes only if a field has to change its meaning.
pub const SCHEMA: u32 = 1;

/// The whole answer: every keeper of this user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The keepers that answered.
    pub keepers: Vec<KeeperStatus>,
    /// The keepers that did not.
    #[serde(default)]
    pub unanswered: Vec<Unanswered>,
}

/// A keeper that runs and gives no answer that can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// Its process.
    pub pid: u32,
    /// In which way.
    #[serde(default)]
    pub how: NoAnswer,
    /// Its version of relatch, where that much could be read.
    #[serde(default)]
    pub version: Option<String>,
    /// Why there is no answer, for people.
    pub cause: String,
}

/// In which way a keeper gave no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoAnswer {
    /// It takes the question and says nothing.
    #[default]
    Hangs,
    /// The connection to it failed.
    BrokenOff,
    /// It answered what this version of relatch can't read.
    Unread,
}

/// What sort of keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeeperKind {
    /// `relatch stdio`: one client, one upstream.
    Stdio,
    /// `relatch serve`: many of both.
    Serve,
}

impl KeeperKind {
    /// The word of the schema.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            KeeperKind::Stdio => "stdio",
            KeeperKind::Serve => "serve",
        }
    }
}

/// One keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeeperStatus {
    /// Its process.
    pub pid: u32,
    /// What sort of keeper.
    pub kind: KeeperKind,
    /// The version of relatch.
    pub version: String,
    /// When it began.
    pub since: Timestamp,
    /// Its upstreams.
    pub servers: Vec<ServerStatus>,
    /// Where its journal goes on beyond the process.
    #[serde(default)]
    pub journal: JournalStatus,
}

/// Where a keeper's journal goes on beyond the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// The folder of its files; none where it is kept in memory only.
    pub dir: Option<String>,
    /// Why entries are missing in the files.
    pub fault: Option<String>,
}

/// One upstream of one keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The configured name.
    pub name: String,
    /// The address, without user, password, query values and fragment.
    pub url: String,
    /// Health in one word.
    pub health: State,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why; none when healthy.
    pub reason: Option<String>,
    /// The separate facets behind the word.
    #[serde(default)]
    pub facets: Facets,
    /// Named troubles, oldest first.
    pub conditions: Vec<ConditionStatus>,
    /// The announced restart that calls wait for, where there is one.
    #[serde(default)]
    pub pause: Option<PauseStatus>,
    /// The last answer seen.
    pub last_success: Option<SuccessStatus>,
    /// The last failure seen.
    pub last_failure: Option<FailureStatus>,
    /// When relatch tries again by itself.
    pub next_attempt: Option<Timestamp>,
    /// The server, as its last handshake named it.
    pub server: Option<PeerStatus>,
    /// The latches, oldest first.
    pub sessions: Vec<SessionStatus>,
    /// Exchanges that wait now.
    #[serde(default)]
    pub waiting: usize,
    /// Counts since the keeper began.
    pub totals: Totals,
    /// Of the last answers to `tools/call`, in milliseconds.
    pub latency_ms: LatencyStatus,
    /// What a server that is a command has said last on stderr, oldest first.
    #[serde(default)]
    pub stderr: Vec<String>,
}

/// A named trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionStatus {
    /// The stable code.
    pub code: String,
    /// The trouble in a few words.
    #[serde(default)]
    pub title: String,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub cause: String,
    /// What it means for the user.
    pub effect: String,
    /// What can be done.
    pub hint: String,
    /// Codes that would explain it: while one of them stands, this one is not shown.
    #[serde(default)]
    pub depends_on: Vec<String>,
}

/// An announced restart: nothing new is sent, and calls wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseStatus {
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself, if nobody resumes it before.
    pub until: Timestamp,
}

/// The last answer seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuccessStatus {
    /// When.
    pub at: Timestamp,
    /// Of which method.
    pub method: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// The last failure seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureStatus {
    /// When.
    pub at: Timestamp,
    /// Of which method.
    pub method: String,
    /// Why, for people.
    pub cause: String,
}

/// The server, as its last handshake named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// `serverInfo.name`.
    pub name: Option<String>,
    /// `serverInfo.version`.
    pub version: Option<String>,
    /// The negotiated revision.
    pub protocol: String,
    /// `legacy` or `modern`.
    pub era: String,
}

/// One latch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The first characters of the downstream session id.
    pub id: String,
    /// How many handshakes it has begun.
    pub generation: u32,
    /// The latch's state in a word.
    #[serde(default)]
    pub state: String,
    /// When the client opened it.
    pub opened: Timestamp,
    /// When the present upstream session was bound.
    #[serde(default)]
    pub bound: Option<Timestamp>,
    /// The client's last message.
    pub last_used: Timestamp,
    /// The client, as its `initialize` named it.
    pub client: Option<ClientStatus>,
    /// Exchanges under way or waiting.
    #[serde(default)]
    pub open: usize,
    /// Its client was answered from a copy of what the server said then, and has had no session yet.
    #[serde(default)]
    pub copy: Option<Timestamp>,
}

/// The client, as its `initialize` named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// `clientInfo.name`.
    pub name: String,
    /// `clientInfo.version`.
    pub version: String,
}

/// In milliseconds; zero when there was no call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// How much of a downstream session id is ever shown: it is a secret.
pub const SHOWN_OF_ID: usize = 8;

/// One upstream as the schema has it. `date` turns the keeper's own time into dates; `id` names a latch by its
/// downstream session id, of which only the first [`SHOWN_OF_ID`] characters are kept.
#[must_use]
pub fn server_status(
    name: &str,
    url: &str,
    report: &HealthReport,
    date: &dyn Fn(At) -> Timestamp,
    id: &dyn Fn(LatchId) -> String,
) -> ServerStatus {
    ServerStatus {
        name: name.to_owned(),
        url: shown_url(url),
        health: report.state,
        since: date(report.since),
        reason: report.reason.clone(),
        facets: report.facets,
        conditions: report
            .conditions
            .iter()
            .map(|condition| ConditionStatus {
                code: condition.kind.code.to_owned(),
                title: condition.kind.title.to_owned(),
                since: date(condition.since),
                cause: condition.cause.clone(),
                effect: condition.effect.clone(),
                hint: condition.kind.hint.to_owned(),
                depends_on: condition.kind.depends_on.iter().map(|&code| code.to_owned()).collect(),
            })
            .collect(),
        pause: report.pause.map(|pause| PauseStatus { since: date(pause.since), until: date(pause.until) }),
        last_success: report.last_success.as_ref().map(|success| SuccessStatus {
            at: date(success.at),
            method: success.method.clone(),
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of one answer are far below 2^53")]
            ms: success.ms as f64,
        }),
        last_failure: report.last_failure.as_ref().map(|failure| FailureStatus {
            at: date(failure.at),
            method: failure.method.clone(),
            cause: failure.cause.clone(),
        }),
        next_attempt: report.next_attempt.map(date),
        server: report.server.as_ref().map(|server| PeerStatus {
            name: server.name.clone(),
            version: server.version.clone(),
            protocol: server.protocol.clone(),
            era: server.era.to_owned(),
        }),
        sessions: report
            .sessions
            .iter()
            .map(|session| SessionStatus {
                id: id(session.latch).chars().take(SHOWN_OF_ID).collect(),
                generation: session.generation.0,
                state: session.state.to_owned(),
                opened: date(session.opened),
                bound: session.bound.map(date),
                last_used: date(session.last_used),
                client: session.client.as_ref().map(|client| ClientStatus {
                    name: client.name.clone(),
                    version: client.version.clone(),
                }),
                open: session.open,
                copy: session.copy.and_then(|made| Timestamp::from_millisecond(made).ok()),
            })
            .collect(),
        waiting: report.waiting,
        totals: report.totals,
        latency_ms: LatencyStatus { p50: report.latency.p50, p99: report.latency.p99 },
        stderr: Vec::new(),
    }
}

/// The JSON schema of a [`ServerStatus`], as far as it is promised: fields are added, never renamed.
#[must_use]
pub fn server_schema() -> serde_json::Value {
    use serde_json::json;
    let date = json!({"type": "string", "description": "RFC 3339"});
    let known = json!({"type": ["boolean", "null"]});
    let count = json!({"type": "integer", "minimum": 0});
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "url": {"type": "string"},
            "health": {"type": "string", "enum": ["healthy", "recovering", "degraded", "down", "unknown"]},
            "since": date,
            "reason": {"type": ["string", "null"]},
            "facets": {
                "type": "object",
                "properties": {
                    "reachable": known, "session": known, "credentials": known, "last_call": known,
                },
            },
            "conditions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "code": {"type": "string"},
                        "since": date,
                        "cause": {"type": "string"},
                        "effect": {"type": "string"},
                        "hint": {"type": "string"},
                    },
                    "required": ["code", "since", "cause", "effect", "hint"],
                },
            },
            "pause": {"type": ["object", "null"]},
            "last_success": {"type": ["object", "null"]},
            "last_failure": {"type": ["object", "null"]},
            "next_attempt": {"type": ["string", "null"]},
            "server": {"type": ["object", "null"]},
            "sessions": {"type": "array", "items": {"type": "object"}},
            "waiting": count,
            "totals": {"type": "object", "additionalProperties": count},
            "latency_ms": {"type": "object"},
            "stderr": {"type": "array", "items": {"type": "string"}},
        },
        "required": [
            "name", "url", "health", "since", "reason", "conditions", "last_success", "last_failure",
            "next_attempt", "server", "sessions", "totals", "latency_ms",
        ],
    })
}

/// An address as it may be shown: user, password and fragment are dropped and the values of its query hidden. A `${…}`
/// that stands for something hidden stays as it is.
#[must_use]
pub fn shown_url(url: &str) -> String {
    // A port that is picked anew each time stands for itself.
    const PICKED: (&str, &str) = (":{port}", ":65535");
    if url.contains(PICKED.0) {
        return shown_url(&url.replace(PICKED.0, PICKED.1)).replacen(PICKED.1, PICKED.0, 1);
    }
    let Ok(mut url) = url::Url::parse(url) else {
        // A command is shown as it is: every user of the machine sees it anyway.
        return if url.contains("://") { "(not an address)".to_owned() } else { url.to_owned() };
    };
    let names: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    if !names.is_empty() {
        let hidden: Vec<String> = names.iter().map(|name| format!("{name}=…")).collect();
        url.set_query(Some(&hidden.join("&")));
    }
    url.set_fragment(None);
    // These fail only for addresses that can carry neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let shown = url.to_string().replace("%E2%80%A6", "…");
    match shown.contains("$%7B") {
        true => shown.replace("$%7B", "${").replace("%7D", "}"),
        false => shown,
    }
}

#[cfg(test)]
mod tests {
    use relatch_core::Gen;
    use relatch_core::health::condition::Kind;
    use relatch_core::health::{
        ClientSeen, Condition, LastFailure, LastSuccess, Latency, ServerSeen, SessionSeen,
    };

    use super::*;

    fn report() -> HealthReport {
        HealthReport {
            at: At(9_000),
            state: State::Degraded,
            since: At(1_000),
            reason: Some("the credentials are refused".into()),
            facets: Facets { reachable: Some(true), ..Facets::default() },
            conditions: vec![Condition {
                kind: Kind::of("credentials-refused").unwrap(),
                since: At(1_000),
                cause: "401".into(),
                effect: "calls fail".into(),
            }],
            last_success: Some(LastSuccess { at: At(500), method: "tools/call".into(), ms: 12 }),
            last_failure: Some(LastFailure {
                at: At(1_000),
                method: "tools/list".into(),
                cause: "401".into(),
            }),
            next_attempt: Some(At(10_000)),
            server: Some(ServerSeen {
                name: Some("files".into()),
                version: None,
                protocol: "2025-11-25".into(),
                era: "legacy",
            }),
            sessions: vec![SessionSeen {
                latch: LatchId(1),
                generation: Gen(4),
                state: "bound",
                opened: At(100),
                bound: Some(At(200)),
                last_used: At(900),
                client: Some(ClientSeen { name: "claude-code".into(), version: "2".into() }),
                open: 1,
                copy: None,
            }],
            waiting: 2,
            totals: Totals { calls: 7, ..Totals::default() },
            latency: Latency { p50: 1.5, p99: 20.0 },
            recent: None,
            pause: None,
        }
    }

    fn date(at: At) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + i64::try_from(at.0).unwrap()).unwrap()
    }

    #[test]
    fn the_json_has_the_promised_names_and_reads_back() {
        let drawn = server_status("gmail", "http://127.0.0.1:8761/mcp", &report(), &date, &|_| {
            "0123456789abcdef-the-secret-rest".to_owned()
        });
        let status = Status {
            schema: SCHEMA,
            keepers: vec![KeeperStatus {
                pid: 1,
                kind: KeeperKind::Serve,
                version: "0.1.0".into(),
                since: date(At(0)),
                servers: vec![drawn],
                journal: JournalStatus::default(),
            }],
            unanswered: vec![],
        };
        let text = serde_json::to_string(&status).unwrap();
        assert!(!text.contains("secret"), "only the start of a session id is shown");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["keepers"][0]["kind"], "serve");
        let server = &json["keepers"][0]["servers"][0];
        for name in [
            "name",
            "url",
            "health",
            "since",
            "reason",
            "conditions",
            "last_success",
            "last_failure",
            "next_attempt",
            "server",
            "sessions",
            "totals",
            "latency_ms",
            "facets",
            "waiting",
        ] {
            assert!(server.get(name).is_some(), "`{name}` is missing");
        }
        assert_eq!(server["health"], "degraded");
        assert_eq!(server["since"], "2023-11-14T22:13:21Z");
        assert_eq!(server["conditions"][0]["code"], "credentials-refused");
        assert_eq!(server["sessions"][0]["id"], "01234567");
        assert_eq!(server["sessions"][0]["client"]["name"], "claude-code");
        assert_eq!(server["server"]["era"], "legacy");
        assert_eq!(server["totals"]["given_back"], 0);
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }

    #[test]
    fn the_schema_names_what_the_json_has() {
        let drawn = server_status("gmail", "http://127.0.0.1:8761/mcp", &report(), &date, &|_| String::new());
        let (drawn, schema) = (serde_json::to_value(drawn).unwrap(), server_schema());
        for (name, of) in schema["properties"].as_object().unwrap() {
            let value = drawn.get(name).unwrap_or_else(|| panic!("`{name}` is promised and missing"));
            let kinds = match &of["type"] {
                serde_json::Value::Array(kinds) => kinds.clone(),
                one => vec![one.clone()],
            };
            let kind = match value {
                serde_json::Value::Null => "null",
                serde_json::Value::String(_) => "string",
                serde_json::Value::Object(_) => "object",
                serde_json::Value::Array(_) => "array",
                serde_json::Value::Number(_) => "integer",
                serde_json::Value::Bool(_) => "boolean",
            };
            assert!(kinds.iter().any(|known| known == kind), "`{name}` is {value}");
        }
        for state in [State::Healthy, State::Recovering, State::Degraded, State::Down, State::Unknown] {
            let words = schema["properties"]["health"]["enum"].as_array().unwrap();
            assert!(words.iter().any(|word| word == state.as_str()), "{state:?}");
        }
    }

    #[test]
    fn fields_of_a_newer_keeper_do_not_disturb_an_older_reader() {
        let text = r#"{"schema":1,"keepers":[],"added_later":{"a":1}}"#;
        let read: Status = serde_json::from_str(text).unwrap();
        assert!(read.keepers.is_empty() && read.unanswered.is_empty());
    }

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        assert_eq!(shown_url("http://127.0.0.1:8761/mcp"), "http://127.0.0.1:8761/mcp");
        assert_eq!(
            shown_url("https://me:pw@a.example/mcp?key=s3cret&v=2#x"),
            "https://a.example/mcp?key=…&v=…"
        );
        assert_eq!(shown_url("http://me@127.0.0.1:{port}/mcp?a=b"), "http://127.0.0.1:{port}/mcp?a=…");
        assert_eq!(shown_url("http://:x/"), "(not an address)");
        assert_eq!(shown_url("npx -y server"), "npx -y server");
        assert_eq!(shown_url("http://a/${KEY}/mcp?k=${KEY}"), "http://a/${KEY}/mcp?k=…");
    }
}
