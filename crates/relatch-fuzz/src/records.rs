//! Stored records: what is read and written again has lost nothing, and what can't be read is refused with its reason.

use relatch_core::record::{FORMAT, Record, RecordError};
use serde_json::Value;

/// A text, as a store of another version may have left it.
pub(crate) fn records(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Record::read(text) {
        Ok(record) => {
            assert!(record.format <= FORMAT);
            let written = record.write();
            let again = Record::read(&written).expect("what is written is read");
            assert_eq!(again, record);
            assert_eq!(again.write(), written);
            let (Ok(before), Ok(after)) =
                (serde_json::from_str::<Value>(text), serde_json::from_str::<Value>(&written))
            else {
                panic!("a record that is no JSON")
            };
            kept(&before, &after, "");
        }
        Err(RecordError::Newer { found }) => assert!(found > FORMAT),
        Err(RecordError::Unreadable(why)) => assert!(!why.to_string().is_empty()),
    }
}

/// Every value of the text is in what is written in its place.
fn kept(before: &Value, after: &Value, place: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                match after.get(name) {
                    Some(after) => kept(value, after, &format!("{place}/{name}")),
                    None => panic!("`{place}/{name}` is lost"),
                }
            }
        }
        (before, after) => assert_eq!(before, after, "`{place}` has changed"),
    }
}
