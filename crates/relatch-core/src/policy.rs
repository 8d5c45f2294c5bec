//! What the user has decided about one upstream, and every bound that the core keeps.

use relatch_wire::method::{self, RetryClass};

/// The settings of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The configured name.
    pub name: String,
    /// The address, for messages.
    pub url: String,
    /// How long an exchange waits for an upstream that is away, in milliseconds.
    pub hold_ms: u64,
    /// The session holds work: it is renewed, but calls are not run against an empty one.
    pub stateful: bool,
    /// Per tool, by glob, first match wins: may it always be repeated, or never.
    pub replay: Vec<(String, bool)>,
    /// A proxy in front answers 502, 503 and 504 only when it has no backend.
    pub gateway_errors_refused: bool,
    /// The address is loopback or private: looks and probes cost nobody anything.
    pub local: bool,
    /// Each session is a process of its own: nobody else answers for it, and what refuses is its end.
    pub process: bool,
    /// How the server at the address is spoken to.
    pub transport: Transport,
    /// Inside the client, its user and its model may ask how the connection is, and are told when it is lost.
    pub tell: bool,
    /// The shell keeps copies of what this upstream says of itself, for clients that start before it.
    pub copies: bool,
}

/// How a server at an address is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// By Streamable HTTP, or by the old transport where the server refuses that and offers its stream.
    #[default]
    Auto,
    /// By Streamable HTTP alone.
    Http,
    /// By the old transport alone: HTTP+SSE of 2024-11-05.
    Sse,
}

impl Transport {
    /// The word that the user writes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Auto => "auto",
            Transport::Http => "http",
            Transport::Sse => "sse",
        }
    }
}

impl Policy {
    /// The defaults for an upstream of this name and address.
    #[must_use]
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Policy {
        Policy {
            name: name.into(),
            url: url.into(),
            hold_ms: HOLD_MS,
            stateful: false,
            replay: Vec::new(),
            gateway_errors_refused: false,
            local: true,
            process: false,
            transport: Transport::Auto,
            tell: false,
            copies: false,
        }
    }

    /// What becomes another one with `new`, in words; whether the address and the headers do is for the shell to say, since
    /// they hold secrets that no policy shows.
    #[must_use]
    pub fn changes(&self, new: &Policy, moved: bool, headers: bool) -> Vec<String> {
        let mut changes = Vec::new();
        // What of a command is not shown with it is what surrounds it.
        let (word, rest) = if self.process && new.process {
            ("command", "env, cwd, inherit_env or shared")
        } else {
            ("url", "url")
        };
        if self.url != new.url {
            changes.push(format!("{word} {} → {}", self.url, new.url));
        } else if moved && self.transport == new.transport {
            changes.push(rest.to_owned());
        }
        for (changed, word) in [
            (headers, "headers"),
            (self.hold_ms != new.hold_ms, "hold"),
            (self.stateful != new.stateful, "stateful"),
            (self.replay != new.replay, "replay"),
            (self.gateway_errors_refused != new.gateway_errors_refused, "gateway_errors"),
            (self.transport != new.transport, "transport"),
            (self.tell != new.tell, "tell"),
            (self.copies != new.copies, "copies"),
        ] {
            if changed {
                changes.push(word.to_owned());
            }
        }
        changes
    }

    /// How often this request may run: the user's word first, then the tool's annotations, then the method.
    #[must_use]
    pub fn class(&self, method: &str, tool: Option<&str>, repeatable: bool) -> RetryClass {
        if let Some(tool) = tool {
            if let Some((_, always)) = self.replay.iter().find(|(glob, _)| matches(glob, tool)) {
                return if *always { RetryClass::Always } else { RetryClass::Never };
            }
            if repeatable {
                return RetryClass::Always;
            }
        }
        method::retry_class(method)
    }
}

/// Whether `text` matches `glob`, in which `*` stands for any characters and `?` for one.
#[must_use]
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if g < glob.len() && glob[g] == '*' {
            star = Some((g, t));
            g += 1;
        } else if g < glob.len() && (glob[g] == '?' || glob[g] == text[t]) {
            g += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            g = at + 1;
            t = from + 1;
            star = Some((at, t));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// An exchange waits this long unless the user says otherwise.
pub const HOLD_MS: u64 = 45_000;
/// `initialize` is held no longer: common clients give a handshake 30 s.
pub const HANDSHAKE_HOLD_MS: u64 = 20_000;
/// One that has gone out has this long at least, however short the hold is.
pub const HANDSHAKE_LEAST_MS: u64 = 5_000;
/// A URL that has never spoken MCP and answers something else is named wrong after this.
pub const NEVER_SPOKEN_MS: u64 = 3_000;
/// A pause ends by itself after this unless the user says otherwise.
pub const PAUSE_MS: u64 = 300_000;
/// The longest pause.
pub const PAUSE_MAX_MS: u64 = 3_600_000;
/// An `initialize` that a server leaves without an answer for so long is answered from a copy, if there is one.
pub const COPY_AFTER_MS: u64 = 5_000;
/// So is a list, while its client has never had a session: a handshake takes less.
pub const COPY_LIST_AFTER_MS: u64 = 1_000;
/// Early SSE headers go out after this: Claude Code gives up at 60 s without a byte.
pub const EARLY_MS: u64 = 10_000;
/// What begins to wait after that has passed gets them after this: a relatch takes less.
pub const EARLY_GRACE_MS: u64 = 1_000;
/// Limit of a handshake step.
pub const HANDSHAKE_STEP_MS: u64 = 20_000;
/// Limit of a `ping`.
pub const PING_MS: u64 = 2_000;
/// Limit of the look before a call.
pub const LOOK_MS: u64 = 1_000;
/// Evidence older than this calls for a look before a call that may not repeat.
pub const LOOK_AFTER_MS: u64 = 5_000;
/// A gateway error is remembered this long for the look.
pub const GATEWAY_MEMORY_MS: u64 = 24 * 3_600_000;
/// Limit of relatch's own list requests.
pub const LIST_MS: u64 = 10_000;
/// Limit of a step of rebuilding.
pub const REBUILD_STEP_MS: u64 = 5_000;
/// A 404 on a session that answered less than this ago is asked about first.
pub const LIVELY_MS: u64 = 10_000;
/// How many pings over fresh connections that is worth.
pub const REPLICA_PINGS: u32 = 3;
/// Handshakes without an answered request in between before a latch rests.
pub const FLAPS: u32 = 3;
/// A session that lived for so long is none of them: servers that end idle sessions are not broken.
pub const STEADY_MS: u64 = 10_000;
/// The first rest; it doubles.
pub const REST_MS: u64 = 5_000;
/// The longest rest.
pub const REST_MAX_MS: u64 = 300_000;
/// A client that was heard from less than this ago counts as attached.
pub const ATTACHED_MS: u64 = 300_000;
/// Permits per upstream: handshakes, and questions whether a session survived, that are under way at once.
pub const PERMITS: usize = 8;
/// A doubt waits no longer for a permit: what raised it is passed on.
pub const PERMIT_WITHIN_MS: u64 = 10_000;
/// At most one trial handshake per latch in this time.
pub const TRIAL_EVERY_MS: u64 = 60_000;
/// An answer that was found not to be about the session stays so for this long.
pub const CLEARED_MS: u64 = 600_000;
/// Exchanges waiting per latch.
pub const WAITING_PER_LATCH: usize = 64;
/// Exchanges waiting per upstream.
pub const WAITING: usize = 1_000;
/// Messages without answer waiting per latch.
pub const NOTES_PER_LATCH: usize = 256;
/// Subscriptions remembered per latch.
pub const SUBSCRIPTIONS: usize = 1_000;
/// Tries to resume a stream.
pub const RESUMES: u32 = 3;
/// A stream is resumed after this, unless the server says otherwise.
pub const RESUME_AFTER_MS: u64 = 1_000;
/// The longest pause before resuming that still is worth waiting for.
pub const RESUME_WITHIN_MS: u64 = 5_000;
/// A standing stream re-opened within this time has lost nothing worth a comparison.
pub const STREAM_GRACE_MS: u64 = 5_000;
/// A standing stream that was refused for now is asked for again after this.
pub const STREAM_PAUSE_MS: u64 = 8_000;
/// One that was refused with words about the session, which lives, after this.
pub const STREAM_DOUBTED_MS: u64 = 60_000;
/// Comparisons that follow no handshake are this far apart at least.
pub const COMPARE_EVERY_MS: u64 = 300_000;
/// A comparison that broke off begins anew after this.
pub const COMPARE_AGAIN_MS: u64 = 5_000;
/// Pages of one list that are fetched for a comparison.
pub const LIST_PAGES: u32 = 200;
/// A request that its client has cancelled is given up after this.
pub const CANCELLED_MS: u64 = 20_000;
/// Servers that do not share sessions are a condition for this long after they were last seen.
pub const NOT_SHARED_MS: u64 = 600_000;
/// Sendings of one exchange that may repeat, all in all.
pub const SENDINGS: u32 = 6;
/// An answer counts as fresh evidence for this long.
pub const FRESH_MS: u64 = 60_000;
/// Time-outs in a row before an upstream is called down.
pub const TIMEOUTS_DOWN: u32 = 3;
/// Closed idle connections are asked about no more often: some servers close each of theirs soon.
pub const IDLE_LOOK_MS: u64 = 1_500;
/// An idle upstream is probed this often while a client is attached.
pub const PROBE_MS: u64 = 30_000;
/// One that let a probe go unanswered is asked again after this, until it is called down.
pub const PROBE_AGAIN_MS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use RetryClass::{Always, IfNotDelivered, Never};

    #[test]
    fn a_glob_matches_the_whole_name_and_nothing_else() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "send_mail", true),
            ("**", "a", true),
            ("a", "", false),
            ("send_mail", "send_mail", true),
            ("send_mail", "send_mails", false),
            ("send_mails", "send_mail", false),
            ("send_*", "send_mail", true),
            ("send_*", "send_", true),
            ("send_*", "sent_mail", false),
            ("send_**", "send_", true),
            ("send_*a", "send_", false),
            ("*_mail", "send_mail", true),
            ("*_mail", "send_mail_mail", true),
            ("*_mail", "send_mails", false),
            ("*mail*", "send_mail", true),
            ("*aab", "aaab", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("?end", "send", true),
            ("?end", "end", false),
            ("se?d", "sed", false),
            ("*?", "", false),
            ("*?", "a", true),
            ("?", "ü", true),
            ("a*", "*", false),
        ];
        for (glob, text, expected) in table {
            assert_eq!(matches(glob, text), expected, "`{glob}` and `{text}`");
        }
    }

    #[test]
    fn the_users_word_goes_before_annotations_and_those_before_the_method() {
        let replay = vec![("send_draft".to_owned(), true), ("send_*".to_owned(), false)];
        let policy = Policy { replay, ..Policy::new("files", "http://127.0.0.1:1/mcp") };
        let table = [
            ("tools/call", Some("send_draft"), false, Always),
            ("tools/call", Some("send_mail"), false, Never),
            ("tools/call", Some("send_mail"), true, Never),
            ("tools/call", Some("look"), true, Always),
            ("tools/call", Some("look"), false, IfNotDelivered),
            ("tools/list", None, false, Always),
        ];
        for (method, tool, repeatable, expected) in table {
            assert_eq!(policy.class(method, tool, repeatable), expected, "{method} {tool:?} {repeatable}");
        }
    }
}
