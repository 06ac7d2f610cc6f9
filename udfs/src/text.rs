//! What a cell of a text column holds.

use crate::legible::quoted;

/// The role of a turn that the model under training writes.
pub const ASSISTANT: &str = "assistant";
/// The role of a turn that its user writes.
pub const USER: &str = "user";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Turn {
    /// `system`, `user`, `assistant`, or whatever else the chat template knows.
    pub role: String,
    /// The text, untouched.
    pub content: String,
    /// The further fields that are not NULL, in their order, as the chat template is shown them.
    pub fields: Vec<MessageField>,
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
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
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
            (response.len() > 1 && response[0].role == USER && response[0].content == *content)
                .then_some(1)
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
