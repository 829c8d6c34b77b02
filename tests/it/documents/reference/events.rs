//! Events: the variants of `EventKind` with their members, from the comments in the code.

use super::{compare, sentence, table};

const SOURCE: &str = include_str!("../../../../src/events.rs");

/// `DeviceRemoved` as `device-removed`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// The rows of the table: name, meaning with the members.
fn rows() -> Vec<Vec<String>> {
    let body = SOURCE.split("pub enum EventKind {\n").nth(1).expect("the type is there");
    let body = body.split("\n}\n").next().expect("it ends");
    let (mut rows, mut comment): (Vec<Vec<String>>, Vec<&str>) = (Vec::new(), Vec::new());
    for line in body.lines() {
        let depth = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim());
        } else if line.starts_with("#[") || line.starts_with('}') {
        } else {
            let text = comment.join(" ");
            comment.clear();
            let name = line.trim_end_matches([',', '{', ' ']);
            assert!(!text.is_empty(), "{name} has no description");
            match depth {
                4 => rows.push(vec![format!("`{}`", kebab(name)), sentence(&text), String::new()]),
                _ => {
                    let name = name.split(':').next().unwrap_or_default();
                    let members = &mut rows.last_mut().expect("its variant")[2];
                    let space = if members.is_empty() { "" } else { " " };
                    *members += &format!("{space}`{name}`: {}", sentence(&text));
                }
            }
        }
    }
    for row in rows.iter_mut().filter(|row| row[2].is_empty()) {
        "-".clone_into(&mut row[2]);
    }
    rows
}

#[test]
fn the_api_page_has_every_event() {
    let rows = rows();
    for row in &rows {
        let name = row[0].trim_matches('`');
        assert!(SOURCE.contains(&format!("=> \"{name}\"")), "{name} is no name of an event");
    }
    compare("docs/api.md", "events", &table(&["event", "meaning", "members"], &rows));
}
