//! The page of each error and condition code: what it means, and what can be done. One source for `relatch explain` and
//! for the page.
//!
//! The pages of errors stand beside the codes, in `relatch_wire::failure`; here are only those of conditions that never
//! end a call.

use relatch_wire::failure::Code;

/// Conditions that status shows and no call ends with.
const CONDITIONS: [(&str, &str); 4] = [
    (
        "upstream-silent",
        "The server accepts connections and does not answer: neither a call nor three pings in a row. Calls wait for \
         their answers. It may be busy with one long task, or stuck. Look at what the server is doing; restart it if \
         it hangs, and relatch goes on by itself.",
    ),
    (
        "sessions-not-shared",
        "The session is known to some of the processes behind the address and unknown to others: several replicas \
         run behind a balancer that does not send a session to the same one each time. Refused calls have not run \
         and are sent again on the same session. Turn on affinity by the header `Mcp-Session-Id` in the balancer, or \
         run one replica.",
    ),
    (
        "replacement-failed",
        "Somebody asked for new sessions (`relatch restart`, `relatch reconnect`, or a change under `relatch dev`), and \
         none could be opened: the command does not start, or the server refuses `initialize`. The old session lives \
         and stays in use, so calls go on as before. The cause says what was wrong. It ends with the next session that \
         is opened.",
    ),
    (
        "revision-changed",
        "The server came back with another revision of MCP than the client was promised: it was updated or rolled \
         back. Calls go on; what only one of the two revisions knows may be missing. Restart the client when it \
         suits you.",
    ),
];

/// Every code with its page, errors first.
///
/// Among them is each that [`relatch_core::health::condition::KINDS`] names.
pub fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    Code::ALL.iter().map(|code| (code.as_str(), code.explain())).chain(CONDITIONS)
}

#[cfg(test)]
mod tests {
    use relatch_core::health::condition::KINDS;

    use super::*;

    #[test]
    fn each_condition_has_its_page_and_no_page_is_left_over() {
        for kind in KINDS {
            assert_eq!(pages().filter(|(code, _)| *code == kind.code).count(), 1, "{}", kind.code);
        }
        for (code, _) in CONDITIONS {
            assert!(KINDS.iter().any(|kind| kind.code == code), "{code} never stands");
        }
    }
}
