//! A validator of the part of JSON Schema that docs/schema uses.
//!
//! A crate for all of JSON Schema brings some fifty others, for references over the network, formats and
//! regular expressions, which the schemas here do not have. A keyword that the validator does not know fails
//! the test, so the schemas cannot start to use anything that is not checked. In one point it is stricter
//! than the standard: a property that the schema does not name is an error; otherwise a field could be
//! printed without being documented.

use serde_json::{Map, Value};

/// Keywords that do not restrict a value.
const SILENT: &[&str] =
    &["$schema", "$defs", "title", "description", "default", "format", "x-striate-schema", "$ref"];

/// Checks a value against a schema. An error says where and why.
pub fn check(root: &Value, value: &Value) -> Result<(), String> {
    Checker { root }.check(root, value, "$")
}

struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let keys = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Object(keys) => keys,
            other => return Err(format!("{at}: {other} is no schema")),
        };
        if let Some(reference) = keys.get("$ref") {
            let path = reference
                .as_str()
                .and_then(|text| text.strip_prefix('#'))
                .expect("a reference into the file");
            let target = self.root.pointer(path).unwrap_or_else(|| panic!("{path} is in the file"));
            self.check(target, value, at)?;
        }
        for (key, what) in keys {
            self.keyword(key, what, keys, value, at)?;
        }
        Ok(())
    }

    fn keyword(
        &self,
        key: &str,
        what: &Value,
        keys: &Map<String, Value>,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("{at}: {why}: {value}"));
        let items = || value.as_array().map(|all| all.len() as u64);
        let list = || what.as_array().expect("a list").iter();
        let passing = || list().filter(|one| self.check(one, value, at).is_ok()).count();
        match key {
            _ if SILENT.contains(&key) => {}
            "type" => {
                let is_one = |name: &Value| is_type(value, name.as_str().expect("a name"));
                if !what.as_array().map_or_else(|| is_one(what), |names| names.iter().any(is_one)) {
                    return wrong(&format!("not of type {what}"));
                }
            }
            "const" if value != what => return wrong(&format!("not {what}")),
            "enum" if !list().any(|one| one == value) => return wrong(&format!("none of {what}")),
            "const" | "enum" => {}
            "oneOf" if passing() != 1 => return wrong(&format!("{} of the alternatives match", passing())),
            "anyOf" if passing() == 0 => {
                let why: Vec<String> = list().filter_map(|one| self.check(one, value, at).err()).collect();
                return wrong(&format!("no alternative matches: {}", why.join("; ")));
            }
            "oneOf" | "anyOf" => {}
            "minimum" if value.is_number() && value.as_f64() < what.as_f64() => return wrong("too little"),
            "maximum" if value.is_number() && value.as_f64() > what.as_f64() => return wrong("too much"),
            "minimum" | "maximum" => {}
            "minItems" if items().is_some_and(|items| Some(items) < what.as_u64()) => {
                return wrong("too few");
            }
            "maxItems" if items().is_some_and(|items| Some(items) > what.as_u64()) => {
                return wrong("too many");
            }
            "minItems" | "maxItems" => {}
            "required" => {
                if let Some(missing) = list().find(|name| value.get(name.as_str().unwrap()).is_none()) {
                    return wrong(&format!("{missing} is missing"));
                }
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    let Some(schema) = what.get(name) else { return wrong(&format!("{name} is not known")) };
                    self.check(schema, inner, &format!("{at}.{name}"))?;
                }
            }
            // Enforced for every object, see the top of this file.
            "additionalProperties" => assert_eq!(what, false, "as far as this validator knows"),
            "items" if !keys.contains_key("prefixItems") => {
                for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(what, inner, &format!("{at}[{index}]"))?;
                }
            }
            "prefixItems" => {
                for (index, (schema, inner)) in list().zip(value.as_array().into_iter().flatten()).enumerate()
                {
                    self.check(schema, inner, &format!("{at}[{index}]"))?;
                }
            }
            _ => panic!("{at}: this validator does not know the keyword {key}"),
        }
        Ok(())
    }
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("{name} is no type"),
    }
}

#[test]
fn values_that_fit_and_values_that_do_not() {
    let schema = serde_json::json!({
        "$defs": { "Kind": { "oneOf": [{ "const": "a", "type": "string" }, { "const": "b", "type": "string" }] } },
        "type": "object",
        "required": ["kind", "list"],
        "properties": {
            "kind": { "$ref": "#/$defs/Kind" },
            "list": { "type": "array", "items": { "type": ["integer", "null"], "minimum": 0 } },
            "either": { "anyOf": [{ "type": "boolean" }, { "type": "null" }] },
        },
    });
    for (value, fits) in [
        (serde_json::json!({ "kind": "a", "list": [1, null], "either": true }), true),
        (serde_json::json!({ "kind": "b", "list": [] }), true),
        (serde_json::json!({ "kind": "c", "list": [] }), false),
        (serde_json::json!({ "kind": "a" }), false),
        (serde_json::json!({ "kind": "a", "list": [-1] }), false),
        (serde_json::json!({ "kind": "a", "list": [0.5] }), false),
        (serde_json::json!({ "kind": "a", "list": [], "either": 1 }), false),
        (serde_json::json!({ "kind": "a", "list": [], "more": 1 }), false),
        (serde_json::json!([]), false),
    ] {
        assert_eq!(check(&schema, &value).is_ok(), fits, "{value}: {:?}", check(&schema, &value));
    }
}
