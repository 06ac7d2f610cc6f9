//! Where the records of a JSON file begin and end: one to a line, one after the other, or the items of one array.

use memchr::{memchr2, memchr3};

/// A record of more bytes than this is refused: it is whole in memory.
const MAX_RECORD: usize = 512 << 20;

/// How the records of a file stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One to a line, so that a file can be read from any line on.
    Lines,
    /// One after the other, over lines of their own.
    Objects,
    /// The items of one array.
    Array,
}

/// Cuts a file's bytes, as they come, into records.
#[derive(Debug)]
pub(super) struct Framing {
    /// What came and is not yet cut, from the first byte of a record on if one has begun.
    pending: Vec<u8>,
    /// Of `pending`, bytes that were looked at.
    scanned: usize,
    /// Of the first byte of `pending`, in the file.
    offset: u64,
    /// Brackets that are open within the record.
    depth: usize,
    in_string: bool,
    /// Whether a record has gone on after the end of a line.
    spans_lines: bool,
    /// Whether the records are an array's, once something came.
    is_array: Option<bool>,
    /// Whether the array has ended.
    ended: bool,
    /// Whether nothing came yet.
    is_start: bool,
}

/// A record's bytes, and where they begin in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub text: &'a [u8],
    pub offset: u64,
}

impl Framing {
    /// For a file's bytes from `offset` on, which is the start of a line unless it is 0.
    pub(super) fn from(offset: u64) -> Self {
        Self {
            pending: Vec::new(),
            scanned: 0,
            offset,
            depth: 0,
            in_string: false,
            spans_lines: false,
            is_array: (offset > 0).then_some(false),
            ended: false,
            is_start: offset == 0,
        }
    }

    /// How the records stand that were cut.
    pub(super) fn form(&self) -> Form {
        match self.is_array {
            Some(true) => Form::Array,
            _ if self.spans_lines => Form::Objects,
            _ => Form::Lines,
        }
    }

    /// Takes more bytes and gives the records that end in them to `each`, which says whether it wants more.
    ///
    /// # Errors
    /// When something else stands between the records, or `each` fails.
    pub(super) fn push<E: From<String>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Record<'_>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        self.pending.extend_from_slice(bytes);
        if self.is_start {
            // A byte order mark.
            const MARK: &[u8] = b"\xef\xbb\xbf";
            if self.pending.len() < MARK.len() && MARK.starts_with(&self.pending) {
                return Ok(true);
            }
            self.is_start = false;
            if self.pending.starts_with(MARK) {
                self.pending.drain(..MARK.len());
                self.offset += MARK.len() as u64;
            }
        }
        let mut begin = 0;
        let mut wants_more = true;
        while wants_more {
            if self.depth == 0 {
                let Some(at) = self.next_record(self.scanned)? else {
                    begin = self.pending.len();
                    self.scanned = begin;
                    break;
                };
                begin = at;
                self.scanned = at;
            }
            let Some(end) = self.record_end() else {
                break;
            };
            let text = &self.pending[begin..end];
            let offset = self.offset + begin as u64;
            wants_more = each(Record { text, offset })?;
            begin = end;
        }
        self.pending.drain(..begin);
        self.scanned -= begin;
        self.offset += begin as u64;
        if self.pending.len() > MAX_RECORD {
            return Err(E::from(format!(
                "the record that begins at byte {} has more than {MAX_RECORD} bytes",
                self.offset
            )));
        }
        Ok(wants_more)
    }

    /// Says that all bytes came.
    ///
    /// # Errors
    /// When a record or the array has not ended.
    pub(super) fn end(&self) -> Result<(), String> {
        if self.depth > 0 || self.in_string {
            return Err(format!(
                "the record that begins at byte {} has no end",
                self.offset
            ));
        }
        if self.is_array == Some(true) && !self.ended {
            return Err("the array has no end".into());
        }
        if self.is_start && !self.pending.is_empty() {
            return Err("it is not JSON".into());
        }
        Ok(())
    }

    /// Where the next record begins in `pending`, from `at` on.
    fn next_record(&mut self, at: usize) -> Result<Option<usize>, String> {
        for (at, byte) in self.pending.iter().enumerate().skip(at) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                b'[' if self.is_array.is_none() => self.is_array = Some(true),
                b',' if self.is_array == Some(true) && !self.ended => {}
                b']' if self.is_array == Some(true) && !self.ended => self.ended = true,
                b'{' if !self.ended => {
                    self.is_array.get_or_insert(false);
                    return Ok(Some(at));
                }
                _ => {
                    let found = self.pending[at..].split(u8::is_ascii_whitespace).next();
                    let found = found.unwrap_or_default();
                    let found = String::from_utf8_lossy(&found[..found.len().min(20)]);
                    let offset = self.offset + at as u64;
                    return Err(format!(
                        "'{found}' at byte {offset}; accepted: objects, one to a line or in one array"
                    ));
                }
            }
        }
        Ok(None)
    }

    /// Where the record ends that has begun, if that came.
    fn record_end(&mut self) -> Option<usize> {
        let bytes = &self.pending;
        let mut at = self.scanned;
        loop {
            let rest = &bytes[at.min(bytes.len())..];
            if self.in_string {
                match memchr2(b'"', b'\\', rest) {
                    None => at = bytes.len(),
                    Some(found) if rest[found] == b'"' => {
                        self.in_string = false;
                        at += found + 1;
                        continue;
                    }
                    Some(found) if at + found + 1 < bytes.len() => {
                        at += found + 2;
                        continue;
                    }
                    // What is escaped comes with the next bytes.
                    Some(found) => at += found,
                }
                self.scanned = at;
                return None;
            }
            let quote_or_bracket = memchr3(b'"', b'{', b'}', rest);
            let before = &rest[..quote_or_bracket.unwrap_or(rest.len())];
            if !self.spans_lines && memchr::memchr(b'\n', before).is_some() {
                self.spans_lines = true;
            }
            let Some(found) = quote_or_bracket else {
                self.scanned = bytes.len();
                return None;
            };
            at += found + 1;
            match rest[found] {
                b'"' => self.in_string = true,
                b'{' => self.depth += 1,
                _ => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.scanned = at;
                        return Some(at);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records, form and error of a text that comes in pieces of so many bytes.
    fn cut(text: &str, piece: usize) -> (Vec<(u64, String)>, Form, Option<String>) {
        let mut framing = Framing::from(0);
        let mut records = Vec::new();
        let mut error = None;
        for bytes in text.as_bytes().chunks(piece) {
            let pushed = framing.push::<String>(bytes, |record| {
                records.push((
                    record.offset,
                    String::from_utf8(record.text.to_vec()).unwrap(),
                ));
                Ok(true)
            });
            if let Err(reason) = pushed {
                error = Some(reason);
                break;
            }
        }
        let error = error.or_else(|| framing.end().err());
        (records, framing.form(), error)
    }

    #[test]
    fn records_in_pieces_of_any_length() {
        let escaped = r#"{"a": "}\"{\\", "b": [{"c": {}}]}"#;
        let spread = "{\n \"a\":\n 1}";
        for (text, form, expected) in [
            (
                "{\"a\":1}\n{\"b\":2}",
                Form::Lines,
                vec!["{\"a\":1}", "{\"b\":2}"],
            ),
            ("\u{feff}{\"a\":1}\r\n\r\n", Form::Lines, vec!["{\"a\":1}"]),
            (" [ ] ", Form::Array, vec![]),
            (
                "[{},\n{\"a\":[1]} ]\n",
                Form::Array,
                vec!["{}", "{\"a\":[1]}"],
            ),
            (escaped, Form::Lines, vec![escaped]),
            (spread, Form::Objects, vec![spread]),
        ] {
            for piece in 1..=text.len() {
                let (records, found, error) = cut(text, piece);
                assert_eq!(error, None, "{text} in {piece}");
                assert_eq!(found, form, "{text} in {piece}");
                let texts: Vec<_> = records.iter().map(|(_, text)| text.as_str()).collect();
                assert_eq!(texts, expected, "{text} in {piece}");
                for (offset, record) in &records {
                    assert!(text[*offset as usize..].starts_with(record), "{text}");
                }
            }
        }
        assert_eq!(cut("", 1), (vec![], Form::Lines, None));
    }

    #[test]
    fn what_is_no_record_is_named() {
        for (text, reason) in [
            ("5\n", "'5' at byte 0"),
            ("\"a\"", "'\"a\"' at byte 0"),
            ("{}\n[{}]", "'[{}]' at byte 3"),
            ("[1, 2]", "'1,' at byte 1"),
            ("[{}] x", "'x' at byte 5"),
            ("{\"a\": 1", "begins at byte 0 has no end"),
            ("{}\n{\"a\": \"", "begins at byte 3 has no end"),
            ("[{}", "the array has no end"),
            ("{},{}", "',{}' at byte 2"),
        ] {
            for piece in [1, 2, text.len()] {
                let error = cut(text, piece).2.unwrap();
                // What is shown may have come in part.
                let known = reason.split(' ').skip(1).collect::<Vec<_>>().join(" ");
                assert!(error.contains(&known), "{text} in {piece}: {error}");
            }
            assert!(cut(text, text.len()).2.unwrap().contains(reason), "{text}");
        }
    }
}
