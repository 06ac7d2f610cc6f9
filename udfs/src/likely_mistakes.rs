//! What texts look like when they were passed by mistake. Where many rows of a statement do, it is told
//! once, with what to do; the scores stay what was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use crate::preference_pair::{PreferencePair, PromptedResponse};
use crate::text::{Content, Text, Turn, USER};

bitflags::bitflags! {
    /// What looks like a mistake in a row.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Mistakes: u8 {
        /// A response begins with its prompt.
        const REPEATED_PROMPT = 1;
        /// A response is JSON, or a list as Python prints it.
        const JSON = 1 << 1;
        /// Both responses are the same.
        const EQUAL = 1 << 2;
        /// A raw transcript of several turns beside a prompt, or as one.
        const TRANSCRIPT = 1 << 3;
    }
}

const KINDS: usize = 4;

/// So many rows at least are many,
const FEWEST: usize = 3;
/// and one in so many.
const ONE_IN: usize = 10;
/// After so many rows of a long statement it is told at once.
const SOON: usize = 1000;
/// A shorter prompt may well be how an answer begins.
const SHORTEST_PROMPT: usize = 6;

impl Mistakes {
    pub(crate) fn of_pair(pair: &PreferencePair) -> Self {
        let mut found = Self::empty();
        for response in [&pair.chosen, &pair.rejected] {
            found |= Self::of(&pair.prompt, response);
        }
        found.set(Self::EQUAL, pair.chosen == pair.rejected);
        found
    }

    pub(crate) fn of_response(row: &PromptedResponse) -> Self {
        Self::of(&row.prompt, &row.response)
    }

    fn of(prompt: &Text, response: &Text) -> Self {
        let is_transcript = |text: &Text| matches!(text, Text::Plain(text) if is_transcript(text));
        let mut found = Self::empty();
        if is_transcript(prompt) || is_transcript(response) {
            found |= Self::TRANSCRIPT;
        } else if let Text::Plain(response) = response {
            found.set(Self::REPEATED_PROMPT, repeats(prompt, response));
            found.set(Self::JSON, is_json(response));
        }
        found
    }

    /// What is wrong with such rows, and what to do.
    fn advice(self) -> &'static str {
        match self {
            Self::REPEATED_PROMPT => {
                "a response begins with its prompt, which is then read twice; pass only what follows \
                 it, as substr(chosen, character_length(prompt) + 1) does"
            }
            Self::JSON => {
                "a response is JSON text, or a list as Python prints it, and its quotes and braces are \
                 scored too; if it holds messages, pass a list of structs with role and content, or \
                 the content alone"
            }
            Self::EQUAL => {
                "chosen and rejected are equal, so that nothing is preferred; leave such rows out by \
                 WHERE chosen <> rejected"
            }
            _ => {
                "a '\\n\\nHuman: … \\n\\nAssistant: …' transcript stands beside a prompt, or as one, \
                 and is read as a single text; ches(chosen, rejected), without the prompt, reads the \
                 turns of transcripts"
            }
        }
    }
}

fn repeats(prompt: &Text, response: &str) -> bool {
    let prompt = match prompt {
        Text::Plain(prompt) => prompt,
        Text::Turns(turns) => match turns.last() {
            Some(Turn {
                role,
                content: Content::Text(text),
                ..
            }) if role == USER => text,
            _ => return false,
        },
        Text::Transcript(_) => return false,
    };
    let prompt = prompt.trim();
    prompt.len() >= SHORTEST_PROMPT && response.trim_start().starts_with(prompt)
}

fn is_json(text: &str) -> bool {
    let text = text.trim();
    let within = |open, close| Some(text.strip_prefix(open)?.strip_suffix(close)?.trim());
    let begins = |text: &str, with: &[char]| text.starts_with(with);
    let is_object = |text: &str| begins(text, &['"', '\'']) && text.contains(':');
    if let Some(object) = within('{', '}') {
        return is_object(object);
    }
    if let Some(list) = within('[', ']') {
        let first = list.strip_prefix('{').map(str::trim_start);
        return first.is_some_and(is_object) || begins(list, &['"']);
    }
    // A string that was encoded once too often.
    within('"', '"').is_some_and(|string| {
        let mut is_escaped = false;
        let mut escapes = 0;
        let is_closed = string.chars().any(|character| {
            let closes = character == '"' && !is_escaped || character == '\n';
            is_escaped = character == '\\' && !is_escaped;
            escapes += usize::from(is_escaped);
            closes
        });
        escapes > 0 && !is_closed
    })
}

fn is_transcript(text: &str) -> bool {
    let after = |text: &str, mark| text.find(mark).map(|at| at + str::len(mark));
    let human = match text.trim_start().starts_with("Human:") {
        true => Some(0),
        false => after(text, "\n\nHuman:"),
    };
    human.is_some_and(|at| text[at..].contains("\n\nAssistant:"))
}

/// Which mistakes a statement was told of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<AtomicU8>);

/// The rows of one node of a statement's plan; tells when it is dropped, if not before.
#[derive(Debug)]
pub(crate) struct Tally {
    rows: AtomicUsize,
    of_kinds: [AtomicUsize; KINDS],
    told: Told,
}

impl Tally {
    pub(crate) fn new(told: Told) -> Self {
        Self {
            rows: AtomicUsize::new(0),
            of_kinds: Default::default(),
            told,
        }
    }

    /// Counts rows.
    pub(crate) fn add(&self, rows: impl IntoIterator<Item = Mistakes>) {
        let mut count = 0;
        for found in rows {
            count += 1;
            for (of_kind, kind) in self.of_kinds.iter().zip(Mistakes::all().iter()) {
                of_kind.fetch_add(usize::from(found.contains(kind)), Relaxed);
            }
        }
        let before = self.rows.fetch_add(count, Relaxed);
        if before < SOON && before + count >= SOON {
            self.tell();
        }
    }

    fn tell(&self) {
        let rows = self.rows.load(Relaxed);
        for (of_kind, kind) in self.of_kinds.iter().zip(Mistakes::all().iter()) {
            let many = of_kind.load(Relaxed);
            if many < FEWEST || many < rows.div_ceil(ONE_IN) {
                continue;
            }
            let told = self.told.0.fetch_or(kind.bits(), Relaxed);
            if told & kind.bits() == 0 {
                tracing::warn!("in {many} of {rows} rows {}", kind.advice());
            }
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Mistakes = Mistakes::empty();

    fn of(prompt: &str, chosen: &str, rejected: &str) -> Mistakes {
        let [prompt, chosen, rejected] =
            [prompt, chosen, rejected].map(|text| Text::Plain(text.into()));
        Mistakes::of_pair(&PreferencePair {
            prompt,
            chosen,
            rejected,
            variables: Vec::new(),
        })
    }

    #[test]
    fn kinds() {
        let question = "What is the capital of France?";
        let repeated = format!("{question}\nParis.");
        assert_eq!(of(question, "Paris.", "Lyon."), NONE);
        assert_eq!(of(question, &repeated, "Lyon."), Mistakes::REPEATED_PROMPT);
        assert_eq!(of(question, "No.", &repeated), Mistakes::REPEATED_PROMPT);
        assert_eq!(of(question, "Paris.", "Paris."), Mistakes::EQUAL);
        assert_eq!(of("Hello", "Hello!", "Hi."), NONE);
        assert_eq!(of("", "a", "b"), NONE);
        for json in [
            r#"[{"role": "assistant", "content": "Paris."}]"#,
            r#" {"role": "assistant", "content": "Paris."} "#,
            "[{'content': 'Paris.', 'role': 'assistant'}]",
            "[ { 'a': 1 }\n {'b': 2} ]",
            r#"["Paris.", "Lyon."]"#,
            r#""Paris.\nThe \"capital\".""#,
        ] {
            assert_eq!(of(question, json, "Lyon."), Mistakes::JSON, "{json}");
        }
        for text in [
            "[1] Paris",
            "[Paris]",
            "{x | x > 0}",
            "\"To be\", he said, \"or not.\"",
            "\"To be or not to be\"",
            "[\"a\"] and more",
            "{",
            "\"",
            "",
        ] {
            assert_eq!(of(question, text, "Lyon."), NONE, "{text}");
        }
        let transcript = "\n\nHuman: What?\n\nAssistant: That.";
        let cut = "Human: What?\n\nAssistant:";
        for found in [
            of("What?", transcript, "b"),
            of("What?", "a", transcript),
            of(transcript, "a", "b"),
            of(cut, "a", "b"),
            of(transcript, &format!("{transcript} More."), "b"),
        ] {
            assert_eq!(found, Mistakes::TRANSCRIPT);
        }
        assert_eq!(of("q", "\n\nAssistant: \n\nHuman: a", "b"), NONE);
        let turns = |role: &str, content: &str| Text::Turns(vec![Turn::new(role, content)]);
        let mut row = PromptedResponse {
            prompt: turns("user", question),
            response: Text::Plain(repeated),
            variables: Vec::new(),
        };
        assert_eq!(Mistakes::of_response(&row), Mistakes::REPEATED_PROMPT);
        row.prompt = turns("system", question);
        assert_eq!(Mistakes::of_response(&row), NONE);
        row.response = turns("assistant", "[{\"a\": 1}]");
        assert_eq!(Mistakes::of_response(&row), NONE);
    }
}
