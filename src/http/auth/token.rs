//! The bearer token by which callers beyond this host authenticate.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::fixed::{TOKEN_BYTES, TOKEN_CHARS_MIN};
use crate::os::{files, process, users};

/// At most the owner may write the file and the group may read it.
const MODE_MAX: u32 = 0o640;

/// A token. It is never printed.
#[derive(Clone)]
pub(crate) struct Token {
    /// Padded with zeros, which no token contains.
    bytes: Box<[u8; TOKEN_BYTES]>,
    length: usize,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A token that cannot be read.
#[derive(Debug)]
pub struct TokenError {
    flag: &'static str,
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Read(io::Error),
    NoFile,
    Mode(u32),
    Owner(u32),
    Unreadable(u32),
    Long,
    Short,
    Characters,
}

// One line that contains its cause, and so without a `source`: it ends the start of the agent.
impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.flag, self.path.display())?;
        match &self.why {
            Why::Read(error) => write!(f, "{error}"),
            Why::NoFile => f.write_str("not a regular file"),
            Why::Mode(mode) => write!(f, "its mode is {mode:04o}; set it to 0600 or 0640"),
            Why::Owner(uid) => write!(f, "its owner is user {uid}; change it to root"),
            Why::Unreadable(user) => write!(
                f,
                "the agent's user {user} cannot read it; set its group to a group of that user and \
                 its mode to 0640"
            ),
            Why::Long => write!(f, "larger than {TOKEN_BYTES} bytes"),
            Why::Short => write!(
                f,
                "shorter than {TOKEN_CHARS_MIN} characters; create one with openssl rand -hex 32"
            ),
            Why::Characters => {
                f.write_str("not one line of letters, digits and -._~+/ (= at the end only)")
            }
        }
    }
}

impl std::error::Error for TokenError {}

impl Token {
    /// Reads the token, which is the only line of a file. `flag` is the option that names the file.
    ///
    /// # Errors
    /// When the file is not regular, users other than its owner may write it or users outside its
    /// group may read it, it belongs neither to root nor to the agent's user, or it holds no token.
    pub(crate) fn read(flag: &'static str, path: &Path) -> Result<Self, TokenError> {
        Self::read_as(process::user(), flag, path)
    }

    fn read_as(user: u32, flag: &'static str, path: &Path) -> Result<Self, TokenError> {
        let token = files::straight(OpenOptions::new().read(true)).open(path);
        let token = token.map_err(Why::Read).and_then(|file| {
            check(&file, user)?;
            Self::of_file(&file)
        });
        token.map_err(|why| TokenError { flag, path: path.to_owned(), why })
    }

    fn of_file(file: &File) -> Result<Self, Why> {
        let mut text = Vec::new();
        file.take(TOKEN_BYTES as u64 + 1).read_to_end(&mut text).map_err(Why::Read)?;
        if text.len() > TOKEN_BYTES {
            return Err(Why::Long);
        }
        let token = text.strip_suffix(b"\n").unwrap_or(&text);
        Self::new(token.strip_suffix(b"\r").unwrap_or(token))
    }

    /// Checks the syntax that RFC 6750 gives to a token.
    fn new(token: &[u8]) -> Result<Self, Why> {
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
        let end = token.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
        if !token.get(..end).unwrap_or_default().iter().all(is_allowed) {
            return Err(Why::Characters);
        }
        if token.len() < TOKEN_CHARS_MIN {
            return Err(Why::Short);
        }
        let mut bytes = Box::new([0; TOKEN_BYTES]);
        bytes.get_mut(..token.len()).ok_or(Why::Long)?.copy_from_slice(token);
        Ok(Self { bytes, length: token.len() })
    }

    /// Makes a token of this text.
    #[cfg(test)]
    pub(super) fn of_test(text: &str) -> Self {
        Self::new(text.as_bytes()).unwrap()
    }

    /// Returns whether `Authorization` carries this token. The time that it takes depends on what
    /// was sent, not on how much of that is right or how long the token is.
    pub(super) fn is_in(&self, authorization: &str) -> bool {
        let (scheme, offered) = authorization.split_once(' ').unwrap_or_default();
        let is_equal = self.is(offered.trim_start_matches(' ').as_bytes());
        // RFC 9110, section 11.1: the scheme is case-insensitive.
        scheme.eq_ignore_ascii_case("bearer") && is_equal
    }

    fn is(&self, offered: &[u8]) -> bool {
        let mut difference = u8::from(self.length != offered.len());
        let offered = offered.iter().copied().chain(std::iter::repeat(0));
        for (ours, theirs) in self.bytes.iter().zip(offered) {
            // Without `black_box` the compiler might end the loop at the first difference.
            difference = black_box(difference | (ours ^ theirs));
        }
        difference == 0
    }
}

/// Checks whether an agent that runs as this user would accept the file as its token.
///
/// # Errors
/// When it would not: the fault of the file.
pub fn look_at_token(user: u32, flag: &'static str, path: &Path) -> Result<(), TokenError> {
    let failed = |why| TokenError { flag, path: path.to_owned(), why };
    Token::read_as(user, flag, path)?;
    // A user that has just read the file can read it.
    if user == process::user() || user == 0 {
        return Ok(());
    }
    let found = path.metadata().map_err(|error| failed(Why::Read(error)))?;
    let is_of_group = || {
        found.mode() & 0o040 != 0
            && users::groups(user).is_ok_and(|groups| groups.contains(&found.gid()))
    };
    if found.uid() == user || is_of_group() { Ok(()) } else { Err(failed(Why::Unreadable(user))) }
}

/// Checks that only users who may know the token can read the file.
fn check(file: &File, user: u32) -> Result<(), Why> {
    let found = file.metadata().map_err(Why::Read)?;
    if !found.is_file() {
        return Err(Why::NoFile);
    }
    let mode = found.mode() & 0o7777;
    if mode & !MODE_MAX != 0 {
        return Err(Why::Mode(mode));
    }
    match found.uid() {
        0 => Ok(()),
        uid if uid == user => Ok(()),
        uid => Err(Why::Owner(uid)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const TEXT: &str = "aB3-._~+/aB3-._~+/0123==";

    /// A file with these bytes and this mode, removed on drop.
    struct Written(PathBuf);

    impl Written {
        fn new(bytes: &[u8], mode: u32) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("mistify-token-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            Self(path)
        }

        fn read(&self) -> Result<Token, TokenError> {
            Token::read("--token-file", &self.0)
        }

        fn error(&self) -> String {
            let error = self.read().unwrap_err().to_string();
            let start = format!("--token-file {}: ", self.0.display());
            error.strip_prefix(&start).unwrap().to_owned()
        }
    }

    impl Drop for Written {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap();
        }
    }

    #[test]
    fn the_whole_token_is_right_and_nothing_else() {
        let token = Token::of_test(TEXT);
        for authorization in ["Bearer ", "bearer ", "BEARER  "] {
            assert!(token.is_in(&format!("{authorization}{TEXT}")));
        }
        for wrong in [
            String::new(),
            TEXT.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Basic {TEXT}"),
            format!("Bearer{TEXT}"),
            format!("Bearer\t{TEXT}"),
            format!("Bearer {}", TEXT.to_lowercase()),
            format!("Bearer {}", &TEXT[..TEXT.len() - 1]),
            format!("Bearer {TEXT}="),
            format!("Bearer {TEXT} "),
            format!("Bearer {TEXT}\0"),
            format!("Bearer {TEXT}{}", "\0".repeat(TOKEN_BYTES - TEXT.len())),
            format!("Bearer {TEXT}{}x", "\0".repeat(TOKEN_BYTES - TEXT.len())),
            format!("Bearer {}", "x".repeat(10_000)),
        ] {
            assert!(!token.is_in(&wrong), "{wrong:?}");
        }
    }

    #[test]
    fn tokens_differ_in_any_character_at_any_length() {
        for length in [TOKEN_CHARS_MIN, 100, TOKEN_BYTES] {
            let text = "a".repeat(length);
            let token = Token::of_test(&text);
            assert!(token.is(text.as_bytes()));
            for at in 0..length {
                let mut other = text.clone().into_bytes();
                other[at] = b'b';
                assert!(!token.is(&other), "{at} of {length}");
            }
        }
    }

    #[test]
    fn token_is_one_line_of_a_file_others_cannot_read() {
        for (end, mode) in [("", 0o600), ("\n", 0o640), ("\r\n", 0o400), ("\n", 0o440)] {
            let written = Written::new(format!("{TEXT}{end}").as_bytes(), mode);
            assert!(written.read().unwrap().is(TEXT.as_bytes()), "{end:?} {mode:o}");
        }
        for mode in [0o644, 0o604, 0o660, 0o602, 0o700, 0o4600] {
            let error = Written::new(TEXT.as_bytes(), mode).error();
            assert!(error.starts_with(&format!("its mode is {mode:04o}; set it ")), "{error}");
        }
    }

    #[test]
    fn invalid_token_is_refused() {
        let cases = [
            (String::new(), "shorter than 22 characters"),
            ("\n".to_owned(), "shorter than 22 characters"),
            ("a".repeat(21), "shorter than 22 characters"),
            (format!("{TEXT}\n{TEXT}\n"), "not one line"),
            (format!("{TEXT}\n\n"), "not one line"),
            (format!(" {TEXT}"), "not one line"),
            (format!("{TEXT}=x"), "not one line"),
            (format!("{TEXT}\u{e9}"), "not one line"),
            ("a".repeat(513), "larger than 512 bytes"),
        ];
        for (text, expected) in cases {
            let error = Written::new(text.as_bytes(), 0o600).error();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
        assert!(Written::new("a".repeat(512).as_bytes(), 0o600).read().is_ok());
    }

    #[test]
    fn foreign_token_file_is_refused() {
        let error = |path: &str| Token::read("-t", Path::new(path)).unwrap_err().to_string();
        assert_eq!(error("/dev/null"), "-t /dev/null: not a regular file");
        assert_eq!(error("/"), "-t /: not a regular file");
        assert!(error("/nonexistent/token").contains("No such file"));
        let written = Written::new(TEXT.as_bytes(), 0o600);
        let link = written.0.with_extension("link");
        symlink(&written.0, &link).unwrap();
        assert!(Token::read("-t", &link).is_err(), "a link may come to lead elsewhere");
        fs::remove_file(&link).unwrap();
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", Token::of_test(TEXT)).contains("aB3"));
    }
}
