//! What relatch says when an exchange ends without the server's answer: one function per sentence.

use relatch_wire::failure::{Code, Executed};
use relatch_wire::method;

use super::Exchange;
use crate::At;
use crate::effect::Failure;

impl Failure {
    fn new(code: Code, executed: Executed, message: String) -> Failure {
        Failure { code, executed, message, since: None, cause: None, hint: None, retry_after: None }
    }

    pub(crate) fn since(mut self, since: At) -> Failure {
        self.since = Some(since);
        self
    }

    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Failure {
        self.cause = Some(cause.into());
        self
    }

    fn hint(mut self, hint: String) -> Failure {
        self.hint = Some(hint);
        self
    }
}

/// Seconds as people say them.
pub(crate) fn seconds(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 if !ms.is_multiple_of(1_000) => format!("{:.1} s", ms as f64 / 1_000.0),
        1_000..120_000 => format!("{} s", ms / 1_000),
        _ => format!("{} min", ms / 60_000),
    }
}

/// A handshake's JSON-RPC error, for people.
pub(crate) fn refused_with(code: i64, message: &str) -> String {
    let message: String = message.chars().take(200).collect();
    format!("`initialize` was answered with the error {code}: {message}")
}

impl Exchange {
    /// The connection broke after the call was written.
    pub(crate) fn unknown(&self, upstream: &str, cause: &str) -> Failure {
        let what = self.title();
        Failure::new(
            Code::DeliveryUnknown,
            Executed::Unknown,
            format!(
                "The connection to `{upstream}` broke after `{what}` was sent. It may have run. relatch did not send it again."
            ),
        )
        .cause(cause)
        .hint(format!("Look in `{upstream}` before you call again"))
    }

    /// A proxy answered in the server's place after the call was written.
    pub(crate) fn behind_gateway(&self, upstream: &str, cause: &str) -> Failure {
        let what = self.title();
        Failure::new(
            Code::DeliveryUnknown,
            Executed::Unknown,
            format!(
                "A proxy in front of `{upstream}` lost the answer to `{what}`. It may have run. relatch did not send it again."
            ),
        )
        .cause(cause)
        .hint(format!(
            "Look in `{upstream}` before you call again; if the proxy says so only without a server behind it, run relatch with `--gateway-errors refused`"
        ))
    }

    /// The hold is over.
    pub(crate) fn held_too_long(&self, upstream: &str, code: Code, waited: u64, cause: &str) -> Failure {
        let what = self.title();
        // A handshake runs nothing: without its answer there is no session, and that is all.
        let (ran, tail) = match self.ran() {
            Executed::No if self.ask.method == method::INITIALIZE => {
                (Executed::No, "No session was opened.".to_owned())
            }
            Executed::No => (Executed::No, format!("`{what}` did not run.")),
            Executed::Unknown => (Executed::Unknown, format!("`{what}` got no answer.")),
        };
        // Most clients show the message alone, so the cause is in it.
        let waited = seconds(waited);
        Failure::new(code, ran, format!("`{upstream}` did not answer within {waited}: {cause}. {tail}"))
            .cause(cause)
            .hint(format!(
                "relatch keeps trying to reach `{upstream}`; call again when `relatch status` shows it healthy"
            ))
    }

    /// The hold is over, and the pause is not.
    pub(crate) fn paused_too_long(&self, upstream: &str, waited: u64) -> Failure {
        let ran = match self.ran() {
            Executed::No if self.ask.method == method::INITIALIZE => "No session was opened.".to_owned(),
            Executed::No => format!("`{}` did not run.", self.title()),
            Executed::Unknown => format!("`{}` may have run.", self.title()),
        };
        let waited = seconds(waited);
        Failure::new(
            Code::Paused,
            self.ran(),
            format!(
                "`{upstream}` is paused while its server restarts, and was not resumed within {waited}. {ran}"
            ),
        )
        .hint(format!("Call again when it is resumed; `relatch resume {upstream}` does that by hand"))
    }

    /// The command that is the server does not stay up for long enough to open a session.
    pub(crate) fn command_failed(&self, upstream: &str, command: &str, waited: u64, cause: &str) -> Failure {
        let ran = match self.ran() {
            Executed::No if self.ask.method == method::INITIALIZE => "No session was opened.".to_owned(),
            Executed::No => format!("`{}` did not run.", self.title()),
            Executed::Unknown => format!("`{}` got no answer.", self.title()),
        };
        let waited = seconds(waited);
        Failure::new(
            Code::CommandFailed,
            self.ran(),
            format!("The command of `{upstream}` did not come up within {waited}: {cause}. {ran}"),
        )
        .cause(cause)
        .hint(format!("Run it by hand to see what it says: `{command}`"))
    }

    /// The command that is the server has ended, and so has the one that was started after it.
    pub(crate) fn command_ended(&self, upstream: &str, command: &str, ran: Executed, cause: &str) -> Failure {
        let what = self.title();
        let tail = match ran {
            Executed::No => format!("`{what}` did not run."),
            Executed::Unknown => format!("`{what}` may have run."),
        };
        Failure::new(
            Code::CommandFailed,
            ran,
            format!("The command of `{upstream}` ended twice in a row: {cause}. {tail}"),
        )
        .cause(cause)
        .hint(format!("Run it by hand to see what it says: `{command}`"))
    }

    /// The event stream that the session lived on has ended, and so has the one that was opened after it.
    pub(crate) fn stream_ended(&self, upstream: &str, ran: Executed, cause: &str) -> Failure {
        let what = self.title();
        let tail = match ran {
            Executed::No => format!("`{what}` did not run."),
            Executed::Unknown => format!("`{what}` may have run."),
        };
        Failure::new(
            Code::UpstreamDown,
            ran,
            format!("The event stream of `{upstream}` ended twice in a row: {cause}. {tail}"),
        )
        .cause(cause)
        .hint(format!("Look in the log of `{upstream}`, or of the proxy before it"))
    }

    /// What answers the handshake at an address that has never spoken MCP does not speak it.
    pub(crate) fn not_mcp(&self, upstream: &str, url: &str, code: Code, cause: &str) -> Failure {
        Failure::new(
            code,
            Executed::No,
            format!("What answers at `{url}` is no MCP server. No session with `{upstream}` was opened."),
        )
        .cause(cause)
        .hint(format!("Check the address of `{upstream}`; its path is often `/mcp`"))
    }

    /// Whether any sending of it so far may have run.
    pub(crate) fn ran(&self) -> Executed {
        if self.maybe_ran && self.ask.method != method::INITIALIZE { Executed::Unknown } else { Executed::No }
    }

    /// The same, of one more sending of which this is known.
    pub(crate) fn ran_with(&self, this: Executed) -> Executed {
        if this == Executed::Unknown { this } else { self.ran() }
    }

    /// The same in words.
    fn ran_words(&self) -> &'static str {
        match self.ran() {
            Executed::No => "did not run",
            Executed::Unknown => "may have run",
        }
    }

    /// Too many wait already.
    pub(crate) fn too_many_waiting(&self, upstream: &str, bound: usize, whose: &str) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        Failure::new(
            Code::HoldFull,
            self.ran(),
            format!(
                "{bound} requests already wait for `{upstream}`, the bound for one {whose}. `{what}` {ran}."
            ),
        )
        .hint(format!("Call again when `{upstream}` answers; `relatch status {upstream}` shows it"))
    }

    /// The session is renewed again and again.
    pub(crate) fn flapping(&self, upstream: &str, rest: u64) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        Failure::new(
            Code::SessionFlapping,
            self.ran(),
            format!(
                "`{upstream}` refused every new session before it answered a request; relatch rests for {}. `{what}` {ran}.",
                seconds(rest)
            ),
        )
        .hint(format!("Look at the server behind `{upstream}`, then run `relatch reconnect {upstream}`"))
    }

    /// The session held work, which is gone.
    pub(crate) fn state_lost(&self, upstream: &str) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        Failure::new(
            Code::StateLost,
            self.ran(),
            format!("The session of `{upstream}` was renewed and its state is gone. `{what}` {ran}."),
        )
        .hint("Build the state up again, then call again".to_owned())
    }

    /// Configuration says never.
    pub(crate) fn never_replayed(&self, upstream: &str) -> Failure {
        let what = self.title();
        Failure::new(
            Code::NeverReplayed,
            Executed::No,
            format!("`{upstream}` turned `{what}` away because its session was gone. It did not run, and the configuration says that it is never sent again."),
        )
        .hint("Call it again yourself; the session is being renewed".to_owned())
    }

    /// The downstream session ended.
    pub(crate) fn session_ended(&self, upstream: &str, executed: Executed) -> Failure {
        let what = self.title();
        let tail = match executed {
            Executed::No => "did not run",
            Executed::Unknown => "may have run",
        };
        Failure::new(
            Code::SessionEnded,
            executed,
            format!("The client ended its session with `{upstream}`. `{what}` {tail}."),
        )
    }

    /// The client cancelled it.
    pub(crate) fn cancelled(&self, upstream: &str, executed: Executed) -> Failure {
        let what = self.title();
        let tail = match executed {
            Executed::No => "before it was sent; it did not run",
            Executed::Unknown => "after it was sent; it may have run",
        };
        Failure::new(Code::Cancelled, executed, format!("`{what}` to `{upstream}` was cancelled {tail}."))
    }

    /// The address sends relatch elsewhere.
    pub(crate) fn redirected(&self, upstream: &str, location: Option<&str>, ran: Executed) -> Failure {
        let (what, ran) = (self.title(), self.ran_with(ran));
        let tail = match ran {
            Executed::No => "did not run",
            Executed::Unknown => "may have run",
        };
        let to = location.unwrap_or("an address that it does not name");
        Failure::new(
            Code::Redirected,
            ran,
            format!("`{upstream}` redirects to `{to}`, which relatch does not follow. `{what}` {tail}."),
        )
        .hint(format!("If the server has moved, configure `{upstream}` with the new address"))
    }

    /// The old transport's stream sends messages, and the credentials with them, to another origin.
    pub(crate) fn endpoint_elsewhere(&self, upstream: &str, cause: &str) -> Failure {
        Failure::new(
            Code::Redirected,
            Executed::No,
            format!("No session with `{upstream}` was opened: {cause}, and relatch sends nothing there."),
        )
        .cause(cause)
        .hint(format!(
            "If the server has moved, configure `{upstream}` with the new address; behind a proxy, have the server name its endpoint by its path alone"
        ))
    }

    /// TLS says no.
    pub(crate) fn certificate(&self, upstream: &str, cause: &str) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        Failure::new(
            Code::CertificateRefused,
            self.ran(),
            format!("The certificate of `{upstream}` is not accepted. `{what}` {ran}."),
        )
        .cause(cause)
        .hint("Check the server's certificate and this machine's clock and trust store".to_owned())
    }

    /// DNS says no.
    pub(crate) fn unknown_host(&self, upstream: &str, cause: &str) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        Failure::new(
            Code::UnknownHost,
            self.ran(),
            format!("The host name of `{upstream}` is unknown. `{what}` {ran}."),
        )
        .cause(cause)
        .hint(format!("Check the address of `{upstream}` and the name service"))
    }

    /// A proxy on the way says no.
    pub(crate) fn proxy(&self, upstream: &str, cause: &str) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        Failure::new(
            Code::ProxyRefused,
            self.ran(),
            format!("The proxy on the way to `{upstream}` does not let relatch through. `{what}` {ran}."),
        )
        .cause(cause)
        .hint(format!("Correct the proxy of `{upstream}`, or have it allow the server's address"))
    }

    /// The answer broke a bound or is none.
    pub(crate) fn garbled(&self, upstream: &str, cause: &str) -> Failure {
        let what = self.title();
        Failure::new(
            Code::AnswerBroken,
            Executed::Unknown,
            format!("`{upstream}` answered `{what}` with something that is no MCP answer. It may have run. relatch did not send it again."),
        )
        .cause(cause)
        .hint(format!("Look in `{upstream}` before you call again"))
    }

    /// A long answer ended in the middle.
    pub(crate) fn broken_off(&self, upstream: &str, cause: &str) -> Failure {
        let what = self.title();
        Failure::new(
            Code::AnswerBroken,
            Executed::Unknown,
            format!("The answer of `{upstream}` to `{what}` broke off in the middle. It has run."),
        )
        .cause(cause)
        .hint("Call again only if it may run twice".to_owned())
    }

    /// It will not be back in time, and says so.
    pub(crate) fn come_back_later(&self, upstream: &str, retry_after: u64, cause: &str) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        let mut failure = Failure::new(
            Code::UpstreamBusy,
            self.ran(),
            format!("`{upstream}` asks to come back in {}. `{what}` {ran}.", seconds(retry_after)),
        )
        .cause(cause)
        .hint(format!("Call again in {}", seconds(retry_after)));
        failure.retry_after = Some(retry_after);
        failure
    }

    /// The handshake is refused by a server that speaks MCP.
    pub(crate) fn handshake_refused(&self, upstream: &str, cause: &str) -> Failure {
        let (what, ran) = (self.title(), self.ran_words());
        Failure::new(
            Code::HandshakeRefused,
            self.ran(),
            format!("`{upstream}` refuses `initialize`. `{what}` {ran}."),
        )
        .cause(cause)
        .hint(format!("Look at the log of the server behind `{upstream}`"))
    }
}
