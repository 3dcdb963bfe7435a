//! The JSON schema of an inventory, for editors: made from the tables of [`crate::shape`].

use serde_json::{Value, json};

use crate::shape::{self, Field, Kind, Need, Shape};

/// Returns the schema (JSON Schema 2020-12), with a line end.
pub fn schema() -> String {
    let mut schema = object(&shape::INVENTORY);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Inventory of ha-sync".into();
    format!("{schema:#}\n")
}

fn object(shape: &Shape) -> Value {
    let properties: serde_json::Map<_, _> =
        shape.fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    let required = shape.fields.iter().filter(|field| matches!(field.need, Need::Required));
    json!({
        "type": "object",
        "description": shape.about,
        "properties": properties,
        "required": required.map(|field| field.name).collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}

fn property(field: &Field) -> Value {
    let mut value = kind(&field.kind);
    value["description"] = field.about.into();
    if let Need::Default(default) = field.need {
        value["default"] = default.parse::<u32>().map_or_else(|_| default.into(), Value::from);
    }
    value
}

fn kind(kind_: &Kind) -> Value {
    match kind_ {
        Kind::Text(pattern) => json!({"type": "string", "pattern": pattern}),
        // YAML readers of the older kind take `on` and `off` for booleans.
        Kind::Choice(words) if words.contains(&"off") => {
            let words: Vec<Value> =
                words.iter().map(|word| Value::from(*word)).chain([true.into(), false.into()]).collect();
            json!({"enum": words})
        }
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Number(least, greatest) => json!({"type": "integer", "minimum": least, "maximum": greatest}),
        Kind::Object(shape) => object(shape),
        Kind::Objects { least, shape } => json!({"type": "array", "minItems": least, "items": object(shape)}),
        Kind::Texts { number, pattern } => json!({
            "type": "array", "minItems": number, "maxItems": number, "items": {"type": "string", "pattern": pattern},
        }),
        Kind::Each(value) => json!({"type": "object", "additionalProperties": kind(value)}),
    }
}
