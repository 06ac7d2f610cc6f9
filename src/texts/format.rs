//! How a prompt and a response become one text.

use ches_udfs::{
    ASSISTANT, Content, FieldValue, TemplateVariables, Text, Turn, USER, quoted, transcript_turns,
};

use crate::texts::chat_template::ChatTemplate;
use crate::texts::tokenizer::TextTokenizer;

/// Stands for an assistant's content where a template is asked what it writes after it. No
/// letters: a template may change their case.
const CONTENT_PROBE: &str = "10293847565647382910";

/// The format of texts under one model and one set of settings.
#[derive(Debug)]
pub(crate) enum Format {
    /// By a chat template.
    Chat {
        /// The template.
        template: Box<ChatTemplate>,
        /// What it writes after an assistant's content; none if it renders no conversation that
        /// it was tried on.
        after_content: Option<AfterContent>,
    },
    /// As they are.
    Raw,
}

/// What a chat template writes after an assistant's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AfterContent {
    /// A special token, with its id: the end token.
    EndToken(String, u32),
    /// Text without a special token.
    Text(String),
}

const UNKNOWN_END: &str = "the chat template renders no conversation of a user's and an assistant's \
    turn, so that the token it ends a response with is not known";

/// Why a text has no rendering, and whether the response is at fault or the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// The prompt is at fault.
    Prompt(String),
    /// The response is at fault.
    Response(String),
}

impl Format {
    /// The chat format, with the end token that the template writes.
    pub(crate) fn chat(template: ChatTemplate, tokenizer: &TextTokenizer) -> Self {
        // A template may go through the parts of a content and know no other.
        let as_text: fn(&str) -> Content = |text| text.into();
        let as_parts = |text: &str| {
            let field = |name: &str, text: &str| (name.into(), FieldValue::Text(text.into()));
            let part = vec![field("type", "text"), field("text", text)];
            Content::Parts(vec![FieldValue::Struct(part)])
        };
        let after_content = [as_text, as_parts]
            .into_iter()
            .flat_map(|content| {
                let turn = |role: &str, text| Turn::new(role, content(text));
                let pair = [turn(USER, "1"), turn(ASSISTANT, CONTENT_PROBE)];
                let system = [turn("system", "2")];
                [pair.to_vec(), [&system[..], &pair].concat()]
            })
            .find_map(|turns| {
                let text = template.render(&turns, &vec![], false).ok()?;
                let (_, after) = text.split_once(CONTENT_PROBE)?;
                Some(match tokenizer.first_special(after) {
                    Some((_, token, id)) => AfterContent::EndToken(token.to_owned(), id),
                    None => AfterContent::Text(after.to_owned()),
                })
            });
        Self::Chat {
            template: Box::new(template),
            after_content,
        }
    }

    /// Whether texts are rendered by a template; then nothing is added to the rendered text.
    pub(crate) fn is_chat(&self) -> bool {
        matches!(self, Self::Chat { .. })
    }

    /// The token that ends a response: what the template writes, else the model's EOS.
    ///
    /// # Errors
    /// When there is none, or the template does not tell.
    pub(crate) fn end_token(&self, tokenizer: &TextTokenizer) -> Result<u32, String> {
        match self {
            Self::Chat {
                after_content: Some(AfterContent::EndToken(_, id)),
                ..
            } => Ok(*id),
            Self::Chat {
                after_content: None,
                ..
            } => Err(UNKNOWN_END.into()),
            _ => tokenizer.ends().eos.ok_or_else(|| {
                "the model names no end token (EOS), which a log-probability needs".into()
            }),
        }
    }

    /// Renders a prompt; `variables` are what the template finds besides, for its responses, too.
    pub(crate) fn prompt<'a>(
        &'a self,
        prompt: &'a Text,
        variables: &'a TemplateVariables,
    ) -> Result<RenderedPrompt<'a>, FormatError> {
        let (turns, text) = match self {
            Self::Raw => (Vec::new(), raw(prompt).map_err(FormatError::Prompt)?),
            Self::Chat { template, .. } => {
                let turns = match prompt {
                    Text::Plain(content) => vec![Turn::new(USER, content.as_str())],
                    Text::Turns(turns) => turns.clone(),
                    Text::Transcript(transcript) => {
                        transcript_turns(transcript, None).map_err(FormatError::Prompt)?
                    }
                };
                let text = template.render(&turns, variables, true);
                let text = text.map_err(FormatError::Prompt)?;
                (turns, text)
            }
        };
        Ok(RenderedPrompt {
            format: self,
            variables,
            turns,
            text,
        })
    }
}

/// A rendered prompt, ready for responses.
#[derive(Debug)]
pub(crate) struct RenderedPrompt<'a> {
    format: &'a Format,
    variables: &'a TemplateVariables,
    turns: Vec<Turn>,
    /// The prompt's text.
    pub text: String,
}

impl RenderedPrompt<'_> {
    /// The text of a response after this prompt.
    pub(crate) fn response(&self, response: &Text) -> Result<String, FormatError> {
        let Format::Chat {
            template,
            after_content,
        } = self.format
        else {
            return raw(response).map_err(FormatError::Response);
        };
        let turns = match response {
            Text::Plain(content) => return Ok(content.clone()),
            Text::Turns(turns) => turns.clone(),
            Text::Transcript(transcript) => {
                transcript_turns(transcript, Some(ASSISTANT)).map_err(FormatError::Response)?
            }
        };
        match &turns[..] {
            [] => return Ok(String::new()),
            [only] if only.is_assistant() && self.is_its_content(template, only) => {
                return Ok(only.content.as_text().unwrap_or_default().to_owned());
            }
            [.., last] if !last.is_assistant() => {
                return Err(FormatError::Response(format!(
                    "the response's last turn has role {}; accepted: assistant",
                    quoted(&last.role)
                )));
            }
            _ => {}
        }
        let conversation: Vec<Turn> = self.turns.iter().cloned().chain(turns).collect();
        let whole = template
            .render(&conversation, self.variables, false)
            .map_err(FormatError::Response)?;
        let Some(after) = whole.strip_prefix(&self.text) else {
            return Err(FormatError::Response(
                "the chat template renders prompt and response together to a text that does \
                 not begin with the rendered prompt, so a response of several turns, or with \
                 further fields, has no place of its own"
                    .into(),
            ));
        };
        let response = match after_content {
            Some(AfterContent::EndToken(token, _)) => {
                &after[..after.rfind(token.as_str()).unwrap_or(after.len())]
            }
            Some(AfterContent::Text(text)) => after.strip_suffix(text.as_str()).unwrap_or(after),
            None => return Err(FormatError::Response(UNKNOWN_END.into())),
        };
        Ok(response.to_owned())
    }

    /// Whether an answer is what its content says: a template may write further fields of it too, such
    /// as tool calls.
    fn is_its_content(&self, template: &ChatTemplate, answer: &Turn) -> bool {
        let Some(text) = answer.content.as_text() else {
            return false;
        };
        if answer.fields.is_empty() {
            return true;
        }
        let with = |answer: Turn| {
            let turns: Vec<Turn> = self.turns.iter().cloned().chain([answer]).collect();
            template.render(&turns, self.variables, false).ok()
        };
        let content = Turn::new(answer.role.as_str(), text);
        let of_content = with(content);
        of_content.is_some() && of_content == with(answer.clone())
    }
}

fn raw(text: &Text) -> Result<String, String> {
    match text {
        Text::Plain(text) | Text::Transcript(text) => Ok(text.clone()),
        Text::Turns(_) => Err(
            "a conversation needs a chat template, and there is none here: the model has none or \
             ches.prompt_format is 'raw'; set ches.chat_template (with ches.prompt_format \
             'auto' or 'chat'), or give strings"
                .into(),
        ),
    }
}
