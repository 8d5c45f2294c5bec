//! What `--tell` adds for the client's user and model to read: a tool and a prompt, their answers, and log messages.
//!
//! The server's own bytes stay where they stand; what is added is spliced in behind them. Whether something is added,
//! and who answers to the name, is decided in the core.

use std::ops::Range;

use bytes::Bytes;

use crate::envelope::{Envelope, splice};
use crate::era::Revision;
use crate::failure::result;
use crate::handshake::notification_message;
use crate::json;
use crate::method::{self, ListKind};
use crate::request_id::RequestId;

/// The name of the tool and of the prompt.
pub const NAME: &str = "relatch_status";

/// Who speaks in log messages.
pub const LOGGER: &str = "relatch";

const TITLE: &str = "Connection status";
const TOOL: &str = "Says how the connection to this MCP server is at this moment, as relatch knows it: whether it works, \
    since when, on what evidence, and what to do if it does not. It answers at once and also while the server is away, \
    so ask it when calls are slow or fail; the client's own status may be out of date.";
const PROMPT: &str = "How the connection to this MCP server is at this moment, as relatch knows it";

/// The `initialize` answer with `tools`, `prompts` and `logging` among its capabilities where the server has none; every
/// other byte stays. Anything that is no such answer comes back as it is.
pub fn advertise(result_message: &Bytes) -> Bytes {
    let edits = capability_edits(result_message).unwrap_or_default();
    let mut message = result_message.clone();
    // From the back, so that the offsets before it stay right.
    for (span, new) in edits.into_iter().rev() {
        message = splice(&message, span, &new);
    }
    message
}

fn capability_edits(message: &[u8]) -> Option<Vec<(Range<usize>, String)>> {
    let result = Envelope::read(message).ok()?.result_span()?;
    let capabilities = json::member_at(message, result.start, "capabilities")?;
    let mut members = json::Members::open(message, capabilities.start, 0).ok()?;
    let mut found: Vec<(String, Range<usize>)> = Vec::new();
    while let Some(member) = members.next().ok()? {
        found.push((member.key.decoded()?.into_owned(), member.value));
    }
    let mut edits = Vec::new();
    let mut missing = Vec::new();
    for (name, value) in
        [("tools", r#"{"listChanged":true}"#), ("prompts", r#"{"listChanged":true}"#), ("logging", "{}")]
    {
        match found.iter().find(|(known, _)| known == name) {
            // Some serialisers write what they don't have as null.
            Some((_, span)) if message.get(span.clone()) == Some(b"null") => {
                edits.push((span.clone(), value.to_owned()));
            }
            Some(_) => {}
            None => missing.push(format!("{}:{value}", json::quote(name))),
        }
    }
    if !missing.is_empty() {
        let comma = if found.is_empty() { "" } else { "," };
        edits.push((capabilities.end - 1..capabilities.end - 1, format!("{comma}{}", missing.join(","))));
    }
    edits.sort_by_key(|(span, _)| span.start);
    Some(edits)
}

/// What is added to a list; `None` for a kind of list that gets nothing. `schema` is the JSON schema of
/// `structuredContent`, which the revisions from 2025-06-18 on have.
pub fn item(kind: ListKind, revision: Option<Revision>, schema: &str) -> Option<String> {
    let titled = revision >= Some(Revision::V2025_06_18);
    let (name, title) = (json::quote(NAME), json::quote(TITLE));
    let more = if titled { format!(r#""title":{title},"#) } else { String::new() };
    match kind {
        ListKind::Tools => {
            let output = if titled { format!(r#""outputSchema":{schema},"#) } else { String::new() };
            Some(format!(
                r#"{{"name":{name},{more}"description":{},"inputSchema":{{"type":"object","properties":{{}},"additionalProperties":false}},{output}"annotations":{{"title":{title},"readOnlyHint":true,"openWorldHint":false}}}}"#,
                json::quote(TOOL)
            ))
        }
        ListKind::Prompts => {
            Some(format!(r#"{{"name":{name},{more}"description":{}}}"#, json::quote(PROMPT)))
        }
        ListKind::Resources | ListKind::ResourceTemplates => None,
    }
}

/// The page of a list with this item behind the server's own; anything that is no such page comes back as it is.
pub fn with_item(result_message: &Bytes, kind: ListKind, item: &str) -> Bytes {
    let at = || -> Option<(usize, bool)> {
        let result = Envelope::read(result_message).ok()?.result_span()?;
        let list = json::member_at(result_message, result.start, kind.items_member())?;
        let mut elements = json::Elements::open(result_message, list.start, 0).ok()?;
        let mut empty = true;
        while elements.next().ok()?.is_some() {
            empty = false;
        }
        Some((list.end - 1, empty))
    };
    match at() {
        Some((at, true)) => splice(result_message, at..at, item),
        Some((at, false)) => splice(result_message, at..at, &format!(",{item}")),
        None => result_message.clone(),
    }
}

/// The list of a server that has none of this kind.
pub fn list(id: &RequestId, kind: ListKind, item: &str) -> Bytes {
    result(id, format!("{{{}:[{item}]}}", json::quote(kind.items_member())).as_bytes())
}

/// The answer of the tool; `structured` is JSON for the sessions whose revision has it.
pub fn tool_answer(id: &RequestId, text: &str, structured: Option<&str>) -> Bytes {
    let structured = structured.map_or_else(String::new, |json| format!(r#","structuredContent":{json}"#));
    let raw = format!(
        r#"{{"content":[{{"type":"text","text":{}}}]{structured},"isError":false}}"#,
        json::quote(text)
    );
    result(id, raw.as_bytes())
}

/// The answer of the prompt: what the user would say.
pub fn prompt_answer(id: &RequestId, text: &str) -> Bytes {
    let raw = format!(
        r#"{{"description":{},"messages":[{{"role":"user","content":{{"type":"text","text":{}}}}}]}}"#,
        json::quote(PROMPT),
        json::quote(text)
    );
    result(id, raw.as_bytes())
}

/// A log message of relatch's own (server/utilities/logging).
pub fn log_message(level: &str, text: &str) -> Bytes {
    let params = format!(
        r#"{{"level":{},"logger":{},"data":{}}}"#,
        json::quote(level),
        json::quote(LOGGER),
        json::quote(text)
    );
    notification_message(method::LOG_MESSAGE, Some(params.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::items;

    fn answer(capabilities: &str) -> Bytes {
        format!(r#"{{"result":{{"x":1.10,"capabilities":{capabilities},"serverInfo":{{}}}},"jsonrpc":"2.0","id":1}}"#)
            .into()
    }

    #[test]
    fn capabilities_are_added_where_the_server_has_none_and_nothing_else_moves() {
        for (had, has) in [
            ("{}", r#"{"tools":{"listChanged":true},"prompts":{"listChanged":true},"logging":{}}"#),
            (r#"{ "tools":{} }"#, r#"{ "tools":{} ,"prompts":{"listChanged":true},"logging":{}}"#),
            (
                r#"{"prompts":null,"tools":{"a":1.0},"logging":null}"#,
                r#"{"prompts":{"listChanged":true},"tools":{"a":1.0},"logging":{}}"#,
            ),
            (r#"{"logging":{},"prompts":{},"tools":{}}"#, r#"{"logging":{},"prompts":{},"tools":{}}"#),
        ] {
            let told = advertise(&answer(had));
            assert_eq!(told, answer(has));
            assert_eq!(advertise(&told), told);
        }
        for other in [&br#"{"jsonrpc":"2.0","id":1,"result":{}}"#[..], b"", b"[]", b"{\"jsonrpc\":"] {
            assert_eq!(advertise(&Bytes::from_static(other)), other);
        }
        let refusal = &br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"capabilities"}}"#[..];
        assert_eq!(advertise(&Bytes::from_static(refusal)), refusal);
    }

    #[test]
    fn an_item_stands_behind_the_servers_own_whose_bytes_stay() {
        let tool = item(ListKind::Tools, Some(Revision::V2025_11_25), "{\"type\":\"object\"}").unwrap();
        let page = |list: &str| {
            Bytes::from(format!(
                r#"{{"id":1,"result":{{"_meta":{{"n":1.10}},"tools":{list} }},"jsonrpc":"2.0"}}"#
            ))
        };
        assert_eq!(with_item(&page("[ ]"), ListKind::Tools, &tool), page(&format!("[ {tool}]")));
        let own = r#"[{"name":"a","x":1.10},{"name":"]"} "#;
        assert_eq!(
            with_item(&page(&format!("{own}]")), ListKind::Tools, &tool),
            page(&format!("{own},{tool}]"))
        );
        let other = page("7");
        assert_eq!(with_item(&other, ListKind::Tools, &tool), other);
        assert_eq!(with_item(&page("[]"), ListKind::Prompts, &tool), page("[]"));
    }

    #[test]
    fn what_is_added_is_a_list_of_its_kind_and_as_rich_as_the_revision() {
        for revision in Revision::ALL {
            for kind in [ListKind::Tools, ListKind::Prompts] {
                let item = item(kind, Some(*revision), "{\"type\":\"object\"}").unwrap();
                let text = list(&RequestId::number(1), kind, &item);
                let envelope = Envelope::read(&text).unwrap();
                let page = items(envelope.result(&text).unwrap(), kind).unwrap();
                assert_eq!((page.items.len(), page.items[0].0.as_str()), (1, NAME));
                if kind == ListKind::Tools {
                    assert!(page.hints[0].1.read_only);
                    assert_eq!(item.contains("outputSchema"), *revision >= Revision::V2025_06_18);
                }
            }
        }
        assert_eq!(item(ListKind::Resources, None, ""), None);
    }

    #[test]
    fn answers_and_log_messages_are_messages() {
        let id = RequestId::text("x");
        assert_eq!(
            tool_answer(&id, "a\n\"b\"", Some("{\"n\":1}")),
            &br#"{"jsonrpc":"2.0","id":"x","result":{"content":[{"type":"text","text":"a\n\"b\""}],"structuredContent":{"n":1},"isError":false}}"#[..]
        );
        assert!(!String::from_utf8(tool_answer(&id, "a", None).to_vec()).unwrap().contains("structured"));
        assert!(Envelope::read(&prompt_answer(&id, "a")).is_ok());
        assert_eq!(
            log_message("warning", "`x` is down"),
            &br#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"warning","logger":"relatch","data":"`x` is down"}}"#[..]
        );
    }
}
