//! Paths without `.`, `..` and links, for comparisons.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Removes `.` and `..` from an absolute path, as if it had no links; `None` for a relative or empty path.
pub fn lexically_normal(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() {
        return None;
    }
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            // At the root, `..` is the root again.
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    Some(normal)
}

/// Resolves the links of a path. If the path does not exist, resolves those of its directory; if the directory does not
/// exist either, the path is [`lexically_normal`] below the last existing directory.
///
/// # Blocking
/// As long as the file systems in the path take: only for worker threads.
pub fn resolved(path: &Path) -> PathBuf {
    let in_directory = || Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    let found = fs::canonicalize(path).ok().or_else(in_directory);
    let below = || {
        let normal = lexically_normal(path)?;
        let resolve = |above: &Path| {
            Some(fs::canonicalize(above).ok()?.join(normal.strip_prefix(above).ok()?))
        };
        normal.ancestors().find_map(resolve)
    };
    found.or_else(below).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &str) -> Option<String> {
        lexically_normal(Path::new(path)).map(|path| path.display().to_string())
    }

    #[test]
    fn dots_and_doubled_slashes_are_removed() {
        assert_eq!(normal("/a/./b//c/../d/").as_deref(), Some("/a/b/d"));
        assert_eq!(normal("/../../a").as_deref(), Some("/a"));
        assert_eq!(normal("/a/..").as_deref(), Some("/"));
    }

    #[test]
    fn a_relative_path_is_none() {
        for path in ["", "a", "./a", "../a", "dev/zvol"] {
            assert_eq!(normal(path), None, "{path}");
        }
    }

    #[test]
    fn an_absent_files_directory_is_resolved() {
        let link = Path::new("/proc/self/root/absent-file");
        assert_eq!(resolved(link), Path::new("/absent-file"));
        assert_eq!(resolved(Path::new("/absent/../absent-file")), Path::new("/absent-file"));
        let deep = Path::new("/proc/self/root/absent/./deep/file");
        assert_eq!(resolved(deep), Path::new("/absent/deep/file"));
    }
}
