//! Rust sources as tokens, and the paths that they name.

/// The library by its name, as the program calls it.
const LIBRARY: &str = "mistify_libvirt";

/// What a piece of a source is.
#[derive(Clone, Copy, PartialEq)]
enum Piece {
    /// A word, `::` or a single sign.
    Token,
    /// A string literal.
    Text,
    /// A comment, a character or blanks.
    Other,
}

/// Words, `::` and single signs, without comments, strings and characters.
pub(crate) fn tokens(text: &str) -> Vec<&str> {
    pieces(text, Piece::Token)
}

/// The string literals of a source, with their quotes, without those in comments.
pub(crate) fn strings(text: &str) -> Vec<&str> {
    pieces(text, Piece::Text)
}

/// The pieces of this kind.
fn pieces(text: &str, wanted: Piece) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (length, piece) = match first {
            _ if word > 0 => {
                raw_string(rest, word).map_or((word, Piece::Token), |end| (end, Piece::Text))
            }
            '/' if rest.starts_with("//") => (past(rest, 2, "\n"), Piece::Other),
            '/' if rest.starts_with("/*") => (past(rest, 2, "*/"), Piece::Other),
            '"' => (past_quoted(rest), Piece::Text),
            '\'' if is_character(rest) => (past_quoted(rest), Piece::Other),
            ':' if rest.starts_with("::") => (2, Piece::Token),
            _ if first.is_whitespace() => (first.len_utf8(), Piece::Other),
            _ => (first.len_utf8(), Piece::Token),
        };
        if piece == wanted {
            pieces.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    pieces
}

/// The length of a raw string whose prefix is `word` long, if one begins here.
fn raw_string(rest: &str, word: usize) -> Option<usize> {
    let (prefix, body) = rest.split_at(word);
    let hashes = body.find(|c| c != '#')?;
    let begins = ["r", "br", "cr"].contains(&prefix) && body[hashes..].starts_with('"');
    begins.then(|| past(rest, word + hashes + 1, &format!("\"{}", &body[..hashes])))
}

/// Whether a quote begins a character and not a lifetime.
fn is_character(rest: &str) -> bool {
    rest.chars().nth(1) == Some('\\') || rest.chars().nth(2) == Some('\'')
}

fn past(text: &str, from: usize, end: &str) -> usize {
    text[from..].find(end).map_or(text.len(), |at| from + at + end.len())
}

/// Past the quote that closes the one `text` begins with.
fn past_quoted(text: &str) -> usize {
    let mut escaped = false;
    let ends = |(_, c): &(usize, char)| {
        let end = text.starts_with(*c) && !escaped;
        escaped = *c == '\\' && !escaped;
        end
    };
    text.char_indices().skip(1).find(ends).map_or(text.len(), |(at, _)| at + 1)
}

/// The names of the modules from the crate's root; none for the root.
pub(crate) type Module = Vec<String>;

/// Past this token, and past what it encloses where it is a bracket.
pub(crate) fn past_brackets(tokens: &[&str], at: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        depth += i32::from(["(", "[", "{"].contains(token));
        depth -= i32::from([")", "]", "}"].contains(token));
        if depth <= 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// The paths of a `use` tree behind this prefix, each with its name here; where the tree ends.
fn tree<'t>(
    tokens: &[&'t str],
    mut at: usize,
    mut prefix: Vec<&'t str>,
    found: &mut Vec<(Vec<&'t str>, &'t str)>,
) -> usize {
    while at < tokens.len() {
        match tokens[at] {
            "::" => at += 1,
            "{" => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = tree(tokens, at, prefix.clone(), found);
                    at += usize::from(tokens.get(at) == Some(&","));
                }
                return at + 1;
            }
            word => {
                // `a::{self}` is `a`.
                if word != "self" || prefix.is_empty() {
                    prefix.push(word);
                }
                at += 1;
                if tokens.get(at) == Some(&"::") {
                    continue;
                }
                let renamed = tokens.get(at) == Some(&"as");
                let name = if renamed { tokens[at + 1] } else { prefix[prefix.len() - 1] };
                found.push((prefix, name));
                return at + 2 * usize::from(renamed);
            }
        }
    }
    at
}

/// The paths that a file names, as it writes them, each with its name here and the depth of inline modules there.
pub(crate) fn named<'t>(tokens: &[&'t str]) -> Vec<(Vec<&'t str>, &'t str, usize)> {
    let (mut found, mut at, mut braces) = (Vec::new(), 0, Vec::new());
    while at < tokens.len() {
        match tokens[at] {
            "{" => braces.push(at >= 2 && tokens[at - 2] == "mod"),
            "}" => drop(braces.pop()),
            _ => {}
        }
        let depth = braces.iter().filter(|is_module| **is_module).count();
        let is_path = ["crate", LIBRARY, "self", "super"].contains(&tokens[at])
            && tokens.get(at + 1) == Some(&"::")
            && (at == 0 || tokens[at - 1] != "::");
        let mut paths = Vec::new();
        at = match tokens[at] {
            "use" => tree(tokens, at + 1, Vec::new(), &mut paths),
            _ if is_path => tree(tokens, at, Vec::new(), &mut paths),
            _ => at + 1,
        };
        found.extend(paths.into_iter().map(|(path, name)| (path, name, depth)));
    }
    found
}

/// A path from the root, in a module with `depth` inline modules around it; none for one of another crate.
pub(crate) fn absolute(
    module: &[String],
    path: &[&str],
    depth: usize,
    is_module: &dyn Fn(&[String]) -> bool,
) -> Option<Module> {
    let own = |rest: &[&str]| rest.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let supers = path.iter().take_while(|name| **name == "super").count();
    match path[0] {
        "crate" | LIBRARY => Some(own(&path[1..])),
        "self" => Some([module, &own(&path[1..])].concat()),
        "super" => {
            let up = supers.saturating_sub(depth).min(module.len());
            Some([&module[..module.len() - up], &own(&path[supers..])].concat())
        }
        first => {
            let child = [module, &[first.to_owned()]].concat();
            is_module(&child).then(|| [module, &own(path)].concat())
        }
    }
}

/// The module of a file, whose path is relative to `src/`.
pub(crate) fn module_of(path: &str) -> Module {
    let names = path.trim_end_matches(".rs").split('/');
    names.filter(|name| !["mod", "lib"].contains(name)).map(str::to_owned).collect()
}
