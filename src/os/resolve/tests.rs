use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
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
        resolve(&self.at(name), Trusted::own()).unwrap().real().to_owned()
    }

    /// What lies exposed on the way, below this folder.
    fn exposed(&self, name: &str) -> (PathBuf, String) {
        match resolve(&self.at(name), Trusted::own()).unwrap_err() {
            ResolveError::Exposed { path, by } => {
                (path.strip_prefix(&self.0).unwrap().to_owned(), by)
            }
            other => panic!("{name}: {other}"),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn links_are_followed_and_the_last_is_reported() {
    let folder = Folder::new();
    symlink("in", folder.at("folder")).unwrap();
    symlink(folder.at("folder/disk"), folder.at("disk")).unwrap();
    symlink("../disk", folder.at("in/again")).unwrap();
    for name in ["in/disk", "folder/disk", "disk", "in/again", "in/../folder/./disk"] {
        assert_eq!(folder.leads_to(name), folder.at("in/disk"), "{name}");
    }
    let Resolved::There { link, found, .. } =
        resolve(&folder.at("in/again"), Trusted::own()).unwrap()
    else {
        panic!("it is there");
    };
    assert_eq!(link, Some(folder.at("folder")));
    assert!(found.is_file());
}

#[test]
fn parent_directory_is_that_of_the_link_target() {
    let folder = Folder::new();
    fs::create_dir(folder.at("other")).unwrap();
    symlink(folder.at("in"), folder.at("other/link")).unwrap();
    assert_eq!(folder.leads_to("other/link/../in/disk"), folder.at("in/disk"));
    assert_eq!(resolve(Path::new("/../.."), Trusted::own()).unwrap().real(), Path::new("/"));
}

#[test]
fn missing_path_is_reported_with_its_place() {
    let folder = Folder::new();
    symlink("in/absent", folder.at("link")).unwrap();
    for (name, real) in [
        ("in/absent", "in/absent"),
        ("absent/a/b", "absent/a/b"),
        ("absent/../in/x", "in/x"),
        ("link", "in/absent"),
        ("in/disk/x", "in/disk/x"),
    ] {
        let place = resolve(&folder.at(name), Trusted::own()).unwrap();
        assert!(matches!(place, Resolved::Absent { .. }), "{name}");
        assert_eq!(place.real(), folder.at(real), "{name}");
    }
}

#[test]
fn directory_writable_by_others_is_exposed() {
    let folder = Folder::new();
    for (mode, by) in [(0o777, "all users"), (0o757, "all users"), (0o775, "group ")] {
        folder.make_mode("in", mode);
        for name in ["in/disk", "in/absent"] {
            let (path, found) = folder.exposed(name);
            assert_eq!(path, Path::new("in"), "{mode:o} {name}");
            assert!(found.starts_with(by), "{mode:o} {name}: {found}");
        }
    }
    symlink("in/disk", folder.at("link")).unwrap();
    assert_eq!(folder.exposed("link").0, Path::new("in"), "also behind a link");
    folder.make_mode("in", 0o755);
    assert_eq!(folder.leads_to("link"), folder.at("in/disk"));
}

#[test]
fn in_a_sticky_directory_only_own_entries_count() {
    let folder = Folder::new();
    folder.make_mode("in", 0o1777);
    assert_eq!(folder.leads_to("in/disk"), folder.at("in/disk"));
    let absent = (PathBuf::from("in/absent"), "all users".to_owned());
    assert_eq!(folder.exposed("in/absent"), absent, "whoever comes first makes it");
    if process::user() == 0 {
        std::os::unix::fs::lchown(folder.at("in/disk"), Some(65534), None).unwrap();
        let exposed = (PathBuf::from("in/disk"), "user 65534".to_owned());
        assert_eq!(folder.exposed("in/disk"), exposed);
    }
}

#[test]
fn foreign_directory_is_exposed_and_own_file_is_not() {
    let folder = Folder::new();
    if process::user() != 0 {
        return;
    }
    std::os::unix::fs::chown(folder.at("in/disk"), Some(65534), None).unwrap();
    assert_eq!(folder.leads_to("in/disk"), folder.at("in/disk"), "libvirt gives files to qemu");
    std::os::unix::fs::chown(folder.at("in"), Some(65534), None).unwrap();
    assert_eq!(folder.exposed("in/disk"), (PathBuf::from("in"), "user 65534".to_owned()));
}

#[test]
fn links_of_processes_are_not_followed() {
    for path in ["/proc/self/root/etc", "/proc/1/root/etc", "/dev/fd/0", "/proc/self/fd/0"] {
        let stray = resolve(Path::new(path), Trusted::own()).unwrap_err();
        assert!(matches!(stray, ResolveError::Exposed { .. }), "{path}: {stray}");
    }
}

#[test]
fn a_circle_ends() {
    let folder = Folder::new();
    symlink("b", folder.at("a")).unwrap();
    symlink("a", folder.at("b")).unwrap();
    assert!(
        resolve(&folder.at("a"), Trusted::own())
            .unwrap_err()
            .to_string()
            .ends_with(": too many symbolic links")
    );
}

#[test]
fn a_relative_path_leads_nowhere() {
    for path in ["", "a", "./a", "../a"] {
        assert!(
            matches!(resolve(Path::new(path), Trusted::own()), Err(ResolveError::Relative)),
            "{path}"
        );
    }
}

#[test]
fn a_path_below_a_directory_has_no_links() {
    let folder = Folder::new();
    symlink("in", folder.at("folder")).unwrap();
    symlink("disk", folder.at("in/link")).unwrap();
    let check = |relative: &str| check_below(&folder.0, Path::new(relative), Trusted::own());
    for relative in ["in/disk", "in/absent", "absent/a/b", "in/disk/x", "in/link", "folder"] {
        assert!(check(relative).is_ok(), "{relative}");
    }
    for (relative, link) in [("folder/disk", "folder"), ("in/link/x", "in/link")] {
        let error = check(relative).unwrap_err();
        let at = folder.at(link);
        assert!(matches!(&error, ResolveError::Link(path) if *path == at), "{relative}: {error}");
    }
}

#[test]
fn directories_below_belong_to_the_agent_alone() {
    let folder = Folder::new();
    let exposed = |relative: &str| match check_below(&folder.0, Path::new(relative), Trusted::own())
    {
        Err(ResolveError::Exposed { path, .. }) => path.strip_prefix(&folder.0).unwrap().to_owned(),
        other => panic!("{relative}: {other:?}"),
    };
    for mode in [0o777, 0o775, 0o1777] {
        folder.make_mode("in", mode);
        assert_eq!(exposed("in/disk"), Path::new("in"), "{mode:o}");
        assert!(
            check_below(&folder.0, Path::new("in"), Trusted::own()).is_ok(),
            "its own name is ours"
        );
    }
    folder.make_mode("in", 0o755);
    folder.make_mode("", 0o777);
    assert_eq!(exposed("in"), Path::new(""));
}

#[test]
fn no_link_of_another_user_is_followed_to_a_file() {
    let folder = Folder::new();
    if process::user() != 0 {
        return;
    }
    let open = |name: &str| open_foreign(&folder.at(name), Trusted::own());
    fs::write(folder.at("secret"), "secret").unwrap();
    symlink("in", folder.at("ours")).unwrap();
    symlink("../secret", folder.at("in/link")).unwrap();
    fs::create_dir(folder.at("in/below")).unwrap();
    fs::write(folder.at("in/below/disk"), "").unwrap();
    symlink("below", folder.at("in/side")).unwrap();
    assert!(open("in/link").is_ok(), "root's own");
    std::os::unix::fs::chown(folder.at("in"), Some(65534), None).unwrap();
    for name in ["in/disk", "ours/disk", "in/below/disk", "in/below/../disk"] {
        assert!(open(name).is_ok(), "{name}");
    }
    for name in ["in/link", "ours/link", "in/side/disk", "in/link/x"] {
        let error = open(name).unwrap_err().to_string();
        assert!(error.contains("links of other users are not followed"), "{name}: {error}");
    }
    assert_eq!(open("in/absent").unwrap_err().kind(), io::ErrorKind::NotFound);
    let known = open_foreign(&folder.at("in/link"), Trusted::with_agent(65534));
    assert!(known.is_ok(), "the agent's own user is trusted");
}
