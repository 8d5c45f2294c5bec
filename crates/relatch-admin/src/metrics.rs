//! What Prometheus reads of a keeper: the text of `/metrics`, and the page that documents its names.
//!
//! Drawn from the same status as every other view, and computes nothing. Labels are bounded: configured names,
//! relatch's own words, and nothing that a client or server has said.

use std::fmt::Write;

use jiff::Timestamp;
use relatch_core::health::State;

use crate::schema::{KeeperStatus, ServerStatus};

/// How a metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only, and begins at zero with the keeper.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Quantiles, with sum and count.
    Summary,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
        }
    }
}

/// One metric: its name, and where its samples come from.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    labels: &'static str,
    samples: Samples,
}

/// Where the samples of a metric come from.
#[derive(Clone, Copy)]
enum Samples {
    /// The keeper.
    Keeper(fn(&KeeperStatus, &mut Lines)),
    /// One upstream.
    Server(fn(&ServerStatus, &mut Lines)),
    /// Its open sockets.
    Sockets,
}

/// Every metric, in the order of the text.
const METRICS: [Metric; 21] = [
    Metric {
        name: "relatch_build_info",
        kind: Kind::Gauge,
        help: "Always 1; which relatch this is",
        labels: "`version`, `kind` (`serve`)",
        samples: Samples::Keeper(|keeper, lines| {
            lines.sample(&[("version", &keeper.version), ("kind", keeper.kind.as_str())], 1.0);
        }),
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        help: "When the keeper began, in seconds since 1970",
        labels: "",
        samples: Samples::Keeper(|keeper, lines| lines.sample(&[], seconds(keeper.since))),
    },
    Metric {
        name: "relatch_journal_fault",
        kind: Kind::Gauge,
        help: "1 while the journal can't be kept whole in its files",
        labels: "",
        samples: Samples::Keeper(|keeper, lines| lines.sample(&[], flag(keeper.journal.fault.is_some()))),
    },
    Metric {
        name: "relatch_upstream_health",
        kind: Kind::Gauge,
        help: "1 for the state that holds now, 0 for the others",
        labels: "`upstream`, `state` (`healthy`, `recovering`, `degraded`, `down`, `unknown`)",
        samples: Samples::Server(|server, lines| {
            for state in STATES {
                let labels = [("upstream", server.name.as_str()), ("state", state.as_str())];
                lines.sample(&labels, flag(server.health == state));
            }
        }),
    },
    Metric {
        name: "relatch_upstream_health_since_timestamp_seconds",
        kind: Kind::Gauge,
        help: "Since when that state holds, in seconds since 1970",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.of(server, seconds(server.since))),
    },
    Metric {
        name: "relatch_upstream_condition",
        kind: Kind::Gauge,
        help: "1 for each condition that holds now; the others are absent",
        labels: "`upstream`, `code` (a code that `relatch explain` knows)",
        samples: Samples::Server(|server, lines| {
            for condition in &server.conditions {
                lines.sample(&[("upstream", &server.name), ("code", &condition.code)], 1.0);
            }
        }),
    },
    Metric {
        name: "relatch_upstream_last_success_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the last answer came, in seconds since 1970; absent before the first",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| {
            if let Some(success) = &server.last_success {
                lines.of(server, seconds(success.at));
            }
        }),
    },
    Metric {
        name: "relatch_upstream_last_failure_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When something last failed, in seconds since 1970; absent before the first time",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| {
            if let Some(failure) = &server.last_failure {
                lines.of(server, seconds(failure.at));
            }
        }),
    },
    Metric {
        name: "relatch_sessions",
        kind: Kind::Gauge,
        help: "Downstream sessions that are open",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.of(server, size(server.sessions.len()))),
    },
    Metric {
        name: "relatch_generation",
        kind: Kind::Gauge,
        help: "The highest generation among these sessions; absent without one",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| {
            if let Some(highest) = server.sessions.iter().map(|session| session.generation).max() {
                lines.of(server, f64::from(highest));
            }
        }),
    },
    Metric {
        name: "relatch_open_calls",
        kind: Kind::Gauge,
        help: "Exchanges under way or waiting",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| {
            lines.of(server, size(server.sessions.iter().map(|session| session.open).sum()));
        }),
    },
    Metric {
        name: "relatch_waiting_calls",
        kind: Kind::Gauge,
        help: "Of these, the exchanges that wait for their upstream",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.of(server, size(server.waiting))),
    },
    Metric {
        name: "relatch_sockets",
        kind: Kind::Gauge,
        help: "Sockets that are open to the upstream",
        labels: "`upstream`",
        samples: Samples::Sockets,
    },
    Metric {
        name: "relatch_calls_total",
        kind: Kind::Counter,
        help: "Exchanges that clients asked for",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.count(server, server.totals.calls)),
    },
    Metric {
        name: "relatch_relatched_total",
        kind: Kind::Counter,
        help: "Upstream sessions that were bound in place of a dead one",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.count(server, server.totals.relatched)),
    },
    Metric {
        name: "relatch_resent_total",
        kind: Kind::Counter,
        help: "Exchanges that were sent a second time",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.count(server, server.totals.resent)),
    },
    Metric {
        name: "relatch_held_total",
        kind: Kind::Counter,
        help: "Exchanges that had to wait for their upstream",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.count(server, server.totals.held)),
    },
    Metric {
        name: "relatch_given_back_total",
        kind: Kind::Counter,
        help: "Exchanges that ended with an error of relatch's own",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.count(server, server.totals.given_back)),
    },
    Metric {
        name: "relatch_delivery_unknown_total",
        kind: Kind::Counter,
        help: "Of these, the exchanges that may have run",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| lines.count(server, server.totals.delivery_unknown)),
    },
    Metric {
        name: "relatch_call_duration_seconds",
        kind: Kind::Summary,
        help: "How long answers to tools/call took; quantiles of the last 512, absent before the first",
        labels: "`upstream`, `quantile` (`0.5`, `0.99`)",
        samples: Samples::Server(|server, lines| {
            let upstream = ("upstream", server.name.as_str());
            let latency = server.latency_ms;
            if server.totals.answered > 0 {
                lines.sample(&[upstream, ("quantile", "0.5")], latency.p50 / 1e3);
                lines.sample(&[upstream, ("quantile", "0.99")], latency.p99 / 1e3);
            }
            lines.part("_sum", &[upstream], number(server.totals.answered_ms) / 1e3);
            lines.part("_count", &[upstream], number(server.totals.answered));
        }),
    },
    Metric {
        name: "relatch_upstream_next_attempt_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When relatch asks an upstream that is away again; absent where it does not wait to",
        labels: "`upstream`",
        samples: Samples::Server(|server, lines| {
            if let Some(next) = server.next_attempt {
                lines.of(server, seconds(next));
            }
        }),
    },
];

const STATES: [State; 5] = [State::Healthy, State::Recovering, State::Degraded, State::Down, State::Unknown];

/// The text of `/metrics`, in the exposition format 0.0.4. `sockets` counts those open to an upstream, where that is
/// known.
#[must_use]
pub fn text(keeper: &KeeperStatus, sockets: &dyn Fn(&str) -> Option<usize>) -> String {
    let mut text = String::new();
    for metric in &METRICS {
        let mut lines = Lines { name: metric.name, text: String::new() };
        match metric.samples {
            Samples::Keeper(samples) => samples(keeper, &mut lines),
            Samples::Server(samples) => keeper.servers.iter().for_each(|server| samples(server, &mut lines)),
            Samples::Sockets => {
                for server in &keeper.servers {
                    if let Some(open) = sockets(&server.name) {
                        lines.of(server, size(open));
                    }
                }
            }
        }
        let Metric { name, kind, help, .. } = metric;
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {}\n{}", kind.as_str(), lines.text);
    }
    text
}

/// The page that documents every name, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = REFERENCE.to_owned();
    for Metric { name, kind, help, labels, .. } in &METRICS {
        let kind = kind.as_str();
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
    }
    page
}

const REFERENCE: &str = "\
# Metrics

<!-- Made from crates/relatch-admin/src/metrics.rs: `RELATCH_WRITE_DOCS=1 cargo test -p relatch-admin metrics`. -->

`relatch serve` answers `GET /metrics` in the text format of Prometheus (0.0.4). Everything in it is drawn from the
report that `relatch status` shows, at the moment of the request. Labels are bounded: `upstream` is a configured name, the
others are relatch's own words; nothing that a client or a server has said becomes a label. Counters begin at zero with
the keeper.

It asks for the token as the rest does, as `Relatch-Token` or as a bearer, which a collector can read from the file in the
state folder:

```yaml
scrape_configs:
  - job_name: relatch
    authorization: { credentials_file: /home/me/.local/state/relatch/token }
    static_configs: [{ targets: [\"127.0.0.1:7332\"] }]
```

A keeper on stdio has no HTTP side; `relatch status --json` has the same figures of every keeper. `/livez` answers 200
while the process serves, `/readyz` 200 while it takes requests; from the moment it is told to end it is no longer ready:
new connections are refused, while calls under way are answered. Both are without the token. `/api/status` is the JSON of `relatch status --json`.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
";

/// The samples of one metric.
struct Lines {
    name: &'static str,
    text: String,
}

impl Lines {
    fn of(&mut self, server: &ServerStatus, value: f64) {
        self.sample(&[("upstream", &server.name)], value);
    }

    fn count(&mut self, server: &ServerStatus, value: u64) {
        self.of(server, number(value));
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.part("", labels, value);
    }

    fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{}{suffix}{labels} {value}", self.name);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "the format has no other number, and counts stay below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

fn size(count: usize) -> f64 {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::schema::{ConditionStatus, JournalStatus, KeeperKind, LatencyStatus, SuccessStatus};

    fn keeper() -> KeeperStatus {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        KeeperStatus {
            pid: 1,
            kind: KeeperKind::Serve,
            version: "0.1.0".into(),
            since: at(0),
            servers: vec![ServerStatus {
                name: "gmail".into(),
                url: "http://127.0.0.1:8761/mcp".into(),
                health: State::Down,
                since: at(60),
                reason: None,
                facets: relatch_core::health::Facets::default(),
                conditions: vec![ConditionStatus {
                    code: "upstream-down".into(),
                    title: String::new(),
                    depends_on: vec![],
                    since: at(60),
                    cause: String::new(),
                    effect: String::new(),
                    hint: String::new(),
                }],
                last_success: Some(SuccessStatus { at: at(50), method: "ping".into(), ms: 1.0 }),
                last_failure: None,
                pause: None,
                next_attempt: None,
                server: None,
                sessions: vec![],
                waiting: 3,
                totals: relatch_core::health::Totals {
                    calls: 7,
                    answered: 4,
                    answered_ms: 50,
                    ..relatch_core::health::Totals::default()
                },
                latency_ms: LatencyStatus { p50: 12.0, p99: 20.0 },
                stderr: Vec::new(),
            }],
            journal: JournalStatus::default(),
        }
    }

    #[test]
    fn the_text_has_every_metric_with_its_help_and_type() {
        let text = text(&keeper(), &|_| Some(2));
        for metric in &METRICS {
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
            assert!(text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind.as_str())));
        }
        for line in [
            "relatch_build_info{version=\"0.1.0\",kind=\"serve\"} 1",
            "process_start_time_seconds 1700000000",
            "relatch_upstream_health{upstream=\"gmail\",state=\"down\"} 1",
            "relatch_upstream_health{upstream=\"gmail\",state=\"healthy\"} 0",
            "relatch_upstream_condition{upstream=\"gmail\",code=\"upstream-down\"} 1",
            "relatch_upstream_last_success_timestamp_seconds{upstream=\"gmail\"} 1700000050",
            "relatch_waiting_calls{upstream=\"gmail\"} 3",
            "relatch_sockets{upstream=\"gmail\"} 2",
            "relatch_calls_total{upstream=\"gmail\"} 7",
            "relatch_call_duration_seconds{upstream=\"gmail\",quantile=\"0.99\"} 0.02",
            "relatch_call_duration_seconds_sum{upstream=\"gmail\"} 0.05",
            "relatch_call_duration_seconds_count{upstream=\"gmail\"} 4",
        ] {
            assert!(text.lines().any(|told| told == line), "no `{line}` in\n{text}");
        }
        assert!(!text.contains("relatch_generation{"), "nobody has a generation");
    }

    #[test]
    fn the_page_of_metrics_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
        if std::env::var_os("RELATCH_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, reference()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, reference(), "write it anew with RELATCH_WRITE_DOCS=1");
    }
}
