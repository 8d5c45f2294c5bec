//! Header values: case and order do not count, what is taken as a session id is one, what is ours stays here.

use relatch_wire::era::Revision;
use relatch_wire::headers::{
    self, MAX_SESSION_ID, accepts, forwarded_downstream_header, is_type, returned_upstream_header,
    valid_session_id,
};

pub(crate) fn headers(input: &[u8]) {
    let visible = input.iter().all(|byte| (0x21..=0x7e).contains(byte));
    assert_eq!(valid_session_id(input), visible && (1..=MAX_SESSION_ID).contains(&input.len()));

    let Ok(text) = std::str::from_utf8(input) else { return };
    let accepted = accepts(text);
    let (lower, upper) = (text.to_ascii_lowercase(), text.to_ascii_uppercase());
    for same in [&lower, &upper] {
        assert_eq!(accepts(same), accepted, "case counts");
        assert_eq!(forwarded_downstream_header(same), forwarded_downstream_header(text));
        assert_eq!(returned_upstream_header(same), returned_upstream_header(text));
        for wanted in [headers::JSON, headers::SSE] {
            assert_eq!(is_type(same, wanted), is_type(text, wanted));
        }
    }
    let mut ranges: Vec<&str> = text.split(',').collect();
    ranges.reverse();
    assert_eq!(accepts(&ranges.join(" , ")), accepted, "the order of ranges counts");
    for wanted in [headers::JSON, headers::SSE] {
        let more = accepts(&format!("{text}, {wanted}"));
        assert!(
            if wanted == headers::JSON { more.json } else { more.sse },
            "what is named outright is accepted"
        );
        if is_type(text, wanted) {
            assert!(text.trim().get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted)));
        }
    }
    // A header of relatch's own, or one that names a session, never goes on, whatever is put behind its name.
    assert!(!forwarded_downstream_header(&format!("relatch-{text}")));
    assert!(!returned_upstream_header(headers::SESSION_ID));
    if forwarded_downstream_header(text) {
        for own in [headers::SESSION_ID, headers::PROTOCOL_VERSION, headers::RELATCH_TOKEN, "host", "te"] {
            assert!(!text.eq_ignore_ascii_case(own), "{own} goes on");
        }
    }
    if let Some(revision) = Revision::parse(text) {
        assert_eq!(revision.as_str(), text);
    }
}
