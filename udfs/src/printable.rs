//! Other people's texts within messages: short, and without characters that a terminal obeys.

/// Characters of a text that is quoted.
const QUOTED: usize = 60;

/// Characters of a message: of its beginning, and of its end.
const MESSAGE: [usize; 2] = [500, 250];

/// A text in quotes, or how it begins and how long it is.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        None => format!("'{}'", escaped(text)),
        Some((at, _)) => format!("'{}…' ({} bytes)", escaped(&text[..at]), text.len()),
    }
}

/// A message that may quote anything.
pub(crate) fn printable(message: String) -> String {
    let is_short = message.chars().nth(MESSAGE.iter().sum()).is_none();
    if is_short && !message.contains(char::is_control) {
        return message;
    }
    if is_short {
        return escaped(&message);
    }
    let place = |found: Option<(usize, char)>| found.map_or(0, |(at, _)| at);
    let first = place(message.char_indices().nth(MESSAGE[0]));
    let last = place(message.char_indices().rev().nth(MESSAGE[1] - 1));
    format!(
        "{} … {} ({} bytes)",
        escaped(&message[..first]),
        escaped(&message[last..]),
        message.len()
    )
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_whole() {
        assert_eq!(quoted("narrator"), "'narrator'");
        assert_eq!(printable("a role 'é'".into()), "a role 'é'");
    }

    #[test]
    fn long_texts_and_controls_are_not() {
        assert_eq!(quoted("\u{1b}[31m\0"), "'\\u{1b}[31m\\u{0}'");
        let long = "é".repeat(1_000_000);
        assert_eq!(
            quoted(&long),
            format!("'{}…' (2000000 bytes)", "é".repeat(60))
        );
        let message = printable(format!("found {long}\n; accepted: less"));
        assert!(message.starts_with("found é"), "{message}");
        assert!(
            message.ends_with("\\n; accepted: less (2000023 bytes)"),
            "{message}"
        );
        assert!(message.chars().count() < 800, "{message}");
    }
}
