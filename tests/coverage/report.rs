//! How much of the agent its tests run: a table by room, and what they do not run.
//!
//!     coverage COUNTS SOURCES OUT PROGRAM TEST-PROGRAM...
//!
//! `COUNTS` is the directory with what the programs counted, `SOURCES` the directory of the agent's sources.
//! What is asked about is the code that `PROGRAM` and the first `TEST-PROGRAM`, which has the library as
//! it is shipped, are made of: no unit test. Into `OUT` goes each region that was not run, by file and
//! line, with `?` and the like marked within their line.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use llvm_profparser::{CoverageMapping, SourceLocation, merge_profiles};

/// Of each file, its regions and how often each was run.
type Files = BTreeMap<PathBuf, BTreeMap<SourceLocation, usize>>;

#[derive(Default)]
struct Room {
    lines: usize,
    run: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [counts, sources, out, programs @ ..] = &words[..] else {
        return Err("usage: coverage COUNTS SOURCES OUT PROGRAM TEST-PROGRAM...".into());
    };
    let files = regions(counts, sources, programs)?;
    let (mut rooms, mut missing) = (BTreeMap::<String, Room>::new(), String::new());
    for (file, regions) in &files {
        let name = file.strip_prefix(sources)?;
        let lines = by_line(regions);
        let room = rooms.entry(room_of(name)).or_default();
        room.lines += lines.len();
        room.run += lines.values().filter(|count| **count > 0).count();
        let text = fs::read_to_string(file)?;
        missing += &not_run(name, regions, &text.lines().collect::<Vec<_>>());
    }
    fs::write(out, missing)?;
    print(&rooms);
    Ok(())
}

/// The regions of the sources, without those that only unit tests have.
fn regions(counts: &Path, sources: &Path, programs: &[PathBuf]) -> Result<Files, Box<dyn Error>> {
    let counted: Result<Vec<_>, _> = fs::read_dir(counts)?.map(|entry| Ok(entry?.path())).collect();
    let profile = merge_profiles(&counted.map_err(|error: std::io::Error| error)?)?;
    let of = |programs: &[PathBuf]| {
        CoverageMapping::new(programs, &profile, false)?
            .generate_subreport(|paths| paths.iter().any(|path| path.starts_with(sources)))
    };
    let shipped = programs.get(..2).ok_or("at least two programs")?;
    let (shipped, all) = (of(shipped)?, of(programs)?);
    let ours = shipped.files.into_iter().filter(|(path, _)| path.starts_with(sources));
    Ok(ours
        .map(|(path, file)| {
            let all = &all.files[&path].hits;
            let regions = file.hits.into_keys().map(|at| (all[&at], at));
            (path, regions.map(|(count, at)| (at, count)).collect())
        })
        .collect())
}

/// How often each line with code was run: the most of what begins on it, else what it is within.
fn by_line(regions: &BTreeMap<SourceLocation, usize>) -> BTreeMap<usize, usize> {
    let (mut lines, mut started) = (BTreeMap::new(), BTreeMap::new());
    let mut nested: Vec<_> = regions.iter().collect();
    // An inner region after the outer one.
    nested.sort_by_key(|(at, _)| {
        let end = Reverse((at.line_end, at.column_end));
        (at.line_start, at.column_start, end)
    });
    for (at, count) in nested {
        lines.extend((at.line_start..=at.line_end).map(|line| (line, *count)));
        let most = started.entry(at.line_start).or_default();
        *most = (*count).max(*most);
    }
    lines.extend(started);
    lines
}

/// The module below `src` that a file is of.
fn room_of(name: &Path) -> String {
    let first = name.iter().next().unwrap_or_default();
    Path::new(first).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The lines of which something was not run, that marked: `let it = ask()«?»;`.
fn not_run(name: &Path, regions: &BTreeMap<SourceLocation, usize>, text: &[&str]) -> String {
    let mut marks = BTreeMap::<usize, Vec<bool>>::new();
    for at in regions.iter().filter(|(_, count)| **count == 0).map(|(at, _)| at) {
        for number in at.line_start..=at.line_end {
            let length =
                number.checked_sub(1).and_then(|index| text.get(index)).map_or(0, |it| it.len());
            let from = if number == at.line_start { at.column_start - 1 } else { 0 };
            let to = if number == at.line_end { at.column_end - 1 } else { length };
            let marks = marks.entry(number).or_insert_with(|| vec![false; length]);
            marks.iter_mut().take(to).skip(from).for_each(|mark| *mark = true);
        }
    }
    let mut found = String::new();
    for (number, marks) in marks {
        found += &format!("{}:{number}: ", name.display());
        let mut open = false;
        for (index, letter) in text[number - 1].char_indices() {
            let marked = marks[index];
            if marked != open {
                found.push(if marked { '«' } else { '»' });
                open = marked;
            }
            found.push(letter);
        }
        found += if open { "»\n" } else { "\n" };
    }
    found
}

fn print(rooms: &BTreeMap<String, Room>) {
    println!("| room | lines | run | of 100 |\n|---|--:|--:|--:|");
    let mut all = Room::default();
    for (name, room) in rooms {
        println!("{}", row(name, room));
        all.lines += room.lines;
        all.run += room.run;
    }
    println!("{}", row("all", &all));
}

fn row(name: &str, room: &Room) -> String {
    let tenths = room.run * 1000 / room.lines.max(1);
    format!("| `{name}` | {} | {} | {}.{} |", room.lines, room.run, tenths / 10, tenths % 10)
}
