//! Properties of the framing that hold for every input.

use super::*;

/// Small limits, so that short inputs reach them.
fn limits() -> HttpLimits {
    HttpLimits { head_bytes: 512, headers: 8, body_bytes: 64, ..HttpLimits::default() }
}

/// Returns the requests in these pieces, and the refusal that ended them.
fn requests<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: &HttpLimits,
) -> (Vec<Request>, Option<Refusal>) {
    let mut parser = Parser::default();
    let (mut requests, mut judged) = (Vec::new(), Vec::new());
    for piece in pieces {
        parser.push(piece);
        loop {
            let judge = |request: &Request| {
                judged.push(request.clone());
                Ok(())
            };
            match parser.next(limits, judge) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(refusal) => return (requests, Some(refusal)),
            }
        }
        assert!(parser.buffer.len() < limits.head_bytes, "less than a head is left");
        assert!(parser.has_started() == (parser.pending.is_some() || !parser.buffer.is_empty()));
        assert!(judged.len() == requests.len() + usize::from(parser.pending.is_some()));
    }
    for (request, judged) in requests.iter().zip(&judged) {
        assert!(judged.body.is_empty(), "judged before its body");
        assert_eq!(Request { body: Vec::new(), ..request.clone() }, *judged);
    }
    (requests, None)
}

/// Returns the values of a header.
fn values<'r>(request: &'r Request, name: &str) -> Vec<&'r str> {
    let headers = request.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
    headers.map(|(_, value)| value.as_str()).collect()
}

/// Returns the request as a plain client would send it.
fn written(request: &Request) -> Vec<u8> {
    let minor = if request.version == Version::Http11 { 1 } else { 0 };
    let mut bytes = format!("{} {} HTTP/1.{minor}\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    if values(request, "transfer-encoding").is_empty() {
        bytes.extend(&request.body);
        return bytes;
    }
    for byte in &request.body {
        bytes.extend([b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Parses the bytes after the first, which determines how they are split. Every split must give the
/// same requests. Each request must be within the limits, framed as its headers say, and parsed to
/// the same request when it is written again.
pub(crate) fn framing(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let limits = limits();
    let (whole, refusal) = requests([bytes], &limits);
    let pieces = bytes.chunks(usize::from(cut % 37) + 1);
    assert_eq!(requests(pieces, &limits), (whole.clone(), refusal), "however it is cut");
    let mut sent = Vec::new();
    for request in &whole {
        assert!(head::is_token(request.method.as_bytes()));
        assert!(request.target == "*" || request.target.starts_with('/'));
        assert!(request.target.bytes().all(|byte| byte.is_ascii_graphic()));
        // One header more for the authority in a target.
        assert!(request.headers.len() <= limits.headers + 1);
        assert!(request.headers.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])));
        assert!(request.body.len() <= limits.body_bytes);
        assert!(values(request, "host").len() <= 1);
        let lengths = values(request, "content-length");
        if values(request, "transfer-encoding").is_empty() {
            let length = lengths.first().map_or(Ok(0), |length| length.parse());
            assert_eq!(length, Ok(request.body.len()), "the length that was announced");
        } else {
            assert!(lengths.is_empty() && request.version == Version::Http11);
        }
        sent.extend(written(request));
    }
    // An invalid UTF-8 byte takes three bytes when it is written again.
    let wider = HttpLimits {
        head_bytes: 3 * limits.head_bytes + 64,
        headers: limits.headers + 1,
        ..limits
    };
    assert_eq!(requests([sent.as_slice()], &wider), (whole, None), "written again");
}
