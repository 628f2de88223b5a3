//! Generates the schemas in docs/schema from the types, and compares them with the files.
//!
//! Method: STRIATE_BLESS=1 writes the files. It refuses if anything that a program parses has changed
//! (anything but descriptions) while [`SCHEMA_VERSION`] is still that of the file: such a change needs a new
//! version. To change a version that was never released, remove its file first. tests/json.rs checks the
//! documents of the real program against these files.

use std::path::PathBuf;

use engine::bench::BenchReport;
use engine::server::{Grown, ScrubReport};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::*;

/// The schema of a `MemberId`. It cannot be derived there, because the crate of fuzz targets compiles
/// control/message.rs too.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "a schema is all that is wanted of it")]
pub enum MemberSchema {
    /// The slot.
    Slot(usize),
    /// An absolute path.
    Path(PathBuf),
}

/// The key of a schema file that holds its version.
const VERSION: &str = "x-striate-schema";

/// The schema of a type as it is written: a field that has a default for older servers is always present.
fn schema<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>().to_value()
}

/// The schema of a document with this content.
fn document<T: JsonSchema>() -> Value {
    let mut schema = schema::<Document<T>>();
    schema["description"] = self::schema::<T>()["description"].clone();
    schema
}

fn documents() -> Vec<(&'static str, Value)> {
    let mut documents = vec![
        ("error", document::<ErrorDocument>()),
        ("create", document::<Created<'_>>()),
        ("serve", document::<Ready<'_>>()),
        ("status", document::<Arrays<'_>>()),
        ("array", schema::<ArrayStatus>()),
        ("members", document::<ExaminedMembers<'_>>()),
        ("lost", document::<Lost<'_>>()),
        ("fail", document::<Failed<'_>>()),
        ("replace", document::<Replaced<'_>>()),
        ("stop", document::<Stopped<'_>>()),
        ("wait", document::<Waited<'_>>()),
        ("grow", document::<Grown>()),
        ("scrub", document::<ScrubReport>()),
        ("bench", document::<BenchReport>()),
        ("bench-device", document::<NullDevice<'_>>()),
        ("demo", document::<Told>()),
    ];
    documents
        .iter_mut()
        .for_each(|(name, schema)| schema["title"] = format!("{name}.json of striate").into());
    documents
}

/// Puts the version in front of a schema.
fn with_version(schema: Value) -> Value {
    let Value::Object(keys) = schema else { panic!("the schema of a document is an object") };
    let version = Map::from_iter([(VERSION.to_string(), SCHEMA_VERSION.into())]);
    Value::Object(version.into_iter().chain(keys).collect())
}

/// The part of a schema that a program depends on: everything except titles and descriptions.
fn shape(schema: &Value) -> Value {
    let is_word = |(key, value): &(&String, &Value)| {
        // Properties may have these names too; their value is then an object.
        value.is_string() && ["title", "description"].contains(&key.as_str())
    };
    match schema {
        Value::Object(keys) => {
            let kept = keys.iter().filter(|entry| !is_word(entry));
            Value::Object(kept.map(|(key, value)| (key.clone(), shape(value))).collect())
        }
        Value::Array(all) => Value::Array(all.iter().map(shape).collect()),
        other => other.clone(),
    }
}

/// The reason why this schema may not replace a file, if there is one.
fn refusal(old: &Value, new: &Value) -> Option<&'static str> {
    let is_same_version = old[VERSION] == new[VERSION];
    (is_same_version && shape(old) != shape(new)).then_some("another shape, and no other SCHEMA_VERSION")
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/schema")
}

#[test]
fn schemas_are_those_of_the_types() {
    let is_to_bless = std::env::var_os("STRIATE_BLESS").is_some();
    let mut wrong = Vec::new();
    for (name, schema) in documents() {
        let path = directory().join(format!("{name}.json"));
        let schema = with_version(schema);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let there = std::fs::read_to_string(&path).ok();
        let old =
            there.as_deref().map(|there| serde_json::from_str::<Value>(there).expect("a schema is JSON"));
        match old.as_ref().and_then(|old| refusal(old, &schema)) {
            Some(why) => wrong.push(format!("{name}.json: {why}")),
            None if there.as_deref() == Some(&text) => {}
            None if is_to_bless => std::fs::write(path, text).unwrap(),
            None => wrong.push(format!("{name}.json: not the schema of the type; STRIATE_BLESS=1 writes it")),
        }
    }
    assert!(wrong.is_empty(), "docs/schema:\n  {}", wrong.join("\n  "));
}

#[test]
fn no_schema_is_of_a_document_that_is_not_there() {
    let known: Vec<String> = documents().iter().map(|(name, _)| format!("{name}.json")).collect();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "docs/schema/{name} is of no document");
    }
}

/// The rule by itself: what needs a new version, and what does not.
#[test]
fn a_changed_shape_needs_a_version() {
    let old = with_version(document::<Lost<'_>>());
    assert_eq!(refusal(&old, &old), None);
    let with = |pointer: &str, value: Value| {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} in {old}")) = value;
        new
    };
    assert_eq!(refusal(&old, &with("/properties/name/description", "other words".into())), None);
    let mut changed = with("/properties/name/type", "integer".into());
    assert!(refusal(&old, &changed).is_some());
    changed[VERSION] = (SCHEMA_VERSION + 1).into();
    assert_eq!(refusal(&old, &changed), None);
    let mut without = old.clone();
    without["properties"].as_object_mut().unwrap().remove("pieces");
    assert!(refusal(&old, &without).is_some(), "a field went away");
    assert!(refusal(&without, &old).is_some(), "a field came");
}

#[test]
fn advice_is_cut_out_of_a_message() {
    let message = "served: see `striate status`, or `ls`; then `striate stop --force a`";
    let document = Document::of(ErrorDocument::new(ErrorKind::Failed, message.into()));
    let json = serde_json::to_value(&document).unwrap();
    assert_eq!(json["error"]["commands"], serde_json::json!(["striate status", "striate stop --force a"]));
    assert_eq!((&json["schema"], &json["error"]["kind"]), (&SCHEMA_VERSION.into(), &"failed".into()));
}
