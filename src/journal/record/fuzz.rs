//! Properties of an intent's file that hold for any content.

use super::*;

/// Reads the bytes as a file, and then as the JSON of its lines. The first byte is the number of
/// lines with correct checksums.
pub(crate) fn journal_file(data: &[u8]) {
    file(data);
    let Some((right, lines)) = data.split_first() else { return };
    let (mut content, mut tail) = (Vec::new(), Tail::START);
    for (json, number) in lines.split(|byte| *byte == b'\n').zip(1_usize..) {
        tail = tail.after(json);
        let is_right = number <= usize::from(*right);
        let sum = if is_right { tail.sum } else { !tail.sum };
        content.extend(format!("{sum:016x} ").into_bytes());
        content.extend(json);
        content.push(b'\n');
    }
    let read = file(&content);
    let steps = read.map_or(0, |read| read.intent.steps.len());
    assert!(steps < usize::from(*right).max(1), "only what has right sums is followed");
}

/// Checks that a record ends at the end of a line, is the same without a torn end, accepts another
/// step, and is the same when it is written again.
fn file(content: &[u8]) -> Option<IntentRecord> {
    let limits = JournalLimits { steps: 8, ..JournalLimits::default() };
    let scope = Scope {
        libvirt_uri: "qemu:///system".to_owned(),
        store: "zfs".to_owned(),
        zpool: "mistify".to_owned(),
    };
    let read = match IntentRecord::read(content, &scope, &limits) {
        Ok(read) => read,
        Err(unfit) => {
            assert!(!unfit.to_string().contains('\n'), "{unfit}");
            return None;
        }
    };
    assert!(read.intent.steps.len() <= limits.steps);
    let whole = usize::try_from(read.tail.bytes).ok().and_then(|bytes| content.get(..bytes));
    let whole = whole.expect("it ends in the file");
    assert!(whole.ends_with(b"\n"));
    assert!(!content.get(whole.len()..).unwrap_or_default().contains(&b'\n'), "a torn end alone");
    assert_eq!(IntentRecord::read(whole, &scope, &limits).expect("the same file"), read);
    let step = Step::NetworkDefined("02:00:00:00:00:01".to_owned());
    let more = [whole, &read.tail.line(&step).0].concat();
    match IntentRecord::read(&more, &scope, &limits) {
        Ok(more) => {
            let before = more.intent.steps.strip_suffix(std::slice::from_ref(&step));
            assert_eq!(before, Some(read.intent.steps.as_slice()));
        }
        Err(unfit) => {
            assert!(matches!(unfit, InvalidIntent::Steps(8)) && read.intent.steps.len() == 8)
        }
    }
    let Intent { started, verb, guest, request, steps, .. } = &read.intent;
    let (mut again, header) = IntentRecord::begin(&scope, *started, *verb, guest, request);
    let mut lines = vec![header];
    for step in steps {
        let (line, tail) = again.tail.line(step);
        lines.push(line);
        again.tail = tail;
    }
    let again =
        IntentRecord::read(&lines.concat(), &scope, &limits).expect("what is written is read");
    assert_eq!(Intent { started: read.intent.started, ..again.intent }, read.intent);
    Some(read)
}
