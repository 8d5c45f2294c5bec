//! The JSON Schema of `relatch.toml`, for editors: made from the same table that reads it.

use serde_json::{Map, Value, json};

use super::keys::{Key, Kind, Section};

/// What a name of a server is made of.
const NAME: &str = "^[a-z0-9][a-z0-9._-]{0,63}$";

/// The schema as text.
pub(crate) fn text() -> String {
    let mut sections = Map::new();
    for section in Section::ALL {
        let described = match section {
            Section::Serve | Section::Hooks => table(section),
            Section::Server => json!({
                "type": "object",
                "description": "The servers, by their names",
                "patternProperties": { NAME: table(section) },
                "additionalProperties": false,
            }),
        };
        sections.insert(section.word().to_owned(), described);
    }
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "relatch.toml",
        "description": "The configuration of relatch. In addresses and in values of headers and variables, `${NAME}` stands for a variable of the environment and `${file:PATH}` for the content of a file; a plain `${` is written `$${`",
        "type": "object",
        "properties": sections,
        "additionalProperties": false,
    });
    format!("{schema:#}\n")
}

fn table(section: Section) -> Value {
    let properties: Map<String, Value> =
        section.keys().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut table = json!({
        "type": "object",
        "description": section.about(),
        "properties": properties,
        "additionalProperties": false,
    });
    let required: Vec<&str> =
        section.keys().filter(|key| key.default.is_empty()).map(|key| key.name).collect();
    if section == Section::Server {
        table["oneOf"] = json!([{ "required": ["url"] }, { "required": ["command"] }]);
        let of_commands = super::keys::OF_COMMANDS.map(|key| (key.to_owned(), json!(["command"])));
        table["dependencies"] = Value::Object(of_commands.into_iter().collect());
    }
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(key: &Key) -> Value {
    let mut property = match key.kind {
        Kind::Listen => json!({ "type": "string", "pattern": ":[0-9]{1,5}$" }),
        Kind::Folder | Kind::File | Kind::Proxy => json!({ "type": "string", "minLength": 1 }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Hosts => json!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
        ] }),
        Kind::Command => json!({ "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        ] }),
        // A reference may stand for any part of it.
        Kind::Address => json!({ "type": "string", "pattern": "^(https?://|unix:|http\\+unix://|.*\\$\\{)" }),
        Kind::Headers => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Variables => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[^=]+$" },
            "additionalProperties": { "type": "string" },
        }),
        Kind::Names => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
        Kind::Span => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }),
        Kind::Replay => json!({ "type": "object", "additionalProperties": { "enum": ["always", "never"] } }),
        Kind::Word(words) => json!({ "enum": words }),
    };
    property["description"] = match key.default {
        "" => json!(key.about),
        default => json!(format!("{}. Without it: {default}", key.about)),
    };
    property
}
