//! Responses that several paths share.

use rouille::{Request, Response};

pub(super) const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const NOSNIFF: (&str, &str) = ("X-Content-Type-Options", "nosniff");

pub(super) fn only_read() -> Response {
    text(405, "method not allowed; use GET or HEAD").with_additional_header("Allow", "GET, HEAD")
}

/// Returns 404 with the text of the original.
pub(super) fn not_found() -> Response {
    text(404, "404 page not found\n").with_additional_header(NOSNIFF.0, NOSNIFF.1)
}

pub(super) fn is_read(request: &Request) -> bool {
    matches!(request.method(), "GET" | "HEAD")
}

pub(crate) fn text(code: u16, body: &str) -> Response {
    Response::from_data(TEXT, body).with_status_code(code)
}
