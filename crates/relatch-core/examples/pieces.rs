//! Pieces of the hot path, each as often as it is told: `bench/guard` counts their instructions.
//!
//! `pieces NAME TIMES`; `pieces` alone says the names.

use std::process::ExitCode;

use relatch_core::effect::{Effect, What};
use relatch_core::exchange::{Delivery, verdict};
use relatch_core::health::ServerSeen;
use relatch_core::input::{Answer, Ask, Input, Keep, SessionFacts, Told};
use relatch_core::policy::Policy;
use relatch_core::upstream::Machine;
use relatch_core::{At, AttemptId, ExId, LatchId, NoteId};
use relatch_wire::method::{self, RetryClass};
use relatch_wire::sse::SseReader;
use relatch_wire::{Envelope, RequestId};

/// A piece by its name.
type Piece = (&'static str, fn(u64) -> u64);

const PIECES: [Piece; 5] = [
    ("envelope", |times| envelope(times, CALL)),
    ("envelope-100k", |times| envelope(times, &long_result())),
    ("sse", sse),
    ("verdict", verdicts),
    ("exchange", exchanges),
];

const CALL: &str = r#"{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"search","arguments":{"query":"the words that are looked for","limit":20},"_meta":{"progressToken":17}}}"#;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let times = words.next().and_then(|times| times.parse::<u64>().ok());
    let piece = PIECES.iter().find(|(known, _)| *known == name);
    let (Some((_, piece)), Some(times)) = (piece, times) else {
        let names: Vec<&str> = PIECES.iter().map(|(name, _)| *name).collect();
        say(&names.join("\n"));
        return if name.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    };
    // What was counted is said, so that no piece is left out as useless.
    say(&piece(times).to_string());
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn say(words: &str) {
    println!("{words}");
}

fn long_result() -> String {
    let text = "a line of text, with \\\"quotes\\\" in it\\n".repeat(2_500);
    format!(r#"{{"jsonrpc":"2.0","id":17,"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#)
}

fn envelope(times: u64, text: &str) -> u64 {
    let mut seen = 0;
    for _ in 0..times {
        seen += u64::from(Envelope::read(std::hint::black_box(text.as_bytes())).is_ok());
    }
    seen
}

/// Sixteen events of 120 bytes, in chunks of 300.
fn sse(times: u64) -> u64 {
    let event = |n: u32| {
        format!(
            "id: {n}\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":17,\"progress\":{n}}}}}\n\n"
        )
    };
    let stream: String = (0..16).map(event).collect();
    let mut seen = 0;
    for _ in 0..times {
        let mut reader = SseReader::default();
        let mut items = Vec::new();
        for chunk in std::hint::black_box(stream.as_bytes()).chunks(300) {
            reader.feed(chunk, &mut items);
        }
        reader.finish(&mut items);
        seen += items.len() as u64;
    }
    seen
}

fn verdicts(times: u64) -> u64 {
    let classes = [RetryClass::Always, RetryClass::IfNotDelivered, RetryClass::Never];
    let deliveries = [Delivery::NotSent, Delivery::Refused, Delivery::Unknown, Delivery::Answered];
    let mut seen = 0;
    for _ in 0..times {
        for class in classes {
            for delivery in deliveries {
                let said = verdict(std::hint::black_box(class), std::hint::black_box(delivery));
                seen += u64::from(format!("{said:?}").len() as u32 > 0);
            }
        }
    }
    seen
}

/// A small call on a bound latch: asked, sent, answered, passed on. Among a hundred latches.
fn exchanges(times: u64) -> u64 {
    let mut machine = Machine::new(Policy::new("files", "http://127.0.0.1:8931/mcp"), At(0), 7);
    let mut effects = Vec::new();
    let latches = 100;
    for number in 0..latches {
        bind(&mut machine, LatchId(number), ExId(number), NoteId(number), &mut effects);
    }
    let mut seen = 0;
    for number in 0..times {
        let (latch, ex) = (LatchId(number % latches), ExId(1_000 + number));
        let ask = ask(number, method::TOOLS_CALL, Some("search"));
        let now = At(1_000 + number / 100);
        machine.on(now, Input::Asked { latch, ex, ask }, &mut effects);
        if let Some(attempt) = sent(&mut effects) {
            machine.on(now, Input::Answered { attempt, answer: Answer::Result }, &mut effects);
        }
        seen += effects.drain(..).filter(|effect| matches!(effect, Effect::Pass { .. })).count() as u64;
    }
    assert_eq!(seen, times, "every call is answered");
    seen
}

fn ask(id: u64, method: &str, tool: Option<&str>) -> Ask {
    Ask {
        id: RequestId::number(i64::try_from(id).unwrap_or(0)),
        method: method.to_owned(),
        tool: tool.map(str::to_owned),
        accepts_sse: true,
        keep: Keep::Nothing,
    }
}

/// The attempt that is sent now; other effects are let go.
fn sent(effects: &mut Vec<Effect>) -> Option<AttemptId> {
    effects.drain(..).find_map(|effect| match effect {
        Effect::Send(send) if !matches!(send.what, What::Stream) => Some(send.attempt),
        _ => None,
    })
}

fn bind(machine: &mut Machine, latch: LatchId, ex: ExId, note: NoteId, effects: &mut Vec<Effect>) {
    let now = At(0);
    let ask = ask(0, method::INITIALIZE, None);
    machine.on(now, Input::Opened { latch, ex, ask, client: None }, effects);
    if let Some(attempt) = sent(effects) {
        let server = ServerSeen {
            name: None,
            version: None,
            protocol: "2025-11-25".to_owned(),
            era: relatch_wire::era::Era::Legacy.as_str(),
        };
        let session = SessionFacts { has_id: true, server, digest: 1, offers: ["tools"].into() };
        machine.on(now, Input::Session { attempt, session }, effects);
    }
    machine.on(now, Input::Told { latch, note, told: Told::Initialized }, effects);
    if let Some(attempt) = sent(effects) {
        machine.on(now, Input::Answered { attempt, answer: Answer::Result }, effects);
    }
    effects.clear();
}
