//! One report: a keeper whose upstreams are in every state at the same time, and every view of it held against
//! `/api/status`. Whoever adds a view adds it to [`VIEWS`].

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::{self, Got, Home, PATIENCE, Peer, Serve, reply, reply_json, until};

/// What a view tells of one upstream that is not what `/api/status` says of it.
type View = (&'static str, fn(&Told, &Value) -> Vec<String>);

/// Every view but `/api/status`, which they are held against.
const VIEWS: &[View] = &[
    ("status --json", status_json),
    ("status", status_table),
    ("status NAME", status_story),
    ("exit codes", exit_codes),
    ("relatch_status", inside_the_client),
    ("/api/events", events),
    ("/api/events history", history),
    ("/metrics", metrics),
];

/// What an upstream does with its requests from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It answers.
    Well,
    /// It has forgotten its sessions, and a new one takes as long as the test does.
    Forgetful,
    /// It has forgotten its sessions and speaks another revision now.
    Older,
    /// It asks for other credentials.
    Revoked,
    /// It has forgotten its sessions and gives no new ones.
    Refusing,
    /// It gives sessions and forgets them at once.
    Flapping,
    /// It has forgotten its sessions and sends everybody elsewhere.
    Moved,
    /// It is a web server.
    Web,
}

struct Upstream {
    name: &'static str,
    mode: Mode,
    /// What it may be called.
    health: &'static [&'static str],
    conditions: &'static [&'static str],
}

/// Every state, and every condition that a server on loopback can be brought to within a test.
const UPSTREAMS: &[Upstream] = &[
    Upstream { name: "well", mode: Mode::Well, health: &["healthy"], conditions: &[] },
    Upstream { name: "older", mode: Mode::Older, health: &["healthy"], conditions: &["revision-changed"] },
    Upstream { name: "forgetful", mode: Mode::Forgetful, health: &["recovering"], conditions: &[] },
    Upstream {
        name: "revoked",
        mode: Mode::Revoked,
        health: &["degraded"],
        conditions: &["credentials-refused"],
    },
    Upstream {
        name: "refusing",
        mode: Mode::Refusing,
        health: &["degraded"],
        conditions: &["handshake-refused"],
    },
    Upstream {
        name: "flapping",
        mode: Mode::Flapping,
        health: &["degraded"],
        conditions: &["session-flapping"],
    },
    Upstream { name: "moved", mode: Mode::Moved, health: &["degraded"], conditions: &["redirected"] },
    Upstream { name: "web", mode: Mode::Web, health: &["down"], conditions: &["endpoint-missing"] },
];

#[test]
fn every_view_tells_the_same_of_an_upstream_whatever_state_it_is_in() {
    let home = Home::new();
    let mut modes = Vec::new();
    let mut peers = Vec::new();
    for _ in UPSTREAMS {
        let mode = Arc::new(Mutex::new(Mode::Well));
        let now = Arc::clone(&mode);
        peers.push(Peer::new(move |got, stream| {
            let mode = *now.lock().unwrap_or_else(PoisonError::into_inner);
            answer(mode, got, stream);
        }));
        modes.push(mode);
    }
    let mut killed = stage::echo();
    let mut line: Vec<String> =
        UPSTREAMS.iter().zip(&peers).map(|(up, peer)| format!("{}={}", up.name, peer.url())).collect();
    line.extend([format!("killed={}", killed.url()), "unasked=http://127.0.0.1:9/mcp".to_owned()]);
    line.push("--tell".to_owned());
    let serve = Serve::start(&home, &line.iter().map(String::as_str).collect::<Vec<_>>());
    let feed = Feed::of(&serve);

    // Everybody is well, and used.
    let mut sessions = Vec::new();
    for name in UPSTREAMS.iter().map(|up| up.name).chain(["killed"]) {
        let session = serve.session(name);
        assert!(serve.call(name, &session, 1).get("result").is_some());
        sessions.push((name, session));
    }
    // One is relatched without a call to send again: each count is another number.
    let (code, out, err) = home.typed(&["reconnect", "well"]);
    assert_eq!(code, 0, "{out}{err}");
    until("it is relatched", || (api(&serve, "well")["totals"]["relatched"] == 1).then_some(()));
    // Then it goes wrong, and each client has a call under way.
    killed.stop();
    for (up, mode) in UPSTREAMS.iter().zip(&modes) {
        *mode.lock().unwrap() = up.mode;
    }
    let waiting: Vec<TcpStream> = sessions.iter().map(|(name, session)| ask(&serve, name, session)).collect();

    let expected = UPSTREAMS.iter().map(|up| (up.name, up.health, up.conditions));
    let expected: Vec<_> = expected
        .chain([("killed", &["down"][..], &["upstream-down"][..]), ("unasked", &["unknown"], &[])])
        .collect();
    for (name, health, conditions) in &expected {
        let end = Instant::now() + PATIENCE;
        loop {
            let last = api(&serve, name);
            if health.contains(&text(&last["health"])) && codes(&last) == *conditions {
                break;
            }
            if *name == "flapping" && codes(&last).is_empty() {
                // Several handshakes have to fail before it is called so.
                drop(ask(&serve, name, &sessions.iter().find(|(known, _)| known == name).unwrap().1));
            }
            assert!(Instant::now() < end, "`{name}` is not {health:?} with {conditions:?}:\n{last:#}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    for (name, health, _) in &expected {
        // What changes while it is looked at is looked at again.
        until(&format!("`{name}` holds still"), || {
            let before = api(&serve, name);
            if !health.contains(&text(&before["health"])) {
                return None;
            }
            let session =
                sessions.iter().find(|(known, _)| known == name).map(|(_, session)| session.as_str());
            let told = Told::of(&home, &serve, &feed, name, session);
            let wrong: Vec<String> = VIEWS
                .iter()
                .flat_map(|(view, read)| {
                    read(&told, &before).into_iter().map(move |what| format!("{view}: {what}"))
                })
                .collect();
            if api(&serve, name) != before {
                return None;
            }
            // Events are told together, a little later.
            if wrong.iter().all(|what| what.starts_with("/api/events"))
                && !wrong.is_empty()
                && told.young(&before)
            {
                return None;
            }
            assert!(wrong.is_empty(), "{name}\n{}\n{before:#}", wrong.join("\n"));
            Some(())
        });
    }
    drop(waiting);
}

/// What the scripted server does.
fn answer(mode: Mode, got: &Got, stream: &mut TcpStream) {
    let message = got.message();
    let (id, method) = (&message["id"], message["method"].as_str().unwrap_or_default());
    let opening = method == "initialize";
    match mode {
        Mode::Revoked => {
            reply(stream, "401 Unauthorized", "WWW-Authenticate: Bearer realm=\"x\"\r\n", "sign in");
        }
        Mode::Web => {
            reply(
                stream,
                "404 Not Found",
                "Content-Type: text/html\r\n",
                "<!DOCTYPE html><p>Nothing here</p>",
            );
        }
        Mode::Forgetful if opening => {
            // Until the keeper is gone.
            let _ = stream.set_read_timeout(Some(PATIENCE * 4));
            let _ = BufReader::new(stream).read_line(&mut String::new());
        }
        Mode::Refusing if opening => {
            let error = json!({"code": -32603, "message": "no licence"});
            reply_json(stream, "200 OK", &json!({"jsonrpc": "2.0", "id": id, "error": error}));
        }
        Mode::Moved if opening => {
            reply(stream, "302 Found", "Location: https://login.example/\r\n", "");
        }
        Mode::Older if opening => {
            let result = json!({"protocolVersion": "2025-03-26", "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "0.9.0"}});
            let headers = "Content-Type: application/json\r\nMcp-Session-Id: older-session\r\n";
            reply(
                stream,
                "200 OK",
                headers,
                &json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string(),
            );
        }
        Mode::Older if got.header("mcp-session-id") == Some("older-session") => well(got, stream),
        Mode::Flapping if opening => well(got, stream),
        Mode::Forgetful | Mode::Older | Mode::Refusing | Mode::Flapping | Mode::Moved
            if got.method == "POST" =>
        {
            reply(stream, "404 Not Found", "", "Session not found");
        }
        Mode::Well | Mode::Forgetful | Mode::Older | Mode::Refusing | Mode::Flapping | Mode::Moved => {
            well(got, stream);
        }
    }
}

fn well(got: &Got, stream: &mut TcpStream) {
    if !stage::ordinary(got, stream) {
        let result = json!({"content": [{"type": "text", "text": "done"}]});
        reply_json(stream, "200 OK", &json!({"jsonrpc": "2.0", "id": got.message()["id"], "result": result}));
    }
}

/// A call whose answer nobody waits for; it ends with the connection.
fn ask(serve: &Serve, name: &str, session: &str) -> TcpStream {
    let body = stage::call(2).to_string();
    let mut stream = TcpStream::connect(serve.address).unwrap();
    write!(
        stream,
        "POST /{name}/mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nRelatch-Token: {}\r\nMcp-Session-Id: {session}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        serve.address,
        serve.token.as_deref().unwrap(),
        body.len()
    )
    .unwrap();
    stream
}

fn codes(server: &Value) -> Vec<&str> {
    server["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|condition| condition["code"].as_str())
        .collect()
}

fn get(serve: &Serve, path: &str) -> String {
    let answer = serve.http("GET", path, &[("Relatch-Token", serve.token.as_deref().unwrap())], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// What `/api/status` has of this upstream.
fn api(serve: &Serve, name: &str) -> Value {
    let status: Value = serde_json::from_str(&get(serve, "/api/status")).unwrap();
    server_of(&status, name)
}

fn server_of(status: &Value, name: &str) -> Value {
    let servers = status["keepers"][0]["servers"].as_array().unwrap();
    servers.iter().find(|server| server["name"] == name).unwrap().clone()
}

/// One that has listened to `/api/events` from the beginning: the newest of each kind.
struct Feed {
    status: Arc<Mutex<Value>>,
    turns: Arc<Mutex<Vec<Value>>>,
}

impl Feed {
    fn of(serve: &Serve) -> Feed {
        let mut stream = TcpStream::connect(serve.address).unwrap();
        let token = serve.token.as_deref().unwrap();
        write!(
            stream,
            "GET /api/events HTTP/1.1\r\nHost: {}\r\nRelatch-Token: {token}\r\n\r\n",
            serve.address
        )
        .unwrap();
        let feed = Feed { status: Arc::default(), turns: Arc::default() };
        let (status, turns) = (Arc::clone(&feed.status), Arc::clone(&feed.turns));
        // It ends with the keeper.
        std::thread::spawn(move || {
            let mut event = String::new();
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some(name) = line.strip_prefix("event: ") {
                    name.clone_into(&mut event);
                } else if let Some(json) = line.strip_prefix("data: ") {
                    let told: Value = serde_json::from_str(json).unwrap();
                    match event.as_str() {
                        "status" => *status.lock().unwrap() = told,
                        "history" => turns.lock().unwrap().push(told),
                        _ => {}
                    }
                }
            }
        });
        feed
    }
}

/// What every view tells, asked at nearly the same moment.
struct Told {
    json: Value,
    table: (i32, String),
    story: (i32, String),
    metrics: String,
    /// Without a session there is nobody to ask.
    tool: Option<Value>,
    event: Value,
    turns: Vec<Value>,
}

impl Told {
    fn of(home: &Home, serve: &Serve, feed: &Feed, name: &str, session: Option<&str>) -> Told {
        let typed = |line: &[&str]| {
            let (code, out, err) = home.typed(line);
            assert_eq!(err, "", "{line:?}");
            (code, out)
        };
        let params = json!({"name": "relatch_status", "arguments": {}});
        let asked = json!({"jsonrpc": "2.0", "id": 90, "method": "tools/call", "params": params});
        Told {
            json: home.server_status(name),
            table: typed(&["status"]),
            story: typed(&["status", name]),
            metrics: get(serve, "/metrics"),
            tool: session
                .map(|session| serve.post(name, Some(session), &[], &asked).message()["result"].clone()),
            event: feed.status.lock().unwrap().clone(),
            turns: feed.turns.lock().unwrap().clone(),
        }
    }

    /// The event may still be on its way.
    fn young(&self, server: &Value) -> bool {
        server_of(&self.event, server["name"].as_str().unwrap()) != *server
            || history(self, server).iter().any(|what| what.contains("turned"))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A complaint, unless it holds.
fn that(holds: bool, what: String) -> Vec<String> {
    if holds { Vec::new() } else { vec![what] }
}

fn status_json(told: &Told, server: &Value) -> Vec<String> {
    that(told.json == *server, format!("{:#}", told.json))
}

fn events(told: &Told, server: &Value) -> Vec<String> {
    let event = server_of(&told.event, text(&server["name"]));
    that(event == *server, format!("{event:#}"))
}

/// The page draws its timeline from this: the last turn of health is the health that is.
fn history(told: &Told, server: &Value) -> Vec<String> {
    let ours = told.turns.iter().flat_map(|news| news["servers"].as_array().into_iter().flatten());
    let ours = ours.filter(|history| history["name"] == server["name"]);
    let last = ours.filter_map(|history| history["turns"].as_array()?.last().cloned()).next_back();
    let last = last.unwrap_or_default();
    that(
        last["health"] == server["health"],
        format!("it has turned {last} last, and is {}", server["health"]),
    )
}

fn exit_codes(told: &Told, server: &Value) -> Vec<String> {
    let expected = i32::from(server["health"] != "healthy");
    let mut wrong = that(told.story.0 == expected, format!("`status NAME` exits with {}", told.story.0));
    wrong.extend(that(
        told.table.0 == 1,
        format!("`status` exits with {}, and not all are healthy", told.table.0),
    ));
    wrong
}

/// The tool: the same data, and the same story in words.
fn inside_the_client(told: &Told, server: &Value) -> Vec<String> {
    let Some(tool) = &told.tool else { return Vec::new() };
    let mut wrong = that(tool["structuredContent"] == *server, format!("{tool:#}"));
    let (inside, outside) = (text(&tool["content"][0]["text"]), told.story.1.as_str());
    // Each second may be another one.
    let words =
        |story: &str| story.lines().next().unwrap_or_default().split(" for ").next().map(str::to_owned);
    wrong.extend(that(words(inside) == words(outside), format!("the story is {inside}")));
    wrong.extend(troubles(inside, server));
    wrong
}

fn mark(health: &str) -> &'static str {
    match health {
        "healthy" => "✓",
        "recovering" => "↻",
        "degraded" => "!",
        "down" => "✗",
        "unknown" => "?",
        other => panic!("there is no health `{other}`"),
    }
}

/// What both texts say of each condition and of the reason.
fn troubles(told: &str, server: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for condition in server["conditions"].as_array().unwrap() {
        for part in ["title", "effect", "hint"] {
            wrong.extend(that(
                told.contains(text(&condition[part])),
                format!("{part} of {condition} is not told"),
            ));
        }
        let explained = format!("`relatch explain {}`", text(&condition["code"]));
        wrong.extend(that(told.contains(&explained), format!("no {explained}")));
    }
    wrong.extend(that(
        told.contains(text(&server["reason"])),
        format!("the reason {} is not told", server["reason"]),
    ));
    wrong
}

fn status_table(told: &Told, server: &Value) -> Vec<String> {
    let (name, health) = (text(&server["name"]), text(&server["health"]));
    let mut lines = told.table.1.lines();
    let head = lines.next().unwrap_or_default();
    let mut ours = lines.skip_while(|line| !line.starts_with(&format!("{name} ")));
    let row = ours.next().unwrap_or_default();
    let below: Vec<&str> = ours.take_while(|line| line.starts_with("  ")).collect();
    // A column of numbers ends where its title ends.
    let number = |title: &str| {
        let end = head.find(title).map_or(0, |at| head[..at].chars().count() + title.len());
        row.chars().take(end).collect::<String>().split_whitespace().last().unwrap_or_default().to_owned()
    };
    let word = format!("{} {health}", mark(health));
    let mut wrong = that(row.contains(&word), format!("no `{word}` in `{row}`"));
    for (title, total) in [("CALLS", "calls"), ("RELATCHED", "relatched"), ("GIVEN BACK", "given_back")] {
        let expected = server["totals"][total].to_string();
        wrong
            .extend(that(number(title) == expected, format!("{title} is {}, not {expected}", number(title))));
    }
    if let Some(success) = server["last_success"].as_object().filter(|_| health == "healthy") {
        let method = text(&success["method"]);
        wrong.extend(that(row.contains(&format!("{method} ")), format!("no evidence in `{row}`")));
    }
    wrong.extend(troubles(&format!("{row}\n{}", below.join("\n")), server));
    wrong.extend(that(
        below.len() == 2 * codes(server).len(),
        format!("more conditions than there are: {below:?}"),
    ));
    wrong
}

fn status_story(told: &Told, server: &Value) -> Vec<String> {
    let story = &told.story.1;
    let (name, health, totals) = (text(&server["name"]), text(&server["health"]), &server["totals"]);
    let known = |facet: &str, yes: &'static str, no: &'static str| match server["facets"][facet].as_bool() {
        Some(true) => yes,
        Some(false) => no,
        None => "unknown",
    };
    let mut lines = vec![
        format!("{name}  {} {health} for ", mark(health)),
        format!("reachable: {} · ", known("reachable", "yes", "no")),
        format!("session: {} · ", known("session", "alive", "gone")),
        format!("credentials: {} · ", known("credentials", "accepted", "refused")),
        format!("last call: {}", known("last_call", "answered", "not answered")),
        format!(
            "{} · relatched {} · resent {} · held {} · given back {} (may have run: {})",
            totals["calls"],
            totals["relatched"],
            totals["resent"],
            totals["held"],
            totals["given_back"],
            totals["delivery_unknown"]
        ),
        text(&server["url"]).to_owned(),
    ];
    if server["server"].is_object() {
        let peer = &server["server"];
        lines.push(format!(
            "{} {}, MCP {} ({})",
            text(&peer["name"]),
            text(&peer["version"]),
            text(&peer["protocol"]),
            text(&peer["era"])
        ));
    }
    if server["waiting"] != 0 {
        lines.push(format!("{} call", server["waiting"]));
    }
    if let Some(failure) = server["last_failure"].as_object() {
        lines.push(text(&failure["cause"]).to_owned());
    }
    let mut wrong: Vec<String> = lines
        .iter()
        .filter(|line| !story.contains(line.as_str()))
        .map(|line| format!("no `{line}` in\n{story}"))
        .collect();
    for session in server["sessions"].as_array().unwrap() {
        let row = story
            .lines()
            .find(|line| line.trim_start().starts_with(text(&session["id"])))
            .unwrap_or_default();
        let words: Vec<&str> = row.split_whitespace().collect();
        let generation = session["generation"].to_string();
        for word in [text(&session["client"]["name"]), text(&session["state"]), &generation] {
            wrong.extend(that(words.contains(&word), format!("no `{word}` of the session in `{row}`")));
        }
        let open = session["open"].to_string();
        wrong.extend(that(words.last() == Some(&open.as_str()), format!("not {open} open calls in `{row}`")));
    }
    wrong.extend(troubles(story, server));
    wrong
}

fn metrics(told: &Told, server: &Value) -> Vec<String> {
    let name = text(&server["name"]);
    let of = |metric: &str, more: &str| {
        let sample = format!("{metric}{{upstream=\"{name}\"{more}}} ");
        told.metrics.lines().find_map(|line| line.strip_prefix(&sample)?.parse::<f64>().ok())
    };
    let mut wrong = Vec::new();
    for state in ["healthy", "recovering", "degraded", "down", "unknown"] {
        let expected = f64::from(u8::from(server["health"] == state));
        let told = of("relatch_upstream_health", &format!(",state=\"{state}\""));
        wrong.extend(that(told == Some(expected), format!("{state} is {told:?}, not {expected}")));
    }
    let conditions = format!("relatch_upstream_condition{{upstream=\"{name}\",code=\"");
    let mut shown: Vec<&str> = told
        .metrics
        .lines()
        .filter_map(|line| line.strip_prefix(&conditions)?.strip_suffix("\"} 1"))
        .collect();
    let mut expected = codes(server);
    shown.sort_unstable();
    expected.sort_unstable();
    wrong.extend(that(shown == expected, format!("the conditions {shown:?}, not {expected:?}")));
    let sessions = server["sessions"].as_array().unwrap();
    let seconds = |at: &Value| {
        let at: Option<jiff::Timestamp> = text(at).parse().ok();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
        at.map(|at| at.as_millisecond() as f64 / 1e3)
    };
    let number = |value: &Value| value.as_f64();
    for (metric, expected) in [
        ("relatch_calls_total", number(&server["totals"]["calls"])),
        ("relatch_relatched_total", number(&server["totals"]["relatched"])),
        ("relatch_resent_total", number(&server["totals"]["resent"])),
        ("relatch_held_total", number(&server["totals"]["held"])),
        ("relatch_given_back_total", number(&server["totals"]["given_back"])),
        ("relatch_delivery_unknown_total", number(&server["totals"]["delivery_unknown"])),
        ("relatch_waiting_calls", number(&server["waiting"])),
        ("relatch_sessions", number(&json!(sessions.len()))),
        (
            "relatch_generation",
            sessions.iter().filter_map(|session| session["generation"].as_f64()).reduce(f64::max),
        ),
        ("relatch_open_calls", Some(sessions.iter().filter_map(|session| session["open"].as_f64()).sum())),
        ("relatch_upstream_health_since_timestamp_seconds", seconds(&server["since"])),
        ("relatch_upstream_last_success_timestamp_seconds", seconds(&server["last_success"]["at"])),
        ("relatch_upstream_last_failure_timestamp_seconds", seconds(&server["last_failure"]["at"])),
        ("relatch_upstream_next_attempt_timestamp_seconds", seconds(&server["next_attempt"])),
    ] {
        let told = of(metric, "");
        wrong.extend(that(told == expected, format!("{metric} is {told:?}, not {expected:?}")));
    }
    wrong
}
