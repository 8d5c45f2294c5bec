//! What a refusal says: every answer has a reading, and the readings that lead to another sending need their proof.

use relatch_core::input::Refusal;
use relatch_core::latch::reading::{Door, Reading, error_raises_doubt, read, read_door, speaks_of_session};

use crate::choice::Choice;

pub(crate) fn reading(input: &[u8]) {
    let mut choice = Choice::new(input);
    let status = 100 + choice.word() % 900;
    let flags = choice.byte();
    let code =
        [None, Some(-32601), Some(-32602), Some(-32700), Some(-32000), Some(-32001), Some(-32022), Some(0)];
    let rpc_code = code[usize::from(flags & 7)];
    let (challenge, has_id) = (flags & 8 != 0, flags & 16 != 0);
    let retry_after = (flags & 32 != 0).then_some(1_000);
    let body = String::from_utf8_lossy(choice.rest()).into_owned();
    let refusal = Refusal {
        status,
        body: &body,
        rpc_code,
        digest: 0,
        challenge,
        retry_after,
        location: None,
        ended: false,
    };
    let (said, door) = (read(&refusal, has_id), read_door(&refusal));
    let session = speaks_of_session(&body);
    let lower = body.to_lowercase();

    match said {
        // The one that sends a call again: the specified signal, or a known dialect that says it in words.
        Reading::Gone => {
            assert!(
                matches!(status, 400 | 401 | 404 | 410 | 422 | 500 | 503),
                "{status} is taken for a lost session"
            );
            // Also the gate of the old transport, which misses its stream.
            let words = ["session", "initialize", "connection", "transport"];
            assert!(
                matches!(status, 404 | 410) || words.iter().any(|word| lower.contains(word)),
                "{status} is taken for a lost session without a word of it"
            );
            assert!(has_id || status != 404 || session, "a session without an id is lost by a bare 404");
            assert!(!(challenge && status == 401), "credentials are answered by relatching");
        }
        Reading::Later => assert!(status == 429 || status == 503 && retry_after.is_some()),
        Reading::WrongPlace => assert_eq!(status, 421),
        Reading::AboutRequest => assert!((400..500).contains(&status)),
        Reading::Credentials => assert!(challenge && matches!(status, 401 | 403)),
        Reading::Gateway => assert!((502..600).contains(&status)),
        Reading::Redirected => assert!((300..400).contains(&status)),
        Reading::NotMcp => assert!(status < 300 || status == 404 && !has_id),
        Reading::Suspected => assert!(!(300..400).contains(&status)),
    }
    // Case says nothing, and neither does a body that speaks of nothing.
    let upper = body.to_ascii_uppercase();
    assert_eq!(read(&Refusal { body: &upper, ..refusal }, has_id), said);
    assert_eq!(read_door(&Refusal { body: &upper, ..refusal }), door);
    if session {
        assert!(lower.contains("session") || lower.contains("server not initialized"));
        assert!(speaks_of_session(&format!("{body} and more")), "more words take nothing back");
    }
    assert!(!error_raises_doubt(-32602, &body) && (error_raises_doubt(-32000, &body) == session));
    match door {
        Door::Credentials => assert!(matches!(status, 401 | 403)),
        Door::Later => assert!(matches!(status, 429 | 503)),
        Door::Redirected => assert!((300..400).contains(&status)),
        Door::Refused => assert!(!(500..600).contains(&status) && !(200..400).contains(&status)),
        Door::Missing => {}
    }
}
