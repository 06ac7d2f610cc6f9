//! From a template's source to tokens, after `jinja2/lexer.py` with block trimming on.

use super::error::{Error, Result};

/// A token with its line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub line: u32,
    pub kind: TokenKind,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// Text outside of tags.
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// Whether Python's `str.isspace` holds, which `\s` of its regular expressions is too.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Which of the three line ends jinja2 reads becomes `\n`, and one at the end of all goes.
fn with_newlines(source: &str) -> String {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// Reads a template's tokens, the last of which is [`TokenKind::End`].
///
/// # Errors
/// When a tag or a literal is not closed or not valid.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>> {
    let source = with_newlines(source);
    let mut lexer = Lexer {
        source: &source,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    lexer.read()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    tokens: Vec<Token>,
}

/// The sign after a tag's beginning.
#[derive(Clone, Copy, PartialEq)]
enum Sign {
    None,
    Minus,
    Plus,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: TokenKind) {
        self.tokens.push(Token {
            line: self.line,
            kind,
        });
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count() as u32;
        self.at += bytes;
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        let bytes = rest.len() - rest.trim_start_matches(is_space).len();
        self.advance(bytes);
    }

    fn skip_newline(&mut self) {
        if self.rest().starts_with('\n') {
            self.advance(1);
        }
    }

    fn read(&mut self) -> Result<()> {
        loop {
            let begin = self.rest().match_indices('{').find(|(at, _)| {
                let after = self.rest().as_bytes().get(at + 1);
                matches!(after, Some(b'{' | b'%' | b'#'))
            });
            let Some((length, _)) = begin else {
                if !self.rest().is_empty() {
                    let text = self.rest().to_owned();
                    self.push(TokenKind::Data(text));
                    let bytes = self.rest().len();
                    self.advance(bytes);
                }
                self.push(TokenKind::End);
                return Ok(());
            };
            let tag = self.source.as_bytes()[self.at + length + 1];
            let sign = self.sign(self.at + length + 2);
            self.data(length, sign, tag == b'{');
            let begins_at = self.line;
            let marks = 2 + usize::from(sign != Sign::None);
            match tag {
                b'#' => {
                    self.advance(marks);
                    self.comment(begins_at)?;
                }
                b'{' => {
                    self.push(TokenKind::VariableBegin);
                    self.advance(marks);
                    self.tag("}}", TokenKind::VariableEnd, begins_at)?;
                }
                _ => match self.raw_begins(marks) {
                    Some(bytes) => {
                        self.advance(bytes);
                        self.raw(begins_at)?;
                    }
                    None => {
                        self.push(TokenKind::BlockBegin);
                        self.advance(marks);
                        self.tag("%}", TokenKind::BlockEnd, begins_at)?;
                    }
                },
            }
        }
    }

    fn sign(&self, at: usize) -> Sign {
        match self.source.as_bytes().get(at) {
            Some(b'-') => Sign::Minus,
            Some(b'+') => Sign::Plus,
            _ => Sign::None,
        }
    }

    /// The text before a tag, without the spaces that the tag takes.
    fn data(&mut self, length: usize, sign: Sign, is_variable: bool) {
        let text = &self.rest()[..length];
        let is_at_line_start = self.at == 0 || self.source[..self.at].ends_with('\n');
        let kept = match sign {
            Sign::Minus => text.trim_end_matches(is_space),
            Sign::None if !is_variable => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let has_start = line > 0 || is_at_line_start;
                match has_start && text[line..].chars().all(is_space) {
                    true => &text[..line],
                    false => text,
                }
            }
            _ => text,
        };
        if !kept.is_empty() {
            let kept = kept.to_owned();
            self.push(TokenKind::Data(kept));
        }
        self.advance(length);
    }

    fn comment(&mut self, begins_at: u32) -> Result<()> {
        let Some(length) = self.rest().find("#}") else {
            return Err(Error::at(begins_at, "a comment is not closed"));
        };
        // A sign before the end is part of it.
        let sign = match self.source[..self.at + length].ends_with('-') && length > 0 {
            true => Sign::Minus,
            false if length > 0 && self.source[..self.at + length].ends_with('+') => Sign::Plus,
            false => Sign::None,
        };
        self.advance(length + 2);
        match sign {
            Sign::Minus => self.skip_spaces(),
            Sign::None => self.skip_newline(),
            Sign::Plus => {}
        }
        Ok(())
    }

    /// The length of `{% raw %}`, if that is here.
    fn raw_begins(&self, marks: usize) -> Option<usize> {
        let tag = &self.rest()[marks..];
        let tag = tag.trim_start_matches(is_space).strip_prefix("raw")?;
        let tag = tag.trim_start_matches(is_space);
        let after = match tag.strip_prefix("-%}") {
            Some(after) => after.trim_start_matches(is_space),
            None => tag.strip_prefix("%}")?,
        };
        Some(self.rest().len() - after.len())
    }

    fn raw(&mut self, begins_at: u32) -> Result<()> {
        let ends = self.rest().match_indices("{%").find_map(|(length, _)| {
            let sign = self.sign(self.at + length + 2);
            let marks = 2 + usize::from(sign != Sign::None);
            let tag = &self.rest()[length + marks..];
            let tag = tag.trim_start_matches(is_space).strip_prefix("endraw")?;
            let tag = tag.trim_start_matches(is_space);
            let after = if let Some(after) = tag.strip_prefix("-%}") {
                after.trim_start_matches(is_space)
            } else if let Some(after) = tag.strip_prefix("+%}") {
                after
            } else {
                let after = tag.strip_prefix("%}")?;
                after.strip_prefix('\n').unwrap_or(after)
            };
            Some((length, sign, self.rest().len() - after.len()))
        });
        let Some((length, sign, bytes)) = ends else {
            return Err(Error::at(begins_at, "a raw block is not closed"));
        };
        self.data(length, sign, false);
        self.advance(bytes - length);
        Ok(())
    }

    /// The tokens of a tag, to its end.
    fn tag(&mut self, end: &'static str, kind: TokenKind, begins_at: u32) -> Result<()> {
        let mut open: Vec<&str> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(Error::at(begins_at, "a tag is not closed"));
            };
            if open.is_empty() {
                let unsigned = rest.strip_prefix('-').unwrap_or(rest);
                let is_block = kind == TokenKind::BlockEnd;
                let signed = is_block && rest.starts_with("+%}");
                if unsigned.starts_with(end) || signed {
                    let has_minus = rest.len() != unsigned.len();
                    self.push(kind.clone());
                    let marks = end.len() + usize::from(has_minus || signed);
                    self.advance(marks);
                    if has_minus {
                        self.skip_spaces();
                    } else if is_block && !signed {
                        self.skip_newline();
                    }
                    return Ok(());
                }
            }
            if is_space(first) {
                self.skip_spaces();
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first == '_' || first.is_alphanumeric() {
                self.name()?;
            } else if first == '"' || first == '\'' {
                self.string(first)?;
            } else {
                self.operator(first, &mut open)?;
            }
        }
    }

    fn operator(&mut self, first: char, open: &mut Vec<&'static str>) -> Result<()> {
        let rest = self.rest();
        let found = OPERATORS.iter().find(|one| rest.starts_with(**one));
        let Some(operator) = found else {
            return Err(Error::at(self.line, format!("unexpected '{first}'")));
        };
        match *operator {
            "{" => open.push("}"),
            "(" => open.push(")"),
            "[" => open.push("]"),
            "}" | ")" | "]" if open.pop() != Some(operator) => {
                return Err(Error::at(self.line, format!("unexpected '{operator}'")));
            }
            _ => {}
        }
        self.push(TokenKind::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn name(&mut self) -> Result<()> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c == '_' || c.is_alphanumeric()))
            .unwrap_or(rest.len());
        let name = rest[..length].to_owned();
        if !name.is_ascii() {
            return Err(Error::at(
                self.line,
                format!("the name '{name}'; accepted: ASCII letters, digits and _"),
            ));
        }
        self.push(TokenKind::Name(name));
        self.advance(length);
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let (length, kind) = match float_length(rest, self.source[..self.at].ends_with('.')) {
            Some(length) => {
                let digits = rest[..length].replace('_', "");
                let value = digits.parse::<f64>().map_err(|error| {
                    Error::at(self.line, format!("the number {digits}: {error}"))
                })?;
                (length, TokenKind::Float(value))
            }
            None => {
                let (length, value) = integer(rest);
                let value = value.ok_or_else(|| {
                    Error::at(
                        self.line,
                        format!("the number {}; accepted: up to 127 bits", &rest[..length]),
                    )
                })?;
                (length, TokenKind::Int(value))
            }
        };
        self.push(kind);
        self.advance(length);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let inside = &self.rest()[1..];
        let mut is_escaped = false;
        let end = inside.char_indices().find(|(_, c)| {
            let ends = !is_escaped && *c == quote;
            is_escaped = !is_escaped && *c == '\\';
            ends
        });
        let Some((length, _)) = end else {
            return Err(Error::at(self.line, "a string is not closed"));
        };
        let text = unescaped(&inside[..length]).map_err(|error| error.or_at(self.line))?;
        self.push(TokenKind::Str(text));
        self.advance(length + 2);
        Ok(())
    }
}

/// The length of digits with single `_` between them.
fn digits(text: &str, radix: u32) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| {
        let byte = bytes.get(at);
        byte.is_some_and(|byte| char::from(*byte).is_digit(radix))
    };
    let mut length = 0;
    loop {
        if is_digit(length) {
            length += 1;
        } else if length > 0 && bytes.get(length) == Some(&b'_') && is_digit(length + 1) {
            length += 2;
        } else {
            return length;
        }
    }
}

/// The length of a number with a fraction or an exponent.
fn float_length(text: &str, follows_dot: bool) -> Option<usize> {
    if follows_dot {
        return None;
    }
    let whole = digits(text, 10);
    let fraction = match text[whole..].strip_prefix('.') {
        Some(after) if digits(after, 10) > 0 => 1 + digits(after, 10),
        _ => 0,
    };
    let length = whole + fraction;
    let exponent = text[length..].strip_prefix(['e', 'E']).map(|after| {
        let unsigned = after.strip_prefix(['+', '-']).unwrap_or(after);
        let count = digits(unsigned, 10);
        (count > 0).then_some(1 + after.len() - unsigned.len() + count)
    });
    match exponent.flatten() {
        Some(exponent) => Some(length + exponent),
        None => (fraction > 0).then_some(length),
    }
}

/// The length of an integer, and its value if that is not too large.
fn integer(text: &str) -> (usize, Option<i128>) {
    let based = [("b", 2), ("o", 8), ("x", 16)]
        .into_iter()
        .find_map(|(mark, radix)| {
            let after = text.strip_prefix('0')?;
            let after = after
                .strip_prefix(mark)
                .or_else(|| after.strip_prefix(&mark.to_ascii_uppercase()[..]))?;
            let after_sign = after.strip_prefix('_').unwrap_or(after);
            let count = digits(after_sign, radix);
            let skipped = 2 + after.len() - after_sign.len();
            (count > 0).then_some((skipped, count, radix))
        });
    let (start, count, radix) = based.unwrap_or_else(|| match text.starts_with('0') {
        // Zeros are a number of their own.
        true => {
            let zeros = text.find(|c| c != '0' && c != '_').unwrap_or(text.len());
            (0, digits(&text[..zeros], 10), 10)
        }
        false => (0, digits(text, 10), 10),
    });
    let digits = text[start..start + count].replace('_', "");
    (start + count, i128::from_str_radix(&digits, radix).ok())
}

/// A string literal's text, by the escapes of Python's `unicode-escape`.
fn unescaped(text: &str) -> Result<String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else {
            return Err(Error::new("a string ends in a backslash"));
        };
        let after = &rest[escape.len_utf8()..];
        let simple = match escape {
            '\n' => Some(""),
            '\\' => Some("\\"),
            '\'' => Some("'"),
            '"' => Some("\""),
            'a' => Some("\u{7}"),
            'b' => Some("\u{8}"),
            'f' => Some("\u{c}"),
            'n' => Some("\n"),
            'r' => Some("\r"),
            't' => Some("\t"),
            'v' => Some("\u{b}"),
            _ => None,
        };
        if let Some(simple) = simple {
            result.push_str(simple);
            rest = after;
            continue;
        }
        let (code, length) = match escape {
            'x' => (hexadecimal(after, 2)?, 2),
            'u' => (hexadecimal(after, 4)?, 4),
            'U' => (hexadecimal(after, 8)?, 8),
            'N' => {
                return Err(Error::new(
                    "a character by its name, \\N{…}, in a string; write the character",
                ));
            }
            '0'..='7' => {
                let octal = |c: char| ('0'..='7').contains(&c);
                let length = rest.chars().take(3).take_while(|c| octal(*c)).count();
                let code = u32::from_str_radix(&rest[..length], 8);
                // The first digit was not passed yet.
                (code.unwrap_or(0), length - 1)
            }
            // Others are no escapes.
            _ => {
                result.push('\\');
                // What is not ASCII has become an escape of its own before.
                match u32::from(escape) {
                    ..=0x7f => result.push(escape),
                    code @ ..=0xff => result.push_str(&format!("x{code:02x}")),
                    code @ ..=0xffff => result.push_str(&format!("u{code:04x}")),
                    code => result.push_str(&format!("U{code:08x}")),
                }
                rest = after;
                continue;
            }
        };
        let Some(character) = char::from_u32(code) else {
            return Err(Error::new(format!(
                "the character {code:#x} in a string; accepted: Unicode scalar values"
            )));
        };
        result.push(character);
        rest = &after[length..];
    }
    result.push_str(rest);
    Ok(result)
}

fn hexadecimal(text: &str, length: usize) -> Result<u32> {
    let digits = text.get(..length);
    let digits = digits.filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
    digits
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| Error::new(format!("an escape of a string without {length} digits")))
}
