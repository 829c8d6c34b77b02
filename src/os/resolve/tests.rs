use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mistify-resolve-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("in")).unwrap();
        fs::write(path.join("in/disk"), "").unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn make_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), Permissions::from_mode(mode)).unwrap();
    }

    fn leads_to(&self, name: &str) -> PathBuf {
        resolve(&self.at(name), TrustedUsers::own()).unwrap().real().to_owned()
    }

    /// Returns the exposed component, below this directory.
    fn exposed(&self, name: &str) -> (PathBuf, String) {
        match resolve(&self.at(name), TrustedUsers::own()).unwrap_err() {
            ResolveError::Exposed { path, by } => {
                (path.strip_prefix(&self.0).unwrap().to_owned(), by)
            }
            other => panic!("{name}: {other}"),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn links_are_followed_and_the_last_is_reported() {
    let directory = Directory::new();
    symlink("in", directory.at("folder")).unwrap();
    symlink(directory.at("folder/disk"), directory.at("disk")).unwrap();
    symlink("../disk", directory.at("in/again")).unwrap();
    for name in ["in/disk", "folder/disk", "disk", "in/again", "in/../folder/./disk"] {
        assert_eq!(directory.leads_to(name), directory.at("in/disk"), "{name}");
    }
    let Resolved::Found { link, found, .. } =
        resolve(&directory.at("in/again"), TrustedUsers::own()).unwrap()
    else {
        panic!("it is there");
    };
    assert_eq!(link, Some(directory.at("folder")));
    assert!(found.is_file());
}

#[test]
fn parent_directory_is_that_of_the_link_target() {
    let directory = Directory::new();
    fs::create_dir(directory.at("other")).unwrap();
    symlink(directory.at("in"), directory.at("other/link")).unwrap();
    assert_eq!(directory.leads_to("other/link/../in/disk"), directory.at("in/disk"));
    assert_eq!(resolve(Path::new("/../.."), TrustedUsers::own()).unwrap().real(), Path::new("/"));
}

#[test]
fn missing_path_is_reported_with_its_place() {
    let directory = Directory::new();
    symlink("in/absent", directory.at("link")).unwrap();
    for (name, real) in [
        ("in/absent", "in/absent"),
        ("absent/a/b", "absent/a/b"),
        ("absent/../in/x", "in/x"),
        ("link", "in/absent"),
        ("in/disk/x", "in/disk/x"),
    ] {
        let place = resolve(&directory.at(name), TrustedUsers::own()).unwrap();
        assert!(matches!(place, Resolved::Absent { .. }), "{name}");
        assert_eq!(place.real(), directory.at(real), "{name}");
    }
}

#[test]
fn directory_writable_by_others_is_exposed() {
    let directory = Directory::new();
    for (mode, by) in [(0o777, "all users"), (0o757, "all users"), (0o775, "group ")] {
        directory.make_mode("in", mode);
        for name in ["in/disk", "in/absent"] {
            let (path, found) = directory.exposed(name);
            assert_eq!(path, Path::new("in"), "{mode:o} {name}");
            assert!(found.starts_with(by), "{mode:o} {name}: {found}");
        }
    }
    symlink("in/disk", directory.at("link")).unwrap();
    assert_eq!(directory.exposed("link").0, Path::new("in"), "also behind a link");
    directory.make_mode("in", 0o755);
    assert_eq!(directory.leads_to("link"), directory.at("in/disk"));
}

#[test]
fn in_a_sticky_directory_only_own_entries_count() {
    let directory = Directory::new();
    directory.make_mode("in", 0o1777);
    assert_eq!(directory.leads_to("in/disk"), directory.at("in/disk"));
    let absent = (PathBuf::from("in/absent"), "all users".to_owned());
    assert_eq!(directory.exposed("in/absent"), absent, "the first program makes it");
    if process::user() == 0 {
        std::os::unix::fs::lchown(directory.at("in/disk"), Some(65534), None).unwrap();
        let exposed = (PathBuf::from("in/disk"), "user 65534".to_owned());
        assert_eq!(directory.exposed("in/disk"), exposed);
    }
}

#[test]
fn foreign_directory_is_exposed_and_own_file_is_not() {
    let directory = Directory::new();
    if process::user() != 0 {
        return;
    }
    std::os::unix::fs::chown(directory.at("in/disk"), Some(65534), None).unwrap();
    assert_eq!(
        directory.leads_to("in/disk"),
        directory.at("in/disk"),
        "libvirt gives files to qemu"
    );
    std::os::unix::fs::chown(directory.at("in"), Some(65534), None).unwrap();
    assert_eq!(directory.exposed("in/disk"), (PathBuf::from("in"), "user 65534".to_owned()));
}

#[test]
fn links_of_processes_are_not_followed() {
    for path in ["/proc/self/root/etc", "/proc/1/root/etc", "/dev/fd/0", "/proc/self/fd/0"] {
        let stray = resolve(Path::new(path), TrustedUsers::own()).unwrap_err();
        assert!(matches!(stray, ResolveError::Exposed { .. }), "{path}: {stray}");
    }
}

#[test]
fn a_circle_ends() {
    let directory = Directory::new();
    symlink("b", directory.at("a")).unwrap();
    symlink("a", directory.at("b")).unwrap();
    assert!(
        resolve(&directory.at("a"), TrustedUsers::own())
            .unwrap_err()
            .to_string()
            .ends_with(": too many symbolic links")
    );
}

#[test]
fn a_relative_path_leads_nowhere() {
    for path in ["", "a", "./a", "../a"] {
        assert!(
            matches!(resolve(Path::new(path), TrustedUsers::own()), Err(ResolveError::Relative)),
            "{path}"
        );
    }
}

#[test]
fn a_path_below_a_directory_has_no_links() {
    let directory = Directory::new();
    symlink("in", directory.at("folder")).unwrap();
    symlink("disk", directory.at("in/link")).unwrap();
    let check =
        |relative: &str| check_below(&directory.0, Path::new(relative), TrustedUsers::own());
    for relative in ["in/disk", "in/absent", "absent/a/b", "in/disk/x", "in/link", "folder"] {
        assert!(check(relative).is_ok(), "{relative}");
    }
    for (relative, link) in [("folder/disk", "folder"), ("in/link/x", "in/link")] {
        let error = check(relative).unwrap_err();
        let at = directory.at(link);
        assert!(matches!(&error, ResolveError::Link(path) if *path == at), "{relative}: {error}");
    }
}

#[test]
fn directories_below_belong_to_the_agent_alone() {
    let directory = Directory::new();
    let exposed = |relative: &str| match check_below(
        &directory.0,
        Path::new(relative),
        TrustedUsers::own(),
    ) {
        Err(ResolveError::Exposed { path, .. }) => {
            path.strip_prefix(&directory.0).unwrap().to_owned()
        }
        other => panic!("{relative}: {other:?}"),
    };
    for mode in [0o777, 0o775, 0o1777] {
        directory.make_mode("in", mode);
        assert_eq!(exposed("in/disk"), Path::new("in"), "{mode:o}");
        assert!(
            check_below(&directory.0, Path::new("in"), TrustedUsers::own()).is_ok(),
            "its own name is ours"
        );
    }
    directory.make_mode("in", 0o755);
    directory.make_mode("", 0o777);
    assert_eq!(exposed("in"), Path::new(""));
}

#[test]
fn no_link_of_another_user_is_followed_to_a_file() {
    let directory = Directory::new();
    if process::user() != 0 {
        return;
    }
    let open = |name: &str| open_foreign(&directory.at(name), TrustedUsers::own());
    fs::write(directory.at("secret"), "secret").unwrap();
    symlink("in", directory.at("ours")).unwrap();
    symlink("../secret", directory.at("in/link")).unwrap();
    fs::create_dir(directory.at("in/below")).unwrap();
    fs::write(directory.at("in/below/disk"), "").unwrap();
    symlink("below", directory.at("in/side")).unwrap();
    assert!(open("in/link").is_ok(), "root's own");
    std::os::unix::fs::chown(directory.at("in"), Some(65534), None).unwrap();
    for name in ["in/disk", "ours/disk", "in/below/disk", "in/below/../disk"] {
        assert!(open(name).is_ok(), "{name}");
    }
    for name in ["in/link", "ours/link", "in/side/disk", "in/link/x"] {
        let error = open(name).unwrap_err().to_string();
        assert!(error.contains("links of other users are not followed"), "{name}: {error}");
    }
    assert_eq!(open("in/absent").unwrap_err().kind(), io::ErrorKind::NotFound);
    let known = open_foreign(&directory.at("in/link"), TrustedUsers::with_agent(65534));
    assert!(known.is_ok(), "the agent's own user is trusted");
}
