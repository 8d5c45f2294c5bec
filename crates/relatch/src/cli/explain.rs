//! `relatch explain`: the page of an error or condition code.

use std::process::ExitCode;

use clap::Args;

use crate::exit;
use crate::render::{self, Failure};

/// What an error or condition code means, and what can be done
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Example:
  relatch explain delivery-unknown"
)]
pub(crate) struct Arguments {
    /// The code, as it stands in `data.relatch.code` or in `relatch status`
    code: String,
}

/// One code. Pages are checked by a test to have every part.
struct Page {
    code: &'static str,
    what: &'static str,
    why: &'static str,
    ran: &'static str,
    hint: &'static str,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Some(page) = PAGES.iter().find(|page| page.code == arguments.code) else {
        let codes: Vec<&str> = PAGES.iter().map(|page| page.code).collect();
        return Err(Failure::usage(format!("There is no code `{}`", arguments.code))
            .hint(format!("The codes are `{}`", codes.join("`, `"))));
    };
    let Page { code, what, why, ran, hint } = page;
    let _ = render::out(&format!(
        "{code}\n\n  {what}\n\n  Why:           {why}\n  Did it run?    {ran}\n  What to do:    {hint}\n"
    ));
    Ok(ExitCode::from(exit::DONE))
}

const PAGES: &[Page] = &[
    Page {
        code: "delivery-unknown",
        what: "The connection broke after a call was sent and before its answer came.",
        why: "The server was stopped, crashed, or a proxy cut the connection in the middle of the call.",
        ran: "Unknown. relatch does not send a call again that may have run.",
        hint: "Look in the server whether it ran. Tools that may run twice can be allowed with `--replay 'TOOL=always'`.",
    },
    Page {
        code: "upstream-down",
        what: "The server was away for longer than the call could wait.",
        why: "Nothing listens at its address, or it takes connections and does not answer.",
        ran: "No. The call was never sent.",
        hint: "Start the server. `relatch status` says since when it is away; `--hold 5m` waits longer.",
    },
    Page {
        code: "endpoint-missing",
        what: "Something answers at the server's address, and it is not the MCP server.",
        why: "A reverse proxy stands there without its server (404, 502, 503), or the path has changed.",
        ran: "No. Calls wait until the server answers again.",
        hint: "Start the server behind the proxy, or correct the address.",
    },
    Page {
        code: "session-flapping",
        what: "The server lost the session three times without answering a request in between.",
        why: "It restarts over and over, or replicas without affinity share one address.",
        ran: "No. relatch rests for 5 s, then longer, before it opens another session.",
        hint: "Read the server's own log for why it ends.",
    },
    Page {
        code: "sessions-not-shared",
        what: "The session is known to some of the processes behind one address and unknown to others.",
        why: "Several replicas run behind a balancer that does not send a session to the same one each time.",
        ran: "Yes, once: refused requests are sent again on the same session.",
        hint: "Turn on session affinity by the header `Mcp-Session-Id` in the balancer, or run one replica.",
    },
    Page {
        code: "state-lost",
        what: "The session was renewed, and the work that the old one held is gone.",
        why: "The server is declared `--stateful` and was restarted.",
        ran: "No. The call was refused by the old session and not sent to the empty one.",
        hint: "Begin the work again (open the page, start the transaction), then call.",
    },
    Page {
        code: "credentials-refused",
        what: "The server refuses the client's credentials.",
        why: "A token has expired or was revoked.",
        ran: "No.",
        hint: "Sign in again in the client; with `--header`, start relatch with the new value.",
    },
    Page {
        code: "redirected",
        what: "The server sends requests to another address.",
        why: "It has moved, or a sign-in page stands in front of it.",
        ran: "No. relatch does not carry credentials to another address.",
        hint: "Use the new address, which the error names, in relatch's own command line.",
    },
    Page {
        code: "upstream-status",
        what: "The server refused a request with an HTTP status and without a JSON-RPC error.",
        why: "The status and the start of the server's text are in the error's `data`.",
        ran: "The status says; 4xx mostly means no.",
        hint: "Read the text; it is the server's own.",
    },
    Page {
        code: "keeper-full",
        what: "relatch holds as many waiting requests as it may.",
        why: "The server is away or slow while its clients go on calling.",
        ran: "No.",
        hint: "`relatch status` says which server keeps its calls waiting.",
    },
    Page {
        code: "cancelled",
        what: "The client cancelled a call that was waiting for its server.",
        why: "The client's user or its own time limit ended it.",
        ran: "No. It had not been sent.",
        hint: "Call again when the server is back.",
    },
    Page {
        code: "revision-changed",
        what: "The server came back with another revision of MCP than the client was promised.",
        why: "It was updated or rolled back.",
        ran: "Calls go on; what only one of the revisions knows may be missing.",
        hint: "Reconnect the client when it is convenient.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_whole_page_of_its_own() {
        for (n, page) in PAGES.iter().enumerate() {
            assert!(page.code.bytes().all(|c| c.is_ascii_lowercase() || c == b'-'), "{}", page.code);
            assert!(PAGES[..n].iter().all(|other| other.code != page.code), "{} twice", page.code);
            for part in [page.what, page.why, page.ran, page.hint] {
                assert!(part.ends_with('.'), "{}: {part}", page.code);
            }
        }
    }
}
