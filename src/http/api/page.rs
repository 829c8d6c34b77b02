//! `GET /ui/`: a page that shows the host and its guests, and changes nothing.
//!
//! The page is one file that contains everything it needs. It calls only this agent, by the paths that
//! every caller has: `/rpc`, `/events` and `/healthz`. Every permitted caller gets it: the connection
//! was accepted before. The content comes in part from guests, so the page inserts everything as text,
//! and its policy forbids the browser to run or load anything else (Content Security Policy, level 3).

use rouille::{Response, ResponseBody};

/// The path of the page.
pub(super) const PATH: &str = "/ui/";
/// The path without its slash, as people may type it.
pub(super) const PATH_WITHOUT_SLASH: &str = "/ui";

const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width\">\n<title>mistify</title>\n",
    "<link rel=\"icon\" href=\"data:,\">\n<style>",
    include_str!("page/page.css"),
    "</style>\n</head>\n<body>\n",
    include_str!("page/page.html"),
    "<script>",
    include_str!("page/ask.js"),
    include_str!("page/host.js"),
    include_str!("page/guests.js"),
    include_str!("page/list.js"),
    include_str!("page/guest.js"),
    include_str!("page/events.js"),
    include_str!("page/keys.js"),
    "</script>\n</body>\n</html>\n",
);

/// The style and the script are named by their SHA-256; `page::policy_names_the_parts_of_the_page`
/// prints the new hashes after a change.
const POLICY: &str = "default-src 'none'; \
    style-src 'sha256-ipVwJAOB8CiVjyu6hpwDCqnUJqVt4DqCxy5HzFpoPwo='; \
    script-src 'sha256-6Tn0HYi6ENouNudVGLZ87C6CmnkLxNfggo+RToIktW4='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(&str, &str); 7] = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    // Not `no-referrer`: with that some browsers send `Origin: null`, which the guard refuses.
    ("Referrer-Policy", "same-origin"),
    // After an upgrade the agent may serve another page.
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];

/// Returns the page.
pub(super) fn page() -> Response {
    let headers = HEADERS.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Response {
        status_code: 200,
        headers: headers.collect(),
        data: ResponseBody::from_reader_and_size(PAGE.as_bytes(), PAGE.len()),
        upgrade: None,
    }
}
