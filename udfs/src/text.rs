//! What a cell of a text column holds.

use crate::printable::quoted;

/// The role of a turn that the model under training writes.
pub const ASSISTANT: &str = "assistant";
/// The role of a turn that its user writes.
pub const USER: &str = "user";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Turn {
    /// `system`, `user`, `assistant`, or whatever else the chat template knows.
    pub role: String,
    /// What is said.
    pub content: Content,
    /// The further fields that are not NULL, in their order, as the chat template is shown them.
    pub fields: Vec<MessageField>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// The text, untouched.
    Text(String),
    /// Parts, each a struct with `type` and `text`, as the chat template is shown them.
    Parts(Vec<FieldValue>),
    /// Nothing, beside further fields such as tool calls; the chat template is shown no content.
    Absent,
}

impl Content {
    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A field of a message besides role and content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageField {
    /// Its place among all fields of the message.
    pub at: usize,
    /// `name`, `tool_calls`, `reasoning_content`, or whatever else the chat template knows.
    pub name: String,
    /// What it holds.
    pub value: FieldValue,
}

/// What a field of a message holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FieldValue {
    /// A NULL within a list or a struct.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// The bits of a float, which unlike floats can be compared.
    Float(u64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<FieldValue>),
    /// A struct: names and values.
    Struct(Vec<(String, FieldValue)>),
}

impl FieldValue {
    /// A float.
    pub fn float(value: f64) -> Self {
        Self::Float(value.to_bits())
    }
}

impl Turn {
    /// A turn of the given role, without further fields.
    pub fn new(role: impl Into<String>, content: impl Into<Content>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            fields: Vec::new(),
        }
    }

    /// Whether this is a turn of the model's.
    pub fn is_assistant(&self) -> bool {
        self.role == ASSISTANT
    }
}

/// A prompt or a response, as the data has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Text {
    /// A string. As a prompt in chat format it is one user turn; as a response it is the
    /// assistant's content, verbatim.
    Plain(String),
    /// A conversation, or a part of one.
    Turns(Vec<Turn>),
    /// A part of a raw `\n\nHuman: … \n\nAssistant: …` transcript. In raw format it is used
    /// as it is, in chat format its turns are read by [`transcript_turns`].
    ///
    /// [`transcript_turns`]: crate::transcript_turns
    Transcript(String),
}

/// The parts of a content, if all are texts.
///
/// # Errors
/// When one is something else.
pub(crate) fn text_parts(parts: Vec<FieldValue>) -> Result<Content, String> {
    for part in &parts {
        let FieldValue::Struct(fields) = part else {
            return Err(
                "a part of a message's content is no struct; accepted: structs with the type \
                        'text' and a text"
                    .into(),
            );
        };
        let field = |name| {
            let mut named = fields.iter().filter(|(field, _)| field == name);
            named.next().map(|(_, value)| value)
        };
        match (field("type"), field("text")) {
            (Some(FieldValue::Text(kind)), Some(FieldValue::Text(_))) if kind == "text" => {}
            (Some(FieldValue::Text(kind)), _) if kind != "text" => {
                return Err(format!(
                    "a part of a message's content has the type {}; accepted: text",
                    quoted(kind)
                ));
            }
            _ => {
                return Err(
                    "a part of a message's content has no type or no text; accepted: the type \
                            'text' and a text"
                        .into(),
                );
            }
        }
    }
    Ok(Content::Parts(parts))
}

/// The turns of a response that follow the prompt.
///
/// Data sets such as UltraFeedback repeat the whole conversation in each response. A
/// response that does so must begin with exactly the prompt's turns, which are taken off; any
/// other response must begin with a turn of the assistant's.
pub(crate) fn own_turns(prompt: &Text, mut response: Vec<Turn>) -> Result<Vec<Turn>, String> {
    let repeats = match prompt {
        Text::Turns(turns) if !turns.is_empty() => {
            (response.len() > turns.len() && response.starts_with(turns)).then_some(turns.len())
        }
        Text::Plain(content) => {
            let first = response.first().filter(|first| first.role == USER);
            let is_prompt = first.is_some_and(|first| first.content.as_text() == Some(content));
            (response.len() > 1 && is_prompt).then_some(1)
        }
        _ => None,
    };
    if let Some(shared) = repeats {
        response.drain(..shared);
    }
    match response.first() {
        Some(first) if !first.is_assistant() => Err(format!(
            "the response's first turn has role {} and the response does not begin with \
             exactly the prompt's turns; a response holds the assistant's turns that follow the \
             prompt, or repeats the prompt and continues it",
            quoted(&first.role)
        )),
        _ => Ok(response),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(roles_and_contents: &[(&str, &str)]) -> Vec<Turn> {
        roles_and_contents
            .iter()
            .map(|(role, content)| Turn::new(*role, *content))
            .collect()
    }

    #[test]
    fn a_repeated_conversation_loses_its_prompt() {
        let own = own_turns(
            &Text::Plain("Hi".into()),
            turns(&[("user", "Hi"), ("assistant", "Hello")]),
        );
        assert_eq!(own.unwrap(), turns(&[("assistant", "Hello")]));

        let prompt = turns(&[("system", "S"), ("user", "Hi")]);
        let mut whole = prompt.clone();
        whole.push(Turn::new("assistant", "Hello"));
        assert_eq!(
            own_turns(&Text::Turns(prompt), whole).unwrap(),
            turns(&[("assistant", "Hello")])
        );
    }

    #[test]
    fn a_response_of_its_own_turns_is_kept() {
        let own = turns(&[("assistant", "a"), ("user", "b"), ("assistant", "c")]);
        assert_eq!(
            own_turns(&Text::Plain("Hi".into()), own.clone()).unwrap(),
            own
        );
    }

    #[test]
    fn a_response_that_repeats_another_prompt_is_refused() {
        let prompt = Text::Plain("Hi".into());
        let other = turns(&[("user", "Hi!"), ("assistant", "Hello")]);
        assert!(own_turns(&prompt, other).unwrap_err().contains("'user'"));
        // The prompt alone, with nothing after it, is no response either.
        let only_prompt = turns(&[("user", "Hi")]);
        assert!(own_turns(&prompt, only_prompt).is_err());
    }
}
