//! An examination as it is read: what to mend first, what is well in one line each, a summary last; and the same as JSON.

use serde_json::{Value, json};

use super::{Style, Tint, clean};
use crate::doctor::facts::{Door, Facts, Inside};
use crate::doctor::findings::{Finding, Level, median, passes};
use crate::doctor::sdk::Sdk;

/// The version of the JSON: fields are added, never renamed.
const SCHEMA: u32 = 1;
/// How wide a line of words is.
const WIDTH: usize = 110;
/// Where the words of a finding begin.
const INDENT: usize = 14;

/// The whole examination for people.
pub(crate) fn text(facts: &Facts, findings: &[Finding], style: Style) -> String {
    let mut text = format!("{}\n", style.tint(Tint::Strong, &clean(&facts.url)));
    if let Door::Open(inside) = &facts.door {
        text.push_str(&format!("{}\n", clean(&server(inside))));
    }
    let mut before = None;
    for finding in findings {
        // Details stand apart, lines without them together.
        if before != Some(Level::Ok) || finding.level != Level::Ok {
            text.push('\n');
        }
        before = Some(finding.level);
        text.push_str(&one(finding, style));
    }
    if let Door::Open(inside) = &facts.door {
        text.push_str(&format!("\n{}", times(inside)));
    }
    text.push_str(&format!("\n{}\n", summary(facts, findings, style)));
    text
}

fn server(inside: &Inside) -> String {
    let name = inside.name.as_deref().unwrap_or("(no name)");
    let version = inside.version.as_deref().map_or(String::new(), |version| format!(" {version}"));
    let sdk = Sdk::recognise(inside).map_or("SDK not recognised", Sdk::name);
    format!("{name}{version} · MCP {} · {sdk}", inside.revision)
}

fn one(finding: &Finding, style: Style) -> String {
    let (mark, tint) = match finding.level {
        Level::Wrong => ("✗ wrong", Tint::Bad),
        Level::Note => ("! note", Tint::Busy),
        Level::Unknown => ("? unknown", Tint::Faint),
        Level::Ok => ("✓ ok", Tint::Good),
    };
    let head = style.tint(tint, &format!("{mark:<11}"));
    let said = if finding.level == Level::Ok {
        clean(&finding.said).into_owned()
    } else {
        style.tint(Tint::Strong, &wrapped(&clean(&finding.said), INDENT))
    };
    let mut text = format!("{head}   {said}\n");
    if finding.level == Level::Ok {
        return text;
    }
    let mut line = |name: &str, words: &str| {
        let name = style.tint(Tint::Faint, &format!("   {name:<11}"));
        text.push_str(&format!("{name}{}\n", wrapped(&clean(words), INDENT)));
    };
    for seen in &finding.evidence {
        line("seen", seen);
    }
    for (name, words) in [("matters", &finding.why), ("relatch", &finding.relatch), ("mend", &finding.hint)] {
        if let Some(words) = words {
            line(name, words);
        }
    }
    if let Some(spec) = finding.spec {
        // An address stays whole, so that it can be opened.
        let name = style.tint(Tint::Faint, &format!("   {:<11}", "spec"));
        text.push_str(&format!("{name}{} {}: {}\n", spec.revision, spec.section, spec.url()));
    }
    text
}

/// Breaks a long line between words; what follows is indented.
fn wrapped(words: &str, indent: usize) -> String {
    let mut text = String::new();
    let mut column = indent;
    for word in words.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text
}

fn times(inside: &Inside) -> String {
    let mut parts = Vec::new();
    if let Some(ms) = inside.connect_ms {
        parts.push(format!("connect {ms:.1} ms"));
    }
    parts.push(format!("initialize {:.1} ms", inside.initialize.ms));
    if let Some(ms) = median(&inside.pings) {
        parts.push(format!("ping {ms:.1} ms (p50 of {})", inside.pings.len()));
    }
    if let Some(seen) = inside.tools.as_ref().filter(|seen| seen.worked()) {
        parts.push(format!("tools/list {:.1} ms", seen.ms));
    }
    format!("times         {}", parts.join(" · "))
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn summary(facts: &Facts, findings: &[Finding], style: Style) -> String {
    let notes = count(findings, Level::Note);
    let said = format!(
        "{} wrong, {notes} note{}, {} unknown, {} ok",
        count(findings, Level::Wrong),
        if notes == 1 { "" } else { "s" },
        count(findings, Level::Unknown),
        count(findings, Level::Ok),
    );
    let tint = if passes(facts, findings) { Tint::Good } else { Tint::Bad };
    let (opened, ended) = facts.sessions;
    let requests =
        if facts.requests == 1 { "1 request".to_owned() } else { format!("{} requests", facts.requests) };
    let sessions = match (opened, ended) {
        (0, _) => "no session opened".to_owned(),
        (opened, ended) if opened == ended => format!("{opened} sessions opened and ended"),
        (opened, ended) => format!("{opened} sessions opened, {ended} ended by DELETE"),
    };
    format!(
        "{}: {requests} in {:.1} s, {sessions}, no tool called",
        style.tint(tint, &said),
        facts.took.as_secs_f64()
    )
}

/// The whole examination for programs.
pub(crate) fn json(facts: &Facts, findings: &[Finding]) -> Value {
    let inside = match &facts.door {
        Door::Open(inside) => Some(inside),
        Door::Shut(_) => None,
    };
    json!({
        "schema": SCHEMA,
        "url": facts.url,
        "ok": passes(facts, findings),
        "server": inside.map(|inside| json!({
            "name": inside.name,
            "version": inside.version,
            "protocol": inside.revision,
            "sdk": Sdk::recognise(inside).map(Sdk::name),
        })),
        "ms": inside.map(|inside| json!({
            "connect": inside.connect_ms,
            "initialize": inside.initialize.ms,
            "ping_p50": median(&inside.pings),
            "tools_list": inside.tools.as_ref().filter(|seen| seen.worked()).map(|seen| seen.ms),
        })),
        "counts": {
            "wrong": count(findings, Level::Wrong),
            "note": count(findings, Level::Note),
            "unknown": count(findings, Level::Unknown),
            "ok": count(findings, Level::Ok),
        },
        "requests": facts.requests,
        "sessions": { "opened": facts.sessions.0, "ended": facts.sessions.1 },
        "seconds": facts.took.as_secs_f64(),
        "findings": findings.iter().map(|finding| json!({
            "code": finding.code,
            "level": finding.level,
            "said": clean(&finding.said),
            "evidence": finding.evidence.iter().map(|seen| clean(seen)).collect::<Vec<_>>(),
            "spec": finding.spec.map(|spec| json!({
                "revision": spec.revision, "section": spec.section, "url": spec.url(),
            })),
            "why": finding.why,
            "relatch": finding.relatch,
            "hint": finding.hint,
        })).collect::<Vec<_>>(),
    })
}
