//! Methods and errors: what `rpc.discover` answers on both ports, as pages.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::{compare, compare_file, sentence, table};
use crate::api::jsonrpc::discover::documents;
use crate::harness::image_store::Bed;

const PAGE: &str = "docs/methods.md";
/// Columns of an example.
const WIDTH: usize = 100;
const INTRODUCTION: &str = "\
# Methods

A section for each method: what it does, its parameters, its result, its errors and an example. `make docs`
writes this page from the answers to `rpc.discover`, the agent's OpenRPC document. [The API](api.md) describes the
envelopes, deadlines, jobs and events.

The parameters are the members of one object: by name on `/rpc`, as the only element of `params` on
`/_mistify_RPC_`. \"Errors\" names what a caller should expect besides the [errors of every
method](api.md#errors). Methods of `ImageStore` are on the image store's port.
";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap_or_else(|| panic!("no array: {value}")).iter()
}

/// `ImageStore.GetImage` as the anchor of its title.
fn anchor(title: &str) -> String {
    title.to_lowercase().replace(['.', ' '], "")
}

/// The type of a member, with a link for one that has a section.
fn kind(schema: &Value) -> String {
    let named = |reference: &Value| {
        let name = text(reference).rsplit('/').next().unwrap_or_default();
        format!("[{name}](#{})", anchor(name))
    };
    if schema["$ref"].is_string() {
        return named(&schema["$ref"]);
    }
    if let Some(all) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        return all.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().map(text).collect(),
        _ => vec!["any"],
    };
    let of = |name: &str| match name {
        "array" => format!("array of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        other => other.to_owned(),
    };
    names.into_iter().map(of).collect::<Vec<_>>().join(" or ")
}

/// The meaning of a member: its description with the bounds of its value.
fn meaning(name: &str, schema: &Value) -> String {
    let mut words = sentence(schema["description"].as_str().unwrap_or_default());
    assert!(words.len() > 5, "{name} has no description");
    for (bound, says) in [
        ("minimum", "At least"),
        ("maximum", "At most"),
        ("maxLength", "Characters, at most:"),
        ("default", "Default:"),
    ] {
        if !schema[bound].is_null() {
            let _ = write!(words, " {says} `{}`.", schema[bound]);
        }
    }
    words
}

/// Returns a table of members, with a column for members that are always present, if that is known.
fn members<'v>(all: impl Iterator<Item = (&'v str, &'v Value, Option<bool>)>) -> String {
    let mut titles = vec!["member", "type", "meaning"];
    let mut rows = Vec::new();
    for (name, schema, is_always) in all {
        let mut row = vec![format!("`{name}`"), kind(schema), meaning(name, schema)];
        if let Some(is_always) = is_always {
            titles.truncate(3);
            titles.push("always");
            row.push(if is_always { "yes" } else { "no" }.to_owned());
        }
        rows.push(row);
    }
    match rows.is_empty() {
        true => "\nNone.\n\n".to_owned(),
        false => table(&titles, &rows),
    }
}

/// JSON for people: a value that fits stands on one line.
fn compact(value: &Value, indent: usize) -> String {
    let line = spaced(value);
    if indent + line.len() <= WIDTH {
        return line;
    }
    let inner = " ".repeat(indent + 2);
    let (begin, end, parts) = match value {
        Value::Array(all) => {
            let parts: Vec<_> = all.iter().map(|it| compact(it, indent + 2)).collect();
            ('[', ']', parts)
        }
        Value::Object(all) => {
            let part = |(name, it): (&String, &Value)| {
                format!("{name:?}: {}", compact(it, indent + 4 + name.len()))
            };
            ('{', '}', all.iter().map(part).collect())
        }
        _ => return line,
    };
    let parts: Vec<String> = parts.iter().map(|part| format!("{inner}{part}")).collect();
    format!("{begin}\n{}\n{}{end}", parts.join(",\n"), " ".repeat(indent))
}

/// JSON on one line, with a blank after commas and colons.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(all) => format!("[{}]", all.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        Value::Object(all) => {
            let part = |(name, it): (&String, &Value)| format!("{name:?}: {}", spaced(it));
            format!("{{{}}}", all.iter().map(part).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn example(value: &Value) -> String {
    format!("```json\n{}\n```\n", compact(value, 0))
}

/// The errors of a method, by name.
fn errors(method: &Value) -> BTreeSet<String> {
    let names = each(&method["errors"]).filter_map(|it| text(&it["$ref"]).rsplit('/').next());
    names.map(|it| it.replace('-', " ")).collect()
}

/// The errors that every method of these documents may have.
fn common_errors(documents: &[Value]) -> BTreeSet<String> {
    let mut all = documents.iter().flat_map(|it| each(&it["methods"])).map(errors);
    let first = all.next().expect("a method");
    all.fold(first, |common, errors| common.intersection(&errors).cloned().collect())
}

fn method(page: &mut String, method: &Value, common: &BTreeSet<String>) {
    let name = text(&method["name"]);
    let changes = each(&method["tags"]).any(|tag| tag["name"] == "changes");
    let effect = if changes { "A change." } else { "A read." };
    let params = each(&method["params"]).map(|it| (text(&it["name"]), &it["schema"], None));
    let result = kind(&method["result"]["schema"]);
    let own: Vec<String> = errors(method).difference(common).map(|it| format!("`{it}`")).collect();
    let own = if own.is_empty() { "none of its own".to_owned() } else { own.join(", ") };
    let shown = &method["examples"][0];
    let given: Value = each(&shown["params"])
        .map(|it| (text(&it["name"]).to_owned(), it["value"].clone()))
        .collect();
    let _ = write!(
        page,
        "\n### {name}\n\n{} {effect}\n\nParameters:\n{}Result: {result}. Errors: {}.\n\nExample parameters, \
         and the result:\n\n{}\n{}",
        sentence(text(&method["summary"])),
        members(params),
        own,
        example(&given),
        example(&shown["result"]["value"]),
    );
}

fn schema(page: &mut String, name: &str, schema: &Value) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().map(text).collect();
    let all = schema["properties"].as_object().into_iter().flatten();
    let all = all.map(|(name, it)| (name.as_str(), it, Some(required.contains(&name.as_str()))));
    let description = sentence(text(&schema["description"]));
    let _ = write!(page, "\n### {name}\n\n{description}\n{}", members(all).trim_end_matches('\n'));
    page.push('\n');
}

#[test]
fn the_methods_page_has_every_method_and_type() {
    let bed = Bed::on_directory();
    let both = documents(&bed);
    let common = common_errors(&both);
    let mut page = INTRODUCTION.to_owned();
    for (document, title) in both.iter().zip(["Guests and jobs", "Image store"]) {
        let _ = write!(page, "\n## {title}\n");
        each(&document["methods"]).for_each(|it| method(&mut page, it, &common));
    }
    page += "\n## Types\n";
    let schemas = both[0]["components"]["schemas"].as_object().expect("an object");
    for (name, it) in schemas {
        schema(&mut page, name, it);
    }
    bed.agent.end();
    compare_file(PAGE, &page);
}

#[test]
fn the_api_page_has_every_error() {
    let bed = Bed::on_directory();
    let both = documents(&bed);
    bed.agent.end();
    let common = common_errors(&both);
    let [document, _] = both;
    let mut all: Vec<&Value> =
        document["components"]["errors"].as_object().expect("an object").values().collect();
    // The specification's own codes first.
    all.sort_by_key(|it| {
        let code = it["code"].as_i64().expect("a number");
        (code > -32_600, if code > -32_600 { -code } else { code })
    });
    let row = |it: &&Value| {
        let again = if it["data"]["retryable"] == true { "yes" } else { "no" }.to_owned();
        let name = text(&it["message"]).to_owned();
        let of =
            if common.contains(&name.to_lowercase()) { "every method" } else { "some methods" };
        let meaning = sentence(text(&it["data"]["meaning"]));
        vec![it["code"].to_string(), name, of.to_owned(), again, meaning]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    compare("docs/api.md", "errors", &table(&["code", "name", "of", "retry", "meaning"], &rows));
}
