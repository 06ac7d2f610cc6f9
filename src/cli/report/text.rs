//! Numbers and untrusted texts as people read them.

/// A whole number with its thousands parted.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number in four digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = if !(1e-4..1e7).contains(&size) {
        let scientific = format!("{size:.2e}");
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        format!("{}e{exponent}", without_zeros(mantissa))
    } else if size >= 999.95 {
        count(size.round() as u64)
    } else {
        let decimals = (3 - size.log10().floor() as i32).clamp(1, 7) as usize;
        without_zeros(&format!("{size:.decimals$}")).to_owned()
    };
    signed(value, &digits)
}

/// A number for the tick of an axis, where there is little room.
pub(super) fn tick(value: f64) -> String {
    let size = value.abs();
    if (1e6..1e10).contains(&size) {
        format!("{}M", number(value / 1e6))
    } else if (1e4..1e6).contains(&size) {
        format!("{}k", number(value / 1e3))
    } else {
        number(value)
    }
}

/// A share of one in percent.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.1 {
        "< 0.1\u{a0}%".to_owned()
    } else if percent > 99.9 && percent < 100.0 {
        "> 99.9\u{a0}%".to_owned()
    } else {
        format!("{}\u{a0}%", without_zeros(&format!("{percent:.1}")))
    }
}

/// A correlation in two decimals.
pub(super) fn correlation(value: f64) -> String {
    signed(value, &format!("{:.2}", value.abs()))
}

/// The beginning of a text, in a line.
pub(super) fn line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().take(40).collect();
    passage(&words.join(" ").chars().take(160).collect::<String>())
}

fn signed(value: f64, digits: &str) -> String {
    let zero = digits.chars().all(|c| matches!(c, '0' | '.'));
    let sign = if value < 0.0 && !zero { "−" } else { "" };
    format!("{sign}{digits}")
}

fn without_zeros(digits: &str) -> &str {
    if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    }
}

/// A token with its white space and invisible characters made visible, cut after 40 characters.
pub(super) fn token(token: &str) -> String {
    let mut visible = String::new();
    for (place, c) in token.chars().enumerate() {
        match c {
            _ if place == 40 => {
                visible.push('…');
                break;
            }
            ' ' => visible.push('␣'),
            '\n' => visible.push('⏎'),
            '\t' => visible.push('⇥'),
            '\u{200c}' | '\u{200d}' => push_code(&mut visible, c),
            _ => push_visible(&mut visible, c),
        }
    }
    visible
}

/// A text with its invisible characters made visible, but for those that lay it out.
pub(super) fn passage(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\n' | '\t' => visible.push(c),
            '\r' if characters.peek() == Some(&'\n') => {}
            _ => push_visible(&mut visible, c),
        }
    }
    visible
}

/// The picture of a control character; the code of one that hides or reorders text.
fn push_visible(visible: &mut String, c: char) {
    match c {
        '\0'..='\x1f' => visible.extend(char::from_u32(0x2400 + u32::from(c))),
        '\x7f' => visible.push('␡'),
        '\u{80}'..='\u{9f}'
        | '\u{ad}'
        | '\u{200b}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => push_code(visible, c),
        _ => visible.push(c),
    }
}

fn push_code(visible: &mut String, c: char) {
    visible.push_str(&format!("⟨U+{:04X}⟩", u32::from(c)));
}

/// The beginning of a text, what is folded away after it, and the characters left out.
#[derive(Debug, PartialEq, serde::Serialize)]
pub(super) struct Excerpt {
    pub head: String,
    pub rest: String,
    pub left_out: usize,
}

/// Bytes of a text that are shown at once, and at all.
const HEAD: usize = 2_000;
const WHOLE: usize = 8_000;

pub(super) fn excerpt(text: &str) -> Excerpt {
    let (shown, left_out) = text.split_at(text.floor_char_boundary(WHOLE));
    let (head, rest) = shown.split_at(shown.floor_char_boundary(HEAD));
    Excerpt {
        head: passage(head),
        rest: passage(rest),
        left_out: left_out.chars().count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-12.3456, "−12.35"),
            (999.94, "999.9"),
            (999.96, "1,000"),
            (-1_234_567.8, "−1,234,568"),
            (65_800_000.0, "6.58e7"),
            (0.012_345_6, "0.01235"),
            (-0.000_012, "−1.2e-5"),
            (1e300, "1e300"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn ticks_are_short() {
        let cases = [
            (-15_000_000.0, "−15M"),
            (2_500_000.0, "2.5M"),
            (20_000.0, "20k"),
            (2_500.0, "2,500"),
            (0.1 + 0.2, "0.3"),
        ];
        for (value, expected) in cases {
            assert_eq!(tick(value), expected);
        }
    }

    #[test]
    fn shares_are_not_rounded_to_all_or_nothing() {
        let cases = [
            (0.0, "0\u{a0}%"),
            (0.000_1, "< 0.1\u{a0}%"),
            (0.125, "12.5\u{a0}%"),
            (0.999_9, "> 99.9\u{a0}%"),
            (1.0, "100\u{a0}%"),
        ];
        for (share, expected) in cases {
            assert_eq!(percent(share), expected);
        }
        assert_eq!(correlation(-0.001), "0.00");
        assert_eq!(correlation(-0.256), "−0.26");
    }

    #[test]
    fn white_space_of_a_token_is_visible() {
        assert_eq!(token(" the\n"), "␣the⏎");
        assert_eq!(token("\t\r\0\u{7f}"), "⇥␍␀␡");
        assert_eq!(token("\u{200d}\u{202e}"), "⟨U+200D⟩⟨U+202E⟩");
        assert_eq!(token(&"x".repeat(41)).chars().last(), Some('…'));
    }

    #[test]
    fn a_passage_keeps_what_lays_it_out() {
        assert_eq!(passage("a\r\n\tb\u{1b}[0m"), "a\n\tb␛[0m");
        assert_eq!(passage("\u{202e}abc"), "⟨U+202E⟩abc");
        assert_eq!(passage("👩\u{200d}🔬"), "👩\u{200d}🔬");
        assert_eq!(line("  two\n words "), "two words");
    }

    #[test]
    fn an_excerpt_says_what_it_leaves_out() {
        let short = excerpt("a");
        assert_eq!((short.rest.as_str(), short.left_out), ("", 0));
        let long = excerpt(&"ß".repeat(4_010));
        assert_eq!(long.head.chars().count(), 1_000);
        assert_eq!(long.rest.chars().count(), 3_000);
        assert_eq!(long.left_out, 10);
    }
}
