//! Who may speak to a server: foreign origins and hosts.

use relatch_net::upstream::dial::Nearness;

use super::{Finding, Level, unseen};
use crate::doctor::facts::{Facts, Inside, Seen};
use crate::doctor::sdk::{Ill, Sdk};
use crate::doctor::spec;

pub(super) fn judge(facts: &Facts, inside: &Inside, sdk: Option<Sdk>, all: &mut Vec<Finding>) {
    let (origin, host) = (&inside.foreign_origin, &inside.foreign_host);
    if origin.answer().is_none() {
        all.push(unseen("origin", "What it answers to a foreign `Origin`", origin).spec(spec::SECURITY));
        return;
    }
    let finding = |level, said: &str| {
        Finding::new("origin", level, said)
            .saw("`Origin: http://relatch-doctor.invalid`", origin)
            .saw("`Host: relatch-doctor.invalid`", host)
            .spec(spec::SECURITY)
    };
    let mend = sdk.and_then(|sdk| sdk.mend(Ill::Origin)).unwrap_or(
        "Answer 403 to every request whose `Origin` or `Host` is not one of yours, before anything else looks at it",
    );
    // A server that is reached with credentials only is of no use to a page that has none.
    let locked = inside.bare.as_ref().is_some_and(|seen| !seen.worked());
    let exposed = !locked && facts.near != Nearness::Public;
    // Over TLS the page's host would need a certificate of its own.
    let tls = facts.url.starts_with("https:");
    let rebound = inside.rebound.as_ref().is_some_and(|seen| seen.served());
    all.push(match (origin.served(), host.served()) {
        (true, _) if exposed && readable(inside) => finding(
            Level::Wrong,
            "Any web page that you open can call this server and read its answers",
        )
        .seen("both the call and the browser's question before it (OPTIONS) allow every origin")
        .why("A page in your browser reaches what listens on your machine or network, and calls tools as you")
        .relatch("It refuses foreign origins itself; the server's own port stays open beside it")
        .hint(mend),
        (true, true) if exposed && rebound && !tls => finding(
            Level::Wrong,
            "A web page can call this server by DNS rebinding: neither `Origin` nor `Host` is checked",
        )
        .why("A page in your browser reaches what listens on your machine or network, and calls tools as you")
        .relatch("It refuses foreign hosts and origins itself; the server's own port stays open beside it")
        .hint(mend),
        (true, true) => finding(Level::Note, "Neither a foreign `Origin` nor a foreign `Host` is refused")
            .why(if locked {
                "It does no harm where every request needs credentials that a web page does not have"
            } else if tls {
                "It does little harm over `https`, where a foreign page needs a certificate for its own name"
            } else {
                "Whoever reaches the server can call it, with or without a browser"
            })
            .hint(mend),
        (true, false) => finding(
            Level::Note,
            "A foreign `Origin` is served; what stops DNS rebinding is that a foreign `Host` is not",
        )
        .hint(mend),
        (false, _) if origin.status() == Some(403) => {
            let said = if host.served() {
                "A foreign `Origin` is answered 403"
            } else {
                "A foreign `Origin` is answered 403, and a foreign `Host` is refused, too"
            };
            finding(Level::Ok, said)
        }
        (false, _) if origin.refused() => {
            finding(Level::Note, "A foreign `Origin` is refused, but not with 403 as the specification asks")
        }
        (false, _) => finding(Level::Note, "A foreign `Origin` makes it fail"),
    });
}

/// Whether a browser lets a foreign page call and read the answer.
fn readable(inside: &Inside) -> bool {
    let allows = |seen: &Seen| {
        seen.answer()
            .and_then(|answer| answer.allows_origin.as_deref())
            .is_some_and(|allowed| allowed == "*" || allowed.contains("relatch-doctor"))
    };
    let lets_headers = |seen: &Seen| {
        seen.answer().and_then(|answer| answer.allows_headers.as_deref()).is_some_and(|allowed| {
            allowed.trim() == "*" || allowed.to_ascii_lowercase().contains("content-type")
        })
    };
    allows(&inside.foreign_origin)
        && inside.preflight.as_ref().is_some_and(|seen| allows(seen) && lets_headers(seen))
}
