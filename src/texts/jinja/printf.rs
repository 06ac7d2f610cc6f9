//! Python's formatting of texts: `'…' % values`, and `'…'.format(values)`.

use super::error::{Error, Result, type_error};
use super::fuel::Fuel;
use super::lookup;
use super::text::{repr, split_at_character, str_of};
use super::value::Value;

/// Decimal places above what any number has.
const MOST_PLACES: usize = 1000;

/// How a value is laid out.
#[derive(Debug, Clone, Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+`, `-` or a space.
    sign: Option<char>,
    is_alternate: bool,
    width: usize,
    /// `,` or `_`.
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// A number's sign, what stands between sign and padding, and its digits.
struct Number {
    is_negative: bool,
    prefix: &'static str,
    digits: String,
}

impl Number {
    fn sign(&self, spec: &Spec) -> &'static str {
        match (self.is_negative, spec.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        }
    }
}

fn integer(value: i128, spec: &Spec, kind: char) -> Number {
    let magnitude = value.unsigned_abs();
    let (prefix, digits) = match kind {
        'x' => ("0x", format!("{magnitude:x}")),
        'X' => ("0X", format!("{magnitude:X}")),
        'o' => ("0o", format!("{magnitude:o}")),
        'b' => ("0b", format!("{magnitude:b}")),
        _ => ("", magnitude.to_string()),
    };
    Number {
        is_negative: value < 0,
        prefix: if spec.is_alternate { prefix } else { "" },
        digits,
    }
}

/// The digits of a float in one of C's formats.
fn float(value: f64, spec: &Spec, kind: char) -> Number {
    let precision = spec.precision.unwrap_or(6);
    let magnitude = value.abs();
    let digits = if magnitude.is_nan() {
        "nan".into()
    } else if magnitude.is_infinite() {
        "inf".into()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => with_point(format!("{magnitude:.precision$}"), spec),
            '%' => format!("{:.precision$}%", magnitude * 100.0),
            'e' => with_point(scientific(magnitude, precision), spec),
            _ => general(magnitude, precision.max(1), spec.is_alternate),
        }
    };
    let digits = match kind.is_ascii_uppercase() {
        true => digits.to_ascii_uppercase(),
        false => digits,
    };
    Number {
        is_negative: value.is_sign_negative() && !value.is_nan(),
        prefix: "",
        digits,
    }
}

fn with_point(digits: String, spec: &Spec) -> String {
    if !spec.is_alternate || digits.contains('.') {
        return digits;
    }
    match digits.split_once('e') {
        Some((mantissa, exponent)) => format!("{mantissa}.e{exponent}"),
        None => digits + ".",
    }
}

fn scientific(magnitude: f64, precision: usize) -> String {
    let text = format!("{magnitude:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn general(magnitude: f64, precision: usize, keeps_zeros: bool) -> String {
    let text = format!("{magnitude:.*e}", precision - 1);
    let exponent = text
        .split_once('e')
        .and_then(|(_, e)| e.parse::<i32>().ok());
    let exponent = exponent.unwrap_or(0);
    let trimmed = |digits: &str| match digits.contains('.') && !keeps_zeros {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => digits.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = scientific(magnitude, precision - 1);
        return match text.split_once('e') {
            Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa)),
            None => text,
        };
    }
    let places = (precision as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{magnitude:.places$}"))
}

fn grouped(digits: &str, separator: char, size: usize) -> String {
    let whole = digits.find(|c: char| !c.is_ascii_alphanumeric());
    let (whole, rest) = digits.split_at(whole.unwrap_or(digits.len()));
    let mut result = String::new();
    for (at, c) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(size) {
            result.push(separator);
        }
        result.push(c);
    }
    result + rest
}

fn padded(text: String, spec: &Spec, align: char, fuel: &Fuel) -> Result<String> {
    let missing = spec.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return Ok(text);
    }
    let fill = spec.fill.unwrap_or(' ').to_string();
    fuel.repeat(fill.len(), missing)?;
    let (left, right) = match align {
        '<' => (0, missing),
        '^' => (missing / 2, missing - missing / 2),
        _ => (missing, 0),
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(right)))
}

fn laid_out(number: &Number, spec: &Spec, fuel: &Fuel) -> Result<String> {
    let sign = number.sign(spec);
    let head = format!("{sign}{}", number.prefix);
    if spec.align == Some('=') {
        let missing = spec.width.saturating_sub(head.len() + number.digits.len());
        let fill = spec.fill.unwrap_or('0').to_string();
        fuel.repeat(fill.len(), missing)?;
        return Ok(format!("{head}{}{}", fill.repeat(missing), number.digits));
    }
    let text = format!("{head}{}", number.digits);
    padded(text, spec, spec.align.unwrap_or('>'), fuel)
}

// ---------------------------------------------------------------- '…' % values

/// `'…' % values`.
///
/// # Errors
/// When the format is not valid, or the values do not fit it.
pub(super) fn percent(format: &str, values: &Value, fuel: &Fuel) -> Result<String> {
    let mut result = String::new();
    let mut rest = format;
    let one = [values.clone()];
    let positional = match values {
        Value::Tuple(items) => &items[..],
        _ => &one[..],
    };
    let mut next = positional.iter();
    let mut is_named = false;
    let mut take = || match next.next() {
        Some(value) => Ok(value.clone()),
        None => type_error("not enough values for a format string"),
    };
    while let Some(at) = rest.find('%') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(after) = rest.strip_prefix('(') {
            let mut depth = 1;
            let end = after.find(|c| {
                depth += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                depth == 0
            });
            let Some(end) = end else {
                return type_error("a name in a format string is not closed");
            };
            let Value::Dict(dict) = values else {
                return type_error("a format string with names takes a dict");
            };
            let name = &after[..end];
            let Some(value) = dict.get_str(name) else {
                return type_error(format!(
                    "a format string takes '{name}', which is not there"
                ));
            };
            named = Some(value.clone());
            is_named = true;
            rest = &after[end + 1..];
        }
        let mut spec = Spec::default();
        let mut is_left = false;
        let mut has_zeros = false;
        while let Some(flag) = rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => is_left = true,
                '+' => spec.sign = Some('+'),
                ' ' if spec.sign.is_none() => spec.sign = Some(' '),
                '#' => spec.is_alternate = true,
                '0' => has_zeros = true,
                _ => {}
            }
            rest = &rest[1..];
        }
        let star = |value: Value| match value {
            Value::Int(number) => Ok(number),
            other => type_error(format!(
                "a '*' of a format string is a {}",
                other.type_name()
            )),
        };
        if let Some(after) = rest.strip_prefix('*') {
            let width = star(take()?)?;
            is_left |= width < 0;
            spec.width = usize::try_from(width.abs()).unwrap_or(usize::MAX);
            rest = after;
        } else {
            (spec.width, rest) = number(rest)?;
        }
        if let Some(after) = rest.strip_prefix('.') {
            if let Some(after) = after.strip_prefix('*') {
                spec.precision = Some(usize::try_from(star(take()?)?).unwrap_or(0));
                rest = after;
            } else {
                let (precision, after) = number(after)?;
                spec.precision = Some(precision);
                rest = after;
            }
        }
        if spec.precision.is_some_and(|places| places > MOST_PLACES) {
            return type_error(format!("a precision above {MOST_PLACES}; not supported"));
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let Some(kind) = rest.chars().next() else {
            return type_error("a format string ends in '%'");
        };
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            result.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => take()?,
        };
        let is_number = "diuxXoeEfFgG".contains(kind);
        spec.align = Some(match (is_left, has_zeros && is_number) {
            (true, _) => '<',
            (false, true) => '=',
            (false, false) => '>',
        });
        let text = percent_value(kind, &value, &spec, fuel)?;
        fuel.write(text.len())?;
        result.push_str(&text);
    }
    result.push_str(rest);
    let has_left = next.next().is_some();
    let is_mapping = matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(_));
    if has_left && !is_named && !is_mapping {
        return type_error("not all values are used by a format string");
    }
    Ok(result)
}

fn percent_value(kind: char, value: &Value, spec: &Spec, fuel: &Fuel) -> Result<String> {
    let align = spec.align.unwrap_or('>');
    let wrong = || type_error(format!("'%{kind}' of a {}", value.type_name()));
    match kind {
        's' | 'r' | 'a' => {
            let text = match kind {
                's' => str_of(value)?,
                'r' => repr(value)?,
                _ => ascii(&repr(value)?),
            };
            let text = match spec.precision {
                Some(most) => split_at_character(&text, most).0.to_owned(),
                None => text,
            };
            padded(text, spec, align, fuel)
        }
        'c' => {
            let text = match (value.as_str(), value.as_int()) {
                (Some(text), _) if text.chars().count() == 1 => text.to_owned(),
                (_, Some(code)) => {
                    let code = u32::try_from(code).ok().and_then(char::from_u32);
                    match code {
                        Some(c) => c.to_string(),
                        None => return wrong(),
                    }
                }
                _ => return wrong(),
            };
            padded(text, spec, align, fuel)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let int = match (value.as_int(), value) {
                (Some(int), _) => int,
                (None, Value::Float(float)) if !"xXo".contains(kind) && float.abs() < 1e38 => {
                    *float as i128
                }
                _ => return wrong(),
            };
            let mut number = integer(int, spec, kind);
            let digits = spec.precision.unwrap_or(0);
            if number.digits.len() < digits {
                number.digits = format!("{:0>digits$}", number.digits);
            }
            laid_out(&number, spec, fuel)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match as_float(value)? {
            Some(value) => laid_out(&float(value, spec, kind), spec, fuel),
            None => wrong(),
        },
        _ => type_error(format!("the unknown format '%{kind}'")),
    }
}

fn as_float(value: &Value) -> Result<Option<f64>> {
    match (value, value.as_int()) {
        (Value::Float(value), _) => Ok(Some(*value)),
        (_, Some(int)) if int.abs() <= 1 << 53 => Ok(Some(int as f64)),
        (_, Some(_)) => type_error("an integer above 2**53 formatted as a float"),
        _ => Ok(None),
    }
}

/// A number at the beginning, 0 if there is none, and what follows it.
fn number(text: &str) -> Result<(usize, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    match text[..end].parse() {
        Ok(number) => Ok((number, &text[end..])),
        Err(_) if end == 0 => Ok((0, text)),
        Err(_) => type_error("a width that is too large"),
    }
}

fn ascii(text: &str) -> String {
    let mut result = String::new();
    for c in text.chars() {
        match u32::from(c) {
            ..=0x7f => result.push(c),
            code @ ..=0xff => result.push_str(&format!("\\x{code:02x}")),
            code @ ..=0xffff => result.push_str(&format!("\\u{code:04x}")),
            code => result.push_str(&format!("\\U{code:08x}")),
        }
    }
    result
}

// ---------------------------------------------------------------- '…'.format(values)

/// `'…'.format(values)`.
///
/// # Errors
/// When the format is not valid, or the values do not fit it.
pub(super) fn format(
    text: &str,
    positional: &[Value],
    keywords: &[(String, Value)],
    fuel: &Fuel,
) -> Result<String> {
    let mut fields = Fields {
        positional,
        keywords,
        next: 0,
        is_numbered: None,
        fuel,
    };
    fields.format(text, 3)
}

struct Fields<'a> {
    positional: &'a [Value],
    keywords: &'a [(String, Value)],
    next: usize,
    is_numbered: Option<bool>,
    fuel: &'a Fuel,
}

impl Fields<'_> {
    fn format(&mut self, text: &str, depth: usize) -> Result<String> {
        if depth == 0 {
            return type_error("a format string in a format string in a format string");
        }
        let mut result = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            result.push_str(&rest[..at]);
            let mark = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(mark) {
                result.push_str(mark);
                rest = after;
                continue;
            }
            if mark == "}" {
                return type_error("a single '}' in a format string");
            }
            let mut open = 1;
            let end = rest.find(|c| {
                open += match c {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                open == 0
            });
            let Some(end) = end else {
                return type_error("a '{' in a format string is not closed");
            };
            let written = self.field(&rest[..end], depth)?;
            self.fuel.write(written.len())?;
            result.push_str(&written);
            rest = &rest[end + 1..];
        }
        result.push_str(rest);
        Ok(result)
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String> {
        let name_end = field.find([':', '!']).unwrap_or(field.len());
        let (name, rest) = field.split_at(name_end);
        if name.contains('{') {
            return type_error("a field name in a format string with braces");
        }
        let (conversion, rest) = match rest.strip_prefix('!') {
            Some(after) => {
                let mut characters = after.chars();
                let conversion = characters.next();
                let rest = characters.as_str();
                if conversion.is_none() || !(rest.is_empty() || rest.starts_with(':')) {
                    return type_error("a conversion in a format string that is not valid");
                }
                (conversion, rest)
            }
            None => (None, rest),
        };
        let spec = rest.strip_prefix(':').unwrap_or("");
        let value = self.value(name)?;
        let value = match conversion {
            None => value,
            Some('s') => Value::str(str_of(&value)?),
            Some('r') => Value::str(repr(&value)?),
            Some('a') => Value::str(ascii(&repr(&value)?)),
            Some(other) => return type_error(format!("the unknown conversion '!{other}'")),
        };
        let spec = self.format(spec, depth - 1)?;
        formatted(&value, &spec, self.fuel)
    }

    fn value(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let mut by_number = |is_numbered: bool| match self.is_numbered.replace(is_numbered) {
            Some(before) if before != is_numbered => {
                type_error("a format string with numbered and unnumbered fields")
            }
            _ => Ok(()),
        };
        let mut value = if first.is_empty() {
            by_number(false)?;
            self.next += 1;
            self.positional.get(self.next - 1).cloned()
        } else if first.chars().all(|c| c.is_ascii_digit()) {
            by_number(true)?;
            first
                .parse()
                .ok()
                .and_then(|at: usize| self.positional.get(at).cloned())
        } else {
            let named = self.keywords.iter().find(|(key, _)| key == first);
            named.map(|(_, value)| value.clone())
        }
        .ok_or_else(|| {
            Error::new(format!(
                "a format string takes '{first}', which is not given"
            ))
        })?;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                // The sandbox looks attributes up as templates do.
                value = lookup::attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else {
                let after = &rest[1..];
                let Some(end) = after.find(']') else {
                    return type_error("a '[' in a format string is not closed");
                };
                let key = match after[..end].parse() {
                    Ok(at) => Value::Int(at),
                    Err(_) => Value::str(&after[..end]),
                };
                value = lookup::item(&value, &key)?;
                rest = &after[end + 1..];
            }
        }
        Ok(value)
    }
}

fn spec(text: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut rest = text;
    let is_align = |c: char| "<>^=".contains(c);
    let mut characters = rest.chars();
    match (characters.next(), characters.next()) {
        (Some(fill), Some(align)) if is_align(align) => {
            spec.fill = Some(fill);
            spec.align = Some(align);
            rest = characters.as_str();
        }
        (Some(align), _) if is_align(align) => {
            spec.align = Some(align);
            rest = &rest[1..];
        }
        _ => {}
    }
    let mut flag = |accepted: &str| {
        let found = rest.chars().next().filter(|c| accepted.contains(*c));
        if found.is_some() {
            rest = &rest[1..];
        }
        found
    };
    spec.sign = flag("+- ");
    if flag("z").is_some() {
        return type_error("'z' in a format; not supported");
    }
    spec.is_alternate = flag("#").is_some();
    if flag("0").is_some() {
        spec.fill = spec.fill.or(Some('0'));
        spec.align = spec.align.or(Some('='));
    }
    (spec.width, rest) = number(rest)?;
    if let Some(grouping) = rest.chars().next().filter(|c| ",_".contains(*c)) {
        spec.grouping = Some(grouping);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        let (precision, end) = number(after)?;
        if end.len() == after.len() || precision > MOST_PLACES {
            return type_error(format!("the format '{text}'"));
        }
        spec.precision = Some(precision);
        rest = end;
    }
    let mut characters = rest.chars();
    spec.kind = characters.next();
    match characters.next() {
        None => Ok(spec),
        Some(_) => type_error(format!("the format '{text}'")),
    }
}

/// `format(value, spec)`.
fn formatted(value: &Value, text: &str, fuel: &Fuel) -> Result<String> {
    if text.is_empty() {
        return str_of(value);
    }
    let spec = spec(text)?;
    let wrong = || type_error(format!("the format '{text}' of a {}", value.type_name()));
    match (value, spec.kind) {
        (Value::Str(_) | Value::Markup(_), None | Some('s')) => {
            let has_number_part = spec.sign.is_some()
                || spec.is_alternate
                || spec.grouping.is_some()
                || (spec.align == Some('=') && spec.fill != Some('0'));
            if has_number_part {
                return wrong();
            }
            let text = str_of(value)?;
            let text = match spec.precision {
                Some(most) => split_at_character(&text, most).0.to_owned(),
                None => text,
            };
            let align = spec.align.filter(|align| *align != '=').unwrap_or('<');
            padded(text, &spec, align, fuel)
        }
        (Value::Int(code), Some('c')) if spec.precision.is_none() && spec.sign.is_none() => {
            let found = u32::try_from(*code).ok().and_then(char::from_u32);
            match found {
                Some(c) => padded(c.to_string(), &spec, spec.align.unwrap_or('<'), fuel),
                None => wrong(),
            }
        }
        (Value::Int(_), None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n'))
        | (Value::Bool(_), Some('d' | 'x' | 'X' | 'o' | 'b' | 'n')) => {
            if spec.precision.is_some() {
                return wrong();
            }
            let kind = spec.kind.unwrap_or('d');
            let mut number = integer(value.as_int().unwrap_or_default(), &spec, kind);
            number_groups(&mut number, &spec, kind)?;
            laid_out(&number, &spec, fuel)
        }
        (
            Value::Int(_) | Value::Bool(_) | Value::Float(_),
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'),
        ) => {
            let Some(value) = as_float(value)? else {
                return wrong();
            };
            let kind = spec.kind.unwrap_or('g');
            let mut number = float(value, &spec, kind);
            number_groups(&mut number, &spec, kind)?;
            laid_out(&number, &spec, fuel)
        }
        (Value::Float(found), None) if spec.precision.is_none() => {
            let text = super::text::float(found.abs());
            let mut number = Number {
                is_negative: found.is_sign_negative() && !found.is_nan(),
                prefix: "",
                digits: text,
            };
            number_groups(&mut number, &spec, 'g')?;
            laid_out(&number, &spec, fuel)
        }
        _ => wrong(),
    }
}

fn number_groups(number: &mut Number, spec: &Spec, kind: char) -> Result<()> {
    let Some(separator) = spec.grouping else {
        return Ok(());
    };
    if spec.align == Some('=') && spec.fill == Some('0') && spec.width > 0 {
        return type_error("a format with zeros and groups of digits; not supported");
    }
    let is_binary = "xXob".contains(kind);
    if separator == ',' && is_binary {
        return type_error(format!("',' in a format with '{kind}'"));
    }
    number.digits = grouped(&number.digits, separator, if is_binary { 4 } else { 3 });
    Ok(())
}
