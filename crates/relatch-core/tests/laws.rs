//! The laws of the core's pure functions: every refusal has one reading, every pair has one verdict, and the bounds that
//! the machine keeps hold exactly.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use relatch_core::effect::{Effect, What};
use relatch_core::exchange::{Delivery, Verdict, verdict};
use relatch_core::health::ServerSeen;
use relatch_core::input::{Answer, Ask, Cut, CutKind, Input, Keep, Refusal, SessionFacts, Told};
use relatch_core::latch::reading::{Door, Reading, error_raises_doubt, read, read_door, speaks_of_session};
use relatch_core::policy::{self, Policy, matches};
use relatch_core::upstream::Machine;
use relatch_core::{At, AttemptId, ExId, Gen, LatchId, NoteId};
use relatch_wire::failure::Code;
use relatch_wire::method::{self, RetryClass};
use relatch_wire::request_id::RequestId;

const CLASSES: [RetryClass; 3] = [RetryClass::Always, RetryClass::IfNotDelivered, RetryClass::Never];
const DELIVERIES: [Delivery; 4] =
    [Delivery::NotSent, Delivery::Refused, Delivery::Unknown, Delivery::Answered];

fn law() -> ProptestConfig {
    ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() }
}

/// An answer, owned.
#[derive(Clone, Debug)]
struct Said {
    status: u16,
    body: String,
    rpc_code: Option<i64>,
    digest: u64,
    challenge: bool,
    retry_after: Option<u64>,
    location: Option<String>,
}

impl Said {
    fn refusal(&self) -> Refusal<'_> {
        Refusal {
            status: self.status,
            body: &self.body,
            rpc_code: self.rpc_code,
            digest: self.digest,
            challenge: self.challenge,
            retry_after: self.retry_after,
            location: self.location.as_deref(),
            ended: false,
        }
    }
}

/// What servers say, in pieces that are put together in any way.
fn words() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            "Session", "session id", "Mcp-Session-Id header", "not found", "No valid session ID provided", "missing",
            "expired", "Server not initialized", "Unauthorized: Session not found", "unknown", "invalid", "tool",
            "Unexpected message, expect initialize request", "Unsupported protocol version", "<html>", "terminated",
            "is required", "must be a valid UUID", "not supported in stateless mode", "Method not found", " ", ": ",
            "SSE connection not established", "No transport found for", "\u{130}\u{df}\u{1f}",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => Just("x".repeat(80)),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.join(" "))
}

fn said() -> impl Strategy<Value = Said> {
    let status = prop_oneof![
        4 => prop::sample::select(vec![
            200_u16, 202, 301, 307, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 421, 422, 429, 500, 501, 502,
            503, 504, 520, 529, 530,
        ]),
        1 => 100..=999_u16,
    ];
    // Half of it as real servers put it, and what else comes with it at random.
    let known = prop::sample::select(vec![
        (400, "Bad Request: No valid session ID provided"),
        (400, "Bad Request: Server not initialized"),
        (401, "Unauthorized: Session not found"),
        (403, "session user mismatch"),
        (404, ""),
        (404, "Session not found"),
        (410, ""),
        (422, "Unexpected message, expect initialize request"),
        (500, "unknown session"),
        (500, "internal error"),
        (503, "starting"),
        (500, "SSE connection not established"),
        (503, "No active SSE connection for session 1"),
    ]);
    let known = known.prop_map(|(status, body)| (status, body.to_owned()));
    let what = prop_oneof![known, (status, words())];
    let code = prop_oneof![
        2 => Just(None),
        2 => prop::sample::select(vec![-32601, -32602, -32700, -32600, -32000, -32001, -32022, -32020, -32029, 0]).prop_map(Some),
        1 => any::<i64>().prop_map(Some),
    ];
    let location = prop::option::of(Just("http://elsewhere/".to_owned()));
    let retry_after = prop::option::of(any::<u64>());
    (what, code, any::<u64>(), any::<bool>(), retry_after, location).prop_map(
        |((status, body), rpc_code, digest, challenge, retry_after, location)| Said {
            status,
            body,
            rpc_code,
            digest,
            challenge,
            retry_after,
            location,
        },
    )
}

/// Whether a server of the old transport says that nobody holds the stream.
fn streamless(lower: &str) -> bool {
    lower.contains("sse connection") || lower.contains("sse session") || lower.contains("transport")
}

/// The whole of what one gate says, which looks for its stream before it reads the message.
fn not_established(body: &str) -> bool {
    body.trim().eq_ignore_ascii_case("SSE connection not established")
}

proptest! {
    #![proptest_config(law())]

    #[test]
    fn a_lost_session_is_read_only_from_the_specified_signal_or_a_dialect_that_says_so(said in said(), has_id in any::<bool>()) {
        let refusal = said.refusal();
        let lower = said.body.to_ascii_lowercase();
        let about = lower.contains("session") || lower.contains("server not initialized");
        if read(&refusal, has_id) == Reading::Gone {
            prop_assert!(matches!(said.status, 400 | 401 | 404 | 410 | 422) || streamless(&lower) && said.status == 503 || not_established(&lower) && said.status == 500);
            // A bare 404 is the signal only where there was a session to lose.
            prop_assert!(about || has_id || said.status != 404);
            prop_assert!(about || streamless(&lower) || said.status != 400);
            prop_assert!(said.status != 422 || lower.contains("expect initialize request"));
            prop_assert!(said.status != 401 || (about || streamless(&lower)) && !said.challenge, "credentials are answered by relatching");
            prop_assert!(!(matches!(said.rpc_code, Some(-32601 | -32602)) && !about && said.status == 404));
            prop_assert!(said.status != 400 || said.rpc_code != Some(-32602) || streamless(&lower));
        }
    }

    #[test]
    fn each_reading_keeps_to_its_statuses(said in said(), has_id in any::<bool>()) {
        let refusal = said.refusal();
        let fits = match read(&refusal, has_id) {
            Reading::Gone => {
                matches!(said.status, 400 | 401 | 404 | 410 | 422)
                    || said.status == 503 && streamless(&said.body.to_ascii_lowercase())
                    || said.status == 500 && not_established(&said.body)
            }
            Reading::AboutRequest => matches!(said.status, 400 | 404 | 405 | 406 | 413 | 415),
            Reading::Credentials => said.challenge && matches!(said.status, 401 | 403),
            Reading::Later => said.status == 429 || said.status == 503 && said.retry_after.is_some(),
            Reading::WrongPlace => said.status == 421,
            Reading::Gateway => matches!(said.status, 502 | 504 | 520..=529),
            Reading::Redirected => (300..400).contains(&said.status),
            Reading::NotMcp => {
                (200..300).contains(&said.status)
                    || said.status == 404 && !has_id
                    || said.status == 501 && said.rpc_code.is_none()
            }
            // What may have run, or may not be about the session, is asked about.
            Reading::Suspected => {
                !matches!(said.status, 300..=399 | 404 | 406 | 410 | 413 | 415 | 421 | 429 | 502 | 504 | 520..=529)
            }
        };
        prop_assert!(fits, "{:?}", read(&refusal, has_id));
        // What is not about the call stays unheard: the redirect's place, the digest, the case of letters.
        let upper = said.body.to_ascii_uppercase();
        let other = Refusal { body: &upper, digest: !said.digest, location: None, ..refusal };
        prop_assert_eq!(read(&other, has_id), read(&refusal, has_id));
        prop_assert_eq!(read_door(&other), read_door(&refusal));
    }

    #[test]
    fn a_door_is_read_from_any_answer(said in said()) {
        let fits = match read_door(&said.refusal()) {
            Door::Credentials => matches!(said.status, 401 | 403),
            Door::Later => said.status == 429 || said.status == 503 && said.retry_after.is_some(),
            Door::Redirected => (300..400).contains(&said.status),
            Door::Refused => !matches!(said.status, 200..=399 | 401 | 403 | 404 | 405 | 429 | 500..=599),
            Door::Missing => !matches!(said.status, 300..=399 | 401 | 403 | 429),
        };
        prop_assert!(fits, "{:?}", read_door(&said.refusal()));
    }

    #[test]
    fn more_words_take_back_nothing_that_was_said_of_the_session(before in words(), said in words(), after in words()) {
        if speaks_of_session(&said) {
            let longer = format!("{before}{said}{after}");
            prop_assert!(speaks_of_session(&longer));
        }
        // An answer that says which argument is wrong raises no doubt, whatever it calls that argument.
        prop_assert!(!error_raises_doubt(-32602, &said) && !error_raises_doubt(-32601, &said));
        prop_assert_eq!(error_raises_doubt(-32000, &said), speaks_of_session(&said));
    }

    #[test]
    fn a_glob_without_stars_means_what_a_plain_reading_says(glob in "[ab?]{0,6}", text in "[ab?]{0,6}", tail in "[ab]{0,4}") {
        let plain = glob.chars().count() == text.chars().count()
            && glob.chars().zip(text.chars()).all(|(g, t)| g == '?' || g == t);
        prop_assert_eq!(matches(&glob, &text), plain);
        if plain {
            let (longer, behind) = (format!("{text}{tail}"), format!("{tail}{text}"));
            let (begins, ends, holds) = (format!("{glob}*"), format!("*{glob}"), format!("*{glob}*"));
            prop_assert!(matches(&begins, &longer) && matches(&ends, &behind));
            prop_assert!(matches(&holds, &[tail, longer].concat()));
        }
        let elsewhere = format!("{glob}c*");
        prop_assert!(matches("*", &text) && !matches(&elsewhere, &text));
    }

    #[test]
    fn the_users_word_on_a_tool_comes_before_its_annotations_and_unknown_methods_are_not_repeated(
        tool in "[a-z]{1,8}", always in any::<bool>(), repeatable in any::<bool>(), name in "[a-z]{1,6}/[a-z]{1,6}",
    ) {
        let mut policy = Policy::new("files", "http://127.0.0.1:1/mcp");
        let class = policy.class(method::TOOLS_CALL, Some(&tool), repeatable);
        prop_assert_eq!(class == RetryClass::Always, repeatable);
        prop_assert_ne!(class, RetryClass::Never);
        policy.replay = vec![(tool.clone(), always), ("*".to_owned(), !always)];
        let class = policy.class(method::TOOLS_CALL, Some(&tool), repeatable);
        prop_assert_eq!(class, if always { RetryClass::Always } else { RetryClass::Never });
        if method::row_of(&name).is_none() {
            prop_assert_eq!(policy.class(&name, None, true), RetryClass::IfNotDelivered);
        }
    }

    #[test]
    fn a_refusal_never_becomes_an_answer_and_a_call_that_may_have_run_is_not_sent_again(
        said in said(), ping in said(), alike in any::<bool>(), answered in 0..4_u8, class in 0..2_u8,
    ) {
        // Often the question gets the very answer that raised the doubt.
        let ping = if alike { said.clone() } else { ping };
        let mut shell = Shell::bound();
        let once = class == 0;
        let ex = shell.asks(if once { "send_mail" } else { "look" }, 7);
        let Some(first) = shell.sent(ex) else { return Err(TestCaseError::fail("the call goes out")) };
        shell.on(Input::Refused { attempt: first, refusal: said.refusal() });
        // Whatever is asked gets one and the same answer, for as long as the call is not out again.
        for _ in 0..24 {
            let Some((attempt, what, generation)) = shell.next_question(ex) else {
                shell.waits();
                continue;
            };
            match (&what, answered) {
                (What::Initialize { .. }, 2..) => shell.on(Input::Session { attempt, session: session() }),
                (What::Initialized, 2..) | (_, 0) => shell.on(Input::Answered { attempt, answer: Answer::Result }),
                // A new session is fine where the old one was not.
                (_, 3) if generation > Gen(1) => shell.on(Input::Answered { attempt, answer: Answer::Result }),
                (_, 1) => shell.on(Input::Cut { attempt, cut: broke() }),
                _ => shell.on(Input::Refused { attempt, refusal: ping.refusal() }),
            }
        }
        prop_assert!(!shell.passed.contains_key(&ex), "a refusal with {} is passed on as an answer", said.status);
        let again = shell.sendings.get(&ex).copied().unwrap_or_default() > 1;
        // Without words about the session no gate can be told from a backend that failed in the middle.
        if once && matches!(said.status, 500 | 502 | 504 | 520..=529) && !speaks_of_session(&said.body) && !not_established(&said.body) {
            prop_assert!(!again, "sent again after a {}", said.status);
        }
    }
}

#[test]
fn the_verdict_is_total_and_grows_with_what_may_be_repeated() {
    let sends =
        |class, delivery| matches!(verdict(class, delivery), Verdict::SendAgain | Verdict::WaitThenSend);
    for delivery in DELIVERIES {
        for class in CLASSES {
            assert_eq!(
                verdict(class, delivery) == Verdict::PassOn,
                delivery == Delivery::Answered,
                "an answer is passed on, and nothing else is: {class:?} {delivery:?}"
            );
        }
        // From `Never` to `Always` more is allowed, never less.
        let allowed = CLASSES.map(|class| sends(class, delivery));
        assert!(allowed.is_sorted_by(|one, two| one >= two), "{delivery:?}: {allowed:?}");
    }
    for class in CLASSES {
        // The less is known to have happened, the more is allowed.
        let allowed = DELIVERIES.map(|delivery| sends(class, delivery));
        assert!(allowed.is_sorted_by(|one, two| one >= two), "{class:?}: {allowed:?}");
        assert_eq!(sends(class, Delivery::Unknown), class == RetryClass::Always, "{class:?}");
        assert!(sends(class, Delivery::NotSent), "what was never sent is still to be sent: {class:?}");
    }
}

#[test]
fn so_many_calls_of_a_session_may_wait_and_the_next_is_told_the_bound() {
    let mut shell = Shell::away();
    for n in 0..policy::WAITING_PER_LATCH as u64 {
        let ex = shell.asks("send_mail", n as i64);
        assert!(!shell.ended.contains_key(&ex), "call {n} waits");
    }
    let ex = shell.asks("send_mail", 999);
    let (code, words) = shell.ended.get(&ex).expect("one too many");
    assert!(*code == Code::HoldFull && words.contains("64"), "{code:?}: {words}");
}

#[test]
fn so_many_notifications_of_a_session_may_wait_and_the_next_is_let_go() {
    let mut shell = Shell::away();
    for n in 0..policy::NOTES_PER_LATCH as u64 {
        shell.on(Input::Told { latch: LatchId(1), note: NoteId(100 + n), told: Told::Other });
        assert!(shell.dropped.is_empty(), "notification {n} waits");
    }
    shell.on(Input::Told { latch: LatchId(1), note: NoteId(9_999), told: Told::Other });
    assert_eq!(shell.dropped, [NoteId(9_999)]);
}

/// A machine, and what became of whom.
struct Shell {
    machine: Machine,
    number: u64,
    now: At,
    open: BTreeMap<AttemptId, (What, Gen)>,
    sendings: BTreeMap<ExId, u32>,
    passed: BTreeMap<ExId, AttemptId>,
    ended: BTreeMap<ExId, (Code, String)>,
    dropped: Vec<NoteId>,
}

impl Shell {
    /// With one session in use.
    fn bound() -> Shell {
        let policy = Policy::new("files", "http://127.0.0.1:8931/mcp");
        let mut shell = Shell {
            machine: Machine::new(policy, At(0), 1),
            number: 10,
            now: At(0),
            open: BTreeMap::new(),
            sendings: BTreeMap::new(),
            passed: BTreeMap::new(),
            ended: BTreeMap::new(),
            dropped: Vec::new(),
        };
        let latch = LatchId(1);
        shell.on(Input::Opened { latch, ex: ExId(1), ask: ask(method::INITIALIZE, None, 0), client: None });
        shell.on(Input::Session { attempt: AttemptId(1), session: session() });
        shell.on(Input::Told { latch, note: NoteId(1), told: Told::Initialized });
        shell.on(Input::Answered { attempt: AttemptId(2), answer: Answer::Result });
        shell.on(Input::Hinted { latch, hints: vec![("look".to_owned(), true, false)] });
        (shell.passed, shell.dropped) = (BTreeMap::new(), Vec::new());
        shell
    }

    /// With one session, whose server has gone.
    fn away() -> Shell {
        let mut shell = Shell::bound();
        let ex = shell.asks("look", 1_000);
        let attempt = shell.sent(ex).expect("the read goes out");
        shell.on(Input::Cut { attempt, cut: Cut { wrote: false, ..broke() } });
        shell.on(Input::Left { ex });
        shell
    }

    fn asks(&mut self, tool: &str, id: i64) -> ExId {
        self.number += 1;
        let ex = ExId(self.number);
        self.on(Input::Asked { latch: LatchId(1), ex, ask: ask(method::TOOLS_CALL, Some(tool), id) });
        ex
    }

    /// The attempt that carries this exchange.
    fn sent(&self, ex: ExId) -> Option<AttemptId> {
        let carries = |what: &What| matches!(what, What::Exchange { ex: of, .. } if *of == ex);
        self.open.iter().find(|(_, (what, _))| carries(what)).map(|(attempt, _)| *attempt)
    }

    /// What is under way besides this exchange.
    fn next_question(&self, ex: ExId) -> Option<(AttemptId, What, Gen)> {
        let other = |what: &What| !matches!(what, What::Exchange { ex: of, .. } if *of == ex);
        let (attempt, (what, generation)) = self.open.iter().find(|(_, (what, _))| other(what))?;
        Some((*attempt, what.clone(), *generation))
    }

    /// Time goes on to the next thing that the machine waits for.
    fn waits(&mut self) {
        if let Some(deadline) = self.machine.deadline() {
            self.now = self.now.max(deadline.at);
            self.on(Input::Tick);
        }
    }

    fn on(&mut self, input: Input<'_>) {
        if let Input::Answered { attempt, .. }
        | Input::Session { attempt, .. }
        | Input::Refused { attempt, .. }
        | Input::Cut { attempt, .. } = &input
        {
            self.open.remove(attempt);
        }
        let mut effects = Vec::new();
        self.machine.on(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send(send) => {
                    if let What::Exchange { ex, .. } = &send.what {
                        *self.sendings.entry(*ex).or_default() += 1;
                    }
                    self.open.insert(send.attempt, (send.what, send.generation));
                }
                Effect::Abort { attempt } => {
                    self.open.remove(&attempt);
                }
                Effect::Pass { ex, attempt } => {
                    self.passed.insert(ex, attempt);
                }
                Effect::Answer { ex, failure } => {
                    self.ended.insert(ex, (failure.code, failure.message));
                }
                Effect::DropNote { note } => self.dropped.push(note),
                _ => {}
            }
        }
    }
}

fn ask(method: &str, tool: Option<&str>, id: i64) -> Ask {
    Ask {
        id: RequestId::number(id),
        method: method.to_owned(),
        tool: tool.map(str::to_owned),
        accepts_sse: true,
        keep: Keep::Nothing,
    }
}

fn session() -> SessionFacts {
    let server = ServerSeen { name: None, version: None, protocol: "2025-11-25".to_owned(), era: "legacy" };
    SessionFacts { has_id: true, server, digest: 1, offers: BTreeSet::new() }
}

fn broke() -> Cut {
    Cut { wrote: true, kind: CutKind::Connection, cause: "reset".to_owned(), resumable: false, retry: None }
}
